"""Scores of the coarsest units and the Hessian of a pseudo-log-likelihood of nested factors.

With weights w of units given their parents the pseudo-log-likelihood is a sum over the coarsest,
of which each is eliminated from the finest level up. It is quadratic in beta~, and its derivatives
by the elements of every G~_f = v Psi_f and by v are taken by steps of an imaginary size, which
cancel nothing however large the weights are: Im f(x + ih) / h is f'(x) to rounding. The second ones
by these are differences of fourth order of the first, within a thousandth of where the function
ceases to be analytic. Sources: Rabe-Hesketh & Skrondal (2006), J. R. Stat. Soc. A 169, 805-827,
eq. 3; Squire & Trapp (1998), SIAM Review 40, 110-112.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import block_diag

from bhlm.likelihood.cells import WhitenedCells, count_cells
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.scores import Sandwich

if TYPE_CHECKING:
    from bhlm.reml.levels import LevelsEstimate

Array = np.ndarray

IMAGINARY = 1e-30  # of a parameter's size
# Of the distance to the nearest singularity: fourth order leaves 1e-12, rounding 1e-13.
REAL = 1e-3


class Units(NamedTuple):
    """What the coarsest units add up to at some parameters."""

    terms: Array  # (J,) weighted log-likelihoods
    fixed: Array  # (J, p) scores by beta~
    information: Array  # (p, p) X'V^-1 X
    largest: tuple[float, ...]  # by level, the largest eigenvalue of Z'V^-1 Z of its units


def find_level_scores(fit: "LevelsEstimate") -> Sandwich:
    """Return the scores of the coarsest units and the Hessian at the estimates of a fit by ML.

    Elements of G without a standard error stand on their boundary: their scores are zero.
    """
    white = fit.white
    levels = white.levels
    assert isinstance(levels, Nested)
    p, structures = white.p, fit.structures
    m = sum(len(each.labels) for each in structures)
    v = fit.sigma2 / white.scale**2
    beta = np.linalg.solve(white.fixed, fit.beta - white.ols) / white.scale
    covariances = [v * lam @ lam.T for lam in fit.lams]
    lost = np.isnan(np.diag(fit.variance_cov))
    stops = np.cumsum([0, *(len(each.labels) for each in structures)])

    def measure(shift: Array) -> Units:
        """Return the units' terms where G~'s elements and v (m + 1,) are shifted."""
        own = v + shift[-1]
        psis = [
            (base + np.tensordot(shift[start:stop], structure.directions, axes=1)) / own
            for structure, base, start, stop in zip(
                structures, covariances, stops[:-1], stops[1:], strict=True
            )
        ]
        return sum_units(white, psis, beta, own)

    found = measure(np.zeros(m + 1))
    sizes = np.full(m + 1, v)
    for level, factor in enumerate(levels.order):
        least = max(float(np.linalg.eigvalsh(covariances[factor])[0]), 0.0)
        sizes[stops[factor] : stops[factor + 1]] = least + v / found.largest[level]
    free = [i for i in range(m + 1) if not lost[i]]
    unit = np.diag(sizes)
    scores, hessian = np.zeros((len(found.terms), p + m + 1)), np.eye(p + m + 1)
    scores[:, :p], hessian[:p, :p] = found.fixed, found.information
    for i in free:
        imaginary = 1j * IMAGINARY * unit[i]
        tilted = measure(imaginary)
        scores[:, p + i] = tilted.terms.imag / (IMAGINARY * sizes[i])
        mixed = tilted.fixed.sum(axis=0).imag / (IMAGINARY * sizes[i])
        hessian[p + i, :p] = hessian[:p, p + i] = -mixed
        for j in free:
            if j > i:
                break
            step = REAL * unit[j]
            down, back, ahead, up = (
                measure(imaginary + times * step).terms.imag.sum() for times in (-2, -1, 1, 2)
            )
            bend = (8.0 * (ahead - back) - (up - down)) / (12.0 * REAL * sizes[j])
            hessian[p + i, p + j] = hessian[p + j, p + i] = -bend / (IMAGINARY * sizes[i])
    maps = []
    for structure, basis in zip(structures, white.bases, strict=True):
        turned = basis @ structure.directions @ basis.T
        maps.append(structure.read(turned).T)
    variances = block_diag(*maps, np.ones((1, 1)))
    return Sandwich(scores, hessian, white.scale * white.fixed, white.scale**2 * variances)


def sum_units(white: WhitenedCells, psis: list[Array], beta: Array, v: complex) -> Units:
    """Return what the units of the coarsest factor add up to, whitened.

    With A = Z'V^-1 Z and B = Z'V^-1 [the columns above] of a unit, V being of what lies within,

        log |K| = log |I + Psi A|,  left to its parent: C - B'(I + Psi A)^-1 Psi B

    Args:
        white: the cross-products.
        psis: by factor, Psi = G / v (q, q); complex where its derivatives are asked for.
        beta: (p,) whitened fixed effects.
        v: the residual variance, whitened.
    """
    levels = white.levels
    assert isinstance(levels, Nested)
    blocks, spent = levels.blocks, np.zeros(len(levels.blocks))
    top, largest = levels.order[-1], []
    for level, factor in enumerate(levels.order):
        q, psi = levels.sizes[factor], psis[factor]
        own, beside = blocks[:, :q, :q], blocks[:, :q, q:]
        largest.append(float(np.einsum("jaa->ja", own.real).sum(axis=1).max()))
        inside = np.eye(q) + psi @ own
        spent = spent + levels.weights[level] * np.log(np.linalg.det(inside))
        shrunk = np.linalg.solve(inside, psi @ beside)
        left = blocks[:, q:, q:] - beside.transpose(0, 2, 1) @ shrunk
        if factor == top:
            break
        parents, upper = levels.parents[level], levels.counts[levels.order[level + 1]]
        blocks = np.zeros((upper, *left.shape[1:]), dtype=left.dtype)
        np.add.at(blocks, parents, left)
        counted = np.zeros(upper, dtype=spent.dtype)
        np.add.at(counted, parents, spent)
        spent = counted
    residual = np.append(-beta, 1.0)
    half = left @ residual
    size = white.sizes
    assert size is not None
    assert white.weights is not None
    rows = np.bincount(
        white.codes[top],
        weights=size * count_cells(white.codes, white.weights),
        minlength=len(spent),
    )
    terms = -0.5 * (rows * np.log(2.0 * np.pi * v) + spent + half @ residual / v)
    p = len(beta)
    information = left[:, :p, :p].sum(axis=0) / v
    return Units(np.asarray(terms), half[:, :p] / v, information, tuple(largest))
