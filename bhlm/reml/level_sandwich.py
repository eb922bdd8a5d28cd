"""Scores of the coarsest units and the Hessian of a pseudo-log-likelihood of nested factors.

With weights w of units given their parents the pseudo-log-likelihood is a sum over the coarsest,
of which each is eliminated from the finest level up. Scores and Hessian by beta~, the elements of
every G~_f = v Psi_f, and v, are differences of fourth order of these terms.
Source: Rabe-Hesketh & Skrondal (2006), J. R. Stat. Soc. A 169, 805-827, eq. 3.
"""

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import block_diag

from bhlm.likelihood.cells import WhitenedCells, count_cells
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.scores import Sandwich

if TYPE_CHECKING:
    from bhlm.reml.levels import LevelsEstimate

Array = np.ndarray

STEP = 0.02  # in standard errors: what fourth order leaves is 1e-7 of a score
TRIAL = 0.02  # of a parameter's size, where its curvature is looked at


def find_level_scores(fit: "LevelsEstimate") -> Sandwich:
    """Return the scores of the coarsest units and the Hessian at the estimates of a fit by ML.

    Elements of G without a standard error stand on their boundary: their scores are zero.
    """
    white = fit.white
    p, structures = white.p, fit.structures
    m = sum(len(each.labels) for each in structures)
    v = fit.sigma2 / white.scale**2
    beta = np.linalg.solve(white.fixed, fit.beta - white.ols) / white.scale
    covariances = [v * lam @ lam.T for lam in fit.lams]
    lost = np.isnan(np.diag(fit.variance_cov))
    free = [i for i in range(p + m + 1) if i < p or not lost[i - p]]
    stops = np.cumsum([p, *(len(each.labels) for each in structures)])

    def measure(shift: Array) -> Array:
        own = v + shift[-1]
        lams = []
        for at, (structure, base) in enumerate(zip(structures, covariances, strict=True)):
            moved = shift[stops[at] : stops[at + 1]]
            psi = (base + np.tensordot(moved, structure.directions, axes=1)) / own
            values, vectors = np.linalg.eigh(psi)
            lams.append(np.ascontiguousarray(vectors * np.sqrt(np.maximum(values, 0.0))))
        return sum_units(white, lams, beta + shift[:p], own)

    unit = np.diag(_choose_steps(measure, free, p + m + 1))
    n_units = len(measure(np.zeros(p + m + 1)))
    scores, hessian = np.zeros((n_units, p + m + 1)), np.eye(p + m + 1)
    middle = measure(np.zeros(p + m + 1)).sum()
    for i in free:
        one, two, h = unit[i], 2.0 * unit[i], unit[i, i]
        near, far = (measure(step) - measure(-step) for step in (one, two))
        scores[:, i] = (8.0 * near - far) / (12.0 * h)
        sums = [(measure(step) + measure(-step)).sum() - 2.0 * middle for step in (one, two)]
        hessian[i, i] = -(16.0 * sums[0] - sums[1]) / (12.0 * h**2)
        for j in free:
            if j >= i:
                break
            crossed = []
            for size in (1.0, 2.0):
                a, b = size * unit[i], size * unit[j]
                corners = measure(a + b) - measure(a - b) - measure(b - a) + measure(-a - b)
                crossed.append(corners.sum() / (4.0 * size**2 * h * unit[j, j]))
            hessian[i, j] = hessian[j, i] = -(4.0 * crossed[0] - crossed[1]) / 3.0
    maps = []
    for structure, basis in zip(structures, white.bases, strict=True):
        turned = basis @ structure.directions @ basis.T
        maps.append(np.array([turned[:, i, j] for i, j in structure.labels]))
    variances = block_diag(*maps, np.ones((1, 1)))
    return Sandwich(scores, hessian, white.scale * white.fixed, white.scale**2 * variances)


def sum_units(white: WhitenedCells, lams: list[Array], beta: Array, v: float) -> Array:
    """Return the weighted log-likelihood of every unit of the coarsest factor, whitened (J,)."""
    levels = white.levels
    assert isinstance(levels, Nested)
    blocks, spent = levels.blocks, np.zeros(len(levels.blocks))
    top = levels.order[-1]
    for level, factor in enumerate(levels.order):
        q, lam = levels.sizes[factor], lams[factor]
        lean = lam.T @ blocks[:, :q]
        root = np.linalg.cholesky(np.eye(q) + lean[:, :, :q] @ lam)
        half = np.linalg.solve(root, lean[:, :, q:])
        logdet = 2.0 * np.log(np.einsum("jaa->ja", root)).sum(axis=1)
        spent = spent + levels.weights[level] * logdet
        left = blocks[:, q:, q:] - half.transpose(0, 2, 1) @ half
        if factor == top:
            break
        parents, upper = levels.parents[level], levels.counts[levels.order[level + 1]]
        blocks = np.zeros((upper, *left.shape[1:]))
        np.add.at(blocks, parents, left)
        spent = np.bincount(parents, weights=spent, minlength=upper)
    residual = np.append(-beta, 1.0)
    squares = np.einsum("a,jab,b->j", residual, left, residual)
    size = white.sizes
    assert size is not None
    assert white.weights is not None
    counted = size * count_cells(white.codes, white.weights)
    rows = np.bincount(white.codes[top], weights=counted, minlength=len(spent))
    return np.asarray(-0.5 * (rows * np.log(2.0 * np.pi * v) + spent + squares / v))


def _choose_steps(measure, free: list[int], size: int) -> Array:  # type: ignore[no-untyped-def]
    """Return a step (d,) for every parameter, a share of its standard error by its curvature."""
    steps = np.ones(size)
    middle = float(measure(np.zeros(size)).sum())
    for i in free:
        trial = np.zeros(size)
        trial[i] = TRIAL
        for _ in range(20):
            # A step too long leads to variances that are none.
            with np.errstate(divide="ignore", invalid="ignore"):
                bend = 2.0 * middle - float((measure(trial) + measure(-trial)).sum())
            if 1e-6 < bend < 1.0:
                break
            trial *= 0.3 if bend >= 1.0 or not np.isfinite(bend) else 3.0
        steps[i] = STEP * trial[i] / np.sqrt(max(bend, 1e-6))
    return steps
