"""New responses of a design from its cross-products alone: no row is ever spelled out.

A data set needs, of y* = X beta + Z u + e in each group, only W'y* and y*'y*, W = [Z X]. With
W'W = R'R, R of rank r: u ~ N(0, G), W'e = sigma R' a with a ~ N(0, I_r), and
e'e = sigma^2 (a'a + b) with b ~ chi-square(n - r), independent, the squared length of e outside
the columns of W. So W'y* = W'W c + W'e, c = (u, beta), and y*'y* = c'W'W c + 2 c'W'e + e'e have
exactly the law that simulated rows would give them, at a cost that does not depend on n.
"""

from dataclasses import dataclass, replace

import numpy as np

from bhlm.likelihood.marginal import total_products
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

RANK = 1e-12  # a direction of W'W below this share of the largest is rounding


@dataclass(frozen=True, slots=True)
class Simulator:
    """What a data set needs: the design's cross-products and the parameters, whitened."""

    white: Whitened
    root: Array  # (J, k, k) R', R'R = W'W, k = q + p
    free: Array  # (J,) n - r, the dimensions outside the columns of W
    beta: Array  # (p,)
    effects: Array  # (q, q) a square root of G
    sigma: float


def build_simulator(
    white: Whitened, n: Array, *, beta: Array, effects: Array, sigma: float
) -> Simulator:
    """Return what is needed to draw data of a design at whitened parameters.

    Args:
        white: the design.
        n: rows per group (J,).
        beta: fixed effects (p,).
        effects: a square root (q, q) of G.
        sigma: the residual SD.
    """
    root, free = factor_design(white, n)
    return Simulator(white, root, free, beta=beta, effects=effects, sigma=sigma)


def factor_design(white: Whitened, n: Array) -> tuple[Array, Array]:
    """Return R' (J, k, k), R'R = W'W, and the dimensions n - r (J,) outside the columns of W.

    A direction that W'W lacks has a zero column in R'. `n` (J,) are the rows per group.
    """
    return factor_gram(white.blocks[:, :-1, :-1], n)


def factor_gram(gram: Array, n: Array) -> tuple[Array, Array]:
    """Return R' (J, k, k), R'R = W'W = `gram` (J, k, k), and n - rank (J,)."""
    size = np.sqrt(np.einsum("jaa->a", gram) / n.sum())
    size = np.where(size > 0.0, size, 1.0)  # a column may be zero in all rows of a stratum
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    present = values > RANK * values[:, -1:]
    root = size[:, None] * vectors * np.sqrt(np.where(present, values, 0.0))[:, None, :]
    return root, np.maximum(n - present.sum(axis=1), 0.0)


def simulate_blocks(
    simulator: Simulator, rng: np.random.Generator, *, u: Array | None = None
) -> Array:
    """Return whitened cross-products (J, k + 1, k + 1) of the same design and a new response.

    The groups' effects are drawn too, unless they are given as `u` (J, q).
    """
    gram = simulator.white.blocks[:, :-1, :-1]
    n_groups, k, _ = gram.shape
    q = simulator.white.q
    inside = rng.standard_normal((n_groups, k))
    known = np.empty((n_groups, k))
    if u is None:
        u = rng.standard_normal((n_groups, q)) @ simulator.effects.T
    known[:, :q] = u
    known[:, q:] = simulator.beta
    # Directions that W'W lacks have a zero column in the root; their noise belongs to no row.
    inside[~simulator.root.any(axis=1)] = 0.0
    outside = 2.0 * rng.standard_gamma(0.5 * simulator.free)
    noise = simulator.sigma * np.einsum("jab,jb->ja", simulator.root, inside)
    fitted = np.einsum("jab,jb->ja", gram, known)
    squares = np.einsum("ja,ja->j", known, fitted + 2.0 * noise)
    squares += simulator.sigma**2 * (np.einsum("ja,ja->j", inside, inside) + outside)
    blocks = simulator.white.blocks.copy()
    blocks[:, :-1, -1] = blocks[:, -1, :-1] = fitted + noise
    blocks[:, -1, -1] = squares
    return blocks


def simulate_whitened(
    simulator: Simulator, beta: Array, root: Array, sigma: float | Array, rng: np.random.Generator
) -> Whitened:
    """Return the whitened cross-products of a response drawn at the parameters.

    y - X beta is simulated in units of sigma, and then whitened as `whiten` would, about its
    least-squares fit: no digit is lost to large fixed effects.

    Args:
        simulator: of the design, in whose whitening the blocks come.
        beta: fixed effects (p,).
        root: a square root (q, q) of G.
        sigma: the residual SD, or that of each stratum (S,).
        rng: the source of the random numbers.
    """
    each = np.atleast_1d(sigma)
    scale = float(each[0])
    lam = np.linalg.inv(simulator.white.basis) @ root / scale
    white = replace(simulator.white, ols=beta, scale=scale)
    if white.parts is not None and white.sizes is not None:
        u = rng.standard_normal((len(white.blocks), white.q)) @ lam.T
        parts = []
        for part, n, own in zip(white.parts, white.sizes, each / scale, strict=True):
            inner, free = factor_gram(part[:, :-1, :-1], n)
            stratum = replace(white, blocks=part, parts=None)
            drawn = Simulator(stratum, inner, free, simulator.beta, lam, float(own))
            parts.append(simulate_blocks(drawn, rng, u=u))
        whole = np.array(parts)
        return refit_scale(replace(white, blocks=whole.sum(axis=0), parts=whole))
    drawn = replace(simulator, white=white, effects=lam)
    return refit_scale(replace(white, blocks=simulate_blocks(drawn, rng)))


def refit_scale(white: Whitened) -> Whitened:
    """Return the same data with y~ about its own least-squares fit and in its residual SDs."""
    p, q = white.p, white.q
    total = total_products(white)
    fit = np.linalg.solve(total[:p, :p], total[:p, p])
    size = np.sqrt((total[p, p] - fit @ total[:p, p]) / (white.n - p))
    loadings = np.eye(q + p + 1)
    loadings[q:, -1] = np.append(-fit, 1.0) / size
    scale, parts = float(white.scale * size), white.parts
    return replace(
        white,
        blocks=np.ascontiguousarray(loadings.T @ white.blocks @ loadings),
        ols=white.ols + white.scale * white.fixed @ fit,
        scale=scale,
        held=None if white.held is None else 1.0 / scale**2,
        parts=None if parts is None else np.ascontiguousarray(loadings.T @ parts @ loadings),
    )
