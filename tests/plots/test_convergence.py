"""The figures of convergence: right numbers, sentences that follow the data, any fit drawn."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from gallery_fits import sample_posterior
from scipy.stats import rankdata
from simulate import simulate_table

import bhlm
from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import arrange
from bhlm.plots import arviz_figures
from bhlm.plots.divergences import MARKED, SHOWN, choose_plane, plot_divergences
from bhlm.plots.energy import plot_energy
from bhlm.plots.evolution import plot_evolution
from bhlm.plots.plotly_figures import colour
from bhlm.plots.ranks import plot_ranks
from bhlm.plots.style import PAGES, ROLES
from bhlm.plots.traces import plot_traces
from bhlm.reports.dashboard.blocks import Subject
from bhlm.reports.dashboard.convergence import build_convergence
from bhlm.sources.gallery import find_model, load_data

pytestmark = pytest.mark.wide

PLOTS = [plot_ranks, plot_traces, plot_evolution, plot_energy, plot_divergences]
HOSTILE = "<script>alert('$x$')</script>{{ y }} é" + "x" * 10_000
DRAWN = 1e-5  # figures hold single precision
EXACT = 1e-12  # the same sums in another order


def fit(name, **options):
    if not options:
        return sample_posterior(name)
    entry = find_model(name)
    return bhlm.Model(entry.formula, load_data(entry)).sample(seed=1, **options)


@pytest.fixture(scope="module")
def post(hsb_post):
    return hsb_post


def alter(post, *, diverging=None, shift=0.0, scale=1.0):
    """The posterior with divergences put in, or chain 1 moved in beta by so many SDs."""
    tree = {name: node.to_dataset() for name, node in post.data.children.items()}
    if diverging is not None:
        tree["sample_stats"] = tree["sample_stats"].assign(diverging=(("chain", "draw"), diverging))
    beta = tree["posterior"]["beta"].copy(deep=True)
    beta[0] = beta[0] + shift * beta.std(("chain", "draw"))
    energy = tree["sample_stats"]["energy"]
    walk = energy.copy(data=np.cumsum(energy.values - energy.values.mean(), axis=1))
    tree["posterior"] = tree["posterior"].assign(beta=beta)
    tree["sample_stats"] = tree["sample_stats"].assign(energy=energy if scale == 1.0 else walk)
    return post.with_data(xr.DataTree.from_dict(tree))


def first_draws(post, draws, chains=slice(None)):
    return post.with_data(post.data.isel(draw=slice(draws), chain=chains))


def check_figure(figure):
    """Both libraries draw it, in roles, light and dark, without a tag, in little room."""
    assert figure.reading.endswith(".")
    assert "nan" not in figure.reading
    figure.matplotlib()
    for page in PAGES:
        drawn = figure.plotly(page=page)
        content = drawn.to_json()
        assert len(content) < 200_000
        assert "<script" not in content
        assert drawn.layout.paper_bgcolor == PAGES[page]["paper"]
        for trace in drawn.data:
            if trace.mode in ("lines", "markers") and trace.hoverinfo != "skip":
                part = trace.line if trace.mode == "lines" else trace.marker
                if trace.meta:
                    assert part.color == colour(trace.meta["role"], page)
                else:
                    assert part.color is None  # an edge of a band, which has no width


@pytest.mark.slow
@pytest.mark.parametrize("plot", PLOTS)
def test_hsb(plot, post):
    check_figure(plot(post))


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    ("name", "covariance"),
    [
        pytest.param("dyestuff2", None, marks=pytest.mark.slow),
        pytest.param("sleepstudy", "independent", marks=pytest.mark.slow),
        pytest.param("hsb_anova", None, marks=pytest.mark.slow),
    ],
)
def test_other_models(plot, name, covariance):
    """One random coefficient, independent ones, and an SD at zero."""
    check_figure(plot(fit(name, draws=100, tune=300, covariance=covariance)))


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    ("chains", "draws"),
    [
        (1, 9),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((4, 3), (1, 1000), (2, 4), (3, 60))
        ),
    ],
)
def test_few_chains_and_draws(plot, chains, draws, post):
    figure = plot(first_draws(post, draws, slice(chains)))
    assert figure.reading.endswith(".")
    figure.plotly()
    figure.matplotlib()


@pytest.mark.parametrize(
    "plot", [PLOTS[0], *(pytest.param(plot, marks=pytest.mark.slow) for plot in PLOTS[1:])]
)
def test_hostile_names_are_text(plot, post):
    moments = post.moments
    named = {"cwc(ses)": HOSTILE, "Intercept": "a/b\x1b[2J"}
    changed = moments.rename({**named, moments.group: "$g$"})
    check_figure(plot(replace(post, moments=changed, structure=arrange(changed))))


@pytest.mark.parametrize("plot", [plot_ranks, plot_traces, plot_evolution])
def test_chosen_and_unknown_names(plot, post):
    figure = plot(post, names=["var(Residual)", "Intercept"])
    columns = figure.table.columns
    if "parameter" in columns:
        assert list(figure.table["parameter"].unique()) == ["var(Residual)", "Intercept"]
    else:
        assert list(columns[2:]) == ["var(Residual)", "Intercept"]
    with pytest.raises(ArgumentError, match="did you mean 'Intercept'"):
        plot(post, names=["Intersept"])


def test_ranks_hold_the_ecdf(post):
    figure = plot_ranks(post, names=["Intercept"])
    lines = [trace for trace in figure.plotly().data if trace.mode == "lines"]
    assert len(lines) == 4
    for chain, line in enumerate(lines, start=1):
        rows = figure.table[figure.table["chain"] == str(chain)]
        np.testing.assert_allclose(rows["rank"], line.x, atol=DRAWN)
        np.testing.assert_allclose(rows["Intercept"], line.y, atol=DRAWN)
    every = post.draws["Intercept"][:, ::4]
    first = np.sort(rankdata(every).reshape(every.shape)[0]) / every.size
    below = np.searchsorted(first, rows["rank"], side="right") / 250 - rows["rank"]
    np.testing.assert_allclose(
        figure.table["Intercept"][:250],
        below,
        atol=1.5 / 250,  # ties of ranks with the grid
    )
    assert "The chains rank evenly in the one parameter" in figure.reading


@pytest.mark.slow
def test_ranks_of_chains_that_disagree_fail(post):
    figure = plot_ranks(alter(post, shift=1.0))
    assert "do not rank evenly in 2 of 6 parameters" in figure.reading
    assert "they have not found one posterior" in figure.reading
    marked = [trace for trace in figure.plotly().data if trace.mode == "markers"]
    assert any(len(trace.x) for trace in marked)
    assert {trace.meta["role"] for trace in marked} == {"warning"}


def test_one_chain_is_cut_in_halves(post):
    figure = plot_ranks(first_draws(post, 1000, slice(1)))
    assert set(figure.table["chain"]) == {"1, first half", "1, second half"}
    assert figure.reading.startswith("The halves of the one chain rank evenly")


def test_traces_hold_the_draws(post):
    figure = plot_traces(post)
    assert "every 4th of 1,000 draws" in figure.reading
    rows = figure.table[figure.table["chain"] == 2]
    np.testing.assert_array_equal(rows["draw"], np.arange(0, 1000, 4))
    np.testing.assert_array_equal(rows["Intercept"], post.draws["Intercept"][1, ::4])
    line = next(t for t in figure.plotly().data if t.meta["role"] == "second")
    np.testing.assert_allclose(line.y, rows["Intercept"], rtol=DRAWN)
    np.testing.assert_array_equal(line.x, rows["draw"])
    moved = plot_traces(alter(post, shift=5.0)).reading
    draws = alter(post, shift=5.0).draws["cwc(ses)"]
    within = np.sqrt(np.mean([np.var(chain, ddof=1) for chain in draws]))
    gap = (draws.mean(axis=1).max() - draws.mean(axis=1).min()) / within
    assert float(moved.split("lie at most ")[1].split(" SD")[0]) == pytest.approx(gap, rel=0.05)


def test_evolution_ends_at_the_diagnostics(post):
    figure = plot_evolution(post)
    last = figure.table[figure.table["draws"] == 1000].set_index("parameter")
    for name in last.index:
        for key in ("rhat", "ess_bulk", "ess_tail"):
            assert last.loc[name, key] == pytest.approx(post.estimates.loc[name, key], rel=EXACT)
    assert figure.table["draws"].nunique() == 20
    early = figure.table[figure.table["draws"] == 250].set_index("parameter")
    quarter = first_draws(post, 250).estimates
    for name in early.index:
        assert early.loc[name, "rhat"] == pytest.approx(quarter.loc[name, "rhat"], rel=EXACT)
    assert "R-hat keeps to at most 1.01 from" in figure.reading
    least = last[["ess_bulk", "ess_tail"]].min(axis=1)
    assert f"the smallest ESS is {least.min():,.0f}, in {least.idxmin()}" in figure.reading


def test_evolution_of_a_failure_says_so(post):
    reading = plot_evolution(alter(post, shift=1.0)).reading
    assert reading.startswith("R-hat ends above 1.01, at ")
    short = plot_evolution(first_draws(post, 40)).reading
    assert "the ESS ends below 400" in short
    assert "smallest ESS" not in short  # which is where it ends


def test_energy(post):
    figure = plot_energy(post)
    assert f"E-BFMI is {post.diagnostics.min_bfmi:.2f} or more in all 4 chains" in figure.reading
    bad = plot_energy(alter(post, scale=0.0))
    assert "in 4 chains of 4, where at least 0.3 is needed" in bad.reading
    check_figure(bad)
    energy = post.data["sample_stats"]["energy"].values[0]
    change = np.sum(np.diff(energy) ** 2) / np.sum((energy - energy.mean()) ** 2)
    assert figure.table.loc[0, "bfmi"] == pytest.approx(change, rel=0.01)  # n or n - 1


def test_divergences_are_marked_where_they_are(post):
    sd = post.draws["sd(Intercept|school)"]
    diverging = sd < np.quantile(sd, 0.01)
    figure = plot_divergences(alter(post, diverging=diverging))
    assert figure.reading.startswith("40 transitions of 4,000 diverged, all of them")
    assert "below the median" in figure.reading
    assert list(figure.table.columns[3:]) == [
        "sd(Intercept|school)", "corr(Intercept,cwc(ses)|school)",
    ]  # fmt: skip
    marked = figure.table[figure.table["divergent"]]
    np.testing.assert_array_equal(np.sort(marked["sd(Intercept|school)"]), np.sort(sd[diverging]))
    drawn = {trace.name: trace for trace in figure.plotly().data}
    assert len(drawn["divergent transitions"].x) == diverging.sum()
    assert drawn["divergent transitions"].meta["role"] == "warning"
    check_figure(figure)
    one = np.zeros_like(diverging)
    one[2, 5] = True
    reading = plot_divergences(alter(post, diverging=one)).reading
    assert reading.startswith("1 transition of 4,000 diverged, it ")


def test_many_divergences_are_thinned(post):
    diverging = np.zeros((4, 1000), dtype=bool)
    diverging[:, ::3] = True
    figure = plot_divergences(alter(post, diverging=diverging))
    assert figure.table["divergent"].sum() <= MARKED
    assert (~figure.table["divergent"]).sum() <= SHOWN
    assert "are marked)" in figure.reading
    every = np.ones((4, 1000), dtype=bool)
    check_figure(plot_divergences(alter(post, diverging=every)))


def test_the_plane(post):
    calm = np.zeros((4, 1000), dtype=bool)
    assert choose_plane(post, post.draws, calm) == (
        "sd(cwc(ses)|school)", "corr(Intercept,cwc(ses)|school)",
    )  # fmt: skip
    apart = fit("sleepstudy", draws=50, tune=200, covariance="independent")
    flags = apart.data["sample_stats"]["diverging"].values
    plane = choose_plane(apart, apart.draws, flags)
    assert set(plane) == {"sd(Intercept|Subject)", "sd(Days|Subject)"}
    alone = fit("dyestuff2", draws=50, tune=200)
    flags = alone.data["sample_stats"]["diverging"].values
    assert choose_plane(alone, alone.draws, flags) == ("sd(Intercept|Batch)", "sd(Residual)")


@pytest.mark.slow
def test_many_parameters_leave_the_best_out():
    """Of seven fixed effects, whose chains lie apart, and four SDs and correlations, whose mix."""
    table = simulate_table(4, n_groups=30, largest=12)
    rng = np.random.default_rng(5)
    names = [f"x{at}" for at in range(6)]
    table[names] = rng.normal(size=(len(table), 6))
    model = bhlm.Model(f"y ~ {' + '.join(names)} + (x | g)", table)
    moved = alter(model.sample(seed=1, draws=200, tune=300), shift=3.0)
    figure = plot_ranks(moved)
    assert {"Intercept", *names} <= set(figure.table.columns)
    assert figure.table.shape[1] == 2 + 8
    assert "(3 more with a better R-hat and ESS are left out" in figure.reading
    verdict = build_convergence(Subject(None, moved, None, None, "t", {})).blocks[0]
    assert "are those of the 8 fixed effects" in verdict.sentences[-1]
    assert "3 more are in the table alone" in verdict.sentences[-1]


def test_the_section(post):
    section = build_convergence(Subject(None, post, None, None, "t", {}))
    verdict, table, *figures = section.blocks
    assert verdict.tone == "good"
    assert f"R-hat is at most {post.diagnostics.max_rhat:.4f}" in verdict.sentences[0]
    assert len(figures) == 5
    estimates = post.estimates
    for name in estimates.index:
        for key in table.frame.columns:
            assert table.frame.loc[name, key] == estimates.loc[name, key]
    assert table.reading.startswith("No parameter is beyond a limit; the worst is ")
    assert sum(len(figure.plotly().to_json()) for figure in figures) < 1_000_000
    assert build_convergence(Subject(None, None, None, None, "t", {})) is None


@pytest.mark.slow
def test_the_section_of_a_failure_leads_with_it(post):
    failed = replace(post, diagnostics=post.diagnostics.add_failure("stopped after 5 draws"))
    verdict, *_ = build_convergence(Subject(None, failed, None, None, "t", {})).blocks
    assert verdict.tone == "bad"
    assert "1 check failed" in verdict.sentences[0]
    assert verdict.sentences[1] == "Stopped after 5 draws."
    table = build_convergence(Subject(None, alter(post, shift=1.0), None, None, "t", {})).blocks[1]
    assert table.reading.startswith("2 of 10 parameters are beyond a limit; the worst is ")


def test_roles_of_one_colour_are_one_on_either_page():
    for name, look in ROLES.items():
        other = ROLES[arviz_figures.BY_COLOUR[look.light]]
        assert (other.light, other.dark) == (look.light, look.dark), name
