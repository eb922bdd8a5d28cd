"""Means of a family over random effects, and what of its variance lies between groups."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from bhlm.likelihood.families import Family
from bhlm.likelihood.nested import is_nested
from bhlm.moments.level_patterns import AnyPatterns, LevelPatterns
from bhlm.moments.patterns import Patterns

Array = np.ndarray

# The trapezoidal rule over a normal density: with a gap of 1/6 of an SD its error is below 1e-12
# for effects with an SD of 5 on the link scale.
REACH, GAP = 9.0, 1.0 / 6.0
BLOCK = 1 << 14


def average_mean(family: Family, eta: Array, sd: Array) -> Array:
    """Return E[mean(eta + sd v)] (n,) over v ~ N(0, 1).

    Exactly so for the probit and log link, by a fine trapezoidal rule for the others.
    """
    if family.link == "probit":
        return np.asarray(special.ndtr(eta / np.sqrt(1.0 + sd**2)))
    if family.link == "log":
        return np.asarray(np.exp(eta + 0.5 * sd**2))
    widest = float(sd.max(initial=1.0))
    gap = GAP / max(1.0, widest / 5.0)
    v = np.arange(-REACH, REACH + 0.5 * gap, gap)
    weight = np.exp(-0.5 * v**2)
    weight /= weight.sum()
    mean = np.empty_like(eta)
    for start in range(0, len(eta), BLOCK):
        span = slice(start, start + BLOCK)
        mean[span] = family.mean(eta[span, None] + sd[span, None] * v) @ weight
    return mean


def spread_effects(z: Array, g: Array) -> Array:
    """Return the SDs (n,) of z_i'u."""
    return np.asarray(np.sqrt(np.maximum(np.einsum("ia,ab,ib->i", z, g, z), 0.0)))


class LatentShare(NamedTuple):
    """How much of the latent variance lies between groups, in N draws; estimates are one."""

    variance: Array  # (N,) z'Gz with z the means of the random columns
    latent: float  # the variance of the residual that the link stands for
    icc: Array  # (N,)
    median_ratio: Array  # (N,) exp(sqrt(2 variance) Phi^-1(3/4)); nan for probit


def share_latent(patterns: Patterns, family: Family, beta: Array, g: Array) -> LatentShare:
    """Return the intraclass correlation on the latent scale at beta (N, p) and G (N, q, q).

    Counts have no latent residual; their `icc` is that of two counts with the mean exposure where
    all columns have their means. Source: Snijders & Bosker (2012), section 17.3.2; Larsen & Merlo
    (2005), Am. J. Epidemiol. 161; Austin et al. (2018), Stat. Med. 37.
    """
    weight = patterns.n / patterns.n.sum()
    middle = weight @ patterns.take(patterns.random)
    variance = np.einsum("a,nab,b->n", middle, g, middle)
    latent = family.latent_variance
    if family.link == "log":
        eta = beta @ (weight @ patterns.take(patterns.fixed))
        exposure = float(patterns.n.sum() / patterns.n_rows)
        mean = exposure * np.exp(eta + 0.5 * variance)
        between = mean**2 * np.expm1(variance)
        icc = between / (between + mean)
    else:
        icc = variance / (variance + latent)
    ratio = np.full(len(variance), np.nan)
    if family.link != "probit":
        ratio = compare_medians(variance)
    return LatentShare(variance, latent, icc, ratio)


def compare_medians(variance: Array) -> Array:
    """Return the median ratio of two rows that differ in the group alone, by its variance."""
    return np.asarray(np.exp(np.sqrt(2.0 * variance) * special.ndtri(0.75)))


class LevelShares(NamedTuple):
    """Where the latent variance lies, in N draws; estimates are one."""

    variances: Array  # (N, F) z'Gz with z the means of the random columns
    shared: Array  # (N, F) those of each factor and of all that it is nested in
    total: Array  # (N,) with the variance of the residual that the link stands for; nan of counts


def share_levels(
    patterns: LevelPatterns, family: Family, parts: Sequence[tuple[tuple[str, ...], Array]]
) -> LevelShares:
    """Return each factor's variance on the latent scale, and that of rows with a unit in common.

    Args:
        patterns: the reduced table.
        family: with its link.
        parts: of each factor its random columns and their G (N, q, q).
    """
    weight = patterns.n / patterns.n.sum()
    middles = [weight @ patterns.take(names) for names, _ in parts]
    variances = np.stack(
        [np.einsum("a,nab,b->n", z, g, z) for z, (_, g) in zip(middles, parts, strict=True)],
        axis=1,
    )
    codes = patterns.codes
    within = np.array([[is_nested(own, other) for other in codes] for own in codes], dtype=float)
    return LevelShares(
        variances, variances @ within.T, variances.sum(axis=1) + family.latent_variance
    )


def explain_latent(
    patterns: AnyPatterns,
    family: Family,
    beta: Array,
    parts: Sequence[tuple[tuple[str, ...], Array]],
) -> tuple[Array, Array]:
    """Return the marginal and the conditional R2 (N,) on the latent scale.

    var(X beta) over var(X beta) + mean z'Gz of all factors + latent variance. Source: Nakagawa &
    Schielzeth (2013), Methods in Ecology and Evolution 4, 133-142; McKelvey & Zavoina (1975).

    Args:
        patterns: the reduced table.
        family: with its link.
        beta: (N, p).
        parts: of each factor its random columns and their G (N, q, q).
    """
    weight = patterns.n / patterns.n.sum()
    x = patterns.take(patterns.fixed)
    centred = x - weight @ x
    spread = (centred * weight[:, None]).T @ centred
    fixed = np.einsum("na,ab,nb->n", beta, spread, beta)
    groups = np.zeros(len(beta))
    for names, g in parts:
        z = patterns.take(names)
        groups += np.einsum("nab,ab->n", g, (z * weight[:, None]).T @ z)
    total = fixed + groups + family.latent_variance
    return fixed / total, (fixed + groups) / total
