"""Figures of the comparisons come from the committed results, and leave nobody out."""

import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from bhlm.plots.figure import Figure
from bhlm.plots.marks import Note, Points

FOLDER = Path(__file__).parents[2] / "comparisons"
RESULTS = FOLDER / "results"
# The sources print as many digits, and a table is made of the same floats.
EXACT = 1e-12


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """The script, imported from its folder as Python would."""
    sys.path.insert(0, str(FOLDER))
    try:
        import figures as script
    finally:
        sys.path.remove(str(FOLDER))
    return script


@pytest.fixture
def rows(figures: ModuleType) -> pd.DataFrame:
    return figures.read_gallery(RESULTS / "gallery.csv")


def texts_of(figure: Figure) -> list[str]:
    return [mark.text for panel in figure.panels for mark in panel.marks if isinstance(mark, Note)]


def warnings_of(figure: Figure) -> int:
    return sum(
        len(mark.x)
        for panel in figure.panels
        for mark in panel.marks
        if isinstance(mark, Points) and mark.role == "warning"
    )


def drawn_at(figure: Figure, row: str, panel: int = 0) -> np.ndarray:
    """Return the x of a program's points, without the mark of no result."""
    chosen = figure.panels[panel]
    assert chosen.y.ticks is not None
    at = chosen.y.ticks[1].index(row)
    found = [
        mark.x[np.abs(mark.y - at) < 0.5]
        for mark in chosen.marks
        if isinstance(mark, Points) and mark.role != "warning"
    ]
    return np.sort(np.concatenate(found))


def answer(rows: pd.DataFrame, program: str, status: str, message: str) -> pd.DataFrame:
    """Return the table as it were if a program had given no result on any model."""
    there = rows["program"] == program
    first = rows[there].drop_duplicates(["model", "method", "variant"])
    numbers = ["estimate", "se", "loglik", "loglik_gap", "criterion_gap", "seconds"]
    none = first.assign(status=status, message=message, parameter="", version="")
    none[numbers] = np.nan
    return pd.concat([rows[~there], none], ignore_index=True)


def read_texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


def test_the_committed_figures_are_those_of_the_committed_results(figures, tmp_path):
    found = figures.make_figures(RESULTS)
    figures.write_figures(found, tmp_path)
    committed = RESULTS / "figures"
    names = sorted(path.name for path in committed.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == len(found) + 1
    for name in names:
        new, old = tmp_path / name, committed / name
        if name == "README.md":
            assert new.read_text(encoding="utf-8") == old.read_text(encoding="utf-8")
            continue
        assert read_texts(new) == read_texts(old)
        # Another matplotlib may lay out the same figure a little otherwise.
        if f"Matplotlib v{version('matplotlib')}" in old.read_text(encoding="utf-8"):
            assert new.read_bytes() == old.read_bytes()


class TestGaps:
    def test_every_fit_is_drawn(self, figures, rows):
        figure = figures.plot_gaps(rows)
        fits = rows[rows["method"] == "reml"].drop_duplicates(["model", "program", "variant"])
        judged = int(np.isfinite(fits["criterion_gap"]).sum())
        drawn = sum(
            len(mark.x)
            for mark in figure.panels[0].marks
            if isinstance(mark, Points) and mark.role != "warning"
        )
        assert drawn == judged > 100
        gaps = fits[(fits["program"] == "statsmodels") & (fits["variant"] == "lbfgs")]
        expected = np.sort(np.maximum(gaps["criterion_gap"].dropna().abs(), figures.FLOOR))
        found = drawn_at(figure, "statsmodels (lbfgs)")
        np.testing.assert_allclose(found, expected, rtol=EXACT)

    def test_a_failed_fit_is_named(self, figures, rows):
        figure = figures.plot_gaps(rows)
        assert "hsb_anova and 6 more; failed: dyestuff, dyestuff2" in texts_of(figure)
        assert warnings_of(figure) == 1
        assert "2 runs of 196 gave no result (2 failed: statsmodels (lbfgs))" in figure.reading

    def test_an_absent_rival_is_named(self, figures, rows):
        absent = answer(rows, "glmmTMB", "not installed", "no package glmmTMB")
        figure = figures.plot_gaps(absent)
        assert "not installed: every model" in texts_of(figure)
        assert "glmmTMB" in figure.panels[0].y.ticks[1]
        assert len(drawn_at(figure, "glmmTMB")) == 0
        assert "14 not installed" in figure.reading
        assert "glmmTMB" in figure.reading

    def test_a_fit_above_the_maximum_is_not_hidden(self, figures, rows):
        better = rows.copy()
        there = (better["program"] == "lme4") & (better["model"] == "rail")
        better.loc[there & (better["variant"] == "default"), "criterion_gap"] = -0.5
        figure = figures.plot_gaps(better)
        assert 0.5 in drawn_at(figure, "lme4")
        assert any("above bhlm: rail" in text for text in texts_of(figure))
        assert "lme4 lies above it on rail" in figure.reading


class TestEstimates:
    def test_prints_are_judged_beyond_their_rounding(self, figures, rows):
        printed = figures.measure_printed(rows[rows["method"] == "reml"])
        assert "hsb_means_as_outcomes" not in set(printed["model"])  # printed of other columns
        ours = printed[printed["program"] == "bhlm"].set_index("model")["value"]
        # xtmixed prints 36.7002 where the maximum is at 36.70020, and .6939782 for .6939891.
        assert ours["hsb_random_coefficient"] == pytest.approx(1.56e-5, rel=0.02)
        # "12.63697" stands for whatever is less than half a unit of its last digit away.
        near = rows[(rows["method"] == "reml") & (rows["model"] == "hsb_anova")].copy()
        there = (near["program"] == "nlme") & (near["parameter"] == "Intercept")
        others = near["program"].isin(["nlme"]) & ~there
        for value, beyond in (("12.636974", 0.0), ("12.636980", 5e-6)):
            near.loc[there, "estimate"] = float(value)
            found = figures.measure_printed(near[~others])
            found = found[found["program"] == "nlme"]["value"]
            assert found.tolist() == pytest.approx([beyond / 12.63697] * 2, abs=1e-9)

    def test_failed_and_timed_out_runs_are_named(self, figures, rows):
        assert any("failed: dyestuff" in text for text in texts_of(figures.plot_estimates(rows)))
        figure = figures.plot_posteriors(rows)
        assert "timed out: hsb_random_coefficient" in texts_of(figure)
        assert warnings_of(figure) == 2

    def test_no_rival_at_all(self, figures, rows):
        for program in ("Bambi", "brms", "rstanarm", "PyMC, conditional model of bhlm"):
            rows = answer(rows, program, "not installed", "there is none")
        figure = figures.plot_posteriors(rows)
        assert texts_of(figure) == ["not installed: every model"] * 4
        assert figure.reading.startswith("No rival has a posterior to compare; 12 runs of 12")
        figure.matplotlib()


class TestSeconds:
    def test_reasons_stand_where_a_time_would(self, figures):
        table = pd.read_csv(RESULTS / "speed_reml.csv")
        figure = figures.plot_reml_seconds(table)
        assert [panel.title for panel in figure.panels] == list(dict.fromkeys(table["data"]))
        texts = texts_of(figure)
        assert len(texts) == len(table)  # each run says its seconds, or why it has none
        assert texts.count("not asked: minutes") == 4
        assert sum(text.startswith("failed: Error in lme") for text in texts) == 2
        assert warnings_of(figure) == int(table["seconds"].isna().sum())

    def test_the_printed_table_is_read(self, figures):
        table = figures.read_speed_bayes(RESULTS / "speed_bayes.txt").set_index("program")
        assert table.loc["bhlm", "rate"] == 2706.5
        assert table.loc["Bambi, uncorrelated", "second"] == 12.43
        assert np.isnan(table.loc["rstanarm", "second"])
        assert table.loc["rstanarm", "first"] == 332.42

    def test_a_rival_without_numbers_keeps_its_row(self, figures, rows, tmp_path):
        lines = (RESULTS / "speed_bayes.txt").read_text(encoding="utf-8").splitlines()
        at = next(k for k, line in enumerate(lines) if line.startswith("Bambi"))
        lines[at] = f"{'Bambi, uncorrelated':20} not installed; run make rivals"
        path = tmp_path / "speed_bayes.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        figure = figures.plot_bayes_seconds(figures.read_speed_bayes(path), rows)
        assert texts_of(figure).count("not installed; run make rivals") == 3
        assert "without numbers there: Bambi, uncorrelated" in figure.reading
        assert "brms on hsb_random_coefficient: timed out" in figure.reading


def test_the_script_runs_on_a_copy(figures, tmp_path, monkeypatch, capsys):
    for name in ("gallery.csv", "speed_reml.csv", "speed_bayes.txt"):
        shutil.copy(RESULTS / name, tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures.py", "--results", str(tmp_path)])
    figures.main()
    assert (tmp_path / "figures" / "loglik_gaps.svg").is_file()
    assert "loglik_gaps: 11 fits of 154 by rivals" in capsys.readouterr().out
