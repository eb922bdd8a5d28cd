"""Offsets and units of columns change no k-hat and no verdict."""

import pytest
from gallery_fits import list_one_factor
from recoded import FACTOR, choose_offset, find_kept, list_columns, recode
from simulate import simulate_table
from sound_draws import integrate, make_fit, resample

from bhlm.fits.model import Model
from bhlm.reconciliation.comparison import Comparison, compare
from bhlm.sources.gallery import load_data

pytestmark = pytest.mark.wide

SAME = 0.01  # of k-hat: rounding alone


def reconcile_sound(model: Model) -> Comparison:
    """Return the reconciliation of draws that are the posterior's by construction."""
    exact = integrate(model.moments, draws=1000)
    return compare(model.reml(), make_fit(exact, resample(exact, seed=1)))


def check_alike(one: Comparison, two: Comparison, kept: list[str]) -> None:
    """Compare verdicts and every k-hat of two codings, with the parameters that are in both."""
    assert two.verdict == one.verdict
    assert two.evidence.identity.finding == one.evidence.identity.finding
    for name in kept:
        assert two.table.loc[name, "verdict"] == one.table.loc[name, "verdict"], name
        assert two.table.loc[name, "gap_sd"] == pytest.approx(
            one.table.loc[name, "gap_sd"], abs=0.02
        ), name
    before, after = one.evidence, two.evidence
    assert after.exact.khat == pytest.approx(before.exact.khat, abs=SAME)
    assert (after.flat is None) == (before.flat is None)
    if before.flat is not None:
        assert after.flat.khat == pytest.approx(before.flat.khat, abs=SAME)
    assert after.single.keys() == before.single.keys()
    for name, swapped in before.single.items():
        assert after.single[name].khat == pytest.approx(swapped.khat, abs=SAME), name


def list_kept(one: Model, other: Model, column: str) -> list[str]:
    """Return the names of what a recoding leaves unchanged but for units."""
    (_, x, z, _), (_, x_new, z_new, _) = one.rows(), other.rows()
    moments = one.moments
    names = [moments.fixed[i] for i in find_kept(x, x_new)]
    if column == moments.response:
        names = [name for name in names if name != "Intercept"]
    for i in find_kept(z, z_new):
        each = f"({moments.random[i]}|{moments.group})"
        names += [f"sd{each}", f"var{each}"]
    return [*names, "sd(Residual)", "var(Residual)"]


@pytest.mark.parametrize("column", ["x", pytest.param("y", marks=pytest.mark.slow)])
def test_recoding_changes_no_verdict(column):
    table = simulate_table(3, n_groups=14)
    one, two = (Model("y ~ x + w + (x | g)", each) for each in (table, recode(table, column)))
    check_alike(reconcile_sound(one), reconcile_sound(two), list_kept(one, two, column))


@pytest.mark.slow
@pytest.mark.parametrize("entry", list_one_factor(), ids=lambda entry: entry.name)
def test_recoding_changes_no_verdict_of_the_gallery(entry):
    """Every numeric column and the response, where the model does not depend on their zeros."""
    table = load_data(entry)
    model = Model(entry.formula, table)
    before = reconcile_sound(model)
    for column in list_columns(entry, table, model.moments.group):
        recoded = recode(table, column, sds=choose_offset(entry))
        other = Model(entry.formula, recoded)
        check_alike(before, reconcile_sound(other), list_kept(model, other, column))


@pytest.mark.slow
@pytest.mark.parametrize("far", [1e-6, 1e3, 1e6])
def test_units_and_dates_far_away_change_no_verdict(far):
    """Days since 1970 in nanoseconds, or a share in parts per million."""
    table = simulate_table(5, n_groups=20)
    moved = table.assign(x=far * (FACTOR * table["x"] + 2000.0))
    one, two = (Model("y ~ x + w + (x | g)", each) for each in (table, moved))
    check_alike(reconcile_sound(one), reconcile_sound(two), ["x", "w", "sd(x|g)", "sd(Residual)"])


@pytest.mark.parametrize(
    "offset", [2000.0, *(pytest.param(far, marks=pytest.mark.slow) for far in (20.0, 20_240_101.0))]
)
def test_a_correlation_is_not_one_by_where_zero_lies(offset):
    """Far from a covariate's mean intercept and slope correlate by nearly -1 in any data."""
    table = simulate_table(3, n_groups=14)
    one, two = (
        reconcile_sound(Model("y ~ x + w + (x | g)", each))
        for each in (table, table.assign(x=3.0 * table["x"] + offset))
    )
    assert abs(two.table.loc["corr(Intercept,x|g)", "posterior"]) > 0.9
    assert (two.verdict, two.evidence.identity.finding) == (one.verdict, "same")
    told = [[each for each in both.reasons if "corr(" in each] for both in (one, two)]
    assert told == [[], []]
