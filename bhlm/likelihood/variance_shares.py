"""Shares of the variance, draw by draw: the intraclass correlation and R2."""

from collections.abc import Sequence

import numpy as np

from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested import is_nested
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


def spread_factors(
    moments: CellMoments,
    white: WhitenedCells,
    parts: Sequence[Structure],
    lams: Sequence[Array],
    sigma2: Array,
) -> tuple[Array, Array]:
    """Return by factor the variance z'Gz, and what of it two rows of one level share, (N, F) each.

    z holds the grand means of the factor's random columns; rows of one level share the levels that
    it is nested in as well. Source: Raudenbush & Bryk (2002), p. 71 and chapter 8.

    Args:
        moments: the reduced table.
        white: its whitened form.
        parts: the structure of each factor.
        lams: relative covariance factors (N, q_f, q_f) by factor, whitened.
        sigma2: residual variances (N,).
    """
    _, grand, _ = pool(moments)
    mean = {INTERCEPT: 1.0} | dict(zip(moments.columns, grand.tolist(), strict=True))
    variances = np.empty((len(sigma2), len(parts)))
    for at, (part, basis, lam) in enumerate(zip(parts, white.bases, lams, strict=True)):
        # In the whitened basis, where a column far from zero does not cancel.
        z = np.array([mean[name] for name in part.names])
        variances[:, at] = sigma2 * np.sum((z @ basis @ lam) ** 2, axis=-1)
    codes = moments.codes
    every = range(len(parts))
    inside = [[is_nested(codes[at], codes[other]) for other in every] for at in every]
    return variances, variances @ np.array(inside, dtype=np.float64).T


def spread_rows(white: WhitenedCells, lams: Sequence[Array], sigma2: Array) -> Array:
    """Return the mean over the rows of z'Gz, added up over the factors, of each draw (N,).

    Arguments as of `spread_factors`.
    """
    levels = white.levels
    none = [np.zeros(lam.shape[1:]) for lam in lams]
    total = np.zeros(len(sigma2))
    for lam, own in zip(lams, levels.precisions(none, levels.eliminate(none)), strict=True):
        total += np.einsum("nai,ab,nbi->n", lam, own.sum(axis=0), lam)
    return sigma2 * total / white.n


def spread_fixed(moments: Moments | CellMoments, beta: Array) -> Array:
    """Return the variance (N,) of X beta over the rows, of each draw of beta (N, p)."""
    n, _, total = pool(moments)
    kept = [i for i, name in enumerate(moments.fixed) if name != INTERCEPT]
    at = [moments.columns.index(moments.fixed[i]) for i in kept]
    slopes = beta[:, kept]
    return np.asarray(np.einsum("ni,ij,nj->n", slopes, total[np.ix_(at, at)], slopes) / (n - 1.0))
