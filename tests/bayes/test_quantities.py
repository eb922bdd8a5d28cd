"""ICC, design effect and R2, draw by draw."""

import numpy as np
import pandas as pd
import pytest
from simulate import simulate_rows

from bhlm.bayes.draws import flatten_draws
from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.reml.compare import design_effect

EXACT = 1e-9  # two orders of summation
MONTE_CARLO = 4.0  # standard errors of a mean of draws


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(4, "x", n_groups=20)


@pytest.fixture(scope="module")
def post(rows):
    return rows.model.sample(seed=2, draws=400)


def test_r_squared_is_that_of_the_rows_at_every_draw(rows, post):
    beta, root, sigma = flatten_draws(post)
    found = post.r_squared().draws
    assert list(found) == ["marginal", "conditional"]
    assert found["marginal"].shape == (4, 400)
    for at in (0, 7, 1599):
        fixed = np.var(rows.x @ beta[at], ddof=1)
        random = np.mean(np.sum((rows.z @ root[at]) ** 2, axis=1))
        whole = fixed + random + sigma[at] ** 2
        assert found["marginal"].flat[at] == pytest.approx(fixed / whole, rel=EXACT)
        assert found["conditional"].flat[at] == pytest.approx((fixed + random) / whole, rel=EXACT)


def test_icc_with_a_random_slope_is_that_at_the_mean(rows, post):
    z = rows.z.mean(axis=0)
    g = post.data["posterior"]["G"].values
    between = np.einsum("a,cdab,b->cd", z, g, z)
    expected = between / (between + post.draws["var(Residual)"])
    found = post.icc().draws
    np.testing.assert_allclose(found["icc"], expected, rtol=EXACT)
    size = len(rows.y) / post.moments.n_groups
    np.testing.assert_allclose(found["design_effect"], 1 + (size - 1) * expected, rtol=EXACT)


def test_estimates_have_the_columns_of_the_fit(post):
    icc = post.icc()
    table = icc.estimates
    assert list(table.columns) == list(post.estimates.columns)
    assert list(table.index) == ["icc", "design_effect"]
    draws = icc.draws["icc"]
    assert table.loc["icc", "mean"] == pytest.approx(draws.mean())
    assert table.loc["icc", ["lower", "upper"]].tolist() == pytest.approx(
        np.quantile(draws, [0.025, 0.975])
    )
    assert table.loc["icc", "rhat"] < 1.05
    first = repr(icc).splitlines()[0]
    assert first.startswith(f"icc            {draws.mean():.4g}, 95 % interval [")


def test_icc_of_balanced_groups_has_its_closed_form():
    """Flat on (mu, tau^2, sigma^2): SSW and SSB give independent inverse gammas, truncated.

    With phi = sigma^2 + n tau^2: sigma^2 ~ InvGamma(J (n - 1) / 2 - 1, SSW / 2) and
    phi ~ InvGamma((J - 1) / 2 - 1, SSB / 2), given phi > sigma^2; ICC = (phi - sigma^2) /
    (phi - sigma^2 + n sigma^2). Source: Box & Tiao (1973), section 5.2.
    """
    n_groups, n = 20, 5
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(n_groups), n)
    y = rng.normal(size=n_groups)[group] * 0.7 + rng.normal(size=len(group))
    table = pd.DataFrame({"y": y, "g": group})
    means = table.groupby("g")["y"].mean().to_numpy()
    ssw = np.sum((y - means[group]) ** 2)
    ssb = n * np.sum((means - means.mean()) ** 2)
    size = 400_000
    sigma2 = ssw / 2 / rng.gamma(n_groups * (n - 1) / 2 - 1, size=size)
    phi = ssb / 2 / rng.gamma((n_groups - 1) / 2 - 1, size=size)
    tau2 = (phi - sigma2)[phi > sigma2] / n
    expected = tau2 / (tau2 + sigma2[phi > sigma2])
    model = Model("y ~ 1 + (1 | g)", table)
    post = model.sample(seed=3, priors=Priors.flat(), draws=2000)
    estimates = post.icc().estimates.loc["icc"]
    error = np.hypot(estimates["mcse_mean"], expected.std() / np.sqrt(len(expected)))
    assert abs(estimates["mean"] - expected.mean()) < MONTE_CARLO * error
    assert estimates["sd"] == pytest.approx(expected.std(), rel=0.05)
    quantiles = np.quantile(expected, [0.025, 0.975])
    # A tail quantile of some 4000 effective draws wanders by about 0.04 SDs.
    assert estimates[["lower", "upper"]].tolist() == pytest.approx(
        quantiles, abs=0.15 * expected.std()
    )
    reml = model.reml()
    effect = post.icc().estimates.loc["design_effect"]
    assert abs(effect["mean"] - design_effect(reml)) < effect["sd"]
