"""Figures for papers: what fits a column, whose names stand on it, and what is no fit at all."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
from gallery_fits import fit_reml, make_model, sample_posterior
from matplotlib.figure import Figure as Native
from scipy import stats
from simulate import simulate_table

import bhlm
from bhlm import plots
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.plots.choice import merge_names
from bhlm.plots.marks import Note, Points, Segments
from bhlm.plots.matplotlib_figures import INCHES, find_families, relabel
from bhlm.reml.residuals import log_dispersion

LABELS = {"cwc(ses)": "SES within school", "gm(ses)": "Mean SES", "school": "School"}


@pytest.fixture(scope="module")
def table_4_5() -> RemlFit:
    return fit_reml("hsb_intercepts_and_slopes")


@pytest.fixture(scope="module")
def meta() -> RemlFit:
    random = np.random.default_rng(1)
    v = random.uniform(0.01, 0.2, 14)
    y = 0.3 + random.normal(0.0, np.sqrt(v + 0.06))
    trial = [f"Author {i} and colleagues ({1990 + i})" for i in range(14)]
    table = pd.DataFrame({"y": y, "v": v, "trial": trial})
    return Model("y ~ 1 + (1 | trial)", table, known_variance="v").reml()


FIGURES = {
    "effects": lambda fit: plots.plot_effects(
        fit, "cwc(ses)", by={"sector": [0, 1], "gm(ses)": [-1, 0, 1]}
    ),
    "forest": plots.plot_forest,
    "caterpillar": plots.plot_caterpillar,
    "homogeneity": plots.plot_homogeneity,
}


@pytest.mark.parametrize("width", ["column", pytest.param("page", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_and_its_legend_fit_the_width(table_4_5, name, width):
    drawn = FIGURES[name](table_4_5).matplotlib(width=width, labels=LABELS, title="A title")
    assert drawn.get_size_inches()[0] == INCHES[width]
    drawn.canvas.draw()
    (legend,) = drawn.legends
    box = legend.get_window_extent()
    assert box.x0 >= -1
    assert box.x1 <= drawn.bbox.width + 1
    inner = [text for place in drawn.axes for text in (place.xaxis.label, place.yaxis.label)]
    for text in (*inner, *(place.title for place in drawn.axes)):
        assert text.get_window_extent().width <= drawn.bbox.width
    said = " ".join(
        text.get_text() for text in drawn.findobj(lambda each: hasattr(each, "get_text"))
    )
    assert "cwc(ses)" not in said.replace("(cwc(ses)|", "").replace(",cwc(ses)|", "")


def test_names_within_names_stay():
    labels = {"ses": "SES", "cwc(ses)": "SES within", "school": "School"}
    assert relabel("Effect of cwc(ses)", labels) == "Effect of SES within"
    assert relabel("gm(ses)", labels) == "gm(ses)"
    assert relabel("ses = 1", labels) == "SES = 1"
    assert relabel("sd(Intercept|school)", {"sd(Intercept|school)": "SD"}) == "SD"


def test_axes_of_ones_own(table_4_5):
    figure = plots.plot_effects(table_4_5, "cwc(ses)", by="sector")
    whole = Native()
    left, right = whole.subplots(1, 2)
    assert figure.matplotlib(ax=right, title="Slopes") is whole
    assert not left.lines
    assert len(right.lines) == 2
    assert right.get_title() == "Slopes"
    two = plots.plot_caterpillar(table_4_5)
    assert two.matplotlib(ax=np.array([left, right])) is whole
    with pytest.raises(ArgumentError, match="ax= has 1 axes, and the figure has 2 panels; give"):
        two.matplotlib(ax=left)
    with pytest.raises(ArgumentError, match="width='wide' is not known; choose one of column"):
        two.matplotlib(width="wide")


def test_a_caterpillar_names_its_groups(table_4_5):
    axis = plots.plot_caterpillar(table_4_5, coefficient="Intercept").panels[0].x
    places, texts = axis.ticks
    assert axis.turned
    assert len(texts) == 24
    effects = table_4_5.coefficients()
    effects = effects[effects["coefficient"] == "Intercept"].set_index("school")
    order = (effects["eb"] - effects["fixed"]).sort_values(kind="stable").index
    assert [texts[0], texts[-1]] == [str(order[0]), str(order[-1])]
    assert [str(order[int(at) - 1]) for at in places] == list(texts)


WRONG = {
    "nothing": None,
    "text": "fit",
    "a table": pd.DataFrame({"y": [1.0]}),
    "a number": 3,
    "a list": [1, 2],
}
FIRST = {"plot_effects": ("x",), "plot_johnson_neyman": ("x",), "plot_group": (1,)}
KEYS = {"plot_johnson_neyman": {"by": "w"}}


@pytest.mark.parametrize("name", [each for each in plots.__all__ if each.startswith("plot_")])
def test_every_figure_refuses_a_wrong_object_in_one_line(name, table_4_5):
    function = getattr(plots, name)
    model = make_model("hsb_intercepts_and_slopes")
    for wrong in (*WRONG.values(), model, plots.plot_forest(table_4_5)):
        with pytest.raises(bhlm.BhlmError) as refusal:
            function(wrong, *FIRST.get(name, ()), **KEYS.get(name, {}))
        text = str(refusal.value)
        assert "\n" not in text
        assert "give" in text or "leave" in text


@pytest.mark.parametrize(
    "name",
    [
        *("attribution", "curves", "evolution", "intervals", "pairs", "prior_posterior"),
        *("ranks", "sensitivity", "traces"),
    ],
)
def test_names_go_by_arvizs_argument_too(name):
    assert "var_names" in inspect.signature(getattr(plots, f"plot_{name}")).parameters


def test_variables_stand_for_their_parameters(table_4_5):
    every = table_4_5.parameters
    assert merge_names(None, "beta", every) == list(table_4_5.moments.fixed)
    assert merge_names(None, ["sd|school", "sigma"], every) == [
        "sd(Intercept|school)", "sd(cwc(ses)|school)", "sd(Residual)",
    ]  # fmt: skip
    assert merge_names("sector", None, every) == ["sector"]
    with pytest.raises(ArgumentError, match="are the same; give one of them"):
        merge_names("a", "b", every)


def test_bins_of_residuals_by_hand(table_4_5):
    model = make_model("hsb_intercepts_and_slopes")
    figure = plots.plot_residual_fitted(table_4_5, model=model)
    rows = model.residuals(table_4_5).sort_values("fitted", kind="stable")
    first = rows.iloc[: int(figure.table["n"][0])]["conditional"]
    found = figure.table.iloc[0]
    assert found["mean"] == pytest.approx(first.mean(), abs=1e-9)
    assert found["sd"] == pytest.approx(first.std(), abs=1e-9)
    low, high = stats.t.interval(0.95, len(first) - 1, first.mean(), stats.sem(first))
    assert [found["lower"], found["upper"]] == pytest.approx([low, high], abs=1e-9)
    assert len(figure.matplotlib().axes) == 2
    hidden = plots.plot_residual_fitted(table_4_5, model=model, single_rows=False)
    assert not any(getattr(mark, "role", "") == "data" for mark in hidden.panels[0].marks)


def test_homogeneity_counts_who_is_outside(table_4_5):
    figure = plots.plot_homogeneity(table_4_5)
    log_sd, df = log_dispersion(table_4_5)
    pooled = np.exp(df @ log_sd / df.sum())
    p = stats.chi2.cdf(df * np.exp(2 * log_sd) / pooled**2, df)
    outside = (p < 0.025) | (p > 0.975)
    assert figure.table["outside"].tolist() == outside.tolist()
    found = table_4_5.test_homogeneity()
    assert f"in {outside.sum()} of 160 groups" in figure.reading
    assert f"chi2({found['df']}) = {found['chi2']:.1f}" in figure.reading


def test_one_wide_interval_does_not_press_the_others_together(table_4_5):
    """The SD of slopes of Table 4.5 reaches to 11 posterior SDs by REML: an arrow tells so."""
    post = sample_posterior("hsb_intercepts_and_slopes")
    figure = plots.plot_forest(bhlm.reconcile(table_4_5, post))
    table = figure.table
    far = table[(table["source"] == "REML") & (table["parameter"] == "sd(cwc(ses)|school)")]
    assert far["to"].item() > 6.0
    panel = figure.panels[0]
    assert panel.x.range[1] < 6.0
    assert [mark.text for mark in panel.marks if isinstance(mark, Note)] == [
        f"{far['to'].item():.0f} →"
    ]
    drawn = [mark for mark in panel.marks if isinstance(mark, Segments)]
    assert max(np.max(mark.x1) for mark in drawn) < panel.x.range[1]
    assert "an arrow tells where an estimate or an interval lies beyond" in figure.reading


def test_what_is_far_from_zero_is_told_at_the_edge_of_a_forest(table_4_5):
    figure = plots.plot_forest(table_4_5)
    position = figure.table.set_index("parameter")["position"]
    far = position[position.abs() > 20.0]
    assert "Intercept" in far.index
    marks = figure.panels[0].marks
    told = [mark.text for mark in marks if isinstance(mark, Note)]
    assert told == [f"{value:.0f} →" for value in far]
    (points,) = [mark for mark in marks if isinstance(mark, Points)]
    assert len(points.x) == len(position) - len(far)
    assert np.abs(points.x).max() <= 20.0


def test_studies_stand_in_order_with_their_mean(meta):
    figure = plots.plot_studies(meta)
    assert figure.table["estimate"].is_monotonic_increasing
    ticks = figure.panels[0].y.ticks
    assert len(ticks[0]) == 15
    assert ticks[1][-1] == "Mean"
    found = meta.heterogeneity()
    assert f"{found.lower:.3f} and {found.upper:.3f}" in figure.reading
    assert len(figure.plotly().data) >= 6
    with pytest.raises(ArgumentError, match="is of sampling variances that are known"):
        plots.plot_studies(fit_reml("hsb_intercepts_and_slopes"))


def test_shares_of_the_variance_are_those_of_r_squared(table_4_5):
    levels = Model(
        "y ~ x + (1 | outer/g)",
        simulate_table(3, n_groups=24, largest=6).assign(outer=lambda t: t["g"] % 8),
    ).reml()
    figure = plots.plot_variance_shares({"two": table_4_5, "three": levels})
    shares = figure.table.pivot(index="fit", columns="part", values="share")
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0, 1.0])
    for name, fit in (("two", table_4_5), ("three", levels)):
        found = fit.r_squared()
        assert shares.loc[name, "Fixed effects"] == pytest.approx(found["marginal"])
        assert 1.0 - shares.loc[name, "Residual"] == pytest.approx(found["conditional"])
    assert {"outer", "outer:g"} <= set(figure.table["part"])
    with pytest.raises(ArgumentError, match="fits= has 0 fits; give 1 to 20"):
        plots.plot_variance_shares([])


def test_pairs_of_parameters(hsb_both):
    names = ["Intercept", "cwc(ses)", "sd(Intercept|school)"]
    figure = plots.plot_pairs(hsb_both, names=names)
    draws = hsb_both.post.draws
    expected = np.corrcoef(draws["Intercept"].ravel(), draws["cwc(ses)"].ravel())[0, 1]
    assert figure.table["correlation"][0] == pytest.approx(expected)
    assert len(figure.panels) == 3
    marked = [mark for mark in figure.panels[0].marks if mark.role == "reml"]
    assert marked[0].x.item() == pytest.approx(hsb_both.reml.beta[0])
    with pytest.raises(ArgumentError, match="names= has 1 of the parameters; give 2 to 7"):
        plots.plot_pairs(hsb_both.post, var_names="sigma")


def test_arvizs_figures_are_of_the_same_style(hsb_both):
    drawn = plots.plot_traces(hsb_both.post, var_names="beta").matplotlib(
        width="column", labels=LABELS
    )
    assert drawn.get_size_inches()[0] == INCHES["column"]
    place = drawn.axes[0]
    assert not place.spines["top"].get_visible()
    assert "SES within school" in [place.get_title() for place in drawn.axes]
    with pytest.raises(ArgumentError, match="'traces' is drawn by ArviZ, on axes of its own"):
        plots.plot_traces(hsb_both.post, names="cwc(ses)").matplotlib(ax=place)


@pytest.mark.parametrize("draw", [plots.plot_ranks, plots.plot_traces])
def test_each_row_of_arvizs_panels_has_its_height(hsb_both, draw):
    """Of three rows in a column none is a stripe, and no text lies in the one above."""
    drawn = draw(hsb_both.post).matplotlib(width="column")
    drawn.canvas.draw()
    tall = [place.get_window_extent().height / drawn.dpi for place in drawn.axes]
    assert min(tall) > 0.3


def test_a_logarithmic_axis_names_the_ticks_that_it_was_given(hsb_both):
    drawn = plots.plot_evolution(hsb_both.post).matplotlib(width="column")
    drawn.canvas.draw()
    for place in drawn.axes[1:]:
        assert place.get_yscale() == "log"
        assert [text.get_text() for text in place.get_yticklabels(minor=True)].count("") == len(
            place.get_yticklabels(minor=True)
        )


def test_points_at_an_edge_are_whole(hsb_both):
    place = plots.plot_energy(hsb_both.post).matplotlib(width="column").axes[0]
    low, high = place.get_ylim()
    assert low < -0.3
    assert high > 3.3


@pytest.mark.parametrize("width", ["column", pytest.param("page", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "draw", [plots.plot_sensitivity, plots.plot_loo_pit, plots.plot_prior_posterior]
)
def test_figures_of_a_posterior_fit_the_width(hsb_both, draw, width):
    """At a journal's resolution too no legend is cut, nor a label of a vertical axis."""
    drawn = draw(hsb_both.post).matplotlib(width=width)
    assert drawn.get_size_inches()[0] == INCHES[width]
    drawn.set_dpi(300)
    drawn.canvas.draw()
    labels = [place.yaxis.label for place in drawn.axes if place.get_ylabel()]
    for part in (*drawn.legends, *labels):
        box = part.get_window_extent()
        assert box.x0 >= -1
        assert box.x1 <= drawn.bbox.width + 1
        assert box.y0 >= -1
        assert box.y1 <= drawn.bbox.height + 1


@pytest.mark.parametrize("width", ["column", "page"])
def test_names_beside_their_symbols_keep_a_line_each(hsb_both, width):
    names = [str(each) for each in hsb_both.post.parameters]
    drawn = plots.plot_sensitivity(hsb_both.post, names=names).matplotlib(width=width)
    drawn.canvas.draw()
    (place,) = drawn.axes
    boxes = [text.get_window_extent() for text in place.get_yticklabels()]
    assert len(boxes) == len(names)
    for above, below in itertools.pairwise(boxes):
        assert above.y0 > below.y1


@pytest.mark.parametrize("draw", [plots.plot_prior_posterior, plots.plot_sensitivity])
def test_figures_of_the_priors_draw_what_is_asked(hsb_both, draw):
    wanted = ["sd(Intercept|school)", "sd(cwc(ses)|school)"]
    by_name = draw(hsb_both.post, names=wanted)
    by_variable = draw(hsb_both.post, var_names="sd|school")
    for figure in (by_name, by_variable):
        titles = [panel.title for panel in figure.panels]
        assert (titles if any(titles) else list(figure.panels[0].y.ticks[1])) == wanted
    with pytest.raises(ArgumentError, match="'nothing'"):
        draw(hsb_both.post, names=["nothing"])


def test_letters_are_those_of_the_pages_where_the_machine_has_them(monkeypatch):
    from matplotlib import font_manager

    entry = font_manager.FontEntry
    fonts = [entry(fname="/a/arial.TTF", name="Arial"), entry(fname="/b/h.otf", name="Roboto")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    find_families.cache_clear()
    try:
        assert find_families() == ["Arial", "DejaVu Sans"]  # no CFF font, which PDF cannot embed
    finally:
        find_families.cache_clear()
