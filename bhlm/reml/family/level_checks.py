"""Checks of a family's fit with several factors: replicates by unit, and the calibration."""

from collections.abc import Iterator, Sequence

import numpy as np

from bhlm.likelihood.crossed_families import Approximation, WhitenedCross
from bhlm.likelihood.factor_names import join_columns
from bhlm.likelihood.replicates import (
    KINDS,
    NEW,
    FamilyCheck,
    Replicated,
    check_seed,
    judge_units,
    replicate,
)
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.nested import locate_nest

Array = np.ndarray


def check_units(
    fit: FamilyLevelsEstimate,
    factor: str | None = None,
    *,
    kind: str = "same groups",
    draws: int = 400,
    seed: int = 0,
) -> FamilyCheck:
    """Return each unit's proportion or rate beside replicates of it, and the calibration.

    The parameters stand at their estimates, and each replicate has effects of its own: of the same
    units from the normal distribution that has their posterior means and covariances given the
    parameters (of crossed factors, their joint mode and the curvature there), or of new units.

    Args:
        fit: the fit.
        factor: whose units; None takes that with the fewest.
        kind: "same groups" draws the units' effects given the data, "new groups" from N(0, G).
        draws: replicates.
        seed: of the replicates.

    Raises:
        ArgumentError: it is not a factor, an unknown kind, a negative seed, or too few draws.
    """
    counts = fit.patterns.groups
    name = min(counts, key=counts.__getitem__) if factor is None else factor
    fit.find_factor(name)
    return check_factors(fit, [name], kind=kind, draws=draws, seed=seed)[0]


def check_factors(
    fit: FamilyLevelsEstimate,
    factors: Sequence[str],
    *,
    kind: str = "same groups",
    draws: int = 400,
    seed: int = 0,
) -> list[FamilyCheck]:
    """Return what `check_units` does of each factor, by the same replicates."""
    check_seed(kind, draws, seed)
    patterns = fit.patterns
    replicated = replicate_patterns(fit, kind=kind, draws=draws, seed=seed)
    found = []
    for name in factors:
        labels = patterns.labels[fit.find_factor(name)]
        check = judge_units(
            patterns,
            fit.family,
            replicated,
            group=name,
            groups=join_columns(labels.columns),
            codes=labels.codes,
            kind=kind,
            seed=seed,
        )
        found.append(check)
    return found


def replicate_patterns(
    fit: FamilyLevelsEstimate, *, kind: str, draws: int, seed: int
) -> Replicated:
    """Return replicates of every pattern."""
    patterns = fit.patterns
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    fixed = patterns.offset + patterns.take(patterns.fixed) @ fit.beta
    zs = [patterns.take(structure.names) for structure in fit.structures]

    def add(effects: Sequence[Array]) -> Array:
        eta = fixed.copy()
        for z, u, codes in zip(zs, effects, patterns.codes, strict=True):
            eta += np.einsum("iq,iq->i", z, u[codes])
        return eta

    drawn = draw_units(fit, draws=draws, rng=rng, new=kind == NEW)
    found = replicate(patterns.n, fit.family, map(add, drawn), draws=draws, rng=rng)
    # Tenths in the order of the fixed effects alone: effects of units know the responses, whose
    # extremes would meet predictions that are nearer to the mean.
    return found._replace(expected=fit.family.mean(fixed))


def draw_units(
    fit: FamilyLevelsEstimate, *, draws: int, rng: np.random.Generator, new: bool
) -> Iterator[list[Array]]:
    """Yield effects u (J_f, q_f) by factor, of new units or of the same ones given the data."""
    if new:
        counts = [labels.n_levels for labels in fit.patterns.labels]
        for _ in range(draws):
            yield [
                rng.standard_normal((count, len(root))) @ root.T
                for count, root in zip(counts, fit.roots, strict=True)
            ]
    elif isinstance(fit.white, WhitenedCross):
        made = Approximation(fit.white).draw(
            fit.point[: fit.white.p], fit.lams, draws=draws, rng=rng
        )
        for parts in made:
            yield [v @ root.T for v, root in zip(parts, fit.roots, strict=True)]
    else:
        yield from _draw_nest(fit, draws, rng)


def _draw_nest(
    fit: FamilyLevelsEstimate, draws: int, rng: np.random.Generator
) -> Iterator[list[Array]]:
    """Yield effects of nested units, level by level given those that each unit lies in.

    Given its ancestors a unit's effects v have the mean m + B (w - E w) and the covariance C - B
    cov(w) B', with w the ancestors' effects and B = cov(v, w) cov(w)^-1.
    """
    white, marginal = locate_nest(fit)
    levels = range(len(white.order))
    steps: list[tuple[Array, Array]] = []  # B (J, q, Q) and a root of what is left (J, q, q)
    for level in levels:
        count, size = white.counts[level], white.sizes[level]
        above = _join_ancestors(fit, level)
        cross = [marginal.crosses[level][upper].transpose(0, 2, 1) for upper in range(level)]
        lean = np.concatenate(cross, axis=2) if cross else np.zeros((count, size, 0))
        back = np.linalg.pinv(above, hermitian=True) if level else above
        slope = lean @ back
        left = marginal.covs[level] - slope @ lean.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh(0.5 * (left + left.transpose(0, 2, 1)))
        steps.append((slope, vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]))
    parents = [[white.find_parents(level, upper) for upper in range(level)] for level in levels]
    places = [np.argsort(each) for each in white.levels]
    back_order = [white.order.index(f) for f in range(len(white.order))]
    for _ in range(draws):
        off: list[Array] = []
        for level, (slope, root) in zip(levels, steps, strict=True):
            noise = rng.standard_normal(marginal.means[level].shape)
            own = np.einsum("jab,jb->ja", root, noise)
            if level:
                w = np.concatenate(
                    [off[upper][parents[level][upper]] for upper in range(level)], axis=1
                )
                own += np.einsum("jab,jb->ja", slope, w)
            off.append(own)
        found = [(marginal.means[level] + off[level])[places[level]] for level in back_order]
        yield [v @ root.T for v, root in zip(found, fit.roots, strict=True)]


def _join_ancestors(fit: FamilyLevelsEstimate, level: int) -> Array:
    """Return the covariance (J, Q, Q) of the effects of all units that each of a level lies in."""
    white, marginal = locate_nest(fit)
    ends = np.cumsum([0, *white.sizes[:level]])
    found = np.zeros((white.counts[level], ends[-1], ends[-1]))
    for one in range(level):
        own = slice(ends[one], ends[one + 1])
        units = white.find_parents(level, one)
        found[:, own, own] = marginal.covs[one][units]
        for two in range(one):
            other = slice(ends[two], ends[two + 1])
            cross = marginal.crosses[one][two][units]
            found[:, other, own] = cross
            found[:, own, other] = cross.transpose(0, 2, 1)
    return found
