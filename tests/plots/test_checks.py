"""Figures of the model checks: numbers against dense algebra and the checks, words, limits."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from gallery_fits import make_model, sample_posterior
from simulate import dense_covariance, simulate_rows, simulate_table

from bhlm.bayes.checks.loo_pit import predict_rows_left_out
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.moments.groups import place_own_rows
from bhlm.plots.influence import plot_influence
from bhlm.plots.khat import MOST, draw_khat, plot_khat
from bhlm.plots.loo_pit import plot_loo_pit
from bhlm.plots.marks import Band, Line, Note, Points, Rule
from bhlm.plots.predictive import draw_predictive, plot_predictive
from bhlm.plots.residuals import (
    GRID,
    _bound,
    find_band,
    plot_residuals,
    standardize_effects,
    studentize_rows,
)
from bhlm.plots.shrinkage import plot_shrinkage
from bhlm.sources.datasets import load_dataset
from bhlm.sources.gallery import find_model, load_data
from bhlm.studies.uniformity import simultaneous_band

pytestmark = pytest.mark.wide

# What rounding leaves of dense algebra over some dozen rows.
EXACT = 1e-8
# A PIT from 1,000 of 4,000 draws: it varies over draws by a few percent, and over their mean by
# a thirtieth of that.
PIT = 5e-3
# Shares inside a 95 % band over 400 samples have a standard error of 1.1 %.
COVERAGE = 0.04
HEAVY = 1_000_000  # bytes of a figure's JSON
HOSTILE = "<script>alert(1)</script> \"'& {{ 7*7 }} $x_1$ \\ _"


@pytest.fixture(scope="module")
def model(hsb_model):
    return hsb_model


@pytest.fixture(scope="module")
def reml(hsb_reml):
    return hsb_reml


@pytest.fixture(scope="module")
def post(hsb_post):
    return hsb_post


@pytest.fixture(scope="module")
def sleep():
    return make_model("sleepstudy"), sample_posterior("sleepstudy")


def draw_both(figure):
    """Draw a figure by both libraries and return what Plotly makes of it."""
    figure.matplotlib()
    drawn = figure.plotly().to_json()
    assert len(drawn) < HEAVY
    return json.loads(drawn)


def marks_of(figure, kind, panel=0):
    return [mark for mark in figure.panels[panel].marks if isinstance(mark, kind)]


def dense_projection(rows, fit):
    """Return V (n, n) and P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1, from n x n matrices."""
    v = dense_covariance(rows, fit.g, fit.sigma2)
    inverse = np.linalg.inv(v)
    weighted = inverse @ rows.x
    return v, inverse - weighted @ np.linalg.solve(rows.x.T @ weighted, weighted.T)


@pytest.mark.parametrize("random", ["x", "(x + t | g)", "(1 | g)"])
def test_row_residuals_have_the_variance_they_are_divided_by(random):
    """Conditional residuals are sigma^2 P y with covariance sigma^4 P, from dense matrices."""
    rows = simulate_rows(21, random, n_groups=14, largest=9)
    fit = rows.model.reml()
    _, p = dense_projection(rows, fit)
    expected = fit.sigma2 * (p @ rows.y) / np.sqrt(fit.sigma2**2 * np.diag(p))
    ours = studentize_rows(fit, rows.labels, rows.x, rows.z, rows.y)
    np.testing.assert_allclose(ours, expected, rtol=EXACT, atol=EXACT)


def test_effects_have_the_variance_they_are_divided_by():
    """u_hat is G Z'P y with covariance G Z'P Z G, from dense matrices."""
    rows = simulate_rows(22, n_groups=14, largest=9)
    fit = rows.model.reml()
    _, p = dense_projection(rows, fit)
    ours = standardize_effects(fit)
    for j, label in enumerate(fit.moments.groups):
        z = np.where((rows.labels == label)[:, None], rows.z, 0.0) @ fit.g
        u, cov = z.T @ p @ rows.y, z.T @ p @ z
        np.testing.assert_allclose(ours[j], u / np.sqrt(np.diag(cov)), rtol=1e-6)


def test_coefficient_without_variance_has_no_panel():
    entry = find_model("dyestuff2")
    model = Model(entry.formula, load_data(entry))
    fit = model.reml()
    assert np.isnan(standardize_effects(fit)).all()
    figure = plot_residuals(fit, model=model)
    assert [panel.title for panel in figure.panels] == ["Level 1: rows"]
    assert figure.reading.endswith("; REML finds no variance of Intercept over groups to draw.")
    bare = plot_residuals(fit)
    assert bare.table is None
    assert bare.reading == "REML finds no variance of Intercept over groups to draw."
    draw_both(bare)


@pytest.mark.parametrize("n", [6, 160, pytest.param(1000, marks=pytest.mark.slow)])
def test_band_is_the_exact_one(n):
    _, low, high = find_band(n)
    least, most = simultaneous_band(n, GRID, 0.95)
    np.testing.assert_allclose(low * n, least, atol=EXACT)
    np.testing.assert_allclose(high * n, most, atol=EXACT)


def test_band_of_many_values_holds_nineteen_of_twenty_samples():
    n = 5000
    z, low, high = find_band(n)
    values = np.sort(np.random.default_rng(3).random((400, n)), axis=1)
    below = np.array([np.searchsorted(row, z) for row in values]) / n
    inside = np.all((below >= low) & (below <= high), axis=1)
    assert abs(inside.mean() - 0.95) < COVERAGE


def test_drawn_band_holds_just_the_samples_that_are_inside():
    """Order statistics stay between the two curves exactly if counts stay within the band."""
    n = 40
    z, low, high = find_band(n)
    rng = np.random.default_rng(4)
    share = (np.arange(n) + 0.5) / n
    lower, upper = _bound(share, low, high, z, (0.0, 1.0))
    verdicts = []
    for shift in np.linspace(0.5, 1.8, 90):
        values = np.sort(rng.random(n) ** shift)
        below = np.searchsorted(values, z) / n
        inside = bool(np.all((below >= low) & (below <= high)))
        assert inside == bool(np.all((values >= lower) & (values <= upper)))
        verdicts.append(inside)
    assert not verdicts[0]
    assert not verdicts[-1]
    assert 10 < sum(verdicts) < 80


def test_residuals_of_both_levels(model, reml):
    figure = plot_residuals(reml, model=model)
    titles = [panel.title for panel in figure.panels]
    assert titles == [
        *("Level 1: rows", "Level 2: Intercept", "Level 2: cwc(ses)", "Level 2: distances")
    ]
    table = figure.table[figure.table["sample"] == "distances"]
    distances = reml.group_residuals().set_index("school")["mahalanobis"]
    np.testing.assert_allclose(
        table["observed"], distances.loc[table["group"].astype(int)], rtol=1e-12
    )
    assert table["observed"].is_monotonic_increasing
    # mathach has a floor and a ceiling: its residuals have short tails, on the upper side most.
    assert figure.reading.startswith("The 7,185 residuals of the rows leave the band (")
    values = studentize_rows(reml, *model.rows())
    assert f"{100 * np.mean(values > 1.959964):.1f} % in the upper" in figure.reading
    assert "the 160 effects of Intercept stay within the band" in figure.reading
    assert len(figure.table[figure.table["sample"] == "level 1"]) <= 200
    for at in range(4):
        assert marks_of(figure, Band, at)
        assert marks_of(figure, Line, at)
    draw_both(figure)


def test_normal_residuals_stay_and_heavy_ones_leave():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(80), 25)
    u = rng.normal(size=80)[g]
    readings = []
    for noise in (rng.normal(size=len(g)), rng.standard_t(3, size=len(g))):
        table = pd.DataFrame({"g": g, "y": u + noise})
        model = Model("y ~ 1 + (1 | g)", table)
        readings.append(plot_residuals(model.reml(), model=model).reading)
    assert readings[0].startswith("The 2,000 residuals of the rows stay within the band")
    assert readings[1].startswith("The 2,000 residuals of the rows leave the band")


def test_pit_of_some_rows_is_that_of_all(sleep):
    model, post = sleep
    labels, x, z, y = model.rows()
    at = place_own_rows(post.moments, labels, y)
    some = np.arange(3, len(y), 7)
    ours = predict_rows_left_out(post, at[some], x[some], z[some], y[some])
    theirs = model.loo_rows(post).table["pit"].to_numpy()[some]
    np.testing.assert_allclose(ours, theirs, atol=PIT)
    assert np.ptp(ours) > 0.8


def test_loo_pit_says_what_it_found(sleep, monkeypatch):
    model, post = sleep
    figure = plot_loo_pit(post, model)
    pit = figure.table["pit"].to_numpy()
    inner = 100 * np.mean((pit > 0.25) & (pit < 0.75))
    assert f"Of all 180 rows, {inner:.1f} % lie in the middle half" in figure.reading
    # Subject 332 has one day far from all others, and so sigma is too large for the rest.
    assert "is not as the model says (p = " in figure.reading
    few = plot_loo_pit(post, model, rows=100)
    assert few.reading.startswith("Of a random 100 rows out of 180, ")
    assert len(few.table) == 100
    assert few.reading == plot_loo_pit(post, model, rows=100).reading
    drawn = draw_both(figure)
    assert any(len(trace["x"]) for trace in drawn["data"])


def test_pit_of_group_means_needs_no_rows(sleep):
    _, post = sleep
    figure = plot_loo_pit(post)
    check = post.check(kind="new groups")
    p = check.groups[check.groups["statistic"] == "mean"]["p"]
    np.testing.assert_allclose(figure.table["pit"], np.sort(1.0 - p))
    assert figure.reading.startswith("Of the means of 18 groups, ")
    assert plot_loo_pit(post, Model.from_moments(post.moments)).reading == figure.reading


def test_loo_pit_refuses(sleep):
    model, post = sleep
    with pytest.raises(ArgumentError, match="rows=0 is not a number of rows"):
        plot_loo_pit(post, model, rows=0)
    prior = replace(post, settings=replace(post.settings, prior_only=True))
    with pytest.raises(ArgumentError, match="prior_only"):
        plot_loo_pit(prior, model)


@pytest.mark.slow
def test_khat_shows_what_was_measured(sleep):
    _, post = sleep
    loo = post.loo(refit=True)
    figure = draw_khat(post, loo)
    khat = loo.table["khat"].to_numpy()
    np.testing.assert_array_equal(figure.table["khat"], khat)
    drawn = draw_both(figure)
    points = [trace for trace in figure.plotly().data if trace.mode == "markers"]
    np.testing.assert_allclose(points[0].y, khat, rtol=1e-6)
    anew = int(loo.table["refitted"].sum())
    assert f"for 1 of 18 groups; {anew} groups were left out by sampling anew" in figure.reading
    assert "(Subject 332)" in figure.reading
    assert "332" in json.dumps(drawn["data"])
    assert "leaving one out needs the posterior sampled without it anew" in plot_khat(post).reading


def test_threshold_of_khat_is_in_sight(post):
    figure = plot_khat(post)
    assert "below the threshold of 0.70 for all 160 groups" in figure.reading
    drawn = figure.plotly()
    low, high = drawn.layout.yaxis.range
    assert low < 0.7 < high
    assert [shape.y0 for shape in drawn.layout.shapes] == [0.7]
    low, high = figure.matplotlib().axes[0].get_ylim()
    assert low < 0.7 < high


def test_khat_of_many_groups_draws_the_largest(post):
    loo = post.loo(refit=False)
    figure = draw_khat(post, loo, most=60, largest=10)
    khat = loo.table["khat"]
    assert len(figure.table) == 60 < MOST
    assert set(khat.nlargest(10).index) <= set(figure.table["group"])
    assert "60 of 160 are drawn" in figure.reading


def test_influence_names_the_largest(reml):
    figure = plot_influence(reml)
    table = reml.influence().set_index("school")
    np.testing.assert_allclose(figure.table.set_index("group")["cook"], table["cook"], rtol=1e-9)
    largest = table["cook"].idxmax()
    names = [note.text for note in marks_of(figure, Note)]
    assert names[0] == str(largest)
    changes = table.loc[largest, list(reml.moments.fixed)] / np.sqrt(np.diag(reml.beta_cov))
    name = changes.abs().astype(float).idxmax()
    assert f"Leaving out school {largest} moves the fixed effects most" in figure.reading
    assert f"{name} by {changes[name]:.2f} standard errors" in figure.reading
    above = int(np.sum(table["cook"] > 4 / 160))
    assert f"and {above} of 160 groups are above 4 / J" in figure.reading
    assert [rule.value for rule in marks_of(figure, Rule)] == [4 / 160]
    draw_both(figure)


def test_influence_of_names_that_the_table_has_too():
    table = simulate_table(23, n_groups=12)
    plain = plot_influence(Model("y ~ x + (1 | g)", table).reml())
    other = plot_influence(
        Model(
            "y ~ cook + (1 | singular)", table.rename(columns={"x": "cook", "g": "singular"})
        ).reml()
    )
    pd.testing.assert_frame_equal(plain.table, other.table)
    assert other.reading == plain.reading.replace("out g", "out singular").replace(
        "x by", "cook by"
    )


def test_influence_is_told_in_standard_errors():
    """Which fixed effect moves most does not depend on the units of its column."""
    table = simulate_table(27, n_groups=12)
    table["z"] = 1e6 * table["x"]
    plain, other = (
        plot_influence(Model(f"y ~ {x} + (1 | g)", table).reml()).reading for x in ("x", "z")
    )
    assert "x by" in plain
    assert other == plain.replace("x by", "z by")


def test_influence_of_groups_that_the_model_cannot_do_without():
    table = simulate_table(24, n_groups=12, largest=12)
    table["k"] = np.where(table["g"] == 3, "only here", "elsewhere")
    figure = plot_influence(Model("y ~ k + (1 | g)", table).reml())
    assert 3 not in figure.table["group"].tolist()
    assert "without 1 group the model cannot be estimated" in figure.reading
    draw_both(figure)


def test_distances_of_a_covariate_called_p():
    table = simulate_table(25, n_groups=20)
    plain, other = (
        plot_residuals(Model(f"y ~ {x} + ({x} | g)", table.rename(columns={"x": x})).reml())
        for x in ("x", "p")
    )
    np.testing.assert_allclose(plain.table["observed"], other.table["observed"], rtol=EXACT)


def test_predictive_check_is_told_by_its_furthest_summary(sleep):
    _, post = sleep
    figure = plot_predictive(post)
    check = post.check()
    pd.testing.assert_frame_equal(figure.table, check.overall)
    row = check.overall.loc[check.overall["p_two_sided"].idxmin()]
    far = int(np.sum(check.overall["p_two_sided"] < 0.01))
    assert far == 2
    assert f"Of 9 summaries over the groups {far} are outside" in figure.reading
    assert row["statistic"] == "residual SD"
    assert f"the {row['over']} of the residual SD, {row['observed']:.1f} where" in figure.reading
    # Eighteen groups have no density to speak of.
    assert [panel.title for panel in figure.panels] == ["mean", "slope(Days)", "residual SD"]


def test_predictive_check_of_many_groups_draws_densities():
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(40), 6)
    table = pd.DataFrame({"g": g, "y": rng.normal(size=40)[g] + rng.normal(size=240)})
    figure = plot_predictive(Model("y ~ 1 + (1 | g)", table).sample(seed=1))
    drawn = draw_both(figure)
    lines = [trace for trace in drawn["data"] if trace.get("mode") == "lines"]
    # For each statistic the densities of the replicates and the observed one.
    assert len(lines) >= 2 * 25


def test_predictive_check_of_too_many_numbers_draws_intervals(sleep):
    _, post = sleep
    check = replace(post.check(), data=None)
    figure = draw_predictive(check)
    assert [panel.title for panel in figure.panels] == ["mean", "slope(Days)", "residual SD"]
    replicates, observed = marks_of(figure, Points, 2)
    rows = check.overall[check.overall["statistic"] == "residual SD"]
    half = 0.5 * (rows["upper"] - rows["lower"])
    np.testing.assert_allclose(observed.x, (rows["observed"] - rows["predicted"]) / half)
    np.testing.assert_allclose(replicates.x_high - replicates.x_low, 2.0)
    draw_both(figure)


@pytest.mark.slow
def test_predictive_check_of_few_groups_draws_no_density():
    """Six batches have no density: their mean, SD and furthest stand beside their intervals."""
    model = Model("Yield ~ 1 + (1 | Batch)", load_dataset("dyestuff"))
    figure = plot_predictive(model.sample(seed=1, draws=200, tune=200))
    assert [panel.title for panel in figure.panels] == ["mean", "residual SD"]
    assert figure.panels[0].y.ticks[1] == ("mean", "SD", "largest deviation")
    draw_both(figure)


@pytest.mark.parametrize(("n_groups", "first", "last"), [(5, "0", "4"), (23, "1", "20")])
def test_groups_in_order_are_counted_from_one(n_groups, first, last):
    """Few stand by their names, more by numbers, and no axis tells of a group that is not there."""
    table = simulate_table(7, n_groups=n_groups)
    model = Model("y ~ x + (1 | g)", table)
    post = model.sample(seed=1, draws=100, tune=100, chains=2)
    for figure in (plot_influence(model.reml()), plot_khat(post)):
        axis = figure.panels[0].x
        places, texts = axis.ticks
        assert (texts[0], texts[-1]) == (first, last)
        assert places[0] == 1.0
        assert places[-1] <= n_groups
        assert 0.0 < axis.range[0] < 1.0
        assert n_groups < axis.range[1] < n_groups + 1.5
        points = next(mark for mark in figure.panels[0].marks if isinstance(mark, Points))
        np.testing.assert_array_equal(points.x, np.arange(1, n_groups + 1))
        assert points.hover[2].startswith("g 2\n")


def test_of_many_groups_those_drawn_stand_where_they_are(post):
    loo = post.loo(refit=False)
    figure = draw_khat(post, loo, most=60, largest=10)
    points = next(mark for mark in figure.panels[0].marks if isinstance(mark, Points))
    khat = loo.table["khat"].to_numpy()
    np.testing.assert_array_equal(points.y, khat[points.x.astype(int) - 1])


def test_what_rounding_makes_is_drawn_as_zero():
    """Of groups with the same mean, no axis counts in 1e-17 and no sentence in 1e-31."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(np.arange(6), 10)})
    table["y"] -= table.groupby("g")["y"].transform("mean")
    model = Model("y ~ 1 + (1 | g)", table)
    reml = model.reml()
    shrinkage, influence = plot_shrinkage(reml), plot_influence(reml)
    low, high = shrinkage.panels[0].x.range
    assert high - low > 0.1
    points = next(mark for mark in shrinkage.panels[0].marks if isinstance(mark, Points))
    assert not points.x.any()
    low, high = influence.panels[0].y.range
    assert high - low > 0.1
    assert influence.reading.startswith("Leaving out any one of the 6 groups leaves the fixed")
    post = model.sample(seed=1, draws=100, tune=100, chains=2)
    told = [figure.reading for figure in (shrinkage, influence)] + list(post.check().outside)
    assert any("is 0, below what the model predicts" in text for text in told)
    assert not any("e-1" in text or "e-3" in text for text in told)


def test_predictive_check_of_tiny_numbers_and_hostile_names():
    table = simulate_table(26, n_groups=12)
    table["y"] *= 1e-9
    labels = np.array([f"{HOSTILE}{i}" for i in range(12)], dtype=object)
    name = "`$x^2_{<b>`"
    table = table.assign(g=labels[table["g"]]).rename(columns={"x": name[1:-1]})
    post = Model(f"y ~ {name} + (1 | g)", table).sample(seed=1, draws=100, tune=300, chains=2)
    for figure in (plot_predictive(post), plot_khat(post)):
        drawn = json.dumps(draw_both(figure))
        assert "<script>" not in drawn
        assert "<b>" not in drawn


def test_names_with_a_slash_are_drawn() -> None:
    table = simulate_table(3, n_groups=12, largest=9).rename(columns={"g": "g/h"})
    model = Model("y ~ I(x / 2) + (I(x / 2) | `g/h`)", table)
    post = model.sample(seed=1, draws=100, tune=100, chains=2)
    assert "x" in str(plot_predictive(post).plotly().to_plotly_json()["layout"])
