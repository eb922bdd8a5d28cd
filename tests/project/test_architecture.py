"""What `import bhlm` costs, and that `make lint` holds the order of the rooms (lint-imports)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bhlm

ROOT = Path(__file__).parents[2]

HEAVY = {"pymc", "pytensor", "nutpie", "arviz", "numba", "scipy", "pandas", "matplotlib", "plotly"}


def test_import_bhlm_is_light() -> None:
    code = "import sys, bhlm; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert HEAVY & {name.split(".")[0] for name in loaded.stdout.split()} == set()


def test_every_public_name_can_be_had() -> None:
    for name in bhlm.__all__:
        assert getattr(bhlm, name) is not None
    assert set(bhlm.__all__) < set(dir(bhlm))


def test_a_wrong_import_fails_lint(tmp_path: Path) -> None:
    """One between rooms, a circle inside a room, and an engine outside its file."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "bhlm", tmp_path / "bhlm", ignore=shutil.ignore_patterns("__pycache__"))
    for file, line in {
        "sources/wrong.py": "import bhlm.reml.estimate",
        "design/one.py": "import bhlm.design.two",
        "design/two.py": "import bhlm.design.one",
        "reml/wrong.py": "import pymc",
    }.items():
        (tmp_path / "bhlm" / file).write_text(line + "\n", encoding="utf-8")
    command = [shutil.which("lint-imports", path=str(Path(sys.executable).parent)), "--no-cache"]
    result = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    lines = result.stdout.splitlines()
    assert {line.split(" BROKEN")[0] for line in lines if " BROKEN" in line} == {
        "A room imports only the rooms to its left",
        "No circles inside a room",
        "PyMC stays in its file",
    }
    assert "bhlm.sources.wrong -> bhlm.reml.estimate" in result.stdout
    assert "bhlm.reml.wrong -> pymc" in result.stdout
