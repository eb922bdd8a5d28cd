"""Offsets and units of columns: what they leave unchanged keeps its posterior."""

import pandas as pd
import pytest
from gallery_fits import list_one_factor
from recoded import FACTOR, choose_offset, find_kept, list_columns, recode
from simulate import simulate_table
from sound_draws import integrate

from bhlm.bayes.importance import ImportancePosterior
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.sources.gallery import find_model, load_data

# In posterior SDs. The same draws are weighed in whitened columns, so that rounding alone moves a
# mean; it decides now and then where a search for a mode ends.
SAME = 0.02
KHAT = 0.05  # of 1000 draws


def compare(one: Model, other: Model, column: str) -> tuple[pd.Series, float]:
    """Return the gaps between the means of unchanged parameters, in SDs, and between the k-hats."""
    posteriors = [integrate(model.moments, draws=1000) for model in (one, other)]
    (_, x, z, _), (_, x_new, z_new, _) = one.rows(), other.rows()
    unit = FACTOR if column == one.moments.response else 1.0
    factors = {one.moments.fixed[i]: unit * f for i, f in find_kept(x, x_new).items()}
    if unit != 1.0:
        factors.pop("Intercept", None)
    names = one.moments.random
    kept = find_kept(z, z_new)
    group = one.moments.group
    for i, factor in kept.items():
        factors[f"var({names[i]}|{group})"] = (unit * factor) ** 2
        factors[f"sd({names[i]}|{group})"] = abs(unit * factor)
    factors["var(Residual)"], factors["sd(Residual)"] = unit**2, unit
    before, after = (posterior.estimates for posterior in posteriors)
    gaps = {
        name: (after.loc[name, "mean"] / factor - before.loc[name, "mean"]) / before.loc[name, "sd"]
        for name, factor in factors.items()
    }
    return pd.Series(gaps), _differ(*posteriors)


def _differ(one: ImportancePosterior, other: ImportancePosterior) -> float:
    return abs(one.khat - other.khat)


@pytest.mark.parametrize(
    ("formula", "column", "kept"),
    [
        ("y ~ x + w + (x | g)", "x", ["x", "w", "sd(x|g)", "sd(Residual)"]),
        ("y ~ x + w + (x | g)", "y", ["x", "w", "sd(Intercept|g)", "sd(x|g)", "sd(Residual)"]),
        ("y ~ x * w + (x | g)", "w", ["w", "x:w", "sd(Intercept|g)", "sd(x|g)", "sd(Residual)"]),
    ],
)
def test_recoding_a_column_moves_no_mean(formula, column, kept):
    table = simulate_table(3, n_groups=14)
    gaps, khat = compare(Model(formula, table), Model(formula, recode(table, column)), column)
    assert set(kept) <= set(gaps.index)
    assert gaps.abs().max() < SAME, gaps
    assert khat < KHAT


@pytest.mark.slow
@pytest.mark.parametrize("entry", list_one_factor(), ids=lambda entry: entry.name)
def test_recoding_moves_no_mean_of_the_gallery(entry):
    """Every numeric column and the response, where the model does not depend on their zeros."""
    table = load_data(entry)
    model = Model(entry.formula, table)
    moments = model.moments
    sds = choose_offset(entry)
    for column in list_columns(entry, table, moments.group):
        recoded = recode(table, column, sds=sds)
        gaps, khat = compare(model, Model(entry.formula, recoded), column)
        assert gaps.abs().max() < SAME, (column, gaps)
        assert khat < KHAT, column


@pytest.mark.slow
def test_days_counted_from_elsewhere_have_the_same_verdict():
    entry = find_model("sleepstudy")
    table = load_data(entry)
    found = []
    for offset in (0.0, 20.0):
        model = Model("Reaction ~ t + (t | Subject)", table.assign(t=table["Days"] + offset))
        found.append(reconcile(model.reml(), model.sample(seed=1)))
    one, other = found
    assert one.verdict == other.verdict == "explained"
    assert abs(one.evidence.exact.khat - other.evidence.exact.khat) < KHAT
    for name in ("t", "sd(t|Subject)", "sd(Residual)"):
        exact = [both.evidence.exact.located[name] for both in found]
        assert abs(exact[0].mean - exact[1].mean) < SAME * exact[0].sd
