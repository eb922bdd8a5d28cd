"""Figures of simulation studies: what they draw is what the replicates say, failures too."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from bhlm.commands.main import main
from bhlm.errors import ArgumentError
from bhlm.plots.marks import Note, Points
from bhlm.plots.study import MOST, share_interval
from bhlm.plots.study_bias import EDGE, plot_bias
from bhlm.plots.study_coverage import plot_coverage
from bhlm.plots.study_power import plot_power
from bhlm.studies.simulation.result import StudyResult, collect_records
from bhlm.studies.simulation.run import run_study
from bhlm.studies.simulation.study import parse_study

pytestmark = pytest.mark.wide

ROUNDING = 1e-12  # relative, of the same sums in another order
PLOTS = (plot_bias, plot_coverage, plot_power)
GRID = {"groups": [6, 9], "group_size": 5, "icc": 0.5}


def plan(grid=None, **more):
    model = {"fixed": {"Intercept": 0.0, "x": -0.4}, "random": ["Intercept"]}
    content = {"seed": 3, "replicates": 2, "model": model, "grid": GRID | (grid or {})}
    content |= {"bayes": {"draws": 40, "tune": 40}, "reml": {"variances": ["wald"]}}
    return parse_study(content | more, name="tiny")


def finish(study, fits) -> StudyResult:
    """Return a result whose replicate k has the fit `fits(k)` by REML."""
    records = {k: {"replicate": k, "fits": {"reml": fits(k)}} for k in range(study.total)}
    return collect_records(study, records, ran=study.total, seconds=0.0)


def fit_reml(x, variance):
    """Return a record of REML: x (estimate, lower, upper), the same by each df method."""
    fixed = [[0.1, -1.0, 1.0], list(x)]
    methods = ("z", "satterthwaite", "kenward-roger")
    # var(Intercept|group), var(Residual), and their SDs
    rest = [[variance, 0.5, 2.0], [1.0, 0.5, 2.0], [1.0, 0.7, 1.4], [1.0, 0.7, 1.4]]
    return {
        "fixed": dict.fromkeys(methods, fixed), "variances": {"wald": rest}, "converged": True,
        "singular": False,
    }  # fmt: skip


def alternate(k):
    """Odd data sets are those of the second condition."""
    x = [(-0.3, -0.5, 0.2), (-0.8, -1.2, -0.4), (-0.2, -0.3, -0.1), (-0.6, -0.9, -0.1)][k % 4]
    return fit_reml(x, 1.0)


def points_of(figure, parameter, name, panel=0):
    """Return the points of a series in the panel of a parameter."""
    panels = [each for each in figure.panels if each.title.startswith(parameter)]
    at = figure.panels.index(panels[0]) + panel
    (found,) = (
        mark for mark in figure.panels[at].marks if isinstance(mark, Points) and mark.name == name
    )
    return found


def texts_of(figure):
    return [mark.text for panel in figure.panels for mark in panel.marks if isinstance(mark, Note)]


@pytest.fixture(scope="module")
def sampled():
    """A study that ran: a condition without variance between groups, one prior."""
    study = plan({"icc": [0.0, 0.5], "groups": 7}, priors={"default": {}})
    return run_study(study, file=None, processes=1)


@pytest.fixture
def known():
    return finish(plan(replicates=4), alternate)


class TestBias:
    def test_it_is_relative_to_the_size_of_the_true_value(self, known):
        found = points_of(plot_bias(known), "x", "reml")
        # Condition 0 has data sets 0, 2, 4, 6; its estimates are -0.3 and -0.2, twice each.
        estimates = np.array([-0.3, -0.2, -0.3, -0.2])
        bias = (estimates.mean() + 0.4) / 0.4 * 100.0
        error = 1.959963984540054 * estimates.std(ddof=1) / 2.0 / 0.4 * 100.0
        np.testing.assert_allclose(found.x[0], bias, rtol=ROUNDING)
        np.testing.assert_allclose(found.x_low[0], bias - error, rtol=ROUNDING)
        np.testing.assert_allclose(found.x_high[0], bias + error, rtol=ROUNDING)
        assert bias > 0  # an estimate above a negative value is one that is too large
        assert found.y.tolist() == [0.0, 1.0]

    def test_a_true_value_of_zero_has_its_bias_as_it_is(self, known):
        figure = plot_bias(known)
        assert points_of(figure, "Intercept", "reml").x.tolist() == pytest.approx([0.1, 0.1])
        labels = {panel.title: panel.x.label for panel in figure.panels}
        assert labels["Intercept"] == "bias (the true value is 0)"
        assert labels["x"] == "relative bias, %"

    def test_reml_is_one_series_and_a_posterior_two(self, sampled):
        table = plot_bias(sampled).table
        fixed = table[table["parameter"] == "x"]
        assert set(fixed["series"]) == {"reml", "bayes default mean"}
        variances = table[table["parameter"] == "var(Residual)"]
        assert set(variances["series"]) == {"reml", "bayes default mean", "bayes default mode"}
        assert not table["parameter"].str.startswith(("sd(", "cov(")).any()

    def test_a_median_is_drawn_when_it_is_named(self, sampled):
        figure = plot_bias(
            sampled, parameters=["sd(Residual)"], estimators=["bayes default median"]
        )
        assert [panel.title for panel in figure.panels] == ["sd(Residual)"]
        assert set(figure.table["series"]) == {"bayes default median"}

    def test_the_reading_names_the_worst(self, known):
        reading = plot_bias(known, parameters="x").reading
        # Condition 1: -0.8 and -0.6, -75 %; condition 0: +37.5 %.
        assert "Over 4 data sets a condition, the largest relative bias is -75 %" in reading
        assert "of x by reml at J = 9" in reading
        assert reading.endswith("none of the 8 fits failed.")

    def test_a_bias_beyond_the_panel_is_written(self):
        result = finish(plan(), lambda k: fit_reml((-0.4, -1.0, 1.0), 20.0 if k % 2 else 1.1))
        figure = plot_bias(result, parameters=["var(Intercept|group)"])
        (panel,) = figure.panels
        assert texts_of(figure) == ["reml: +1.9e+03 %"]
        (warning,) = (m for m in panel.marks if isinstance(m, Points) and m.role == "warning")
        assert warning.x.tolist() == [EDGE]
        assert points_of(figure, "var", "reml").x.tolist() == pytest.approx([10.0])
        assert panel.x.range[1] > EDGE
        assert "+1.9e+03 %" in figure.reading

    def test_a_variance_of_zero_has_no_relative_bias(self, sampled):
        figure = plot_bias(sampled, parameters=["var(Intercept|group)"])
        assert texts_of(figure) == ["the true value is 0"]  # said once, not for each series


class TestCoverage:
    def test_it_is_the_share_that_holds_the_true_value(self, known):
        figure = plot_coverage(known)
        found = points_of(figure, "x", "reml z")
        # Condition 0: (-0.5, 0.2) holds -0.4, (-0.3, -0.1) does not; condition 1: both do.
        assert found.x.tolist() == [50.0, 100.0]
        assert figure.columns == 2

    def test_its_width_is_the_median(self):
        figure = plot_coverage(finish(plan(replicates=3), alternate))
        widths = points_of(figure, "x", "reml z", panel=1)
        # Widths .7, .2, .7 and .8, .8, .8: the mean of the first three would be .53.
        assert widths.x.tolist() == pytest.approx([0.7, 0.8])

    def test_every_df_method_has_a_series(self, sampled):
        table = plot_coverage(sampled, parameters=["x", "var(Residual)"]).table
        series = table.groupby("parameter")["series"].unique().map(list)
        methods = ["reml z", "reml satterthwaite", "reml kenward-roger"]
        assert series["x"] == [*methods, "bayes default"]
        assert series["var(Residual)"] == ["reml", "bayes default"]

    def test_its_interval_is_wilsons(self):
        for held, count in ((0, 10), (10, 10), (3, 7), (950, 1000)):
            low, high = share_interval(np.array([held / count]), np.array([count]))
            wanted = binomtest(held, count).proportion_ci(method="wilson")
            np.testing.assert_allclose([low[0], high[0]], [wanted.low, wanted.high], atol=1e-12)
        assert np.isnan(share_interval(np.array([np.nan]), np.array([0]))).all()

    def test_a_variance_of_zero_is_not_drawn_as_uncovered(self, sampled):
        figure = plot_coverage(sampled, parameters=["var(Intercept|group)"])
        texts = texts_of(figure)
        assert "the true value is 0" in texts
        assert (figure.table.loc[figure.table["true"] == 0.0, "coverage"] == 0.0).any()
        assert figure.table.loc[figure.table["true"] == 0.0, "drawn"].isna().all()

    def test_a_profile_interval_can_hold_a_variance_of_zero(self):
        zero = plan(grid={"icc": 0.0}, reml={"variances": ["wald", "profile"]})
        rest = [[0.0, 0.0, 0.4], [1.0, 0.5, 2.0], [0.0, 0.0, 0.7], [1.0, 0.7, 1.4]]
        fit = fit_reml((0.1, 0.0, 0.2), 1.0)
        fit["variances"] = {"wald": [[0.0, None, None], *rest[1:]], "profile": rest}
        figure = plot_coverage(finish(zero, lambda _: fit), parameters=["var(Intercept|group)"])
        assert points_of(figure, "var(Intercept|group)", "reml profile").x.tolist() == [100.0] * 2

    def test_the_reading_counts_what_is_off(self):
        # 40 intervals, of which none holds the true value in the first condition.
        result = finish(
            plan(replicates=40),
            lambda k: fit_reml((-0.4, -1.0, 1.0) if k % 2 else (0.5, 0.2, 0.8), 1.0),
        )
        reading = plot_coverage(result, parameters="x", estimators="reml z").reading
        assert "from 0.0 % (x by reml z at J = 6) to 100.0 % (x by reml z at J = 9)" in reading
        # 40 of 40 are no proof of more than 95 %: Wilson's interval begins at 91 %.
        assert "1 of the 2 coverages lies below 95 % and 0 above" in reading


class TestPower:
    def test_it_is_the_share_that_leaves_out_zero(self, known):
        found = points_of(plot_power(known), "x", "reml satterthwaite")
        assert found.x.tolist() == [50.0, 100.0]
        np.testing.assert_allclose(
            [found.x_low[0], found.x_high[0]],
            np.array(binomtest(2, 4).proportion_ci(method="wilson")) * 100.0,
        )

    def test_size_is_told_from_power(self, known):
        figure = plot_power(known)
        labels = {panel.title: panel.x.label for panel in figure.panels}
        assert labels == {
            "Intercept, truly 0": "size of the test, %", "x, truly -0.4": "power, %",
        }  # fmt: skip
        assert "the size of the tests is 0.0 % throughout" in figure.reading
        assert "The power of the tests is between 50.0 % (x by reml z at J = 6)" in figure.reading

    def test_variances_are_not_tested(self, known):
        with pytest.raises(ArgumentError, match=r"'var\(Residual\)', which the study does not"):
            plot_power(known, parameters=["var(Residual)"])


class TestFailures:
    @pytest.mark.parametrize("plot", PLOTS)
    def test_a_failed_fit_is_counted(self, plot):
        study = plan(replicates=3)
        failed = {"error": "LinAlgError: singular"}
        result = finish(study, lambda k: failed if k == 0 else alternate(k))
        assert "1 of the 6 fits has an error or did not converge, 1 of them by reml" in (
            plot(result).reading
        )

    @pytest.mark.parametrize("plot", [plot_bias, plot_coverage, plot_power])
    def test_a_condition_of_failures_is_said(self, plot):
        result = finish(
            plan(), lambda k: alternate(k) if k % 2 else {"error": "LinAlgError: singular"}
        )
        figure = plot(result)
        assert {"no estimates", "no intervals"} & set(texts_of(figure))
        assert "2 of the 4 fits have an error" in figure.reading
        figure.plotly()
        figure.matplotlib()

    def test_a_study_of_failures_is_said(self):
        result = finish(plan(), lambda k: {"error": "LinAlgError: singular"})
        assert "4 of the 4 fits have an error" in plot_bias(result).reading
        assert plot_coverage(result).reading.startswith("No estimator has an interval")
        with pytest.raises(ArgumentError, match="no power to draw"):
            plot_power(result)


class TestSelections:
    @pytest.mark.parametrize("plot", PLOTS)
    def test_one_condition(self, plot):
        result = finish(plan({"groups": 6}), alternate)
        figure = plot(result)
        assert " at J" not in figure.reading
        assert figure.panels[0].y.label == "J, n"
        assert figure.panels[0].y.ticks == ((0.0,), ("6, 5",))

    def test_rows_are_named_by_what_differs(self, known):
        y = plot_bias(known).panels[0].y
        assert (y.label, y.ticks[1]) == ("J", ("6", "9"))

    def test_what_does_not_fit_is_said_to_be_left_out(self):
        study = plan({"groups": list(range(6, 6 + MOST + 5))})
        figure = plot_bias(finish(study, alternate))
        assert f"not drawn, but in the study's table: 5 of the {MOST + 5} conditions" in (
            figure.reading
        )
        assert len(figure.panels[0].y.ticks[0]) == MOST

    def test_series_beyond_the_sixth_are_named(self):
        methods = ["z", "satterthwaite", "kenward-roger", "hlm", "cr0", "cr2"]
        study = plan(reml={"df": methods, "variances": ["wald"]})

        def fit(k):
            found = alternate(k)
            return found | {"fixed": dict.fromkeys(methods, found["fixed"]["z"])}

        result = finish(study, fit)
        reading = plot_coverage(result).reading
        assert "1 more estimators (reml)" in reading
        chosen = plot_coverage(result, parameters=["var(Residual)"], estimators=["reml"])
        assert set(chosen.table["series"]) == {"reml"}
        with pytest.raises(ArgumentError, match="estimators names 7 series"):
            plot_coverage(result, estimators=[*(f"reml {name}" for name in methods), "reml"])

    @pytest.mark.parametrize("plot", PLOTS)
    def test_unknown_names(self, plot, known):
        with pytest.raises(ArgumentError, match=r"parameters has 'xx', which .*'x'"):
            plot(known, parameters=["xx"])
        with pytest.raises(ArgumentError, match="estimators has 'reml q', which"):
            plot(known, estimators=["reml q"])
        with pytest.raises(ArgumentError, match=r"parameters=\[\] leaves nothing"):
            plot(known, parameters=[])


@pytest.mark.slow
def test_the_command_writes_figures(tmp_path, capsys):
    study = tmp_path / "tiny.toml"
    study.write_text(
        "seed = 1\nreplicates = 2\n[model]\nfixed = {Intercept = 0.0, x = 0.4}\n"
        "random = ['Intercept']\n[grid]\ngroups = 6\ngroup_size = 4\nicc = 0.3\n"
    )
    folder = tmp_path / "new" / "figures"
    with pytest.raises(SystemExit) as stop:
        main(["simulate", str(study), "--figures", str(folder), "--processes", "1"])
    assert stop.value.code == 0
    names = {f"study_{name}{end}" for name in ("bias", "coverage", "power")
             for end in (".png", ".html")}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "study_bias.png").read_bytes().startswith(b"\x89PNG")
    printed = " ".join(capsys.readouterr().out.split())
    assert "study_coverage.png, .html: 95 % intervals have an actual coverage" in printed


def test_a_folder_that_cannot_be_is_refused_before_the_study_runs(tmp_path, capsys):
    path = tmp_path / "tiny.toml"
    path.write_text("seed = 1")  # no study: reading it would be refused otherwise
    with pytest.raises(SystemExit) as stop:
        main(["simulate", str(path), "--figures", str(path)])
    assert stop.value.code == 2
    assert "cannot make the folder" in capsys.readouterr().err


@pytest.mark.parametrize("plot", PLOTS)
def test_both_libraries_draw_it(plot, sampled, tmp_path):
    figure = plot(sampled)
    drawn = json.loads(figure.plotly(page="dark").to_json())
    assert len(drawn["data"]) > 3
    figure.save(tmp_path / "figure.svg")
    assert b"<svg" in (tmp_path / "figure.svg").read_bytes()
