"""Moments -> Estimate: restricted (or full) maximum likelihood, with standard errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bhlm.errors import ArgumentError, check_fields
from bhlm.likelihood.covariance import Structure, arrange
from bhlm.likelihood.effects import predict_effects, regress_groups, tabulate_effects
from bhlm.likelihood.parameters import RESIDUAL, Parameter, Parameters
from bhlm.likelihood.profiled import Criterion, Curvature, join_bends
from bhlm.likelihood.responses import search_beside
from bhlm.likelihood.scores import Sandwich, find_scores
from bhlm.likelihood.visit import SAME
from bhlm.likelihood.whitening import (
    Whitened,
    group_ranks,
    whiten,
    whiten_parameters,
)
from bhlm.moments.moments import Moments
from bhlm.processes import limit_blas
from bhlm.reml.advice import advise_less, describe_failure, describe_singularity
from bhlm.reml.maximum import Maximum, Part
from bhlm.reml.optimize import (
    Optimum,
    Problem,
    Step,
    bend_criterion,
    has_few,
    is_inside,
    list_tangents,
    maximize,
    may_be_lower,
    unwhiten_loglik,
)
from bhlm.reml.sandwich import Errors, apply_convention, check_sandwich, settle_errors
from bhlm.reml.standard_errors import variance_covariance

if TYPE_CHECKING:
    import pandas as pd


Array = np.ndarray

MANY = 2000  # groups from which on products of their numbers would wake the threads of BLAS


class Bent(NamedTuple):
    """The criterion at a theta, in whitened units."""

    at: Criterion
    score: Array  # (q, q) by Psi
    curve: Curvature  # along d Psi / d theta


@check_fields
@dataclass(frozen=True, slots=True)
class Estimate(Maximum):
    """Estimates of one hierarchical linear model by REML or ML.

    `singular` says that the covariance of the random effects has lost rank: some combination of
    them has an estimated variance of zero, standard errors of the components do not exist, and
    `advice` says which and what to do.
    """

    moments: Moments
    method: Literal["reml", "ml"]
    structure: Structure
    beta: Array  # (p,) fixed effects
    beta_cov: Array  # (p, p) sigma^2 (X' H^-1 X)^-1
    g: Array  # (q, q) covariance of the random coefficients
    root: Array  # (q, q) a square root of g
    sigma2: float
    variance_cov: Array  # (m + 1, m + 1) of g's free elements and sigma2; nan where undefined
    loglik: float
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    gradient: Array  # (c,) of minus twice the log-likelihood by theta, at the estimates
    theta: Array  # (c,) the whitened factors' coefficients
    steps: tuple[Step, ...]
    white: Whitened
    errors: str = "model"  # how standard errors were computed: or one of `sandwich.CONVENTIONS`
    errors_code: str = ""  # the Python expression of `errors=` where it is no name
    # What was computed once; a changed copy begins anew.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The random part of the single factor."""
        return (Part(self.structure, self.g),)

    @property
    def variances(self) -> tuple[Parameter, ...]:
        """The free elements of G and the residual variance, as `variance_cov` has them."""
        return (*self.structure.variances, RESIDUAL)

    @property
    def bent(self) -> "Bent":
        """The criterion at the estimates, with its derivatives by theta."""
        if "bent" not in self._kept and (met := self._kept.get("met")) is not None:
            at, score, sums = met
            factors = self.structure.factors
            lam = (self.theta @ factors.reshape(len(factors), -1)).reshape(factors.shape[1:])
            curve = join_bends(sums, at, list_tangents(self.structure, lam))
            self._kept["bent"] = Bent(at, score, curve)
        elif "bent" not in self._kept:
            problem = Problem(self.white, self.structure, self.method == "reml")
            _, at, score = problem.visit(self.theta)
            self._kept["bent"] = Bent(at, score, problem.curve(self.theta))
        found: Bent = self._kept["bent"]
        return found

    @property
    def hessian(self) -> Array:
        """The second derivatives (c, c) of minus twice the log-likelihood by theta."""
        if "hessian" not in self._kept:
            self._kept["hessian"] = bend_criterion(self.structure, *self.bent)
        found: Array = self._kept["hessian"]
        return found

    @property
    def reliability(self) -> dict[str, float]:
        """The mean over groups of tau_qq / (tau_qq + v_qqj), per random coefficient.

        v_j = sigma^2 (Z_j'Z_j)^-1 is the sampling variance of group j's own least-squares
        coefficients; groups whose Z_j has not full rank have none and are left out, as in HLM.
        Source: Raudenbush & Bryk (2002), eq. 3.53.
        """
        full = group_ranks(self.moments) == self.white.q
        if not full.any():
            return dict.fromkeys(self.moments.random, float("nan"))
        _, sampling = regress_groups(self.white, full, beta=self.beta, sigma2=self.sigma2)
        tau = np.diag(self.g)
        return dict(
            zip(self.moments.random, (tau / (tau + sampling)).mean(axis=0).tolist(), strict=True)
        )

    @property
    def advice(self) -> str:
        """What to do about a fit that is singular or did not converge; empty if neither."""
        if not self.converged:
            share, gradient = self.sigma2 / self.white.scale**2, np.max(np.abs(self.gradient))
            return describe_failure(
                self.moments.response,
                self.sigma2,
                share=share,
                gradient=gradient,
                steepest=np.max(np.abs(self.theta)),
            )
        if self.singular:
            what = describe_singularity(self.structure, self.white.basis, self.root, self.sigma2)
            return f"{what}; {advise_less([self.structure])}, or give it a prior and sample"
        return ""

    def sandwich_errors(self, convention: str) -> Errors:
        """Return the covariances of fixed effects and variances by one of `CONVENTIONS`.

        Raises:
            ArgumentError: a fit by REML, or a convention that is not known.
        """
        check_sandwich(self.method, convention)
        if "sandwich" not in self._kept:
            beta, lam, sigma = whiten_parameters(
                self.white, self.beta, self.root, np.sqrt(self.sigma2)
            )
            self._kept["sandwich"] = find_scores(
                self.moments,
                self.white,
                self.structure,
                beta=beta,
                lam=lam,
                v=float(sigma) ** 2,
            )
        lost = np.isnan(np.diag(self.variance_cov))
        return apply_convention(self._kept["sandwich"], convention, lost=lost)

    def as_draw(self) -> Parameters:
        """Return the estimates as one draw of the parameters."""
        return Parameters(self.beta[None], self.root[None], np.sqrt([self.sigma2]))

    def group_effects(self) -> "pd.DataFrame":
        """Return empirical-Bayes effects (BLUPs), one row per group and coefficient.

        Columns: the group's label, `coefficient`, `estimate` (the deviation u), and `sd`, its
        conditional standard deviation given the estimated parameters.
        """
        means, covs = predict_effects(self.white, self.beta, self.root, np.sqrt(self.sigma2))
        sd = np.sqrt(np.maximum(np.einsum("jaa->ja", covs), 0.0))
        return tabulate_effects(self.moments, {"estimate": means, "sd": sd})


def fit_moments(
    moments: Moments,
    *,
    method: str = "reml",
    covariance: str | None = None,
    start: Estimate | None = None,
    errors: str | None = None,
) -> Estimate:
    """Return the maximum-likelihood fit of the model that `moments` were reduced for.

    Args:
        moments: the reduced table.
        method: "reml" maximises the restricted, "ml" the full likelihood.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps
            what the formula says, one unstructured block per random term.
        start: a fit of the same model to start from, such as the one before new rows came; from
            one that leads nowhere, or to what may be a lower maximum, the search begins anew.
        errors: "model" takes standard errors from the information, "full", "uncorrected", "block"
            and "separate" from the groups' scores, see `bhlm.reml.sandwich`. None is "full" with
            sampling weights, whose information knows nothing of the design, and else "model".

    Raises:
        ArgumentError: an unknown method, covariance or kind of errors; a start of another model;
            REML of sampling weights, or of a sandwich.
        IdentifiabilityError: the moments cannot identify the model.
    """
    is_sampling = moments.weights is not None and moments.weights.is_sampling
    errors = settle_errors(method, errors, is_sampling=is_sampling)
    structure = arrange(moments, covariance)
    # Sums over groups have threads of their own.
    with limit_blas(when=moments.n_groups > MANY):
        return _search(moments, structure, start, restricted=method == "reml", errors=errors)


def fit_responses(
    several: Sequence[Moments],
    *,
    method: str = "reml",
    covariance: str | None = None,
    errors: str | None = None,
) -> Iterator[Estimate]:
    """Yield the fits of several responses, such as plausible values, one after the other.

    What they share is computed once: where the columns, rows and weights are the first one's, its
    whitening serves all, and the others' searches begin at its maximum.

    Args:
        several: the moments of each, that may differ in their response.
        method: as in `fit_moments`, and so are the others.
        covariance: of the random effects.
        errors: how standard errors are computed.

    Raises as `fit_moments` does, in the turn of the response that is at fault.
    """
    first = fit_moments(several[0], method=method, covariance=covariance, errors=errors)
    yield first
    start = None if first.singular else first
    others = several[1:]
    beside: Sequence[Estimate | None] = [None] * len(others)
    if _may_be_near(first, others):
        with limit_blas(when=others[0].n_groups > MANY):
            beside = _search_beside(first, others)
    for moments, found in zip(others, beside, strict=True):
        yield found or fit_moments(
            moments, method=method, covariance=covariance, errors=errors, start=start
        )


def _may_be_near(first: Estimate, others: Sequence[Moments]) -> bool:
    """Return whether other responses are over the columns of a fit, and its maximum leads on."""
    if not others or first.singular or not first.converged:
        return False
    if has_few(first.white, first.structure):
        return False
    return all(_has_columns(first, each, first.structure) for each in others)


def _search_beside(first: Estimate, others: Sequence[Moments]) -> list[Estimate | None]:
    """Return the fits of other responses over the columns of a fit, from where that one is.

    None where it is not near, may be on the boundary, or has an error to tell.
    """
    structure, restricted = first.structure, first.method == "reml"
    arrivals = search_beside(
        others,
        structure,
        first.white,
        restricted=restricted,
        theta=first.theta,
        scored=first.errors != "model",
    )
    fits: list[Estimate | None] = [None] * len(others)
    kept = [
        at for at, each in enumerate(arrivals.each) if each is not None and is_inside(each.descent)
    ]
    # The information that the model's own errors come from is not asked for by others.
    scored: Sequence[Scored | None] = [None] * len(kept)
    if arrivals.sandwich is not None:
        scored = _score(arrivals.sandwich, kept, first.errors)
    for at, own in zip(kept, scored, strict=True):
        arrived = arrivals.each[at]
        assert arrived is not None
        found, white = arrived.descent, arrived.white
        steps = [unwhiten_loglik(value, white, restricted) for value in found.values.tolist()]
        optimum = Optimum(
            theta=found.theta,
            lam=found.lam,
            criterion=arrived.criterion,
            gradient=found.gradient,
            converged=True,
            singular=False,
            steps=tuple(Step("newton", count, value) for count, value in enumerate(steps)),
            linear=arrived.linear,
            bends=found.bends,
            score=found.score,
        )
        fits[at] = unwhiten(
            *(others[at], structure, white, optimum),
            errors=first.errors,
            scored=own,
        )
    return fits


class Scored(NamedTuple):
    """The scores of a fit's groups, and the covariances that its errors come from."""

    sandwich: Sandwich
    errors: Errors


def _score(sandwich: Sandwich, kept: Sequence[int], convention: str) -> list[Scored]:
    """Return what is `kept` of several responses, none of which is on a boundary."""
    if len(kept) < len(sandwich.scores):
        sandwich = Sandwich(*(each[list(kept)] for each in sandwich))
    none = np.zeros(sandwich.variances.shape[-1], dtype=bool)
    errors = apply_convention(sandwich, convention, lost=none)
    return [
        Scored(Sandwich(*own), Errors(*both))
        for own, both in zip(zip(*sandwich, strict=True), zip(*errors, strict=True), strict=True)
    ]


def _search(
    moments: Moments,
    structure: Structure,
    start: Estimate | None,
    *,
    restricted: bool,
    errors: str,
) -> Estimate:
    """Return the maximum."""
    white = whiten(moments, structure)
    theta = None if start is None else _relocate(start, moments, structure, white)
    optimum = maximize(white, structure, restricted=restricted, start=theta)
    if start is not None and may_be_lower(white, structure, optimum):
        again = maximize(white, structure, restricted=restricted)
        higher = again.criterion.value < optimum.criterion.value - SAME
        optimum = again if higher or not optimum.converged else optimum
    return unwhiten(moments, structure, white, optimum, errors=errors)


def _has_columns(fit: Estimate, moments: Moments, structure: Structure) -> bool:
    """Return whether a fit has the columns, rows and weights of moments, but for the response."""
    own, others = fit.moments, moments
    if (
        fit.structure != structure
        or own.columns[:-1] != others.columns[:-1]
        or (own.fixed, own.weights) != (others.fixed, others.weights)
        or own.weighting is not others.weighting
        or fit.white.parts is not None
    ):
        return False
    # Moments that one pass over a table has made have their rows in common.
    if own.n is others.n and own.groups is others.groups:
        return True
    pairs = (
        (own.n, others.n),
        (own.mean[:, :-1], others.mean[:, :-1]),
        (own.cross[:, :-1, :-1], others.cross[:, :-1, :-1]),
    )
    return all(np.array_equal(*pair) for pair in pairs)


def _relocate(start: Estimate, moments: Moments, structure: Structure, white: Whitened) -> Array:
    """Return theta (c,) of another fit's G and sigma, in the whitened columns of these moments."""
    if not isinstance(start, Estimate):
        raise ArgumentError(
            f"start is a {type(start).__name__} and no fit; give what model.reml() returned"
        )
    if (start.moments.fixed, start.moments.random) != (moments.fixed, moments.random):
        raise ArgumentError(
            f"start is a fit of '{start.moments.formula}', not of '{moments.formula}'; give a fit "
            "of the same model"
        )
    _, lam, _ = whiten_parameters(white, start.beta, start.root, np.sqrt(start.sigma2))
    return structure.project(lam @ lam.T)


def unwhiten(
    moments: Moments,
    structure: Structure,
    white: Whitened,
    optimum: Optimum,
    *,
    errors: str = "model",
    scored: Scored | None = None,
) -> Estimate:
    """Return the fit in the columns as given, with standard errors.

    Args:
        moments: the reduced table.
        structure: of the random effects.
        white: the whitened moments.
        optimum: the maximum that a search has found.
        errors: "model", or one of `sandwich.CONVENTIONS`.
        scored: the scores and the errors there, for who knows that the likelihood tells all
            parameters, and none is on a boundary.

    Raises:
        IdentifiabilityError: the likelihood does not depend on some variance, or combination.
    """
    at = optimum.criterion
    sigma2 = at.sigma2 * white.scale**2 if white.held is None else 1.0
    root = white.basis @ optimum.lam * np.sqrt(sigma2)
    if scored is not None:
        beta_cov, variance_cov = scored.errors
    else:
        variance_cov = variance_covariance(moments, structure, white, optimum)
        beta_cov = sigma2 * white.fixed @ at.phi @ white.fixed.T / white.unit
    if scored is None and errors != "model":
        v = sigma2 / white.scale**2
        sandwich = find_scores(moments, white, structure, beta=at.beta, lam=optimum.lam, v=float(v))
        lost = np.isnan(np.diag(variance_cov))
        scored = Scored(sandwich, apply_convention(sandwich, errors, lost=lost))
        beta_cov, variance_cov = scored.errors
    found = Estimate(
        moments=moments,
        method="reml" if at.restricted else "ml",
        structure=structure,
        beta=white.ols + white.scale * white.fixed @ at.beta,
        beta_cov=beta_cov,
        g=root @ root.T,
        root=root,
        sigma2=sigma2,
        variance_cov=variance_cov,
        loglik=unwhiten_loglik(at.value, white, at.restricted),
        linear_loglik=unwhiten_loglik(optimum.linear, white, at.restricted),
        converged=optimum.converged,
        singular=optimum.singular,
        gradient=optimum.gradient,
        theta=optimum.theta,
        steps=optimum.steps,
        white=white,
        errors=errors,
    )
    if scored is not None:
        found._kept["sandwich"] = scored.sandwich
    if optimum.score is not None:
        found._kept["met"] = at, optimum.score, optimum.bends
    return found
