"""Sums over the grid, with windows and steps refined until the answer no longer changes."""

import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from bhlm.bayes.quadrature.axes import (
    Axis,
    double_step,
    fit_window,
    halve_step,
    locate,
    log_sech,
    log_stretch,
    map_nodes,
    measure_tails,
    place_window,
    refine_step,
    weigh_half,
    weigh_nodes,
)
from bhlm.bayes.quadrature.grid import ABSENT, Integrand, Nodes, Origin, sum_grid
from bhlm.bayes.quadrature.start import FIRST_STEP, Axes, Centre
from bhlm.processes import count_cores

Array = np.ndarray

PARTS = 16  # of a grid, for the threads to share
ROUNDS = 40  # of moving the ends of the windows
LONGEST = 2049  # nodes of an axis; what needs more does not converge exponentially
SHORTEST = 9  # nodes of an axis that is not made coarser
# An open axis that reaches below this, relative to its scale, is turned into an edge axis.
NEAR_ZERO = 0.05


@dataclass(frozen=True, slots=True)
class Sums:
    """The features summed over one grid, over its halves and along its axes."""

    half4: Array  # (f,) even nodes of log sigma
    half: Array  # (f,) even nodes of every axis
    margins: tuple[Array, Array, Array]  # (n_i, f)
    tables: tuple[Array, Array]  # (n_i, n4) mass by the nodes of t_i and log sigma

    @property
    def total(self) -> Array:
        """The sums over the whole grid (f,)."""
        return np.asarray(self.margins[0].sum(axis=0))


@dataclass(frozen=True, slots=True)
class Summed:
    """One grid's answer, for the p fixed effects and the 8 components together."""

    axes: Axes
    sums: Sums
    mean: Array  # (p + 8,) fixed effects less their least squares estimates, components
    sd: Array  # (p + 8,)
    error: Array  # (p + 8,) in posterior SDs; doubling and tails
    log_mass: float  # log of the integral
    note: str  # what keeps the error above the tolerance, empty if nothing does


def choose_degrees(sizes: Sequence[int]) -> Array:
    """Return the degree in sigma (8,) of each component, ABSENT for what the model lacks.

    The components are var 1, var 2, cov, var(Residual), sd 1, sd 2, corr, sd(Residual).
    """
    degree = np.array([2, 2, 2, 2, 1, 1, 0, 1], dtype=np.int64)
    if len(sizes) == 2:
        degree[[2, 6]] = ABSENT
    elif sizes[0] == 1:
        degree[[1, 2, 5, 6]] = ABSENT
    return degree


def sum_over(
    integrand: Integrand, axes: Axes, centre: Centre, degree: Array, cores: int | None
) -> Sums:
    """Return the sums over the grid that the axes span."""
    t1, t2, r, sigma = (map_nodes(axis, axis.y) for axis in axes)
    rules = [weigh_nodes(axis) for axis in axes]
    keep = [weigh_half(axis) / rule for axis, rule in zip(axes, rules, strict=True)]
    weights = [
        np.log(rule) + log_stretch(axis, axis.y)
        for axis, rule in zip(axes[:3], rules, strict=False)
    ]
    nodes = Nodes(
        t1, t2, r, np.exp(log_sech(np.sinh(axes[2].y))), np.log(sigma),
        weights[0], weights[1], weights[2] + math.log(axes[3].step), *keep,
    )  # fmt: skip
    origin = Origin(
        centre.sigma, centre.components, degree, centre.beta, integrand.back, integrand.given,
        centre.reference,
    )  # fmt: skip

    def sum_part(part: Array) -> tuple[Array, ...]:
        own = nodes._replace(t1=t1[part], weight1=nodes.weight1[part], keep1=nodes.keep1[part])
        return sum_grid(own, origin, integrand.terms)

    # The parts do not depend on the number of cores, so that the sums do not either.
    parts = np.array_split(np.arange(len(t1)), min(PARTS, len(t1)))
    with ThreadPoolExecutor(cores or count_cores()) as pool:
        half4, half, m1, m2, m3, table1, table2 = zip(*pool.map(sum_part, parts), strict=True)
    return Sums(
        half4=np.sum(half4, axis=0),
        half=np.sum(half, axis=0),
        margins=(np.concatenate(m1), np.sum(m2, axis=0), np.sum(m3, axis=0)),
        tables=(np.concatenate(table1), np.sum(table2, axis=0)),
    )


def read_moments(features: Array) -> tuple[Array, Array]:
    """Return means (m,) as deviations from the centre, and SDs (m,)."""
    m = (len(features) - 1) // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = features[1 : m + 1] / features[0]
        sd = np.sqrt(features[m + 1 :] / features[0] - mean**2)
    return mean, sd


def profile_axes(axes: Axes, sums: Sums, centre: Centre, degree: Array) -> list[Array]:
    """Return, by axis, what each node contributes to mass and second moments (n_i, m).

    In column j stands the mass times 1 + (deviation of parameter j, in SDs)^2.
    """
    _, sd = read_moments(sums.total)
    m = len(sd)
    square = np.where(sd > 0.0, sd, 1.0) ** 2
    profiles = [margin[:, :1] + margin[:, m + 1 :] / square for margin in sums.margins]
    t = [map_nodes(axis, axis.y) for axis in axes[:2]]
    sigma = map_nodes(axes[3], axes[3].y)
    mass = sums.tables[0].sum(axis=0)
    last = np.repeat(mass[:, None], m, axis=1)
    p = m - len(degree)
    for c in np.flatnonzero(degree[:8] != ABSENT):
        power = float(degree[c])
        if c in (3, 7):
            last[:, p + c] += mass * (sigma**power - centre.components[c]) ** 2 / square[p + c]
        elif c in (0, 1, 4, 5) and np.array_equal(centre.given[c % 4], np.eye(2)[c % 4]):
            # Components 0 and 4 are those of the first SD, 1 and 5 of the second.
            away = np.outer(t[c % 4], sigma) ** power - centre.components[c]
            last[:, p + c] += np.sum(sums.tables[c % 4] * away**2, axis=0) / square[p + c]
    return [*profiles, last]


def compare_halves(axes: Axes, sums: Sums) -> tuple[Array, Array]:
    """Return how means and SDs change (5, m) when nodes are doubled, in posterior SDs.

    Row i is for axis i alone, row 4 for all axes at once; and the change (5,) of the log mass.
    """
    mean, sd = read_moments(sums.total)
    parts = [
        (weigh_half(axis) / weigh_nodes(axis)) @ margin
        for axis, margin in zip(axes, sums.margins, strict=False)
    ]
    changes = np.zeros((5, len(mean)))
    masses = np.zeros(5)
    unit = np.where(sd > 0.0, sd, 1.0)
    for row, part in enumerate([*parts, sums.half4, sums.half]):
        other_mean, other_sd = read_moments(part)
        shift = np.maximum(np.abs(other_mean - mean), np.abs(other_sd - sd)) / unit
        changes[row] = np.where(np.isfinite(shift), shift, np.inf)
        share = part[0] / sums.total[0] if sums.total[0] > 0.0 else 0.0
        masses[row] = abs(math.log(share)) if 0.0 < share < math.inf else math.inf
    return changes, masses


def recentre(integrand: Integrand, centre: Centre, sums: Sums) -> Centre:
    """Return the centre moved to the means of the sums."""
    p = len(centre.beta)
    mean, _ = read_moments(sums.total)
    return replace(
        centre,
        components=centre.components + mean[p:],
        beta=centre.beta + np.linalg.solve(integrand.back, mean[:p]),
    )


def refine_grid(
    integrand: Integrand, axes: Axes, centre: Centre, degree: Array, *,
    smooth: Collection[int], tolerance: float, budget: int, cores: int | None,
) -> Summed:  # fmt: skip
    """Return the sums over the first grid whose error is within the tolerance.

    The windows are fitted on grids with twice the step, which are cheap. Then those axes are
    refined along which the answer still changes.

    Args:
        integrand: what is integrated.
        axes: of `find_start`.
        centre: of `find_start`.
        degree: of `choose_degrees`.
        smooth: which relative SDs (0, 1) have a prior that is analytic at 0.
        tolerance: the largest error, in posterior SDs.
        budget: the most passes over the groups for one grid.
        cores: threads; None takes all cores.
    """
    tail = 1e-2 * tolerance
    coarse = tuple(map(double_step, axes))
    for trial in range(ROUNDS):
        coarse = _reduce(coarse, budget)
        sums = sum_over(integrand, coarse, centre, degree, cores)
        coarse, moved = _fit_windows(coarse, sums, centre, degree, tail)
        centre = recentre(integrand, centre, sums)
        if not moved and trial > 0:
            break
    sd = read_moments(sums.total)[1][len(centre.beta) :]
    coarse = tuple(
        _turn_to_edge(axis, float(sd[4 + i]) / centre.sigma) if i in smooth else axis
        for i, axis in enumerate(coarse)
    )
    axes = _reduce(tuple(map(halve_step, coarse)), budget)
    for trial in range(ROUNDS):
        sums = sum_over(integrand, axes, centre, degree, cores)
        wider, moved = _fit_windows(axes, sums, centre, degree, tail)
        beyond = _measure_tails(axes, sums, centre, degree)
        changes, masses = compare_halves(axes, sums)
        error = np.nan_to_num(changes[4] + beyond, nan=np.inf, posinf=np.inf)
        # A moment whose tail is too heavy will not converge; the others still can.
        sound = beyond <= tolerance
        if max(float(error[sound].max(initial=0.0)), masses[4]) <= tolerance and not (
            moved and not sound.all()
        ):
            note = "" if sound.all() else "tail"
            break
        if not moved:
            worst = np.maximum(changes[:4, sound].max(axis=1, initial=0.0), masses[:4])
            aim = 0.25 * tolerance
            limit = min(aim, float(worst.max()))
            wider = tuple(
                refine_step(axis, _choose_factor(size, aim)) if size >= limit else axis
                for axis, size in zip(axes, worst, strict=True)
            )
        note = "budget" if sound.all() else "tail"
        too_many = count_nodes(wider) > budget or max(axis.size for axis in wider) > LONGEST
        if too_many or trial == ROUNDS - 1:
            break
        axes = wider
        centre = recentre(integrand, centre, sums)
    shift, sd = read_moments(sums.total)
    mean = shift + np.concatenate([integrand.back @ centre.beta, centre.components])
    log_mass = centre.reference + math.log(sums.total[0])
    return Summed(axes, sums, mean, sd, error, log_mass, note)


def _choose_factor(change: float, aim: float) -> float:
    """Return how many times as many nodes an axis needs for a change to fall to an aim.

    Its logarithm falls in proportion to the number of nodes: convergence is exponential. A tenth
    is added, since the first nodes bring less.
    """
    if not 0.0 < change < 1.0:
        return 2.0
    return max(1.1 * math.log(aim) / math.log(change), 1.25)


def count_nodes(axes: Axes) -> int:
    """Return how many passes over the groups the grid takes, or as much work as they are.

    A pass takes about as long as a hundred nodes of log sigma.
    """
    passes = axes[0].size * axes[1].size * axes[2].size
    return passes * max(1, axes[3].size // 100)


def _reduce(axes: Axes, budget: int) -> Axes:
    """Return the axes with their steps doubled until they fit the budget."""
    axes = tuple(_shorten(axis) for axis in axes)
    while count_nodes(axes) > budget and max(axis.size for axis in axes[:3]) > SHORTEST:
        axes = tuple(double_step(axis) if axis.size > SHORTEST else axis for axis in axes)
    return axes


def _shorten(axis: Axis) -> Axis:
    while axis.size > LONGEST:
        axis = double_step(axis)
    return axis


def _turn_to_edge(axis: Axis, sd: float) -> Axis:
    """Return an edge axis in place of an open one whose window reaches down to zero.

    `sd` is the posterior SD of t. The axis bends where t is about its scale or its SD.
    """
    reaches_zero = axis.is_present and map_nodes(axis, axis.y[:1])[0] < NEAR_ZERO * axis.scale
    if not (reaches_zero and 0.0 < sd < math.inf):
        return axis
    edge = replace(axis, kind="edge", scale=max(axis.scale, sd))
    upper = float(locate(edge, map_nodes(axis, axis.y[-1:]))[0])
    return place_window(edge, 0.0, upper, FIRST_STEP * sd / edge.scale)


def _fit_windows(
    axes: Axes, sums: Sums, centre: Centre, degree: Array, tail: float
) -> tuple[Axes, bool]:
    """Return axes with fitted windows, and whether any of them grew."""
    profiles = profile_axes(axes, sums, centre, degree)
    found = [
        fit_window(axis, profile.max(axis=1), tail)
        for axis, profile in zip(axes, profiles, strict=True)
    ]
    return tuple(axis for axis, _ in found), any(grew for _, grew in found)


def _measure_tails(axes: Axes, sums: Sums, centre: Centre, degree: Array) -> Array:
    """Return what lies beyond the windows (m,), as an error in posterior SDs."""
    profiles = profile_axes(axes, sums, centre, degree)
    shares = [
        [measure_tails(axis, column) for column in profile.T]
        for axis, profile in zip(axes, profiles, strict=True)
    ]
    # The profile's columns sum to twice the mass: 1 and the mean square, in SDs.
    return 2.0 * np.sum(shares, axis=0)
