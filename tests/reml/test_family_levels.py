"""Families with several factors by Laplace's approximation: lme4's values, labels, boundaries."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import check_refusal, run

import bhlm
from bhlm.errors import ArgumentError, BhlmError, DataError, IdentifiabilityError
from bhlm.fits.family_levels_fit import FamilyLevelsFit
from bhlm.fits.model import Model

FOLDER = Path(__file__).parents[1] / "reference" / "families"
# glmer stops within this of the maximum of its log-likelihood, and its estimates within this of
# theirs; its standard errors are by differences of the deviance.
LOGLIK, ESTIMATE, ERROR = 1e-7, 1e-4, 2e-3
LABEL = "Laplace approximation"
CASES = {
    "verbs": "y ~ Anger + C(Gender) + C(btype) + C(situ) + (1 | id) + (1 | item)",
    "slopes": "y ~ C(btype) + C(situ) + (situ | id) + (1 | item)",
    "ticks": "TICKS ~ C(YEAR) + h + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
    "cbpp": "incidence / size ~ C(period) + (1 | herd) + (1 | obs)",
    "crossed": "incidence / size ~ 1 + (1 | period) + (1 | herd)",
}
SLOW = {"verbs", "slopes"}


@cache
def load(case: str) -> pd.DataFrame:
    if case == "ticks":
        return pd.read_csv(FOLDER / "grouseticks.csv")
    if case in SLOW:
        return pd.read_csv(FOLDER / "verb_agg.csv.gz")
    table = bhlm.load_dataset("cbpp")
    return table.assign(obs=np.arange(len(table)) + 1)


@cache
def fit_case(case: str) -> FamilyLevelsFit:
    family = {"ticks": "poisson", "verbs": "bernoulli", "slopes": "bernoulli"}
    found = Model(CASES[case], load(case), family=family.get(case, "binomial")).ml(nagq=1)
    assert isinstance(found, FamilyLevelsFit)
    return found


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.wide) if c in SLOW else c for c in CASES]
)
def test_lme4_agrees(case: str) -> None:
    wanted = json.loads((FOLDER / "laplace_lme4.json").read_text())[case]
    fit = fit_case(case)
    assert fit.converged
    assert fit.loglik == pytest.approx(wanted["loglik"], abs=LOGLIK)
    assert fit.loglik > wanted["loglik"] - 1e-8
    np.testing.assert_allclose(fit.beta, wanted["beta"], rtol=ESTIMATE, atol=ESTIMATE * 0.05)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.beta_cov)), wanted["se"], rtol=ERROR)
    names = fit.estimates["estimate"]
    spread = dict(zip(map(str, wanted["groups"]), wanted["sdcor"], strict=True))
    if case == "slopes":
        first, middle, second, item = wanted["sdcor"]
        got = [names[f"{each}|id)"] for each in ("sd(Intercept", "sd(situ[self]")]
        np.testing.assert_allclose(got, [first, second], rtol=ESTIMATE)
        assert names["corr(Intercept,situ[self]|id)"] == pytest.approx(middle, rel=ESTIMATE)
        assert names["sd(Intercept|item)"] == pytest.approx(item, rel=ESTIMATE)
    else:
        for group, sd in spread.items():
            assert names[f"sd(Intercept|{group})"] == pytest.approx(sd, rel=ESTIMATE)
    effects = fit.group_effects(wanted["factor"])
    effects = effects[effects["coefficient"] == "Intercept"].head(5)
    np.testing.assert_allclose(effects["estimate"], wanted["modes"], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(effects["sd"], wanted["sds"], rtol=1e-3)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_one_factor_is_laplace_with_one_node(link: str) -> None:
    """A second factor without variance leaves what `nagq=1` of one factor is."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"g": np.repeat(np.arange(30), 12), "x": rng.integers(0, 3, 360)})
    # The second factor's labels balance the responses: its variance is zero.
    effect = rng.normal(0.0, 1.0, 30)[table["g"]]
    table["y"] = rng.binomial(1, 1.0 / (1.0 + np.exp(-0.3 * table["x"] - effect)))
    table = table.sort_values(["y", "x"], ignore_index=True)
    table["h"] = np.arange(360) % 6
    one = Model("y ~ x + (1 | g)", table, family="bernoulli", link=link).ml(nagq=1)
    two = Model("y ~ x + (1 | g) + (1 | h)", table, family="bernoulli", link=link).ml(nagq=1)
    assert two.singular
    assert "var(Intercept|h) = 0" in two.advice
    assert two.loglik == pytest.approx(one.loglik, abs=1e-6)
    assert np.isnan(two.estimates.loc["var(Intercept|h)", "se"])
    np.testing.assert_allclose(two.beta, one.beta, rtol=1e-4)


def test_the_order_of_factors_and_rows_is_no_matter() -> None:
    first = fit_case("crossed")
    table = load("crossed").iloc[::-1]
    other = Model("incidence / size ~ 1 + (1 | herd) + (1 | period)", table, family="binomial").ml()
    assert other.loglik == pytest.approx(first.loglik, abs=1e-9)
    one, two = (fit.estimates["estimate"].sort_index() for fit in (first, other))
    pd.testing.assert_series_equal(one, two, rtol=1e-6)


def test_recoding_a_column_changes_nothing_else() -> None:
    table = load("ticks").assign(far=lambda t: (t["h"] + 2000.0) / 7.0)
    moved = CASES["ticks"].replace(" h ", " far ")
    one, two = fit_case("ticks"), Model(moved, table, family="poisson").ml(nagq=1)
    assert two.loglik == pytest.approx(one.loglik, abs=1e-8)
    assert two.estimates.loc["far", "estimate"] == pytest.approx(
        7.0 * one.estimates.loc["h", "estimate"], rel=1e-5
    )


@pytest.mark.parametrize("case", ["cbpp", "crossed", "ticks"])
@pytest.mark.parametrize("style", ["stata", "lme4"])
def test_every_output_has_the_label(case: str, style: str) -> None:
    fit = fit_case(case)
    for text in (fit.summary(style=style), repr(fit), fit._repr_html_()):
        assert LABEL.lower() in " ".join(text.split()).lower()
    assert "is not known" in " ".join(fit.summary(style=style).split())


def test_the_label_tells_the_error_where_draws_tell_it() -> None:
    told = " ".join(repr(fit_case("crossed")).split())
    found = fit_case("crossed").measure_error()
    assert found.effective > 0.9 * found.draws
    assert f"is {found.difference:.2g} (Monte Carlo error {found.mcse:.1g}) above it" in told
    again = fit_case("crossed").measure_error(draws=3000, seed=4)
    assert abs(again.difference - found.difference) < 5.0 * found.mcse
    assert "too few to tell it" in " ".join(repr(fit_case("ticks")).split())


def test_shares_of_the_latent_variance() -> None:
    fit = fit_case("crossed")
    table, latent = fit.icc(), np.pi**2 / 3.0
    variances = [float(g[0, 0]) for g in fit.gs]
    total = sum(variances) + latent
    np.testing.assert_allclose(table["variance"], [*variances, latent])
    np.testing.assert_allclose(table["icc"][:2], np.array(variances) / total)
    nested = fit_case("cbpp").icc()  # every observation is of one herd
    assert nested.loc["obs", "icc"] == pytest.approx(nested["share"].iloc[:2].sum())
    assert nested.loc["herd", "icc"] == pytest.approx(nested.loc["herd", "share"])
    assert np.isnan(fit_case("ticks").icc()["share"]).all()  # counts have no latent scale


def test_tests_of_variances_and_effects() -> None:
    fit = fit_case("cbpp")
    below = Model("incidence / size ~ C(period) + (1 | obs)", load("cbpp"), family="binomial")
    test = fit.test_variances(factor="herd")
    wanted = 2.0 * (fit.loglik - below.ml(nagq=1).loglik)
    assert test.chi2 == pytest.approx(wanted, abs=1e-5)
    assert 0.0 < test.p <= 0.5
    with pytest.raises(ArgumentError, match="say over which by factor="):
        fit.test_variances("Intercept")
    wald = fit.test("C(period)[2] = 0", "C(period)[3] = 0", "C(period)[4] = 0")
    assert wald["chi2"] == pytest.approx(fit.wald["chi2"])
    assert fit.lr_test["df"] == 2


def test_predictions(tmp_path) -> None:
    fit, table = fit_case("cbpp"), load("cbpp")
    model = Model(CASES["cbpp"], table, family="binomial")
    link = model.predict(fit, scale="link")
    eta = fit.patterns.take(fit.patterns.fixed) @ fit.beta
    for codes, means in zip(fit.patterns.codes, fit.means, strict=True):
        eta = eta + means[codes, 0]
    np.testing.assert_allclose(np.sort(link["estimate"]), np.sort(eta), atol=1e-10)
    response = model.predict(fit)
    assert ((response["lower"] < response["estimate"]) & (response["upper"] < 1.0)).all()
    population = model.predict(fit, table.drop(columns=["herd", "obs"]), kind="population")
    assert population["estimate"].nunique() == 4
    fresh = table.head(2).assign(obs=[900, 901])
    with pytest.raises(DataError, match="a level of 'obs' that the fit has not seen"):
        model.predict(fit, fresh)
    wider = model.predict(fit, fresh, new_groups="population", scale="link")
    assert (wider["se"] > link["se"].head(2).to_numpy()).all()
    path = tmp_path / "new.csv"
    fresh.to_csv(path, index=False)
    pd.testing.assert_frame_equal(
        model.predict(fit, path, new_groups="population", scale="link"),
        wider.reset_index(drop=True),
    )


def test_means_of_groups_of_new_rows() -> None:
    table = load("ticks")
    model = Model("TICKS ~ gm(h, YEAR) + (1 | BROOD) + (1 | YEAR)", table, family="poisson")
    fit = model.ml(nagq=1)
    whole, part = model.predict(fit), model.predict(fit, table.head(3))
    pd.testing.assert_frame_equal(whole.head(3), part)


def test_scale_of_an_exposure() -> None:
    table = load("ticks").assign(e=2.0)
    formula = "TICKS ~ h + (1 | BROOD) + (1 | YEAR)"
    plain, exposed = (
        Model(formula, table, family="poisson"),
        Model(formula, table, family="poisson", exposure="e"),
    )
    one, two = plain.ml(nagq=1), exposed.ml(nagq=1)
    assert two.loglik == pytest.approx(one.loglik, abs=1e-7)
    assert two.beta[0] == pytest.approx(one.beta[0] - np.log(2.0), abs=1e-5)
    np.testing.assert_allclose(
        exposed.predict(two, scale="link")["estimate"],
        plain.predict(one, scale="link")["estimate"],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.ml(nagq=7), "nagq=7 is not there for several grouping factors"),
        (lambda m: m.reml(), "restricted maximum likelihood is not there for family='binomial'"),
        (lambda m: m.sample(seed=1), "no density to sample by"),
        (lambda m: m.pymc(), "give form='conditional'"),
        (lambda m: m.rows(), "single rows is not there"),
        (lambda m: m.cell_rows(), "single rows is not there"),
        (lambda m: m.moments, "is not there for family='binomial' and several"),
        (lambda m: m.ml().locate_effects(), "not there yet for several grouping factors"),
        (lambda m: m.ml().integrator(), "not there yet for several grouping factors"),
        (lambda m: m.ml().summary(style="hlm"), "choose stata or lme4"),
        (lambda m: m.ml().group_effects("cow"), "choose one of period, herd"),
        (lambda m: m.ml().measure_error(draws=1), "give 100 or more"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(ask, message: str) -> None:
    model = Model(CASES["crossed"], load("crossed"), family="binomial")
    with pytest.raises(BhlmError, match=message) as caught:
        ask(model)
    assert "\n" not in str(caught.value)


@pytest.mark.wide
def test_a_posterior_of_other_factors_is_no_match() -> None:
    table = load("crossed")
    one = Model("incidence / size ~ 1 + (1 | herd)", table, family="binomial")
    post = one.sample(seed=1, draws=50, tune=50, chains=2)
    with pytest.raises(ArgumentError, match="no posterior stands beside it; pm"):
        bhlm.reconcile(fit_case("crossed"), post)


def simulate(n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(9)
    table = pd.DataFrame({"a": rng.integers(0, 10, n), "b": rng.integers(0, 6, n)})
    return table.assign(y=rng.binomial(1, 0.4, n), x=rng.normal(size=n), row=np.arange(n))


@pytest.mark.parametrize(
    ("change", "formula", "message"),
    [
        ({"y": 0}, "y ~ x + (1 | a) + (1 | b)", "is 0 in every row"),
        ({"y": 1}, "y ~ x + (1 | a) + (1 | b)", "is all successes in every row"),
        ({}, "y ~ w + (1 | a) + (1 | b)", r"'w' foretells? all successes or none"),
        ({}, "y ~ x + (1 | a) + (1 | row)", "single zeros and ones tell nothing"),
        ({}, "y ~ x + (1 | a) + (1 | c)", "divide the rows into the same"),
        ({}, "y ~ x + I(2*x) + (1 | a) + (1 | b)", "x"),
        ({}, "s ~ x + (1 | a) + (1 | b)", "every 'a' has successes alone or failures alone"),
        ({}, "s ~ x + (1 | b) + (1 | a)", "every 'a' has successes alone or failures alone"),
        ({}, "y ~ x + (1 + x | row) + (1 | a) + (1 | b)", "no 'row' has more than one trial"),
    ],
)
def test_what_cannot_be_identified(change: dict, formula: str, message: str) -> None:
    table = simulate().assign(
        **change, c=lambda t: -t["a"], w=lambda t: 2.0 * t["y"], s=lambda t: 1 * (t["a"] > 4)
    )
    with pytest.raises(IdentifiabilityError, match=message) as caught:
        Model(formula, table, family="bernoulli").ml()
    assert "\n" not in str(caught.value)


@pytest.mark.wide
def test_the_command_prints_and_writes_the_label(capsys, tmp_path) -> None:
    load("crossed").to_csv(tmp_path / "c.csv", index=False)
    how = [
        "ml",
        "--data",
        tmp_path / "c.csv",
        "--formula",
        CASES["crossed"],
        "--family",
        "binomial",
    ]
    status, out, _ = run(capsys, *how, "--json", tmp_path / "out.json", "--style", "lme4")
    assert status == 0
    assert LABEL in " ".join(out.split())
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["model"]["groups"] == {"period": 4, "herd": 15}
    assert found["ml"]["integration"]["error"] is None
    assert found["ml"]["integration"]["nagq"] == 1
    assert LABEL in found["ml"]["integration"]["label"]
    assert found["ml"]["integration"]["at_estimates"]["difference"] > 0.0
    assert found["ml"]["loglik"] == pytest.approx(-96.938969, abs=1e-6)
    assert (
        found["ml"]["population_effects"]["Intercept"]["estimate"]
        > found["ml"]["estimates"]["Intercept"]["estimate"]
    )
    check_refusal(run(capsys, *how, "--rows", "--dashboard", tmp_path / "p.html"), "--rows")


@pytest.mark.parametrize("formula", ["y ~ x + (1 | a)", "y ~ x + (1 | a) + (1 | b)"])
def test_rounding_of_large_counts_is_no_lack_of_convergence(formula: str) -> None:
    table = simulate()
    rng = np.random.default_rng(3)
    for scale in (1e2, 1e4, 1e5, 1e6):
        eta = 0.3 * table["x"] + rng.normal(0.0, 0.3, 10)[table["a"]]
        eta += rng.normal(0.0, 0.2, 6)[table["b"]] * ("b" in formula)
        counts = rng.poisson(scale * np.exp(eta))
        fit = Model(formula, table.assign(y=counts), family="poisson").ml()
        assert fit.converged, scale
        step = np.linalg.solve(fit.information, fit.gradient)
        assert step @ fit.gradient < 1e-8
