"""Figures of the groups: their numbers against the fits and the rows, their words, their limits."""

import json

import numpy as np
import pandas as pd
import pytest
from gallery_fits import fit_reml
from simulate import simulate_table

from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.plots.caterpillar import plot_caterpillar
from bhlm.plots.group_lines import find_band, plot_group, take_rows
from bhlm.plots.groups import (
    ENDS,
    LABEL,
    SHOWN,
    choose_shown,
    draw_lines,
    find_column,
    find_held,
    join_effects,
    list_columns,
    mean_beta,
    thin_posterior,
)
from bhlm.plots.marks import Line, Points, Segments
from bhlm.plots.shrinkage import plot_shrinkage

pytestmark = pytest.mark.wide

# What rounding leaves of sums over some dozen rows.
EXACT = 1e-8
# Of a covariate far from zero, whose coefficients cancel, seven digits more are lost.
FAR = 1e-3
HEAVY = 1_000_000  # bytes of a figure's JSON
HOSTILE = "<script>alert(1)</script> \"'& {{ 7*7 }} $x_1$ \\ _"
FORMULAS = {
    "slope": "y ~ x + (x | g)",
    "cross-level": "y ~ x * w + (x | g)",
    "other columns": "y ~ x + t + w + (x | g)",
    "two slopes": "y ~ x + t + (x + t | g)",
    "fixed slope": "y ~ x * w + (1 | g)",
    "no slope": "y ~ w + (1 | g)",
    "no intercept": "y ~ x + (0 + x | g)",
    "centred": "y ~ cwc(x) + gm(x) + (cwc(x) | g)",
    "interaction alone": "y ~ w:x + (1 | g)",
}


@pytest.fixture(scope="module")
def model(hsb_model):
    return hsb_model


@pytest.fixture(scope="module")
def both(hsb_both):
    return hsb_both


@pytest.fixture(scope="module")
def many(many_reml):
    return many_reml


@pytest.fixture(scope="module")
def singular():
    return fit_reml("dyestuff2")


def draw_both(figure):
    """Draw a figure by both libraries and return what Plotly makes of it."""
    figure.matplotlib()
    drawn = figure.plotly().to_json()
    assert len(drawn) < HEAVY
    return json.loads(drawn)


def marks_of(figure, kind, role, panel=0):
    return [m for m in figure.panels[panel].marks if isinstance(m, kind) and m.role == role]


def lines_of(model, reml, post=None, *, origin=0.0):
    beta = {"reml": reml.beta} | ({} if post is None else {"posterior": mean_beta(post)})
    return draw_lines(reml.moments, join_effects(reml, post), beta, origin=origin)


def along(lines, key, rows):
    return lines.at[key][rows.at] + lines.slope[key][rows.at] * (rows.x - lines.origin)


@pytest.mark.parametrize("name", FORMULAS)
def test_lines_are_what_the_model_predicts(name):
    """A line at a row's x is the row's prediction, if other columns are where the line has them."""
    table = simulate_table(11, n_groups=15, largest=12)
    if name == "other columns":
        table["t"] = table.groupby("g")["t"].transform("mean")
    model = Model(FORMULAS[name], table)
    reml = model.reml()
    lines = lines_of(model, reml, origin=0.7)
    rows = take_rows(model, reml.moments, lines.column)
    for key, kind in (("eb", "conditional"), ("population", "population")):
        expected = model.predict(reml, kind=kind)["estimate"].to_numpy()
        if name == "two slopes":  # the other slope's column stays at the group's mean
            means = pd.Series(along(lines, key, rows)).groupby(rows.at).mean()
            expected = pd.Series(expected).groupby(rows.at).mean()
            np.testing.assert_allclose(means, expected, rtol=EXACT, atol=EXACT)
        else:
            np.testing.assert_allclose(along(lines, key, rows), expected, rtol=EXACT, atol=EXACT)


def test_slopes_hold_other_columns(hsb):
    """The slope is the change of the prediction when x alone is one larger."""
    table = simulate_table(12, n_groups=15, largest=12)
    model = Model("y ~ x * w + t + (x + t | g)", table)
    reml = model.reml()
    lines = lines_of(model, reml)
    more = table.assign(x=table["x"] + 1.0)
    change = model.predict(reml, more)["estimate"] - model.predict(reml, table)["estimate"]
    at = take_rows(model, reml.moments, "x").at
    np.testing.assert_allclose(lines.slope["eb"][at], change, rtol=EXACT, atol=EXACT)
    assert find_held(reml.moments, "x") == ("t",)


def test_own_line_is_least_squares(model, both, hsb):
    lines = lines_of(model, both.reml)
    for label in (1224, 9586):
        j = int(np.flatnonzero(both.reml.moments.groups == label)[0])
        rows = hsb[hsb["school"] == label]
        slope, at = np.polyfit(rows["ses"] - rows["ses"].mean(), rows["mathach"], 1)
        assert lines.slope["ols"][j] == pytest.approx(slope, rel=EXACT)
        assert lines.at["ols"][j] == pytest.approx(at, rel=EXACT)


@pytest.mark.slow
def test_posterior_line_and_band_are_the_posterior_predictions(model, both):
    post = both.post
    lines = lines_of(model, both.reml, post)
    rows = take_rows(model, post.moments, lines.column)
    expected = model.predict(post)
    np.testing.assert_allclose(
        along(lines, "posterior", rows), expected["estimate"], rtol=EXACT, atol=EXACT
    )
    mine = rows.at == 17
    low, high = find_band(post, 17, lines, rows.x[mine])
    np.testing.assert_allclose(low, expected["lower"][mine], rtol=EXACT)
    np.testing.assert_allclose(high, expected["upper"][mine], rtol=EXACT)


def test_lines_survive_a_column_far_from_zero():
    table = simulate_table(13, n_groups=15, largest=12)
    near = Model("y ~ x + (x | g)", table)
    far = Model("y ~ x + (x | g)", table.assign(x=table["x"] + 1e6))
    for key in ("ols", "eb", "population"):
        ours = lines_of(far, far.reml(), origin=1e6)
        theirs = lines_of(near, near.reml())
        np.testing.assert_allclose(ours.at[key], theirs.at[key], atol=FAR)
        np.testing.assert_allclose(ours.slope[key], theirs.slope[key], atol=FAR)


def test_column_along_which_groups_are_drawn():
    table = simulate_table(14)
    columns = {name: find_column(Model(f, table).moments) for name, f in FORMULAS.items()}
    assert columns["two slopes"] == columns["fixed slope"] == "x"
    assert columns["no slope"] is None
    assert columns["centred"] == "cwc(x)"
    assert columns["interaction alone"] == "w:x"
    assert find_held(Model("y ~ x * t + (x | g)", table).moments, "x") == ("t", "x:t")


def test_list_names():
    assert list_columns(["a"]) == "a"
    assert list_columns(["a", "b"]) == "a and b"
    assert list_columns(list("abcde")) == "a, b, c and 2 more"


def test_choice_keeps_both_ends_and_spreads():
    assert choose_shown(SHOWN).tolist() == list(range(SHOWN))
    for n in (SHOWN + 1, 777, 10_000):
        shown = choose_shown(n)
        assert len(shown) <= SHOWN
        assert np.all(np.diff(shown) > 0)
        assert shown[:ENDS].tolist() == list(range(ENDS))
        assert shown[-ENDS:].tolist() == list(range(n - ENDS, n))
        assert np.ptp(np.diff(shown)[ENDS:-ENDS]) <= 1


def test_caterpillar_holds_both_estimates_in_order(both):
    figure = plot_caterpillar(both)
    assert [panel.title for panel in figure.panels] == ["Intercept", "cwc(ses)"]
    effects = both.group_effects()
    for name in ("Intercept", "cwc(ses)"):
        ours = figure.table[figure.table["coefficient"] == name].set_index("group")
        theirs = effects[effects["coefficient"] == name].set_index("school").loc[ours.index]
        assert ours["mean"].is_monotonic_increasing
        for column, source in (("u", "eb"), ("mean", "mean"), ("low", "lower"), ("high", "upper")):
            np.testing.assert_allclose(ours[column], theirs[source], rtol=1e-12)
        pev = both.reml.coefficients().query("coefficient == @name").set_index("school")["pev"]
        half = 1.959963984540054 * np.sqrt(pev.loc[ours.index])
        np.testing.assert_allclose(ours["u_high"] - ours["u"], half, rtol=1e-9)
        np.testing.assert_allclose(ours["u"] - ours["u_low"], half, rtol=1e-9)
        clear = int(np.sum((theirs["lower"] > 0) | (theirs["upper"] < 0)))
        lowest = f"{ours.index[0]}"
        assert f"clear of 0 in {clear or 'none'} of 160 groups" in figure.reading
        assert f"(school {lowest})" in figure.reading
    intervals = marks_of(figure, Segments, "posterior")[0]
    points = marks_of(figure, Points, "posterior")[0]
    np.testing.assert_array_equal(intervals.y0, figure.table["low"][:160])
    np.testing.assert_array_equal(intervals.y1, figure.table["high"][:160])
    np.testing.assert_array_equal(points.y, figure.table["mean"][:160])
    draw_both(figure)


def test_caterpillar_of_one_fit_and_one_coefficient(both):
    reml = plot_caterpillar(both.reml, coefficient="cwc(ses)")
    assert len(reml.panels) == 1
    assert "mean" not in reml.table
    assert not marks_of(reml, Points, "posterior")
    post = plot_caterpillar(both.post)
    assert "u" not in post.table
    with pytest.raises(ArgumentError, match="coefficient='ses' does not vary over 'school'"):
        plot_caterpillar(both.reml, coefficient="ses")


def test_caterpillar_thins_many_groups_and_says_so(many):
    figure = plot_caterpillar(many)
    rows = figure.table[figure.table["coefficient"] == "x"]
    assert len(rows) <= SHOWN
    assert rows["rank"].iloc[0] == 1
    assert rows["rank"].iloc[-1] == 700
    assert "20 lowest, the 20 highest and 160 evenly spaced of the other 660" in figure.reading
    draw_both(figure)


def test_singular_fit_has_words_of_its_own(singular):
    assert "every effect is 0" in plot_caterpillar(singular).reading
    figure = plot_shrinkage(singular)
    assert np.all(figure.table["eb"] == figure.table["fixed"])
    assert "to 0;" in figure.reading
    draw_both(figure)


def test_groups_that_are_all_alike_move_nowhere():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(np.arange(6), 10)})
    table["y"] -= table.groupby("g")["y"].transform("mean")
    reading = plot_shrinkage(Model("y ~ 1 + (1 | g)", table).reml()).reading
    assert reading == "Nothing is shrunk: least squares and empirical Bayes of 6 groups agree."


def test_shrinkage_joins_least_squares_and_empirical_bayes(both):
    figure = plot_shrinkage(both.reml)
    table = both.reml.coefficients()
    ols, eb = (
        table.pivot(index="school", columns="coefficient", values=kind) for kind in ("ols", "eb")
    )
    segments = marks_of(figure, Segments, "reference")[0]
    starts = {*zip(segments.x0, segments.y0, segments.x1, segments.y1, strict=True)}
    assert starts == {
        *zip(ols["Intercept"], ols["cwc(ses)"], eb["Intercept"], eb["cwc(ses)"], strict=True)
    }
    sds = [ols["cwc(ses)"].std(), eb["cwc(ses)"].std()]
    assert f"of cwc(ses) from {sds[0]:.2f} to {sds[1]:.3f};" in figure.reading
    fixed = marks_of(figure, Points, "population")[0]
    np.testing.assert_allclose([fixed.x[0], fixed.y[0]], both.reml.beta, rtol=1e-12)
    draw_both(figure)


def test_shrinkage_counts_what_it_does_not_draw():
    table = simulate_table(5, n_groups=20)
    fit = Model("y ~ x + (x | g)", table).reml()
    whole = fit.coefficients().dropna()
    figure = plot_shrinkage(fit)
    missing = 20 - whole["g"].nunique()
    assert missing > 1
    assert f"{missing} groups without least squares of their own are not drawn" in figure.reading
    assert whole["g"].isin(figure.table["group"]).all()
    # A group of two rows with all but the same x has least squares far from all others.
    low, high = figure.panels[0].y.range
    far = whole[whole["coefficient"] == "x"].set_index("g")["ols"]
    outside = far[(far < low) | (far > high)]
    assert len(outside) == 1
    assert "the least squares of 1 group lies off the axes" in figure.reading
    draw_both(figure)


def test_shrinkage_of_one_coefficient_has_the_line_of_equality(hsb):
    fit = Model("mathach ~ 1 + (1 | school)", hsb).reml()
    figure = plot_shrinkage(fit)
    line = marks_of(figure, Line, "reference")[0]
    np.testing.assert_array_equal(line.x, line.y)
    points = marks_of(figure, Points, "reml")[0]
    table = fit.coefficients()
    assert {*points.x} == {*table["ols"]}
    assert {*points.y} == {*table["eb"]}


def test_shrinkage_of_many_coefficients_and_many_groups(many):
    fit = Model("y ~ x + t + (x + t | g)", simulate_table(7, n_groups=30, largest=14)).reml()
    assert len(plot_shrinkage(fit).panels) == 2
    figure = plot_shrinkage(many)
    assert figure.table["group"].nunique() <= SHOWN
    assert f"drawn are {SHOWN} of the" in figure.reading
    draw_both(figure)


def test_one_group_shows_its_rows_and_lines(model, both, hsb):
    figure = plot_group(both, 1224, model=model)
    rows = hsb[hsb["school"] == 1224]
    points = marks_of(figure, Points, "data")[0]
    np.testing.assert_allclose(np.sort(points.y), np.sort(rows["mathach"]))
    assert {mark.role for mark in figure.panels[0].marks} == {
        *("data", "population", "ols", "reml", "posterior")
    }
    slopes = both.reml.coefficients().query("school == 1224 and coefficient == 'cwc(ses)'").iloc[0]
    assert f"{slopes['ols']:.2f} by its own least squares" in figure.reading
    assert f"reliability of {slopes['reliability']:.2f}" in figure.reading
    assert figure.reading.startswith("In school 1224 (47 rows)")
    draw_both(figure)


def test_one_group_by_its_text_and_without_rows(both):
    one, other = plot_group(both.reml, "1224"), plot_group(both.reml, 1224)
    assert one.reading == other.reading
    assert not marks_of(one, Points, "data")
    with pytest.raises(DataError, match="'122' is not a school of the fit"):
        plot_group(both.reml, "122")


def test_one_group_without_slope_or_least_squares():
    table = simulate_table(15, n_groups=10)
    level = Model("y ~ w + (1 | g)", table)
    figure = plot_group(level.reml(), 1, model=level)
    assert figure.panels[0].x.label == "row within g"
    lines = figure.table[figure.table["kind"] == "eb"]
    assert lines["y"].nunique() == 1
    sloped = Model("y ~ x + (x | g)", table)
    figure = plot_group(sloped.reml(), 0, model=sloped)  # a group of one row
    assert "it has no least squares of its own" in figure.reading
    assert "(1 row)" in figure.reading
    assert not marks_of(figure, Line, "ols")
    draw_both(figure)


def test_names_of_the_tables_own_columns():
    """A group called n, or coefficients called u and mean, are told from the tables' columns."""
    names = {"g": "n", "x": "u", "w": "mean"}
    table = simulate_table(5, n_groups=20)
    plain = Model("y ~ x + w + (x | g)", table).reml()
    other = Model("y ~ u + mean + (u | n)", table.rename(columns=names)).reml()
    ours, theirs = (join_effects(fit, None) for fit in (other, plain))
    np.testing.assert_allclose(ours["eb"], theirs["eb"], rtol=EXACT)
    assert plot_shrinkage(other).table["n"].tolist() == plot_shrinkage(plain).table["n"].tolist()


def test_long_labels_keep_what_tells_them_apart():
    """A label is cut in its middle, and no panel's labels reach into the next one."""
    rng = np.random.default_rng(2)
    g = np.repeat([f"the clinic of long names {at:03d}" for at in range(30)], 6)
    x = rng.normal(size=180)
    y = x + np.repeat(rng.normal(size=30), 6) + np.repeat(rng.normal(size=30), 6) * x
    fit = Model(
        "y ~ x + (x | g)", pd.DataFrame({"y": y + rng.normal(size=180), "x": x, "g": g})
    ).reml()
    figure = plot_caterpillar(fit)
    texts = figure.panels[0].x.ticks[1]
    assert len(set(texts)) == len(texts) == 15
    # Every other one of 30 has a label, and both ends: gaps of one kind, but for the last.
    gaps = np.diff(figure.panels[0].x.ticks[0])
    assert set(gaps[:-1]) == {2.0}
    assert figure.panels[0].x.ticks[0][::14] == (1.0, 30.0)
    assert all(
        len(text) <= LABEL and text[-4:] in {f" {at:03d}" for at in range(30)} for text in texts
    )
    layout = figure.plotly().layout
    inside = layout.height - 46  # less the margins, of which the legend takes some more
    between = (layout.yaxis.domain[0] - layout.yaxis2.domain[1]) * (inside - 150)
    assert between > 7 * 14 + 20  # the label, and the title of the panel below


def test_hostile_labels_are_texts():
    table = simulate_table(5, n_groups=8)
    labels = np.array([f"{HOSTILE}{i}" for i in range(7)] + ["é" * 10_000], dtype=object)
    model = Model("y ~ x + (x | g)", table.assign(g=labels[table["g"]]))
    fit = model.reml()
    for figure in (
        plot_caterpillar(fit),
        plot_shrinkage(fit),
        plot_group(fit, f"{HOSTILE}1", model=model),
    ):
        drawn = json.dumps(draw_both(figure))
        assert "<script>" not in drawn
        assert "&lt;script&gt;" in drawn or figure.name == "group"
        assert len(figure.reading) < 1000


def test_very_many_draws_are_thinned(both):
    assert thin_posterior(both.post) is both.post
    thin = thin_posterior(both.post, held=1000)
    assert thin.data["posterior"]["sigma"].size == 1000
    full = both.post.group_effects()
    # A mean of 1,000 draws is within 5 of its errors of that of 4,000, in all 320 of them.
    gap = (thin.group_effects()["mean"] - full["mean"]) / full["sd"]
    assert 0.0 < gap.abs().max() < 5.0 / np.sqrt(1000)
    few = both.post.with_data(both.post.data.isel(draw=slice(0, 300), missing_dims="ignore"))
    assert thin_posterior(few, held=1000) is few
