"""Priors of correlation matrices.

`LKJ` says the density, det(R)^(eta - 1) over the correlation matrices that a structure allows. How
it stands on a structure's correlations is a `Law`, one class each: the sampler's coordinates of
them, draws, density and marginals. A structure names its law; to add one is to write its class.
After a change of these kernels `make clean` removes what numba compiled before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np
from scipy import special

from bhlm.errors import ArgumentError, PriorError, is_finite, show_value
from bhlm.likelihood.covariance import STRUCTURES, Structure
from bhlm.likelihood.stacked import arrange_stack
from bhlm.moments.either import Reduced

Array = np.ndarray
LOG_2 = math.log(2.0)

# Kernels are inlined into those that call them, which are the ones that numba keeps on disk.
_compiled = numba.njit(nogil=True, error_model="numpy")

_LAWS: "dict[str, type[Law]]" = {}


@dataclass(frozen=True, slots=True)
class LKJ:
    """The LKJ distribution of a correlation matrix; eta = 1 is uniform.

    Source: Lewandowski, Kurowicka & Joe (2009), J. Multivariate Anal. 100, 1989-2001.
    """

    eta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse an eta that is not positive."""
        if not is_finite(self.eta) or self.eta <= 0:
            raise PriorError(
                f"LKJ(eta={show_value(self.eta)}) is not a distribution; give a positive eta"
            )

    def __str__(self) -> str:
        """Return `LKJ(2)`."""
        return f"LKJ({self.eta:g})"

    def log_constant(self, sizes: Sequence[int]) -> float:
        """Return minus the log of what det(R)^(eta - 1) integrates to, over all blocks."""
        return sum(_log_constant(self.eta, size) for size in sizes)


class Law:
    """How an LKJ prior stands on the correlations of a structure with blocks of some sizes.

    The kernels `correlate(x, sizes, out)`, which writes lower roots of the blocks' correlations
    (q, q) at coordinates x (c,), and `pull(x, sizes, eta, dfactor, dx)`, which adds to `dx` (c,)
    the pull-back of `dfactor` (q, q) and of the prior and returns the prior's log density by x,
    are compiled into the sampler's density.
    """

    name: ClassVar[str]  # by which structures ask for it
    code: ClassVar[int]
    if TYPE_CHECKING:
        correlate: ClassVar[Any]
        pull: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        """Number the laws, in the order in which they stand here."""
        cls.code = len(_LAWS)
        _LAWS[cls.name] = cls

    @staticmethod
    def check(eta: float, sizes: Sequence[int]) -> None:
        """Refuse an eta under which the density does not integrate; all that `LKJ` takes do."""

    @staticmethod
    def count(sizes: Sequence[int]) -> int:
        """Return the number of coordinates c."""
        raise NotImplementedError

    @staticmethod
    def draw(eta: float, sizes: Sequence[int], rng: np.random.Generator, size: int) -> Array:
        """Return lower Cholesky factors (size, q, q) of block-diagonal correlations."""
        raise NotImplementedError

    @staticmethod
    def log_density(eta: float, sizes: Sequence[int], root: Array, sd: Array) -> Array:
        """Return log p(R) summed over the blocks (draws,).

        Args:
            eta: of the prior.
            sizes: of the blocks, summing to q.
            root: lower square roots (draws, q, q) of G.
            sd: the SDs in G (draws, q).
        """
        raise NotImplementedError

    @staticmethod
    def marginal(eta: float, size: int) -> Any:
        """Return the distribution of one correlation in a block, as SciPy's frozen one."""
        raise NotImplementedError

    @staticmethod
    def add(pm: Any, name: str, size: int, eta: float) -> Any:
        """Add a block's correlations to the PyMC model in context; return their lower root."""
        raise NotImplementedError


class Partial(Law):
    """Every correlation of a block is free, by canonical partial correlations tanh(x).

    In a block of b, the partial correlation of row i and column j < i given the columns before
    j is 2 Beta(alpha_j, alpha_j) - 1 with alpha_j = eta + (b - 2 - j) / 2, independently of the
    others. Source: Lewandowski, Kurowicka & Joe (2009), section 2 (vines).
    """

    name = "partial"

    @staticmethod
    @_compiled
    def correlate(x: Array, sizes: Array, out: Array) -> None:
        """Write the Cholesky factors (q, q) of the blocks' correlation matrices into `out`."""
        out[:] = 0.0
        start = 0
        at = 0
        for size in sizes:
            for i in range(size):
                rest = 1.0
                for j in range(i):
                    z = math.tanh(x[at])
                    at += 1
                    out[start + i, start + j] = z * rest
                    rest *= math.sqrt(1.0 - z * z)
                out[start + i, start + i] = rest
            start += size

    @staticmethod
    @_compiled
    def pull(x: Array, sizes: Array, eta: float, dfactor: Array, dx: Array) -> float:
        """Add the pull-back of `dfactor` and of the prior to `dx`; return its log density.

        With dz/dx = 1 - z^2 the log density by x is alpha_j log(1 - z^2) less its constant.
        """
        logp = 0.0
        start = 0
        first = 0
        for size in sizes:
            for i in range(size):
                rests = np.empty(i + 1)
                rests[0] = 1.0
                for j in range(i):
                    z = math.tanh(x[first + j])
                    rests[j + 1] = rests[j] * math.sqrt(1.0 - z * z)
                back = dfactor[start + i, start + i]
                for j in range(i - 1, -1, -1):
                    z = math.tanh(x[first + j])
                    slack = 1.0 - z * z
                    root = math.sqrt(slack)
                    alpha = eta + 0.5 * (size - 2 - j)
                    logp += (
                        alpha * math.log(slack)
                        - (2.0 * math.lgamma(alpha) - math.lgamma(2.0 * alpha))
                        - (2.0 * alpha - 1.0) * LOG_2
                    )
                    inner = dfactor[start + i, start + j]
                    dx[first + j] += rests[j] * root * (inner * root - back * z) - 2.0 * alpha * z
                    back = inner * z + back * root
                first += i
            start += size
        return logp

    @staticmethod
    def count(sizes: Sequence[int]) -> int:
        """Return the number of pairs."""
        return sum(b * (b - 1) // 2 for b in sizes)

    @staticmethod
    def draw(eta: float, sizes: Sequence[int], rng: np.random.Generator, size: int) -> Array:
        """Return lower Cholesky factors (size, q, q) of block-diagonal correlations."""
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

    @staticmethod
    def log_density(eta: float, sizes: Sequence[int], root: Array, sd: Array) -> Array:
        """Return log p(R) summed over the blocks (draws,)."""
        pivot = np.abs(np.einsum("dii->di", root)) / sd
        total = np.zeros(len(root))
        start = 0
        for size in sizes:
            with np.errstate(divide="ignore", invalid="ignore"):
                logdet = 2.0 * np.log(pivot[:, start : start + size]).sum(axis=1)
            total += (eta - 1.0) * logdet if eta != 1.0 else 0.0
            total += _log_constant(eta, size)
            start += size
        return total

    @staticmethod
    def marginal(eta: float, size: int) -> Any:
        """Return (1 + r) / 2 ~ Beta(shape, shape) with shape = eta - 1 + size / 2."""
        from scipy import stats

        shape = eta - 1.0 + 0.5 * size
        return stats.beta(shape, shape, loc=-1.0, scale=2.0)

    @staticmethod
    def add(pm: Any, name: str, size: int, eta: float) -> Any:
        """Add LKJCorr, which is a distribution of the Cholesky factor of the matrix."""
        return pm.LKJCorr(name, n=size, eta=eta)


class Common(Law):
    """One correlation r for all pairs of a block of b, from -1 / (b - 1) to 1.

    det R = (1 - r)^(b - 1) (1 + (b - 1) r), so that LKJ's density on such matrices is that of
    w = (1 + (b - 1) r) / b ~ Beta(eta, 1 + (b - 1) (eta - 1)). The coordinate is x with
    w = 1 / (1 + exp(-2 x)). In the Cholesky factor of R all elements below the diagonal's
    d_j are the same c_j: d_0 = 1 and c_0 = r, then with m_j = 1 + (j - 1) r

        d_j^2 = (1 - r) m_(j+1) / m_j,    c_j = r (1 - r) / (m_j d_j)
    """

    name = "common"

    @staticmethod
    @_compiled
    def correlate(x: Array, sizes: Array, out: Array) -> None:
        """Write the Cholesky factors (q, q) of the blocks' correlation matrices into `out`."""
        out[:] = 0.0
        start, at = 0, 0
        for b in sizes:
            out[start, start] = 1.0
            if b > 1:
                share = 1.0 / (1.0 + math.exp(-2.0 * x[at]))
                rest = 1.0 / (1.0 + math.exp(2.0 * x[at]))
                slack = b * rest / (b - 1.0)
                r = 1.0 - slack if share > 0.5 else (b * share - 1.0) / (b - 1.0)
                out[start + 1 : start + b, start] = r
                for j in range(1, b):
                    m = 1.0 + (j - 1.0) * r
                    pivot = math.sqrt(slack * (b * share if j == b - 1 else m + r) / m)
                    out[start + j, start + j] = pivot
                    out[start + j + 1 : start + b, start + j] = r * slack / (m * pivot)
                at += 1
            start += b

    @staticmethod
    @_compiled
    def pull(x: Array, sizes: Array, eta: float, dfactor: Array, dx: Array) -> float:
        """Add the pull-back of `dfactor` and of the prior to `dx`; return its log density."""
        logp = 0.0
        start, at = 0, 0
        for b in sizes:
            if b > 1:
                share = 1.0 / (1.0 + math.exp(-2.0 * x[at]))
                rest = 1.0 / (1.0 + math.exp(2.0 * x[at]))
                slack = b * rest / (b - 1.0)
                r = 1.0 - slack if share > 0.5 else (b * share - 1.0) / (b - 1.0)
                speed = 2.0 * slack * share  # dr / dx
                pulled = 0.0
                for i in range(1, b):
                    pulled += dfactor[start + i, start] * speed
                for j in range(1, b):
                    m = 1.0 + (j - 1.0) * r
                    top = b * share if j == b - 1 else m + r
                    pivot = math.sqrt(slack * top / m)
                    grow = -2.0 * share + 2.0 * slack * (j / b if j == b - 1 else j * share / top)
                    grow = 0.5 * (grow - speed * (j - 1.0) / m)  # d log d_j / dx
                    pulled += dfactor[start + j, start + j] * pivot * grow
                    below = r * slack / (m * pivot)
                    turn = (1.0 - 2.0 * r) * speed / (m * pivot)
                    turn -= below * (speed * (j - 1.0) / m + grow)
                    for i in range(j + 1, b):
                        pulled += dfactor[start + i, start + j] * turn
                one, two = eta, 1.0 + (b - 1.0) * (eta - 1.0)
                dx[at] += pulled + 2.0 * (one * rest - two * share)
                logp -= one * math.log1p(math.exp(-2.0 * x[at]))
                logp -= two * math.log1p(math.exp(2.0 * x[at]))
                logp += LOG_2 + math.lgamma(one + two) - math.lgamma(one) - math.lgamma(two)
                at += 1
            start += b
        return logp

    @staticmethod
    def check(eta: float, sizes: Sequence[int]) -> None:
        """Refuse an eta of at most 1 - 1 / (b - 1)."""
        least = 1.0 - 1.0 / max(max(sizes) - 1.0, 1.0)
        if not eta > least:
            raise PriorError(
                f"LKJ({eta:g}) has no density on one correlation that {max(sizes)} coefficients "
                f"share; give an eta above {least:.4g}"
            )

    @staticmethod
    def count(sizes: Sequence[int]) -> int:
        """Return the number of blocks that have pairs."""
        return sum(b > 1 for b in sizes)

    @staticmethod
    def draw(eta: float, sizes: Sequence[int], rng: np.random.Generator, size: int) -> Array:
        """Return lower Cholesky factors (size, q, q) of block-diagonal correlations."""
        pairs = [b for b in sizes if b > 1]
        share = np.stack([rng.beta(*shape_common(eta, b), size) for b in pairs], axis=1)
        root = np.zeros((size, sum(sizes), sum(sizes)))
        places = 0.5 * (np.log(share) - np.log1p(-share))
        for row in range(size):
            _correlate_common(places[row], np.array(sizes), root[row])
        return root

    @staticmethod
    def log_density(eta: float, sizes: Sequence[int], root: Array, sd: Array) -> Array:
        """Return log p(r) summed over the blocks (draws,)."""
        total = np.zeros(len(root))
        start = 0
        for b in sizes:
            if b > 1:
                last, second = start + b - 1, start + 1
                r = root[:, second, start] * root[:, start, start] / (sd[:, start] * sd[:, second])
                # What is small is read off the pivots, so that no digits cancel.
                pivot = np.abs(np.einsum("dii->di", root)) / sd
                slack = np.where(r > 0.0, pivot[:, second] ** 2 / (1.0 + np.abs(r)), 1.0 - r)
                low = pivot[:, last] ** 2 * (1.0 + (b - 2.0) * r) / slack
                share = np.where(r > 0.0, 1.0 + (b - 1.0) * r, low) / b
                one, two = shape_common(eta, b)
                total += special.xlogy(one - 1.0, share)
                total += special.xlogy(two - 1.0, slack * (b - 1.0) / b)
                total += math.log((b - 1.0) / b) - special.betaln(one, two)
            start += b
        return total

    @staticmethod
    def marginal(eta: float, size: int) -> Any:
        """Return the distribution of r."""
        from scipy import stats

        width = size / (size - 1.0)
        return stats.beta(*shape_common(eta, size), loc=1.0 - width, scale=width)

    @staticmethod
    def add(pm: Any, name: str, size: int, eta: float) -> Any:
        """Add w; the root is the symmetric one."""
        one, two = shape_common(eta, size)
        share = pm.Beta(name, one, two)
        mean = np.full((size, size), 1.0 / size)
        own = pm.math.sqrt(size / (size - 1.0) * (1.0 - share)) * (np.eye(size) - mean)
        return own + pm.math.sqrt(size * share) * mean


_correlate_common = numba.njit(cache=True, nogil=True, error_model="numpy")(
    Common.correlate.py_func
)


def shape_common(eta: float, size: int) -> tuple[float, float]:
    """Return the shapes of w's beta distribution in a block."""
    return eta, 1.0 + (size - 1.0) * (eta - 1.0)


def find_law(structure: Structure) -> type[Law]:
    """Return how priors stand on a structure's correlations."""
    return _LAWS[structure.correlation_law]


def has_prior(structure: Structure | type[Structure]) -> bool:
    """Whether a structure can be sampled."""
    parts = (structure,) if isinstance(structure, type) else structure.parts
    return all(part.correlation_law in _LAWS for part in parts)


def arrange_prior(moments: Reduced, covariance: str | None = None) -> Structure:
    """Return the structure of the random coefficients of `moments`, if it has a prior.

    That of several grouping factors is a `bhlm.likelihood.stacked.Stacked`.

    Raises:
        ArgumentError: it has none.
    """
    structure = arrange_stack(moments, covariance)
    if not has_prior(structure):
        known = [f"'{kind}'" for kind, each in STRUCTURES.items() if has_prior(each)]
        raise ArgumentError(
            f"covariance={covariance!r} has no prior for sampling; choose "
            f"{', '.join(known[:-1])} or {known[-1]}, or fit it with reml()"
        )
    return structure


def _log_constant(eta: float, size: int) -> float:
    """Return minus the log of what det(R)^(eta - 1) integrates to over R (size, size).

    That is the product over k = 1..size-1 of (2^(2 alpha_k - 1) B(alpha_k, alpha_k))^k with
    alpha_k = eta + (k - 1) / 2. Source: Lewandowski, Kurowicka & Joe (2009), eq. 16.
    """
    total = 0.0
    for k in range(1, size):
        alpha = eta + 0.5 * (k - 1)
        constant = 2.0 * math.lgamma(alpha) - math.lgamma(2.0 * alpha)
        total -= k * ((2.0 * alpha - 1.0) * LOG_2 + constant)
    return total


type Kernels = tuple[Any, Any]  # compiled: (code, *those of `Law.correlate`), likewise `pull`


def _choose_kernels(laws: Sequence[type[Law]]) -> Kernels:
    """Return kernels that ask the law with the given code, one by one; the last for any other.

    Each is named after its law, see `families`.
    """
    own, one_correlate, one_pull = laws[0].code, laws[0].correlate, laws[0].pull
    if len(laws) == 1:

        @_compiled
        def correlate_last(code, x, sizes, out):  # type: ignore[no-untyped-def]
            one_correlate(x, sizes, out)

        @_compiled
        def pull_last(code, x, sizes, eta, dfactor, dx):  # type: ignore[no-untyped-def]
            return one_pull(x, sizes, eta, dfactor, dx)

        return correlate_last, pull_last
    other_correlate, other_pull = _choose_kernels(laws[1:])

    def correlate(code, x, sizes, out):  # type: ignore[no-untyped-def]
        if code == own:
            one_correlate(x, sizes, out)
        else:
            other_correlate(code, x, sizes, out)

    def pull(code, x, sizes, eta, dfactor, dx):  # type: ignore[no-untyped-def]
        if code == own:
            return one_pull(x, sizes, eta, dfactor, dx)
        return other_pull(code, x, sizes, eta, dfactor, dx)

    correlate.__qualname__ = f"correlate_{laws[0].__name__}"
    pull.__qualname__ = f"pull_{laws[0].__name__}"
    return _compiled(correlate), _compiled(pull)


correlate, pull_correlations = _choose_kernels(tuple(_LAWS.values()))
