"""Posterior predictive checks pass where the model holds, and say what is wrong where not."""

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from bhlm.bayes.checks.predictive import check_groups, thin_draws
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model

FORMULA = "y ~ x + (x | g)"
UNLIKELY = 1e-3  # chance that a right answer fails a test, of a seed fixed for good


def simulate(seed, *, n_groups=60, rows=15, slope_sd=0.7, log_sd=0.0, far=0.0):
    """Rows of y = 1 + 2 x + u0 + u1 x + e, in groups whose residual SDs vary by log_sd."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), rows)
    x = rng.normal(size=len(g))
    u = rng.normal(size=(n_groups, 2)) * [1.0, slope_sd]
    u[0, 0] += far
    spread = np.exp(log_sd * rng.normal(size=n_groups))[g]
    y = 1.0 + 2.0 * x + u[g, 0] + u[g, 1] * x + spread * rng.normal(size=len(g))
    return pd.DataFrame({"g": g, "x": x, "y": y})


def sample(table, formula=FORMULA, **options):
    return Model(formula, table).sample(**({"seed": 1, "draws": 500, "tune": 500} | options))


def find(check, statistic, over):
    table = check.overall
    (at,) = np.flatnonzero((table["statistic"] == statistic) & (table["over"] == over))
    return table.loc[at]


@pytest.fixture(scope="module")
def right():
    return sample(simulate(1))


@pytest.mark.parametrize("kind", ["same groups", "new groups"])
def test_data_from_the_model_pass(right, kind):
    check = right.check(kind=kind)
    assert check.ok
    assert check.outside == ()
    assert "Nothing outside" in check.summary()


def test_p_of_groups_is_uniform_for_new_groups(right):
    groups = check_groups(right, kind="new groups").groups
    for _, p in groups.groupby("statistic")["p"]:
        assert kstest(p, "uniform").pvalue > UNLIKELY


def test_p_of_the_same_groups_is_drawn_to_the_middle(right):
    """The effects have seen the means; the residual SDs they have not."""
    spread = check_groups(right).groups.groupby("statistic")["p"].std()
    assert spread["mean"] < 0.5 * spread["residual SD"]


def test_groups_of_unequal_spread_are_seen():
    check = sample(simulate(2, log_sd=0.4)).check()
    row = find(check, "residual SD", "SD")
    assert row["observed"] > row["upper"]
    assert row["p"] < 0.005
    assert any("SD over groups of the residual SD" in sentence for sentence in check.outside)
    assert any(sentence.startswith("the residual SD of g ") for sentence in check.outside)
    assert not check.ok


def test_a_missing_random_slope_is_seen():
    check = sample(simulate(3), "y ~ x + (1 | g)").check()
    row = find(check, "slope(x)", "SD")
    assert row["observed"] > row["upper"]
    assert any("SD over groups of slope(x)" in sentence for sentence in check.outside)


def test_a_group_far_from_the_others_is_named():
    check = sample(simulate(4, far=8.0)).check(kind="new groups")
    far = check.groups[check.groups["p_adjusted"] < 0.01]
    assert set(far["g"]) == {0}
    assert any(sentence.startswith("the mean of g 0 is outside") for sentence in check.outside)
    assert not sample(simulate(4, far=8.0)).check().groups["p_adjusted"].lt(0.01).any()


def test_tables_agree_with_the_replicates(right):
    check = check_groups(right, draws=800)
    assert check.draws == 800
    for name, rows in check.groups.groupby("statistic"):
        drawn = check.data["posterior_predictive"][name].values.reshape(check.draws, -1)
        own = check.data["observed_data"][name].values
        np.testing.assert_allclose(rows["observed"], own)
        np.testing.assert_allclose(rows["predicted"], drawn.mean(axis=0))
        np.testing.assert_allclose(rows["upper"], np.quantile(drawn, 0.975, axis=0))
        # Exact for each draw against a count of 800: SE at most 0.018.
        np.testing.assert_allclose(rows["p"], (drawn >= own).mean(axis=0), atol=0.09)
        row = find(check, name, "SD")
        np.testing.assert_allclose(row["observed"], own.std(ddof=1))
        np.testing.assert_allclose(row["predicted"], drawn.std(axis=1, ddof=1).mean())
        deviation = np.abs(drawn - drawn.mean(axis=1, keepdims=True)).max(axis=1)
        np.testing.assert_allclose(
            find(check, name, "largest deviation")["predicted"], deviation.mean()
        )


def test_replicates_have_the_effects_of_their_draw(right):
    """Group means less what beta, u and x of their own draw say are noise of known size."""
    moments = right.moments
    drawn = check_groups(right).data["posterior_predictive"]["mean"].values
    along = np.linspace(0, 499, 100).round().astype(int)
    posterior = right.data["posterior"].dataset.isel(draw=along)
    design = np.column_stack([np.ones(moments.n_groups), moments.mean[:, 0]])
    effects = posterior["beta"].values[:, :, None] + posterior["u"].values
    left = drawn - np.einsum("cdjk,jk->cdj", effects, design)
    noise = left * np.sqrt(moments.n) / posterior["sigma"].values[..., None]
    assert kstest(noise.ravel(), "norm").pvalue > UNLIKELY


def test_arviz_plots_the_replicates(right):
    data = check_groups(right).data
    assert data["posterior_predictive"]["mean"].dims == ("chain", "draw", "g")
    assert data["posterior_predictive"]["slope(x)"].shape == (4, 100, 60)
    az.plot_ppc_dist(data, backend="none")


def test_groups_without_a_statistic_are_left_out():
    table = simulate(5, n_groups=20, rows=4)
    table = table[(table["g"] > 2) | (table.groupby("g").cumcount() == 0)]
    check = sample(table).check()
    assert (check.groups["statistic"] == "mean").sum() == 20
    assert (check.groups["statistic"] == "slope(x)").sum() == 17
    assert not check.groups.isna().any(axis=None)
    assert not check.overall.isna().any(axis=None)
    assert check.data["posterior_predictive"]["slope(x)"].dims[2] == "g[slope(x)]"
    assert np.isfinite(check.data["posterior_predictive"]["slope(x)"]).all()
    az.plot_ppc_dist(check.data, backend="none")


def test_pairs_have_no_residual_sd():
    """Every group has two rows, which its slope fits without error."""
    check = sample(simulate(6, rows=2), "y ~ x + (1 | g)").check()
    assert set(check.groups["statistic"]) == {"mean", "slope(x)"}


def test_seeds(right):
    one, again, other = check_groups(right), check_groups(right), check_groups(right, seed=9)
    assert one.seed == right.seed
    pd.testing.assert_frame_equal(one.groups, again.groups)
    assert not one.groups["lower"].equals(other.groups["lower"])
    np.testing.assert_array_equal(one.groups["observed"], other.groups["observed"])


def test_without_held_replicates_the_tables_are_the_same(right):
    whole = check_groups(right)
    part = check_groups(right, held=0)
    assert part.data is None
    pd.testing.assert_frame_equal(part.overall, whole.overall)


def test_effects_that_are_not_held_are_drawn(right):
    data = right.data.copy()
    data["posterior"] = data["posterior"].to_dataset().drop_vars("u")
    pd.testing.assert_frame_equal(
        check_groups(right.with_data(data)).groups, check_groups(right).groups
    )


def test_new_groups_are_streamed(right):
    """In parts of seven groups: other random numbers, the same distribution."""
    whole = check_groups(right, kind="new groups")
    part = check_groups(right, kind="new groups", stream=7)
    np.testing.assert_allclose(part.groups["p"], whole.groups["p"], rtol=1e-12)
    np.testing.assert_array_equal(part.overall["observed"], whole.overall["observed"])
    # Quantiles of 400 replicates, in units of the width of the interval.
    width = whole.overall["upper"] - whole.overall["lower"]
    gap = (part.overall["predicted"] - whole.overall["predicted"]) / width
    assert gap.abs().max() < 0.1


def test_thinning_spreads_over_the_chains(right):
    at, shape = thin_draws(right, 10)
    assert shape == (4, 3)
    np.testing.assert_array_equal(at.reshape(4, 3) % 500, [[0, 250, 499]] * 4)
    assert thin_draws(right, 10**6)[1] == (4, 500)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "old groups"}, "'old groups' is not known"),
        ({"draws": 199}, "draws=199 is too small; give 200"),
        ({"draws": 4.5}, "draws=4.5"),
        ({"seed": -1}, "seed=-1 is not a seed"),
    ],
)
def test_wrong_arguments(right, options, words):
    with pytest.raises(ArgumentError, match=words):
        check_groups(right, **options)


def test_too_few_draws_for_a_verdict():
    with pytest.raises(ArgumentError, match="the fit has 100 draws, and the check needs 200"):
        sample(simulate(1), draws=25).check()


def test_a_name_with_a_slash_is_no_path():
    table = simulate(5, n_groups=20).assign(z=2.0)
    post = Model("y ~ I(x / z) + (I(x / z) | g)", table).sample(seed=1)
    check = check_groups(post)
    assert any("\u2044" in name for name in check.data["observed_data"].dataset)
