"""What a family's model says of the population: means and effects averaged over the groups.

A unit-specific effect compares rows of one group; a population-averaged one compares the expected
responses of all groups, and is smaller where the link is curved. Source: Zeger, Liang & Albert
(1988), Biometrics 44, 1049-1060; Raudenbush & Bryk (2002), p. 297-304.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.averages import average_mean, explain_latent, share_latent, spread_effects
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.parameters import check_level
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.inference import find_joint_covariance
from bhlm.reml.family.maximum import FamilyMaximum, assemble_covariance
from bhlm.reml.family.search import PlainRows, fit_linear

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

NUDGE = 1e-4  # of parameters, relative to their standard errors


def estimate_population(fit: FamilyMaximum, *, method: str, level: float) -> "pd.DataFrame":
    """Return population-averaged effects: those of a model of the averaged means.

    The means of all rows, averaged over the random effects, are fitted by the same link without
    random effects, as a survey of the population would be; of a probit with a random intercept
    these are beta / sqrt(1 + tau), of a log link all but the intercept stay. Columns `estimate, se,
    lower, upper, statistic, p`, and `ratio` but for probit. Standard errors are by the delta
    method from those of beta and G, "cr0" and "cr1" from robust ones.

    Raises:
        ArgumentError: an unknown method, or a level outside (0, 1).
    """
    import pandas as pd

    check_level(level)
    cov = find_joint_covariance(fit, method)
    patterns, p = fit.moments, len(fit.beta)
    x, z = patterns.take(patterns.fixed), patterns.take(patterns.random)
    n, offset, family, turn = patterns.n, patterns.offset, fit.family, fit.white.fixed

    def at(values: Array) -> Array:
        spread = spread_effects(z, assemble_covariance(fit, values[p:]))
        mean = average_mean(family, offset + x @ values[:p], spread)
        rows = PlainRows(n, n * mean, offset, x @ turn, family, (0.0, 0.0))
        return np.asarray(turn @ fit_linear(rows).beta)

    values = np.append(fit.beta, fit.components)
    estimate = at(values)
    se = np.sqrt(np.maximum(np.diag(spread_by_delta(at, values, cov)), 0.0))
    z_value, half = estimate / se, special.ndtri(0.5 + 0.5 * level) * se
    content = {
        "estimate": estimate,
        "se": se,
        "lower": estimate - half,
        "upper": estimate + half,
        "statistic": z_value,
        "p": 2.0 * special.ndtr(-np.abs(z_value)),
    }
    if fit.family.link != "probit":
        content["ratio"] = np.exp(estimate)
    return pd.DataFrame(content, index=pd.Index(list(patterns.fixed), name="parameter"))


def spread_by_delta(at: Callable[[Array], Array], values: Array, cov: Array) -> Array:
    """Return the covariance of a function of parameters, by central differences.

    Parameters without a standard error, on their boundary, are held.
    """
    variances = np.diag(cov)
    free = np.isfinite(variances) & (variances > 0.0)
    slopes = []
    for k in np.flatnonzero(free):
        step = NUDGE * np.sqrt(variances[k])
        nudge = np.zeros(len(values))
        nudge[k] = step
        slopes.append((at(values + nudge) - at(values - nudge)) / (2.0 * step))
    jacobian = np.array(slopes).T
    return np.asarray(jacobian @ cov[np.ix_(free, free)] @ jacobian.T)


def share_variance(fit: FamilyEstimate) -> "pd.DataFrame":
    """Return the intraclass correlation on the latent scale, one row.

    `variance` z'Gz with z the means of the random columns, `latent` the variance of the residual
    that the link stands for (pi^2/3, 1, pi^2/6), `icc` the first's share, and `median_ratio`,
    exp(sqrt(2 variance) Phi^-1(3/4)): the median odds ratio (hazard ratio, rate ratio) of two rows
    that differ in the group alone. Counts have no latent residual; their `icc` is that of two
    counts with the mean exposure where all columns have their means. Source: Snijders & Bosker
    (2012), section 17.3.2; Larsen & Merlo (2005), Am. J. Epidemiol. 161; Austin et al. (2018),
    Stat. Med. 37.
    """
    import pandas as pd

    found = share_latent(fit.patterns, fit.family, fit.beta[None], fit.g[None])
    return pd.DataFrame(
        [
            [
                float(found.variance[0]),
                found.latent,
                float(found.icc[0]),
                float(found.median_ratio[0]),
            ]
        ],
        index=pd.Index([fit.patterns.group], name="factor"),
        columns=["variance", "latent", "icc", "median_ratio"],
    )


def explain_variance(fit: FamilyMaximum) -> dict[str, float]:
    """Return R2 on the latent scale: "marginal" of the fixed effects, "conditional" with groups.

    var(X beta) over var(X beta) + mean z'Gz of all factors + latent variance. Source: Nakagawa &
    Schielzeth (2013), Methods in Ecology and Evolution 4, 133-142; McKelvey & Zavoina (1975).

    Raises:
        ArgumentError: counts, which have no latent scale.
    """
    if fit.family.link == "log":
        raise ArgumentError("counts have no latent scale, and no R2 on it; see fit.icc()")
    parts = [(part.structure.names, part.g[None]) for part in fit.parts]
    found = explain_latent(fit.moments, fit.family, fit.beta[None], parts)
    return {"marginal": float(found[0][0]), "conditional": float(found[1][0])}


def measure_dispersion(fit: FamilyMaximum) -> dict[str, float]:
    """Return Pearson's chi-square over the patterns at their units' effects: chi2, df, ratio, p.

    Where patterns hold several trials or counts, a ratio well above 1 tells of variation that the
    family does not have: rows that depend on each other, or a column that is missing. Of rows of 0
    and 1 with columns of their own it tells nothing, and nan is returned. The chi-square holds
    roughly, for means above 5. Source: Bolker et al. (2009), Trends Ecol. Evol. 24, 127-135.
    """
    patterns = fit.moments
    df = patterns.n_patterns - len(fit.beta) - fit.n_components
    binary = fit.family.link != "log" and patterns.n.mean() < 2.0
    if binary or df < 1:
        return {"chi2": float("nan"), "df": df, "ratio": float("nan"), "p": float("nan")}
    mean = fit.family.mean(fit.predict_link())
    variance = fit.family.variance(mean, patterns.n)
    chi2 = float(np.sum((patterns.y - patterns.n * mean) ** 2 / variance))
    return {"chi2": chi2, "df": df, "ratio": chi2 / df, "p": float(chi_square_tail(chi2, df))}
