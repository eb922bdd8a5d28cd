"""The command line: exit statuses, JSON, and one clear line for bad input."""

import json
import subprocess
import sys

import pytest

from bhlm.cli import main
from bhlm.datasets import load_hsb

FORMULA = "mathach ~ ses + (1 | school)"


def run(capsys, *arguments):
    """Return exit status, standard output and standard error of one call."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


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


def check_refusal(result, expected):
    status, out, err = result
    assert status == 2
    assert out == ""
    assert expected in err
    assert err.startswith("bhlm: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


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
        (("rml",), "No such command 'rml'"),
        (("reml", "no_such_model"), "'no_such_model' is neither a model file nor"),
        (("reml", "hsb_anova", "--bogus"), "No such option: --bogus"),
        (("reml", "hsb_anova", "--formula", "y ~ x"), "give either the model or --data"),
        (("reml",), "--data is missing"),
        (("reml", "--data", "x.csv"), "--formula is missing"),
        (("reml", "hsb_anova", "--method", "mle"), "method='mle' is not known"),
        (("reml", "hsb_anova", "--covariance", "ar1"), "covariance='ar1' is not known"),
        (("reml", "hsb_anova", "--style", "spss"), "style='spss' is not known"),
        (("sample", "hsb_anova", "--draws", "many"), "'--draws'"),
        (("sample", "hsb_anova", "--draws", "0"), "draws=0 is not a count"),
        (("reml", "--data", "nowhere.csv", "--formula", FORMULA), "nowhere.csv"),
    ],
)
def test_bad_arguments_exit_2_with_one_line(arguments, expected, capsys):
    check_refusal(run(capsys, *arguments), expected)


def test_json_into_a_missing_folder_exits_2(capsys, tmp_path):
    status, _, err = run(capsys, "reml", "hsb_anova", "--json", tmp_path / "no" / "out.json")
    assert status == 2
    assert "choose a folder that exists" in err


def test_reml_never_imports_pymc():
    code = (
        "import sys\nfrom bhlm.cli import main\n"
        "try:\n    main(['reml', 'hsb_anova'])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "print(sorted({'pymc', 'pytensor', 'nutpie', 'arviz'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.splitlines()[-1] == "[]"
