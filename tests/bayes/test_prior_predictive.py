"""Prior predictive draws against rows that are simulated one by one."""

from functools import cache

import numpy as np
import pytest
from level_designs import FORMULAS, make_table
from simulate import simulate_rows, simulate_table

from bhlm.bayes.prior_predictive import add_squares, draw_prior_predictive
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.families import Exponential, Flat, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors, draw_prior, resolve_priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.within import regress_within
from bhlm.likelihood.within_levels import regress_units
from bhlm.moments.moments import pool

PRIORS = Priors(fixed=Normal(1.0, 0.5), sd=HalfNormal(1.0), sigma=Exponential(1.0))
MONTE_CARLO = 4.5  # standard errors, over a few dozen comparisons
EXACT = 1e-9  # two orders of summation


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(6, "x", n_groups=12)


@pytest.fixture(scope="module")
def drawn(rows):
    return draw_prior_predictive(rows.model.moments, PRIORS, seed=1, draws=4000)


def simulate_statistics(rows, rng, draws):
    """Return the same summaries (draws,) of data sets simulated row by row."""
    moments = rows.model.moments
    beta, root, sigma = draw_prior(resolve_priors(PRIORS, moments), arrange(moments), rng, draws)
    at = np.searchsorted(moments.groups, rows.labels)
    shown = [rows.labels == group for group in moments.groups]
    names = list(regress_within(moments).columns)
    assert names == ["x"]  # w does not vary within groups
    found = {name: [] for name in ("response mean", "response SD", "means", "slopes", "left")}
    for d in range(draws):
        u = rng.normal(size=(moments.n_groups, 2)) @ root[d].T
        y = rows.x @ beta[d] + np.sum(rows.z * u[at], axis=1)
        y += sigma[d] * rng.normal(size=len(y))
        found["response mean"].append(y.mean())
        found["response SD"].append(y.std(ddof=1))
        means, slopes, left = [], [], []
        for mine in shown:
            means.append(y[mine].mean())
            if mine.sum() > 1:
                coefficients, rss, *_ = np.linalg.lstsq(rows.z[mine], y[mine])
                slopes.append(coefficients[1])
                if mine.sum() > 2:
                    left.append(np.sqrt(rss[0] / (mine.sum() - 2)))
        for name, values in (("means", means), ("slopes", slopes), ("left", left)):
            found[name].append((np.mean(values), np.std(values, ddof=1)))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.slow
def test_statistics_have_the_law_of_simulated_rows(rows, drawn):
    direct = simulate_statistics(rows, np.random.default_rng(2), 2000)
    expected = {name: direct[name] for name in ("response mean", "response SD")}
    for ours, name in (("mean", "means"), ("slope(x)", "slopes"), ("residual SD", "left")):
        expected[f"mean over groups of {ours}"] = direct[name][:, 0]
        expected[f"SD over groups of {ours}"] = direct[name][:, 1]
    assert list(drawn.overall) == list(expected)
    for name, values in expected.items():
        mine = drawn.overall[name]
        middle = np.median(values)
        for a, b in (
            (mine, values),
            (np.abs(mine), np.abs(values)),
            (mine > middle, values > middle),
        ):
            error = np.hypot(np.std(a) / np.sqrt(len(a)), np.std(b) / np.sqrt(len(b)))
            assert abs(np.mean(a) - np.mean(b)) < MONTE_CARLO * error, name


def test_the_squares_of_the_groups_make_up_the_whole():
    """Of a design with two slopes, groups of one row and a response far from zero."""
    table = simulate_table(6, n_groups=12)
    moments = Model("y ~ x + t + w + (x | g)", table.assign(y=table["y"] + 1e6)).moments
    within = regress_within(moments)
    observed = np.column_stack([moments.mean[:, -1], within.slopes, within.sd])
    sums, centre = np.zeros((3, 1)), 1e6
    for members in (np.arange(5), np.arange(5, 12)):
        add_squares(sums, moments, within, members, observed[None, members], centre=centre)
    n, grand, total = pool(moments)
    assert sums[0, 0] / n + centre == pytest.approx(grand[-1], rel=EXACT)
    squares = sums[1, 0] - sums[0, 0] ** 2 / n + sums[2, 0]
    assert squares == pytest.approx(total[-1, -1], rel=EXACT)


def test_observed_values_are_those_of_the_rows(rows, drawn):
    groups = [rows.y[rows.labels == group] for group in rows.model.moments.groups]
    means = np.array([y.mean() for y in groups])
    assert drawn.observed["response mean"] == pytest.approx(rows.y.mean(), rel=EXACT)
    assert drawn.observed["response SD"] == pytest.approx(rows.y.std(ddof=1), rel=EXACT)
    assert drawn.observed["mean over groups of mean"] == pytest.approx(means.mean(), rel=EXACT)
    assert drawn.observed["SD over groups of mean"] == pytest.approx(means.std(ddof=1), rel=EXACT)
    table = drawn.table
    values = drawn.overall["response SD"]
    row = table.loc["response SD"]
    assert row["p"] == np.mean(values >= rows.y.std(ddof=1))
    assert row[["lower", "median", "upper"]].tolist() == pytest.approx(
        np.quantile(values, [0.025, 0.5, 0.975])
    )


def test_groups_and_parameters_of_every_draw(rows, drawn):
    assert drawn.statistics == ("mean", "slope(x)", "residual SD")
    assert drawn.groups.shape == (4000, 12, 3)
    np.testing.assert_array_equal(np.isnan(drawn.groups[0]), np.isnan(drawn.observed_groups))
    assert np.isnan(drawn.observed_groups).any()
    mean = drawn.groups[:, :, 0].mean(axis=1)
    np.testing.assert_allclose(drawn.overall["mean over groups of mean"], mean, rtol=1e-7)
    spread = np.nanstd(drawn.groups[:, :, 2], axis=1, ddof=1)
    np.testing.assert_allclose(drawn.overall["SD over groups of residual SD"], spread, rtol=1e-5)
    assert list(drawn.draws)[:3] == ["Intercept", "x", "w"]
    assert {values.shape for values in drawn.draws.values()} == {(1, 4000)}
    error = 0.5 / np.sqrt(4000)
    assert drawn.draws["x"].mean() == pytest.approx(1.0, abs=MONTE_CARLO * error)
    text = repr(drawn)
    assert "Prior predictive of 4000 data sets, seed 1" in text
    assert "Exponential(1)" in text
    assert "response SD" in text


def test_seed_and_memory(rows):
    one = draw_prior_predictive(rows.model.moments, seed=1, draws=50)
    again = draw_prior_predictive(rows.model.moments, seed=1, draws=50)
    other = draw_prior_predictive(rows.model.moments, seed=2, draws=50)
    np.testing.assert_array_equal(one.groups, again.groups)
    assert not np.array_equal(one.overall["response SD"], other.overall["response SD"])
    lean = draw_prior_predictive(rows.model.moments, seed=1, draws=50, held=0)
    assert lean.groups is None
    for name, values in one.overall.items():
        np.testing.assert_array_equal(values, lean.overall[name])


def test_a_model_without_slopes():
    moments = Model("y ~ 1 + (1 | g)", simulate_table(6)).moments
    drawn = draw_prior_predictive(moments, seed=1, draws=10)
    assert drawn.statistics == ("mean", "residual SD")
    assert np.isfinite(drawn.table.to_numpy()).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"priors": Priors.flat()},
            PriorError,
            "the prior of Intercept is Flat, which is imp",
        ),
        ({"priors": Priors(sd={"x": Flat()})}, PriorError, r"the prior of sd\(x\|g\) is Flat"),
        ({"priors": Priors(fixed={"v": Normal(0, 1)})}, PriorError, "fixed prior for 'v', which"),
        ({"draws": 0}, ArgumentError, "draws=0 is not an integer of at least 1"),
        ({"draws": 2.5}, ArgumentError, r"draws=2\.5 is not an integer"),
        ({"seed": -1}, ArgumentError, "seed=-1 is not an integer of at least 0"),
        ({"covariance": "toeplitz"}, ArgumentError, "covariance='toeplitz' is not known"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows, arguments, error, message):
    with pytest.raises(error, match=message):
        draw_prior_predictive(rows.model.moments, **{"seed": 1, **arguments})


# School, and an item that crosses what has slopes: units that hold cells of other factors.
UNITS = [("two nested", "school"), ("crossed", "item")]


@cache
def reduce_design(kind):
    return Model(FORMULAS[kind], make_table(kind)).cells


def simulate_units(kind, factor, rng, draws):
    """Return the summaries (draws,) of data sets of several factors simulated row by row."""
    cells, table = reduce_design(kind), make_table(kind)
    n = len(table)
    columns = {"Intercept": np.ones(n), "x": table["x"].to_numpy(), "w": table["w"].to_numpy()}
    structure = arrange_prior(cells)
    resolved = resolve_priors(PRIORS, cells, structure=structure)
    beta, root, sigma = draw_prior(resolved, structure, rng, draws)
    y = beta @ np.array([columns[name] for name in cells.fixed])
    y += sigma[:, None] * rng.normal(size=(draws, n))
    for each, part, span in zip(cells.factors, structure.parts, structure.spans, strict=True):
        codes = table.groupby(list(each.columns)).ngroup().to_numpy()
        u = rng.normal(size=(draws, codes.max() + 1, part.q)) @ root[:, span, span].swapaxes(1, 2)
        for at, name in enumerate(part.names):
            y += u[:, codes, at] * columns[name]
    slopes = regress_units(cells, list(cells.groups).index(factor)).within.columns
    regressors = np.column_stack([columns[name] for name in ("Intercept", *slopes)])
    units = []
    for unit in np.unique(table[factor]):
        own = np.flatnonzero(table[factor] == unit)
        fitted, rss, *_ = np.linalg.lstsq(regressors[own], y[:, own].T)
        left = np.sqrt(rss / (len(own) - regressors.shape[1]))
        units.append((y[:, own].mean(axis=1), fitted[1], left))
    found = {"response mean": y.mean(axis=1), "response SD": y.std(axis=1, ddof=1)}
    of_units = np.array(units)
    for at, name in enumerate(("mean", "slope(x)", "residual SD")):
        found[f"mean over groups of {name}"] = of_units[:, at].mean(axis=0)
        found[f"SD over groups of {name}"] = of_units[:, at].std(axis=0, ddof=1)
    return found


@pytest.mark.parametrize(
    ("kind", "factor"), [UNITS[0], pytest.param(*UNITS[1], marks=pytest.mark.slow)]
)
def test_units_of_several_factors_have_the_law_of_simulated_rows(kind, factor):
    cells = reduce_design(kind)
    drawn = draw_prior_predictive(cells, PRIORS, seed=1, draws=1500, factor=factor)
    assert drawn.factor == factor
    expected = simulate_units(kind, factor, np.random.default_rng(2), 1500)
    assert set(expected) <= set(drawn.overall)
    for name, values in expected.items():
        mine, middle = drawn.overall[name], np.median(values)
        for a, b in ((mine, values), (mine > middle, values > middle)):
            error = np.hypot(np.std(a) / np.sqrt(len(a)), np.std(b) / np.sqrt(len(b)))
            assert abs(np.mean(a) - np.mean(b)) < MONTE_CARLO * error, name


def test_the_squares_of_units_make_up_the_whole():
    """The observed statistics of a factor's units give back the response's mean and SD."""
    cells = reduce_design("crossed")
    units = regress_units(cells, 1)
    sums = np.zeros((3, 1))
    add_squares(sums, units.units, units.within, slice(None), units.observed[None], centre=0.0)
    n, grand, total = pool(cells)
    assert sums[0, 0] / n == pytest.approx(grand[-1], rel=EXACT)
    squares = sums[1, 0] - sums[0, 0] ** 2 / n + sums[2, 0]
    assert squares == pytest.approx(total[-1, -1], rel=EXACT)


def test_several_factors_take_the_one_with_the_fewest_units_and_blocks_of_draws():
    cells = reduce_design("two nested")
    one = draw_prior_predictive(cells, seed=1, draws=20)
    assert one.factor == "school"
    assert one.groups.shape == (20, 7, len(one.statistics))
    np.testing.assert_array_equal(one.observed_groups, regress_units(cells, 0).observed)
    assert "sd(Intercept|school:klass)" in one.draws
    assert "groups by 'school'" in repr(one)
    blocks = draw_prior_predictive(cells, seed=1, draws=20, block=1)
    for name in one.draws:
        np.testing.assert_array_equal(one.draws[name], blocks.draws[name])
    assert np.isfinite(blocks.table.to_numpy()).all()
    with pytest.raises(ArgumentError, match="factor='pupil' is not a grouping factor; choose one"):
        draw_prior_predictive(cells, seed=1, factor="pupil")
