"""Predictions of a family for rows: of known groups, and of the population."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.likelihood.averages import average_mean, spread_effects
from bhlm.likelihood.expected import check_scale
from bhlm.likelihood.parameters import check_level
from bhlm.likelihood.patterns import Integrator
from bhlm.moments.groups import place_new_rows
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.population import spread_by_delta

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

BLOCK = 4096  # rows whose groups are integrated together


def predict_rows(
    fit: FamilyEstimate,
    labels: Array,
    x: Array,
    z: Array,
    offset: Array,
    *,
    kind: str = "conditional",
    scale: str = "response",
    new_groups: str = "error",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return predictions with intervals, one row per row of x: `estimate, se, lower, upper`.

    On the link scale "conditional" is x beta + z E[u | y] with the error of beta and of u given the
    parameters, and "population" is x beta, of a group whose effects are zero. On the response
    scale, the expected response of one trial or unit of exposure: "conditional" is its mean over
    the group's posterior, exactly so (the likelihood with one more success, divided by that
    without), and its interval is that of the link scale; "population" is the mean over all groups
    there may be, with its error from beta and G by the delta method.

    Args:
        fit: the fit.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        offset: (n,).
        kind: "conditional" or "population".
        scale: "response" or "link".
        new_groups: for groups that the fit has not seen, "error" or "population".
        level: of the intervals.

    Raises:
        ArgumentError: an unknown kind or scale, a level outside (0, 1).
        DataError: a group that the fit has not seen, if that is an error.
    """
    import pandas as pd

    check_level(level)
    check_scale(scale)
    at = place_new_rows(fit.patterns, labels, kind=kind, new_groups=new_groups)
    known = (at >= 0) & (kind == "conditional")
    half = special.ndtri(0.5 + level / 2.0)
    linear = offset + x @ fit.beta
    means, covs = fit.locate_effects()
    variance = np.einsum("ni,ij,nj->n", x, fit.beta_cov, x)
    if known.any():
        mine, seen = z[known], at[known]
        linear[known] += np.einsum("nq,nq->n", mine, means[seen])
        variance[known] += np.einsum("ni,nij,nj->n", mine, covs[seen], mine)
    if scale == "link":
        if kind == "conditional":
            variance[~known] += spread_effects(z[~known], fit.g) ** 2
        se = np.sqrt(variance)
        return pd.DataFrame(
            {"estimate": linear, "se": se, "lower": linear - half * se, "upper": linear + half * se}
        )
    family = fit.family
    estimate, se = np.empty(len(x)), np.empty(len(x))
    lower, upper = np.empty(len(x)), np.empty(len(x))
    if known.any():
        estimate[known] = _average_posterior(fit, at[known], x[known], z[known], offset[known])
        error = np.sqrt(variance[known])
        lower[known] = family.mean(linear[known] - half * error)
        upper[known] = family.mean(linear[known] + half * error)
        se[known] = family.slope(linear[known]) * error
    if not known.all():
        rest = ~known
        found = _average_population(fit, x[rest], z[rest], offset[rest])
        estimate[rest], se[rest] = found
        middle = family.apply_link(found[0])
        error = found[1] / family.slope(middle)
        lower[rest], upper[rest] = (family.mean(middle + by * error) for by in (-half, half))
    return pd.DataFrame({"estimate": estimate, "se": se, "lower": lower, "upper": upper})


def _average_population(
    fit: FamilyEstimate, x: Array, z: Array, offset: Array
) -> tuple[Array, Array]:
    """Return means (n,) over all groups there may be, and their standard errors (n,)."""
    p, structure = len(fit.beta), fit.structure
    values = np.append(fit.beta, structure.read(fit.g))
    mean = average_mean(fit.family, offset + x @ fit.beta, spread_effects(z, fit.g))
    variances = []
    for start in range(0, len(x), 256):
        span = slice(start, start + 256)

        def part(values: Array, span: slice = span) -> Array:
            spread = spread_effects(z[span], structure.assemble(values[p:]))
            return average_mean(fit.family, offset[span] + x[span] @ values[:p], spread)

        variances.append(np.diag(spread_by_delta(part, values, fit.joint_cov)))
    return mean, np.sqrt(np.maximum(np.concatenate(variances), 0.0))


def _average_posterior(fit: FamilyEstimate, at: Array, x: Array, z: Array, offset: Array) -> Array:
    """Return E[mean(eta) | y] (n,) of rows of the groups `at`.

    With one more success of one trial the likelihood of a group is multiplied by it; of the log
    link, with one more event of no exposure.
    """
    white, p = fit.white, len(fit.beta)
    base = fit.integrator()
    before = base.evaluate(fit.point[:p], fit.lam, derivatives=False).logliks
    trial = 0.0 if fit.family.has_exposure else 1.0
    found = np.empty(len(at))
    for start in range(0, len(at), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(at)))
        sizes = np.diff(white.starts)[at[rows]]
        starts = np.concatenate([[0], np.cumsum(sizes + 1)])
        own = np.concatenate([np.arange(white.starts[j], white.starts[j + 1]) for j in at[rows]])
        keep = np.ones(starts[-1], dtype=bool)
        keep[starts[1:] - 1] = False

        def join(old: Array, new: Array, keep: Array = keep, own: Array = own) -> Array:
            made = np.empty((len(keep), *old.shape[1:]))
            made[keep], made[~keep] = old[own], new
            return made

        many = len(rows)
        longer = replace(
            white,
            starts=starts,
            n=join(white.n, np.full(many, trial)),
            y=join(white.y, np.ones(many)),
            offset=join(white.offset, offset[rows]),
            x=join(white.x, x[rows] @ white.fixed),
            z=join(white.z, z[rows] @ white.basis),
        )
        peak = join(base.reference.peak, np.full(many, np.nan))
        integrator = Integrator(longer, base.reference._replace(peak=peak))
        integrator.modes[:] = base.modes[at[rows]]
        integrator.steps = base.steps[at[rows]].copy()
        after = integrator.evaluate(fit.point[:p], fit.lam, derivatives=False).logliks
        found[rows] = np.exp(after - before[at[rows]])
    return found
