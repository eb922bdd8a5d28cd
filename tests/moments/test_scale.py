"""What comparisons/scale.py makes of its measurements."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PLACE = Path(__file__).parents[2] / "comparisons" / "scale.py"


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", PLACE)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def make_row(n: int, groups: int, **changed: Any) -> dict[str, Any]:
    """A measurement in which a row costs 100 ns, a group 2 us, 4 ms and 200 bytes."""
    row = {
        "program": "bhlm", "rows": n, "groups": groups, "start": 1.0, "read": 0.1 + 1e-7 * n,
        "read_mb": 400.0, "reml": 0.01 + 2e-6 * groups, "reml_cpu": 1.0,
        "reml_mb": 400.0 + 2e-4 * groups, "posterior": 1.0 + 4e-3 * groups,
        "posterior_mb": 500.0, "ess": 900.0, "rhat": 1.001, "loglik": -1.5,
    }  # fmt: skip
    return row | changed


ROWS = [make_row(n, g) for n in (10**6, 10**7) for g in (10**4, 10**5)]


def test_costs_are_read_off_the_table(scale: ModuleType) -> None:
    lines = scale.reckon(ROWS)
    text = "\n".join(lines)
    assert "100.0 ns per row" in text
    assert "2.00 us per group" in text
    assert "4.000 ms per group" in text
    assert "200 bytes per group   of memory" in text
    # n, means, cross-products and a label of two columns; a lower triangle and deviations too.
    assert "64 bytes per group   of moments, 2 columns" in text
    assert "72 bytes per group   that a GROUP BY" in text
    at = next(i for i, line in enumerate(lines) if line.startswith("EXTRAPOLATED"))
    assert "1,000,000,000 rows x 10,000,000 groups, not measured" in lines[at]
    assert lines[at + 1].split()[0] == "100"  # seconds for 10^9 rows
    assert lines[at + 2].split()[0] == "2.0"  # on 100 cores at half the pace
    assert lines[at + 3].split()[0] == "0.72"
    assert lines[at + 5].split()[0] == "2.0"
    assert lines[at + 6].split()[0] == "20"
    assert float(lines[at + 7].split()[0]) == pytest.approx(4e4 / 3600, abs=0.005)


def test_costs_need_two_sizes(scale: ModuleType) -> None:
    (line,) = scale.reckon(ROWS[:1])
    assert line.startswith("costs per row and group need two sizes")


def test_what_was_asked_is_held_against_what_was_measured(scale: ModuleType) -> None:
    rows = [make_row(10**6, 10**4), make_row(10**7, 10**5, posterior=100.0)]
    lines, met = scale.judge(rows)
    assert met is True
    assert [line.split(": ")[-1] for line in lines[1:]] == ["met"] * 4
    values = [float(line.split("  at most")[0].split()[-1]) for line in lines[1:]]
    # 0.1 + 1 + 0.01 + 0.2 seconds; over ten times those of the smaller table
    assert values == pytest.approx([1.31, 420.0, 100.0, 1.31 / 2.3], abs=0.006)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"read": 3.6, "posterior": 1.0}, {"seconds from the file to REML", "seconds per row"}),
        ({"reml_mb": 1001.0, "posterior": 1.0}, {"megabytes until then"}),
        ({"posterior": 181.0}, {"seconds of the posterior"}),
    ],
)
def test_what_is_missed_is_said(
    scale: ModuleType, changed: dict[str, float], missed: set[str]
) -> None:
    rows = [make_row(10**6, 10**4), make_row(10**7, 10**5, **changed)]
    lines, met = scale.judge(rows)
    assert met is False
    found = {line.strip() for line in lines if "MISSED" in line}
    assert len(found) == len(missed)
    assert all(any(line.startswith(name) for line in found) for name in missed)


def test_what_was_not_measured_is_not_judged(scale: ModuleType) -> None:
    lines, met = scale.judge([make_row(10**5, 10**3)])
    assert met is True
    assert len(lines) == 1


def test_a_line_has_a_place_for_every_number(scale: ModuleType) -> None:
    line = scale.show(make_row(10**7, 10**5))
    assert line.split()[:3] == ["bhlm", "10000000", "100000"]
    assert len(line.split()) == len(scale.COLUMNS)
    rival = {"program": "lme4", "rows": 10, "groups": 5, "note": "not installed"}
    assert scale.show(rival).endswith("not installed")


@pytest.mark.slow
def test_one_size_from_the_file_to_the_table(tmp_path: Path) -> None:
    """Everything that runs on ten million rows, on ten thousand."""
    command = [
        sys.executable, PLACE, "--rows", "10000", "20000", "--groups", "100", "200", "--posterior",
        "100", "--rivals", "none", "--folder", tmp_path, "--output", tmp_path / "scale",
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scale.txt").read_text() == done.stdout
    table = [line.split() for line in done.stdout.splitlines() if line.startswith("bhlm")]
    assert [line[1:3] for line in table] == [
        ["10000", "100"], ["10000", "200"], ["20000", "100"], ["20000", "200"],
    ]  # fmt: skip
    assert (tmp_path / "scale.csv").read_text().count("\n") == 5
    assert "ns per row" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if "t10000" in path.name] == []


@pytest.mark.slow
def test_what_a_process_measures_is_the_fit(tmp_path: Path) -> None:
    from bhlm.fits.model import Model

    for name, rows, groups in (("small.parquet", "2000", "50"), ("t.parquet", "5000", "40")):
        path = tmp_path / name
        subprocess.run([sys.executable, PLACE, "--make", path, rows, groups], check=True)
    command = [sys.executable, PLACE, "--measure", "bhlm", tmp_path / "t.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    fit = Model("y ~ x + (x | g)", str(tmp_path / "t.parquet")).reml()
    assert found["loglik"] == pytest.approx(fit.loglik, rel=1e-12)
    assert found["converged"] is True
    assert 50 < found["reml_mb"] < 2000
