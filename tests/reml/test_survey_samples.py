"""Samples as surveys of schools have them, odd ones too, against brute force, and by the commands.

The samples are carved of New Zealand's pupils in PISA 2012, with weights and labels as other files
may have them. Estimates must be a maximum of the pseudo-likelihood in `pseudo_oracle.py`, and every
convention's standard errors those of its scores and Hessian.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run
from pseudo_oracle import Level, Oracle

import bhlm
from bhlm.errors import BhlmError

CONVENTIONS = ("full", "uncorrected", "block", "separate")
SE = 1e-6  # relative: both Hessians are by differences or by algebra to eight digits
# s'H^-1 s is twice what is lost by not being at the maximum, in log-likelihood.
LOST = 1e-9
ROWS = "w_student / w_school"

MODELS = {
    "null": ("1", ("Intercept",), "one"),
    "two levels": (
        "girl + openps + pcgirls",
        ("Intercept", "girl", "openps", "pcgirls"),
        "one",
    ),
    "slope": ("openps", ("Intercept", "openps"), "slope"),
    "independent slope": ("openps + girl", ("Intercept", "openps", "girl"), "independent"),
    "three levels": ("girl + openps", ("Intercept", "girl", "openps"), "nested"),
}
SCALINGS = ("none", "size", "effective", "gk")


def carve(kind: str, *, schools: int = 30) -> pd.DataFrame:
    """Return pupils of some schools, with what a kind of file may have."""
    rng = np.random.default_rng(16)
    rows = bhlm.load_dataset("pisa_nz")
    rows = rows[rows["OPENPS"].notna() & rows["PCGIRLS"].notna()]
    label = rows["SCHOOLID"].to_numpy()
    drawn = rng.choice(np.unique(label), 8 if kind == "few schools" else schools, replace=False)
    rows = rows[np.isin(label, drawn)].sort_values("SCHOOLID").reset_index(drop=True)
    school = rows["SCHOOLID"].rank(method="dense").to_numpy().astype(int) - 1
    n, count = len(rows), school.max() + 1
    table = pd.DataFrame(
        {
            "school": rows["SCHOOLID"],
            "class": rng.integers(1, 4, n),
            "girl": (rows["ST04Q01"] == "Female").astype(int),
            "openps": rows["OPENPS"],
            "pcgirls": rows["PCGIRLS"],
            "w_student": rows["W_FSTUWT"],
            "w_school": rows["W_FSCHWT"],
        }
        | {f"pv{k}": rows[f"PV{k}MATH"] for k in range(1, 6)}
    )
    # Slopes and classes differ, so that no variance vanishes.
    for k in range(1, 6):
        table[f"pv{k}"] += 70.0 * rng.normal(size=count)[school] * table["openps"]
        table[f"pv{k}"] += 60.0 * rng.normal(size=(count, 4))[school, table["class"]]
    table["w_class"] = rng.uniform(1.0, 3.0, (count, 4))[school, table["class"]]
    if kind == "string labels":
        table["school"] = [f"{each:07d}" for each in table["school"]]
        table["class"] = np.array(["", "a b", "Ä", "007"])[table["class"]]
    elif kind == "single pupils":
        alone = np.isin(school, np.arange(0, count, 3)) & table.duplicated("school")
        table = table[~alone].reset_index(drop=True)
    elif kind == "very unequal":
        table["w_school"] *= np.exp(1.5 * rng.normal(size=count))[school]
        table["w_student"] = table["w_school"] * np.exp(1.2 * rng.normal(size=n))
    elif kind == "constant within schools":
        table["w_student"] = table["w_school"] * rng.uniform(3.0, 9.0, count)[school]
    elif kind == "large":
        table["w_student"] *= 1e7
        table["w_school"] *= 1e4
    elif kind == "gaps":
        table.loc[np.isin(school, [2, 11]), "w_school"] = np.nan
        table.loc[rng.random(n) < 0.1, "w_student"] = np.nan
        table.loc[rng.random(n) < 0.05, "openps"] = np.nan
    else:
        assert kind in ("few schools", "plain"), kind
    return table


KINDS = (
    "plain", "string labels", "single pupils", "very unequal", "constant within schools", "large",
    "gaps", "few schools",
)  # fmt: skip


def describe(model: str, *, scaling: str) -> tuple[str, bhlm.SamplingWeights, tuple[Level, ...]]:
    """Return the right side of a formula, the weights, and the oracle's levels."""
    right, _, random = MODELS[model]
    if random == "nested":
        weights = bhlm.SamplingWeights(
            ROWS, {"school": "w_school", "class": "w_class"}, scaling=scaling
        )
        levels = (
            Level("school", "school", weight="w_school"),
            Level("school:class", "class", weight="w_class"),
        )
        return f"{right} + (1 | school/class)", weights, levels
    columns = ("Intercept",) if random == "one" else ("Intercept", "openps")
    bar = "||" if random == "independent" else "|"
    inside = "1" if random == "one" else "openps"
    level = Level("school", "school", columns, "w_school", independent=bar == "||")
    weights = bhlm.SamplingWeights(ROWS, "w_school", scaling=scaling)
    return f"{right} + ({inside} {bar} school)", weights, (level,)


def drop(table: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Return the rows that a fit of any model here counts."""
    return table.dropna(subset=["w_student", "w_school", *more])


def build(table: pd.DataFrame, model: str, *, scaling: str, response: str = "pv1") -> Oracle:
    fixed = MODELS[model][1]
    whole = drop(table, response, *(name for name in fixed if name != "Intercept"))
    levels = describe(model, scaling=scaling)[2]
    rows = (whole["w_student"] / whole["w_school"]).to_numpy()
    return Oracle(whole, response, fixed, levels, rows=rows, scaling=scaling)


def check(found: pd.DataFrame, oracle: Oracle) -> pd.DataFrame:
    """Hold estimates and conventions against brute force; return its standard errors."""
    theta = found.loc[oracle.names, "estimate"].to_numpy(float)
    size = np.maximum(np.abs(theta), 1e-2 * np.abs(theta).max())
    lost, errors = oracle.errors(theta, size)
    assert abs(lost) < LOST
    for name in CONVENTIONS:
        np.testing.assert_allclose(found.loc[oracle.names, name], errors[name], SE, err_msg=name)
    return errors


# Every kind of file and every model once with one scaling; the whole table is slow.
QUICK = {(kind, list(MODELS)[at % 5], SCALINGS[at % 3]) for at, kind in enumerate(KINDS)} | {
    ("single pupils", "three levels", "effective"),
    ("very unequal", "slope", "gk"),
    ("gaps", "two levels", "gk"),
}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in (
        (kind, model, scaling)
        for kind in KINDS
        for model in MODELS
        for scaling in SCALINGS
        if model != "three levels" or scaling != "gk"
    )
]


@pytest.mark.parametrize(("kind", "model", "scaling"), CASES)
def test_conventions_are_brute_forces(kind, model, scaling):
    table = carve(kind)
    right, weights, _ = describe(model, scaling=scaling)
    fit = bhlm.Model(f"pv1 ~ {right}", table, weights=weights).reml(method="ml")
    assert fit.converged
    assert not fit.singular
    oracle = build(table, model, scaling=scaling)
    assert fit.moments.n_rows == sum(len(unit.y) for unit in oracle.units)
    conventions = fit.compare_conventions()
    theta = conventions.loc[oracle.names, "estimate"].to_numpy(float)
    assert fit.loglik == pytest.approx(oracle.logliks(theta).sum(), rel=1e-11)
    check(conventions, oracle)


@pytest.mark.parametrize("lacking", ["nothing", "values", "values and weights"])
@pytest.mark.parametrize("convention", ["full", "block"])
def test_pooled_plausible_values_are_brute_forces(lacking, convention):
    table = carve("gaps" if lacking == "values and weights" else "plain")
    if lacking != "nothing":
        table.loc[table.index % 7 == 2, "pv2"] = np.nan
        table.loc[table["school"] == table["school"].iloc[0], "pv3"] = np.nan
    names = ["pv1", "pv2", "pv3"]
    right, weights, _ = describe("two levels", scaling="size")
    pooled = bhlm.fit_imputations(
        f"pv1 + pv2 + pv3 ~ {right}", table, weights=weights, method="ml", errors=convention
    )
    points, squares = [], []
    for name, fit in zip(names, pooled.fits, strict=True):
        oracle = build(table, "two levels", scaling="size", response=name)
        errors = check(fit.compare_conventions(), oracle)
        assert fit.moments.n_rows == sum(len(unit.y) for unit in oracle.units)
        p = len(oracle.fixed)
        points.append(fit.estimates.loc[oracle.names[:p], "estimate"].to_numpy(float))
        squares.append(errors[convention].to_numpy()[:p] ** 2)
    between = (4.0 / 3.0) * np.var(points, axis=0, ddof=1)
    total = np.mean(squares, axis=0) + between
    found = pooled.estimates.iloc[:p]
    np.testing.assert_allclose(found["estimate"], np.mean(points, axis=0), 1e-12)
    np.testing.assert_allclose(found["se"], np.sqrt(total), SE)
    np.testing.assert_allclose(found["lambda"], between / total, 1e-5)
    assert bool(pooled.notes) == (lacking != "nothing")


def read_table(content: dict[str, dict[str, dict[str, float]]]) -> pd.DataFrame:
    """Return estimates and conventions of a command's JSON."""
    found = pd.DataFrame(content["estimates"]).T[["estimate"]].astype(float)
    for name, each in content["conventions"].items():
        found[name] = pd.Series(each["se"])
    return found


@pytest.mark.parametrize(
    ("kind", "model", "scaling"),
    [
        ("string labels", "two levels", "none"),
        ("gaps", "slope", "size"),
        ("single pupils", "three levels", "effective"),
        ("very unequal", "null", "gk"),
    ],
)
def test_the_command_line_is_brute_force_too(kind, model, scaling, capsys, tmp_path):
    table = carve(kind)
    path, out = tmp_path / "pupils.csv", tmp_path / "out.json"
    table.to_csv(path, index=False)
    right, weights, _ = describe(model, scaling=scaling)
    groups = "; ".join(f"{name}={text}" for name, text in weights.factors) or weights.groups
    given = ["--data", path, "--formula", f"pv1 ~ {right}", "--weights", ROWS, "--scaling", scaling]
    given += ["--group-weights", groups, "--method", "ml"]
    status, text, err = run(capsys, "reml", *given, "--conventions", "--json", out)
    assert status == 0, err
    content = json.loads(out.read_text())
    oracle = build(table, model, scaling=scaling)
    assert content["model"]["n"] == sum(len(unit.y) for unit in oracle.units)
    assert content["model"]["dropped_rows"] == len(table) - content["model"]["n"]
    check(read_table(content["reml"]), oracle)
    assert "effective sample size" in " ".join(text.split())


def break_weights(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return a table with weights that nobody can take."""
    first = table["school"] == table["school"].iloc[0]
    if kind == "zero pupil":
        return table.assign(w_student=table["w_student"].where(table.index != 5, 0.0))
    if kind == "zero school":
        return table.assign(w_school=table["w_school"].where(~first, 0.0))
    if kind == "negative":
        return table.assign(w_student=-table["w_student"])
    if kind == "differ in a school":
        return table.assign(w_school=table["w_school"] * np.where(table.index == 0, 2.0, 1.0))
    if kind == "infinite":
        return table.assign(w_student=table["w_student"].where(table.index != 5, np.inf))
    if kind == "none":
        return table.assign(w_school=np.nan)
    assert kind == "text", kind
    return table.assign(w_school="heavy")


@pytest.mark.parametrize(
    "kind",
    ["zero pupil", "zero school", "negative", "differ in a school", "infinite", "none", "text"],
)
@pytest.mark.parametrize("model", ["two levels", "three levels"])
@pytest.mark.parametrize("command", [False, True])
def test_weights_that_cannot_be_are_told_in_one_line(kind, model, command, capsys, tmp_path):
    table = break_weights(carve("plain"), kind)
    right, weights, _ = describe(model, scaling="size")
    if command:
        path = tmp_path / "pupils.csv"
        table.to_csv(path, index=False)
        groups = "; ".join(f"{name}={text}" for name, text in weights.factors) or weights.groups
        given = ["--data", path, "--formula", f"pv1 ~ {right}", "--weights", ROWS]
        status, _, told = run(
            capsys, "reml", *given, "--group-weights", groups, "--scaling", "size", "--method", "ml"
        )
        assert status == 2
        told = told.rstrip("\n")
    else:
        with pytest.raises(BhlmError) as error:
            bhlm.Model(f"pv1 ~ {right}", table, weights=weights).reml(method="ml")
        told = str(error.value)
    assert "\n" not in told
    assert "w_s" in told or "school" in told


GLMMTMB = json.loads(
    (Path(__file__).parents[1] / "reference" / "survey" / "pseudo.json").read_text()
)
# Where its search stops: of log-likelihoods of -20,000 and -100,000, and relative to the largest
# estimate of a kind. Some of its fits end singular, or say so.
LOGLIK, STOPPED = 1e-5, 1e-4
RIGHT = {
    "null": "1 + (1 | SCHOOLID)",
    "levels": "OPENPS + PCGIRLS + (1 | SCHOOLID)",
    "slope": "OPENPS + (OPENPS | SCHOOLID)",
    "nested": "OPENPS + (1 | SCHOOLID/ST04Q01)",
}


@pytest.mark.parametrize("case", [name for name in GLMMTMB if name != "glmmTMB"])
def test_weights_of_rows_are_glmmtmbs(case):
    model, weights = case.split()
    table = bhlm.load_dataset("pisa_nz").dropna(subset=["OPENPS", "PCGIRLS"])
    table["w"] = table["W_FSTUWT"] / table["W_FSCHWT"]
    by = table.groupby("SCHOOLID")["w"]
    table["size"] = table["w"] * by.transform("size") / by.transform("sum")
    given = bhlm.SamplingWeights(rows=weights)
    fit = bhlm.Model(f"PV1MATH ~ {RIGHT[model]}", table, weights=given).reml(method="ml")
    expected = GLMMTMB[case]
    assert -1e-7 < fit.loglik - expected["loglik"] < LOGLIK
    np.testing.assert_allclose(fit.beta, expected["beta"], 0, STOPPED * np.abs(fit.beta).max())
    assert fit.sigma2 == pytest.approx(expected["sigma2"], rel=STOPPED)
    gs = sorted(expected["g"].items(), key=lambda pair: "sex" in pair[0])
    for part, (_, g) in zip(fit.parts, gs, strict=True):
        np.testing.assert_allclose(part.g, g, 0, STOPPED * np.abs(part.g).max())


def test_a_zone_of_one_school_adds_nothing_to_jackknife_errors():
    """Its replicate is the whole sample: nobody is left out and nobody counts twice."""
    table = carve("plain")
    zone = table["school"].rank(method="dense").astype(int) // 2
    half = table.groupby(zone)["school"].rank(method="dense")
    names = []
    for at in range(0, zone.max(), 3):
        alone = table.loc[zone == at, "school"].nunique() == 1
        times = 1.0 if alone else 2.0 * (half[zone == at] == 1)
        names.append(f"r{at}")
        table[names[-1]] = table["w_school"]
        table.loc[zone == at, names[-1]] = table["w_school"] * times
    right, weights, _ = describe("two levels", scaling="size")
    model = bhlm.Model(f"pv1 ~ {right}", table, weights=weights)
    all_zones, others = (
        model.reml(method="ml", errors=bhlm.ReplicateWeights(groups=each, method="JK2"))
        for each in (names, names[1:])
    )
    assert (table["r0"] == table["w_school"]).all()
    np.testing.assert_allclose(
        all_zones.estimates["se"].to_numpy(float), others.estimates["se"].to_numpy(float), 1e-7
    )
    assert all_zones.estimates["se"]["Intercept"] > 0
