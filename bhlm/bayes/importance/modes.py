"""The modes of a log density, and the t's at them."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from scipy.special import logsumexp

from bhlm.bayes.importance.mixtures import DF, Mixture, make_mixture

Array = np.ndarray
LogDensity = Callable[[Array], Array]  # positions (N, d) -> log densities (N,)

STARTS = 4  # positions from which the search climbs
FAR = 12.0  # a mode that is lower by so many log units has no mass to speak of
# Along a ridge a climb gains next to nothing: it ends where so many steps gain so few log units.
PATIENCE, GAIN = 10, 2e-3
STEP = 1e-4  # of first differences: log densities near 1e4 are rounded to 1e-12 of themselves
CURVE_STEP = 5e-3
LONGEST = 1.5  # the longest half-axis of the t at a mode, in log SDs
# How far below its mode a log SD is followed, and the fall, in log units, that ends the way.
DEPTHS = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])
FALL = 8.0
BULK = 3.0  # SDs below the mode that the t there covers
LOOSE = 0.7  # SD of a partial correlation, on its scale, of an SD that is next to nothing


@dataclass(frozen=True, slots=True)
class Modes:
    """The modes of a density and the t's at them."""

    y: Array  # (M, d), the highest first
    value: Array  # (M,) log densities
    mixture: Mixture  # a t at each, with the curvature there and half-axes to either side
    evaluations: int


def find_modes(log_density: LogDensity, starts: Array) -> Modes:
    """Return the modes that a search from the best of some positions finds.

    The best positions, as far apart as they are, are climbed from by BFGS with central
    differences. Each mode gets the curvature there, and along its eigenvectors the half-axes of a
    t as far as the density takes to fall by two log units, Geweke's split t.

    Args:
        log_density: vectorised over positions.
        starts: where to look (S, d).
    """
    d = starts.shape[1]
    counted = 0

    def evaluate(y: Array) -> Array:
        nonlocal counted
        counted += len(y)
        return log_density(y)

    def descend(y: Array) -> tuple[float, Array]:
        around = np.concatenate([y[None], y + STEP * np.eye(d), y - STEP * np.eye(d)])
        value = evaluate(around)
        if not np.all(np.isfinite(value)):
            return 1e300, np.zeros(d)
        return -float(value[0]), -(value[1 : d + 1] - value[d + 1 :]) / (2.0 * STEP)

    values = evaluate(starts)
    order = np.argsort(-values)
    chosen = [starts[order[0]]]
    for row in order[1:]:
        if len(chosen) == STARTS or not np.isfinite(values[row]):
            break
        if min(np.linalg.norm(starts[row] - other) for other in chosen) > 1.0:
            chosen.append(starts[row])
    found: list[tuple[float, Array]] = []
    for start in chosen:
        run = minimize(
            descend,
            start,
            jac=True,
            method="BFGS",
            options={"gtol": 1e-3},
            callback=_end_on_ridges(),
        )
        # Two climbs to one mode end within the accuracy of a difference.
        if all(np.max(np.abs(run.x - other)) > 1e-2 for _, other in found):
            found.append((-float(run.fun), run.x))
    found.sort(key=lambda each: -each[0])
    found = [each for each in found if each[0] > found[0][0] - FAR]
    parts = [_fit_split(evaluate, y, value) for value, y in found]
    axes, ahead, behind = (np.stack(each) for each in zip(*parts, strict=True))
    y = np.stack([each for _, each in found])
    value = np.array([each for each, _ in found])
    mass = value + np.log(0.5 * (ahead + behind)).sum(axis=1)
    weight = np.exp(mass - logsumexp(mass))
    weight = np.maximum(weight, 0.02) / np.maximum(weight, 0.02).sum()
    mixture = Mixture(weight, y, axes, ahead, behind, np.full(len(y), DF))
    return Modes(y, value, mixture, counted)


def _end_on_ridges() -> Callable[[OptimizeResult], None]:
    """Return a callback that ends a climb whose last steps gain next to nothing."""
    heights: deque[float] = deque(maxlen=PATIENCE + 1)

    def look(intermediate_result: OptimizeResult) -> None:
        heights.append(float(intermediate_result.fun))
        if len(heights) > PATIENCE and heights[0] - heights[-1] < GAIN:
            raise StopIteration

    return look


def _fit_split(evaluate: LogDensity, y: Array, value: float) -> tuple[Array, Array, Array]:
    """Return the eigenvectors (d, d) of the curvature at y, and the half-axes ahead and behind."""
    d = len(y)
    h = CURVE_STEP
    eye = h * np.eye(d)
    pairs = [(i, j) for i in range(d) for j in range(i)]
    points = [*(y + e for e in eye), *(y - e for e in eye)]
    points += [y + eye[i] + eye[j] for i, j in pairs] + [y - eye[i] - eye[j] for i, j in pairs]
    drop = evaluate(np.stack(points)) - value
    up, down, both = drop[:d], drop[d : 2 * d], drop[2 * d :]
    hessian = np.diag(up + down)
    for row, (i, j) in enumerate(pairs):
        mixed = both[row] + both[row + len(pairs)] - up[i] - up[j] - down[i] - down[j]
        hessian[i, j] = hessian[j, i] = 0.5 * mixed
    curvature = np.nan_to_num(-hessian / h**2, nan=1.0, posinf=1.0, neginf=1.0)
    values, vectors = np.linalg.eigh(curvature)
    half = 1.0 / np.sqrt(np.maximum(values, 1.0 / LONGEST**2))
    # As far as the density takes to fall by 2, where a normal has gone two of its SDs.
    reach = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
    steps = np.concatenate([reach, -reach])
    line = y + (steps[:, None, None] * (vectors * half).T[None]).reshape(-1, d)
    fall = value - evaluate(line).reshape(len(steps), d)
    sides = []
    for side in (fall[: len(reach)], fall[len(reach) :]):
        stretch = np.empty(d)
        for i in range(d):
            last = int(np.argmax(side[:, i] >= 2.0)) if np.any(side[:, i] >= 2.0) else -1
            slope = reach[last] / math.sqrt(2.0 * max(float(side[last, i]), 0.1))
            stretch[i] = min(max(slope, 0.4), 3.0)
        sides.append(half * stretch)
    return vectors, sides[0], sides[1]


def find_edges(
    log_density: LogDensity, modes: Modes, n_sds: int, tied: Sequence[Sequence[int]] = ()
) -> Mixture | None:
    """Return a t along the way to zero of each SD that may vanish; None if none may.

    Below an SD that the data bear out by a few log units alone, the likelihood flattens and the
    density falls like the SD itself: a per cent of the mass lies where a t with the curvature at
    the mode has next to no draws. The first `n_sds` coordinates are logarithms of SDs; `tied` has
    those of the correlations of each, of which the data say nothing where it vanishes.
    """
    top, y = modes.mixture, modes.y[0]
    half = top.axes[0] * (0.5 * (top.ahead[0] + top.behind[0]))
    covariance = half @ half.T
    delta = np.sqrt(np.diag(covariance))
    ways = np.repeat(y[None], n_sds * len(DEPTHS), axis=0)
    ways[np.arange(len(ways)), np.repeat(np.arange(n_sds), len(DEPTHS))] -= np.tile(DEPTHS, n_sds)
    fall = (modes.value[0] - log_density(ways)).reshape(n_sds, len(DEPTHS))
    means, roots = [], []
    for i in range(n_sds):
        near = BULK * delta[i]
        reached = int(np.argmax(np.append(fall[i] > FALL, True)))
        far = DEPTHS[reached - 1] if reached else 0.0
        if far <= near:
            continue
        mean, spread = y.copy(), covariance.copy()
        mean[i] -= 0.5 * (near + far)
        for k in (i, *(tied[i] if tied else ())):
            spread[k, :] = spread[:, k] = 0.0
            spread[k, k] = (0.5 * (far - near) if k == i else max(delta[k], LOOSE)) ** 2
        means.append(mean)
        roots.append(np.linalg.cholesky(spread))
    if not means:
        return None
    return make_mixture(
        np.ones(len(means)), np.stack(means), np.stack(roots), np.full(len(means), DF)
    )
