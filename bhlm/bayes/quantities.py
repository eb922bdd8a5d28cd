"""Quantities derived from the parameters, draw by draw: ICC, design effect, R2."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.convergence import tabulate_summaries
from bhlm.bayes.draws import Draws, flatten_draws
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.markup import NOTEBOOK_DIGITS, to_html
from bhlm.moments.moments import INTERCEPT, Moments, pool

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Quantities:
    """Draws of what is computed from the parameters, with the table that is read off them."""

    draws: dict[str, Array]  # name -> (chain, draw)

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every quantity in the columns of `fit.estimates`, with equal-tailed 95 % intervals."""
        return tabulate_summaries(self.draws, index="quantity")

    def _repr_html_(self) -> str:
        """Return the estimates as HTML, for notebooks."""
        return to_html(self.estimates, digits=NOTEBOOK_DIGITS)

    def __repr__(self) -> str:
        """Return means and intervals, one line for each quantity."""
        width = max(map(len, self.draws))
        lines = []
        for name, draws in self.draws.items():
            lower, upper = np.quantile(draws, [0.025, 0.975])
            lines.append(
                f"{name:{width}}  {draws.mean():.4g}, 95 % interval [{lower:.4g}, {upper:.4g}]"
            )
        return "\n".join(lines)


def derive_icc(fit: Draws) -> Quantities:
    """Return draws of the intraclass correlation `icc` and of the `design_effect`.

    As `bhlm.reml.compare.intraclass_correlation` has them for the REML estimates: with random
    slopes the ICC is that at the grand means of their columns, and the design effect is
    1 + (mean group size - 1) x ICC.
    """
    icc = correlate_within(fit.moments, fit.white, *flatten_draws(fit))
    effect = 1.0 + (fit.moments.n_rows / fit.moments.n_groups - 1.0) * icc
    return _chain(fit, {"icc": icc, "design_effect": effect})


def derive_r_squared(fit: Draws) -> Quantities:
    """Return draws of the `marginal` and the `conditional` R2 of Nakagawa, Johnson & Schielzeth.

    As `bhlm.reml.compare.r_squared` has them for the REML estimates.
    """
    marginal, conditional = explain_variance(fit.moments, fit.white, *flatten_draws(fit))
    return _chain(fit, {"marginal": marginal, "conditional": conditional})


def correlate_within(
    moments: Moments, white: Whitened, beta: Array, root: Array, sigma: Array
) -> Array:
    """Return the intraclass correlation z'Gz / (z'Gz + sigma^2) of each draw (N,).

    z holds the grand means of the random columns; without slopes this is tau / (tau + sigma^2).
    Source: Raudenbush & Bryk (2002), p. 71.

    Args:
        moments: the reduced table.
        white: its whitened form.
        beta: fixed effects (N, p).
        root: lower roots of G (N, q, q).
        sigma: residual SDs (N,).
    """
    _, grand, _ = pool(moments)
    mean = {INTERCEPT: 1.0} | dict(zip(moments.columns, grand.tolist(), strict=True))
    z = np.array([mean[name] for name in moments.random])
    # In the whitened basis, where a column far from zero does not cancel.
    _, lam, _ = whiten_parameters(white, beta, root, sigma)
    between = np.sum((z @ white.basis @ lam) ** 2, axis=-1)  # over sigma^2
    return np.asarray(between / (between + 1.0))


def explain_variance(
    moments: Moments, white: Whitened, beta: Array, root: Array, sigma: Array
) -> tuple[Array, Array]:
    """Return the marginal and the conditional R2 of each draw, (N,) and (N,).

    With var_f the variance of X beta over the rows and var_r the mean over the rows of z'Gz:
    marginal var_f / (var_f + var_r + sigma^2), conditional (var_f + var_r) / the same. Source:
    Johnson (2014), Methods in Ecology and Evolution 5, 944-946, for random slopes.

    Args:
        moments: the reduced table.
        white: its whitened form.
        beta: fixed effects (N, p).
        root: lower roots of G (N, q, q).
        sigma: residual SDs (N,).
    """
    n, _, total = pool(moments)
    kept = [i for i, name in enumerate(moments.fixed) if name != INTERCEPT]
    at = [moments.columns.index(moments.fixed[i]) for i in kept]
    slopes = beta[:, kept]
    fixed = np.einsum("ni,ij,nj->n", slopes, total[np.ix_(at, at)], slopes) / (n - 1.0)
    _, lam, _ = whiten_parameters(white, beta, root, sigma)
    products = white.blocks[:, : white.q, : white.q].sum(axis=0)
    random = sigma**2 * np.einsum("nai,ab,nbi->n", lam, products, lam) / n
    whole = fixed + random + sigma**2
    return fixed / whole, (fixed + random) / whole


def _chain(fit: Draws, flat: dict[str, Array]) -> Quantities:
    shape = fit.data["posterior"]["sigma"].shape
    return Quantities({name: values.reshape(shape) for name, values in flat.items()})
