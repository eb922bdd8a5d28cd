"""Quantities derived from the parameters, draw by draw: ICC, design effect, R2."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.convergence import tabulate_summaries
from bhlm.bayes.draws import Draws, Posterior, flatten_draws
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.variance_shares import (
    correlate_within,
    explain_variance,
    spread_factors,
    spread_fixed,
    spread_rows,
)
from bhlm.likelihood.whitening import whiten_parameters
from bhlm.markup import NOTEBOOK_DIGITS, to_html

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.level_draws import LevelDraws

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
    icc = correlate_within(fit.moments, fit.white, flatten_draws(fit))
    effect = 1.0 + (fit.moments.n_rows / fit.moments.n_groups - 1.0) * icc
    return _chain(fit, {"icc": icc, "design_effect": effect})


def derive_r_squared(fit: Draws) -> Quantities:
    """Return draws of the `marginal` and the `conditional` R2 of Nakagawa, Johnson & Schielzeth.

    As `bhlm.reml.compare.r_squared` has them for the REML estimates.
    """
    marginal, conditional = explain_variance(fit.moments, fit.white, flatten_draws(fit))
    return _chain(fit, {"marginal": marginal, "conditional": conditional})


def derive_level_icc(fit: "LevelDraws") -> Quantities:
    """Return draws of each factor's `share(factor)` of the variance and of its `icc(factor)`.

    As `LevelsEstimate.icc` has them for the REML estimates: the ICC is the correlation of two rows
    that have the level in common, and with it the levels that it is nested in. `share(Residual)`
    is what is left.
    """
    flat = fit.flat
    sigma2, parts = flat.sigma**2, fit.structure.parts
    variances, shared = spread_factors(
        fit.moments, fit.white, parts, _split_lams(fit, flat), sigma2
    )
    total = variances.sum(axis=1) + sigma2
    shares = dict(zip(fit.factors, (variances / total[:, None]).T, strict=True))
    iccs = dict(zip(fit.factors, (shared / total[:, None]).T, strict=True))
    found = {f"share({name})": draws for name, draws in shares.items()}
    found |= {"share(Residual)": sigma2 / total}
    return _chain(fit, found | {f"icc({name})": draws for name, draws in iccs.items()})


def derive_level_r_squared(fit: "LevelDraws") -> Quantities:
    """Return draws of the `marginal` and the `conditional` R2, z'Gz added up over the factors.

    As `bhlm.reml.compare.r_squared` has them for the REML estimates.
    """
    flat = fit.flat
    sigma2, fixed = flat.sigma**2, spread_fixed(fit.moments, flat.beta)
    random = spread_rows(fit.white, _split_lams(fit, flat), sigma2)
    whole = fixed + random + sigma2
    return _chain(fit, {"marginal": fixed / whole, "conditional": (fixed + random) / whole})


def _split_lams(fit: "LevelDraws", flat: Parameters) -> list[Array]:
    """Return the relative covariance factors (N, q_f, q_f) by factor, whitened."""
    _, lam, _ = whiten_parameters(fit.white, *flat)
    return [lam[:, span, span] for span in fit.structure.spans]


def _chain(fit: Posterior, flat: dict[str, Array]) -> Quantities:
    shape = fit.shape
    return Quantities({name: values.reshape(shape) for name, values in flat.items()})
