"""Leave-one-row-out of several factors against dense algebra, and replicated rows."""

import numpy as np
import pytest
from level_designs import FORMULAS, make_table, spell_out
from level_posteriors import draw_fit

from bhlm.bayes.checks.level_pit import check_level_pit
from bhlm.bayes.checks.level_rows import leave_out_level_rows, stream_level_rows
from bhlm.bayes.checks.predictive import thin_draws
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.moments.cells import read_cell_rows

EXACT = 1e-8  # the closed form and dense solves of 160 rows differ by rounding only
KINDS = list(FORMULAS)


def read(kind):
    return read_cell_rows(draw_fit(kind).moments.design.formula, make_table(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_is_that_of_dense_algebra(kind):
    fit, rows, dense = draw_fit(kind), read(kind), spell_out(kind)
    flat = fit.flat
    gap, log_sd = np.full((2, len(rows.y), len(flat.sigma)), np.nan)
    for part, gaps, logs in stream_level_rows(fit, rows, held=60 * len(flat.sigma)):
        gap[part], log_sd[part] = gaps, logs
    for d in (0, 41, 79):
        v = flat.sigma[d] ** 2 * np.eye(len(rows.y))
        for z, span in zip(dense.z, fit.structure.spans, strict=True):
            g = flat.root[d, span, span] @ flat.root[d, span, span].T
            v += z @ np.kron(np.eye(z.shape[1] // len(g)), g) @ z.T
        precision = np.linalg.inv(v)
        sd = 1.0 / np.sqrt(np.diag(precision))
        expected = precision @ (dense.y - dense.x @ flat.beta[d]) * sd
        np.testing.assert_allclose(gap[:, d], expected, rtol=EXACT, atol=EXACT)
        np.testing.assert_allclose(log_sd[:, d], np.log(sd), rtol=EXACT, atol=EXACT)


def test_rows_are_checked_by_their_model():
    """The table has every factor, the coarsest first; replicates have the draws' effects."""
    fit, table = draw_fit("two nested"), make_table("two nested")
    model = Model(FORMULAS["two nested"], table.set_index(table.index + 7))
    check = model.check_rows(fit, draws=40)
    found = check.loo.table
    assert found.columns[:2].tolist() == ["school", "school:klass"]
    np.testing.assert_array_equal(found["school"], table["school"])
    assert found["school:klass"].iloc[3] == f"{table['school'][3]}:{table['klass'][3]}"
    assert found.index[0] == 7
    assert found["pit"].between(0.0, 1.0).all()
    assert model.loo_rows(fit).table.equals(found)
    assert "Leave-one-row-out predictive check: 160 rows" in check.summary()
    replicates = check.data["posterior_predictive"]["y"].values.reshape(40, -1)
    picked, _ = thin_draws(fit, 40)
    rows, flat = read("two nested"), fit.flat.take(picked)
    mean = flat.beta @ rows.x.T
    for z, at, u in zip(rows.z, rows.codes, fit.all_effects, strict=True):
        mean += np.einsum("dnq,nq->dn", u[picked][:, at], z)
    scaled = (replicates - mean) / flat.sigma[:, None]
    assert abs(scaled.std() - 1.0) < 0.05  # 6400 normal deviates: five standard errors
    assert abs(scaled.mean()) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_the_pit_of_a_page_is_that_of_the_rows(kind):
    """Both average over the same draws; they differ where few carry the weight and are smoothed."""
    fit, rows = draw_fit(kind), read(kind)
    found = check_level_pit(fit, lambda: rows, most=100)
    assert found.of_rows
    assert (len(found.pit), found.total) == (100, 160)
    assert found.pit.tolist() == check_level_pit(fit, lambda: rows, most=100).pit.tolist()
    whole = check_level_pit(fit, lambda: rows)
    expected = leave_out_level_rows(fit, rows).table["pit"]
    np.testing.assert_allclose(whole.pit, expected, atol=0.03)
    with pytest.raises(DataError, match="the rows are others"):
        check_level_pit(fit, lambda: rows._replace(y=rows.y + 1.0))


def test_other_rows_and_other_fits_are_refused():
    fit, table = draw_fit("crossed"), make_table("crossed")
    model = Model(FORMULAS["crossed"], table)
    other = read_cell_rows(fit.moments.design.formula, table.assign(y=table["y"] + 1.0))
    with pytest.raises(DataError, match="the rows are others than those of the fit"):
        leave_out_level_rows(fit, other)
    with pytest.raises(DataError, match="the rows are others"):
        leave_out_level_rows(fit, read_cell_rows(fit.moments.design.formula, table[:150]))
    with pytest.raises(ArgumentError, match="LevelsFit is none; take"):
        model.check_rows(model.reml())
    with pytest.raises(ArgumentError, match="take the model that was fitted"):
        Model(FORMULAS["two nested"], make_table("two nested")).loo_rows(fit)
    with pytest.raises(DataError, match="was made from moments and has no rows"):
        Model.from_moments(model.cells).check_rows(fit)
