"""The figure of conditional effects: its lines are those of the fit, by both libraries."""

import numpy as np
import pytest
from gallery_fits import fit_reml, make_model

from bhlm.errors import ArgumentError
from bhlm.plots.effects import plot_effects
from bhlm.plots.johnson_neyman import plot_johnson_neyman
from bhlm.plots.marks import Band, Line, Points, Rule, Segments

BY = {"sector": [0, 1], "gm(ses)": [-1, 0, 1]}


def test_lines_and_words_are_those_of_the_fit():
    fit = fit_reml("hsb_intercepts_and_slopes")
    figure = plot_effects(fit, "cwc(ses)", by=BY)
    slopes = fit.effects("cwc(ses)", by=BY)
    lines = [mark for mark in figure.panels[0].marks if isinstance(mark, Line)]
    bands = [mark for mark in figure.panels[0].marks if isinstance(mark, Band)]
    drawn = [np.diff(line.y[[0, -1]]).item() / np.diff(line.x[[0, -1]]).item() for line in lines]
    assert drawn == pytest.approx(slopes["slope"].tolist(), abs=1e-8)
    assert all(
        (b.low < m.y).all() and (m.y < b.high).all() for b, m in zip(bands, lines, strict=True)
    )
    assert lines[3].name == "sector = 1, gm(ses) = -1"
    assert "2.95 (2.64 to 3.25) at sector = 0, gm(ses) = 0" in figure.reading
    assert len(figure.plotly().data) >= 6
    assert figure.matplotlib().axes[0].get_xlabel() == "cwc(ses)"
    with pytest.raises(ArgumentError, match="12 lines are more than one panel tells apart"):
        plot_effects(fit, "cwc(ses)", by={**BY, "gm(ses)": [0, 1, 2, 3], "sector": [0, 1, 2]})


def test_rows_and_groups_have_the_colour_of_the_nearest_line():
    fit, model = fit_reml("hsb_intercepts_and_slopes"), make_model("hsb_intercepts_and_slopes")
    figure = plot_effects(fit, "cwc(ses)", by="sector", rows=True, groups=True, model=model)
    marks = figure.panels[0].marks
    _, fixed, _, y = model.rows()
    public = fixed[:, fit.moments.fixed.index("sector")] == 0
    step = -(-len(y) // 1000)
    points = [mark for mark in marks if isinstance(mark, Points)]
    assert [mark.role for mark in points] == ["first", "second"]
    assert len(points[0].x) == public[::step].sum()
    segments = [mark for mark in marks if isinstance(mark, Segments)]
    assert sum(len(mark.x0) for mark in segments) == 100
    own = fit.coefficients()
    slopes = own.loc[own["coefficient"] == "cwc(ses)", "eb"].to_numpy()
    drawn = np.concatenate([(m.y1 - m.y0) / (m.x1 - m.x0) for m in segments])
    assert np.abs(drawn[:, None] - slopes).min(axis=1).max() < 1e-9
    with pytest.raises(ArgumentError, match=r"'gm\(ses\)' is not that; leave groups= out"):
        plot_effects(fit, "gm(ses)", groups=True)


def test_the_band_along_a_moderator_changes_colour_at_its_bounds():
    fit = fit_reml("hsb_intercepts_and_slopes")
    at = {"sector": 1}
    figure = plot_johnson_neyman(fit, "cwc(ses)", by="gm(ses)", at=at, method="z")
    bounds = fit.johnson_neyman("cwc(ses)", by="gm(ses)", at=at, method="z").bounds
    marks = figure.panels[0].marks
    rules = [mark.value for mark in marks if isinstance(mark, Rule) and mark.axis == "x"]
    assert rules == pytest.approx([bounds[1]])  # the other is outside of the data
    clear = [mark for mark in marks if isinstance(mark, Band) and mark.role == "first"]
    assert [band.x[0] for band in clear] == pytest.approx([bounds[1]])
    assert all((band.low > 0).all() for band in clear)
    assert figure.reading == fit.johnson_neyman("cwc(ses)", by="gm(ses)", at=at, method="z").reading


def test_both_answers_stand_in_one_figure(hsb_both):
    figure = plot_effects(hsb_both, "cwc(ses)")
    assert figure.table["source"].unique().tolist() == ["REML", "posterior"]
    lines = [mark for mark in figure.panels[0].marks if isinstance(mark, Line)]
    assert [line.role for line in lines] == ["first", "prior"]
    assert "the posterior means are within" in figure.reading
