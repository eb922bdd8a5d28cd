"""What a meta-analysis asks of a fit with known variances: Q, I^2, intervals, a row per study."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.effects import predict_effects
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.parameters import check_level
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.estimate import Estimate
from bhlm.reml.optimize import evaluate_white

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.moments.cells import CellMoments
    from bhlm.moments.moments import Moments
    from bhlm.reml.levels import LevelsEstimate

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """How much the effects vary beyond their sampling errors.

    Q is the weighted residual sum of squares of the fixed effects alone, a chi-square on n - p df
    where the effects do not vary. I^2 is the share of the variance that is not sampling error, and
    H^2 the ratio of all to that, at the typical sampling variance (n - p) / tr(P), P the weights
    about the fixed effects. `lower` and `upper` bound the effect of a new study, by normal
    quantiles, in a model without moderators. Source: Higgins & Thompson (2002), Stat. Med. 21,
    1539-1558; Viechtbauer (2010), J. Stat. Softw. 36(3), section 2, for tr(P).
    """

    q: float
    df: int
    p: float
    tau2: float  # nan with a random slope
    i2: float  # per cent; nan with a random slope, or several rows in a group
    h2: float
    lower: float  # nan with moderators
    upper: float
    level: float

    def __str__(self) -> str:
        """Return the numbers in a few words."""
        text = f"Q({self.df}) = {self.q:.4f}, p = {self.p:.3g}"
        if self.i2 == self.i2:
            text += f"; tau^2 = {self.tau2:.4f}, I^2 = {self.i2:.1f} %, H^2 = {self.h2:.2f}"
        if self.lower == self.lower:
            text += (
                f"; {100 * self.level:g} % of new studies between {self.lower:.4f} and "
                f"{self.upper:.4f}"
            )
        return text


def measure_heterogeneity(fit: Estimate, *, level: float = 0.95) -> Heterogeneity:
    """Return Q, I^2, H^2 and the prediction interval of a fit with known variances.

    Raises:
        ArgumentError: a fit without known variances, or a level outside (0, 1).
    """
    check_level(level)
    require_known(fit, "heterogeneity()")
    moments, white = fit.moments, fit.white
    none = np.zeros((white.q, white.q))
    at = evaluate_white(white, none, restricted=False)
    q, df = at.rss / at.sigma2, moments.n_rows - white.p
    tau2 = i2 = h2 = lower = upper = np.nan
    if moments.random == (INTERCEPT,):
        tau2 = float(fit.g[0, 0])
        if moments.n_rows == moments.n_groups and moments.weighting is not None:
            i2, h2 = share_variance(tau2, moments, moments.weighting.sums, df=df)
        lower, upper = predict_new(fit, tau2, level=level)
    return Heterogeneity(
        q=float(q),
        df=df,
        p=float(chi_square_tail(q, df)),
        tau2=tau2,
        i2=float(i2),
        h2=float(h2),
        lower=lower,
        upper=upper,
        level=level,
    )


def tabulate_studies(fit: Estimate, *, level: float = 0.95) -> "pd.DataFrame":
    """Return a row per study of a meta-analysis: its effect, and the empirical-Bayes one.

    Columns: `estimate, se, lower, upper` as observed; `fitted` by the fixed effects; `eb, eb_se,
    eb_lower, eb_upper`, the best linear unbiased prediction with its error, that of the fixed
    effects included; `weight`, in per cent, of the study in a mean of effects.

    Raises:
        ArgumentError: a fit without known variances, with several rows in a group or a random
            slope, or a level outside (0, 1).
    """
    import pandas as pd

    check_level(level)
    require_known(fit, "studies()")
    moments = fit.moments
    if moments.n_rows > moments.n_groups or moments.random != (INTERCEPT,):
        raise ArgumentError(
            f"studies() are one row each with a random intercept, and '{moments.formula}' has "
            f"{moments.n_rows} rows in {moments.n_groups} groups; group by what names a study"
        )
    assert moments.weighting is not None
    y, v = moments.mean[:, -1], 1.0 / moments.weighting.sums
    x, tau2 = list_predictors(moments), float(fit.g[0, 0])
    fitted = x @ fit.beta
    u, pev = predict_effects(fit.white, fit.beta, fit.root, 1.0)
    # Var(eb - truth) = v tau2 / (v + tau2) + left^2 x'Cov(beta) x
    left = v / (v + tau2)
    eb_se = np.sqrt(pev[:, 0, 0] + left**2 * np.einsum("ji,ik,jk->j", x, fit.beta_cov, x))
    z = special.ndtri(0.5 + level / 2.0)
    se, eb = np.sqrt(v), fitted + u[:, 0]
    weight = 1.0 / (v + tau2)
    return pd.DataFrame(
        {
            "estimate": y,
            "se": se,
            "lower": y - z * se,
            "upper": y + z * se,
            "fitted": fitted,
            "eb": eb,
            "eb_se": eb_se,
            "eb_lower": eb - z * eb_se,
            "eb_upper": eb + z * eb_se,
            "weight": 100.0 * weight / weight.sum(),
        },
        index=pd.Index(moments.groups, name=moments.group),
    )


def predict_new(
    fit: "Estimate | LevelsEstimate", tau2: float, *, level: float
) -> tuple[float, float]:
    """Return the interval of a new effect, which varies by tau2; nan in a model with moderators."""
    if fit.moments.fixed != (INTERCEPT,):
        return np.nan, np.nan
    half = special.ndtri(0.5 + level / 2.0) * np.sqrt(tau2 + fit.beta_cov[0, 0])
    return float(fit.beta[0] - half), float(fit.beta[0] + half)


def share_variance(
    tau2: float, moments: "Moments | CellMoments", weights: Array, *, df: int
) -> tuple[float, float]:
    """Return I^2 in per cent and H^2 of effects that vary by tau2 beyond their sampling errors.

    Args:
        tau2: the variance of the effects.
        moments: of groups, or cells, of one row each.
        weights: of the rows, 1 / v.
        df: n - p.
    """
    x = list_predictors(moments)
    bread = np.linalg.inv(x.T @ (weights[:, None] * x))
    typical = df / (weights.sum() - np.trace(bread @ (x.T @ (weights[:, None] ** 2 * x))))
    return float(100.0 * tau2 / (tau2 + typical)), float((tau2 + typical) / typical)


def list_predictors(moments: "Moments | CellMoments") -> Array:
    """Return X (J, p) of groups, or cells, of one row each."""
    place = {name: i for i, name in enumerate(moments.columns)}
    ones = np.ones(len(moments.mean))
    return np.column_stack(
        [ones if name == INTERCEPT else moments.mean[:, place[name]] for name in moments.fixed]
    )


def require_known(fit: "Estimate | LevelsEstimate", what: str) -> None:
    """Raise `ArgumentError` of a fit whose sampling variances are not known."""
    if fit.weights is None or not fit.weights.holds_sigma:
        raise ArgumentError(
            f"{what} is of sampling variances that are known; make the model with known_variance="
        )
