"""What the split of the gaps rests on: the posterior by another route, and without its priors.

The chosen posterior is computed a second time, by importance sampling that shares neither
Jacobian nor likelihood kernel with the sampler, and the draws are judged by it; where its weights
fail, by quadrature, if the model is small enough. Priors are then swapped for flat ones, one by
one and all together, where the posterior without them is proper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeGuard

import numpy as np
from scipy.linalg import block_diag

from bhlm.bayes.density import Density, build_density
from bhlm.bayes.draws import Draws, Posterior
from bhlm.bayes.importance import ImportancePosterior, integrate_importance
from bhlm.bayes.importance.draws import KHAT
from bhlm.bayes.importance.kernels import TAIL, find_quantile
from bhlm.bayes.importance.marginals import find_support, fit_marginal
from bhlm.bayes.importance.pool import Pool, start_pool
from bhlm.bayes.importance.target import list_priors
from bhlm.bayes.level_density import LevelDensity, build_levels
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.bayes.quadrature.posterior import QuadraturePosterior
from bhlm.bayes.rounding import find_rounded, resolve_draws
from bhlm.bayes.weighted_density import build_weighted
from bhlm.errors import PriorError
from bhlm.layout import list_names
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import Parameter
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.likelihood.whitening import Whitened
from bhlm.reconciliation.adjustment import AdjustmentCheck, check_adjustment
from bhlm.reconciliation.family_mode import find_family_mode
from bhlm.reconciliation.flat_mode import FlatMode, find_flat_mode
from bhlm.reconciliation.identity import Identity, compare_heights
from bhlm.reconciliation.judge import Judgement, judge, judge_by_quadrature
from bhlm.reconciliation.proper import Proper, judge_proper
from bhlm.reconciliation.quadrature_route import (
    SWAPPED,
    QuadratureRoute,
    drop_priors,
    find_marginal_mode,
    integrate_draws,
)
from bhlm.reconciliation.swaps import ENOUGH, Share, Swapped, measure_share, swap_priors
from bhlm.reconciliation.weighted_mode import find_weighted_mode
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.strata import StrataEstimate

Array = np.ndarray
SAME_G = 1e-12  # of its largest element, by which rounding parts G from its root
type AnyEstimate = (
    Estimate | LevelsEstimate | FamilyEstimate | FamilyLevelsEstimate | StrataEstimate
)


class Points(NamedTuple):
    """The 2.5 and the 97.5 % point of a posterior."""

    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the split of the gaps rests on.

    Tail indices are by parameter: a moment of order m exists if m < index.
    """

    mode: FlatMode  # of the posterior under flat priors
    identity: Identity  # of that mode and the REML estimate
    # The posterior by weighted draws, believed or not; None where it is improper or unknown.
    exact: ImportancePosterior | None
    judgement: Judgement | None  # of the draws by `exact`, or by quadrature where that fails
    flat: Swapped | None  # under flat priors; None where improper, unknown or not certified
    single: dict[str, Swapped]  # without one prior each, where that is proper
    pool: Pool | None  # the draws that all of them rest on; None where `exact` fails
    quadrature: QuadratureRoute | None  # what stands in for all that where `exact` fails
    indices: dict[str, float]  # under the chosen priors
    flat_indices: dict[str, float]
    single_indices: dict[str, dict[str, float]]
    reasons: tuple[str, ...] = field(default=())  # what could not be computed, and why
    # Correlations that are +-1 to rounding by where zero lies: judged at the columns' means.
    rounded: tuple[str, ...] = ()
    # Of draws under sampling weights, which are judged as they were sampled; None elsewhere.
    adjustment: AdjustmentCheck | None = None

    @property
    def certified(self) -> bool:
        """Whether the draws could be judged, and stand for what is reported of them."""
        if self.adjustment is not None and not self.adjustment.made:
            return False
        return self.judgement is not None and self.judgement.certified

    @property
    def route(self) -> Literal["importance", "quadrature"] | None:
        """By what the draws were judged; None where they could not be."""
        if not self.certified:
            return None
        return "importance" if self.quadrature is None else "quadrature"

    @property
    def weighted(self) -> ImportancePosterior | None:
        """The posterior by weighted draws that are believed; None if there are none."""
        return self.exact if self.route == "importance" else None

    def find_mean(self, name: str) -> Share:
        """Return a posterior mean by the independent route, and its standard error."""
        if self.quadrature is not None:
            return _read_mean(self.quadrature.chosen, name)
        assert self.exact is not None
        located = self.exact.located[name]
        return Share(located.mean, located.mean_se)

    def find_flat_mean(self, name: str) -> Share | None:
        """Return a posterior mean under flat priors; None where it is unknown or does not exist."""
        if not self.has_mean(name, flat=True):
            return None
        if self.quadrature is not None:
            flat = self.quadrature.flat
            return None if flat is None else _read_mean(flat, name)
        if self.flat is None:
            return None
        return Share(self.flat.mean(name), float(np.linalg.norm(self.flat.lean(name))))

    def find_peak(self, parameter: Parameter, *, flat: bool = False) -> Share | None:
        """Return the mode of a marginal, under the chosen or flat priors; None where unknown."""
        name = str(parameter)
        if self.quadrature is not None:
            found = self.quadrature.flat if flat else self.quadrature.chosen
            peak = Share(*find_marginal_mode(found, name)) if found is not None else None
            return peak if peak is not None and math.isfinite(peak.value) else None
        power = None
        if flat and self.flat is not None:
            kernels, weight = self.flat.kernels[name], self.flat.weight
            assert self.exact is not None
            power = find_power(parameter, self.exact.structure)
        elif not flat and self.weighted is not None:
            kernels, weight = self.weighted.kernels[name], self.weighted.draws.weight
        else:
            return None
        marginal = fit_marginal(kernels, weight, find_support(parameter), power=power)
        return Share(marginal.mode, marginal.mode_se)

    def measure_prior(self, name: str, part: str | None = None) -> Share | None:
        """Return what a prior, or all of them, moves a mean by; None where that is unknown."""
        if part is None:
            flat = self.find_flat_mean(name)
            if flat is None or self.flat is None:
                return None if flat is None else _subtract(self.find_mean(name), flat)
            assert self.exact is not None
            return measure_share(self.exact, self.flat, name)
        if part not in self.single_indices:
            return Share(0.0, 0.0)  # there are no correlations
        if not self.single_indices[part][name] > 1.0:
            return None
        if self.quadrature is not None:
            found = self.quadrature.single.get(part)
            return (
                None if found is None else _subtract(self.find_mean(name), _read_mean(found, name))
            )
        if part not in self.single:
            return None
        assert self.exact is not None
        return measure_share(self.exact, self.single[part], name)

    def find_points(self, name: str, part: str) -> Points | None:
        """Return the 95 % interval of a parameter without a prior; None where that is unknown."""
        swapped = self.single.get(part)
        if swapped is None:
            return None
        kernels, weight = swapped.kernels[name], swapped.weight
        return Points(*(find_quantile(kernels, weight, p)[0] for p in (TAIL, 1.0 - TAIL)))

    def has_mean(self, name: str, *, flat: bool = False) -> bool:
        """Return whether a parameter has a posterior mean, under the chosen or flat priors."""
        return (self.flat_indices if flat else self.indices)[name] > 1.0


def gather_evidence(reml: AnyEstimate, post: Posterior, *, limit: float = KHAT) -> Evidence:
    """Return what the split of the gaps between two fits of a model rests on.

    Args:
        reml: the REML fit; of a family that by maximum likelihood, with sampling weights that by
            pseudo-maximum likelihood.
        post: draws from the posterior.
        limit: of k, above which weighted draws are not believed.
    """
    moments, structure = post.moments, post.structure
    flat_priors = resolve_priors(Priors.flat(), moments, structure=structure)
    mode = _find_mode(reml, post, flat_priors)
    existence = judge_proper(post)
    flat_existence = judge_proper(post, flat_priors)
    reasons: list[str] = []
    adjustment = check_adjustment(post) if isinstance(post, Draws) else None
    if adjustment is not None and not adjustment.made:
        reasons.append(adjustment.sentence)
    found = _Route(post, limit, reasons)
    found.open(existence)
    if not flat_existence.proper:
        reasons.append(
            "Under flat priors the posterior is improper, so that shape and prior cannot be told "
            f"apart: {flat_existence.slowest}."
        )
    else:
        found.drop_all(flat_priors)
    single_indices: dict[str, dict[str, float]] = {}
    if found.is_open:
        for name in list_priors(structure):
            if name in list_idle(structure) or (name == "residual" and post.priors.held):
                continue
            each = judge_proper(post, without=(name,))
            single_indices[name] = each.indices
            if each.proper:
                found.drop_one(name)
    return Evidence(
        mode=mode,
        identity=compare_heights(mode, reml),
        exact=found.exact,
        judgement=found.judgement,
        flat=found.flat,
        single=found.single,
        pool=found.pool,
        quadrature=found.quadrature,
        indices=existence.indices,
        flat_indices=flat_existence.indices,
        single_indices=single_indices,
        reasons=tuple(reasons),
        rounded=found.rounded,
        adjustment=adjustment,
    )


def take_sampled(post: Posterior) -> Posterior:
    """Return draws as the sampler left them, those under sampling weights before they moved."""
    return post.sampled if isinstance(post, Draws) else post


def resolve_sampled(post: Posterior, names: Sequence[str]) -> dict[str, Array]:
    """Return the draws as the sampler left them, with some correlations as at the columns' means.

    Args:
        post: the draws.
        names: of the correlations that are +-1 to rounding.
    """
    sampled = take_sampled(post)
    return resolve_draws(
        sampled.moments, sampled.structure, sampled.draws, sampled.flat.root, names
    )


def _find_mode(reml: AnyEstimate, post: Posterior, flat: ResolvedPriors) -> FlatMode:
    """Return the mode under flat priors, of a family jointly with the fixed effects."""
    structure, white = post.structure, post.white
    flat = replace(flat, frame=stand_at_means(post.moments, structure))  # flat in any frame
    if isinstance(reml, FamilyEstimate | FamilyLevelsEstimate):
        assert isinstance(white, WhitenedPatterns | WhitenedNest)
        root = reml.root if isinstance(reml, FamilyEstimate) else block_diag(*reml.roots)
        return find_family_mode(reml.patterns, white, structure, start=(reml.beta, root))
    assert not isinstance(white, WhitenedPatterns | WhitenedNest)
    if isinstance(white, Whitened) and not white.is_plain:
        sigma = [each**0.5 for each in _list_residuals(reml)]
        at = reml.at if isinstance(reml, StrataEstimate) else reml
        assert isinstance(at, Estimate)
        return find_weighted_mode(
            build_weighted(white, flat, structure),
            white,
            structure,
            start=(at.beta, at.root, np.array(sigma)),
            restricted=reml.method == "reml",
            turned=flat.frame.random,
        )
    assert not isinstance(reml, StrataEstimate)
    density: Density | LevelDensity
    if isinstance(white, WhitenedCells):
        density = build_levels(white, flat, structure)
    else:
        density = build_density(white, flat, structure)
    return find_flat_mode(
        density, white, structure=structure, start=_take_root(reml), turned=flat.frame.random
    )


def _list_residuals(reml: AnyEstimate) -> list[float]:
    """Return the residual variance, of every stratum."""
    if isinstance(reml, StrataEstimate):
        return list(reml.residual_variances.values())
    assert isinstance(reml, Estimate)
    return [reml.sigma2]


def find_power(parameter: Parameter, structure: Structure) -> float | None:
    """Return the power of x with which a density under flat priors rises from zero; None of others.

    Flat on a block of G is flat in correlations and ~ sd^b in each of its b SDs, and the likelihood
    is smooth in the variance. The residual SD is nowhere near zero.
    """
    powers = dict(zip(map(str, structure.sds), structure.powers, strict=True))
    if parameter.is_variance:
        power = powers.get(str(parameter.scaled))
        return None if power is None else (power - 1.0) / 2.0  # d sd / d var ~ 1 / sd
    return powers.get(str(parameter))


def list_idle(structure: Structure) -> tuple[str, ...]:
    """Return the priors of correlations that there are none of, among `list_priors`."""
    if len(structure.parts) == 1:
        return () if structure.has_correlations else ("corr",)
    return tuple(f"corr|{part.group}" for part in structure.parts if not part.has_correlations)


class _Route:
    """The independent route to the posterior while it is followed, and what it has found."""

    def __init__(self, post: Posterior, limit: float, reasons: list[str]) -> None:
        self.post, self.limit, self.reasons = post, limit, reasons
        self.seed = _derive_seed(post, 3)
        self.exact: ImportancePosterior | None = None
        self.judgement: Judgement | None = None
        self.pool: Pool | None = None
        self.flat: Swapped | None = None
        self.single: dict[str, Swapped] = {}
        self.quadrature: QuadratureRoute | None = None
        self.rounded = find_rounded(post.structure, post.draws)

    @property
    def is_open(self) -> bool:
        return self.pool is not None or self.quadrature is not None

    def open(self, existence: Proper) -> None:
        """Compute the posterior and judge the draws by it."""
        post = self.post
        if not existence.proper:
            self.reasons.append(f"The posterior is improper: {existence.slowest}.")
            return
        moments, white = post.moments, post.white
        try:
            exact = integrate_importance(
                moments, post.structure, post.priors, seed=_derive_seed(post, 2), white=white
            )
        except PriorError as error:
            self.reasons.append(f"The draws are not certified: {error}.")
            return
        self.exact = exact
        self.rounded = tuple(each for each in self.rounded if each in exact.rounded)
        failed = ""
        if not exact.khat <= self.limit:
            failed = (
                f"Pareto's k of the importance weights is {exact.khat:.2f}, above {self.limit:g}"
            )
        elif exact.draws.ess < ENOUGH:  # too few for their own errors to be believed
            failed = (
                f"of {len(exact.draws.y)} weighted draws {exact.draws.ess:.0f} are effective, "
                f"fewer than {ENOUGH:g}"
            )
        self.judgement = judge(
            resolve_sampled(post, self.rounded), exact.resolve(self.rounded), certified=not failed
        )
        if not failed:
            self.pool = start_pool(exact, seed=self.seed)
            return
        chosen = integrate_draws(post) if _takes_grid(post) else None
        instead = "and quadrature has no answer"
        if chosen is not None:
            judged = [each for each in post.parameters if str(each) not in self.rounded]
            judgement = judge_by_quadrature(post.draws, chosen, judged)
            if judgement.certified:
                self.quadrature, self.judgement = QuadratureRoute(chosen), judgement
                if self.rounded:
                    self.reasons.append(
                        f"Quadrature does not judge the draws of {list_names(self.rounded)}, +-1 "
                        "to rounding since zero lies far from the values of a covariate: centre it."
                    )
                return
            lost = list_names(judgement.unjudged)
            instead = f"and tails are too heavy for quadrature to judge the spread of {lost}"
        self.reasons.append(
            "The draws are not certified: the independent route to the posterior failed "
            f"({failed}, {instead})."
        )

    def drop_all(self, flat: ResolvedPriors) -> None:
        """Compute the posterior under flat priors."""
        lost = "so that shape and prior cannot be told apart"
        if self.pool is not None:
            found, self.pool = swap_priors(
                self.pool,
                frozenset(list_priors(self.post.structure)),
                seed=self.seed,
                limit=self.limit,
            )
            if found.khat <= self.limit:
                self.flat = found
            else:
                self.reasons.append(
                    "The means under flat priors are not certified (Pareto's k of the weights is "
                    f"{found.khat:.2f}, above {self.limit:g}), {lost}."
                )
        elif self.quadrature is not None and isinstance(self.post, Draws):
            by_grid = integrate_draws(self.post, priors=flat)
            self.quadrature = replace(self.quadrature, flat=by_grid)
            if by_grid is None:
                self.reasons.append(
                    f"The means under flat priors are not certified by quadrature, {lost}."
                )

    def drop_one(self, part: str) -> None:
        """Compute the posterior without one prior."""
        if self.pool is not None:
            found, self.pool = swap_priors(
                self.pool, frozenset((part,)), seed=self.seed, limit=self.limit
            )
            if found.khat <= self.limit:
                self.single[part] = found
        elif self.quadrature is not None and part in SWAPPED and isinstance(self.post, Draws):
            by_grid = integrate_draws(self.post, priors=drop_priors(self.post.priors, (part,)))
            if by_grid is not None:
                self.quadrature.single[part] = by_grid


def _takes_grid(post: Posterior) -> TypeGuard[Draws]:
    """Return whether quadrature knows models of that kind."""
    return isinstance(post, Draws) and post.white.is_plain


def _read_mean(found: QuadraturePosterior, name: str) -> Share:
    return Share(found.mean[name], found.error[name] * found.sd[name])


def _subtract(one: Share, other: Share) -> Share:
    return Share(one.value - other.value, math.hypot(one.error, other.error))


def _derive_seed(post: Posterior, stream: int) -> int:
    return int(np.random.SeedSequence([post.seed, stream]).generate_state(1)[0])


def _take_root(reml: Estimate | LevelsEstimate) -> Array:
    """Return a root (q, q) of the relative covariance G / sigma^2 at the REML estimate."""
    if isinstance(reml, LevelsEstimate):
        pairs = zip(reml.white.bases, reml.lams, strict=True)
        return np.asarray(block_diag(*(basis @ lam for basis, lam in pairs)))
    # G as given has lost what its root has where covariates are far from zero.
    if np.max(np.abs(reml.root @ reml.root.T - reml.g)) <= SAME_G * np.max(np.abs(reml.g)):
        return np.asarray(reml.root / math.sqrt(reml.sigma2))
    values, vectors = np.linalg.eigh(reml.g / reml.sigma2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
