"""Figures and page of the reconciliation: the numbers drawn are the tables', the words too."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bhlm.bayes.priors.families import Gamma
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.plots.attribution import NARROWEST, plot_attribution
from bhlm.plots.choice import choose_parameters, list_parameters, title
from bhlm.plots.curves import plot_curves, refine_curve
from bhlm.plots.forest import plot_forest
from bhlm.plots.intervals import plot_intervals
from bhlm.plots.marks import Bars, Points, Segments
from bhlm.reml.profile.intervals import build_profile
from bhlm.reports.dashboard.blocks import Subject, Table, Text
from bhlm.reports.dashboard.reconciliation import build_reconciliation

pytestmark = pytest.mark.wide

# A spline through 21 points of a profile, relative to its peak of 1.
SPLINE = 2e-3
COARSE = 2e-2  # of a profile that has only a few points above a hundredth of its peak
# Sums of shares that are of the order of the gap.
ROUNDING = 1e-9
BAD = '<script>alert("x")</script> $x$ {{7*7}} ü'
SD, VAR = "sd(Intercept|Batch)", "var(Intercept|Batch)"


@pytest.fixture(scope="module")
def both(sleep_both):
    return sleep_both


@pytest.fixture(scope="module")
def singular(singular_both):
    return singular_both


@pytest.fixture(scope="module")
def hostile():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(12), 10)
    x = rng.normal(size=len(g))
    y = x + rng.normal(size=12)[g] + rng.normal(size=len(g))
    table = pd.DataFrame({"g$": g, BAD: x, "y": y})
    model = Model(f"y ~ `{BAD}` + (1 | `g$`)", table)
    return reconcile(model.reml(), model.sample(seed=1))


@pytest.fixture(scope="module")
def conflict():
    """A prior that holds the residual SD at ten times what the data say."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(15), 20)
    y = rng.normal(size=15)[g] + rng.normal(size=len(g))
    model = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": g, "y": y}))
    post = model.sample(seed=1, priors=Priors(sigma=Gamma(200_000.0, 20_000.0)))
    return reconcile(model.reml(), post)


def marks_of(figure, kind):
    return [[mark for mark in panel.marks if isinstance(mark, kind)] for panel in figure.panels]


def change(both, name, **values):
    """The reconciliation with other numbers in one row of its table."""
    table = both.table.copy()
    for column, value in values.items():
        table.loc[name, column] = value
    return replace(both, table=table)


class TestIntervals:
    def test_numbers_are_those_of_the_tables(self, both):
        figure = plot_intervals(both)
        table = figure.table.set_index(["parameter", "source"])
        assert list(dict.fromkeys(figure.table["parameter"])) == list(both.table.index)
        for name in both.table.index:
            reml, post = both.reml.estimates.loc[name], both.post.estimates.loc[name]
            assert tuple(table.loc[name, "REML"]) == (
                reml["estimate"],
                reml["lower"],
                reml["upper"],
            )
            assert tuple(table.loc[name, "posterior"]) == (
                post["mean"], post["lower"], post["upper"],
            )  # fmt: skip
        assert table.loc[("var(Days|Subject)", "published"), "value"] == 35.07
        assert ("cov(Intercept,Days|Subject)", "published") not in table.index

    def test_marks_are_the_table(self, both):
        figure = plot_intervals(both)
        drawn = [point for points in marks_of(figure, Points) for point in points]
        assert [point.x[0] for point in drawn] == figure.table["value"].tolist()
        low = [point.x_low[0] if point.x_low is not None else np.nan for point in drawn]
        np.testing.assert_array_equal(low, figure.table["lower"])

    @pytest.mark.slow
    def test_a_printed_interval_is_drawn(self, reconcile_gallery):
        both = reconcile_gallery("rail")
        rows = plot_intervals(both).table.query("source == 'published'").set_index("parameter")
        row = rows.loc["sd(Intercept|Rail)"]
        assert (row["lower"], row["value"], row["upper"]) == (13.274, 24.805, 46.353)

    def test_the_boundary_is_said(self, singular):
        figure = plot_intervals(singular)
        for panel in figure.panels:
            at_boundary = panel.title in (SD, VAR)
            assert ("REML: no interval" in panel.y.ticks[1]) is at_boundary
        assert f"REML gives no interval for {VAR} and {SD}, because a variance" in figure.reading
        assert f"published value lies outside the posterior's interval in {SD}." in figure.reading

    def test_reading_has_the_widest_and_the_narrowest(self, both):
        reading = plot_intervals(both).reading
        ends = both.reml.estimates, both.post.estimates
        widths = [table["upper"] - table["lower"] for table in ends]
        ratio = widths[1] / widths[0]
        assert f"{ratio.min():.3g} ({ratio.idxmin()})" in reading
        assert f"{ratio.max():.3g} times ({ratio.idxmax()})" in reading
        inside = plot_intervals(both, names=["Days"]).reading
        assert inside.endswith("as wide as REML's; the one published value lies within the "
                               "posterior's interval.")  # fmt: skip
        assert inside.startswith("The posterior's 95 % interval of Days is ")

    def test_a_printed_value_beyond_the_interval_is_said(self, both):
        far = [
            replace(check, printed="99.0") if check.name == "Days" else check
            for check in both.printed
        ]
        reading = plot_intervals(replace(both, printed=tuple(far))).reading
        assert reading.endswith("value lies outside the posterior's interval in Days.")

    def test_names_are_checked(self, both):
        assert [panel.title for panel in plot_intervals(both, names=["Days"]).panels] == ["Days"]
        with pytest.raises(ArgumentError, match=r"'Dayz'.*did you mean 'Days'"):
            plot_intervals(both, names=["Dayz"])
        with pytest.raises(ArgumentError, match=r"names=\[\] leaves nothing"):
            plot_intervals(both, names=[])


class TestAttribution:
    def test_steps_lead_from_reml_to_the_mean(self, both):
        figure = plot_attribution(both)
        names = list(dict.fromkeys(figure.table["parameter"]))
        assert names == [
            "Intercept", "Days", "sd(Intercept|Subject)", "sd(Days|Subject)",
            "corr(Intercept,Days|Subject)", "sd(Residual)",
        ]  # fmt: skip
        for name in names:
            rows, row = figure.table.query("parameter == @name"), both.table.loc[name]
            assert rows["step"].tolist() == ["shape", "prior", "monte_carlo", "unexplained"]
            assert rows["size"].tolist() == [row[step] for step in rows["step"]]
            assert rows["start"].iloc[0] == row["reml"]
            assert abs(rows["end"].iloc[-1] - row["posterior"]) < ROUNDING * row["sd"]
            np.testing.assert_array_equal(rows["start"].iloc[1:], rows["end"].iloc[:-1])

    def test_marks_are_the_table(self, both):
        figure = plot_attribution(both)
        bars = [bar for bars in marks_of(figure, Bars) for bar in bars]
        start, size = figure.table["start"], figure.table["size"]
        np.testing.assert_allclose([bar.base[0] for bar in bars], start, rtol=ROUNDING)
        np.testing.assert_allclose([bar.length[0] for bar in bars], size, rtol=ROUNDING)
        assert len({bar.role for bar in bars}) == 4

    def test_a_small_gap_does_not_fill_its_panel(self, both):
        for panel in plot_attribution(both, names=list(both.table.index)).panels:
            row = both.table.loc[panel.title]
            low, high = panel.x.range
            assert high - low >= NARROWEST * row["sd"] * (1.0 - ROUNDING)
            assert low < min(row["reml"], row["posterior"])
            assert max(row["reml"], row["posterior"]) < high

    def test_whiskers_are_two_errors_about_the_end(self, both):
        figure = plot_attribution(both, names=["Days"])
        whisker = marks_of(figure, Segments)[0][-1]
        row, step = both.table.loc["Days"], figure.table.iloc[-1]
        assert whisker.x1[0] - whisker.x0[0] == pytest.approx(4.0 * row["unexplained_se"])
        assert 0.5 * (whisker.x0[0] + whisker.x1[0]) == pytest.approx(step["end"])

    def test_what_cannot_be_split_is_one_bar(self, singular):
        nan = float("nan")
        figure = plot_attribution(change(singular, VAR, shape=nan, prior=nan), names=[VAR, SD])
        rows, row = figure.table.query("parameter == @VAR"), singular.table.loc[VAR]
        assert rows["step"].tolist() == ["undivided", "monte_carlo", "unexplained"]
        rest = row["gap"] - row["monte_carlo"] - row["unexplained"]
        assert rows["size"].iloc[0] == pytest.approx(rest, rel=ROUNDING)
        assert "shape + prior, undivided" in figure.panels[0].y.ticks[1]
        assert "shape + prior, undivided" not in figure.panels[1].y.ticks[1]
        assert f"how much is shape and how much prior cannot be told for {VAR}" in figure.reading

    def test_reading_has_the_largest_gap(self, both):
        table = both.table.loc[[panel.title for panel in plot_attribution(both).panels]]
        far = table["gap_sd"].abs().idxmax()
        row = table.loc[far]
        reading = plot_attribution(both).reading
        assert f"of {far} is {row['gap_sd']:+.2f} posterior SDs from REML" in reading
        assert f"{row['shape'] / row['sd']:+.2f} shape, {row['prior'] / row['sd']:+.2f} prior" in (
            reading
        )
        assert "not accounted for" not in reading

    def test_an_unexplained_part_is_said(self, both):
        sd = both.table.loc["Days", "sd"]
        broken = change(both, "Days", unexplained=0.3 * sd, verdict="unexplained")
        assert "1 gap is not accounted for, by up to 0.3 posterior SDs (Days)" in (
            plot_attribution(broken).reading
        )

    def test_a_parameter_without_estimate_has_no_gap(self, both):
        name = "corr(Intercept,Days|Subject)"
        shares = ("reml", "gap", "gap_sd", "shape", "unexplained")
        broken = change(both, name, **dict.fromkeys(shares, np.nan))
        figure = plot_attribution(broken)
        panel = next(panel for panel in figure.panels if panel.title == name)
        assert panel.y.ticks[1] == ("REML: undefined", "posterior mean")
        assert f"{name} has no REML estimate and so no gap" in figure.reading
        alone = plot_attribution(broken, names=[name])
        assert alone.reading == (
            "No parameter drawn has a REML estimate, so there is no gap to split; "
            f"{name} has no REML estimate and so no gap."
        ).replace(f"; {name} has no REML estimate and so no gap", "")
        alone.plotly()
        alone.matplotlib()


class TestCurves:
    def test_profile_is_the_profile(self, both):
        """Also between the points at which the profile was computed."""
        table = plot_curves(both).table
        for name, rows in table.groupby("parameter"):
            rise = build_profile(both.reml, name).rise
            some = rows.iloc[3 :: len(rows) // 7]
            exact = np.exp([-0.5 * rise(x) for x in some["x"]])
            np.testing.assert_allclose(some["profile"], exact, atol=SPLINE)

    @pytest.mark.slow
    def test_prior_and_posterior_are_relative_to_their_peaks(self, both):
        table = plot_curves(both).table
        for _, rows in table.groupby("parameter"):
            for curve in ("profile", "prior", "posterior"):
                # The prior of what is not where the priors stand has no curve.
                assert rows[curve].max() == 1.0 or rows[curve].isna().all()
                assert (rows[curve].dropna() >= 0.0).all()

    @pytest.mark.slow
    def test_default_is_the_sd_scale_and_names_give_variances(self, both):
        titles = [panel.title for panel in plot_curves(both).panels]
        assert titles == [
            "sd(Intercept|Subject)", "sd(Days|Subject)", "corr(Intercept,Days|Subject)",
            "sd(Residual)",
        ]  # fmt: skip
        squared = plot_curves(both, names=["var(Days|Subject)"])
        rows = squared.table
        rise = build_profile(both.reml, "sd(Days|Subject)").rise
        some = rows.iloc[5::20]
        exact = np.exp([-0.5 * rise(np.sqrt(x)) for x in some["x"]])
        np.testing.assert_allclose(some["profile"], exact, atol=SPLINE)
        with pytest.raises(ArgumentError, match="'Days'"):
            plot_curves(both, names=["Days"])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name", [pytest.param("sd(Residual)", marks=pytest.mark.slow), "var(Residual)"]
    )
    def test_a_profile_far_from_the_posterior_is_resolved(self, conflict, name):
        rows = plot_curves(conflict, names=[name]).table
        rise = build_profile(conflict.reml, "sd(Residual)").rise
        high = rows[rows["profile"] > 0.1]
        assert len(high) > 10
        held = high["x"] if name.startswith("sd(") else np.sqrt(high["x"])
        exact = np.exp([-0.5 * rise(x) for x in held])
        np.testing.assert_allclose(high["profile"], exact, atol=COARSE)

    @pytest.mark.slow
    def test_estimates_stand_on_their_curves(self, both):
        for panel, points in zip(
            plot_curves(both).panels, marks_of(plot_curves(both), Points), strict=True
        ):
            estimate, mean = points
            row = both.table.loc[panel.title]
            assert (estimate.x[0], mean.x[0]) == (row["reml"], row["posterior"])
            assert estimate.y[0] == pytest.approx(1.0, abs=SPLINE)
            assert 0.5 < mean.y[0] <= 1.0

    def test_a_boundary_fit_is_drawn(self, singular):
        figure = plot_curves(singular)
        rows = figure.table.query("parameter == @SD")
        assert rows["profile"].iloc[0] == 1.0
        assert rows["profile"].is_monotonic_decreasing

    def test_reading_has_how_the_prior_tilts(self, singular):
        figure = plot_curves(singular)
        limits = singular.post.estimates
        tilts = {}
        for name, rows in figure.table.groupby("parameter"):
            inside = rows[rows["x"].between(limits.loc[name, "lower"], limits.loc[name, "upper"])]
            tilts[name] = inside["prior"].max() / inside["prior"].min()
        steep = max(tilts, key=tilts.get)
        assert f"at most by a factor of {tilts[steep]:.3g} ({steep})" in figure.reading

    def test_a_normal_is_refined_exactly(self):
        x = np.linspace(-3.0, 3.0, 9)
        fine = np.linspace(-3.5, 3.5, 57)
        drawn = refine_curve(x, np.exp(-0.5 * x**2), fine)
        inside = np.abs(fine) <= 3.0
        np.testing.assert_allclose(drawn[inside], np.exp(-0.5 * fine[inside] ** 2), rtol=1e-12)
        assert np.isnan(drawn[~inside]).all()

    def test_a_curve_that_vanishes_is_no_trouble(self):
        x = np.linspace(0.0, 1.0, 9)
        y = np.where(x > 0.5, 0.0, 1.0)
        drawn = refine_curve(x, y, np.linspace(0.0, 1.0, 33))
        assert np.all((drawn >= 0.0) & (drawn <= 1.0 + ROUNDING))
        assert np.isnan(refine_curve(x, np.full(9, np.nan), x)).all()


def test_hostile_names_are_text(hostile):
    for figure in (plot_intervals(hostile), plot_attribution(hostile), plot_curves(hostile)):
        drawn = figure.plotly().to_json()
        assert "<script>" not in drawn
        assert ("&lt;script&gt;" in drawn) is (figure.name != "curves")
        figure.matplotlib().canvas.draw()


def test_a_cut_title_keeps_both_ends():
    assert title("sd(x|g)") == "sd(x|g)"
    cut = title(f"sd({'x' * 10_000}|group)")
    assert cut.startswith("sd(xxx")
    assert cut.endswith("x|group)")
    assert len(cut) == 33


def test_a_list_of_names():
    assert list_parameters(["a"]) == "a"
    assert list_parameters(["a", "b"]) == "a and b"
    assert list_parameters(list("abcdefg")) == "a, b, c and 4 more"


def test_too_many_parameters_leave_those_of_least_weight():
    weight = pd.Series({"a": 1.0, "b": 3.0, "c": 2.0})
    chosen, omitted = choose_parameters(
        list("abc"), None, default=list("abc"), weight=weight, most=2
    )
    assert chosen == ["b", "c"]
    assert "1 more" in omitted
    chosen, omitted = choose_parameters(
        list("abc"), "a", default=list("abc"), weight=weight, most=2
    )
    assert (chosen, omitted) == (["a"], "")


class TestPage:
    def test_none_without_both(self, both):
        assert build_reconciliation(Subject(both.reml, both.post, None, None, "t", {})) is None

    def test_blocks(self, both):
        section = build_reconciliation(Subject(both.reml, both.post, both, None, "t", {}))
        lead, *_ = section.blocks
        assert isinstance(lead, Text)
        assert (lead.sentences, lead.tone) == ((both.conclusion,), "good")
        words = [block for block in section.blocks if isinstance(block, Text) and block.listed]
        assert words[0].sentences == tuple(both.words.values())
        tables = {block.name: block for block in section.blocks if isinstance(block, Table)}
        assert list(tables) == ["attribution_shares", "printed_values"]
        shares = tables["attribution_shares"].frame
        pd.testing.assert_series_equal(shares["shape"], both.table["shape"])
        assert shares.loc["var(Days|Subject)", "published"] == "35.07"
        n_agree = (both.table["verdict"] == "agree").sum()
        assert f"{n_agree} within 0.1 posterior SDs" in tables["attribution_shares"].reading
        assert len(tables["printed_values"].frame) == len(both.printed)
        assert section.blocks[-1].sentences == (both.route,)

    def test_a_failed_fit_leads_with_it(self, both):
        failed = replace(both, verdict="not_converged", conclusion="It failed.")
        section = build_reconciliation(Subject(both.reml, both.post, failed, None, "t", {}))
        assert section.blocks[0].tone == "bad"
        assert section.blocks[0].sentences == ("It failed.",)

    def test_without_printed_values(self, hostile):
        section = build_reconciliation(Subject(hostile.reml, hostile.post, hostile, None, "t", {}))
        tables = {block.name: block for block in section.blocks if isinstance(block, Table)}
        assert list(tables) == ["attribution_shares"]
        assert "published" not in tables["attribution_shares"].frame.columns


class TestForest:
    def test_a_reconciliation_is_drawn_in_posterior_sds_from_reml(self, both):
        figure = plot_forest(both)
        table = figure.table.set_index(["parameter", "source"])
        for name in figure.table["parameter"].unique():
            unit = both.post.estimates.loc[name, "sd"]
            assert table.loc[(name, "REML"), "position"] == pytest.approx(0.0, abs=ROUNDING)
            gap = both.table.loc[name, "gap_sd"]
            assert table.loc[(name, "posterior"), "position"] == pytest.approx(gap, abs=1e-6)
            low = both.post.estimates.loc[name, "lower"] - both.reml.estimates.loc[name, "estimate"]
            assert table.loc[(name, "posterior"), "from"] == pytest.approx(low / unit)
        assert not any(each.is_squared for each in both.post.parameters
                       if str(each) in set(figure.table["parameter"]))  # fmt: skip
        assert figure.matplotlib() is not None

    def test_one_fit_is_drawn_in_standard_errors_from_zero(self, both):
        table = plot_forest(both.reml).table.set_index("parameter")
        rows = both.reml.estimates.loc[table.index]
        np.testing.assert_allclose(table["position"], rows["estimate"] / rows["se"])

    def test_what_has_no_interval_is_left_out(self, singular):
        figure = plot_forest(singular)
        table = figure.table[figure.table["source"] == "REML"].set_index("parameter")
        assert np.isnan(table.loc[SD, "from"])
        drawn = [mark for mark in figure.panels[0].marks if isinstance(mark, Segments)]
        assert all(np.isfinite(mark.x0).all() for mark in drawn)
