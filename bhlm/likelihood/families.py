"""The response families.

A pattern holds rows of one group with equal columns: n trials or exposure, y successes or events.
Given the random effects its log-likelihood is a concave function of the linear predictor eta. One
family is one class; to add one, write the class, its branches in `bhlm.likelihood.densities`, and
its line in `FAMILIES`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.densities import CODES, HALF_LOG_2PI
from bhlm.likelihood.factorials import SMALL, Pair, log_factorials, log_pairs, scale, sum_pairs

Array = np.ndarray


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
    def constant(self, y: Array, n: Array, rows: Array) -> tuple[float, float]:
        """Return what so many rows (n,) of each kind add to the log-likelihood beside patterns.

        And what the double leaves of it.
        """

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

    def constant(self, y: Array, n: Array, rows: Array) -> tuple[float, float]:
        """Return 0."""
        return 0.0, 0.0

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

    def constant(self, y: Array, n: Array, rows: Array) -> tuple[float, float]:
        """Return sum log (n over y)."""
        ways, yes, no = (log_factorials(each) for each in (n, y, n - y))
        return sum_pairs(scale(ways, rows), scale(yes, -rows), scale(no, -rows))


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

    def constant(self, y: Array, n: Array, rows: Array) -> tuple[float, float]:
        """Return sum y log n - log y!, n the exposure."""
        events = rows * y
        large = (y >= SMALL) & (n != 1.0)
        small = float(events[~large] @ np.log(n[~large]))
        exposed = scale(log_pairs(n[large]), events[large])
        return sum_pairs(
            scale(log_factorials(y), -rows), exposed, Pair(np.array(small), np.array(0.0))
        )

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
