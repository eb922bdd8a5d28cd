"""Reconciliation: identities that hold, gaps that add up, sabotage that is seen."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from few_groups import simulate_model
from gallery_fits import list_one_factor
from simulate import simulate_table
from sound_draws import integrate, make_fit, resample

from bhlm.bayes.priors.families import Flat, HalfCauchy, HalfNormal, Normal, StudentT
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError
from bhlm.files import write_json
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.layout import format_digits
from bhlm.reconciliation.comparison import compare, is_same
from bhlm.reconciliation.split import NAMED, NEGLIGIBLE
from bhlm.reconciliation.words import TOLD
from bhlm.sources.gallery import find_model, load_data

QUICK = {"dyestuff2"}
MODELS = [
    pytest.param(entry.name, marks=[] if entry.name in QUICK else pytest.mark.slow)
    for entry in list_one_factor()
]


@pytest.fixture(scope="module", params=MODELS)
def both(request):
    entry = find_model(request.param)
    model = Model(entry.formula, load_data(entry))
    return reconcile(model.reml(), model.sample(seed=1), published=entry.published)


def test_flat_mode_is_reml(both):
    """The mode of the sampler's flat-prior density is the REML estimate, at 1e-5 relative.

    On the boundary the likelihood is flat, and the two are one in log-likelihood.
    """
    evidence = both.evidence
    assert evidence.identity.finding == "same"
    assert evidence.mode.loglik == pytest.approx(both.reml.loglik, abs=1e-6)
    if not both.reml.singular:
        table = both.table
        assert (table["unexplained"].abs() <= 1e-5 * table["reml"].abs()).all()


def test_shares_add_up_to_the_gap(both):
    table = both.table
    known = table[table["reml"].notna()]
    total = known[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1, skipna=False)
    assert (total - known["gap"]).abs().max() < 1e-10
    parts = known[["skewness", "integrating"]].sum(axis=1, skipna=False)
    np.testing.assert_allclose(parts, known["shape"], atol=1e-10)
    parts = table[list(NAMED)].sum(axis=1, skipna=False)
    np.testing.assert_allclose(parts, table["prior"], atol=1e-10)
    np.testing.assert_allclose(known["gap"], known["posterior"] - known["reml"], atol=1e-12)
    np.testing.assert_allclose(known["gap_sd"] * known["sd"], known["gap"], atol=1e-12)
    for share in ("shape", "prior", "skewness", "integrating", *NAMED):
        assert (known[f"{share}_se"] >= 0.0).all(), share


def test_columns_of_the_printed_table_stay_apart(both):
    """Whatever the numbers, as of a small negative one of many digits."""
    sizes = {"reml": -0.0071234567, "posterior": -1.2345678e-10, "shape": -1.2e-13}
    table = both.table.assign(published=None, **sizes)
    body = replace(both, table=table).summary().partition("verdict\n")[2].splitlines()[1:]
    for line in body[: len(table)]:
        assert {"-0.007123457", "-1.234568e-10"} <= set(line.split())


def test_draws_are_certified(both):
    """The sampler's draws agree with an independent route in location and spread."""
    judgement = both.evidence.judgement
    assert judgement.sound
    assert judgement.khat < 0.7
    assert judgement.resolution < 0.3
    assert both.evidence.flat.khat < 0.7


def check_sum(text, gap, sd):
    """The causes that a sentence names, with their signs, make up the gap that it speaks of."""
    causes = re.findall(r"([\d.]+(?:e[+-]\d+)?) (up|down) ", text)
    told = [float(size) * (1.0 if way == "up" else -1.0) for size, way in causes]
    printed = 0.05 * sum(map(abs, told))  # two digits each
    assert abs(gap - sum(told)) <= NEGLIGIBLE * sd + printed, text


@pytest.mark.parametrize("name", ["rail", pytest.param("dyestuff2", marks=pytest.mark.slow)])
def test_causes_add_up_where_single_shares_are_uncertain(name):
    """Of six groups the mean under flat priors is known to a few posterior SDs only."""
    entry = find_model(name)
    model = Model(entry.formula, load_data(entry))
    both = reconcile(model.reml(), model.sample(seed=1))
    uncertain = (both.table["prior_interaction_se"] > 0.1 * both.table["sd"]).any()
    assert uncertain
    for name, text in both.words.items():
        check_sum(text, both.table.loc[name, "gap"], both.table.loc[name, "sd"])


def test_words_carry_the_numbers(both):
    for name, text in both.words.items():
        row = both.table.loc[name]
        assert text.startswith(f"The posterior mean of {name} is ")
        if np.isnan(row["reml"]):
            assert "REML has no estimate of it" in text
            continue
        if abs(row["gap"]) >= 0.02 * row["sd"]:
            side = "above" if row["gap"] > 0 else "below"
            assert f"{format_digits(abs(row['gap']), 2)} {side} REML" in text
        for share, words in (
            ("skewness", "because the posterior is skewed"),
            ("prior_scale", "from the scale (flat on SDs"),
            ("prior_residual", "on the residual SD"),
        ):
            told = f"{format_digits(abs(row[share]), 2)} {'up' if row[share] > 0 else 'down'} "
            big = abs(row[share]) >= max(0.02 * row["sd"], TOLD * row[f"{share}_se"])
            assert (words in text) == big, (name, share)
            assert not big or told in text[: text.index(words)], (name, share)
        assert text.endswith("; nothing unexplained.")
        check_sum(text, row["gap"], row["sd"])
    assert both.words[both.table["gap_sd"].abs().idxmax()] in both.summary().replace("\n", " ") or (
        both.verdict == "agree"
    )


def test_effects_are_wider_where_parameters_are_uncertain(both):
    table = both.group_effects()
    assert len(table) == both.reml.moments.n_groups * len(both.reml.moments.random)
    # The posterior adds the uncertainty of the parameters to the conditional SD.
    assert both.reml.singular or table["widening"].median() > 1.0
    assert (table["gap"].abs() < table["sd"]).all()
    np.testing.assert_array_equal(table["eb"], both.reml.group_effects()["estimate"])


def test_the_gallery_is_reconciled(both):
    assert both.verdict in ("agree", "explained")
    known = both.table["reml"].notna()
    assert both.table["verdict"][known].isin(["agree", "explained"]).all()


def test_printed_values_are_reproduced(both):
    published = [check for check in both.printed if not check.reproduced]
    if find_comparable(both):
        assert published == []


def find_comparable(both):
    return "not judged" not in both.printed_note


def test_json_has_the_keys_of_the_design(both, tmp_path):
    path = tmp_path / "out.json"
    write_json(both.to_dict(), path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) >= {"model", "reml", "posterior", "reconciliation", "verdict"}
    assert set(content["model"]) >= {"formula", "n", "groups", "group_size", "dropped_rows"}
    assert set(content["reml"]) >= {
        "loglik", "converged", "singular", "estimates", "wald", "lr_test", "reliability",
    }  # fmt: skip
    for row in content["reml"]["estimates"].values():
        assert set(row) == {"estimate", "se", "lower", "upper"}
    assert set(content["posterior"]["diagnostics"]) >= {
        "ok", "max_rhat", "min_ess_bulk", "min_ess_tail", "divergences", "seconds",
    }  # fmt: skip
    for row in content["posterior"]["estimates"].values():
        assert set(row) >= {
            "mean", "median", "mode", "sd", "lower", "upper", "ess_bulk", "rhat", "mcse_mean",
        }  # fmt: skip
    for row in content["reconciliation"].values():
        assert set(row) >= {
            "published", "reml", "posterior", "gap", "gap_sd", "shape", "prior", "monte_carlo",
            "unexplained", "skewness", "integrating", "prior_scale", "prior_sd", "prior_corr",
            "prior_residual", "prior_fixed", "prior_interaction", "prior_scale_se", "verdict",
        }  # fmt: skip
    assert content["verdict"] == both.verdict
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_where_stata_stopped_early(hsb):
    entry = find_model("hsb_random_coefficient")
    model = Model(entry.formula, hsb)
    both = reconcile(model.reml(), model.sample(seed=1), published=entry.published)
    assert len(both.printed) == 41
    assert all(check.reproduced for check in both.printed)
    early = {check.name for check in both.printed if not check.exact}
    assert {"var(cwc(ses)|school)", "var(Intercept|school)"} <= early
    assert "stopped before reaching it" in both.printed_note
    assert "var(cwc(ses)|school)" in both.printed_note


def test_a_failed_sampler_blocks_the_verdict():
    model = Model("y ~ x + (x | g)", simulate_table(1, n_groups=40, largest=12))
    both = reconcile(model.reml(), model.sample(seed=3, draws=60, tune=10))
    assert both.verdict == "not_converged"
    assert any(reason.startswith("Posterior:") for reason in both.reasons)


@pytest.mark.slow
def test_a_strong_prior_is_named(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    post = model.sample(seed=4, priors=Priors(fixed={"Intercept": Normal(20, 0.2)}))
    row = reconcile(model.reml(), post).table.loc["Intercept"]
    assert row["verdict"] == "explained"
    assert row["prior"] == pytest.approx(row["gap"], rel=0.01)
    assert row["gap_sd"] > 10


@pytest.mark.slow
def test_too_few_groups_for_a_flat_prior():
    table = simulate_table(6, n_groups=4, largest=20)
    model = Model("y ~ x + (x | g)", table)
    post = model.sample(seed=7, target_accept=0.99, priors=Priors(sd=HalfNormal(2)))
    both = reconcile(model.reml(), post)
    assert both.evidence.flat is None
    assert both.table[["shape", "prior"]].isna().all(axis=None)
    assert both.verdict == "undetermined"
    assert "cannot be told" in both.words["sd(x|g)"]
    assert both.withheld["sd(x|g)"] == "the posterior under flat priors is improper"
    assert any("Under flat priors the posterior is improper" in reason for reason in both.reasons)


@pytest.mark.wide
def test_three_coefficients_are_certified():
    model = Model("y ~ x + t + (x + t | g)", simulate_table(3, n_groups=40, largest=15))
    both = reconcile(model.reml(), model.sample(seed=1))
    assert both.evidence.judgement.sound
    total = both.table[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1)
    assert (total - both.table["gap"]).abs().max() < 1e-10
    assert both.verdict in ("agree", "explained")
    assert "Means by importance sampling" in both.summary()


@pytest.mark.slow
def test_student_priors_of_fixed_effects_are_certified(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    post = model.sample(seed=6, priors=Priors(fixed=StudentT(4, 12, 10)))
    both = reconcile(model.reml(), post)
    assert both.evidence.judgement.sound
    assert both.verdict in ("agree", "explained")


@pytest.mark.slow
def test_a_mean_that_does_not_exist_is_withheld():
    """Five groups: under flat priors P(sd > t) ~ t^-2, so the variance has no mean."""
    model = Model("y ~ 1 + (1 | g)", simulate_table(9, n_groups=5, largest=10))
    both = reconcile(model.reml(), model.sample(seed=7, target_accept=0.99))
    row = both.table.loc["var(Intercept|g)"]
    assert np.isnan(row["shape"])
    assert np.isnan(row["prior"])
    assert np.isfinite(both.table.loc["sd(Intercept|g)", "shape"])
    assert "its tail falls as x^-2" in both.withheld["var(Intercept|g)"]
    assert both.to_dict()["reconciliation"]["var(Intercept|g)"]["shape"] is None


def test_a_posterior_mean_that_does_not_exist_is_withheld():
    """A half-Cauchy on the SD of two groups: its posterior has a mean, the variance none."""
    rng = np.random.default_rng(3)
    group = np.repeat(range(2), 30)
    y = np.array([-1.0, 1.0])[group] + rng.normal(size=60)
    model = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": group, "y": y}))
    priors = Priors(sd=HalfCauchy(1.0), fixed=Flat())
    post = model.sample(seed=2, priors=priors, draws=3000, target_accept=0.99)
    both = reconcile(model.reml(), post)
    row = both.table.loc["var(Intercept|g)"]
    assert np.isnan(row["posterior"])
    assert np.isnan(row["gap"])
    assert (
        "is withheld: the posterior of var(Intercept|g) has no mean"
        in (both.words["var(Intercept|g)"])
    )


def test_draws_from_the_prior_are_refused(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    post = model.sample(seed=5, draws=50, tune=50, prior_only=True)
    with pytest.raises(ArgumentError, match="there is nothing to reconcile"):
        reconcile(model.reml(), post)


def test_fits_of_different_models_are_refused(hsb):
    one = Model("mathach ~ 1 + (1 | school)", hsb)
    two = Model("mathach ~ ses + (1 | school)", hsb)
    post = one.sample(seed=5, draws=50, tune=50)
    with pytest.raises(ArgumentError, match="the fits differ in model or data"):
        reconcile(two.reml(), post)
    with pytest.raises(ArgumentError, match="method='ml' cannot be reconciled"):
        reconcile(one.reml(method="ml"), post)


@pytest.mark.slow
def test_the_mode_is_found_at_a_correlation_of_one():
    """Where the slope's SD vanishes there is a mode too, a unit of log-likelihood lower."""
    rng = np.random.default_rng(5)
    group, x = np.repeat(range(16), 20), rng.normal(size=320)
    y = np.repeat(rng.normal(size=16), 20) + 0.5 * x + rng.normal(size=320)
    model = Model("y ~ x + (x | g)", pd.DataFrame({"g": group, "x": x, "y": y}))
    reml = model.reml()
    assert reml.estimates.loc["corr(Intercept,x|g)", "estimate"] == pytest.approx(1.0)
    both = reconcile(reml, model.sample(seed=2))
    assert both.verdict == "explained"
    assert both.evidence.identity.finding == "same"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "kind", "told"),
    [
        (160, "perfect", "the data do not rule out that it is +1"),
        (12, "zero", "the correlation is hardly identified"),
    ],
)
def test_a_correlation_near_one_is_not_called_unidentified(groups, kind, told):
    """Only an interval over half of all correlations says that the data tell next to nothing."""
    model = simulate_model(groups, 2, 3, kind)
    exact = integrate(model.moments)
    both = compare(model.reml(), make_fit(exact, resample(exact, seed=1)))
    name = "corr(Intercept,a|g)"
    located = exact.located[name]
    assert (located.upper - located.lower > 1.0) == (kind == "zero")
    (flag,) = (each for each in both.reasons if each.startswith(f"The posterior of {name} reaches"))
    assert flag.endswith(f"{told}.")


def test_the_order_of_the_rows_is_no_other_data():
    """The sums differ by rounding then, but a single other value is told."""
    table = simulate_table(3)
    found = Model("y ~ x + (x | g)", table).moments
    turned = Model("y ~ x + (x | g)", table.iloc[::-1]).moments
    assert not np.array_equal(found.cross, turned.cross)
    assert is_same(found, turned)
    other = table.assign(y=table["y"].where(table.index != 7, table["y"] + 0.001))
    assert not is_same(found, Model("y ~ x + (x | g)", other).moments)
    # Twice the same row has its mean, and no spread either.
    once = table.groupby("g").head(1)
    twice = pd.concat([once, once.head(1)])
    assert not is_same(*(Model("y ~ x + (1 | g)", each).moments for each in (once, twice)))
