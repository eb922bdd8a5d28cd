"""Figures of the priors: exact densities, widths and sensitivities, and sentences that hold."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats

from bhlm.bayes.checks.sensitivity import measure_sensitivity
from bhlm.bayes.prior_table import evaluate_density
from bhlm.bayes.priors.families import Flat, HalfCauchy, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.layout import format_digits
from bhlm.plots.marks import Line, Note, Points
from bhlm.plots.prior_posterior import (
    compare_widths,
    plot_prior_posterior,
    shift_draws,
)
from bhlm.plots.sensitivity import draw_sensitivity, plot_sensitivity

pytestmark = pytest.mark.wide

BAD = '<script>alert("x")</script> $x$ {{7*7}} ü'
ROUNDING = 1e-12


def simulate(seed=1, *, n_groups=30, rows=10):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), rows)
    x = 5.0 + rng.normal(size=len(g))
    u = rng.normal(size=(n_groups, 2)) * [1.0, 0.6]
    y = 1.0 + 2.0 * x + u[g, 0] + u[g, 1] * x + rng.normal(size=len(g))
    return pd.DataFrame({"g": g, "x": x, "y": y})


@pytest.fixture(scope="module")
def model():
    return Model("y ~ x + (x | g)", simulate())


@pytest.fixture(scope="module")
def post(model):
    return model.sample(seed=1)


@pytest.fixture(scope="module")
def tight(model):
    priors = Priors(fixed={"x": Normal(0.0, 0.05)}, sd={"Intercept": HalfNormal(0.1)}, at="zero")
    return model.sample(seed=1, priors=priors)


class TestPriorPosterior:
    def test_priors_are_their_densities(self, post):
        table = plot_prior_posterior(post).table
        names = ["Intercept", "x", "sd(Intercept|g)", "sd(x|g)", "sd(Residual)"]
        for name, prior in zip(names, post.priors.every, strict=True):
            rows = table[(table["parameter"] == name) & (table["curve"] == "prior")]
            density = evaluate_density(prior, rows["x"].to_numpy())
            np.testing.assert_allclose(rows["share"], density / density.max(), rtol=ROUNDING)

    def test_posteriors_are_those_of_the_draws(self, post):
        table = plot_prior_posterior(post).table
        for name in ("x", "sd(x|g)", "corr(Intercept,x|g)"):
            rows = table.query("parameter == @name and curve == 'posterior'")
            draws = shift_draws(post, name)
            at, density, _ = array_stats.kde(draws, bw="silverman")
            peak = at[np.argmax(density)]
            assert abs(rows["x"].iloc[rows["share"].argmax()] - peak) < 0.1 * draws.std()
            assert rows["share"].max() == 1.0

    def test_intercept_stands_where_its_prior_does(self, post):
        """The covariate's mean is 5, so that the raw intercept lies elsewhere."""
        facts = compare_widths(post.prior_table())
        draws = shift_draws(post, "Intercept")
        assert np.median(draws) == pytest.approx(facts.loc["Intercept", "posterior_median"])
        assert abs(np.median(draws) - np.median(post.draws["Intercept"])) > 5.0
        np.testing.assert_array_equal(shift_draws(post, "x"), post.draws["x"].ravel())
        rows = plot_prior_posterior(post).table.query(
            "parameter == 'Intercept' and curve == 'posterior'"
        )
        peak = rows["x"].iloc[rows["share"].argmax()]
        assert abs(peak - np.median(draws)) < 0.5 * draws.std()

    def test_intervals_are_drawn_inside_the_panel(self, post):
        facts = compare_widths(post.prior_table())
        for panel in plot_prior_posterior(post).panels:
            low, high = panel.x.range
            points = {mark.role: mark for mark in panel.marks if isinstance(mark, Points)}
            assert set(points) == {"prior", "posterior"}
            row = facts.loc[panel.title]
            assert points["posterior"].x[0] == row["posterior_median"]
            assert points["posterior"].x_low[0] == row["posterior_lower"]
            assert points["posterior"].x_high[0] == row["posterior_upper"]
            assert low < points["prior"].x_low[0] <= row["prior_median"]
            assert row["prior_median"] <= points["prior"].x_high[0] < high

    def test_a_heavy_tail_is_cut_at_the_panel(self, model):
        fit = model.sample(seed=1, priors=Priors(sigma=HalfCauchy(1.0)))
        panel = next(p for p in plot_prior_posterior(fit).panels if p.title == "sd(Residual)")
        (prior,) = [m for m in panel.marks if isinstance(m, Points) and m.role == "prior"]
        upper = compare_widths(fit.prior_table()).loc["sd(Residual)", "prior_upper"]
        assert prior.x_high[0] < panel.x.range[1] < upper
        assert f"to {upper:.5g}" in prior.hover[0]

    def test_reading_has_the_widths(self, post):
        width = compare_widths(post.prior_table())["width"]
        reading = plot_prior_posterior(post).reading
        assert f"{100 * width.max():.2g} % of the prior's width in {width.idxmax()}" in reading
        assert f"{100 * width.min():.2g} % in {width.idxmin()}" in reading
        assert "outside" not in reading

    def test_a_conflict_is_said(self, model):
        fit = model.sample(seed=1, priors=Priors(sigma=HalfNormal(0.1)))
        row = compare_widths(fit.prior_table()).loc["sd(Residual)"]
        assert row["posterior_median"] > row["prior_upper"]
        assert "posterior median of sd(Residual) lies outside" in plot_prior_posterior(fit).reading

    def test_flat_priors_have_no_width(self, model):
        fit = model.sample(seed=1, priors=Priors(fixed=Flat()))
        figure = plot_prior_posterior(fit)
        rows = figure.table.query("parameter == 'x' and curve == 'prior'")
        assert (rows["share"] == 1.0).all()
        assert "priors of 2 parameters have no interval" in figure.reading
        panel = next(panel for panel in figure.panels if panel.title == "x")
        assert [mark.role for mark in panel.marks if isinstance(mark, Points)] == ["posterior"]
        assert panel.x.label == "the prior has no interval"

    def test_draws_of_the_prior_are_called_so(self, model):
        fit = model.sample(seed=1, draws=200, prior_only=True)
        assert plot_prior_posterior(fit).reading.startswith("These draws are of the prior alone")

    def test_a_parameter_that_does_not_vary_has_no_curve(self, post):
        data = post.data.copy(deep=True)
        data["posterior"]["sigma"][:] = 1.0
        figure = plot_prior_posterior(post.with_data(data))
        panel = next(panel for panel in figure.panels if panel.title == "sd(Residual)")
        assert [mark.role for mark in panel.marks if isinstance(mark, Line)] == ["prior"]
        figure.plotly()


class TestSensitivity:
    def test_numbers_are_those_of_the_table(self, tight):
        found = measure_sensitivity(tight)
        figure = plot_sensitivity(tight)
        pd.testing.assert_frame_equal(figure.table, found.table)
        (panel,) = figure.panels
        names = list(panel.y.ticks[1])
        assert names == [str(each) for each in tight.parameters if not each.is_squared]
        drawn = found.table.loc[names]
        points = [mark for mark in panel.marks if isinstance(mark, Points)]
        for mark in points:
            side = "likelihood" if mark.role == "first" else "prior"
            rows = drawn[side].iloc[mark.y.astype(int)]
            np.testing.assert_array_equal(mark.x, rows)
        flagged = np.flatnonzero(drawn["diagnosis"] != "ok")
        (warned,) = [mark for mark in points if mark.role == "warning"]
        np.testing.assert_array_equal(warned.y, flagged)

    def test_a_variance_is_as_sensitive_as_its_sd(self, tight):
        table = measure_sensitivity(tight).table
        for name in ("Intercept|g", "x|g", "Residual"):
            one, other = table.loc[f"var({name})"], table.loc[f"sd({name})"]
            assert one["prior"] == pytest.approx(other["prior"], rel=1e-9)
            assert one["diagnosis"] == other["diagnosis"]

    def test_reading_counts_what_the_priors_sway(self, tight, post):
        table = measure_sensitivity(tight).table
        bad = table[table["diagnosis"] != "ok"]
        reading = plot_sensitivity(tight).reading
        assert reading.startswith(
            f"The priors sway {len(bad)} of {len(table)} posteriors, {bad.index[0]}, "
        )
        most = format_digits(table["prior"].max(), 2)
        assert f"reaches {most} ({table['prior'].idxmax()}), and 0.05 counts" in reading
        one = replace(measure_sensitivity(tight), table=table.loc[[table["prior"].idxmax()]])
        assert f"the sensitivity to them reaches {most}, and" in draw_sensitivity(one).reading
        found = measure_sensitivity(post)
        calm = replace(found, table=found.table.assign(diagnosis="ok"))
        assert draw_sensitivity(calm).reading.startswith("No posterior moves much where the priors")

    def test_a_parameter_that_does_not_vary(self, post):
        found = measure_sensitivity(post)
        table = found.table.copy()
        table.loc["x", ["prior", "likelihood"]] = np.nan
        figure = draw_sensitivity(replace(found, table=table))
        notes = [mark.text for mark in figure.panels[0].marks if isinstance(mark, Note)]
        assert "does not vary" in notes
        figure.plotly()
        table[["prior", "likelihood"]] = np.nan
        figure = draw_sensitivity(replace(found, table=table))
        assert figure.reading.startswith("No parameter varies")
        figure.plotly()
        figure.matplotlib()

    def test_many_parameters_are_thinned(self, post):
        found = measure_sensitivity(post)
        table = pd.concat([found.table] * 10, ignore_index=True)
        table.index = [f"b{i}" for i in range(len(table))]
        figure = draw_sensitivity(replace(found, table=table))
        assert len(figure.panels[0].y.ticks[1]) == 30
        assert f"{len(table) - 30} less sensitive ones are not drawn" in figure.reading

    def test_draws_of_the_prior_are_refused(self, model):
        fit = model.sample(seed=1, draws=100, prior_only=True)
        with pytest.raises(ArgumentError, match="all that it holds is prior"):
            plot_sensitivity(fit)


@pytest.mark.slow
def test_hostile_names_are_text():
    table = simulate(n_groups=12).rename(columns={"x": BAD, "g": "g$"})
    fit = Model(f"y ~ `{BAD}` + (1 | `g$`)", table).sample(seed=1)
    for figure in (plot_prior_posterior(fit), plot_sensitivity(fit)):
        drawn = figure.plotly().to_json()
        assert "<script>" not in drawn
        assert "&lt;script&gt;" in drawn
        figure.matplotlib().canvas.draw()
