"""Inputs that the reconciliation once failed on, and a sample of every awkward kind."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from few_groups import make_case

from bhlm.errors import IdentifiabilityError
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.reconciliation.words import TOLD
from bhlm.sources.gallery import find_model, load_data

DATA = Path(__file__).parent / "data"
VERDICTS = ("agree", "explained", "undetermined", "unexplained", "not_converged")
# One of each q and of many kinds: singular, improper, with groups of deficient rank.
SAMPLE = (2, 3, 9, 13, 14, 20)


def fit(formula, table, **options):
    model = Model(formula, table)
    return reconcile(model.reml(), model.sample(**({"seed": 1} | options)))


@pytest.mark.slow
def test_few_groups_whose_flat_posterior_has_no_mean():
    table = pd.read_csv(DATA / "21-reconcile-few-groups.csv")
    both = fit("y ~ x + w + (x | g)", table, draws=2000, target_accept=0.995)
    assert both.verdict in ("undetermined", "not_converged")
    assert "has no mean" in both.withheld["sd(x|g)"]
    assert np.isnan(both.table.loc["sd(x|g)", "shape"])


@pytest.mark.slow
def test_a_singular_fit_of_three_coefficients():
    table = pd.read_csv(DATA / "22-reconcile-three-coefficients.csv")
    both = fit("y ~ x + z + (x + z | g)", table)
    assert both.reml.singular
    assert both.evidence.identity.finding == "same"
    assert both.evidence.judgement.sound
    assert not (both.table["verdict"] == "unexplained").any()


@pytest.mark.slow
def test_covariates_within_groups_leave_the_flat_posterior_proper():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(7), 20)
    columns = {f"x{i}": rng.normal(size=140) for i in range(5)}
    y = rng.normal(size=7)[group] + rng.normal(size=140)
    table = pd.DataFrame({"g": group, "y": y, **columns})
    both = fit("y ~ x0 + x1 + x2 + x3 + x4 + (1 | g)", table)
    assert both.evidence.flat is not None
    assert not both.withheld
    assert both.post.diagnostics.prior_bound == ()


@pytest.mark.slow
def test_a_variance_without_a_mean_is_withheld():
    """Nine groups, three coefficients: the flat integrand falls as 1 / lambda."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(9), 15)
    x = rng.normal(size=(135, 2))
    u = rng.normal(size=(9, 3))[group]
    y = u[:, 0] + (u[:, 1:] * x).sum(axis=1) + rng.normal(size=135)
    table = pd.DataFrame({"g": group, "x": x[:, 0], "z": x[:, 1], "y": y})
    both = fit("y ~ x + z + (x + z | g)", table, target_accept=0.99)
    for name in ("var(x|g)", "cov(Intercept,x|g)"):
        assert np.isnan(both.table.loc[name, ["shape", "prior"]].astype(float)).all()
        assert "has no mean" in both.withheld[name]
    assert np.isfinite(both.table.loc["sd(x|g)", "shape"])


@pytest.mark.slow
def test_no_prior_is_blamed_for_what_swapping_it_does_not_do():
    """The SD of a slope, days counted from -20: its own prior has next to no share."""
    entry = find_model("sleepstudy")
    table = load_data(entry)
    table = table.assign(t=table["Days"] + 20)
    both = fit("Reaction ~ t + (t | Subject)", table, draws=2000)
    row = both.table.loc["sd(t|Subject)"]
    parts = ("prior_scale", "prior_sd", "prior_corr", "prior_residual", "prior_fixed")
    text = both.words["sd(t|Subject)"]
    for part, words in zip(
        parts,
        ("from the scale", "from the priors of the SDs", "on the correlation", "on the residual",
         "from the priors of the fixed effects"), strict=True,
    ):  # fmt: skip
        assert (words in text) == (
            abs(row[part]) >= max(0.02 * row["sd"], TOLD * row[f"{part}_se"])
        ), part
    assert "on its SD" not in text


def reconcile_case(seed):
    """Return the reconciliation of a random data set; None where the model refuses it."""
    case = make_case(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return fit(case.formula, case.table, draws=500, tune=500)
        except IdentifiabilityError:
            return None


@pytest.mark.slow
@pytest.mark.parametrize("seed", SAMPLE)
def test_random_data_sets_are_reconciled(seed):
    """Warnings are errors; what runs has a verdict, and no identity breaks."""
    both = reconcile_case(seed)
    assert both.verdict in VERDICTS
    assert not both.evidence.identity.is_broken
    assert both.summary()
    assert both.to_dict()["verdict"] == both.verdict


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_random_data_sets_are_reconciled(seed):
    both = reconcile_case(seed)
    if both is not None:
        assert both.verdict in VERDICTS
        assert not both.evidence.identity.is_broken
        assert both.verdict != "unexplained" or not both.post.converged
