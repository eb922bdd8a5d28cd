"""Residual variances by stratum: nlme's varIdent, one stratum, and what is refused."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from command_line import run

import bhlm
from bhlm.errors import ArgumentError, DataError, FormulaError
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.whitening import whiten, whiten_parts
from bhlm.reml.optimize import maximize, unwhiten_loglik
from bhlm.reml.strata import score_ratios

FOUND = json.loads((Path(__file__).parents[1] / "reference" / "survey" / "survey.json").read_text())
ORTHODONT = "distance ~ C(Sex, Treatment('Male')) * I(age - 11) + (I(age - 11) | Subject)"
# Searches of a second and more.
LONG = ("orthodont_ml", "body_weight", "ergo")
CASES = {
    "orthodont_reml": ("orthodont", ORTHODONT, "Sex", "reml"),
    "orthodont_ml": ("orthodont", ORTHODONT, "Sex", "ml"),
    "body_weight": ("body_weight", "weight ~ Time * C(Diet) + (1 | Rat)", "Diet", "reml"),
    "ergo": ("ergo_stool", "effort ~ Type + (1 | Subject)", "Type", "reml"),
}
SAME = 1e-6  # of log-likelihoods
# nlme's search stops where the log-likelihood changes by 1e-10 or so.
RATIO = 2e-4


def fit(data: str, formula: str, residual: str, method: str) -> bhlm.RemlFit:
    return bhlm.Model(formula, bhlm.load_dataset(data), residual=residual).reml(method=method)


@pytest.fixture(scope="module")
def orthodont():
    return fit(*CASES["orthodont_reml"])


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in LONG else case for case in CASES]
)
def test_nlme_agrees(case, orthodont):
    found = orthodont if case == "orthodont_reml" else fit(*CASES[case])
    theirs = FOUND[case]
    assert found.converged
    assert found.loglik == pytest.approx(theirs["loglik"], abs=SAME)
    assert found.common.loglik == pytest.approx(theirs["plain"], abs=SAME)
    variances = found.residual_variances
    for level, ratio in theirs["ratios"].items():
        own = {str(name): value for name, value in variances.items()}[level]
        assert np.sqrt(own) == pytest.approx(theirs["sigma"] * ratio, RATIO)
    se = found.estimates["se"].iloc[: len(found.at.beta)]
    # nlme's REML and its ML divide by other numbers of rows.
    if found.method == "reml":
        np.testing.assert_allclose(sorted(se), sorted(theirs["se"]), RATIO)


def test_a_search_that_does_not_end_says_what_to_do():
    table = bhlm.load_dataset("rail").assign(s=lambda t: [i % 2 for i in range(len(t))])
    table["travel"] += 1e13
    found = bhlm.Model("travel ~ 1 + (1 | Rail)", table, residual="s").reml()
    assert not found.converged
    assert "'travel' is about 1e+13 throughout" in found.advice
    assert f"FAILED: {found.advice}" in found.summary()


def test_the_printed_ratio_is_of_two_codings(orthodont):
    """The book prints LR = 23.8, and the models differ by 21.06.

    Of the two fits that are compared one was made under nlme's scripts' Helmert coding of Sex, -1
    and 1, the other under treatment coding, 0 and 1. A restricted likelihood depends on the units
    of X: columns of Sex and of its interaction that are twice as long take 2 log 2 off it, and so
    add 4 log 2 = 2.77 to the ratio.
    """
    table = bhlm.load_dataset("orthodont")
    table["s"] = np.where(table["Sex"] == "Female", 1.0, -1.0)
    formula = "distance ~ s * I(age - 11) + (I(age - 11) | Subject)"
    helmert = bhlm.Model(formula, table).reml()
    assert orthodont.common.loglik - helmert.loglik == pytest.approx(2.0 * np.log(2.0), rel=1e-6)
    assert f"{2.0 * (orthodont.loglik - helmert.loglik):.1f}" == "23.8"
    assert f"{orthodont.test_homogeneity()['chi2']:.2f}" == "21.06"


def test_printed_values(orthodont):
    rows = orthodont.estimates["estimate"]
    printed = {
        "sd(Intercept|Subject)": "1.855",
        "corr(Intercept,I(age - 11)|Subject)": "0.394",
        "sd(Residual|Sex=Male)": "1.630",
        "Intercept": "24.969",
        "I(age - 11)": "0.784",
    }
    assert {name: f"{rows[name]:.3f}" for name in printed} == printed
    assert f"{rows['sd(I(age - 11)|Subject)']:.3f}" == "0.157"
    ratio = rows["sd(Residual|Sex=Female)"] / rows["sd(Residual|Sex=Male)"]
    assert f"{ratio:.3f}" == "0.409"


def test_one_stratum_changes_nothing():
    table = bhlm.load_dataset("orthodont").assign(one=1)
    formula = "distance ~ age + (1 | Subject)"
    found = bhlm.Model(formula, table, residual="one").reml()
    plain = bhlm.Model(formula, table).reml()
    assert found.loglik == pytest.approx(plain.loglik, rel=1e-12)
    np.testing.assert_allclose(
        found.estimates.to_numpy(float), plain.estimates.to_numpy(float), 1e-6
    )


def test_what_the_fit_tells(orthodont):
    test = orthodont.test_homogeneity()
    assert test["df"] == 1
    assert test["chi2"] == pytest.approx(2 * (orthodont.loglik - orthodont.common.loglik))
    assert "LR test of one residual variance: chi2(1) = 21.06" in orthodont.summary()
    assert "2 strata by 'Sex'" in repr(
        bhlm.Model(ORTHODONT, bhlm.load_dataset("orthodont"), residual="Sex")
    )
    assert len(orthodont.group_effects()) == 54


def test_what_is_not_there_is_refused(orthodont):
    table = bhlm.load_dataset("orthodont")
    formula = "distance ~ age + (1 | Subject)"
    with pytest.raises(ArgumentError, match=r"fit\.profile is not there yet with residual='Sex'"):
        orthodont.profile()
    with pytest.raises(DataError, match="no column 'sex'; did you mean 'Sex'"):
        bhlm.Model(formula, table, residual="sex")
    with pytest.raises(FormulaError, match="compute that column first"):
        bhlm.Model("distance ~ cwc(age) + (1 | Subject)", table, residual="Sex")
    with pytest.raises(ArgumentError, match="not there yet with weights"):
        bhlm.Model(formula, table, residual="Sex", weights="age")
    with pytest.raises(ArgumentError, match="is not there with residual='Sex'"):
        bhlm.Model(formula, table, residual="Sex").moments.n  # noqa: B018
    with pytest.raises(DataError, match="has 108 levels"):
        bhlm.Model(formula, table.assign(row=range(108)), residual="row")


@pytest.fixture(scope="module")
def coded() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "y": rng.normal(size=60)})
    table["s"] = np.array(["01", "1", None], dtype=object)[np.arange(60) % 3]
    table.loc[3, "y"] = np.nan
    return table


@pytest.mark.parametrize("route", ["pandas", "polars", "CSV", "CSV with a limit", "Parquet"])
def test_strata_are_labels_and_rows_without_one_are_counted(coded, route, tmp_path):
    coded.to_csv(tmp_path / "t.csv", index=False)
    coded.to_parquet(tmp_path / "t.parquet")
    data = {
        "pandas": coded,
        "polars": pl.from_pandas(coded),
        "CSV": tmp_path / "t.csv",
        "CSV with a limit": bhlm.open_table(
            tmp_path / "t.csv", memory_limit="100MB", labels=["g", "s"]
        ),
        "Parquet": tmp_path / "t.parquet",
    }[route]
    model = bhlm.Model("y ~ 1 + (1 | g)", data, residual="s")
    assert sorted(model.strata.levels) == ["01", "1"]
    used = "39 of 60 rows used, 21 dropped for missing values (s 20, y 1)"
    assert used in repr(model)
    assert used in model.reml().summary()


def test_the_command_line_reads_strata_as_labels(coded, tmp_path, capsys):
    coded.to_csv(tmp_path / "t.csv", index=False)
    asked = ["--data", tmp_path / "t.csv", "--formula", "y ~ 1 + (1 | g)", "--residual", "s"]
    _, out, _ = run(capsys, "reml", *asked)
    assert "var(Residual|s=01)" in out
    assert "var(Residual|s=1)" in out


def test_strata_of_mixed_types_are_refused(coded):
    mixed = coded.assign(s=[1, "1"] * 30)
    with pytest.raises(DataError, match="residual='s' mixes int and str; make all of them text"):
        bhlm.Model("y ~ 1 + (1 | g)", mixed, residual="s")


@pytest.mark.parametrize("case", ["orthodont_reml", "orthodont_ml", "body_weight"])
def test_slopes_by_the_ratios_are_those_of_differences(case):
    data, formula, residual, method = CASES[case]
    strata = bhlm.Model(formula, bhlm.load_dataset(data), residual=residual).strata
    restricted, structure = method == "reml", arrange(strata.whole, None)
    ratios = np.linspace(0.0, 0.6, len(strata.parts))

    def visit(ratios):
        moments = strata.weigh(ratios)
        white = whiten(moments, structure)
        optimum = maximize(white, structure, restricted=restricted)
        value = unwhiten_loglik(optimum.criterion.value, white, restricted)
        parts = whiten_parts(strata, moments, structure)
        return value, score_ratios(white, optimum, parts, np.exp(-2.0 * ratios)) - strata.n

    steps = 1e-4 * np.eye(len(ratios))
    differences = [(visit(ratios + h)[0] - visit(ratios - h)[0]) / 2e-4 for h in steps]
    np.testing.assert_allclose(visit(ratios)[1], differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_strata", [12, pytest.param(49, marks=pytest.mark.slow)])
def test_strata_of_hardly_more_rows_than_there_are_end_in_time(n_strata):
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(12), 5)
    table = pd.DataFrame({"g": group, "x": rng.normal(size=60)})
    table["y"] = 1.0 + table["x"] + rng.normal(size=12)[group] + rng.normal(size=60)
    table["s"] = np.append(np.arange(49), rng.integers(0, 49, 11)) % n_strata
    start = time.process_time()
    # The only row or two of a stratum can be fitted without error.
    with pytest.raises(ArgumentError, match=r"a stratum of 's' \(.*\) goes to zero"):
        bhlm.Model("y ~ x + (1 | g)", table, residual="s").reml()
    # Differences of the likelihood took 6 s for ten strata, and no end for 49.
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize("name", ["a:b", "é", "1", "C(x)", "x|g", "{{x}}", "__index__", "a`b", " "])
def test_strata_may_be_called_anything(name):
    table = bhlm.load_dataset("orthodont")
    expected = bhlm.Model("distance ~ age + (1 | Subject)", table, residual="Sex").reml()
    other = bhlm.Model(
        "distance ~ age + (1 | Subject)", table.rename(columns={"Sex": name}), residual=name
    ).reml()
    assert other.loglik == expected.loglik
    assert list(other.residual_variances.values()) == list(expected.residual_variances.values())
    with pytest.raises(DataError, match="residual='' is not the name of a column"):
        bhlm.Model("distance ~ age + (1 | Subject)", table, residual="")
