"""The response families: what a pattern of rows adds to the log-likelihood, and its slopes.

A pattern holds rows of one group with equal columns: n trials or exposure, y successes or events.
Given the random effects its log-likelihood is a concave function of the linear predictor eta. One
family is one class; to add one, write the class, its branch in `contribute`, and its line in
`FAMILIES`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np
from scipy import special

from bhlm.errors import ArgumentError

Array = np.ndarray

LOGIT, PROBIT, CLOGLOG, LOG = range(4)
CODES = {"logit": LOGIT, "probit": PROBIT, "cloglog": CLOGLOG, "log": LOG}
ROOT2 = math.sqrt(2.0)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# Below this, Phi is computed from the ratio's asymptotic series: erfc has no digits left at -38.
FAR = -25.0


@numba.njit(cache=True, nogil=True, error_model="numpy")
def normal_tail(x: float) -> tuple[float, float]:
    """Return log Phi(x) and the inverse Mills ratio phi(x) / Phi(x)."""
    if x > FAR:
        tail = 0.5 * math.erfc(-x / ROOT2)
        value = math.log1p(-0.5 * math.erfc(x / ROOT2)) if x > 0.0 else math.log(tail)
        return value, math.exp(-0.5 * x * x - HALF_LOG_2PI) / tail
    # Phi(x) = phi(x) / |x| (1 - 1/x^2 + 3/x^4 - ...); Abramowitz & Stegun (1964), 26.2.12.
    s = 1.0 / (x * x)
    series = 1.0 - s * (1.0 - 3.0 * s * (1.0 - 5.0 * s * (1.0 - 7.0 * s * (1.0 - 9.0 * s))))
    return -0.5 * x * x - HALF_LOG_2PI + math.log(series / -x), -x / series


@numba.njit(cache=True, nogil=True, error_model="numpy")
def contribute(link: int, eta: float, n: float, y: float) -> tuple[float, float, float]:
    """Return the log-likelihood of a pattern at eta, its slope and minus its second derivative.

    Without what does not depend on eta.
    """
    if link == LOGIT:
        e = math.exp(-abs(eta))
        if eta >= 0.0:
            value, mu = y * eta - n * (eta + math.log1p(e)), 1.0 / (1.0 + e)
        else:
            value, mu = y * eta - n * math.log1p(e), e / (1.0 + e)
        return value, y - n * mu, n * e / ((1.0 + e) * (1.0 + e))
    if link == LOG:
        mu = n * math.exp(eta)
        return y * eta - mu, y - mu, mu
    value = slope = bend = 0.0
    if link == PROBIT:
        if y > 0.0:
            log_p, ratio = normal_tail(eta)
            value += y * log_p
            slope += y * ratio
            bend += y * ratio * (ratio + eta)
        if y < n:
            log_p, ratio = normal_tail(-eta)
            value += (n - y) * log_p
            slope -= (n - y) * ratio
            bend += (n - y) * ratio * (ratio - eta)
        return value, slope, bend
    e = math.exp(eta)
    if y > 0.0:
        # mu = 1 - exp(-e); d log mu / d eta = e / expm1(e) = ratio.
        missed = -math.expm1(-e)
        ratio = e / math.expm1(e) if e < 700.0 else 0.0
        if e < 1e-9:
            value += y * (eta - 0.5 * e)
            bend += y * 0.5 * e
            ratio = 1.0 - 0.5 * e
        else:
            value += y * math.log(missed)
            bend += y * ratio * (e / missed - 1.0)
        slope += y * ratio
    if y < n:
        value -= (n - y) * e
        slope -= (n - y) * e
        bend += (n - y) * e
    return value, slope, bend


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sum_patterns(link: int, eta: Array, n: Array, y: Array, slope: Array, bend: Array) -> float:
    """Return the log-likelihood of patterns (I,) at eta (I,), and write its derivatives."""
    total = 0.0
    for i in range(len(eta)):
        value, slope[i], bend[i] = contribute(link, eta[i], n[i], y[i])
        total += value
    return total


@dataclass(frozen=True, slots=True)
class Family(ABC):
    """A family of responses with its link.

    `links` are what it may have, the usual one first. `is_binary` says that rows are 0 or 1, and
    `has_trials` that they are successes of trials.
    """

    name: ClassVar[str]
    links: ClassVar[tuple[str, ...]]
    has_trials: ClassVar[bool] = False
    has_exposure: ClassVar[bool] = False
    ratio: ClassVar[str] = ""  # what exp of an effect is called under the usual link

    link: str

    @property
    def code(self) -> int:
        """The link, as the kernels know it."""
        return CODES[self.link]

    @property
    def ratio_name(self) -> str:
        """What exp(effect) is called; empty where it has no name."""
        return self.ratio if self.link == self.links[0] else ""

    @property
    @abstractmethod
    def support(self) -> str:
        """What a response may be, in words."""

    @abstractmethod
    def find_outside(self, y: Array, n: Array) -> Array:
        """Return which responses (n,) are outside the family."""

    @abstractmethod
    def constant(self, y: Array, n: Array, rows: Array) -> float:
        """Return what so many rows (n,) of each kind add to the log-likelihood beside patterns."""

    def mean(self, eta: Array) -> Array:
        """Return the expected response of one trial, or of one unit of exposure."""
        if self.link == "logit":
            return np.asarray(special.expit(eta))
        if self.link == "probit":
            return np.asarray(special.ndtr(eta))
        if self.link == "cloglog":
            return np.asarray(-np.expm1(-np.exp(eta)))
        return np.asarray(np.exp(eta))

    def slope(self, eta: Array) -> Array:
        """Return the derivative of `mean` by eta."""
        if self.link == "logit":
            mu = special.expit(eta)
            return np.asarray(mu * special.expit(-eta))
        if self.link == "probit":
            return np.asarray(np.exp(-0.5 * np.square(eta) - HALF_LOG_2PI))
        if self.link == "cloglog":
            return np.asarray(np.exp(eta - np.exp(eta)))
        return np.asarray(np.exp(eta))

    def apply_link(self, mean: Array) -> Array:
        """Return eta for an expected response."""
        if self.link == "logit":
            return np.asarray(special.logit(mean))
        if self.link == "probit":
            return np.asarray(special.ndtri(mean))
        if self.link == "cloglog":
            return np.asarray(np.log(-np.log1p(-np.asarray(mean))))
        return np.asarray(np.log(mean))

    @abstractmethod
    def variance(self, mean: Array, n: Array) -> Array:
        """Return the variance of a response of n trials or units of exposure, given its mean."""

    @abstractmethod
    def draw(self, mean: Array, n: Array, *, rng: np.random.Generator) -> Array:
        """Return responses of n trials or units of exposure with these means."""

    @property
    def latent_variance(self) -> float:
        """The variance of the latent residual that the link stands for; nan where there is none.

        Of the logistic, the normal and the extreme-value distribution. Source: Snijders & Bosker
        (2012), Multilevel Analysis, section 17.3.2; Goldstein, Browne & Rasbash (2002).
        """
        return {"logit": math.pi**2 / 3.0, "probit": 1.0, "cloglog": math.pi**2 / 6.0}.get(
            self.link, math.nan
        )


@dataclass(frozen=True, slots=True)
class Bernoulli(Family):
    """Responses of 0 and 1."""

    name: ClassVar[str] = "bernoulli"
    links: ClassVar[tuple[str, ...]] = ("logit", "probit", "cloglog")
    ratio: ClassVar[str] = "Odds ratio"

    @property
    def support(self) -> str:
        """Zeros and ones."""
        return "0 or 1"

    def find_outside(self, y: Array, n: Array) -> Array:
        """Return which responses are neither 0 nor 1."""
        return np.asarray((y != 0.0) & (y != 1.0))

    def constant(self, y: Array, n: Array, rows: Array) -> float:
        """Return 0."""
        return 0.0

    def variance(self, mean: Array, n: Array) -> Array:
        """Return n mean (1 - mean)."""
        return np.asarray(n * mean * (1.0 - mean))

    def draw(self, mean: Array, n: Array, *, rng: np.random.Generator) -> Array:
        """Return successes."""
        return np.asarray(rng.binomial(n.astype(np.int64), mean), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Binomial(Bernoulli):
    """Successes of n trials."""

    name: ClassVar[str] = "binomial"
    has_trials: ClassVar[bool] = True

    @property
    def support(self) -> str:
        """Whole numbers up to the trials."""
        return "a whole number from 0 to the trials"

    def find_outside(self, y: Array, n: Array) -> Array:
        """Return which responses are no number of successes of n trials."""
        return np.asarray((y < 0.0) | (y > n) | (y != np.floor(y)))

    def constant(self, y: Array, n: Array, rows: Array) -> float:
        """Return sum log (n over y)."""
        chosen = special.gammaln(n + 1.0) - special.gammaln(y + 1.0) - special.gammaln(n - y + 1.0)
        return float(rows @ chosen)


@dataclass(frozen=True, slots=True)
class Poisson(Family):
    """Counts, over an exposure."""

    name: ClassVar[str] = "poisson"
    links: ClassVar[tuple[str, ...]] = ("log",)
    has_exposure: ClassVar[bool] = True
    ratio: ClassVar[str] = "Rate ratio"

    @property
    def support(self) -> str:
        """Whole numbers."""
        return "a whole number of 0 or more"

    def find_outside(self, y: Array, n: Array) -> Array:
        """Return which responses are no counts."""
        return np.asarray((y < 0.0) | (y != np.floor(y)))

    def constant(self, y: Array, n: Array, rows: Array) -> float:
        """Return -sum log y!."""
        return -float(rows @ special.gammaln(y + 1.0))

    def variance(self, mean: Array, n: Array) -> Array:
        """Return n mean."""
        return np.asarray(n * mean)

    def draw(self, mean: Array, n: Array, *, rng: np.random.Generator) -> Array:
        """Return counts."""
        return np.asarray(rng.poisson(n * mean), dtype=np.float64)


FAMILIES: Mapping[str, type[Family]] = {each.name: each for each in (Bernoulli, Binomial, Poisson)}
GAUSSIAN = "gaussian"


def find_family(name: str, link: str | None = None) -> Family:
    """Return a family by its name, with its usual link or another one that it may have.

    Raises:
        ArgumentError: a name or a link that is not known.
    """
    if name not in FAMILIES:
        known = ", ".join((GAUSSIAN, *FAMILIES))
        raise ArgumentError(f"family={name!r} is not known; choose one of {known}")
    kind = FAMILIES[name]
    if link is None:
        return kind(kind.links[0])
    if link not in kind.links:
        raise ArgumentError(
            f"link={link!r} is not there for family={name!r}; choose one of {', '.join(kind.links)}"
        )
    return kind(link)
