"""Patterns -> FamilyEstimate: maximum likelihood of a family, with standard errors."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bhlm.errors import ArgumentError, DataError, check_fields
from bhlm.likelihood.covariance import Structure, combine
from bhlm.likelihood.effects import tabulate_effects
from bhlm.likelihood.families import Family
from bhlm.likelihood.patterns import Integrator, Marginal, WhitenedPatterns, whiten_patterns
from bhlm.moments.patterns import Patterns
from bhlm.reml.advice import advise_less, describe_singularity
from bhlm.reml.family.fixed_nodes import maximize_nodes
from bhlm.reml.family.maximum import LABEL, FamilyMaximum
from bhlm.reml.family.search import FamilyOptimum, fit_linear, maximize_patterns
from bhlm.reml.family.separation import check_given_groups, check_separation
from bhlm.reml.maximum import Part
from bhlm.reml.optimize import Step
from bhlm.reml.standard_errors import has_lost_rank

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

MOST = 3  # random coefficients: nodes grow with their power


@check_fields
@dataclass(frozen=True, slots=True)
class FamilyEstimate(FamilyMaximum):
    """Estimates of a model of zeros and ones, proportions or counts by maximum likelihood.

    `error` is what halving the distance of all nodes changes the log-likelihood by; None where
    `nagq` nodes were asked for, whose error nobody knows. `singular` says that the covariance of
    the random effects has lost rank: `advice` says which and what to do.
    """

    patterns: Patterns
    structure: Structure
    beta: Array  # (p,) fixed effects, on the link scale
    g: Array  # (q, q) covariance of the random coefficients
    root: Array  # (q, q) a square root of g
    joint_cov: Array  # (p + m, p + m) of beta and g's free elements; nan where undefined
    loglik: float
    error: float | None
    nagq: int | None  # Gauss-Hermite nodes per dimension, 1 for Laplace; None: as many as needed
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    gradient: Array  # (p + c,) of the log-likelihood, whitened
    point: Array  # (p + c,) whitened fixed effects, and the whitened factors' coefficients
    lam: Array  # (q, q) whitened
    information: Array  # (p + c, p + c) observed, by `point`
    marginal: Marginal  # at the estimates
    steps: tuple[Step, ...]
    white: WhitenedPatterns
    method: Literal["ml"] = "ml"
    # What was computed once; a changed copy begins anew.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def moments(self) -> Patterns:
        """The patterns, under the name that all fits have for what they were made from."""
        return self.patterns

    @property
    def family(self) -> Family:
        """The family, with its link."""
        return self.white.family

    @property
    def nodes(self) -> int:
        """The nodes at which the integrands were last evaluated, of all groups together."""
        return self.marginal.nodes

    @property
    def parts(self) -> tuple[Part, ...]:
        """The random part of the one grouping factor."""
        return (Part(self.structure, self.g),)

    @property
    def label(self) -> str:
        """What the likelihood is an approximation by; empty where its error is known."""
        if self.nagq is None:
            return ""
        return LABEL if self.nagq == 1 else f"{self.nagq} nodes"

    def tell_singular(self) -> str:
        """Return which coefficients' covariance has lost rank, and what to do, in one clause."""
        what = describe_singularity(self.structure, self.white.basis, self.root, 1.0)
        return f"{what}; {advise_less([self.structure])}"

    def group_effects(self) -> "pd.DataFrame":
        """Return empirical-Bayes effects, one row per group and coefficient, on the link scale.

        Columns: the group's label, `coefficient`, `estimate`, the posterior mean of u given the
        estimated parameters, and `sd`, its posterior SD, both from the nodes of the integral.
        """
        means, covs = self.locate_effects()
        sd = np.sqrt(np.maximum(np.einsum("jaa->ja", covs), 0.0))
        return tabulate_effects(self.patterns, {"estimate": means, "sd": sd})

    def locate_effects(self) -> tuple[Array, Array]:
        """Return posterior means (J, q) and covariances (J, q, q) of u."""
        means = self.marginal.mean @ self.root.T
        return means, np.asarray(self.root @ self.marginal.cov @ self.root.T)

    def predict_link(self) -> Array:
        """Return the linear predictor (I,) of every pattern at the effects of its group."""
        patterns = self.patterns
        effects, _ = self.locate_effects()
        eta = patterns.offset + patterns.take(patterns.fixed) @ self.beta
        z = patterns.take(patterns.random)
        return np.asarray(eta + np.einsum("iq,iq->i", z, effects[patterns.codes]))

    def integrator(self) -> Integrator:
        """Return an integrator with nodes as the estimates need them."""
        p = len(self.beta)
        made = Integrator(self.white)
        made.refine(self.point[:p], self.lam, tolerance=1e-9 / self.patterns.n_groups)
        return made


def fit_patterns(
    patterns: Patterns,
    *,
    covariance: str | None = None,
    nagq: int | None = None,
) -> FamilyEstimate:
    """Return the maximum-likelihood fit of the model that patterns were reduced for.

    Args:
        patterns: the reduced table.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        nagq: so many Gauss-Hermite nodes per dimension about each group's mode, as other programs
            take, 1 being Laplace's approximation; None takes as many as the log-likelihood needs to
            be known to 1e-8.

    Raises:
        ArgumentError: more than three random coefficients, or a number of nodes that is not one.
        IdentifiabilityError: the patterns cannot identify the model.
    """
    structure = combine(patterns.blocks, group=patterns.group, covariance=covariance)
    check_size(patterns, structure)
    if nagq is not None and not 1 <= nagq <= 100:
        raise ArgumentError(
            f"nagq={nagq} is not a number of nodes; give 1 (Laplace) to 100, or None for as many "
            "as are needed"
        )
    white = whiten_patterns(patterns, structure)
    linear = fit_linear(white)
    check_separation(patterns, white, linear)
    optimum = maximize_patterns(white, structure, linear=linear)
    check_given_groups(patterns, white, optimum)
    error: float | None = optimum.error
    if nagq is not None:
        optimum, error = maximize_nodes(white, structure, optimum, nagq=nagq), None
    root = white.basis @ optimum.lam
    return FamilyEstimate(
        patterns=patterns,
        structure=structure,
        beta=white.fixed @ optimum.beta,
        g=root @ root.T,
        root=root,
        joint_cov=spread_errors(structure, white, optimum),
        loglik=optimum.at.loglik,
        error=error,
        nagq=nagq,
        linear_loglik=linear.loglik,
        converged=optimum.converged,
        singular=optimum.singular,
        gradient=optimum.gradient,
        point=np.concatenate([optimum.beta, optimum.theta]),
        lam=optimum.lam,
        information=optimum.information,
        marginal=optimum.at,
        steps=optimum.steps,
        white=white,
    )


def check_size(patterns: Patterns, structure: Structure) -> None:
    """Refuse more random coefficients than can be integrated, and fewer rows than parameters."""
    if structure.q > MOST:
        raise ArgumentError(
            f"'{patterns.formula}' has {structure.q} random coefficients, and of "
            f"family='{patterns.family.name}' up to {MOST} are integrated; drop some"
        )
    count = len(patterns.fixed) + len(structure.labels)
    if patterns.n_rows <= count and patterns.n.sum() <= count:
        raise DataError(
            f"{patterns.n_rows} rows cannot identify {count} parameters; drop terms from "
            f"'{patterns.formula}' or give more rows"
        )


def spread_errors(structure: Structure, white: WhitenedPatterns, optimum: FamilyOptimum) -> Array:
    """Return the inverse observed information (p + m, p + m) of beta and g's free elements."""
    if optimum.singular:
        cov = np.linalg.pinv(optimum.information, rcond=1e-10, hermitian=True)
    else:
        cov = np.linalg.inv(optimum.information)
    return carry_errors(structure, white, optimum.lam, cov, optimum.singular)


def carry_errors(
    structure: Structure, white: WhitenedPatterns, lam: Array, cov: Array, singular: bool
) -> Array:
    """Return the covariance (p + m, p + m) of beta and g's free elements.

    `cov` (p + c, p + c) is that of whitened beta and theta. In theta a direction that has vanished
    is stationary and leaves the information; the blocks of G that have lost rank have no standard
    errors.
    """
    p, m = white.x.shape[1], len(structure.labels)
    turned = structure.factors @ lam.T
    tangents = white.basis @ (turned + turned.transpose(0, 2, 1)) @ white.basis.T
    jacobian = np.zeros((p + m, len(cov)))
    jacobian[:p, :p] = white.fixed
    jacobian[p:, p:] = structure.read(tangents).T
    result = np.asarray(jacobian @ cov @ jacobian.T)
    if singular:
        lost = [
            p + row
            for row, (i, _) in enumerate(structure.labels)
            if has_lost_rank(lam, structure.find_block(i))
        ]
        result[lost, :] = result[:, lost] = np.nan
    return result
