"""Figures: every mark by both libraries, labels as the text they are, colours that stand out."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.subplots import make_subplots

import bhlm
from bhlm import plots
from bhlm.errors import ArgumentError
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Band, Bars, Line, Note, Panel, Points, Rule, Segments
from bhlm.plots.plotly_figures import describe_panels, draw_plotly, write_panels
from bhlm.plots.style import LONGEST, PAGES, ROLES, SERIES, shorten

X = np.array([0.0, 1.0, 2.0])
MARKS = {
    "points": Points(X, X**2, "reml", "A", hover=("one", "two\nlines", "three")),
    "intervals": Points(X, X, "data", y_low=X - 1, y_high=X + 2, x_low=X - 3, x_high=X + 4),
    "line": Line(X, X, "posterior", "B"),
    "steps": Line(X, X, "posterior", steps=True),
    "band": Band(X, X - 1, X + 1, "posterior", "C"),
    "segments": Segments(X, X, X + 1, X, "ols", "D"),
    "bars": Bars(X, X - 1, X, "prior", "E"),
    "flat bars": Bars(X, X - 1, X, "prior", horizontal=True),
    "rule": Rule(1.5, "x", "reference", "F"),
    "floor": Rule(1.5, "y", "reference"),
    "note": Note(1.0, 2.0, "here"),
}
HOSTILE = "<script>alert(1)</script> \"'& {{ 7*7 }} $x_1$ $ \\ %{x} \u202e _"
# WCAG 2.1, success criterion 1.4.11, for graphical objects.
CONTRAST = 3.0
# 1.4.3, for text.
TEXT_CONTRAST = 4.5


def draw(*marks: Any, **axis: Any) -> Figure:
    return Figure("f", "F", "Read.", None, (Panel(Axis("x", **axis), Axis("y"), marks),))


@pytest.mark.parametrize("mark", MARKS.values(), ids=list(MARKS))
def test_each_mark_is_drawn_by_both_libraries(mark: Any, tmp_path: Path) -> None:
    empty = draw()
    blank, full = (figure.plotly().to_plotly_json() for figure in (empty, draw(mark)))
    drawn = (len(part["data"]) + len(part["layout"].get("shapes", ())) for part in (blank, full))
    notes = len(full["layout"].get("annotations", ()))
    before, after = drawn
    assert after + notes > before
    axes = draw(mark).matplotlib().axes[0]
    assert len(axes.get_children()) > len(empty.matplotlib().axes[0].get_children())
    draw(mark).save(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_intervals_reach_their_ends() -> None:
    trace = draw(MARKS["intervals"]).plotly().data[0]
    assert list(X + trace.error_y.array) == list(X + 2)
    assert list(X - trace.error_x.arrayminus) == list(X - 3)


def test_one_legend_entry_per_name() -> None:
    figure = draw(MARKS["points"], MARKS["points"], MARKS["rule"], MARKS["rule"])
    shown = [trace.name for trace in figure.plotly().data if trace.showlegend]
    assert sorted(shown) == ["A", "F"]
    (legend,) = figure.matplotlib().legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["A", "F"]


def test_text_is_shown_as_it_is() -> None:
    hostile = draw(
        Points(X, X, "reml", HOSTILE, hover=(HOSTILE,) * 3),
        Note(0.0, 0.0, HOSTILE),
        ticks=((0.0, 1.0), (HOSTILE, "b")),
    )
    content = json.dumps(hostile.plotly().to_plotly_json(), default=str)
    # Plotly reads tags, entities and what stands between dollars.
    assert "<script" not in content
    assert "$x_1$" not in content
    assert "&lt;script&gt;" in content
    drawn = hostile.matplotlib()
    drawn.canvas.draw()  # mathematical text would be parsed here
    (legend,) = drawn.legends
    assert "<script>" in legend.get_texts()[0].get_text()


def test_hover_keeps_lines_and_nothing_else_of_html() -> None:
    trace = draw(MARKS["points"]).plotly().data[0]
    assert list(trace.hovertext) == ["one", "two<br>lines", "three"]


def test_long_labels_are_cut_where_one_sees_it() -> None:
    assert shorten("a" * 10_000) == "a" * (LONGEST - 1) + "…"
    assert shorten("a\nb\x1b[31m\u202ec") == "a b[31mc"


def test_a_dark_page_changes_every_colour() -> None:
    figure = draw(MARKS["line"])
    light, dark = (figure.plotly(page=page) for page in ("light", "dark"))
    assert light.data[0].line.color != dark.data[0].line.color
    assert light.layout.paper_bgcolor != dark.layout.paper_bgcolor
    assert light.data[0].meta["role"] == "posterior"


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255.0 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, two: str) -> float:
    bright, dim = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("page", PAGES)
def test_colours_stand_out_from_the_page(page: str) -> None:
    paper = PAGES[page]["paper"]
    found = {role: contrast(getattr(look, page), paper) for role, look in ROLES.items()}
    assert [role for role, value in found.items() if value < CONTRAST] == []
    assert contrast(PAGES[page]["ink"], paper) >= TEXT_CONTRAST


def test_series_differ_by_more_than_colour() -> None:
    looks = [(ROLES[role].symbol, ROLES[role].dash) for role in SERIES]
    assert len(set(looks)) == len(looks)
    assert all(one[0] != two[0] for one, two in pairwise(looks))


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"figure\.doc.*\.png"):
        draw(MARKS["line"]).save(tmp_path / "figure.doc")
    assert list(tmp_path.iterdir()) == []


def test_html_carries_its_script(tmp_path: Path) -> None:
    draw(MARKS["line"]).save(tmp_path / "figure.html")
    text = (tmp_path / "figure.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in text
    assert 'src="http' not in text


@pytest.mark.parametrize("name", plots.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(plots, name).__name__ == name
    assert bhlm.plots is plots
    assert name in dir(plots)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="plot_nothing"):
        _ = plots.plot_nothing


@pytest.mark.parametrize("columns", [1, 2])
def test_a_pages_json_is_that_of_plotlys_own_figure(columns: int) -> None:
    marks = [*MARKS.values(), Line(X, np.array([1.0, np.nan, 2.0]), "ols")]
    rule = Rule(2.0, "x", "reference", "G")
    axes = Axis("x", log=True), Axis("y", turned=True)
    panels = tuple(Panel(*axes, (mark, rule), "<T>") for mark in marks)
    written = json.loads(write_panels(panels, columns=columns, height=900))
    expected = json.loads(draw_plotly(panels, columns=columns, height=900).to_json())
    for each in (written, expected):
        each["layout"].pop("template")
    assert written == expected


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (7, 3), (10, 1)])
def test_panels_stand_where_plotly_puts_subplots(count: int, columns: int) -> None:
    panel = Panel(Axis(""), Axis(""), (MARKS["line"],), "T")
    ours = describe_panels([panel] * count, columns=columns, height=600)["layout"]
    rows = -(-count // columns)
    below = ours.get(f"yaxis{columns + 1}", {"domain": [0.0, 0.0]})
    spacing = ours["yaxis"]["domain"][0] - below["domain"][1]
    theirs = make_subplots(
        rows=rows, cols=columns, vertical_spacing=spacing, subplot_titles=["T"] * count
    ).to_plotly_json()["layout"]
    for at in range(count):
        for axis in ("xaxis", "yaxis"):
            name = f"{axis}{at + 1}" if at else axis
            assert ours[name]["anchor"] == theirs[name]["anchor"]
            assert ours[name]["domain"] == pytest.approx(theirs[name]["domain"], abs=1e-12)
            assert all(0.0 <= end <= 1.0 for end in ours[name]["domain"])
        note, title = ours["annotations"][at], theirs["annotations"][at]
        for name in ("xref", "yref", "xanchor", "yanchor", "showarrow"):
            assert note[name] == title[name]
        assert (note["x"], note["y"]) == pytest.approx((title["x"], title["y"]), abs=1e-12)


@pytest.mark.parametrize("values", [[1, 2], [-1, 300], [0, 70_000], [1.5, np.nan], []])
def test_numbers_are_packed_as_plotly_does(values: list[float]) -> None:
    points = Points(np.asarray(values), np.arange(len(values)), "posterior")
    panels = (Panel(Axis("x"), Axis("y"), (points,)),)
    written = json.loads(write_panels(panels, height=300))
    expected = json.loads(draw_plotly(panels, height=300).to_json())
    assert written["data"] == expected["data"]
