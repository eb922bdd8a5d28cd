"""Which parameter gets which prior.

`Priors` holds a prior per kind of parameter, or per coefficient; `read_priors` reads them from
text; `resolve_priors` fills in the defaults, scaled to the data.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bhlm.bayes.priors.correlations import LKJ, find_law
from bhlm.bayes.priors.families import Flat, HalfStudentT, Normal, Prior, PyMCPrior
from bhlm.bayes.priors.frame import Frame, measure_spread, stand_as_given, stand_at_means
from bhlm.errors import PriorError, check_arguments
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameter, Parameters, list_residuals
from bhlm.likelihood.stacked import arrange_stack
from bhlm.moments.either import Reduced
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.moments.moments import INTERCEPT, pool
from bhlm.moments.patterns import CountedRows

if TYPE_CHECKING:
    from pytensor.tensor import TensorVariable

Array = np.ndarray
AT_MEANS = " at the predictors' means"
AT_ZERO = " at the predictors' zeros"


@check_arguments
@dataclass(frozen=True, slots=True)
class Priors:
    """The priors of a model; None means the autoscaled default.

    A prior is one of the families here, or any PyMC distribution, made by its `dist`.
    `fixed` and `sd` take one prior for all coefficients or a mapping from coefficient to prior,
    in which what is not named keeps its default. With several grouping factors `sd` and `corr` take
    one prior for all factors or a mapping from factor to what they take of one, as in
    `sd={"school": HalfNormal(1), "school:class": {"Intercept": HalfNormal(2)}}`.

    `sigma` takes one prior too, or by strata a mapping from stratum, such as "sex=F".

    `at` says where priors stand that depend on where a covariate's zero lies. "means": the fixed
    Intercept's is that of the expected response where every other fixed column stands at its mean,
    as in brms and rstanarm, a random Intercept's SD and its correlations are those at the means
    of the columns that vary with it, and slopes are those at the means of what they interact with.
    "zero": all of them are those of the columns as given.
    """

    fixed: "Prior | TensorVariable | Mapping[str, Prior | TensorVariable] | None" = None
    sd: "Prior | TensorVariable | Mapping[str, Prior | TensorVariable | Mapping[str, Prior | TensorVariable]] | None" = None  # noqa: E501
    corr: "LKJ | Mapping[str, LKJ] | None" = None
    sigma: "Prior | TensorVariable | Mapping[str, Prior | TensorVariable] | None" = None
    flat_covariance: bool = False
    at: Literal["means", "zero"] = "means"

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
    sd: tuple[Prior, ...]  # (s,) of the SDs that are free
    corr: LKJ
    sigma: Prior
    frame: Frame  # the coefficients that the priors of fixed effects, SDs and correlations are of
    others: tuple[LKJ, ...] = ()  # of the correlations of further grouping factors
    strata: tuple[Prior, ...] = ()  # of the residual SDs of further strata
    held: bool = False  # the residual variance is known, and `sigma` stands for nothing

    @property
    def corrs(self) -> tuple[LKJ, ...]:
        """The prior of the correlations of every grouping factor."""
        return (self.corr, *self.others)

    @property
    def every(self) -> tuple[Prior, ...]:
        """The priors of the fixed effects, the SDs and sigma, in that order."""
        return (*self.fixed, *self.sd, *self.residuals)

    @property
    def residuals(self) -> tuple[Prior, ...]:
        """The priors of the residual SDs: one, one of each stratum, or none where it is known."""
        return () if self.held else (self.sigma, *self.strata)

    @property
    def is_flat(self) -> bool:
        """Whether every prior is flat, on G and sigma^2 as `Priors.flat` means it."""
        unbent = all(corr.eta == 1.0 for corr in self.corrs)
        return unbent and all(isinstance(prior, Flat) for prior in self.every)

    def describe(self, moments: Reduced, *, structure: Structure | None = None) -> dict[str, str]:
        """Return each parameter's prior as text, in the order of the tables.

        `structure` is that of the random coefficients, the formula's if None.
        """
        structure = structure or arrange_stack(moments)
        usual = stand_at_means(moments, structure)
        fixed = _say_where(self.frame.fixed, usual.fixed)
        random = _say_where(self.frame.random, usual.random)
        first = [structure.owners.index(own) for own in range(len(structure.sds))]
        at_sds = [random[at] for at in first]
        text = {
            name: str(prior) if isinstance(prior, Flat) else f"{prior}{where}"
            for name, prior, where in (
                *zip(moments.fixed, self.fixed, fixed, strict=True),
                *zip(map(str, structure.sds), self.sd, at_sds, strict=True),
            )
        }
        rows = zip(structure.parts, structure.spans, self.corrs, strict=True)
        for part, span, corr in rows:
            if part.has_correlations:
                is_flat = corr.eta == 1.0 and all(isinstance(each, Flat) for each in self.sd)
                text[str(part.correlations)] = f"{corr}{'' if is_flat else max(random[span])}"
        names = (str(each.scaled) for each in find_residuals(moments))
        return text | dict(zip(names, map(str, self.residuals), strict=True))


def find_residuals(moments: Reduced) -> tuple[Parameter, ...]:
    """Return the residual variances; of a family, and where variances are known, there is none."""
    return () if isinstance(moments, CountedRows) else list_residuals(moments.weights)


def list_judged(moments: Reduced, structure: Structure | None = None) -> tuple[Parameter, ...]:
    """Return the parameters that have a prior of their own, in the order of `every`."""
    effects = (Parameter("fixed", name) for name in moments.fixed)
    residuals = (each.scaled for each in find_residuals(moments))
    return (*effects, *(structure or arrange_stack(moments)).sds, *residuals)


def resolve_priors(
    priors: Priors | None, moments: Reduced, *, structure: Structure | None = None
) -> ResolvedPriors:
    """Return the priors of every parameter, defaults scaled by the SDs of response and columns.

    With sd_y the response's SD and sd_x a column's: fixed Normal(0, 2.5 sd_y / sd_x), Intercept
    Normal(mean_y, 2.5 sd_y), SDs HalfStudentT(3, sd_y / sd_x) with sd_x = 1 for the Intercept,
    correlations LKJ(2), residual HalfStudentT(3, sd_y). They stand at the columns' means, and a
    product's sd_x is that of the product of centred columns; see `bhlm.bayes.priors.frame`. So it
    is with each of several grouping factors. Of a family other than the Gaussian sd_y is the SD of
    the latent residual that the link stands for (pi / sqrt(3) of the logit, 1 of the probit and
    the log, pi / sqrt(6) of cloglog), mean_y the link of the overall mean, and there is no
    residual; rows count by their trials or exposure.

    Raises:
        PriorError: a prior for an unknown coefficient, factor or stratum, or of the wrong kind.
    """
    priors = Priors() if priors is None else priors
    mass, grand, _ = pool(moments)
    if priors.at not in ("means", "zero"):
        raise PriorError(f"at={priors.at!r} is not known; priors stand at 'means' or at 'zero'")
    structure = structure or arrange_stack(moments)
    given = stand_as_given(moments, structure)
    frame = stand_at_means(moments, structure) if priors.at == "means" else given
    if priors.flat_covariance:  # the same on whatever combinations of the coefficients
        frame = replace(frame, random=given.random)
    size = measure_spread(moments, moments.fixed, frame.fixed)
    sd_y, mean_y = float(list(measure_scales(moments).values())[-1]), float(grand[-1])
    if isinstance(moments, CountedRows):
        mean_y = _link_mean(moments)
    fixed_default = {
        name: Normal(mean_y if name == INTERCEPT else 0.0, 2.5 * sd_y / size[name])
        for name in moments.fixed
    }
    sd: list[Prior] = []
    for part, span in zip(structure.parts, structure.spans, strict=True):
        asked = _find_given("sd", priors.sd, structure, part)
        spread = measure_spread(moments, part.names, frame.random[span, span])
        sd_default: dict[str, Prior] = {
            name: HalfStudentT(3.0, sd_y / (spread[name] or 1.0)) for name in part.names
        }
        if priors.flat_covariance:
            powers = [part.powers[own] for own in part.owners]
            sd_default = {
                name: Flat(power=float(power))
                for name, power in zip(part.names, powers, strict=True)
            }
        sd += _share(part, asked, _choose("sd", asked, sd_default))
    corr, *others = (
        LKJ() if each is None else each
        for each in (_find_given("corr", priors.corr, structure, part) for part in structure.parts)
    )
    weights = moments.weights
    held = not find_residuals(moments)
    if isinstance(moments, CountedRows) and priors.sigma is not None and not priors.flat_covariance:
        raise PriorError(
            f"sigma={priors.sigma} is the prior of a residual SD, and a model of zeros and ones or "
            "counts has none; leave it out"
        )
    if held and priors.sigma is not None and not priors.flat_covariance:
        raise PriorError(
            f"sigma={priors.sigma} is a prior of a residual SD, which known variances hold; leave "
            "it out"
        )
    # A precision weight has a unit of its own: sigma is the residual SD where it is 1.
    precise = weights is not None and weights.kind == "precision"
    size_y = sd_y * float(np.sqrt(mass / moments.n_rows)) if precise else sd_y
    strata = weights.strata if weights is not None else ()
    given_sigma = Flat() if held else priors.sigma
    sigma, *further = _choose_residuals(given_sigma, strata, HalfStudentT(3.0, size_y))
    resolved = ResolvedPriors(
        fixed=_choose("fixed", priors.fixed, fixed_default),
        sd=tuple(sd),
        corr=corr,
        sigma=sigma,
        frame=frame,
        others=tuple(others),
        strata=tuple(further),
        held=held,
    )
    for name, prior in zip(moments.fixed, resolved.fixed, strict=True):
        if prior.positive:
            raise PriorError(
                f"{prior} is a prior for positive parameters, but the fixed effect '{name}' may "
                f"be negative; use {_list_families(positive=False)}"
            )
    alone = len(structure.parts) == 1
    owning = (f"sd({each.row})" if alone else str(each) for each in structure.sds)
    owned = (str(each.scaled) for each in find_residuals(moments))
    named = zip((*owning, *owned), (*resolved.sd, *resolved.residuals), strict=True)
    for name, prior in named:
        if not (prior.positive or isinstance(prior, Flat | PyMCPrior)):
            raise PriorError(
                f"{prior} allows negative values, but {name} is positive; use "
                f"{_list_families(positive=True)}"
            )
    for part, each in zip(structure.parts, resolved.corrs, strict=True):
        if not isinstance(each, LKJ):
            raise PriorError(f"corr={each!r} is not known; use LKJ(eta)")
        find_law(part).check(each.eta, part.sizes)
    return resolved


def _find_given(kind: str, given: Any, structure: Structure, part: Structure) -> Any:
    """Return what was given for the SDs or correlations of a single factor.

    Of one factor alone it is all that was given.
    """
    if len(structure.parts) == 1 or not isinstance(given, Mapping):
        return given
    factors = [each.group for each in structure.parts]
    for name in given:
        if name not in factors:
            raise PriorError(
                f"{kind} prior for '{name}', which is no grouping factor; with several of them "
                f"give a mapping from factor to prior: {', '.join(factors)}"
            )
    return given.get(part.group)


def _say_where(combine: Array, usual: Array) -> list[str]:
    """Return where the prior of each coefficient (m,) stands, "" where that makes no difference.

    Args:
        combine: C (m, m) of the priors' frame.
        usual: that of the frame at the columns' means.
    """
    unit = np.eye(len(combine))
    moved, would_be = (np.any(each != unit, axis=1) for each in (combine, usual))
    return [
        AT_MEANS if is_moved else AT_ZERO if could else ""
        for is_moved, could in zip(moved, would_be, strict=True)
    ]


def _share(structure: Structure, given: Any, chosen: tuple[Prior, ...]) -> tuple[Prior, ...]:
    """Return the prior of each free SD (s,) of what was chosen for each coefficient (q,).

    Where coefficients share an SD, a prior given for one of them holds for all; by default it has
    the largest of their scales.
    """
    shared: list[Prior] = []
    for place in range(len(structure.sds)):
        members = [i for i, own in enumerate(structure.owners) if own == place]
        named = [i for i in members if isinstance(given, Mapping) and structure.names[i] in given]
        candidates = [chosen[i] for i in named or members]
        if named and any(prior != candidates[0] for prior in candidates):
            raise PriorError(
                f"{' and '.join(map(str, candidates))} are priors of one SD, which "
                f"{' and '.join(structure.names[i] for i in named)} share; give one of them"
            )
        shared.append(candidates[0] if named else max(candidates, key=_read_scale))
    return tuple(shared)


def _choose_residuals(given: Any, strata: Sequence[str], default: Prior) -> tuple[Prior, ...]:
    """Return the prior of each residual SD: of strata one for all, or a mapping by their names."""
    if not isinstance(given, Mapping):
        one = default if given is None else _read("sigma", given)
        return (one,) * max(len(strata), 1)
    for name in given:
        if name not in strata:
            raise PriorError(
                f"sigma prior for '{name}', which is no stratum; "
                + (f"the strata are {', '.join(strata)}" if strata else "give one prior")
            )
    return tuple(
        _read(f"sigma['{name}']", given[name]) if name in given else default for name in strata
    )


def _read_scale(prior: Prior) -> float:
    """Return the scale of a default prior; of others the first in order is as good as any."""
    return prior.sigma if isinstance(prior, HalfStudentT) else 0.0


def measure_scales(moments: Reduced) -> dict[str, float]:
    """Return the SD of every column over all rows, the response's last: what defaults scale by.

    Of a family it is the latent residual's, see `resolve_priors`.
    """
    mass, _, total = pool(moments)
    sd = np.sqrt(np.diag(total) / (mass - mass / moments.n_rows))
    if isinstance(moments, CountedRows):
        latent = moments.family.latent_variance
        sd[-1] = 1.0 if math.isnan(latent) else math.sqrt(latent)
    return dict(zip(moments.columns, sd.tolist(), strict=True))


def _link_mean(patterns: AnyPatterns) -> float:
    """Return the link of the overall mean less the mean offset."""
    total, weight = patterns.n.sum(), patterns.mass
    # Away from 0 and 1, whose links are infinite.
    mean = (patterns.y.sum() + 0.5) / (total + 1.0)
    linked = float(patterns.family.apply_link(np.array(mean)))
    return linked - float(weight @ patterns.offset / weight.sum())


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


def _list_families(*, positive: bool) -> str:
    """Return the names of the families on the positive numbers, or on all, and Flat."""
    names = [
        family.__name__
        for family in Prior.families()
        if family.positive is positive and family is not Flat
    ]
    return f"{', '.join(names)} or Flat"


def draw_prior(
    priors: ResolvedPriors, structure: Structure, rng: np.random.Generator, size: int
) -> Parameters:
    """Return draws of the parameters from the prior.

    Args:
        priors: one prior per parameter.
        structure: of the random coefficients.
        rng: the source of the random numbers.
        size: how many draws.

    Raises:
        PriorError: a prior from which nothing can be drawn.
    """
    beta = priors.frame.unturn_fixed(_draw_columns(priors.fixed, rng, size))
    sd = _draw_columns(priors.sd, rng, size)[:, structure.owners]
    correlations = np.zeros((size, structure.q, structure.q))
    rows = zip(structure.parts, structure.spans, priors.corrs, strict=True)
    for part, span, corr in rows:
        drawn = find_law(part).draw(corr.eta, part.sizes, rng, size)
        correlations[:, span, span] = drawn
    root = priors.frame.unturn_root(sd[:, :, None] * correlations)
    if priors.held:
        return Parameters(beta, root, np.ones(size))
    sigma = _draw_columns(priors.residuals, rng, size)
    return Parameters(beta, root, sigma if priors.strata else sigma[:, 0])


def check_drawable(priors: ResolvedPriors, moments: Reduced, structure: Structure) -> None:
    """Refuse priors of a model with that structure from which nothing can be drawn.

    Raises:
        PriorError: the first such prior, with its parameter.
    """
    for parameter, prior in zip(list_judged(moments, structure), priors.every, strict=True):
        if prior.undrawable:
            raise PriorError(f"the prior of {parameter} is {prior}, {prior.undrawable}")


def _draw_columns(priors: tuple[Prior, ...], rng: np.random.Generator, size: int) -> Array:
    """Return one column of draws (size, m) for each prior."""
    return np.stack([prior.draw(rng, size) for prior in priors], axis=1)


def parse_prior(text: str) -> Prior | LKJ:
    """Return the prior written as `Family(number, ...)`, as the gallery's TOML files hold it.

    Raises:
        PriorError: a family that is not known, or numbers that it does not take.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    written = {family.__name__: family for family in (*Prior.families(), LKJ)}
    if not match or match[1] not in written:
        known = ", ".join(written)
        raise PriorError(f"prior {text!r} is not known; write one of {known} with its numbers")
    family = written[match[1]]
    try:
        numbers = [float(part) for part in (match[2] or "").split(",") if part.strip()]
        return family(*numbers)
    except (TypeError, ValueError) as error:
        takes = ", ".join(field.name for field in fields(family))
        raise PriorError(f"prior {text!r} does not fit {match[1]}({takes})") from error


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
