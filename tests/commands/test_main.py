"""The command line: exit statuses, JSON, and one clear line for bad input."""

import json
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from command_line import check_refusal, run
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_command

import bhlm
from bhlm.commands.interrupts import INTERRUPTED, INTERRUPTION, hear_interrupts
from bhlm.commands.main import app
from bhlm.sources.datasets import load_hsb

FORMULA = "mathach ~ ses + (1 | school)"


@pytest.fixture(scope="module")
def pupils(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pupils.csv"
    load_hsb(level=1).to_csv(path, index=False)
    return path


def test_models_lists_the_gallery(capsys, tmp_path):
    status, out, _ = run(capsys, "models", "--json", tmp_path / "models.json")
    assert status == 0
    names = [entry["name"] for entry in json.loads((tmp_path / "models.json").read_text())]
    assert {"hsb_anova", "hsb_random_coefficient"} <= set(names)
    assert all(name in out for name in names)


def test_reconcile_a_gallery_model(capsys, tmp_path, reference):
    path = tmp_path / "out.json"
    status, out, err = run(
        capsys, "reconcile", "models/hsb_random_coefficient.toml", "--json", path
    )
    assert status == 0
    assert err == ""
    for block in ("Iteration 0", "LR test vs. linear regression", "Verdict: explained"):
        assert block in out
    content = json.loads(path.read_text())
    expected = reference["hsb_random_coefficient"]["reml"]
    assert content["reml"]["loglik"] == pytest.approx(float(expected["loglik"]), abs=1e-7)
    assert content["verdict"] == "explained"


def test_reml_on_a_file(capsys, pupils, tmp_path):
    path = tmp_path / "fit.json"
    status, out, _ = run(
        capsys, "reml", "--data", pupils, "--formula", FORMULA, "--method", "ml", "--json", path
    )
    assert status == 0
    assert "Mixed-effects ML regression" in out
    assert json.loads(path.read_text())["reml"]["method"] == "ml"


def test_a_failed_sampler_exits_1(capsys, pupils):
    status, out, _ = run(
        capsys, "sample", "--data", pupils, "--formula", FORMULA, "--draws", 40, "--tune", 5
    )
    assert status == 1
    assert "FAILED" in out


@pytest.mark.slow
def test_two_groups_exit_1(capsys, pupils, tmp_path):
    table = pd.read_csv(pupils)
    path = tmp_path / "two.csv"
    table[table["school"].isin(table["school"].unique()[:2])].to_csv(path, index=False)
    arguments = ("--data", path, "--formula", "mathach ~ ses + (1 | school)")
    status, out, _ = run(capsys, "sample", *arguments)
    assert status == 1
    assert "2 groups do not bound sd(Intercept|school)" in out
    status, out, _ = run(capsys, "reconcile", *arguments)
    assert status == 1
    assert "The prior decides" in out
    assert "Verdict: " in out
    assert "Verdict: explained" not in out


BAD = {
    "unknown column": ("mathach ~ sess + (1 | school)", "no column 'sess'; did you mean 'ses'"),
    "syntax": ("mathach ~ ses + ", "ends after '+'"),
    "no random term": ("mathach ~ ses", "it has no random term"),
    "call": ("mathach ~ I(__import__('os')) + (1 | school)", "'__import__' is not known"),
    "function": ("mathach ~ system(ses) + (1 | school)", "the function 'system' is not known"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["reml", "sample", "reconcile"])
def test_bad_formulas_exit_2_with_one_line(name, command, capsys, pupils):
    formula, expected = BAD[name]
    check_refusal(run(capsys, command, "--data", pupils, "--formula", formula), expected)


BAD_DATA = {
    "one group": ("g,x,y\n" + "".join(f"1,{i},{i * i}\n" for i in range(9)), "1 level"),
    "few rows": ("g,x,y\n1,1,2\n1,2,1\n2,3,4\n2,5,3\n", "4 rows cannot identify 4 parameters"),
    "constant": ("g,x,y\n" + "".join(f"{i % 3},{i},7\n" for i in range(12)), "is constant (7"),
    "infinite": ("g,x,y\n" + "".join(f"{i % 3},{i},{i}\n" for i in range(11)) + "1,inf,3\n", "'x'"),
    "empty": ("", "empty"),
    "header alone": ("g,x,y\n", "row"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_exits_2_with_one_line(name, capsys, tmp_path):
    text, expected = BAD_DATA[name]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    check_refusal(run(capsys, "reml", "--data", path, "--formula", "y ~ x + (1 | g)"), expected)


def test_a_wrong_key_in_a_toml_exits_2(capsys, tmp_path):
    path = tmp_path / "model.toml"
    path.write_text('title = "t"\ncitation = "c"\nformulla = "y ~ x"\n[data]\ndataset = "hsb"\n')
    check_refusal(run(capsys, "reml", path), "formulla")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "no command given"),
        (("rml",), "no such command 'rml'; did you mean 'reml', 'ml'? See bhlm --help"),
        (("reml", "no_such_model"), "'no_such_model' is neither a model file nor"),
        (("reml", "hsb_anova", "--bogus"), "no such option: --bogus"),
        (("reml", "hsb_anova", "--formula", "y ~ x"), "give either the model or --data"),
        (("reml",), "--data is missing"),
        (("reml", "--data", "x.csv"), "--formula is missing"),
        (("reml", "hsb_anova", "--method", "mle"), "method='mle' is not known"),
        (("reml", "hsb_anova", "--covariance", "ar1"), "covariance='ar1' is not known"),
        (("reml", "hsb_anova", "--style", "spss"), "style='spss' is not known"),
        (("sample", "hsb_anova", "--draws", "many"), "'--draws'"),
        (("sample", "hsb_anova", "--draws", "0"), "draws=0 is not a count"),
        (("sample", "hsb_anova", "--method", "gibbs"), "method='gibbs' is not known"),
        (("sample", "hsb_anova", "--method", "independent", "--live"), "--live watches a sampler"),
        (("reml", "--data", "nowhere.csv", "--formula", FORMULA), "nowhere.csv"),
    ],
)
def test_bad_arguments_exit_2_with_one_line(arguments, expected, capsys):
    check_refusal(run(capsys, *arguments), expected)


def test_json_into_a_missing_folder_exits_2(capsys, tmp_path):
    status, _, err = run(capsys, "reml", "hsb_anova", "--json", tmp_path / "no" / "out.json")
    assert status == 2
    assert "choose a folder that exists" in err


def print_lines(code: str) -> list[str]:
    """Return the lines that a new process prints which runs some code."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return result.stdout.splitlines()


def test_reml_never_imports_what_it_does_not_need():
    code = (
        "import sys\nfrom bhlm.commands.main import main\n"
        "try:\n    main(['reml', 'hsb_anova'])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "print(sorted({'pymc', 'pytensor', 'nutpie', 'arviz', 'pandas', 'scipy.optimize',"
        " 'scipy.stats', 'bhlm.likelihood.marginal', 'bhlm.reml.null_bootstrap',"
        " 'bhlm.reml.variance_tests'} & set(sys.modules)))"
    )
    assert print_lines(code)[-1] == "[]"


def test_the_command_loads_no_compiler_of_fortran_unless_it_is_asked_for():
    code = (
        "import sys\nfrom bhlm_command import run\nsys.argv[1:] = ['reml', 'hsb_anova']\n"
        "try:\n    run()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('scipy.special' in sys.modules, 'numpy.f2py.crackfortran' in sys.modules)\n"
        "import numpy\nprint(numpy.f2py.get_include().endswith('src'))\n"
    )
    assert print_lines(code)[-2:] == ["True False", "True"]


def test_plots_of_a_page_are_loaded_without_matplotlib():
    code = (
        "import sys\nfrom bhlm.commands.shared import load_plots\n"
        "load_plots()\nload_plots()\n"
        "print('arviz_plots' in sys.modules, 'matplotlib.pyplot' in sys.modules)\n"
        "import matplotlib.pyplot\nload_plots()\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    assert print_lines(code) == ["True False", "True"]


def test_moments_of_two_sites_merge_into_the_whole(capsys, pupils, tmp_path):
    table = pd.read_csv(pupils)
    first = table["school"] < 5000
    sites = [tmp_path / "a.csv", tmp_path / "b.csv"]
    table[first].to_csv(sites[0], index=False)
    table[~first].to_csv(sites[1], index=False)
    files = [tmp_path / "a.moments", tmp_path / "b.moments", tmp_path / "all.moments"]
    status, out, _ = run(capsys, "moments", sites[0], "--formula", FORMULA, "-o", files[0])
    assert status == 0
    assert out.startswith(f"{FORMULA}: {int(first.sum())} rows in ")
    assert run(capsys, "moments", sites[1], "--like", files[0], "-o", files[1])[0] == 0
    assert run(capsys, "merge", *files[:2], "-o", files[2])[0] == 0
    status, merged, _ = run(capsys, "reml", "--data", files[2])
    assert status == 0
    whole = run(capsys, "reml", "--data", pupils, "--formula", FORMULA)[1]
    assert merged == whole


def test_small_groups_are_not_released(capsys, pupils, tmp_path):
    target = tmp_path / "all.moments"
    arguments = ("moments", pupils, "--formula", FORMULA, "-o", target, "--min-group-size", 20)
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert "have fewer than 20 rows; drop them from what is released" in error
    assert not target.exists()
    status, out, _ = run(capsys, *arguments, "--drop-small")
    assert status == 0
    assert "have fewer than 20 rows and were dropped." in out
    status, _, error = run(capsys, "moments", pupils, "-o", target)
    assert status == 2
    assert "give either --formula" in error


def test_a_merge_that_would_be_wrong_is_refused(capsys, pupils, tmp_path):
    formula = "mathach ~ cwc(ses) + (1 | school)"
    table = pd.read_csv(pupils)
    files = []
    for half in (0, 1):
        path, target = tmp_path / f"{half}.csv", tmp_path / f"{half}.moments"
        table.iloc[half::2].to_csv(path, index=False)
        assert run(capsys, "moments", path, "--formula", formula, "-o", target)[0] == 0
        files.append(target)
    status, _, error = run(capsys, "merge", *files, "-o", tmp_path / "all.moments")
    assert status == 2
    assert "cwc(ses) would rest on each part's own group means" in error


@pytest.mark.slow
def test_a_sampled_fit_can_be_kept(capsys, pupils, tmp_path):
    import bhlm

    path = tmp_path / "fit.zarr"
    arguments = ("--data", pupils, "--formula", FORMULA, "--save", path)
    status, out, _ = run(capsys, "sample", *arguments)
    assert status == 0
    assert bhlm.load(path).summary() in out
    status, _, error = run(capsys, "sample", *arguments[:-1], tmp_path / "fit.csv")
    assert status == 2
    assert "fit.csv" in error
    assert ".zarr" in error


@pytest.mark.slow
def test_calibration_exits_0_when_the_ranks_are_uniform(capsys, tmp_path, pupils):
    table = pd.read_csv(pupils)
    path = tmp_path / "few.csv"
    table[table["school"].isin(table["school"].unique()[:12])].to_csv(path, index=False)
    arguments = ("--data", path, "--formula", FORMULA, "--replicates", 20, "--processes", 1)
    target = tmp_path / "out.json"
    status, out, _ = run(capsys, "calibrate", *arguments, "--json", target)
    assert status == 0
    assert "simulated 20 times" in out
    assert json.loads(target.read_text())["ok"]


@pytest.mark.slow
def test_the_gallery_is_compared_in_one_table(capsys, tmp_path):
    path = tmp_path / "out.json"
    status, out, _ = run(capsys, "compare", "hsb_anova", "rail", "--json", path)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("model ")
    assert [line.split()[0] for line in lines[1:3]] == ["hsb_anova", "rail"]
    assert json.loads(path.read_text())["rail"]["verdict"] == "explained"
    status, _, error = run(capsys, "compare", "hsb_anowa")
    assert status == 2
    assert "hsb_anova" in error


def test_ctrl_c_is_one_line_and_130(capsys):
    # SIGINT itself, whose exception a callback of the garbage collector may lose: a command that
    # ends before it is repeated has printed all that it prints, and its status says the same.
    _, whole, _ = run(capsys, "reml", "hsb_random_coefficient")
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        status, out, err = run(capsys, "reml", "hsb_random_coefficient")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert (status, err) == (130, INTERRUPTION + "\n")
    assert out in ("", whole)


@pytest.mark.parametrize("module", ["bhlm", "bhlm.secrets", "bhlm.progress", "typer"])
def test_ctrl_c_while_the_program_is_loaded_is_one_line_and_130(module):
    code = f"""
import signal, sys
from bhlm_command import run
class Presses:
    def find_spec(self, name, *_):
        if name == "{module}":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Presses())
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (INTERRUPTED, "")
    assert done.stderr == INTERRUPTION + "\n"


def test_an_interrupt_that_is_lost_until_the_end_is_an_interrupt(capsys, monkeypatch):
    class Loses:
        def __del__(self):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:  # as a module that could not be imported whole
                raise ImportError("could not import") from error

    def call(*args, **kwargs):
        Loses()
        return 0

    monkeypatch.setattr("bhlm.commands.main.app", call)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = run(capsys, "models")
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == (INTERRUPTED, "", INTERRUPTION + "\n")


def test_an_interrupt_that_a_callback_loses_is_repeated(capsys):
    class Loses:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with hear_interrupts(patience=0.02) as was_pressed:
            Loses()
            assert was_pressed()
            with pytest.raises(KeyboardInterrupt):
                time.sleep(5)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert capsys.readouterr().err == ""
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("what", [["reml", "rail"], ["models"]])
def test_output_onto_a_full_disk_is_refused_in_one_line(what):
    code = "from bhlm.commands.entry import run; run()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *what], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    said = "cannot write what is printed (No space left on device); redirect it"
    # On a busy machine a line says before that it is starting.
    assert done.stderr.splitlines()[-1] == f"bhlm: {said}"
    assert "Traceback" not in done.stderr


def test_the_version_and_help_are_printed(capsys):
    assert run(capsys, "--version") == (0, f"bhlm {bhlm.__version__}\n", "")
    for arguments in (("-h",), ("reml", "-h")):
        status, out, err = run(capsys, *arguments)
        assert (status, err) == (0, "")
        assert out == run(capsys, *arguments[:-1], "--help")[1]
        assert "Usage: bhlm" in out


@pytest.mark.parametrize("command", ["reml", "moments"])
def test_identifiers_are_doubted_of_several_factors_and_by_moments(command, capsys, tmp_path):
    places = list(range(40))
    table = pd.DataFrame({"g": [i // 5 for i in places], "h": [i % 5 for i in places],
                          "y": [(7 * i) % 11 + i % 3 for i in places],
                          "pupil_id": [(17 * i) % 97 for i in places]})  # fmt: skip
    table.to_csv(tmp_path / "t.csv", index=False)
    asked = ["--formula", "y ~ pupil_id + (1 | g) + (1 | h)"]
    given = {
        "reml": ["--data", tmp_path / "t.csv", *asked],
        "moments": [tmp_path / "t.csv", *asked, "-o", tmp_path / "t.moments"],
    }[command]
    _, _, err = run(capsys, command, *given)
    assert "bhlm: note: the predictor 'pupil_id' is called like an identifier" in err


def test_the_package_is_the_command():
    found = subprocess.run(
        [sys.executable, "-m", "bhlm.commands", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("bhlm ")


def test_help_loses_no_word_to_markup() -> None:
    """What stands in brackets would be read as a style, and left out."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    said = [str(root.help or "")]
    for command in root.commands.values():
        said.append(str(command.help or ""))
        said += [str(getattr(each, "help", None) or "") for each in command.params]
    assert len(said) > 100
    for text in said:
        assert Text.from_markup(text).plain == text
