"""Shares of the variance are those of the rows, however the columns are shifted."""

import numpy as np
import pytest
from simulate import simulate_table

from bhlm.fits.model import Model
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.variance_shares import correlate_within, explain_variance

DIGITS = {0.0: 1e-10, 1e4: 1e-6}  # what sums over the rows leave of a share, by the offset


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x + w + (x | g)",
        "y ~ x + w + (1 | g) + (0 + x | g)",
        "y ~ 1 + (1 | g)",
        "y ~ 0 + x + (x | g)",
        "y ~ x * w + (x + t | g)",
    ],
)
@pytest.mark.parametrize("offset", DIGITS)
def test_shares_are_those_of_the_rows(formula, offset):
    table = simulate_table(4, n_groups=30)
    model = Model(formula, table.assign(x=table["x"] + offset))
    one = model.reml().as_draw()
    other = Parameters(1.1 * one.beta, 0.5 * one.root, 2.0 * one.sigma)
    both = Parameters(*map(np.concatenate, zip(one, other, strict=True)))
    white, moments = model.reml().white, model.moments
    icc = correlate_within(moments, white, both)
    marginal, conditional = explain_variance(moments, white, both)
    _, x, z, _ = model.rows()
    for at, (beta, root, sigma) in enumerate(zip(*both, strict=True)):
        fixed = np.var(x @ beta, ddof=1)
        random = np.mean(np.sum((z @ root) ** 2, axis=1))
        whole = fixed + random + sigma**2
        between = np.sum((z.mean(axis=0) @ root) ** 2)
        close = {"rel": DIGITS[offset], "abs": 1e-12}
        assert icc[at] == pytest.approx(between / (between + sigma**2), **close)
        assert marginal[at] == pytest.approx(fixed / whole, **close)
        assert conditional[at] == pytest.approx((fixed + random) / whole, **close)
