"""Pages of families with several factors; what they draw, check and say of the population."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import check_refusal, run
from scipy import special

import bhlm
from bhlm import plots
from bhlm.errors import ArgumentError
from bhlm.fits.family_levels_fit import FamilyLevelsFit
from bhlm.plots.level_caterpillar import plot_factor
from bhlm.reml.family.level_checks import draw_units, replicate_patterns
from bhlm.reml.family.nested import locate_nest

NESTED, CROSSED = "(1 | school/class)", "(1 | class) + (1 | item)"
LABEL = "Laplace approximation"
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
# Of a mean or a covariance over this many draws, in standard errors.
DRAWS, ERRORS = 4000, 5.0


@cache
def make_table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    school, group = np.repeat(np.arange(20), 30), np.repeat(np.arange(60), 10)
    item, x = np.tile(np.arange(10), 60), rng.integers(-2, 3, 600) / 2.0
    eta = -0.3 + 0.5 * x + rng.normal(0.0, 0.6, 20)[school] + rng.normal(0.0, 0.5, 60)[group]
    eta = eta + rng.normal(0.0, 0.6, 10)[item]
    size = rng.integers(1, 6, 600)
    return pd.DataFrame(
        {
            "school": school,
            "class": group,
            "item": [f"i{at}" for at in item],
            "x": x,
            "sex": rng.choice(["boy", "girl"], 600),
            "hit": rng.binomial(1, special.expit(eta)),
            "size": size,
            "hits": rng.binomial(size, special.expit(eta)),
            "events": rng.poisson(np.exp(0.5 * eta)),
        }
    )


RESPONSES = {"bernoulli": "hit", "binomial": "hits / size", "poisson": "events"}


@cache
def fit_model(family: str, random: str, link: str | None = None) -> FamilyLevelsFit:
    formula = f"{RESPONSES[family]} ~ x + sex + {random}"
    fit = bhlm.Model(formula, make_table(), family=family, link=link).ml()
    assert isinstance(fit, FamilyLevelsFit)
    return fit


@pytest.mark.wide
@pytest.mark.parametrize("random", [NESTED, CROSSED])
@pytest.mark.parametrize("family", list(RESPONSES))
def test_one_command_makes_the_page(family, random, tmp_path, capsys):
    make_table().to_csv(tmp_path / "rows.csv", index=False)
    page = tmp_path / "page.html"
    formula = f"{RESPONSES[family]} ~ x + sex + {random}"
    status, out, _ = run(
        capsys, "ml", "--data", tmp_path / "rows.csv", "--formula", formula,
        "--family", family, "--dashboard", page,
    )  # fmt: skip
    text = page.read_text(encoding="utf-8")
    twin = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    fit = fit_model(family, random)
    assert status == 0
    assert "Number of obs" in out
    assert [each["name"] for each in twin["sections"]] == [
        "verdict", "effects", "groups", "checks", "reproduction",
    ]  # fmt: skip
    assert (LABEL in text) == (random == CROSSED)
    assert twin["model"]["groups"] == fit.patterns.groups
    assert not any(
        "could not be computed" in str(block)
        for each in twin["sections"]
        for block in each["blocks"]
    )
    blocks = {b["name"]: b for each in twin["sections"] for b in each["blocks"] if "name" in b}
    told = {"units_0", "units_1", "predictive", "predictive_1", "variance_shares", "ratios"}
    assert told <= blocks.keys()


def test_a_page_of_rows_is_refused(tmp_path, capsys):
    make_table().to_csv(tmp_path / "rows.csv", index=False)
    how = ("ml", "--data", tmp_path / "rows.csv", "--formula", f"hit ~ x + {CROSSED}")
    how += ("--family", "bernoulli", "--dashboard", tmp_path / "p.html")
    check_refusal(run(capsys, *how, "--rows"), "--rows is not there for family='bernoulli'")


def test_population_averaged_effects_of_a_probit_shrink_by_all_variances():
    fit = fit_model("bernoulli", NESTED, "probit")
    found = fit.population_effects()["estimate"]
    shrink = np.sqrt(1.0 + sum(float(g[0, 0]) for g in fit.gs))
    np.testing.assert_allclose(found, fit.beta / shrink, rtol=1e-8)
    assert "ratio" not in fit.population_effects()


@pytest.mark.parametrize("random", [NESTED, CROSSED])
def test_population_averaged_effects_of_counts_move_the_intercept_alone(random):
    fit = fit_model("poisson", random)
    found = fit.population_effects()
    np.testing.assert_allclose(found["estimate"].iloc[1:], fit.beta[1:], rtol=1e-8)
    half = sum(float(g[0, 0]) for g in fit.gs) / 2.0
    assert found["estimate"].iloc[0] == pytest.approx(fit.beta[0] + half, rel=1e-8)
    # The others' errors are those of beta, the intercept's by the delta method.
    np.testing.assert_allclose(found["se"].iloc[1:], np.sqrt(np.diag(fit.beta_cov))[1:], rtol=1e-5)
    p = len(fit.beta)
    row = np.zeros(len(fit.joint_cov))
    row[0], row[p:] = 1.0, 0.5
    wanted = np.sqrt(row @ fit.joint_cov @ row)
    assert found["se"].iloc[0] == pytest.approx(wanted, rel=1e-5)


def test_effects_on_the_response_scale_are_means_over_all_units():
    fit = fit_model("bernoulli", NESTED)
    beta, sd = fit.estimates["estimate"], np.sqrt(sum(float(g[0, 0]) for g in fit.gs))
    low = beta["Intercept"]
    eta = np.array([low, low + beta["sex[girl]"]])
    means = special.expit(eta[:, None] + sd * NODES) @ WEIGHTS / WEIGHTS.sum()
    found = fit.effects("sex[girl]", at={"x": 0.0})
    assert found["slope"].item() == pytest.approx(means[1] - means[0], rel=1e-8)
    own = fit.effects("sex[girl]", at={"x": 0.0}, kind="unit-specific")
    assert own["slope"].item() == pytest.approx(np.diff(special.expit(eta)).item(), rel=1e-10)
    line = fit.effect_lines("x", at={"sex": "boy"}, values=[0.0, 1.0])
    assert line["estimate"].iloc[0] == pytest.approx(means[0], rel=1e-8)
    assert fit.effects("x", method="cr1")["se"].item() > 0.0


def test_robust_errors_of_crossed_factors_are_refused_everywhere():
    fit = fit_model("bernoulli", CROSSED)
    for ask in (fit.population_effects, lambda method: fit.effects("x", method=method)):
        with pytest.raises(ArgumentError, match="by the scores of groups"):
            ask(method="cr0")


@pytest.mark.parametrize("random", [NESTED, CROSSED])
def test_a_units_expected_response_is_that_of_its_own_effects(random):
    fit = fit_model("bernoulli", random)
    factor = list(fit.patterns.groups)[-1]
    table = plot_factor(fit, factor, scale="response").table
    patterns, at = fit.patterns, fit.find_factor(factor)
    weight = patterns.n / patterns.n.sum()
    eta = weight @ patterns.take(patterns.fixed) @ fit.beta + fit.means[at][:, 0]
    if random == NESTED:
        parents = patterns.codes[0][np.unique(patterns.codes[1], return_index=True)[1]]
        eta = eta + fit.means[0][parents, 0]
    np.testing.assert_allclose(np.sort(table["u"]), np.sort(special.expit(eta)), rtol=1e-10)
    assert (table["u_low"] < table["u"]).all()
    link = plot_factor(fit, factor).table
    np.testing.assert_allclose(np.sort(link["u"]), np.sort(fit.means[at][:, 0]), rtol=1e-12)
    with pytest.raises(ArgumentError, match=r"scale='odds' is not known"):
        plot_factor(fit, factor, scale="odds")


def test_intervals_of_a_unit_count_those_that_it_lies_in():
    fit = fit_model("bernoulli", NESTED)
    white, marginal = locate_nest(fit)
    table = plot_factor(fit, "school:class", scale="response").table
    weight = fit.patterns.n / fit.patterns.n.sum()
    x = weight @ fit.patterns.take(fit.patterns.fixed)
    one, two = (float(root[0, 0]) for root in fit.roots)
    parents = white.find_parents(1, 0)
    variance = (
        one**2 * marginal.covs[0][parents, 0, 0]
        + two**2 * marginal.covs[1][:, 0, 0]
        + 2.0 * one * two * marginal.crosses[1][0][:, 0, 0]
        + x @ fit.beta_cov @ x
    )
    half = special.logit(table["u_high"]) - special.logit(table["u"])
    np.testing.assert_allclose(np.sort(half), np.sort(1.959963985 * np.sqrt(variance)), rtol=1e-7)


@pytest.mark.parametrize("random", [NESTED, CROSSED])
def test_effects_are_drawn_with_their_means_and_covariances(random):
    fit = fit_model("bernoulli", random)
    rng = np.random.default_rng(1)
    drawn = [np.concatenate([u[:4, 0] for u in each])
             for each in draw_units(fit, draws=DRAWS, rng=rng, new=False)]  # fmt: skip
    mean = np.concatenate([each[:4, 0] for each in fit.means])
    sd = np.sqrt(np.concatenate([each[:4, 0, 0] for each in fit.covs]))
    assert (np.abs(np.mean(drawn, axis=0) - mean) < ERRORS * sd / np.sqrt(DRAWS)).all()
    assert (np.abs(np.std(drawn, axis=0) / sd - 1.0) < ERRORS / np.sqrt(2.0 * DRAWS)).all()
    if random == NESTED:  # class 0 lies in school 0
        _, marginal = locate_nest(fit)
        cross = float(marginal.crosses[1][0][0, 0, 0] * fit.roots[0][0, 0] * fit.roots[1][0, 0])
        found = np.cov(np.transpose(drawn))[0, 4]
        assert found == pytest.approx(cross, abs=ERRORS * sd[0] * sd[4] / np.sqrt(DRAWS))


@pytest.mark.parametrize("random", [NESTED, CROSSED])
def test_checks_compare_units_with_replicates(random):
    fit = fit_model("bernoulli", random)
    fewest = min(fit.patterns.groups, key=fit.patterns.groups.__getitem__)
    check = fit.check(draws=200)
    assert check.group == fewest
    assert len(check.groups) == fit.patterns.groups[fewest]
    patterns = fit.patterns
    codes = patterns.codes[fit.find_factor(fewest)]
    own = np.bincount(codes, patterns.y) / np.bincount(codes, patterns.n)
    np.testing.assert_allclose(check.groups["observed"], own)
    assert fit.check(draws=200).groups.equals(check.groups)
    assert check.ok
    other = fit.check(list(fit.patterns.groups)[-1], draws=200, kind="new groups")
    assert other.kind == "new groups"
    with pytest.raises(ArgumentError, match="is not a grouping factor"):
        fit.check("house")
    with pytest.raises(ArgumentError, match="is too few"):
        fit.check(draws=10)


def test_a_right_model_is_calibrated():
    """By tenths of what is predicted given the responses two of three right models were off."""
    rng = np.random.default_rng(5)
    table = make_table()
    fit = fit_model("bernoulli", NESTED)
    drawn = replicate_patterns(fit, kind="new groups", draws=20, seed=1).drawn
    rows = np.repeat(np.arange(fit.patterns.n_patterns), fit.patterns.rows.astype(int))
    values = fit.patterns.take(("x", "sex[girl]"))[rows]
    labels = {name: each[rows] for name, each in fit.patterns.cell_labels.items()}
    off = 0
    for y in drawn[:5]:
        successes = [
            rng.permutation(np.arange(int(n)) < s) for n, s in zip(fit.patterns.n, y, strict=True)
        ]
        again = pd.DataFrame({"hit": np.concatenate(successes).astype(int), "x": values[:, 0],
                              "girl": values[:, 1], **labels})  # fmt: skip
        model = bhlm.Model(f"hit ~ x + girl + {NESTED}", again, family="bernoulli")
        off += model.ml().check(draws=200).count_beyond() >= 3
    assert len(table) == len(rows)
    assert off == 0


def test_dispersion_is_pearsons_of_the_patterns():
    fit = fit_model("poisson", CROSSED)
    patterns = fit.patterns
    eta = patterns.take(patterns.fixed) @ fit.beta
    for mean, codes in zip(fit.means, patterns.codes, strict=True):
        eta = eta + mean[codes, 0]
    mean = patterns.n * np.exp(eta)
    found = fit.dispersion()
    assert found["chi2"] == pytest.approx(float(np.sum((patterns.y - mean) ** 2 / mean)), rel=1e-9)
    assert found["df"] == patterns.n_patterns - len(fit.beta) - 2


def test_r_squared_is_by_the_variances_on_the_latent_scale():
    fit = fit_model("bernoulli", CROSSED)
    eta = fit.patterns.take(fit.patterns.fixed) @ fit.beta
    fixed = float(np.average((eta - np.average(eta, weights=fit.patterns.n)) ** 2,
                             weights=fit.patterns.n))  # fmt: skip
    random = sum(float(g[0, 0]) for g in fit.gs)
    whole = fixed + random + np.pi**2 / 3.0
    found = fit.r_squared()
    assert found["marginal"] == pytest.approx(fixed / whole, rel=1e-9)
    assert found["conditional"] == pytest.approx((fixed + random) / whole, rel=1e-9)


def test_figures_of_effects_and_the_forest_take_the_fit():
    fit = fit_model("bernoulli", CROSSED)
    assert len(plots.plot_effects(fit, "x").table)
    assert len(plots.plot_effects(fit, "sex").table) == 4
    table = plots.plot_forest(fit).table
    assert {"sd(Intercept|class)", "sd(Intercept|item)"} <= set(table["parameter"])
    within = plot_factor(fit_model("bernoulli", NESTED), "school:class", within={"school": 3})
    assert len(within.table) == 3


def test_the_page_of_slopes_and_of_a_singular_fit(tmp_path: Path):
    place = np.arange(600)  # every class and every item has as many ones as zeros
    table = make_table().assign(hit=(place + place // 10) % 2)
    fit = bhlm.Model(f"hit ~ x + {CROSSED}", table, family="bernoulli").ml()
    assert fit.singular
    fit.dashboard(tmp_path / "singular.html", title="Nothing there")
    twin = json.loads((tmp_path / "singular.json").read_text(encoding="utf-8"))
    assert twin["outcome"]["label"] == "Singular ML fit"
    assert not any("posterior" in text for text in twin["outcome"]["advice"])
    slopes = bhlm.Model("hit ~ x + (x | school) + (1 | school:class)", make_table(),
                        family="bernoulli").ml()  # fmt: skip
    slopes.dashboard(tmp_path / "slopes.html")
    twin = json.loads((tmp_path / "slopes.json").read_text(encoding="utf-8"))
    names = [b["name"] for each in twin["sections"] for b in each["blocks"] if "name" in b]
    assert len(names) == len(set(names))


@cache
def make_small_table() -> pd.DataFrame:
    table = make_table()
    return table[(table["school"] < 6) & (table["item"].str[1:].astype(int) < 4)]


@pytest.mark.wide
def test_one_command_makes_the_page_of_a_posterior(tmp_path, capsys):
    make_small_table().to_csv(tmp_path / "rows.csv", index=False)
    page, numbers, kept = tmp_path / "page.html", tmp_path / "own.json", tmp_path / "post.zarr"
    status, out, _ = run(
        capsys, "sample", "--data", tmp_path / "rows.csv", "--formula", f"hit ~ x + {NESTED}",
        "--family", "bernoulli", "--draws", "60", "--tune", "60", "--chains", "2",
        "--dashboard", page, "--json", numbers, "--save", kept,
    )  # fmt: skip
    twin = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    own = json.loads(numbers.read_text(encoding="utf-8"))
    assert status == 1  # so few draws do not pass
    assert "18 levels of 'school:class' with 4 to 4 rows" in out
    assert [each["name"] for each in twin["sections"]] == [
        "verdict", "effects", "convergence", "groups", "checks", "priors", "reproduction",
    ]  # fmt: skip
    assert "could not be computed" not in page.read_text(encoding="utf-8")
    assert own["model"]["groups"] == {"school": 6, "school:class": 18}
    assert set(own["posterior"]["ratios"]) == {"Intercept", "x"}
    post = bhlm.load(kept)
    again = tmp_path / "again.html"
    post.dashboard(again)
    assert again.exists()
    assert own["posterior"]["estimates"]["x"]["mean"] == pytest.approx(
        float(post.estimates.loc["x", "mean"])
    )
    refused = run(
        capsys, "sample", "--data", tmp_path / "rows.csv", "--formula",
        "hit ~ x + (1 | class) + (1 | item)", "--family", "bernoulli",
    )  # fmt: skip
    check_refusal(refused, "no density to sample by")


@pytest.mark.slow
def test_one_command_reconciles_and_makes_the_page(tmp_path, capsys):
    make_small_table().to_csv(tmp_path / "rows.csv", index=False)
    page = tmp_path / "page.html"
    status, out, _ = run(
        capsys, "reconcile", "--data", tmp_path / "rows.csv", "--formula", f"hit ~ x + {NESTED}",
        "--family", "bernoulli", "--dashboard", page,
    )  # fmt: skip
    twin = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert status in (0, 1)
    assert "Reconciliation of ML and the posterior" in out
    assert [each["name"] for each in twin["sections"]] == [
        "verdict", "reconciliation", "effects", "convergence", "groups", "checks", "priors",
        "reproduction",
    ]  # fmt: skip
    assert "could not be computed" not in page.read_text(encoding="utf-8")
    assert twin["reconciliation"]["verdict"] in ("agree", "explained", "undetermined")
