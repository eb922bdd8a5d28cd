"""`make test` from a fresh clone, against a stand-in for the interpreter; the wheel's files."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bhlm.sources.gallery import list_models

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "cksum", "cat", "rm", "mkdir", "cp", "make", "sed")

# Logs each call. `-m venv` puts a copy of it into the new .venv, so that everything after the
# set-up is logged as well.
PYTHON = """#!/bin/sh
echo "$*" >>"$LOG"
[ "$2" != venv ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }
"""


def test_make_test_sets_up_once_and_leaves_out_the_slow(tmp_path: Path) -> None:
    clone, tools, log = tmp_path / "a clone", tmp_path / "bin", tmp_path / "log"
    (clone / "scripts").mkdir(parents=True)
    tools.mkdir()
    for name in ("pyproject.toml", "Makefile", "scripts/setup.sh"):
        shutil.copy(ROOT / name, clone / name)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, f"this test needs {tool}"
        (tools / tool).symlink_to(found)
    (tools / "python3").write_text(PYTHON)
    (tools / "python3").chmod(0o755)
    environment = {"PATH": str(tools), "LOG": str(log)}

    def make(target: str) -> list[str]:
        log.write_text("")
        subprocess.run(["make", target], cwd=clone, env=environment, check=True)
        return log.read_text().splitlines()

    calls = make("test")
    assert [call.split()[-1] for call in calls if " install " in call] == [".[dev]"]
    assert calls[-1].startswith("-m pytest -m not slow ")
    assert not any(" install " in call for call in make("test"))
    assert make("test-slow")[-1].startswith("-m pytest -m slow")


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
    assert result.stdout.split() == [str(len(list_models())), str(path), "7185", "11"]
