"""Figures of the comparisons come from the committed results."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "comparisons"
RESULTS = FOLDER / "results"


def read_texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_committed_figures_are_those_of_the_committed_results(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.*"):
        shutil.copy(path, tmp_path)
    command = [sys.executable, FOLDER / "figures.py", "--results", tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "loglik_gaps: 11 fits of 154 by rivals" in said
    committed = RESULTS / "figures"
    names = sorted(path.name for path in committed.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "figures").iterdir())
    for name in names:
        new, old = tmp_path / "figures" / name, committed / name
        if name == "README.md":
            assert new.read_text(encoding="utf-8") == old.read_text(encoding="utf-8")
        else:
            assert read_texts(new) == read_texts(old) != []
