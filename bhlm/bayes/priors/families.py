"""Priors on the fixed effects, the SDs, the correlations and the residual SD.

A prior is a frozen value that says its family and its numbers; `Priors` holds one per kind of
parameter, or one per coefficient; `resolve_priors` fills in the defaults, scaled to the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import PriorError
from bhlm.moments.moments import INTERCEPT, Moments, pool

if TYPE_CHECKING:
    from pytensor.tensor import TensorVariable

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


@dataclass(frozen=True, slots=True, eq=False)
class PyMCPrior(Prior):
    """Any distribution that PyMC makes by `dist`, such as `pm.Weibull.dist(2, 5)`.

    `Priors` takes the distribution itself. Such a model is sampled on its pm.Model, which has
    to be compiled, where the families above are sampled on a density that is compiled already.
    """

    dist: Any
    code = 9

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
class Priors:
    """The priors of a model; None means the autoscaled default.

    A prior is one of the families here, or any PyMC distribution, made by its `dist`.
    `fixed` and `sd` take one prior for all coefficients or a mapping from coefficient to prior,
    in which what is not named keeps its default. The prior of the fixed `Intercept` is that of
    the expected response where every other fixed column stands at its mean, as in brms and
    rstanarm, so that it does not depend on where a covariate's zero lies.
    """

    fixed: "Prior | TensorVariable | Mapping[str, Prior | TensorVariable] | None" = None
    sd: "Prior | TensorVariable | Mapping[str, Prior | TensorVariable] | None" = None
    corr: LKJ | None = None
    sigma: "Prior | TensorVariable | None" = None
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
    def every(self) -> tuple[Prior, ...]:
        """The priors of the fixed effects, the SDs and sigma, in that order."""
        return (*self.fixed, *self.sd, self.sigma)

    @property
    def is_flat(self) -> bool:
        """Whether every prior is flat, on G and sigma^2 as `Priors.flat` means it."""
        return self.corr.eta == 1.0 and all(isinstance(prior, Flat) for prior in self.every)

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
    _, grand, _ = pool(moments)
    size = {INTERCEPT: 1.0} | measure_scales(moments)
    sd_y, mean_y = size[moments.response], float(grand[-1])
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
    sigma = HalfStudentT(3.0, sd_y) if priors.sigma is None else _read("sigma", priors.sigma)
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
        if not (prior.positive or isinstance(prior, Flat | PyMCPrior)):
            raise PriorError(
                f"{prior} allows negative values, but sd({name}) is positive; use HalfNormal, "
                "HalfStudentT, HalfCauchy, Exponential, Gamma or Flat"
            )
    if not isinstance(resolved.corr, LKJ):
        raise PriorError(f"corr={resolved.corr!r} is not known; use LKJ(eta)")
    return resolved


def measure_scales(moments: Moments) -> dict[str, float]:
    """Return the SD of every column over all rows, the response's last: what defaults scale by."""
    n, _, total = pool(moments)
    sd = np.sqrt(np.diag(total) / (n - 1.0))
    return dict(zip(moments.columns, sd.tolist(), strict=True))


def _choose(kind: str, given: Any, default: Mapping[str, Prior]) -> tuple[Prior, ...]:
    if given is None:
        return tuple(default.values())
    if not isinstance(given, Mapping):
        return tuple(_read(kind, given) for _ in default)
    for name in given:
        if name not in default:
            raise PriorError(
                f"{kind} prior for '{name}', which is no coefficient of the model; "
                f"the coefficients are {', '.join(default)}"
            )
    read = {name: _read(f"{kind}['{name}']", prior) for name, prior in given.items()}
    return tuple(read.get(name, prior) for name, prior in default.items())


def _read(what: str, given: Any) -> Prior:
    """Return a prior as given; a PyMC distribution, which is a variable of a graph, wrapped."""
    if isinstance(given, Prior):
        return given
    if getattr(given, "owner", None) is not None:
        return PyMCPrior(given)
    raise PriorError(
        f"{what}={given!r} is not a prior; give one such as Normal(0, 1) or pm.Weibull.dist(2, 5), "
        "or a mapping from coefficient to prior"
    )


def bounds_variances(moments: Moments, block: tuple[str, ...]) -> bool:
    """Whether the data alone bound the variances of a block of b random coefficients.

    The likelihood falls as |G|^(-(J - p/q)/2) when G grows, and is integrable over G if
    J - p/q > 2 b. Otherwise the posterior's upper tail is that of the prior.
    """
    freedom = moments.n_groups - len(moments.fixed) / len(moments.random)
    return freedom > 2 * len(block)


def find_unbounded(
    priors: Priors | None, moments: Moments, blocks: tuple[tuple[str, ...], ...]
) -> list[str]:
    """Return the SDs that neither the data bound nor a prior that the user chose."""
    given = None if priors is None else priors.sd
    if given is not None and not isinstance(given, Mapping):
        return []
    chosen = given or {}
    return [
        f"sd({name}|{moments.group})"
        for block in blocks
        if not bounds_variances(moments, block)
        for name in block
        if name not in chosen
    ]
