"""Families with nested factors: the maximum, its errors, effects, tests and predictions."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from bhlm.errors import ArgumentError, DataError, IdentifiabilityError
from bhlm.fits.family_levels_fit import FamilyLevelsFit
from bhlm.fits.model import Model
from bhlm.likelihood.nested_families import NestIntegrator

pytestmark = pytest.mark.wide

FORMULA = "y ~ x + (1 | school/class)"
# Of a normal density times probabilities, whose trapezoidal rule is exact to 1e-16 with this gap.
GAP = 0.4
LINE = np.arange(-9.0, 9.1, GAP)
LOGS = -0.5 * LINE**2 + np.log(GAP / np.sqrt(2.0 * np.pi))


def draw(*, schools: int = 14, sds: tuple[float, float] = (0.8, 0.9), seed: int = 4):
    """Return zeros and ones of 8 rows in each of 3 classes of so many schools."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        list(itertools.product(range(schools), "abc", range(8))), columns=["school", "class", "row"]
    )
    table["x"] = (table["row"] % 2).astype(float)
    classes = table.groupby(["school", "class"]).ngroup()
    eta = -0.4 + 0.7 * table["x"]
    eta += sds[0] * rng.normal(size=schools)[table["school"]]
    eta += sds[1] * rng.normal(size=3 * schools)[classes]
    table["y"] = rng.binomial(1, expit(eta))
    return table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return draw()


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> Model:
    return Model(FORMULA, table, family="bernoulli")


@pytest.fixture(scope="module")
def fit(model: Model) -> FamilyLevelsFit:
    found = model.ml()
    assert isinstance(found, FamilyLevelsFit)
    return found


def sum_schools(table: pd.DataFrame, point: np.ndarray) -> np.ndarray:
    """Return each school's log-likelihood at (intercept, slope, two SDs), by dense quadrature."""
    counts = table.groupby(["school", "class", "x"])["y"].agg(["sum", "size"]).to_numpy()
    counts = counts.reshape(table["school"].nunique(), -1, 2, 2)  # school, class, x, (y, n)
    u = point[2] * LINE[:, None] + point[3] * LINE
    eta = point[0] + point[1] * np.arange(2.0)[:, None, None] + u
    inner = np.einsum("scx,xab->scab", counts[..., 0], eta)
    inner -= np.einsum("scx,xab->scab", counts[..., 1], np.logaddexp(0.0, eta))
    return logsumexp(logsumexp(inner + LOGS, axis=-1).sum(axis=1) + LOGS, axis=-1)


def test_the_maximum_and_its_errors_are_those_of_dense_quadrature(
    table: pd.DataFrame, fit: FamilyLevelsFit
) -> None:
    own = fit.estimates["estimate"]
    names = ["Intercept", "x", "sd(Intercept|school)", "sd(Intercept|school:class)"]
    point = own[names].to_numpy()
    assert fit.loglik == pytest.approx(sum_schools(table, point).sum(), abs=1e-9)
    assert fit.error is not None
    assert fit.error < 1e-8

    def value(at: np.ndarray) -> float:
        return -float(sum_schools(table, at).sum())

    best = minimize(value, point + 0.05, method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(point, best, atol=2e-6)
    eye = 1e-3 * np.eye(4)
    hessian = np.array(
        [
            [
                (value(point + a + b) - value(point + a - b) - value(point - a + b))
                + value(point - a - b)
                for a in eye
            ]
            for b in eye
        ]
    ) / (4.0 * 1e-6)
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    np.testing.assert_allclose(fit.estimates.loc[names, "se"], errors, rtol=1e-5)
    # The scores of schools, about the inverse information.
    scores = np.array(
        [(sum_schools(table, point + a) - sum_schools(table, point - a)) / 2e-3 for a in eye]
    )
    inverse = np.linalg.inv(hessian)
    robust = np.sqrt(np.diag(inverse @ scores @ scores.T @ inverse))[:2]
    np.testing.assert_allclose(fit.fixed_effects(method="cr0")["se"], robust, rtol=1e-4)
    larger = fit.fixed_effects(method="cr1")["se"]
    np.testing.assert_allclose(larger, robust * np.sqrt(14 / 13), rtol=1e-4)


def test_other_ways_to_write_the_factors_and_the_rows_change_no_effect(
    table: pd.DataFrame, fit: FamilyLevelsFit
) -> None:
    shuffled = table.sample(frac=1.0, random_state=1)
    shuffled["class"] = shuffled["school"].astype(str) + shuffled["class"]
    other = Model("y ~ x + (1 | class) + (1 | school)", shuffled, family="bernoulli").ml()
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-8)
    one = fit.group_effects("school:class").sort_values(["school", "class"])
    two = other.group_effects("class").sort_values("class", key=lambda c: c.str.zfill(3))
    np.testing.assert_allclose(one["estimate"], two["estimate"], atol=1e-6)
    np.testing.assert_allclose(one["sd"], two["sd"], atol=1e-6)
    icc = fit.icc()
    variances = icc["variance"].to_numpy()
    assert variances[2] == pytest.approx(np.pi**2 / 3.0)
    np.testing.assert_allclose(
        icc["icc"].iloc[:2], np.cumsum(variances[:2]) / variances.sum(), rtol=1e-12
    )


def test_a_variance_of_zero_is_told_and_leaves_the_model_of_one_factor() -> None:
    # Classes that are alike: of 8 rows each has four successes, or as the school has them.
    table = draw(sds=(1.0, 0.0), seed=8)
    table["y"] = table.groupby(["school", "row"])["y"].transform("first")
    found = Model(FORMULA, table, family="bernoulli").ml()
    alone = Model("y ~ x + (1 | school)", table, family="bernoulli").ml()
    assert found.converged
    assert found.singular
    assert "var(Intercept|school:class) = 0" in found.advice
    assert found.loglik == pytest.approx(alone.loglik, abs=1e-8)
    assert np.isnan(found.estimates.loc["var(Intercept|school:class)", "se"])
    assert found.estimates.loc["x", "se"] == pytest.approx(alone.estimates.loc["x", "se"], rel=1e-6)
    assert "var(Intercept|school:class) = 0" in found.summary()
    test = found.test_variances(factor="school:class")
    assert (test.chi2, test.p) == (0.0, 1.0)


def test_variances_are_tested_against_the_models_without_them(
    table: pd.DataFrame, fit: FamilyLevelsFit
) -> None:
    for factor, left in (("school:class", "(1 | school)"), ("school", "(1 | school:class)")):
        rows = table.assign(**{"school:class": table["school"].astype(str) + table["class"]})
        formula = f"y ~ x + {left}".replace("school:class", "unit")
        less = Model(formula, rows.rename(columns={"school:class": "unit"}), family="bernoulli")
        test = fit.test_variances(factor=factor)
        assert test.chi2 == pytest.approx(2.0 * (fit.loglik - less.ml().loglik), abs=1e-7)
        assert test.weights == (0.5, 0.5)


def test_predictions_are_posterior_means(
    table: pd.DataFrame, model: Model, fit: FamilyLevelsFit
) -> None:
    point = fit.estimates["estimate"]
    beta, sds = fit.beta, [point[f"sd(Intercept|{name})"] for name in ("school", "school:class")]
    new = pd.DataFrame({"school": [2, 2], "class": ["b", "z"], "x": [1.0, 1.0]})
    found = model.predict(fit, new, new_groups="population")
    school = table[table["school"] == 2]
    logs, inner = LOGS.copy(), {}
    for name, own in school.groupby("class"):
        eta = sds[0] * LINE[:, None] + sds[1] * LINE
        each = np.repeat(LOGS[None], len(LINE), axis=0)
        for x, y in zip(own["x"], own["y"], strict=True):
            mean = beta[0] + beta[1] * x + eta
            each = each + y * mean - np.logaddexp(0.0, mean)
        inner[name] = each
        logs += logsumexp(each, axis=1)
    outer = np.exp(logs - logsumexp(logs))
    mean = expit(beta.sum() + sds[0] * LINE[:, None] + sds[1] * LINE)
    known = np.exp(inner["b"] - logsumexp(inner["b"], axis=1)[:, None])
    np.testing.assert_allclose(
        found["estimate"],
        [outer @ (known * mean).sum(axis=1), outer @ (mean @ np.exp(LOGS))],
        atol=1e-8,
    )
    link = model.predict(fit, new, new_groups="population", scale="link")
    u = sds[0] * LINE[:, None] + sds[1] * LINE
    first = outer @ (known * u).sum(axis=1)
    second = outer @ (known * u**2).sum(axis=1)
    assert link["estimate"].iloc[0] == pytest.approx(beta.sum() + first, abs=1e-8)
    own = np.ones(2) @ fit.beta_cov @ np.ones(2)
    assert link["se"].iloc[0] == pytest.approx(np.sqrt(own + second - first**2), abs=1e-7)
    with pytest.raises(DataError, match="has not seen"):
        model.predict(fit, new)
    rows = model.predict(fit)
    assert len(rows) == len(table)
    assert rows["estimate"].mean() == pytest.approx(table["y"].mean(), abs=0.01)


def test_a_unit_in_another_parent_is_told(table: pd.DataFrame) -> None:
    rows = table.assign(unit=table["school"] * 10 + table["class"].map(ord) - ord("a"))
    model = Model("y ~ x + (1 | school) + (1 | unit)", rows, family="bernoulli")
    new = pd.DataFrame({"school": [2], "unit": [31], "x": [0.0]})
    with pytest.raises(DataError, match="1 row has a 'unit' in another 'school'"):
        model.predict(model.ml(), new)


def test_every_style_says_how_well_the_likelihood_is_known(fit: FamilyLevelsFit) -> None:
    for text in (repr(fit), fit.summary(), fit.summary(style="lme4")):
        assert "ntegrated to an error of" in text
        assert "Laplace" not in text
    with pytest.raises(ArgumentError, match="integrated to an error"):
        fit.measure_error()


def test_other_numbers_of_nodes_are_refused(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"nagq=7 is not there .* as each unit of nested ones"):
        model.ml(nagq=7)


def test_from_a_file_to_json_by_one_command(
    table: pd.DataFrame, fit: FamilyLevelsFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "out.json"
    how = ["ml", "--data", tmp_path / "rows.csv", "--formula", FORMULA, "--family", "bernoulli"]
    status, text, _ = run(capsys, *how, "--json", out)
    assert status == 0
    assert "Integrated to an error of" in text
    told = json.loads(out.read_text())
    assert told["ml"]["loglik"] == pytest.approx(fit.loglik, abs=1e-8)
    assert told["ml"]["integration"]["error"] < 1e-8
    assert told["ml"]["integration"]["label"].startswith("integrated to an error of")
    assert told["model"]["groups"] == {"school": 14, "school:class": 42}


def test_labels_that_may_be_nested_are_told(table: pd.DataFrame) -> None:
    rows = table.rename(columns={"class": "room"})
    crossed = Model("y ~ x + (1 | school) + (1 | room)", rows, family="bernoulli").ml()
    told = " ".join(crossed.summary().split())
    assert "write (... | school/room)" in told
    assert "Laplace approximation" in told


def test_laplace_is_told_and_is_another_answer(model: Model, fit: FamilyLevelsFit) -> None:
    other = model.ml(nagq=1)
    assert other.error is None
    assert "Laplace" in other.summary()
    name = "var(Intercept|school:class)"
    assert other.estimates.loc[name, "estimate"] < fit.estimates.loc[name, "estimate"] - 0.01


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("y ~ x + (1 | school) + (1 | row)", None),
        ("y ~ 1 + (1 + x + z | school) + (1 + x | school:class)", "5 random coefficients"),
    ],
)
def test_what_is_not_integrated_is_told(
    table: pd.DataFrame, formula: str, words: str | None
) -> None:
    rows = table.assign(z=np.arange(len(table)) % 5 / 5.0)
    model = Model(formula, rows, family="bernoulli")
    if words is None:
        assert "Laplace approximation" in model.ml().summary()
        return
    with pytest.raises(ArgumentError, match=words):
        model.ml()


def test_data_without_a_maximum_are_refused(table: pd.DataFrame) -> None:
    first = table.groupby(["school", "class"], as_index=False).first()
    with pytest.raises(
        IdentifiabilityError, match="'school:class' has a level for each of the 42 rows"
    ):
        Model(FORMULA, first, family="bernoulli").ml()
    with pytest.raises(IdentifiabilityError, match="separation"):
        Model(FORMULA, table.assign(x=table["y"] * 2.0), family="bernoulli").ml()
    alike = table.assign(y=(table["school"] % 2).astype(int))
    with pytest.raises(IdentifiabilityError, match="successes alone or failures alone"):
        Model(FORMULA, alike, family="bernoulli").ml()
    same = table.assign(other=table["school"])
    with pytest.raises(IdentifiabilityError, match="into the same 14 groups"):
        Model("y ~ x + (1 | school) + (1 | other)", same, family="bernoulli").ml()


@pytest.mark.slow
def test_four_levels_and_slopes_are_fitted() -> None:
    rng = np.random.default_rng(2)
    n = 1200
    rows = pd.DataFrame({"a": np.arange(n) // 100, "b": np.arange(n) // 25, "c": np.arange(n) // 5})
    rows["x"] = (np.arange(n) % 5 > 2).astype(float)
    size = {"a": 0.7, "b": 0.6, "c": 0.5}
    eta = sum(sd * rng.normal(size=n)[rows[name]] for name, sd in size.items())
    rows["y"] = rng.poisson(np.exp(0.3 + 0.4 * rows["x"] + eta))
    deep = Model("y ~ x + (1 | a/b/c)", rows, family="poisson").ml()
    assert deep.converged
    assert deep.error < 1e-8
    for name, sd in zip(("a", "a:b", "a:b:c"), size.values(), strict=True):
        assert deep.estimates.loc[f"sd(Intercept|{name})", "estimate"] == pytest.approx(sd, abs=0.3)
    sloped = Model("y ~ x + (1 + x | a) + (1 | c)", rows, family="poisson").ml()
    assert sloped.converged
    assert sloped.error < 1e-8


def test_integrals_without_digits_are_refused(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    def lose(self, beta, lams, at):
        return at._replace(loglik=-np.inf), np.inf

    monkeypatch.setattr(NestIntegrator, "measure_error", lose)
    with pytest.raises(DataError, match=r"up to 4; take nagq=1, Laplace's approximation$"):
        model.ml()


@pytest.mark.parametrize("random", ["(1 | {})", "(x | {})", "(x || {})"])
def test_a_factor_of_two_columns_alone_is_one_of_their_labels(
    random: str, table: pd.DataFrame
) -> None:
    """As `(1 | school:class)` without `(1 | school)`: estimates, errors, effects and tests."""
    labelled = table.assign(both=table["school"].astype(str) + ":" + table["class"])
    one, other = (
        Model(f"y ~ x + {random.format(name)}", labelled, family="bernoulli").ml()
        for name in ("both", "school:class")
    )
    assert other.converged
    assert other.loglik == pytest.approx(one.loglik, abs=1e-9)
    np.testing.assert_allclose(other.estimates["estimate"], one.estimates["estimate"], atol=1e-6)
    np.testing.assert_allclose(other.estimates["se"], one.estimates["se"], rtol=1e-5)
    assert other.lr_test["p"] == pytest.approx(one.lr_test["p"], rel=1e-6)
    columns, order = ["estimate", "sd"], ["label", "coefficient"]
    wanted = one.group_effects().rename(columns={"both": "label"}).sort_values(order)
    found = other.group_effects().rename(columns={"level": "label"}).sort_values(order)
    np.testing.assert_allclose(found[columns], wanted[columns], atol=1e-6)


def test_nodes_of_a_factor_of_two_columns_are_refused_by_its_name(table: pd.DataFrame) -> None:
    model = Model("y ~ x + (1 | school:class)", table, family="bernoulli")
    with pytest.raises(ArgumentError, match=r"'school:class'.*make one column of them"):
        model.ml(nagq=7)
