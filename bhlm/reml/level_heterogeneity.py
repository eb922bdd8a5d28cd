"""What a meta-analysis of several levels asks of a fit with known variances: Q, I^2 of each level.

Outcomes of studies, or studies in districts, have a variance for each level beyond their sampling
errors; I^2 is split among the levels as the variance is.
"""

from dataclasses import dataclass

import numpy as np

from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.levels import evaluate_levels
from bhlm.likelihood.parameters import check_level
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.heterogeneity import predict_new, require_known, share_variance
from bhlm.reml.levels import LevelsEstimate


@dataclass(frozen=True, slots=True)
class LevelHeterogeneity:
    """How much effects of several levels vary beyond their sampling errors.

    Q is the weighted residual sum of squares of the fixed effects alone, a chi-square on n - p df
    where the effects do not vary. `i2` has each factor's share of the variance in per cent, at the
    typical sampling variance (n - p) / tr(P), P the weights about the fixed effects. `lower` and
    `upper` bound the effect of a new unit of every factor, by normal quantiles, in a model without
    moderators. Source: Viechtbauer (2010), J. Stat. Softw. 36(3), section 2, for tr(P); Cheung
    (2014), Psychological Methods 19, 211-229, for the shares of levels.
    """

    q: float
    df: int
    p: float
    tau2: dict[str, float]  # by factor; nan with a random slope
    i2: dict[str, float]  # by factor, per cent; nan with a slope, or several rows in a cell
    total: float  # the sum of i2
    lower: float  # nan with moderators
    upper: float
    level: float

    def __str__(self) -> str:
        """Return the numbers in a few words."""
        text = f"Q({self.df}) = {self.q:.4f}, p = {self.p:.3g}"
        for factor, tau2 in self.tau2.items():
            if tau2 == tau2:
                text += f"; {factor}: tau^2 = {tau2:.4f}"
                if self.total == self.total:
                    text += f", I^2 = {self.i2[factor]:.1f} %"
        if self.lower == self.lower:
            text += (
                f"; {100 * self.level:g} % of new units of all factors between {self.lower:.4f} "
                f"and {self.upper:.4f}"
            )
        return text


def measure_level_heterogeneity(fit: LevelsEstimate, *, level: float = 0.95) -> LevelHeterogeneity:
    """Return Q, I^2 of each factor and the prediction interval of a fit with known variances.

    Raises:
        ArgumentError: a fit without known variances, or a level outside (0, 1).
    """
    check_level(level)
    require_known(fit, "heterogeneity()")
    moments, white = fit.moments, fit.white
    none = [np.zeros_like(lam) for lam in fit.lams]
    at = evaluate_levels(white.levels, none, n=white.n, restricted=False, held=white.held).at
    q, df = at.rss / at.sigma2, moments.n_rows - white.p
    names = list(moments.groups)
    tau2, i2 = dict.fromkeys(names, np.nan), dict.fromkeys(names, np.nan)
    total = lower = upper = np.nan
    if all(structure.names == (INTERCEPT,) for structure in fit.structures):
        tau2 = {name: float(g[0, 0]) for name, g in zip(names, fit.gs, strict=True)}
        whole = sum(tau2.values())
        if moments.n_cells == moments.n_rows and moments.weighting is not None:
            total, _ = share_variance(whole, moments, moments.weighting.sums, df=df)
            shares = {name: each / whole if whole else 0.0 for name, each in tau2.items()}
            i2 = {name: total * share for name, share in shares.items()}
        lower, upper = predict_new(fit, whole, level=level)
    return LevelHeterogeneity(
        q=float(q),
        df=df,
        p=float(chi_square_tail(q, df)),
        tau2=tau2,
        i2=i2,
        total=float(total),
        lower=lower,
        upper=upper,
        level=level,
    )
