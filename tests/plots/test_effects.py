"""The figure of conditional effects: its lines are those of the fit, by both libraries."""

import numpy as np
import pytest
from gallery_fits import fit_reml

from bhlm.errors import ArgumentError
from bhlm.plots.effects import plot_effects
from bhlm.plots.marks import Band, Line

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
