"""The set-up script and the Makefile, against stand-ins for the interpreters of a machine."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "cksum", "cat", "rm", "mkdir", "cp", "make", "sed")

# Logs each call. Its version and its venv module are as the environment says; `-m venv` puts a
# copy of it into the new .venv, so that everything after the set-up is logged as well.
PYTHON = """#!/bin/sh
echo "{name} $*" >>"$LOG"
case "$2" in
*version_info*) exit {old} ;;
*ensurepip*) [ "$1" != -c ] || exit {no_venv} ;;
venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
exit 0
"""


class Machine:
    """A clone in a folder with spaces, and a PATH on which nothing is but what is put there."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.bin, self.log = folder / "a clone", folder / "bin", folder / "log"
        (self.clone / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        self.log.touch()
        for name in ("pyproject.toml", "Makefile", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.clone / name)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"these tests need {tool}"
            (self.bin / tool).symlink_to(found)

    def put(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def put_python(self, path: Path, *, old: int = 0, no_venv: int = 0) -> Path:
        return self.put(path, PYTHON.format(name=path.name, old=old, no_venv=no_venv))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "LOG": str(self.log)}
        return subprocess.run(
            command, cwd=self.clone, env=environment, capture_output=True, text=True, check=False
        )

    def set_up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return self.run("sh", str(self.clone / "scripts/setup.sh"), *arguments)

    def installs(self) -> list[str]:
        return [line.split()[-1] for line in self.log.read_text().splitlines() if "install" in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_interpreter_is_one_clear_line(machine: Machine) -> None:
    for arguments in ([], ["dev"], ["--which"]):
        result = machine.set_up(*arguments)
        assert result.returncode == 1
        assert result.stderr.startswith("bhlm needs Python 3.12 or newer")
        assert result.stderr.count("\n") == 1


def test_order_of_the_interpreters(machine: Machine) -> None:
    pyenv = {"3.12": machine.bin / "3.12", "3.13": machine.bin / "3.13"}
    cases = "".join(f'{key}) echo "{path}" ;;\n' for key, path in pyenv.items())
    machine.put(machine.bin / "pyenv", f'#!/bin/sh\ncase "$2" in\n{cases}*) exit 1 ;;\nesac\n')
    # From the last to come into question to the first: each new one wins.
    for path in (
        pyenv["3.12"] / "bin/python",
        pyenv["3.13"] / "bin/python",
        machine.bin / "python3",
        machine.bin / "python3.12",
        machine.bin / "python3.13",
    ):
        machine.put_python(path)
        assert machine.set_up("--which").stdout.strip() == str(path)
    machine.put(machine.bin / "uv", '#!/bin/sh\n[ "$1" = python ] && echo /from/uv\n')
    assert machine.set_up("--which").stdout.strip() == "/from/uv"
    own = machine.put_python(machine.clone / ".venv/bin/python")
    assert machine.set_up("--which").stdout.strip() == str(own)


def test_candidates_that_do_not_serve_are_passed_over(machine: Machine) -> None:
    machine.put(machine.bin / "python3.13", "#!/bin/sh\necho 'pyenv: not found' >&2\nexit 127\n")
    machine.put_python(machine.bin / "python3.12", no_venv=1)
    machine.put_python(machine.bin / "python3", old=1)
    good = machine.put_python(machine.bin / "3.13/bin/python")
    machine.put(
        machine.bin / "pyenv", f'#!/bin/sh\n[ "$2" = 3.13 ] && echo "{good.parent.parent}"\n'
    )
    assert machine.set_up("--which").stdout.strip() == str(good)


def test_uv_that_finds_nothing_is_passed_over(machine: Machine) -> None:
    machine.put(machine.bin / "uv", '#!/bin/sh\necho "uv $*" >>"$LOG"\n[ "$1" = pip ]\n')
    machine.put_python(machine.bin / "python3")
    assert machine.set_up().returncode == 0
    log = machine.log.read_text()
    assert log.index("uv venv") < log.index("python3 -m venv .venv") < log.index("uv pip install")


def test_uv_makes_the_venv_and_installs(machine: Machine) -> None:
    machine.put_python(machine.bin / "spare")
    machine.put(
        machine.bin / "uv",
        '#!/bin/sh\necho "uv $*" >>"$LOG"\nif [ "$1" = venv ]; then\n'
        f'mkdir -p .venv/bin && cp "{machine.bin}/spare" .venv/bin/python\nfi\n',
    )
    assert machine.set_up("dev").returncode == 0
    assert machine.installs() == [".[dev]"]
    assert "uv pip install --quiet --python .venv/bin/python --editable" in machine.log.read_text()


def test_stamps_save_the_second_installation(machine: Machine) -> None:
    machine.put_python(machine.bin / "python3")
    installed = []
    for arguments in ([], [], ["dev"], ["dev"], []):
        assert machine.set_up(*arguments).returncode == 0
        installed.append(machine.installs())
    assert installed == [["."], [], [".[dev]"], [], []]


def test_the_tools_of_development_include_the_package(machine: Machine) -> None:
    machine.put_python(machine.bin / "python3")
    machine.set_up("dev")
    machine.set_up()
    assert machine.installs() == []


def test_a_changed_pyproject_or_place_installs_anew(machine: Machine) -> None:
    machine.put_python(machine.bin / "python3")
    machine.set_up("dev")
    with (machine.clone / "pyproject.toml").open("a") as stream:
        stream.write("\n# changed\n")
    machine.set_up("dev")
    assert machine.installs() == [".[dev]"]
    machine.clone = machine.clone.rename(machine.clone.with_name("moved clone"))
    machine.set_up("dev")
    assert machine.installs() == [".[dev]"]


def test_a_failed_installation_leaves_no_stamp(machine: Machine) -> None:
    python = machine.put_python(machine.clone / ".venv/bin/python")
    machine.put(python, python.read_text().replace("exit 0\n", '[ "$3" != install ]\n'))
    assert machine.set_up().returncode != 0
    machine.put_python(python)
    assert machine.set_up().returncode == 0
    assert machine.installs() == ["."]


def test_an_existing_venv_is_completed_not_replaced(machine: Machine) -> None:
    machine.put_python(machine.clone / ".venv/bin/python")
    (machine.clone / ".venv/mine").touch()
    assert machine.set_up().returncode == 0
    assert machine.installs() == ["."]
    assert (machine.clone / ".venv/mine").exists()


@pytest.mark.parametrize("state", ["half made", "too old", "dangling"])
def test_a_venv_that_does_not_run_is_made_anew(machine: Machine, state: str) -> None:
    python = machine.clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    if state == "too old":
        machine.put_python(python, old=1)
    elif state == "dangling":
        python.symlink_to("/no/such/python")
    machine.put_python(machine.bin / "python3")
    result = machine.set_up()
    assert result.returncode == 0
    assert "making it anew" in result.stderr
    assert "python3 -m venv .venv" in machine.log.read_text()
    assert machine.installs() == ["."]


def test_unknown_argument(machine: Machine) -> None:
    result = machine.set_up("--help")
    assert result.returncode == 2
    assert "unknown argument '--help'" in result.stderr


def test_make_demo_needs_no_tools_of_development(machine: Machine) -> None:
    machine.put_python(machine.bin / "python3")
    machine.put(machine.clone / ".venv-bhlm", '#!/bin/sh\necho "bhlm $*" >>"$LOG"\n')
    machine.set_up()
    shutil.copy(machine.clone / ".venv-bhlm", machine.clone / ".venv/bin/bhlm")
    assert machine.run("make", "demo").returncode == 0
    log = machine.log.read_text()
    assert "bhlm reconcile models/hsb_random_coefficient.toml" in log
    assert "[dev]" not in log


def test_make_test_leaves_out_the_slow(machine: Machine) -> None:
    machine.put_python(machine.bin / "python3")
    assert machine.run("make", "test").returncode == 0
    assert machine.installs() == [".[dev]"]
    assert "python3 -m pytest -m not slow" in machine.log.read_text().replace(
        "python -m", "python3 -m"
    )
    assert machine.run("make", "test-slow").returncode == 0
    assert machine.log.read_text().rstrip().endswith("-m pytest -m slow")


def test_make_bench_says_when_there_is_nothing(machine: Machine) -> None:
    result = machine.run("make", "bench")
    assert (result.returncode, machine.installs()) == (0, [])
    assert result.stdout == "make bench: there is no comparisons/speed_*.py to run\n"


def test_make_bench_runs_each_script_and_stops_at_a_failure(machine: Machine) -> None:
    machine.put_python(machine.bin / "python3")
    for name in ("speed_a.py", "speed_b.py"):
        machine.put(machine.clone / "comparisons" / name, "")
    result = machine.run("make", "bench")
    assert result.returncode == 0
    assert result.stdout == "== comparisons/speed_a.py\n== comparisons/speed_b.py\n"
    python = machine.clone / ".venv/bin/python"
    machine.put(python, python.read_text().replace("exit 0\n", '[ "$1" = -c ]\n'))
    result = machine.run("make", "bench")
    assert result.returncode != 0
    assert "speed_b" not in result.stdout


def test_make_alone_lists_the_targets(machine: Machine) -> None:
    listed = [line.split()[1] for line in machine.run("make").stdout.splitlines()]
    assert {"demo", "test", "test-slow", "lint", "bench", "clean"} <= set(listed)


def test_ci_runs_lint_and_all_tests() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[-3:] == ["make lint", "make test", "make test-slow"]
    assert "set -euo pipefail" in lines


@pytest.mark.slow
def test_a_wheel_carries_the_gallery_and_the_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("bhlm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "from bhlm.sources.gallery import find_model, list_models, load_data; "
        "print(len(list_models()), find_model('hsb_anova').path, "
        "*load_data(find_model('hsb_anova')).shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    path = tmp_path / "site/bhlm/models/hsb_anova.toml"
    assert result.stdout.split() == ["14", str(path), "7185", "11"]
