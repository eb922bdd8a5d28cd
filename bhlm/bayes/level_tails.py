"""When the posterior of several grouping factors is proper, and which of its moments exist.

The rule is that of `bhlm.bayes.priors.tails`: along a subspace S of the random coefficients of all
factors the restricted likelihood falls as lam^(-N(S) / 2), and the posterior is proper if for every
such ray

    index = N(S) - sum over blocks [k (b + 1) + d + 2 k (eta - 1)]
                 - sum over the SDs that S reaches [w - b - 2 (eta - 1)] > 0

with k the dimension of S in a block of b coefficients, d that of the family in which S moves there,
w the power with which the prior of an SD falls. N(S), the rank of [X Z S] less that of X, is read
off the likelihood itself, which needs no pattern of the factors: with lam = t on S,
log |V| + log |X'V^-1 X| grows by N(S) log t^2. Subspaces looked at are those of the coefficients on
which the priors stand, any of one dimension for all, and their sums over blocks.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from bhlm.bayes.priors.families import Flat, Prior
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors
from bhlm.bayes.priors.tails import Existence, Ray, judge_priors
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

NEAR, FAR = 1e2, 1e4  # relative SDs between which the likelihood's fall is read off
ABSORBED = 1e-5  # of X'X = I, what an absorbed fixed effect has left at FAR
MOST_RAYS = 150  # beyond, blocks grow one by one, or all together
SMALL = 1e-9  # of a combination's largest weight


class Growth(NamedTuple):
    """A way in which the coefficients of one block grow, and what the priors make of it."""

    span: Array  # (q, k) in the priors' frame
    family: int
    volume: float  # what it takes off the index


def judge_existence(
    white: Whitened | WhitenedCells,
    structure: Structure,
    priors: ResolvedPriors,
    *,
    without: Collection[str] = (),
) -> Existence:
    """Return what exists of the posterior of a single factor or several.

    Args:
        white: the whitened moments.
        structure: of the random coefficients.
        priors: one prior per parameter.
        without: names of `bhlm.bayes.importance.target.list_priors` to swap for flat ones.
    """
    if isinstance(white, Whitened):
        return judge_priors(white, structure, priors, without=without)
    powers, eta, sigma = _read_powers(priors, structure, without)
    flat = np.array([_is_flat(prior) or "fixed" in without for prior in priors.fixed])
    turn = np.linalg.inv(priors.frame.random)
    turned = np.linalg.solve(white.basis, turn)
    reach = np.abs(turn) > SMALL * np.abs(turn).max()
    rays = [
        _trace(white, structure, chosen, turned=turned, flat=flat, reach=reach)
        for chosen in _combine(structure, powers, eta)
    ]
    # With the residual SD everything grows, of which every row less every fixed effect takes hold.
    volume = sum(max((each.volume for each in block), default=0.0)
                 for block in _list_growths(structure, powers, eta))  # fmt: skip
    freedom = int(white.n) - int(flat.sum())
    sigma_index = freedom - volume - (sigma + 1.0)
    everything = Ray(
        np.eye(structure.q), 0, freedom, sigma_index, np.ones(structure.q, dtype=bool),
        np.zeros(white.p), sigma=True,
    )  # fmt: skip
    rays.append(everything)
    sd = np.array(
        [min(ray.index for ray in rays if ray.reaches[i]) for i in range(structure.q)], dtype=float
    )
    cov = np.full((structure.q, structure.q), math.inf)
    for i, j in structure.labels:
        both = [ray.index / (2.0 if ray.reaches[j] else 1.0) for ray in rays if ray.reaches[i]]
        both += [ray.index for ray in rays if ray.reaches[j] and not ray.reaches[i]]
        cov[i, j] = cov[j, i] = min(both)
    slowest = min(rays, key=lambda ray: ray.index)
    return Existence(
        proper=slowest.index > 0.0,
        beta=_index_fixed(priors, flat, rays),
        sd=sd,
        cov=cov,
        sigma=float(sigma_index),
        slowest=slowest,
        rays=tuple(rays),
        exact=False,
    )


def find_unbounded_levels(
    priors: Priors | None, structure: Structure, white: WhitenedCells, flat: ResolvedPriors
) -> list[str]:
    """Return the SDs whose tail neither the data bound nor a prior that the user chose.

    The data bound an SD if it has a mean under priors flat on (beta, G, sigma^2), `flat`.
    """
    given = None if priors is None else priors.sd
    if given is not None and not isinstance(given, Mapping):
        return []
    existence = judge_existence(white, structure, flat)
    found = []
    for part, span in zip(structure.parts, structure.spans, strict=True):
        own = (given or {}).get(part.group)
        for at, parameter in enumerate(part.sds):
            is_chosen = own is not None and (not isinstance(own, Mapping) or parameter.row in own)
            first = span.start + part.owners.index(at)
            if not (existence.moment_exists(float(existence.sd[first]), 1) or is_chosen):
                found.append(str(parameter))
    return found


def _is_flat(prior: Prior) -> bool:
    return prior.upper_power >= -1.0


def _read_powers(
    priors: ResolvedPriors, structure: Structure, without: Collection[str]
) -> tuple[Array, list[float], float]:
    """Return the powers of every free SD's prior (s,), eta by factor, and sigma's power."""
    widths = np.array(structure.powers, dtype=float) * ("scale" in without)
    powers, at = np.empty(len(widths)), 0
    etas = []
    for part, corr in zip(structure.parts, priors.corrs, strict=True):
        for _ in part.sds:
            powers[at] = _read_power(
                priors.sd[at], widths[at], swapped=f"sd|{part.group}" in without,
                scaled="scale" in without,
            )  # fmt: skip
            at += 1
        etas.append(1.0 if f"corr|{part.group}" in without else float(corr.eta))
    sigma = _read_power(
        priors.sigma, float("scale" in without), swapped="residual" in without,
        scaled="scale" in without,
    )  # fmt: skip
    if priors.held:  # it neither grows nor vanishes
        sigma = -math.inf
    return powers, etas, sigma


def _read_power(prior: Prior, width: float, *, swapped: bool, scaled: bool) -> float:
    if isinstance(prior, Flat):
        return width if scaled else prior.upper_power
    return width if swapped else prior.upper_power + width


def _list_growths(
    structure: Structure, powers: Array, etas: Sequence[float]
) -> Iterator[list[Growth]]:
    """Yield the ways to grow of each block of each factor."""
    from scipy.stats import special_ortho_group  # half a second to load; studies do without

    q, before = structure.q, 0
    for part, span, eta in zip(structure.parts, structure.spans, etas, strict=True):
        eye = np.eye(q)[:, span]
        if part.shares_variance:
            yield [Growth(eye, 0, float(powers[before]) + 1.0)]
            before += len(part.sds)
            continue
        for places in part.places:
            b, bend = len(places), 2.0 * (eta - 1.0)
            own = powers[[before + i for i in places]]
            found = []
            for k in range(1, b + 1):
                for chosen in combinations(range(b), k):
                    reached = sum(w - b - bend for w in own[list(chosen)])
                    columns = eye[:, [places[i] for i in chosen]]
                    found.append(Growth(columns, 0, k * (b + 1) + k * bend + reached))
                if k < b:
                    turn = special_ortho_group.rvs(b, random_state=1) if b > 1 else np.eye(1)
                    columns = eye[:, list(places)] @ turn[:, :k]
                    reached = sum(w - b - bend for w in own)
                    d = k * (b - k)
                    found.append(Growth(columns, d, k * (b + 1) + d + k * bend + reached))
            yield found
        before += len(part.sds)


def _combine(
    structure: Structure, powers: Array, etas: Sequence[float]
) -> Iterator[tuple[Growth, ...]]:
    """Yield the growths that make up each ray, one at most of each block."""
    blocks = list(_list_growths(structure, powers, etas))
    if math.prod(len(block) + 1 for block in blocks) <= MOST_RAYS:
        for choice in product(*([None, *block] for block in blocks)):
            if any(each is not None for each in choice):
                yield tuple(each for each in choice if each is not None)
        return
    for block in blocks:
        for each in block:
            yield (each,)
    yield tuple(max(block, key=lambda each: each.span.shape[1]) for block in blocks)


def _trace(
    white: WhitenedCells,
    structure: Structure,
    chosen: tuple[Growth, ...],
    *,
    turned: Array,
    flat: Array,
    reach: Array,
) -> Ray:
    """Return the ray along which some blocks grow together.

    Args:
        white: the whitened moments.
        structure: of the random coefficients.
        chosen: what grows.
        turned: from the priors' frame to whitened roots (q, q).
        flat: which fixed effects have a flat prior (p,).
        reach: which coefficients as given have a part (q, q) of those of the frame.
    """
    span = np.concatenate([each.span for each in chosen], axis=1)
    (near, _), (far, left) = (
        _measure(white, structure, turned, span, size, flat) for size in (NEAR, FAR)
    )
    freedom = round((far - near) / (2.0 * math.log(FAR / NEAR)))
    reaches = reach @ np.any(np.abs(span) > SMALL, axis=1)
    shifts = np.full(white.p, math.inf)
    if flat.any():
        values, vectors = np.linalg.eigh(left)
        absorbed = white.fixed[:, flat] @ vectors[:, values < ABSORBED]
        if absorbed.size:
            size = np.linalg.norm(white.fixed, axis=1)
            shifts[np.abs(absorbed).max(axis=1) > SMALL * size] = 0.0
    index = freedom - sum(each.volume for each in chosen)
    family = sum(each.family for each in chosen)
    return Ray(span, family, freedom, float(index), np.asarray(reaches > 0), shifts, sigma=False)


def _measure(
    white: WhitenedCells,
    structure: Structure,
    turned: Array,
    span: Array,
    size: float,
    flat: Array,
) -> tuple[float, Array]:
    """Return log |V| + log |X'V^-1 X| and X'V^-1 X of the flat fixed effects, lam large on span.

    What grows with it depends on the space that the columns of the span have in whitened
    coordinates alone, of which an orthonormal basis is taken: where zero lies far from the values
    of a covariate, the columns themselves are as long as that, and all but parallel.
    """
    grown = turned @ span
    basis = np.linalg.qr(grown / np.linalg.norm(grown, axis=0))[0]
    lam = np.eye(structure.q) + (size - 1.0) * basis @ basis.T
    lams = [np.ascontiguousarray(lam[each, each]) for each in structure.spans]
    found = white.levels.eliminate(lams)
    inner = found.e[:-1, :-1][np.ix_(flat, flat)]
    return found.logdet + float(np.linalg.slogdet(inner)[1]), inner


def _index_fixed(priors: ResolvedPriors, flat: Array, rays: Sequence[Ray]) -> Array:
    """Return the tail index of every fixed effect (p,)."""
    own = np.array([-(prior.upper_power + 1.0) for prior in priors.fixed])
    grown = [[ray.index for ray in rays if ray.shifts[i] == 0.0] for i in range(len(own))]
    as_flat = np.array([min(each, default=math.inf) for each in grown])
    # Given the variances a flat prior leaves a t of many degrees of freedom.
    return np.where(flat, as_flat, own)
