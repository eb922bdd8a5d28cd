"""Priors on the fixed effects, the SDs, the correlations and the residual SD.

A prior is a frozen value that says its family and its numbers; `Priors` holds one per kind of
parameter, or one per coefficient; `resolve_priors` fills in the defaults, scaled to the data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bhlm.errors import PriorError
from bhlm.moments import INTERCEPT, Moments, pool

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Prior:
    """Base of the families. `code` and `numbers` are what the density kernel reads."""

    code = -1
    positive = False  # a distribution on the positive half-line

    def __post_init__(self) -> None:
        """Refuse numbers outside the family's range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value) or (field.name not in ("mu", "power") and value <= 0):
                raise PriorError(
                    f"{type(self).__name__}({field.name}={value!r}) is not a distribution; "
                    f"give a finite{'' if field.name == 'mu' else ', positive'} {field.name}"
                )

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero."""
        return True

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers of the family, in the order of its fields."""
        return tuple(float(getattr(self, field.name)) for field in fields(self))

    def __str__(self) -> str:
        """Return the prior as it is written, `Normal(0, 2.5)`."""
        return f"{type(self).__name__}({', '.join(f'{x:.4g}' for x in self.numbers)})"


@dataclass(frozen=True, slots=True)
class Flat(Prior):
    """A constant density; on a positive parameter, proportional to its `power`.

    On SDs, power 0 is flat on the SD scale and power 1 flat on the variance scale.
    """

    power: float = 0.0
    code = 0

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero."""
        return self.power == 0

    def __str__(self) -> str:
        """Return `Flat` or the power that it is flat to."""
        return "Flat" if self.power == 0 else f"Flat(power={self.power:g})"


@dataclass(frozen=True, slots=True)
class Normal(Prior):
    """Normal with mean mu and SD sigma."""

    mu: float
    sigma: float
    code = 1


@dataclass(frozen=True, slots=True)
class StudentT(Prior):
    """Student's t with nu degrees of freedom, location mu and scale sigma."""

    nu: float
    mu: float
    sigma: float
    code = 2


@dataclass(frozen=True, slots=True)
class Cauchy(Prior):
    """Cauchy with location mu and scale sigma."""

    mu: float
    sigma: float
    code = 3


@dataclass(frozen=True, slots=True)
class HalfNormal(Prior):
    """The positive half of a normal with mean 0 and SD sigma."""

    sigma: float
    code = 4
    positive = True


@dataclass(frozen=True, slots=True)
class HalfStudentT(Prior):
    """The positive half of Student's t with nu degrees of freedom and scale sigma."""

    nu: float
    sigma: float
    code = 5
    positive = True


@dataclass(frozen=True, slots=True)
class HalfCauchy(Prior):
    """The positive half of a Cauchy with scale sigma."""

    sigma: float
    code = 6
    positive = True


@dataclass(frozen=True, slots=True)
class Exponential(Prior):
    """Exponential with the given rate."""

    rate: float
    code = 7
    positive = True


@dataclass(frozen=True, slots=True)
class Gamma(Prior):
    """Gamma with shape and rate; Gamma(2, small rate) on SDs avoids the boundary.

    Source: Chung, Rabe-Hesketh, Dorie, Gelman & Liu (2013), Psychometrika 78, 685-709.
    """

    shape: float
    rate: float
    code = 8
    positive = True

    @property
    def finite_at_zero(self) -> bool:
        """Whether the density at zero is finite and not zero."""
        return self.shape == 1


@dataclass(frozen=True, slots=True)
class LKJ:
    """The LKJ distribution of a correlation matrix; eta = 1 is uniform.

    Source: Lewandowski, Kurowicka & Joe (2009), J. Multivariate Anal. 100, 1989-2001.
    """

    eta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse an eta that is not positive."""
        if not (np.isfinite(self.eta) and self.eta > 0):
            raise PriorError(f"LKJ(eta={self.eta!r}) is not a distribution; give a positive eta")

    def __str__(self) -> str:
        """Return `LKJ(2)`."""
        return f"LKJ({self.eta:g})"


FAMILIES: dict[str, type[Prior] | type[LKJ]] = {
    family.__name__: family
    for family in (
        Flat, Normal, StudentT, Cauchy, HalfNormal, HalfStudentT, HalfCauchy, Exponential,
        Gamma, LKJ,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Priors:
    """The priors of a model; None means the autoscaled default.

    `fixed` and `sd` take one prior for all coefficients or a mapping from coefficient to prior,
    in which what is not named keeps its default. The prior of the fixed `Intercept` is that of
    the expected response where every other fixed column stands at its mean, as in brms and
    rstanarm, so that it does not depend on where a covariate's zero lies.
    """

    fixed: Prior | Mapping[str, Prior] | None = None
    sd: Prior | Mapping[str, Prior] | None = None
    corr: LKJ | None = None
    sigma: Prior | None = None
    flat_covariance: bool = False

    @classmethod
    def flat(cls) -> "Priors":
        """Return priors that are flat on the fixed effects, on G and on the residual variance.

        Under them the mode of the posterior of (G, sigma^2) is the REML estimate.
        """
        return cls(
            fixed=Flat(), sd=None, corr=LKJ(1.0), sigma=Flat(power=1.0), flat_covariance=True
        )


@dataclass(frozen=True, slots=True)
class ResolvedPriors:
    """One proper value per parameter, on the scale of the data."""

    fixed: tuple[Prior, ...]  # (p,)
    sd: tuple[Prior, ...]  # (q,)
    corr: LKJ
    sigma: Prior
    centre: Array  # (p,) column means that the Intercept's prior is taken at, 0 for itself

    @property
    def is_flat(self) -> bool:
        """Whether every prior is flat, on G and sigma^2 as `Priors.flat` means it."""
        every = (*self.fixed, *self.sd, self.sigma)
        return self.corr.eta == 1.0 and all(isinstance(prior, Flat) for prior in every)

    def describe(
        self, moments: Moments, *, blocks: tuple[tuple[str, ...], ...] | None = None
    ) -> dict[str, str]:
        """Return each parameter's prior as text, in the order of the tables.

        `blocks` are the correlated sets of random coefficients, the formula's if None.
        """
        group = moments.group
        text = dict(zip(moments.fixed, map(str, self.fixed), strict=True))
        if np.any(self.centre != 0) and INTERCEPT in text:
            text[INTERCEPT] += " at the predictors' means"
        text |= {
            f"sd({name}|{group})": str(prior)
            for name, prior in zip(moments.random, self.sd, strict=True)
        }
        if any(len(block) > 1 for block in blocks or moments.blocks):
            text[f"corr(|{group})"] = str(self.corr)
        return text | {"sd(Residual)": str(self.sigma)}


def resolve_priors(
    priors: Priors | None, moments: Moments, *, blocks: tuple[tuple[str, ...], ...] | None = None
) -> ResolvedPriors:
    """Return the priors of every parameter, defaults scaled by the SDs of response and columns.

    With sd_y the response's SD and sd_x a column's: fixed Normal(0, 2.5 sd_y / sd_x), Intercept
    Normal(mean_y, 2.5 sd_y), SDs HalfStudentT(3, sd_y / sd_x) with sd_x = 1 for the Intercept,
    correlations LKJ(2), residual HalfStudentT(3, sd_y).

    Raises:
        PriorError: a prior for an unknown coefficient, or of the wrong kind.
    """
    priors = Priors() if priors is None else priors
    n, grand, total = pool(moments)
    sd = np.sqrt(np.diag(total) / (n - 1.0))
    sd_y, mean_y = float(sd[-1]), float(grand[-1])
    size = {INTERCEPT: 1.0} | dict(zip(moments.columns, sd.tolist(), strict=True))
    mean = {INTERCEPT: 0.0} | dict(zip(moments.columns, grand.tolist(), strict=True))
    fixed_default = {
        name: Normal(mean_y if name == INTERCEPT else 0.0, 2.5 * sd_y / size[name])
        for name in moments.fixed
    }
    sd_default: dict[str, Prior] = {
        name: HalfStudentT(3.0, sd_y / size[name]) if size[name] > 0 else HalfStudentT(3.0, sd_y)
        for name in moments.random
    }
    if priors.flat_covariance:
        for block in blocks or moments.blocks:
            sd_default |= {name: Flat(power=float(len(block))) for name in block}
    sigma = HalfStudentT(3.0, sd_y) if priors.sigma is None else priors.sigma
    has_intercept = INTERCEPT in moments.fixed
    resolved = ResolvedPriors(
        fixed=_choose("fixed", priors.fixed, fixed_default),
        sd=_choose("sd", priors.sd, sd_default),
        corr=LKJ() if priors.corr is None else priors.corr,
        sigma=sigma,
        centre=np.array([mean[name] if has_intercept else 0.0 for name in moments.fixed]),
    )
    for name, prior in zip(moments.fixed, resolved.fixed, strict=True):
        if prior.positive:
            raise PriorError(
                f"{prior} is a prior for positive parameters, but the fixed effect '{name}' may "
                "be negative; use Normal, StudentT, Cauchy or Flat"
            )
    named = zip((*moments.random, "Residual"), (*resolved.sd, resolved.sigma), strict=True)
    for name, prior in named:
        if not (prior.positive or isinstance(prior, Flat)):
            raise PriorError(
                f"{prior} allows negative values, but sd({name}) is positive; use HalfNormal, "
                "HalfStudentT, HalfCauchy, Exponential, Gamma or Flat"
            )
    if not isinstance(resolved.corr, LKJ):
        raise PriorError(f"corr={resolved.corr!r} is not known; use LKJ(eta)")
    return resolved


def parse_prior(text: str) -> Prior | LKJ:
    """Return the prior written as `Family(number, ...)`, as the gallery's TOML files hold it.

    Raises:
        PriorError: a family that is not known, or numbers that it does not take.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    known = ", ".join(FAMILIES)
    if not match or match[1] not in FAMILIES:
        raise PriorError(f"prior {text!r} is not known; write one of {known} with its numbers")
    try:
        numbers = [float(part) for part in (match[2] or "").split(",") if part.strip()]
        return FAMILIES[match[1]](*numbers)
    except (TypeError, ValueError) as error:
        takes = ", ".join(field.name for field in fields(FAMILIES[match[1]]))
        raise PriorError(f"prior {text!r} does not fit {match[1]}({takes})") from error


def _choose(kind: str, given: Any, default: Mapping[str, Prior]) -> tuple[Prior, ...]:
    if given is None:
        return tuple(default.values())
    if isinstance(given, Prior):
        return tuple(given for _ in default)
    if not isinstance(given, Mapping):
        raise PriorError(
            f"{kind}={given!r} is not a prior; give one, or a mapping of names to them"
        )
    for name, prior in given.items():
        if name not in default:
            raise PriorError(
                f"{kind} prior for '{name}', which is no coefficient of the model; "
                f"the coefficients are {', '.join(default)}"
            )
        if not isinstance(prior, Prior):
            raise PriorError(
                f"{kind}['{name}']={prior!r} is not a prior; use Normal(0, 1) or alike"
            )
    return tuple(given.get(name, prior) for name, prior in default.items())


def read_priors(table: Mapping[str, Any] | None) -> Priors | None:
    """Return the priors that a gallery file holds as text; None for none.

    Keys are `fixed` and `sd` (text, or a table from coefficient to text), `corr` and `sigma`.

    Raises:
        PriorError: an unknown key, or text that is no prior.
    """
    if table is None:
        return None
    known = ("fixed", "sd", "corr", "sigma")
    for key in table:
        if key not in known:
            raise PriorError(f"priors.{key} is not known; the keys are {', '.join(known)}")

    def read(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: read(text) for name, text in value.items()}
        if not isinstance(value, str):
            raise PriorError(f"prior {value!r} is not text; write it as 'Normal(0, 10)'")
        return parse_prior(value)

    return Priors(**{key: read(value) for key, value in table.items()})
