"""Predictions for rows of nested units whose effects were integrated: exact posterior means."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bhlm.errors import DataError
from bhlm.layout import agree, count, show_name
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.nested import build_integrator, locate_nest

Array = np.ndarray

BLOCK = 200_000  # patterns that are integrated together
KNOWN = 1e-9  # of a unit's log-likelihood, and so of a prediction's relative error
ALONE = 0.5  # posterior SDs between nodes of a unit with a single row


def place_units(fit: FamilyLevelsEstimate, codes: Array) -> Array:
    """Return the unit (L, n) of each level that rows belong to, -1 for those not seen.

    Args:
        fit: the fit.
        codes: the level (F, n) of every factor, -1 for those that are not seen.

    Raises:
        DataError: a unit that is known in another one than the row's.
    """
    white, _ = locate_nest(fit)
    names = list(fit.patterns.groups)
    units = np.full((len(white.order), codes.shape[1]), -1)
    for level, at in enumerate(white.order):
        seen = codes[at] >= 0
        units[level, seen] = np.argsort(white.levels[level])[codes[at, seen]]
        if not level:
            continue
        mine = white.find_parents(level, level - 1)[units[level]]
        wrong = seen & (mine != units[level - 1])
        if many := int(wrong.sum()):
            one, other = names[at], names[white.order[level - 1]]
            raise DataError(
                f"{count(many, 'row')} {agree(many, 'has', 'have')} a '{show_name(one)}' in "
                f"another '{show_name(other)}' than the fit knows it in; correct that, or give new "
                "labels"
            )
    return units


def spread_known(fit: FamilyLevelsEstimate, z: Sequence[Array], units: Array) -> Array:
    """Return the posterior variances (n,) of sum_f z_f u_f over the units that the fit has seen.

    Args:
        fit: the fit.
        z: random columns (n, q_f) by factor.
        units: (L, n) as `place_units` has them.
    """
    white, marginal = locate_nest(fit)
    parts = []
    for level, at in enumerate(white.order):
        own = z[at] @ fit.roots[at]
        own[units[level] < 0] = 0.0
        parts.append(own)
    total = np.zeros(units.shape[1])
    for level, own in enumerate(parts):
        place = units[level]
        total += np.einsum("nd,nde,ne->n", own, marginal.covs[level][place], own)
        for upper in range(level):
            cross = marginal.crosses[level][upper][place]
            total += 2.0 * np.einsum("nd,nde,ne->n", parts[upper], cross, own)
    return total


class _Longer(NamedTuple):
    """Copies of coarsest units, each with one row more, and the units that theirs are copies of."""

    white: WhitenedNest
    sources: tuple[Array, ...]  # L, -1 of a new unit
    peak: Array  # (I,) nan of the new rows


def average_known(
    fit: FamilyLevelsEstimate, x: Array, z: Sequence[Array], offset: Array, units: Array
) -> Array:
    """Return E[mean(eta) | y] (n,) of rows of coarsest units that the fit has seen.

    With one more success of one trial the likelihood of a coarsest unit is multiplied by it; of the
    log link, with one more event of no exposure. A unit within it that is not seen has the prior.

    Args:
        fit: the fit.
        x: fixed columns (n, p).
        z: random columns (n, q_f) by factor.
        offset: (n,).
        units: (L, n) as `place_units` has them.
    """
    white, _ = locate_nest(fit)
    rows = np.column_stack([units.T, offset, x, *z])
    distinct, first, back = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    base = build_integrator(fit, tolerance=KNOWN)
    beta, lams = fit.point[: white.p], [fit.lams[at] for at in white.order]
    before = base.evaluate(beta, lams, derivatives=False).logliks
    found = np.empty(len(distinct))
    sizes = np.diff(white.bounds[0])[units[0, first]]
    blocks = np.cumsum(sizes) // BLOCK
    for block in np.unique(blocks):
        own = np.flatnonzero(blocks == block)
        at = first[own]
        peak = base.reference.peak
        longer = _lengthen(
            fit, white, peak, x[at], [each[at] for each in z], offset[at], units[:, at]
        )
        reference = base.reference._replace(peak=longer.peak)
        integrator = NestIntegrator(longer.white, reference)
        _copy_nodes(base, integrator, longer.sources)
        after = integrator.evaluate(beta, lams, derivatives=False).logliks
        found[own] = np.exp(after - before[units[0, at]])
    return found[back.ravel()]


def _lengthen(
    fit: FamilyLevelsEstimate,
    white: WhitenedNest,
    peak: Array,
    x: Array,
    z: Sequence[Array],
    offset: Array,
    units: Array,
) -> _Longer:
    """Return a copy of its coarsest unit for each row, with that row in its place."""
    levels = len(white.order)
    own: list[Array] = []
    bounds: list[list[Array]] = [[] for _ in range(levels)]
    sources: list[list[Array]] = [[] for _ in range(levels)]
    start = 0
    for row in range(len(x)):
        lo, hi = white.bounds[0][units[0, row] : units[0, row] + 2]
        depth = int((units[:, row] >= 0).sum()) - 1
        at = white.bounds[depth][units[depth, row] + 1]
        own.append(np.concatenate([np.arange(lo, at), [-1 - row], np.arange(at, hi)]))
        for level in range(levels):
            first, last = np.searchsorted(white.bounds[level], [lo, hi])
            begins = white.bounds[level][first:last]
            moved, source = begins - lo + (begins >= at), np.arange(first, last)
            if level > depth:
                place = int(np.searchsorted(begins, at))
                moved = np.insert(moved, place, at - lo)
                source = np.insert(source, place, -1)
            bounds[level].append(start + moved)
            sources[level].append(source)
        start += hi - lo + 1
    every = np.concatenate(own)
    is_new = every < 0
    new = -1 - every[is_new]

    def join(old: Array, more: Array) -> Array:
        made = np.empty((len(every), *old.shape[1:]))
        made[~is_new], made[is_new] = old[every[~is_new]], more[new]
        return made

    trial = 0.0 if fit.family.has_exposure else 1.0
    longer = replace(
        white,
        n=join(white.n, np.full(len(x), trial)),
        y=join(white.y, np.ones(len(x))),
        offset=join(white.offset, offset),
        x=join(white.x, x @ white.fixed),
        z=tuple(
            join(each, z[at] @ basis)
            for each, at, basis in zip(white.z, white.order, white.level_bases, strict=True)
        ),
        bounds=tuple(np.append(np.concatenate(each), start) for each in bounds),
        levels=tuple(np.arange(sum(map(len, each))) for each in bounds),
        rank=np.arange(len(every)),
    )
    peaks = join(peak, np.full(len(x), np.nan))
    return _Longer(longer, tuple(map(np.concatenate, sources)), peaks)


def _copy_nodes(base: NestIntegrator, made: NestIntegrator, sources: Sequence[Array]) -> None:
    """Give units the modes and the steps of those that they are copies of."""
    for level, source in enumerate(sources):
        old, new = base.tree.places[level], made.tree.places[level]
        steps = base.steps[old + np.maximum(source, 0)]
        made.steps[new : new + len(source)] = np.where(source < 0, ALONE, steps)
        known = source >= 0
        made.modes[new : new + len(source)][known] = base.modes[old + source[known]]
    known = sources[-1] >= 0
    made.inner[known] = base.inner[sources[-1][known]]
