"""When a posterior is proper, and which of its moments exist.

Everything is decided by how fast the integrand falls where variances grow. Along a subspace S of
the random coefficients, of dimension k, the restricted likelihood falls as lam^(-N(S) / 2)
(`bhlm.likelihood.propriety`). The volume of {G: of size lam on S, of size 1 elsewhere} in a b x b
covariance matrix, S moving in a d-dimensional family, is lam^((k (b + 1) + d) / 2): with
D = diag(sqrt(lam) on S, 1), G -> D G D has the Jacobian |D|^(b + 1), and the tubes of angle
lam^(-1/2) around lam^(d / 2) members of the family are disjoint. Priors on SDs with density
~ sd^w and LKJ(eta) multiply it by
lam^(k (eta - 1) + sum over the SDs that S reaches of (w - b - 2 (eta - 1)) / 2).
So the posterior is proper if for every such *ray*

    index = N(S) - k (b + 1) - d - 2 k (eta - 1) - sum (w - b - 2 (eta - 1)) > 0,

summed over blocks, SDs and subspaces being those of the coefficients on which the priors stand
(`bhlm.bayes.priors.frame`), and P(sd > t) ~ t^-index for the smallest index among the rays that
reach the SD: its m-th moment exists if m < index. That every ray must fall so is necessary; that
these rays suffice rests on the restricted likelihood being a polynomial in minors of K'B (I (x) T),
G = T T', whose slowest directions are sums and intersections of columns' spans, kernels of
deficient Z_j, and the directions that `find_special` looks for, in blocks of up to four.

Sources: Hobert & Casella (1996), JASA 91, 1461-1473 (necessary and sufficient conditions for
variance components); Gelman (2006), Bayesian Analysis 1, 515-534, section 3 (J > 2, J > 3 groups);
the volume by the QR change of variables in Muirhead (1982), Aspects of Multivariate Statistical
Theory, theorem 2.1.9.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bhlm.bayes.priors.correlations import shape_common
from bhlm.bayes.priors.families import Flat, Prior
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, find_residuals
from bhlm.layout import count
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.propriety import (
    LARGEST_BLOCK,
    SAME,
    Geometry,
    count_freedom,
    find_special,
    project_out,
    read_geometry,
    residual_share,
)
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.cells import AnyMoments
from bhlm.moments.either import Reduced

Array = np.ndarray

# Of the response's sum of squares: what [X Z] leaves of a response that they fit perfectly.
PERFECT = 1e-12
# Above this no printed moment (the SD of a variance needs four) depends on the value.
ENOUGH = 8.0
MOST_RAYS = 600  # combinations of subspaces of several blocks that are looked at one by one


@dataclass(frozen=True, slots=True)
class Tails:
    """The priors, as far as tails go: density ~ sd^upper at infinity and ~ sd^lower at zero."""

    sd_upper: Array  # (s,) of the SDs that are free; -inf for lighter than any power
    sd_lower: Array  # (s,)
    sigma_upper: float
    sigma_lower: float
    eta: float  # of the LKJ prior
    beta_upper: Array  # (p,) 0 for flat, -(nu + 1) for Student's t, -inf for normal
    frame: Frame  # the coefficients on which the priors stand

    @property
    def flat(self) -> Array:
        """Which fixed effects have a prior without a finite mass (p,), in the frame."""
        return self.beta_upper >= -1.0


class Growth(NamedTuple):
    """A subspace of the random coefficients along which G grows, and what the prior makes of it."""

    span: Array  # (q, k)
    family: int
    volume: float  # the prior's mass where G is of size lam along it grows as lam^(volume / 2)
    vanishing: float  # and where G is of size lam along all else falls as lam^(vanishing / 2)


@dataclass(frozen=True, slots=True)
class Ray:
    """One way to infinity, or to zero, and how fast the integrand falls along it."""

    span: Array  # (q, k) orthonormal in the priors' frame; along which G grows
    family: int  # d, dimension of the family of such subspaces
    freedom: int  # N(S): the restricted likelihood falls as lam^(-N / 2)
    index: float  # the integral over lam > L falls as L^(-index / 2); improper at 0 or below
    reaches: Array  # (q,) which SDs of the columns as given grow
    # (p,) what the prior adds to the index where a fixed effect, as given, grows too: 0 for a flat
    # one, nu for Student's t; inf where it cannot grow
    shifts: Array
    sigma: bool  # whether the residual SD grows with them
    end: str = "infinity"  # or "zero": the residual SD vanishes beside a perfect fit


@dataclass(frozen=True, slots=True)
class Existence:
    """What exists of a posterior: the m-th absolute moment of x exists if m < index of x."""

    proper: bool
    beta: Array  # (p,) tail index of each fixed effect: P(|x| > t) ~ t^-index
    sd: Array  # (q,) of each SD; its variance has half of it
    cov: Array  # (q, q) of each covariance, inf where it is zero by the model
    sigma: float  # of the residual SD
    slowest: Ray  # the ray with the smallest index
    rays: tuple[Ray, ...]
    exact: bool  # False where indices are lower bounds, all of them beyond `ENOUGH`

    def moment_exists(self, index: float, order: int) -> bool:
        """Return whether the posterior is proper and has a moment of this order."""
        return self.proper and order < index


def read_tails(
    priors: ResolvedPriors, powers: Sequence[int] = (), *, without: Collection[str] = ()
) -> Tails:
    """Return the tails of resolved priors, some of which may be swapped for flat ones.

    Args:
        priors: one prior per parameter.
        powers: of the structure; needed where `scale` is swapped.
        without: names of `bhlm.bayes.importance.target.PRIORS`, with the meaning that they have
            there: a flat prior of some power is a choice of scale.
    """
    widths = np.array(powers) if "scale" in without else np.zeros(len(priors.sd))

    def read(prior: Prior, width: float, *, is_swapped: bool) -> tuple[float, float]:
        ends = (prior.upper_power, prior.lower_power)
        if isinstance(prior, Flat):
            return (width, width) if "scale" in without else ends
        return (width, width) if is_swapped else (ends[0] + width, ends[1] + width)

    ends = [
        read(prior, float(width), is_swapped="sd" in without)
        for prior, width in zip(priors.sd, widths, strict=True)
    ]
    sigma = read(priors.sigma, 1.0 if "scale" in without else 0.0, is_swapped="residual" in without)
    if priors.held:  # it neither grows nor vanishes
        sigma = (-math.inf, math.inf)
    fixed = [0.0 if "fixed" in without else prior.upper_power for prior in priors.fixed]
    return Tails(
        sd_upper=np.array([upper for upper, _ in ends]),
        sd_lower=np.array([lower for _, lower in ends]),
        sigma_upper=sigma[0],
        sigma_lower=sigma[1],
        eta=1.0 if "corr" in without else float(priors.corr.eta),
        beta_upper=np.array(fixed),
        frame=priors.frame,
    )


def flat_tails(
    sizes: Sequence[int], p: int, *, scale: str = "covariance", eta: float = 1.0
) -> Tails:
    """Return the tails of priors flat on beta and on "covariance" (G, sigma^2) or "sd"."""
    q = sum(sizes)
    power = np.zeros(q) if scale == "sd" else np.repeat(np.array(sizes, dtype=float), sizes)
    residual = 0.0 if scale == "sd" else 1.0
    frame = Frame(np.eye(p), np.eye(q))
    return Tails(power, power, residual, residual, eta, np.zeros(p), frame)


def judge_posterior(
    geometry: Geometry, tails: Tails, structure: Structure | None = None
) -> Existence:
    """Return whether the posterior is proper, and the tail index of every parameter.

    A structure whose coefficients share an SD has to be given. Of others, where ranks of the whole
    (`_bound_index`) already say that nothing falls slower than `ENOUGH`, only the coordinate and
    generic subspaces are looked at.
    """
    geometry = replace(geometry, basis=tails.frame.random @ geometry.basis)
    if structure is not None and structure.shares_variance:
        quick, same = False, np.ones((geometry.q, geometry.q), dtype=bool)
        growths: Iterator[Growth] = _list_shared(structure, tails)
    else:
        quick, same = _bound_index(geometry, tails) > ENOUGH, _share_block(geometry.sizes)
        growths = _list_growths(geometry, tails, quick=quick)
    rays = tuple(_trace_rays(geometry, tails, growths))
    upper = [ray for ray in rays if ray.end == "infinity"]
    slowest = min(rays, key=lambda ray: ray.index)
    q, p = geometry.q, geometry.p
    sd = np.full(q, math.inf)
    beta = np.full(p, math.inf)
    cov = np.full((q, q), math.inf)
    sigma = math.inf
    for ray in upper:
        sd = np.where(ray.reaches, np.minimum(sd, ray.index), sd)
        beta = np.minimum(beta, ray.index + ray.shifts)
        degree = ray.reaches[:, None].astype(float) + ray.reaches[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            here = np.where((degree > 0) & same, ray.index / degree, math.inf)
        cov = np.minimum(cov, here)
        if ray.sigma:
            sigma = min(sigma, ray.index)
    return Existence(
        proper=slowest.index > 0.0,
        beta=beta,
        sd=sd,
        cov=cov,
        sigma=sigma,
        slowest=slowest,
        rays=rays,
        exact=not quick,
    )


def _share_block(sizes: Sequence[int]) -> Array:
    label = np.repeat(np.arange(len(sizes)), sizes)
    return label[:, None] == label[None, :]


def _flat_directions(geometry: Geometry, tails: Tails) -> Array:
    """Return the fixed effects (p, f), whitened and orthonormal, along which the prior is flat.

    Those are the beta with C beta = e_i where the prior of coefficient i of the frame is flat.
    """
    flat = np.flatnonzero(tails.flat)
    columns = tails.frame.unturn_fixed(np.eye(geometry.p)[flat]).T
    return np.linalg.qr(np.linalg.solve(geometry.fixed, columns))[0] if len(flat) else columns


def _list_growths(geometry: Geometry, tails: Tails, *, quick: bool) -> Iterator[Growth]:
    """Yield the subspaces that can be the slowest of those that reach some parameter."""
    q, sizes = geometry.q, geometry.sizes
    kept = _flat_directions(geometry, tails)
    starts = np.cumsum([0, *sizes])
    choices = []
    for start, size in zip(starts, sizes, strict=False):
        special = [] if quick else find_special(geometry, start, size, kept)
        choices.append(list(_choose_families(size, special, quick=quick)))
    for picked in _combine_choices(choices):
        span = np.zeros((q, sum(part.shape[1] for part, _ in picked)))
        volume, family, at = 0.0, 0, 0
        vanishing = 0.0
        for (part, free), start, size in zip(picked, starts, sizes, strict=False):
            k = part.shape[1]
            rows = slice(start, start + size)
            span[rows, at : at + k] = part
            at += k
            family += free
            reach = np.abs(part).max(axis=1, initial=0.0) > 1e-8
            lkj = 2.0 * (tails.eta - 1.0)
            volume += k * (size + 1 + lkj) + free
            if reach.any():
                volume += float(np.sum(tails.sd_upper[rows][reach] - size - lkj))
            vanishing += (size - k) * (size + 1 + lkj) - free
            if not reach.all():
                vanishing += float(np.sum(tails.sd_lower[rows][~reach] - size - lkj))
        yield Growth(span, family, volume, vanishing)


def _list_shared(structure: Structure, tails: Tails) -> Iterator[Growth]:
    """Yield the subspaces of G = sd^2 ((1 - r) I + r 11').

    G has one eigenvalue along 1 and another along all else, and (1 + (q - 1) r) / q ~ Beta(a, b).
    Where one of them alone grows as lam, that share or 1 less it falls as 1 / lam.
    """
    q = structure.q
    upper, lower = float(tails.sd_upper[0]) + 1.0, float(tails.sd_lower[0]) + 1.0
    yield Growth(np.zeros((q, 0)), 0, 0.0, lower)
    yield Growth(np.eye(q), 0, upper, 0.0)
    if structure.has_correlations:
        one, two = shape_common(tails.eta, q)
        turned = np.linalg.qr(np.hstack([np.ones((q, 1)), np.eye(q)[:, 1:]]))[0]
        yield Growth(turned[:, :1], 0, upper - 2.0 * two, 2.0 * two)
        yield Growth(turned[:, 1:], 0, upper - 2.0 * one, 2.0 * one)


def _trace_rays(geometry: Geometry, tails: Tails, growths: Iterator[Growth]) -> Iterator[Ray]:
    """Yield the rays of growing subspaces."""
    q, p = geometry.q, geometry.p
    kept = _flat_directions(geometry, tails)
    dof = geometry.n - kept.shape[1]
    everywhere = _shift_fixed(geometry, tails, kept, np.eye(p))
    back = np.linalg.inv(tails.frame.random)
    perfect = residual_share(geometry, np.eye(q)) < PERFECT
    for span, family, volume, vanishing in growths:
        given = np.linalg.norm(back @ span, axis=1) > 1e-8 * np.linalg.norm(back, axis=1)
        freedom, absorbed = count_freedom(geometry, span, kept)
        everything = absorbed
        if np.any(~tails.flat) and span.shape[1]:
            everything = count_freedom(geometry, span)[1]
        if span.shape[1]:
            shifts = _shift_fixed(geometry, tails, absorbed, everything)
            yield Ray(span, family, freedom, freedom - volume, given, shifts, False)
        # The residual variance grows as well; the part of G along S at the same pace.
        residual = dof - volume - (tails.sigma_upper + 1.0)
        yield Ray(span, family, int(dof), residual, given, everywhere, True)
        if perfect and residual_share(geometry, span) < PERFECT:
            index = tails.sigma_lower + 1.0 + vanishing - (dof - freedom)
            none = np.zeros(q, dtype=bool)
            yield Ray(span, family, freedom, index, none, np.full(p, math.inf), False, "zero")


def _combine_choices(
    choices: Sequence[Sequence[tuple[Array, int]]],
) -> Iterator[tuple[tuple[Array, int], ...]]:
    """Yield one choice per block: every combination or, of many, those that grow 0, 1, 2 or all."""
    if math.prod(map(len, choices)) <= MOST_RAYS:
        yield from itertools.product(*choices)
        return
    none = tuple(options[0] for options in choices)
    yield none
    for chosen in (*itertools.combinations(range(len(choices)), 1),
                   *itertools.combinations(range(len(choices)), 2)):  # fmt: skip
        for parts in itertools.product(*(choices[i][1:] for i in chosen)):
            picked = list(none)
            for i, part in zip(chosen, parts, strict=True):
                picked[i] = part
            yield tuple(picked)
    yield tuple(options[-1] for options in choices)


def _shift_fixed(geometry: Geometry, tails: Tails, flat: Array, every: Array) -> Array:
    """Return what fixed effects (p,) cost that grow along whitened directions, see `Ray.shifts`.

    Args:
        geometry: the cross-products.
        tails: of the priors.
        flat: directions (p, f) along which the prior is flat.
        every: directions (p, r) of any.
    """
    frame = tails.frame.fixed
    held = ~tails.flat & _loads_on(frame @ geometry.fixed, every)
    cost = np.where(held, -(tails.beta_upper + 1.0), math.inf)  # of C beta
    # As given, a fixed effect is a sum of those: the cheapest makes it grow.
    is_part = np.linalg.inv(frame) != 0.0
    cheapest = np.min(np.where(is_part, cost, math.inf), axis=1)
    shifts = np.where(_loads_on(geometry.fixed, every), cheapest, math.inf)
    return np.where(_loads_on(geometry.fixed, flat), 0.0, shifts)


def _loads_on(fixed: Array, directions: Array) -> Array:
    """Return which rows of `fixed` (p, p) have a part in whitened directions (p, r)."""
    if directions.shape[1] == 0:
        return np.zeros(len(fixed), dtype=bool)
    size = np.linalg.norm(fixed, axis=1)
    return np.asarray(np.linalg.norm(fixed @ directions, axis=1) > 1e-6 * size)


def _choose_families(
    size: int, special: Sequence[Array], *, quick: bool
) -> Iterator[tuple[Array, int]]:
    """Yield (S, d): a generic member of each family of subspaces of a block, and its dimension.

    A family is given by U inside W, both sums of columns and special directions: S = U + m generic
    dimensions of W. With w = dim W and k = dim S it has (k - dim U) (w - k) dimensions.
    """
    yield np.zeros((size, 0)), 0
    if size == 1:
        yield np.ones((1, 1)), 0
        return
    rng = np.random.default_rng(size)
    lattice = list(_close_lattice(size, special, narrow=quick or size > LARGEST_BLOCK))
    for upper in lattice:
        for lower in lattice:
            u, w = lower.shape[1], upper.shape[1]
            if u > w or (u and np.linalg.matrix_rank(np.hstack([upper, lower]), tol=1e-7) > w):
                continue
            # S = U alone is the family of W = U.
            for k in range(u + 1, w + 1) if u < w else (u,):
                if k == 0 or (k == w and u < w):
                    continue
                extra = upper @ rng.normal(size=(w, k - u))
                yield np.linalg.qr(np.hstack([lower, extra]))[0], (k - u) * (w - k)


def _close_lattice(size: int, special: Sequence[Array], *, narrow: bool) -> Iterator[Array]:
    """Yield subspaces as orthonormal columns: 0, the columns' spans, and sums with special ones."""
    unit = np.eye(size)
    yield unit[:, :0]
    seen: list[Array] = []
    orders = (1, size) if narrow else range(1, size + 1)
    plain = [unit[:, list(at)] for k in orders for at in itertools.combinations(range(size), k)]
    sums = [np.hstack([direction, part]) for direction in special for part in (unit[:, :0], *plain)]
    pairs = [np.hstack(pair) for pair in itertools.combinations(special, 2)]
    for part in [*plain, *sums, *pairs]:
        left, values, _ = np.linalg.svd(part, full_matrices=False)
        part = left[:, values > SAME]
        projector = part @ part.T
        if all(np.max(np.abs(projector - other)) > SAME for other in seen):
            seen.append(projector)
            # Coordinate subspaces keep exact zeros, by which SDs are known not to be reached.
            yield np.where(np.abs(part) < 1e-12, 0.0, part)


def _bound_index(geometry: Geometry, tails: Tails) -> float:
    """Return a lower bound of every index at infinity, from ranks of the whole alone.

    For S of dimension k, sum_j rank(Z_j S) >= k J_full, J_full the groups of full rank,
    r(S) <= f, the number of fixed effects without a proper prior, and the volume is at most that
    of k of the largest block, with a family of k (b - k) dimensions.
    """
    q = geometry.q
    ranks, _ = project_out(geometry, np.eye(q))
    full = int(np.sum(ranks == q))
    absorbed = int(np.sum(tails.flat))
    largest = max(geometry.sizes)
    excess = max(0.0, float(np.max(tails.sd_upper - np.repeat(geometry.sizes, geometry.sizes))))
    lkj = 2.0 * abs(tails.eta - 1.0) * largest
    worst = min(
        k * full - absorbed - k * (2 * largest + 1 + lkj) - q * (excess + lkj)
        for k in range(1, q + 1)
    )
    residual = geometry.n - geometry.p - q * (2 * largest + 1 + lkj + excess)
    residual -= max(tails.sigma_upper + 1.0, 0.0)
    perfect = residual_share(geometry, np.eye(q)) < PERFECT
    return -math.inf if perfect else min(float(worst), residual)


def judge_priors(
    white: Whitened,
    structure: Structure,
    priors: ResolvedPriors,
    *,
    without: Collection[str] = (),
) -> Existence:
    """Return what exists of the posterior of whitened data under resolved priors.

    Args:
        white: the whitened moments.
        structure: of the random coefficients.
        priors: one prior per parameter.
        without: priors to swap for flat ones, see `read_tails`.
    """
    tails = read_tails(priors, structure.powers, without=without)
    return judge_posterior(read_geometry(white, structure.sizes), tails, structure)


def name_indices(
    existence: Existence, moments: AnyMoments, structure: Structure
) -> dict[str, float]:
    """Return the tail index of every parameter by name: P(|x| > t) ~ t^-index.

    A moment of order m exists if m < index. A correlation is bounded, its index infinite; that of a
    variance is half of its SD's. Where the posterior is improper every index is 0.
    """
    named = name_tails(
        moments, structure, existence.beta, existence.sd, existence.cov, existence.sigma
    )
    return named if existence.proper else dict.fromkeys(named, 0.0)


def name_tails(
    moments: Reduced,
    structure: Structure,
    beta: Array,
    sd: Array,
    cov: Array,
    sigma: float,
) -> dict[str, float]:
    """Return tail indices of fixed effects (p,), SDs (q,), covariances (q, q) and sigma by name."""
    named = dict(zip(moments.fixed, beta.tolist(), strict=True))
    for variance, (i, j) in zip(structure.variances, structure.labels, strict=True):
        named[str(variance)] = float(sd[i] / 2.0 if i == j else cov[i, j])
    residuals = find_residuals(moments)
    named |= {str(each): sigma / 2.0 for each in residuals}
    for scaled, (i, j) in zip(structure.scaled, structure.labels, strict=True):
        named[str(scaled)] = float(sd[i]) if i == j else math.inf
    return named | {str(each.scaled): sigma for each in residuals}


def describe_ray(ray: Ray, structure: Structure) -> str:
    """Return the slowest ray in words, for the reason beside a withheld mean."""
    if ray.end == "zero":
        return (
            "the fixed and random effects fit the response without error, so sd(Residual) piles "
            "up at 0"
        )
    at = sorted({structure.owners[i] for i in np.flatnonzero(ray.reaches)})
    along = " and ".join(str(structure.sds[i]) for i in at)
    if ray.sigma:
        along = f"{along} and sd(Residual)" if along else "sd(Residual)"
    fall = "does not fall" if ray.index <= 0.0 else f"falls as lambda^-{ray.index / 2.0:g} only"
    several = len(at) + ray.sigma > 1
    grow = f"variances behind {along} grow" if several else f"variance behind {along} grows"
    return (
        f"where the {grow} to lambda, the integrated posterior {fall} "
        f"({count(ray.freedom, 'degree')} of freedom left between groups)"
    )


def find_unbounded(priors: Priors | None, structure: Structure, white: Whitened) -> list[str]:
    """Return the SDs whose tail neither the data bound nor a prior that the user chose.

    The data bound an SD if it has a mean under priors flat on (beta, G, sigma^2).
    """
    given = None if priors is None else priors.sd
    if given is not None and not isinstance(given, Mapping):
        return []
    owned = zip(structure.names, structure.owners, strict=True)
    chosen = {own for name, own in owned if name in (given or {})}
    powers = np.array(structure.powers, dtype=float)
    frame = Frame(np.eye(white.p), np.eye(white.q))
    upper, lower = (1.0, 1.0) if white.held is None else (-math.inf, math.inf)
    flat = Tails(powers, powers, upper, lower, 1.0, np.zeros(white.p), frame)
    existence = judge_posterior(read_geometry(white, structure.sizes), flat, structure)
    first = [structure.owners.index(own) for own in range(len(structure.sds))]
    bounded = [existence.moment_exists(float(existence.sd[at]), 1) for at in first]
    return [
        str(parameter)
        for own, (parameter, is_bounded) in enumerate(zip(structure.sds, bounded, strict=True))
        if not (is_bounded or own in chosen)
    ]
