"""The table of docs/howto/weights.md, cell by cell: what says yes runs, what does not is refused.

The table is read from the page, so that page and program cannot differ: what a cell that is empty
or begins with "no" stands for is refused in one line, by the classes and on the command line.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import run

import bhlm
from bhlm.errors import BhlmError

pytestmark = pytest.mark.wide

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "weights.md"
ONE, NESTED, CROSSED = "(1 | school)", "(1 | school/room)", "(1 | school) + (1 | item)"
SHORT = {"draws": 200, "tune": 200, "chains": 2, "seed": 1}
OPTIONS = ["--draws", "200", "--tune", "200", "--chains", "2", "--seed", "1"]
SAMPLING = bhlm.SamplingWeights("w", "W", scaling="size")
UNITS = bhlm.SamplingWeights("w", {"school": "W", "room": "V"}, scaling="size")
OF_SAMPLING = ["--weights", "w", "--group-weights", "W", "--scaling", "size"]
OF_UNITS = ["--weights", "w", "--group-weights", "school=W; room=V", "--scaling", "size"]

# By row of the table, the cases: right side, arguments of Model, options of a command.
SIMPLE = (
    ({"weights": "w"}, ["--weights", "w"]),
    ({"weights": bhlm.FrequencyWeights("f")}, ["--weights", "f", "--weights-are", "frequency"]),
    ({"known_variance": "v"}, ["--known-variance", "v"]),
)
CASES: dict[str, list[tuple[str, dict[str, Any], list[str]]]] = {
    "precision weights, frequencies, known variances; one factor": [
        (ONE, *each) for each in SIMPLE
    ],
    "the same, several factors": [(right, *each) for right in (NESTED, CROSSED) for each in SIMPLE],
    "sampling weights, one factor": [(ONE, {"weights": SAMPLING}, OF_SAMPLING)],
    "sampling weights, nested factors": [(NESTED, {"weights": UNITS}, OF_UNITS)],
    "`residual=`": [(ONE, {"residual": "item"}, ["--residual", "item"])],
}
COLUMNS = ("estimates", "posterior, `reconcile`", "page and JSON of each", "posterior saved")
FILES = "file of moments, merged"


def read_page() -> dict[str, dict[str, str]]:
    """Return the table of what works, by row and column."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("| | estimates"))
    heads = [each.strip() for each in lines[first].strip("|").split("|")]
    found: dict[str, dict[str, str]] = {}
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return found
        cells = [each.strip() for each in line.strip("|").split("|")]
        found[cells[0]] = dict(zip(heads[1:], cells[1:], strict=True))
    return found


TABLE = read_page()


def list_cases(*, most: int) -> list[Any]:
    """Return the cases of all rows; those after the first `most` of a row are slow."""
    return [
        pytest.param(
            row,
            *case,
            id=f"{row}: {case[0]} {' '.join(case[2][:2])}",
            marks=[pytest.mark.slow] if at >= most else [],
        )
        for row, cases in CASES.items()
        for at, case in enumerate(cases)
    ]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    schools, rooms, rows = 14, 3, 4
    school = np.repeat(np.arange(schools), rooms * rows)
    room = np.tile(np.repeat(np.arange(rooms), rows), schools)
    n = len(school)
    found = pd.DataFrame({"school": school, "room": room, "item": np.tile(list("abcd"), n // 4)})
    found["x"] = rng.normal(size=n)
    y = (
        found["x"]
        + rng.normal(size=schools)[school]
        + rng.normal(size=(schools, rooms))[school, room]
    )
    for name in ("y", "y2", "y3"):
        found[name] = y + 0.5 * rng.normal(size=4)[np.arange(n) % 4] + rng.normal(size=n)
    found["w"], found["f"] = rng.uniform(1, 3, n), rng.integers(1, 3, n)
    found["v"] = rng.uniform(0.5, 1.5, n)
    found["W"] = rng.uniform(1, 3, schools)[school]
    found["V"] = rng.uniform(1, 2, (schools, rooms))[school, room]
    for r in range(schools):
        found[f"W{r}"] = found["W"] * np.where(school == r, 0.0, schools / (schools - 1.0))
    return found


@pytest.fixture
def path(table, tmp_path) -> Path:
    found = tmp_path / "rows.csv"
    table.to_csv(found, index=False)
    return found


def one_line(told: str) -> None:
    """Assert that a refusal is one line that says something."""
    assert 20 < len(told.strip()) < 600, told
    assert "\n" not in told.strip()
    assert "Traceback" not in told


def refuse(ask) -> None:
    """Assert that what is asked for is refused in one line."""
    with pytest.raises(BhlmError) as error:
        ask()
    one_line(str(error.value))


def command(capsys, *given) -> str:
    status, text, err = run(capsys, *given)
    assert status in (0, 1), (given, err)
    return text


def refuse_command(capsys, *given) -> None:
    status, _, err = run(capsys, *given)
    assert status == 2, given
    one_line(err)


def say_yes(cell: str) -> bool:
    """Whether a cell says that something is there."""
    return bool(cell) and not cell.startswith("no")


def test_every_row_and_column_has_a_test():
    others = ("plausible values, tables; ", "replicate weights of sampling weights")
    assert [row for row in TABLE if not row.startswith(others)] == list(CASES)
    assert all(set(row) == {*COLUMNS, FILES} for row in TABLE.values())


@pytest.mark.parametrize(("row", "right", "given", "options"), list_cases(most=9))
def test_estimates(row, right, given, options, table, path, capsys, tmp_path):
    cell = TABLE[row]["estimates"]
    assert cell in ("REML, ML", "pseudo-ML")
    model = bhlm.Model(f"y ~ x + {right}", table, **given)
    asked = ["--data", path, "--formula", f"y ~ x + {right}", *options]
    for method in ("reml", "ml"):
        if method == "reml" and cell == "pseudo-ML":
            refuse(model.reml)
            refuse_command(capsys, "reml", *asked, "--method", "reml")
            continue
        fit = model.reml(method=method)
        assert fit.converged
        out = tmp_path / f"{method}.json"
        command(capsys, "reml", *asked, "--method", method, "--json", out)
        assert json.loads(out.read_text())["reml"]["loglik"] == pytest.approx(fit.loglik, rel=1e-9)


@pytest.mark.parametrize(("row", "right", "given", "options"), list_cases(most=1))
def test_posteriors_pages_and_saved_ones(row, right, given, options, table, path, capsys, tmp_path):
    cells = TABLE[row]
    model = bhlm.Model(f"y ~ x + {right}", table, **given)
    asked = ["--data", path, "--formula", f"y ~ x + {right}", *options]
    fit = model.reml(method="ml" if cells["estimates"] == "pseudo-ML" else "reml")
    page, out = tmp_path / "page.html", tmp_path / "out.json"
    assert say_yes(cells["page and JSON of each"])
    fit.dashboard(page)
    assert "<html" in page.read_text(encoding="utf-8")
    method = ["--method", "ml"] if cells["estimates"] == "pseudo-ML" else []
    command(capsys, "reml", *asked, *method, "--dashboard", page, "--json", out)
    if not say_yes(cells["posterior, `reconcile`"]):
        assert not say_yes(cells["posterior saved"])
        refuse(lambda: model.sample(**SHORT))
        refuse_command(capsys, "sample", *asked, *OPTIONS)
        refuse_command(capsys, "reconcile", *asked, *OPTIONS)
        return
    post = model.sample(**SHORT)
    both = bhlm.reconcile(fit, post)
    for each in (post, both):
        each.dashboard(page)
    assert say_yes(cells["posterior saved"])
    post.save(tmp_path / "post.nc")
    again = bhlm.load(tmp_path / "post.nc")
    pd.testing.assert_frame_equal(again.estimates, post.estimates)
    saved = tmp_path / "command.nc"
    command(capsys, "sample", *asked, *OPTIONS, "--save", saved, "--json", out)
    pd.testing.assert_frame_equal(bhlm.load(saved).estimates, post.estimates)
    command(capsys, "reconcile", *asked, *OPTIONS, "--dashboard", page, "--json", out)
    assert json.loads(out.read_text())["verdict"] == both.verdict


@pytest.mark.parametrize(("row", "right", "given", "options"), list_cases(most=9))
def test_files_of_moments(row, right, given, options, table, capsys, tmp_path):
    halves = [table[table["school"] < 6], table[table["school"] >= 6]]
    parts = [tmp_path / "a.moments", tmp_path / "b.moments"]
    formula = f"y ~ x + {right}"
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for half, path in zip(halves, paths, strict=True):
        half.to_csv(path, index=False)
    asked = ["moments", paths[0], "--formula", formula, *options, "-o", parts[0]]
    if not say_yes(TABLE[row][FILES]):
        refuse(lambda: save_first(formula, halves[0], given, parts[0]))
        refuse_command(capsys, *asked)
        return
    ml = "ml" if TABLE[row]["estimates"] == "pseudo-ML" else "reml"
    whole = bhlm.Model(formula, table, **given).reml(method=ml)
    first = save_first(formula, halves[0], given, parts[0])
    bhlm.reduce_like(first, halves[1]).save(parts[1])
    merged = bhlm.merge_moments([bhlm.load_moments(part) for part in parts])
    fit = bhlm.Model.from_moments(merged).reml(method=ml)
    assert fit.loglik == pytest.approx(whole.loglik, rel=1e-10)
    np.testing.assert_allclose(fit.estimates["se"], whole.estimates["se"], 1e-5)
    command(capsys, *asked)
    command(capsys, "moments", paths[1], "--like", parts[0], "-o", parts[1])
    command(capsys, "merge", *parts, "-o", tmp_path / "all.moments")
    out = tmp_path / "out.json"
    command(capsys, "reml", "--data", tmp_path / "all.moments", "--method", ml, "--json", out)
    assert json.loads(out.read_text())["reml"]["loglik"] == pytest.approx(whole.loglik, rel=1e-9)


def save_first(formula: str, rows: pd.DataFrame, given: dict[str, Any], path: Path) -> Any:
    """Return the moments of some rows, as they are written to a file."""
    if "residual" in given:
        bhlm.Model(formula, rows, **given).moments.save(path)
    found = bhlm.reduce_part(formula, rows, **given)
    found.save(path)
    return found


VALUES = "plausible values, tables; one factor"
RUBIN = [
    pytest.param({}, [], id="no weights", marks=pytest.mark.slow),
    pytest.param({"weights": "w"}, ["--weights", "w"], id="precision", marks=pytest.mark.slow),
    pytest.param(
        {"weights": SAMPLING, "method": "ml"}, [*OF_SAMPLING, "--method", "ml"], id="sampling"
    ),
]


@pytest.mark.parametrize(("given", "options"), RUBIN)
def test_plausible_values_and_tables(given, options, table, path, capsys, tmp_path):
    cells = TABLE[VALUES]
    assert cells["estimates"] == "pooled"
    formula = f"y + y2 + y3 ~ x + {ONE}"
    pooled = bhlm.fit_imputations(formula, table, **given)
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    asked = ["--formula", formula, *options, "--json", out, "--dashboard", page]
    for name in (["pool", path], ["reml", "--data", path]):
        command(capsys, *name, *asked)
        told = json.loads(out.read_text())["estimates"]["x"]["estimate"]
        assert told == pytest.approx(pooled.estimates.loc["x", "estimate"], rel=1e-8)
    tables, paths = [], []
    for name in ("y", "y2", "y3"):
        tables.append(table.assign(y=table[name]))
        paths.append(tmp_path / f"{name}.csv")
        tables[-1].to_csv(paths[-1], index=False)
    listed = bhlm.fit_imputations(f"y ~ x + {ONE}", tables, **given)
    np.testing.assert_allclose(listed.estimates, pooled.estimates, 1e-6, 1e-9)
    command(capsys, "pool", *paths, "--formula", f"y ~ x + {ONE}", *options)
    # The mixture of posteriors, its page, and its reconciliation with Rubin's rules.
    assert cells["posterior, `reconcile`"].startswith("the mixture of theirs")
    mixture = pooled.sample(**SHORT)
    both = bhlm.reconcile(pooled, mixture)
    for each in (pooled, mixture, both):
        each.dashboard(page)
        json.dumps(each.to_dict())
    bayes = [each for each in options if each not in ("--method", "ml")]
    asked = ["--data", path, "--formula", formula, *bayes, *OPTIONS]
    command(capsys, "sample", *asked, "--json", out, "--dashboard", page)
    command(capsys, "reconcile", *asked, "--json", out, "--dashboard", page)
    assert say_yes(cells["posterior saved"])
    mixture.save(tmp_path / "mixture.nc")
    command(capsys, "sample", *asked, "--save", tmp_path / "command.nc")
    for name in ("mixture.nc", "command.nc"):
        again = bhlm.load(tmp_path / name)
        pd.testing.assert_frame_equal(again.estimates, mixture.estimates)
    assert not say_yes(cells[FILES])
    refuse_command(capsys, "moments", path, "--formula", formula, "-o", tmp_path / "a.moments")


@pytest.mark.parametrize("nested", [False, True])
def test_replicate_weights(nested, table, path, capsys, tmp_path):
    cells = TABLE["replicate weights of sampling weights"]
    assert cells["estimates"] == "pseudo-ML, pooled"
    right, weights, options = (NESTED, UNITS, OF_UNITS) if nested else (ONE, SAMPLING, OF_SAMPLING)
    columns = [f"W{r}" for r in range(14)]
    groups = {"school": columns} if nested else columns
    replicates = bhlm.ReplicateWeights(groups=groups, method="JK1")
    formula = f"y ~ x + {right}"
    fit = bhlm.Model(formula, table, weights=weights).reml(method="ml", errors=replicates)
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    more = ["--group-replicates", f"{'school=' if nested else ''}W{{0..13}}"]
    more += ["--replicates-are", "JK1"]
    asked = [*options, *more]
    given = ["--data", path, "--formula", formula]
    given_ml = [*given, "--method", "ml"]
    command(capsys, "reml", *given_ml, *asked, "--json", out, "--dashboard", page)
    told = json.loads(out.read_text())["reml"]["estimates"]["x"]["se"]
    assert told == pytest.approx(fit.estimates.loc["x", "se"], rel=1e-6)
    fit.dashboard(page)
    if not nested:
        values = f"y + y2 + y3 ~ x + {ONE}"
        bhlm.fit_imputations(values, table, weights=weights, method="ml", errors=replicates)
        command(capsys, "pool", path, "--formula", values, "--method", "ml", *asked)
    assert not say_yes(cells["posterior, `reconcile`"])
    for name in ("sample", "reconcile"):
        refuse_command(capsys, name, *given, *asked, *OPTIONS)
    assert not say_yes(cells[FILES])
    refuse_command(
        capsys, "moments", path, "--formula", formula, *asked, "-o", tmp_path / "a.moments"
    )
