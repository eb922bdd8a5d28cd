"""Draws of the parameters from their priors."""

from collections.abc import Callable

import numpy as np

from bhlm.bayes.priors.families import (
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Normal,
    Prior,
    ResolvedPriors,
    StudentT,
)
from bhlm.errors import PriorError
from bhlm.moments.moments import Moments

Array = np.ndarray
type Draw = Callable[[np.random.Generator, int, tuple[float, ...]], Array]

# How each family makes `size` draws of its numbers, which stand in the order of its fields.
_DRAWS: dict[type[Prior], Draw] = {
    Normal: lambda rng, size, own: own[0] + own[1] * rng.standard_normal(size),
    StudentT: lambda rng, size, own: own[1] + own[2] * rng.standard_t(own[0], size),
    Cauchy: lambda rng, size, own: own[0] + own[1] * rng.standard_cauchy(size),
    HalfNormal: lambda rng, size, own: own[0] * np.abs(rng.standard_normal(size)),
    HalfStudentT: lambda rng, size, own: own[1] * np.abs(rng.standard_t(own[0], size)),
    HalfCauchy: lambda rng, size, own: own[0] * np.abs(rng.standard_cauchy(size)),
    Exponential: lambda rng, size, own: rng.standard_exponential(size) / own[0],
    Gamma: lambda rng, size, own: rng.standard_gamma(own[0], size) / own[1],
}


def draw_prior(
    priors: ResolvedPriors, sizes: tuple[int, ...], rng: np.random.Generator, size: int
) -> tuple[Array, Array, Array]:
    """Return beta (size, p), lower roots of G (size, q, q) and sigma (size,) from the prior.

    The Intercept's prior stands where the other fixed columns are at their means, so that
    beta[Intercept] = drawn value - sum of means x beta.

    Args:
        priors: one prior per parameter.
        sizes: how many random coefficients each correlated block has, summing to q.
        rng: the source of the random numbers.
        size: how many draws.

    Raises:
        PriorError: a prior from which nothing can be drawn.
    """
    beta = _draw_columns(priors.fixed, rng, size)
    if np.any(priors.centre):
        intercept = int(np.flatnonzero(priors.centre == 0)[0])
        beta[:, intercept] -= beta @ priors.centre
    sd = _draw_columns(priors.sd, rng, size)
    root = sd[:, :, None] * draw_correlations(priors.corr.eta, sizes, rng, size)
    return beta, root, _draw_columns((priors.sigma,), rng, size)[:, 0]


def draw_correlations(
    eta: float, sizes: tuple[int, ...], rng: np.random.Generator, size: int
) -> Array:
    """Return lower Cholesky factors (size, q, q) of block-diagonal LKJ(eta) correlations.

    In a block of b, the partial correlation of row i and column j < i given the columns before
    j is 2 Beta(alpha_j, alpha_j) - 1 with alpha_j = eta + (b - 2 - j) / 2, independently of the
    others. Source: Lewandowski, Kurowicka & Joe (2009), section 2 (vines).
    """
    q = sum(sizes)
    root = np.zeros((size, q, q))
    start = 0
    for b in sizes:
        for i in range(b):
            rest = np.ones(size)
            for j in range(i):
                alpha = eta + 0.5 * (b - 2 - j)
                z = 2.0 * rng.beta(alpha, alpha, size) - 1.0
                root[:, start + i, start + j] = z * rest
                rest *= np.sqrt(1.0 - z * z)
            root[:, start + i, start + i] = rest
        start += b
    return root


def check_drawable(priors: ResolvedPriors, moments: Moments) -> None:
    """Refuse priors from which nothing can be drawn.

    Raises:
        PriorError: the first such prior, with its parameter.
    """
    scales = (f"sd({name}|{moments.group})" for name in moments.random)
    names = (*moments.fixed, *scales, "sd(Residual)")
    for name, prior in zip(names, priors.every, strict=True):
        if type(prior) not in _DRAWS:
            raise PriorError(f"the prior of {name} is {_explain(prior)}")


def _draw_columns(priors: tuple[Prior, ...], rng: np.random.Generator, size: int) -> Array:
    """Return one column of draws (size, m) for each prior."""
    columns = []
    for prior in priors:
        if type(prior) not in _DRAWS:
            raise PriorError(f"the prior is {_explain(prior)}")
        columns.append(_DRAWS[type(prior)](rng, size, prior.numbers))
    return np.stack(columns, axis=1)


def _explain(prior: Prior) -> str:
    """Return why nothing can be drawn from a prior, and what to do."""
    if isinstance(prior, Flat):
        return f"{prior}, which is improper and cannot be drawn from; give a proper prior"
    return f"{prior}, which is not drawn from here; give one of the families of bhlm.priors"
