"""Moments by cell -> the REML or ML estimates of a model with several grouping factors."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bhlm.errors import ArgumentError, check_fields, show_value
from bhlm.likelihood.cells import WhitenedCells, arrange_factors, whiten_cells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.factor_names import join_columns
from bhlm.likelihood.levels import evaluate_levels
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.parameters import name_apart
from bhlm.likelihood.variance_shares import spread_factors
from bhlm.likelihood.visit import SAME
from bhlm.moments.cells import CellMoments
from bhlm.reml.advice import advise_less, describe_failure, describe_singularity
from bhlm.reml.level_errors import variances_covariance
from bhlm.reml.level_sandwich import find_level_scores
from bhlm.reml.level_search import LevelsOptimum, maximize_levels, may_be_lower_levels
from bhlm.reml.maximum import Maximum, Part, require_plain
from bhlm.reml.optimize import Step, unwhiten_loglik
from bhlm.reml.sandwich import Errors, apply_convention, check_sandwich, settle_errors

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Below this a unit's own products have lost rank, in columns of unit mean square.
RANK = 1e-9


@check_fields
@dataclass(frozen=True, slots=True)
class LevelsEstimate(Maximum):
    """Estimates of a model with F grouping factors by REML or ML.

    `singular` says that the covariance of some factor's effects has lost rank; its components have
    no standard errors, and `advice` says which and what to do.
    """

    moments: CellMoments
    method: Literal["reml", "ml"]
    structures: tuple[Structure, ...]  # F
    beta: Array  # (p,) fixed effects
    beta_cov: Array  # (p, p) sigma^2 (X'V^-1 X)^-1
    gs: tuple[Array, ...]  # F covariances (q_f, q_f) of the random coefficients
    sigma2: float
    variance_cov: Array  # (m + 1, m + 1) of all free elements of gs and sigma2; nan where undefined
    loglik: float
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    gradient: Array  # (c,) of minus twice the log-likelihood by theta, at the estimates
    theta: Array  # (c,) the whitened factors' coefficients
    lams: tuple[Array, ...]  # F relative covariance factors (q_f, q_f), whitened
    steps: tuple[Step, ...]
    white: WhitenedCells
    errors: str = "model"  # how standard errors were computed: or one of `sandwich.CONVENTIONS`
    errors_code: str = ""  # the Python expression of `errors=` where it is no name
    # What was computed once; a changed copy begins anew.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The random part of every grouping factor."""
        return tuple(map(Part, self.structures, self.gs))

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
        if not self.singular:
            return ""
        found, singular = [], []
        rows = zip(self.structures, self.white.bases, self.lams, strict=True)
        for structure, basis, lam in rows:
            if np.linalg.eigvalsh(lam @ lam.T)[0] < 1e-12:
                root = basis @ lam * np.sqrt(self.sigma2)
                found.append(describe_singularity(structure, basis, root, self.sigma2))
                singular.append(structure)
        return f"{' and '.join(found)}; {advise_less(singular)}"

    @property
    def reliability(self) -> dict[str, dict[str, float]]:
        """By factor, the mean over its units of tau_qq / (tau_qq + v_qqj), per random coefficient.

        v_j = (Z_j'V_j^-1 Z_j)^-1 is the sampling variance of a unit's own coefficients, V_j having
        the residuals and the effects of the units within it; units without full rank have none and
        are left out. Source: Raudenbush & Bryk (2002), eq. 8.20 and 8.21.

        Raises:
            ArgumentError: crossed factors, whose units' own coefficients are not independent.
        """
        require_plain(self, "reliability")
        levels = self.white.levels
        if not isinstance(levels, Nested):
            raise ArgumentError(
                "a reliability compares the variance of units with the error of each unit's own "
                "mean, and units of crossed factors have means that depend on each other; take "
                "`pev` of group_effects()"
            )
        found = levels.eliminate(self.lams)
        result: dict[str, dict[str, float]] = {}
        for factor, kept in zip(levels.order, found.kept, strict=True):
            structure, basis = self.structures[factor], self.white.bases[factor]
            q = structure.q
            own = kept.blocks[:, :q, :q]
            full = np.linalg.matrix_rank(own, tol=RANK, hermitian=True) == q
            sampling = self.sigma2 * np.einsum(
                "ia,jab,ib->ji", basis, np.linalg.inv(own[full]), basis
            )
            tau = np.diag(self.gs[factor])
            shares = tau / (tau + sampling)
            means = shares.mean(axis=0) if full.any() else np.full(q, np.nan)
            result[structure.group] = dict(zip(structure.names, means.tolist(), strict=True))
        return {name: result[name] for name in self.moments.groups}

    def group_effects(self, factor: str | None = None) -> "pd.DataFrame":
        """Return empirical-Bayes effects (BLUPs), one row per level and coefficient.

        Columns: `factor` and its label `level` (of several columns joined by ":"), or, for one
        `factor`, a column for each of its label columns; `coefficient`; `estimate`, the deviation
        u; `sd`, its conditional SD given the estimated parameters (lme4's condVar); `pev`, the
        prediction error variance var(u_hat - u), which adds the uncertainty of the fixed effects
        (Henderson's C22). With sampling weights there is no `pev`, and a unit's effect is that of
        its own weighted rows, given the effects of the units that it lies in.

        Args:
            factor: the factor; None is all of them.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        import pandas as pd

        names = list(self.moments.groups)
        if factor is not None:
            self.find_factor(factor)
        tables = [
            self._tabulate_effects(at, alone=factor is not None)
            for at, name in enumerate(names)
            if factor in (None, name)
        ]
        return pd.concat(tables, ignore_index=True)

    def sandwich_errors(self, convention: str) -> Errors:
        """Return the covariances of fixed effects and variances by one of `CONVENTIONS`.

        Raises:
            ArgumentError: a fit by REML or without sampling weights, or a convention that is not
                known.
        """
        check_sandwich(self.method, convention)
        if self.weights is None or not self.weights.is_sampling:
            raise ArgumentError(
                "standard errors by scores of several grouping factors are there with sampling "
                "weights alone; take fixed_effects(method='cr2')"
            )
        if "sandwich" not in self._kept:
            self._kept["sandwich"] = find_level_scores(self)
        lost = np.isnan(np.diag(self.variance_cov))
        return apply_convention(self._kept["sandwich"], convention, lost=lost)

    def find_factor(self, name: str) -> int:
        """Return the place of a factor.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        names = list(self.moments.groups)
        if name not in names:
            raise ArgumentError(
                f"factor={name!r} is not a grouping factor; choose one of {', '.join(names)}"
            )
        return names.index(name)

    def whitened_means(self, at: int) -> Array:
        """Return a factor's effects (J, q) in its whitened basis, where offsets cancel."""
        criterion = evaluate_levels(
            self.white.levels,
            self.lams,
            n=self.white.n,
            restricted=self.method == "reml",
            held=self.white.held,
        )
        none = np.zeros_like(criterion.at.phi)
        found = self.white.levels.effects(self.lams, criterion.found, criterion.at.beta, none)
        return self.white.scale * found[self._check_place(at)].mean

    def name_levels(self, at: int) -> Array:
        """Return the labels (J,) of a factor's levels, of several columns joined by ":"."""
        return join_columns(self.moments.labels[self._check_place(at)].columns)

    def _check_place(self, at: int) -> int:
        names = list(self.moments.groups)
        if not 0 <= at < len(names):
            raise ArgumentError(
                f"at={show_value(at)} is no place of a factor; count from 0 in {', '.join(names)}"
            )
        return at

    def icc(self) -> "pd.DataFrame":
        """Return what share of the variance each factor has, one row per factor and the residual.

        `variance` z'Gz with z the grand means of the random columns (the variance itself without
        slopes), its `share` of the total, and `icc`, the correlation of two rows that have the
        level in common: such rows share the levels that it is nested in as well. Source:
        Raudenbush & Bryk (2002), p. 71 and chapter 8.
        """
        import pandas as pd

        require_plain(self, "icc()")
        found = spread_factors(
            self.moments, self.white, self.structures, [lam[None] for lam in self.lams],
            np.array([self.sigma2]),
        )  # fmt: skip
        variances, shared = (each[0].tolist() for each in found)
        total = sum(variances) + self.sigma2
        rows = [(v, v / total, both / total) for v, both in zip(variances, shared, strict=True)]
        return pd.DataFrame(
            [*rows, (self.sigma2, self.sigma2 / total, np.nan)],
            index=pd.Index([*self.moments.groups, "Residual"], name="factor"),
            columns=["variance", "share", "icc"],
        )

    def _tabulate_effects(self, at: int, *, alone: bool) -> "pd.DataFrame":
        """Return the rows of `group_effects` for one factor."""
        import pandas as pd

        basis = self.white.bases[at]
        mean, cov, pev = self.solve_effects()[at]
        means, covs, pevs = mean @ basis.T, basis @ cov @ basis.T, basis @ pev @ basis.T
        factor, labels = self.moments.factors[at], self.moments.labels[at].columns
        names, q = self.structures[at].names, self.structures[at].q
        if alone:
            own = ("coefficient", "estimate", "sd", "pev")
            heads = name_apart(factor.columns, table=own)
            columns = dict(zip(heads, (np.repeat(each, q) for each in labels), strict=True))
        else:
            levels = self.name_levels(at)
            columns = {
                "factor": np.repeat(np.array([factor.name], dtype=object), len(levels) * q),
                "level": np.repeat(levels.astype(object), q),
            }
        diagonals = (np.maximum(np.einsum("jaa->ja", each), 0.0) for each in (covs, pevs))
        given, pev = (each.ravel() for each in diagonals)
        columns["coefficient"] = np.array(list(names) * len(means), dtype=object)
        found = pd.DataFrame(
            columns | {"estimate": means.ravel(), "sd": np.sqrt(given), "pev": pev}
        )
        return found.drop(columns="pev") if self._is_sampling else found

    @property
    def _is_sampling(self) -> bool:
        return self.weights is not None and self.weights.is_sampling

    def solve_effects(self) -> list[tuple[Array, Array, Array]]:
        """Return what is known of each factor's effects in its whitened basis B, u = B u~.

        Means (J, q), conditional covariances and prediction errors (J, q, q) of u~, in which
        covariate offsets cancel. With sampling weights there are no prediction errors, but nan.
        """
        if "effects" not in self._kept:
            white, restricted = self.white, self.method == "reml"
            if self._is_sampling and isinstance(white.levels, Nested):
                beta = np.linalg.solve(white.fixed, self.beta - white.ols) / white.scale
                self._kept["effects"] = [
                    (white.scale * one.mean, self.sigma2 * one.cov, np.nan * one.cov)
                    for one in white.levels.weighted_effects(self.lams, beta)
                ]
                found: list[tuple[Array, Array, Array]] = self._kept["effects"]
                return found
            criterion = evaluate_levels(
                white.levels, self.lams, n=white.n, restricted=restricted, held=white.held
            )
            at = criterion.at
            none = np.zeros_like(at.phi)
            given, whole = (
                white.levels.effects(self.lams, criterion.found, at.beta, spread)
                for spread in (none, at.phi)
            )
            self._kept["effects"] = [
                (white.scale * one.mean, self.sigma2 * one.cov, self.sigma2 * other.cov)
                for one, other in zip(given, whole, strict=True)
            ]
        effects: list[tuple[Array, Array, Array]] = self._kept["effects"]
        return effects


def fit_cells(
    moments: CellMoments,
    *,
    method: str = "reml",
    covariance: str | None = None,
    start: LevelsEstimate | None = None,
    errors: str | None = None,
) -> LevelsEstimate:
    """Return the maximum-likelihood fit of a model with several grouping factors.

    Args:
        moments: the reduced table.
        method: "reml" maximises the restricted, "ml" the full likelihood.
        covariance: "unstructured", "independent", "exchangeable" or "identity", for every factor;
            None keeps what the formula says, one unstructured block per random term.
        start: a fit of the same model to start from, such as the one before new rows came; from
            one that leads nowhere, or to what may be a lower maximum, the search begins anew.
        errors: with sampling weights, one of `bhlm.reml.sandwich.CONVENTIONS` by the scores of
            the coarsest units, "full" by default; else "model".

    Raises:
        ArgumentError: an unknown method or covariance; a start of another model; REML with
            sampling weights, or a sandwich without them.
        IdentifiabilityError: the moments cannot identify the model.
        DataError: crossed factors that are too large for the memory.
    """
    is_sampling = moments.weights is not None and moments.weights.is_sampling
    errors = settle_errors(method, errors, is_sampling=is_sampling)
    if errors != "model" and not is_sampling:
        raise ArgumentError(
            f"errors={errors!r} of several grouping factors is there with sampling weights "
            "alone; fixed_effects(method='cr2') has sandwiches without"
        )
    structures = arrange_factors(moments, covariance)
    white = whiten_cells(moments, structures)
    theta = None if start is None else _relocate(start, moments, structures, white)
    optimum = maximize_levels(white, structures, restricted=method == "reml", start=theta)
    if start is not None and may_be_lower_levels(white, structures, optimum):
        again = maximize_levels(white, structures, restricted=method == "reml")
        higher = again.criterion.at.value < optimum.criterion.at.value - SAME
        optimum = again if higher or not optimum.converged else optimum
    found = unwhiten_levels(moments, structures, white, optimum)
    if errors == "model":
        return found
    robust = found.sandwich_errors(errors)
    return replace(found, beta_cov=robust.fixed, variance_cov=robust.variances, errors=errors)


def _relocate(
    start: LevelsEstimate,
    moments: CellMoments,
    structures: tuple[Structure, ...],
    white: WhitenedCells,
) -> Array:
    """Return theta (c,) of another fit's G and sigma, in the whitened columns of these moments."""
    if not isinstance(start, LevelsEstimate):
        raise ArgumentError(
            f"start is a {type(start).__name__} and no fit of several grouping factors; give what "
            "model.reml() returned"
        )
    own, other = moments.design, start.moments.design
    if (own.fixed, own.factors) != (other.fixed, other.factors):
        raise ArgumentError(
            f"start is a fit of '{start.moments.formula}', not of '{moments.formula}'; give a fit "
            "of the same model"
        )
    thetas = []
    for structure, basis, g in zip(structures, white.bases, start.gs, strict=True):
        inverse = np.linalg.inv(basis)
        thetas.append(structure.project(inverse @ g @ inverse.T / start.sigma2))
    return np.concatenate(thetas)


def unwhiten_levels(
    moments: CellMoments,
    structures: tuple[Structure, ...],
    white: WhitenedCells,
    optimum: LevelsOptimum,
) -> LevelsEstimate:
    """Return the fit in the columns as given, with standard errors."""
    at = optimum.criterion.at
    sigma2 = at.sigma2 * white.scale**2 if white.held is None else 1.0
    none = [np.zeros_like(lam) for lam in optimum.lams]
    linear = evaluate_levels(
        white.levels, none, n=white.n, restricted=at.restricted, held=white.held
    ).at
    roots = [basis @ lam for basis, lam in zip(white.bases, optimum.lams, strict=True)]
    return LevelsEstimate(
        moments=moments,
        method="reml" if at.restricted else "ml",
        structures=structures,
        beta=white.ols + white.scale * white.fixed @ at.beta,
        beta_cov=sigma2 * white.fixed @ at.phi @ white.fixed.T / white.unit,
        gs=tuple(sigma2 * root @ root.T for root in roots),
        sigma2=sigma2,
        variance_cov=variances_covariance(moments, structures, white, optimum),
        loglik=unwhiten_loglik(at.value, white, at.restricted),
        linear_loglik=unwhiten_loglik(linear.value, white, at.restricted),
        converged=optimum.converged,
        singular=optimum.singular,
        gradient=optimum.gradient,
        theta=optimum.theta,
        lams=optimum.lams,
        steps=optimum.steps,
        white=white,
    )
