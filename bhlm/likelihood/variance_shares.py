"""Shares of the variance, draw by draw: the intraclass correlation and R2."""

import numpy as np

from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import INTERCEPT, Moments, pool

Array = np.ndarray


def correlate_within(moments: Moments, white: Whitened, parameters: Parameters) -> Array:
    """Return the intraclass correlation z'Gz / (z'Gz + sigma^2) of each draw (N,).

    z holds the grand means of the random columns; without slopes this is tau / (tau + sigma^2).
    Source: Raudenbush & Bryk (2002), p. 71.

    Args:
        moments: the reduced table.
        white: its whitened form.
        parameters: in N draws.
    """
    _, grand, _ = pool(moments)
    mean = {INTERCEPT: 1.0} | dict(zip(moments.columns, grand.tolist(), strict=True))
    z = np.array([mean[name] for name in moments.random])
    # In the whitened basis, where a column far from zero does not cancel.
    _, lam, _ = whiten_parameters(white, *parameters)
    between = np.sum((z @ white.basis @ lam) ** 2, axis=-1)  # over sigma^2
    return np.asarray(between / (between + 1.0))


def explain_variance(
    moments: Moments, white: Whitened, parameters: Parameters
) -> tuple[Array, Array]:
    """Return the marginal and the conditional R2 of each draw, (N,) and (N,).

    With var_f the variance of X beta over the rows and var_r the mean over the rows of z'Gz:
    marginal var_f / (var_f + var_r + sigma^2), conditional (var_f + var_r) / the same. Source:
    Johnson (2014), Methods in Ecology and Evolution 5, 944-946, for random slopes.

    Args:
        moments: the reduced table.
        white: its whitened form.
        parameters: in N draws.
    """
    n = white.n
    fixed = spread_fixed(moments, parameters.beta)
    _, lam, _ = whiten_parameters(white, *parameters)
    products = white.blocks[:, : white.q, : white.q].sum(axis=0)
    sigma2 = parameters.sigma**2
    random = sigma2 * np.einsum("nai,ab,nbi->n", lam, products, lam) / n
    whole = fixed + random + sigma2
    return fixed / whole, (fixed + random) / whole


def spread_fixed(moments: Moments | CellMoments, beta: Array) -> Array:
    """Return the variance (N,) of X beta over the rows, of each draw of beta (N, p)."""
    n, _, total = pool(moments)
    kept = [i for i, name in enumerate(moments.fixed) if name != INTERCEPT]
    at = [moments.columns.index(moments.fixed[i]) for i in kept]
    slopes = beta[:, kept]
    return np.asarray(np.einsum("ni,ij,nj->n", slopes, total[np.ix_(at, at)], slopes) / (n - 1.0))
