"""The prior families: one class each, which holds all that is known of it.

A prior is a frozen value that says its family and its numbers. A family of the sampler's density
states `log_density`, which the density kernel compiles in; to add one is to write its class.
After a change of these kernels `make clean` removes what numba compiled before.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np
from scipy import special

from bhlm.design.kernels import kernel
from bhlm.errors import ArgumentError, PriorError, is_finite, show_value

Array = np.ndarray
LOG_PI = math.log(math.pi)
MOST_DRAWS = 100_000_000  # at a time
LOG_2 = math.log(2.0)
LOG_2PI = math.log(2.0 * math.pi)

# Kernels are inlined into those that call them, which are the ones that numba keeps on disk.
_compiled = numba.njit(nogil=True, error_model="numpy")

_REGISTERED: dict[str, "type[Prior]"] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Base of the families. `code` and `numbers` are what the density kernel reads.

    A family that states `log_density(numbers, x)`, a compiled function that returns the log
    density at x and its derivative by x, is one that the kernel knows, and gets its code.
    """

    code: ClassVar[int] = -1  # -1: no density that the kernel knows
    positive: ClassVar[bool] = False  # a distribution on the positive half-line
    # The class in PyMC, and its names for the numbers, in the order of the fields.
    pymc: ClassVar[tuple[str, tuple[str, ...]] | None] = None
    proper: ClassVar[bool] = True
    # Why nothing can be drawn from it and what to do; empty where draws can be made.
    undrawable: ClassVar[str] = ""
    if TYPE_CHECKING:
        log_density: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        """Number the families that have a kernel, in the order in which they stand here."""
        super(Prior, cls).__init_subclass__()
        if "log_density" in cls.__dict__:
            # `slots=True` makes each class a second time, which takes the first one's place.
            known = _REGISTERED.get(cls.__name__)
            cls.code = len(_REGISTERED) if known is None else known.code
            _REGISTERED[cls.__name__] = cls

    @classmethod
    def families(cls) -> "tuple[type[Prior], ...]":
        """Return the families that the density kernel knows, in the order of their codes."""
        return tuple(_REGISTERED.values())

    def __post_init__(self) -> None:
        """Refuse numbers outside the family's range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not is_finite(value) or (field.name not in ("mu", "power") and value <= 0):
                shown = f"{type(self).__name__}({field.name}={show_value(value)})"
                wanted = "finite" if field.name == "mu" else "finite, positive"
                raise PriorError(f"{shown} is not a distribution; give a {wanted} {field.name}")

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero."""
        return True

    @property
    def smooth_at_zero(self) -> bool:
        """Whether the density is analytic from the right at zero."""
        return True

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity; -inf if faster than any.

        Of a family that does not say, only that it is proper is known: just below -1.
        """
        return float(np.nextafter(-1.0, -2.0))

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero, on the positive half-line."""
        return float(np.nextafter(-1.0, 0.0))

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers of the family, in the order of its fields."""
        return tuple(float(getattr(self, field.name)) for field in fields(self))

    def __str__(self) -> str:
        """Return the prior as it is written, `Normal(0, 2.5)`."""
        return f"{type(self).__name__}({', '.join(f'{x:.4g}' for x in self.numbers)})"

    def quantile(self, p: Array) -> Array:
        """Return the quantiles at probabilities p; nan if it is improper or PyMC's.

        Raises:
            ArgumentError: what are no numbers.
        """
        try:
            found = np.asarray(p, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ArgumentError(
                f"p={show_value(p)} are no probabilities; give numbers between 0 and 1"
            ) from None
        return self._quantile(found)

    def _quantile(self, p: Array) -> Array:
        return np.full(np.shape(p), np.nan)

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Return draws (size,).

        Raises:
            ArgumentError: a generator that is none, or a size that is negative or too large.
            PriorError: nothing can be drawn from it.
        """
        if not isinstance(rng, np.random.Generator):
            raise ArgumentError(
                f"rng={show_value(rng)} is no generator; give one, such as np.random.default_rng(1)"
            )
        whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if not whole or not 0 <= size <= MOST_DRAWS:
            raise ArgumentError(
                f"size={show_value(size)} is no number of draws; give one from 0 to {MOST_DRAWS:,}"
            )
        return self._draw(rng, size)

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        raise PriorError(f"the prior is {self}, {self.undrawable}")


@_compiled
def _normal(z: float, sigma: float, shift: float) -> tuple[float, float]:
    """Return log density and derivative at z SDs from the mean; `shift` is added to the log."""
    constant = -0.5 * LOG_2PI - math.log(sigma) + shift
    return constant - 0.5 * z * z, -z / sigma


@_compiled
def _student(z: float, nu: float, sigma: float, shift: float) -> tuple[float, float]:
    """Return log density and derivative at z scales from the location."""
    constant = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu)
    constant -= 0.5 * (math.log(nu) + LOG_PI) + math.log(sigma)
    constant += shift
    inner = 1.0 + z * z / nu
    return constant - 0.5 * (nu + 1.0) * math.log(inner), -(nu + 1.0) * z / (nu * sigma * inner)


def _quantile_t(nu: float, p: Array) -> Array:
    from scipy import stats  # costs half a second, and few ask for it

    return np.asarray(stats.t.ppf(p, nu))


def _quantile_cauchy(p: Array) -> Array:
    from scipy import stats

    return np.asarray(stats.cauchy.ppf(p))


@dataclass(frozen=True, slots=True)
class Flat(Prior):
    """A constant density; on a positive parameter, proportional to its `power`.

    On SDs, power 0 is flat on the SD scale and power 1 flat on the variance scale.
    """

    power: float = 0.0
    proper = False
    undrawable = "which is improper and cannot be drawn from; give a proper prior"

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x, up to a constant, and its derivative."""
        if numbers[0] == 0.0:
            return 0.0, 0.0
        return numbers[0] * math.log(x), numbers[0] / x

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return float(self.power)

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return float(self.power)

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero."""
        return self.power == 0

    @property
    def smooth_at_zero(self) -> bool:
        """Whether the density is analytic from the right at zero."""
        return self.power >= 0.0 and self.power % 1.0 == 0.0

    def __str__(self) -> str:
        """Return `Flat` or the power that it is flat to."""
        return "Flat" if self.power == 0 else f"Flat(power={self.power:g})"


@dataclass(frozen=True, slots=True)
class Normal(Prior):
    """Normal with mean mu and SD sigma."""

    mu: float
    sigma: float
    pymc = ("Normal", ("mu", "sigma"))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return _normal((x - numbers[0]) / numbers[1], numbers[1], 0.0)

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -math.inf

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.mu + self.sigma * special.ndtri(p))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return self.mu + self.sigma * rng.standard_normal(size)


@dataclass(frozen=True, slots=True)
class StudentT(Prior):
    """Student's t with nu degrees of freedom, location mu and scale sigma."""

    nu: float
    mu: float
    sigma: float
    pymc = ("StudentT", ("nu", "mu", "sigma"))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return _student((x - numbers[1]) / numbers[2], numbers[0], numbers[2], 0.0)

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -(self.nu + 1.0)

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.mu + self.sigma * _quantile_t(self.nu, p))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return self.mu + self.sigma * rng.standard_t(self.nu, size)


@dataclass(frozen=True, slots=True)
class Cauchy(Prior):
    """Cauchy with location mu and scale sigma."""

    mu: float
    sigma: float
    pymc = ("Cauchy", ("alpha", "beta"))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return _student((x - numbers[0]) / numbers[1], 1.0, numbers[1], 0.0)

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -2.0

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.mu + self.sigma * _quantile_cauchy(p))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return self.mu + self.sigma * rng.standard_cauchy(size)


@dataclass(frozen=True, slots=True)
class HalfNormal(Prior):
    """The positive half of a normal with mean 0 and SD sigma."""

    sigma: float
    positive = True
    pymc = ("HalfNormal", ("sigma",))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return _normal(x / numbers[0], numbers[0], LOG_2)

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -math.inf

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.sigma * special.ndtri(0.5 + 0.5 * p))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return self.sigma * np.abs(rng.standard_normal(size))


@dataclass(frozen=True, slots=True)
class HalfStudentT(Prior):
    """The positive half of Student's t with nu degrees of freedom and scale sigma."""

    nu: float
    sigma: float
    positive = True
    pymc = ("HalfStudentT", ("nu", "sigma"))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return _student(x / numbers[1], numbers[0], numbers[1], LOG_2)

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -(self.nu + 1.0)

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.sigma * _quantile_t(self.nu, 0.5 + 0.5 * p))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return self.sigma * np.abs(rng.standard_t(self.nu, size))


@dataclass(frozen=True, slots=True)
class HalfCauchy(Prior):
    """The positive half of a Cauchy with scale sigma."""

    sigma: float
    positive = True
    pymc = ("HalfCauchy", ("beta",))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return _student(x / numbers[0], 1.0, numbers[0], LOG_2)

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -2.0

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(self.sigma * _quantile_cauchy(0.5 + 0.5 * p))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return self.sigma * np.abs(rng.standard_cauchy(size))


@dataclass(frozen=True, slots=True)
class Exponential(Prior):
    """Exponential with the given rate."""

    rate: float
    positive = True
    pymc = ("Exponential", ("lam",))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        return math.log(numbers[0]) - numbers[0] * x, -numbers[0]

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -math.inf

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return 0.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(-np.log1p(-p) / self.rate)

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return rng.standard_exponential(size) / self.rate


@dataclass(frozen=True, slots=True)
class Gamma(Prior):
    """Gamma with shape and rate; Gamma(2, small rate) on SDs avoids the boundary.

    Source: Chung, Rabe-Hesketh, Dorie, Gelman & Liu (2013), Psychometrika 78, 685-709.
    """

    shape: float
    rate: float
    positive = True
    pymc = ("Gamma", ("alpha", "beta"))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        shape, rate = numbers[0], numbers[1]
        constant = shape * math.log(rate) - math.lgamma(shape)
        return constant + (shape - 1.0) * math.log(x) - rate * x, (shape - 1.0) / x - rate

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero."""
        return self.shape == 1

    @property
    def smooth_at_zero(self) -> bool:
        """Whether the density is analytic from the right at zero."""
        return self.shape % 1.0 == 0.0

    @property
    def upper_power(self) -> float:
        """The power of x that the density falls as at infinity."""
        return -math.inf

    @property
    def lower_power(self) -> float:
        """The power of x that the density goes as at zero."""
        return self.shape - 1.0

    def _quantile(self, p: Array) -> Array:
        return np.asarray(special.gammaincinv(self.shape, p) / self.rate)

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return rng.standard_gamma(self.shape, size) / self.rate


@dataclass(frozen=True, slots=True)
class LogNormal(Prior):
    """The distribution of exp(z) for a normal z with mean mu and SD sigma."""

    mu: float
    sigma: float
    positive = True
    pymc = ("LogNormal", ("mu", "sigma"))

    @staticmethod
    @_compiled
    def log_density(numbers: Array, x: float) -> tuple[float, float]:
        """Return the log density at x and its derivative."""
        z = (math.log(x) - numbers[0]) / numbers[1]
        value, slope = _normal(z, numbers[1], 0.0)
        return value - math.log(x), (slope - 1.0) / x

    @property
    def finite_at_zero(self) -> bool:
        """The density at zero is zero."""
        return False

    @property
    def smooth_at_zero(self) -> bool:
        """All derivatives vanish at zero, and no power series is the density."""
        return False

    @property
    def upper_power(self) -> float:
        """The density falls faster than any power at infinity."""
        return -math.inf

    @property
    def lower_power(self) -> float:
        """The density vanishes faster than any power at zero."""
        return math.inf

    def _quantile(self, p: Array) -> Array:
        return np.asarray(np.exp(self.mu + self.sigma * special.ndtri(p)))

    def _draw(self, rng: np.random.Generator, size: int) -> Array:
        return np.exp(self.mu + self.sigma * rng.standard_normal(size))


@dataclass(frozen=True, slots=True, eq=False)
class PyMCPrior(Prior):
    """Any distribution that PyMC makes by `dist`, such as `pm.Weibull.dist(2, 5)`.

    `Priors` takes the distribution itself. Such a model is sampled on its pm.Model, which has
    to be compiled, where the families above are sampled on a density that is compiled already.
    """

    dist: Any
    undrawable = "which is not drawn from here; give one such as bhlm.Normal"

    def __post_init__(self) -> None:
        """Refuse a distribution of vectors: a prior stands on one parameter."""
        if self.dist.ndim:
            raise PriorError(
                f"{self} is a distribution of arrays with {self.dist.ndim} dimensions; give one "
                "number's distribution, or a mapping from coefficient to distribution"
            )

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero, which is not asked of PyMC."""
        return False

    @property
    def numbers(self) -> tuple[float, ...]:
        """None that the compiled density could read."""
        return ()

    def __str__(self) -> str:
        """Return the distribution's name, `PyMC weibull`, with its numbers where constant."""
        node = self.dist.owner
        name = getattr(node.op, "name", None) or type(node.op).__name__
        scalars = [x for x in node.inputs if getattr(x, "ndim", 1) == 0]
        numbers = [f"{float(x.data):.4g}" for x in scalars if hasattr(x, "data")]
        return f"PyMC {name}({', '.join(numbers) if len(numbers) == len(scalars) else '...'})"


@dataclass(frozen=True, slots=True)
class TextPrior(Prior):
    """A prior of which only the text is known, such as a PyMC distribution of a saved fit.

    It prints as the prior did. Asked for a density or put into another fit it raises PriorError.
    """

    text: str
    undrawable = "of which only the text was saved; give the distribution again"

    def __post_init__(self) -> None:
        """Take any text."""

    def __str__(self) -> str:
        """Return the text that the prior printed as."""
        return self.text

    @property
    def code(self) -> int:  # type: ignore[override]
        """Raise PriorError."""
        raise self._refuse()

    @property
    def positive(self) -> bool:  # type: ignore[override]
        """Raise PriorError."""
        raise self._refuse()

    @property
    def finite_at_zero(self) -> bool:
        """Raise PriorError."""
        raise self._refuse()

    @property
    def numbers(self) -> tuple[float, ...]:
        """Raise PriorError."""
        raise self._refuse()

    def _refuse(self) -> PriorError:
        return PriorError(
            f"the prior {self.text} comes from a saved fit, which keeps its text but not the "
            "distribution; give the distribution again"
        )


type Kernel = Any  # a compiled (code, numbers, x) -> (log density, derivative)


def _choose_kernel(rest: "tuple[type[Prior], ...]") -> Kernel:
    """Return a kernel that asks the family with the given code, one by one; nan for no family.

    Each is named after its family: numba links what it keeps on disk by these names, and would
    take one closure for another of the same name.
    """
    if not rest:

        @_compiled
        def choose_none(code: int, numbers: Array, x: float) -> tuple[float, float]:
            return math.nan, math.nan

        return choose_none
    own, density, others = rest[0].code, rest[0].log_density, _choose_kernel(rest[1:])

    def choose(code: int, numbers: Array, x: float) -> tuple[float, float]:
        if code == own:
            return density(numbers, x)
        return others(code, numbers, x)

    choose.__qualname__ = f"choose_{rest[0].__name__}"
    return _compiled(choose)


_choose = _choose_kernel(Prior.families())


@kernel
def log_prior(code: int, numbers: Array, x: float) -> tuple[float, float]:
    """Return the log density of one prior at x and its derivative by x; nan for no family."""
    return _choose(code, numbers, x)
