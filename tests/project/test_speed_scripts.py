"""The scripts of speed: they run, and what they print is of the package beside them."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "comparisons"


def run_script(*arguments: str) -> str:
    """Return what a script of the folder prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import speed_commands

    return speed_commands


def test_checkouts_are_told_apart(commands: ModuleType, tmp_path: Path) -> None:
    from checkouts import build_environment, list_checkouts

    assert list(list_checkouts(tmp_path)) == ["before", "now"]
    assert list_checkouts(None) == {"now": FOLDER.parent}
    environment = build_environment(tmp_path, ONE="1")
    assert environment["PYTHONPATH"].startswith(str(tmp_path))
    assert environment["ONE"] == "1"


@pytest.mark.wide
def test_a_posterior_is_timed_in_a_process_of_its_own() -> None:
    found = json.loads(run_script("speed_posteriors.py", "--line", "Table 4.4"))
    assert found["seconds"] > 0.0
    assert min(found["bulk"], found["tail"]) > 1000.0
    assert found["failures"] == []


@pytest.mark.wide
def test_a_command_that_fails_ends_the_comparison(
    commands: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert commands.measure(FOLDER.parent, "import bhlm", cache=tmp_path) > 0.0
    monkeypatch.setitem(commands.COMMANDS, "bhlm reml", ["reml", "no_such_model"])
    with pytest.raises(SystemExit, match=r"'bhlm reml' of .* failed: .*no_such_model"):
        commands.measure(FOLDER.parent, "bhlm reml", cache=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rail", "eight groups"])
def test_few_groups_do_not_diverge(name: str) -> None:
    found = json.loads(run_script("speed_posteriors.py", "--line", name))
    assert found == {"divergent": 0, "runs": 0, "failed": 0}


@pytest.mark.slow
def test_steps_are_set_beside_the_machine() -> None:
    lines = run_script("limits.py").splitlines()
    shown = {line[:44].strip(): line[44:].split() for line in lines if line}
    for name in ("likelihood, 5,000 groups, 64 positions", "gradient, 5,000 groups"):
        seconds, read, rate, operations, pace = map(float, shown[name])
        rounded = 0.005 / seconds  # of nanoseconds with two digits
        assert rate == pytest.approx(read / seconds, rel=1.1 * rounded, abs=0.006)
        assert pace == pytest.approx(operations / seconds, rel=1.1 * rounded, abs=0.006)
    assert float(shown["all of it"][0]) > float(shown["REML"][0]) > 0.0
