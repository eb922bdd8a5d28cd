"""Predictive checks of units of several factors: dense rows, replicates, what is outside."""

from dataclasses import replace

import numpy as np
import pytest
from level_designs import FORMULAS, make_table
from level_posteriors import draw_fit

from bhlm.bayes.checks.level_predictive import check_units
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.likelihood.within_levels import expect_units, regress_units, spread_new_effects
from bhlm.moments.cells import read_cell_rows
from bhlm.sources.gallery import find_model, load_data

EXACT = 1e-9
CASES = [
    ("two nested", "school"),
    ("two nested", "school:klass"),
    pytest.param("crossed", "rater", marks=pytest.mark.slow),
    pytest.param("crossed within nested", "klass", marks=pytest.mark.slow),
]


class Rows:
    """The rows of a design, and least squares within the units of a factor, one by one."""

    def __init__(self, kind, factor):
        model = Model(FORMULAS[kind], make_table(kind))
        self.cells = model.cells
        self.at = list(self.cells.groups).index(factor)
        self.rows = read_cell_rows(model.formula, make_table(kind))
        self.columns = [make_table(kind)[name].to_numpy() for name in ("x", "w")]

    def regress(self, j, y):
        """Return mean, slopes and residual sum of squares, and the covariance's (C'C)^-1."""
        own = self.rows.codes[self.at] == j
        kept = [c[own] for c in self.columns if np.ptp(c[own]) > 1e-9]
        design = np.column_stack([np.ones(own.sum()), *(c - c.mean() for c in kept)])
        fit, *_ = np.linalg.lstsq(design, y[own], rcond=None)
        rss = np.sum((y[own] - design @ fit) ** 2)
        return fit, rss, len(kept)


@pytest.mark.parametrize(("kind", "factor"), CASES)
def test_what_is_expected_is_least_squares_of_the_mean(kind, factor):
    rows = Rows(kind, factor)
    units = regress_units(rows.cells, rows.at)
    rng = np.random.default_rng(2)
    read = rows.rows
    beta = rng.normal(size=(3, read.x.shape[1]))
    counts = rows.cells.groups.values()
    effects = [rng.normal(size=(3, n, z.shape[1])) for n, z in zip(counts, read.z, strict=True)]
    found = expect_units(units, beta, effects)
    for d in range(3):
        mu = read.x @ beta[d]
        for z, codes, u in zip(read.z, read.codes, effects, strict=True):
            mu = mu + np.einsum("iq,iq->i", z, u[d][codes])
        for j in range(len(units.n)):
            fit, rss, m = rows.regress(j, mu)
            np.testing.assert_allclose(found.located[d, j, : m + 1], fit, rtol=EXACT, atol=EXACT)
            assert found.left[d, j] == pytest.approx(rss, rel=1e-7, abs=1e-8)
    for j in range(len(units.n)):
        fit, rss, m = rows.regress(j, read.y)
        np.testing.assert_allclose(units.observed[j, : m + 1], fit, rtol=EXACT)
        df = units.n[j] - 1 - m
        if df > 0:
            assert units.observed[j, -1] == pytest.approx(np.sqrt(rss / df))


@pytest.mark.parametrize(("kind", "factor"), CASES[:1])
def test_new_effects_add_their_variance(kind, factor):
    rows = Rows(kind, factor)
    units = regress_units(rows.cells, rows.at)
    read = rows.rows
    inner = list(rows.cells.groups).index("school:klass")
    z, codes = read.z[inner], read.codes[inner]
    root = np.array([[1.0, 0.0], [0.4, 0.7]])
    g = root @ root.T
    found = np.einsum("jsab,ab->js", spread_new_effects(units, inner), g)
    for j in range(len(units.n)):
        wide = np.zeros((len(z), rows.cells.groups["school:klass"], 2))
        wide[np.arange(len(z)), codes] = z
        v = np.einsum("iuq,qr,kur->ik", wide, g, wide)
        own = read.codes[rows.at] == j
        x = rows.columns[0][own]
        slope = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
        inside = v[np.ix_(own, own)]
        np.testing.assert_allclose(found[j], [inside.mean(), slope @ inside @ slope], rtol=1e-8)


def test_the_check_tells_a_unit_that_is_far_off():
    fit = draw_fit("two nested", draws=120)
    found = check_units(fit, "school:klass")
    assert found.group == "school:klass"
    assert list(found.groups.columns[:2]) == ["school:klass", "statistic"]
    assert set(found.groups["statistic"]) == {"mean", "slope(x)", "residual SD"}
    assert ((found.groups["p"] >= 0.0) & (found.groups["p"] <= 1.0)).all()
    again = fit.check("school:klass")
    assert again.groups.equals(found.groups)
    # A unit whose rows are moved away has a mean that no draw of its own effects reaches.
    cells = fit.moments
    mean = cells.mean.copy()
    mean[5, -1] += 20.0
    moved = replace(fit, moments=replace(cells, mean=mean))
    told = check_units(moved, "school:klass")
    assert not told.ok
    assert any("mean of school:klass" in sentence for sentence in told.far_groups)
    with pytest.raises(ArgumentError, match="choose one of school, school:klass"):
        fit.check("pupil")
    with pytest.raises(ArgumentError, match="kind='old'"):
        fit.check(kind="old")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["same groups", "new groups"])
@pytest.mark.parametrize(("design", "factor"), [("two nested", None), ("crossed", "item")])
def test_p_values_are_those_of_replicates(design, factor, kind):
    """P(replicate >= observed) averages over draws what replicates count."""
    fit = draw_fit(design, draws=1500, spread=0.02)
    found = check_units(fit, factor, kind=kind, draws=3000)
    table = found.groups
    for statistic, rows in table.groupby("statistic"):
        name = statistic
        drawn = found.data["posterior_predictive"][name].values
        counted = (drawn.reshape(-1, drawn.shape[-1]) >= rows["observed"].to_numpy()).mean(axis=0)
        error = np.sqrt(np.maximum(rows["p"] * (1 - rows["p"]), 1e-3) / 3000)
        assert (np.abs(counted - rows["p"]) < 4.5 * error).all(), statistic
    has_sd = "residual SD" in set(table["statistic"])
    assert has_sd == (kind == "same groups" or factor == "item")


def test_new_effects_of_a_model_without_slopes_spread_the_means_alone():
    """Three casks of two rows each: a new cask's effect has a third of the weight in its batch."""
    entry = find_model("pastes")
    cells = Model(entry.formula, load_data(entry)).cells
    spread = spread_new_effects(regress_units(cells, 0), 1)
    np.testing.assert_allclose(spread, np.full((10, 1, 1, 1), 1 / 3))
