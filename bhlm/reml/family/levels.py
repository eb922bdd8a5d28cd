"""Patterns with several factors -> FamilyLevelsEstimate: maximum likelihood, with its label."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bhlm.errors import ArgumentError, DataError, IdentifiabilityError, check_fields
from bhlm.likelihood.averages import compare_medians, share_levels
from bhlm.likelihood.covariance import Structure, combine
from bhlm.likelihood.crossed_families import (
    Approximation,
    ImportanceError,
    WhitenedCross,
    whiten_cross,
)
from bhlm.likelihood.factor_names import join_columns
from bhlm.likelihood.families import Family
from bhlm.likelihood.nested import is_nested
from bhlm.likelihood.nested_families import NestMarginal, WhitenedNest
from bhlm.likelihood.parameters import name_apart
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.advice import advise_less, describe_singularity
from bhlm.reml.family.crossed import CrossedOptimum, maximize_laplace
from bhlm.reml.family.maximum import LABEL, FamilyMaximum
from bhlm.reml.family.search import fit_linear, tell_error
from bhlm.reml.family.separation import check_level_separation
from bhlm.reml.maximum import Part
from bhlm.reml.optimize import Step
from bhlm.reml.standard_errors import has_lost_rank

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

DRAWS = 1000  # pairs, of what Laplace's approximation misses
MEASURED = 2e7  # patterns times pairs that are drawn without being asked for
TRUSTED = 0.1  # of the pairs that are effective at least where their mean is told


@check_fields
@dataclass(frozen=True, slots=True)
class FamilyLevelsEstimate(FamilyMaximum):
    """Estimates of a model of zeros and ones, proportions or counts with F grouping factors.

    Those of nested factors are exact, with the integrals in `marginal`, and `error` is what halving
    the steps of all levels changes the log-likelihood by. Those of crossed ones, and of nested ones
    where `nagq` is 1, are Laplace's approximation, whose error is not known; `measure_error` says
    what it is at the estimates. `singular` says that the covariance of some factor's effects has
    lost rank: `advice` says which and what to do.
    """

    patterns: LevelPatterns
    structures: tuple[Structure, ...]  # F
    beta: Array  # (p,) fixed effects, on the link scale
    gs: tuple[Array, ...]  # F covariances (q_f, q_f) of the random coefficients
    roots: tuple[Array, ...]  # F square roots of these
    joint_cov: Array  # (p + m, p + m) of beta and the gs' free elements; nan where undefined
    loglik: float
    error: float | None  # of the log-likelihood; None where nobody knows it
    nagq: int | None  # nodes per dimension, 1 for Laplace; None: as many as needed
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    gradient: Array  # (p + c,) of the log-likelihood, whitened
    point: Array  # (p + c,) whitened fixed effects, and the whitened factors' coefficients
    lams: tuple[Array, ...]  # F, (q_f, q_f) whitened
    information: Array  # (p + c, p + c) observed, by `point`
    # F, (J_f, q_f) the effects: posterior means of integrated ones, else at their joint mode
    means: tuple[Array, ...]
    covs: tuple[Array, ...]  # F, (J_f, q_f, q_f) their covariances given the parameters
    steps: tuple[Step, ...]
    white: WhitenedCross | WhitenedNest
    method: Literal["ml"] = "ml"
    marginal: NestMarginal | None = None  # of nested factors whose effects were integrated
    # What was computed once; a changed copy begins anew.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def moments(self) -> LevelPatterns:
        """The patterns, under the name that all fits have for what they were made from."""
        return self.patterns

    @property
    def family(self) -> Family:
        """The family, with its link."""
        return self.white.family

    @property
    def parts(self) -> tuple[Part, ...]:
        """The random part of every grouping factor."""
        return tuple(map(Part, self.structures, self.gs))

    @property
    def label(self) -> str:
        """What the likelihood is an approximation by; empty where its error is known."""
        return LABEL if self.marginal is None else ""

    def tell_singular(self) -> str:
        """Return which factors' coefficients have lost rank, and what to do, in one clause."""
        found, singular = [], []
        rows = zip(self.structures, self.white.bases, self.roots, self.lams, strict=True)
        for structure, basis, root, lam in rows:
            if any(has_lost_rank(lam, list(block)) for block in structure.places):
                found.append(describe_singularity(structure, basis, root, 1.0))
                singular.append(structure)
        return f"{' and '.join(found)}; {advise_less(singular)}"

    def predict_link(self) -> Array:
        """Return the linear predictor (I,) of every pattern at the effects of its units."""
        patterns = self.patterns
        eta = patterns.offset + patterns.take(patterns.fixed) @ self.beta
        for structure, mean, codes in zip(self.structures, self.means, patterns.codes, strict=True):
            eta = eta + np.einsum("iq,iq->i", patterns.take(structure.names), mean[codes])
        return np.asarray(eta)

    def find_factor(self, name: str) -> int:
        """Return the place of a factor.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        names = list(self.patterns.groups)
        if name not in names:
            raise ArgumentError(
                f"factor={name!r} is not a grouping factor; choose one of {', '.join(names)}"
            )
        return names.index(name)

    def group_effects(self, factor: str | None = None) -> "pd.DataFrame":
        """Return the effects of units, posterior means or at their joint mode, on the link scale.

        One row per unit and coefficient. Columns: `factor` and its label `level` (of several
        columns joined by ":"), or, for one `factor`, a column for each of its label columns;
        `coefficient`; `estimate`, the deviation u; `sd`, its SD given the estimated parameters.
        Where the effects were integrated (nested factors) both are the posterior's, from the nodes
        of the integrals, else by the joint mode and the curvature there (lme4's condVar).

        Args:
            factor: the factor; None is all of them.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        import pandas as pd

        chosen = range(len(self.structures)) if factor is None else [self.find_factor(factor)]
        tables = []
        for at in chosen:
            structure, labels = self.structures[at], self.patterns.labels[at].columns
            q, means = structure.q, self.means[at]
            if factor is None:
                names = join_columns(labels)
                columns: dict[str, Any] = {
                    "factor": np.repeat(np.array([structure.group], dtype=object), means.size),
                    "level": np.repeat(names.astype(object), q),
                }
            else:
                own = ("coefficient", "estimate", "sd")
                heads = name_apart(self.patterns.factors[at].columns, table=own)
                columns = dict(zip(heads, (np.repeat(e, q) for e in labels), strict=True))
            variances = np.maximum(np.einsum("jaa->ja", self.covs[at]), 0.0)
            columns |= {
                "coefficient": np.array(list(structure.names) * len(means), dtype=object),
                "estimate": means.ravel(),
                "sd": np.sqrt(variances).ravel(),
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def icc(self) -> "pd.DataFrame":
        """Return what share of the variance each factor has on the latent scale.

        `variance` z'Gz with z the means of the random columns, its `share` of all of these and the
        variance of the residual that the link stands for (pi^2/3, 1, pi^2/6), `icc`, the
        correlation of two rows that have the level in common and with it those that it is nested
        in, and `median_ratio`, exp(sqrt(2 variance) Phi^-1(3/4)). Counts have no latent residual,
        and nan stands for their shares. Source: as of `FamilyFit.icc`.
        """
        import pandas as pd

        parts = [(part.structure.names, part.g[None]) for part in self.parts]
        found = share_levels(self.patterns, self.family, parts)
        latent, total = float(self.family.latent_variance), float(found.total[0])
        rows = []
        for own, shared in zip(found.variances[0], found.shared[0], strict=True):
            ratio = float(compare_medians(own))
            rows.append((float(own), float(own) / total, float(shared) / total, ratio))
        rows.append((latent, latent / total, np.nan, np.nan))
        return pd.DataFrame(
            rows,
            index=pd.Index([*self.patterns.groups, "Residual"], name="factor"),
            columns=["variance", "share", "icc", "median_ratio"],
        )

    def measure_error(self, *, draws: int = DRAWS, seed: int = 0) -> ImportanceError:
        """Return what the log-likelihood is above Laplace's approximation at the estimates.

        By importance sampling of the effects; `effective` is how many of the pairs of draws count,
        and below a tenth of them the difference and its error are not to be trusted.

        Raises:
            ArgumentError: fewer than two draws, or a fit that Laplace did not make.
        """
        if draws < 2:
            raise ArgumentError(f"draws={draws} tell no error; give 100 or more")
        if isinstance(self.white, WhitenedNest):
            raise ArgumentError(
                f"the effects are integrated to an error of {self.error:.0e} in the "
                "log-likelihood, fit.error; draws tell that of Laplace's approximation (nagq=1)"
            )
        key = f"error {draws} {seed}"
        if key not in self._kept:
            approximation = Approximation(self.white)
            p = len(self.beta)
            self._kept[key] = approximation.measure_error(
                self.point[:p], self.lams, draws=draws, seed=seed
            )
        found: ImportanceError = self._kept[key]
        return found

    def find_error(self) -> ImportanceError | None:
        """Return what `measure_error` does, or None where that takes more than seconds."""
        if self.marginal is not None or self.patterns.n_patterns * DRAWS > MEASURED:
            return None
        return self.measure_error()


def tell_integration(fit: FamilyLevelsEstimate) -> str:
    """Return how the random effects were integrated, or that they were not, and the error."""
    if fit.marginal is not None:
        nodes = [f"{count:.0f}" for count in fit.marginal.nodes]
        assert fit.error is not None
        return (
            f"{tell_error(fit.error, fit.white)} ({' x '.join(nodes)} nodes on average, from the "
            "coarsest units to the finest)"
        )
    found = fit.find_error()
    if found is None:
        return (
            f"{LABEL} of the likelihood, whose error is not known; fit.measure_error() draws "
            "effects to tell it"
        )
    if found.effective < TRUSTED * found.draws:
        return (
            f"{LABEL} of the likelihood, whose error is not known: of {found.draws} pairs of draws "
            f"of the effects {found.effective:.0f} count, too few to tell it"
        )
    side = "above" if found.difference > 0.0 else "below"
    return (
        f"{LABEL} of the likelihood, whose error in the estimates is not known; at the estimates "
        f"the log-likelihood is {abs(found.difference):.2g} (Monte Carlo error {found.mcse:.1g}) "
        f"{side} it, by importance sampling of the effects"
    )


def fit_level_patterns(
    patterns: LevelPatterns, *, covariance: str | None = None, nagq: int | None = None
) -> FamilyLevelsEstimate:
    """Return the fit of the model that patterns were reduced for, by Laplace's approximation.

    Args:
        patterns: the reduced table.
        covariance: "unstructured", "independent", "exchangeable" or "identity", for every factor;
            None keeps what the formula says.
        nagq: 1, or None for the same.

    Raises:
        ArgumentError: several nodes.
        IdentifiabilityError: the patterns cannot identify the model.
        DataError: fewer rows than parameters, or factors that are too large for the memory.
    """
    if nagq not in (None, 1):
        raise ArgumentError(
            f"nagq={nagq} is not there for several grouping factors, whose effects have no "
            "integrals of few dimensions; 1, Laplace's approximation, is"
        )
    structures = tuple(
        combine(factor.blocks, group=factor.name, covariance=covariance)
        for factor in patterns.factors
    )
    check_size(patterns, structures)
    check_factors(patterns, structures)
    white = whiten_cross(patterns, structures)
    linear = fit_linear(white)
    check_level_separation(patterns, white, linear)
    optimum = maximize_laplace(white, structures, linear)
    roots = tuple(b @ lam for b, lam in zip(white.bases, optimum.lams, strict=True))
    pairs = list(zip(roots, optimum.at.means, optimum.at.covs, strict=True))
    return FamilyLevelsEstimate(
        patterns=patterns,
        structures=structures,
        beta=white.fixed @ optimum.beta,
        gs=tuple(root @ root.T for root in roots),
        roots=roots,
        joint_cov=_spread_errors(structures, white, optimum),
        loglik=optimum.at.loglik,
        error=None,
        nagq=1,
        linear_loglik=linear.loglik,
        converged=optimum.converged,
        singular=optimum.singular,
        gradient=optimum.gradient,
        point=np.concatenate([optimum.beta, optimum.theta]),
        lams=optimum.lams,
        information=optimum.information,
        means=tuple(mean @ root.T for root, mean, _ in pairs),
        covs=tuple(root @ cov @ root.T for root, _, cov in pairs),
        steps=optimum.steps,
        white=white,
    )


def check_size(patterns: LevelPatterns, structures: Sequence[Structure]) -> None:
    """Refuse fewer rows than parameters."""
    count = len(patterns.fixed) + sum(len(each.labels) for each in structures)
    if patterns.n_rows <= count and patterns.n.sum() <= count:
        raise DataError(
            f"{patterns.n_rows} rows cannot identify {count} parameters; drop terms from "
            f"'{patterns.formula}' or give more rows"
        )


def check_factors(patterns: LevelPatterns, structures: Sequence[Structure]) -> None:
    """Refuse factors of which nothing tells the effects from each other or from single trials."""
    codes, counts, names = patterns.codes, patterns.groups, list(patterns.groups)
    for one, other in combinations(range(len(names)), 2):
        if counts[names[one]] == counts[names[other]] and is_nested(codes[one], codes[other]):
            raise IdentifiabilityError(
                f"'{names[one]}' and '{names[other]}' divide the rows into the same "
                f"{counts[names[one]]} groups; write the random terms of both with one of the two "
                "names"
            )
    if patterns.family.has_exposure or patterns.n.max() > 1.0:
        return
    for name, structure in zip(names, structures, strict=True):
        if counts[name] == patterns.n_rows and structure.names == (INTERCEPT,):
            raise IdentifiabilityError(
                f"'{name}' has a level for each of the {patterns.n_rows} rows, and single zeros "
                "and ones tell nothing of its variance; leave its random term out"
            )


def _spread_errors(
    structures: Sequence[Structure], white: WhitenedCross, optimum: CrossedOptimum
) -> Array:
    """Return the covariance (p + m, p + m) of beta and the gs' free elements."""
    return carry_level_errors(
        structures, white.fixed, white.bases, optimum.lams,
        invert_information(optimum.information, singular=optimum.singular),
        singular=optimum.singular,
    )  # fmt: skip


def invert_information(information: Array, *, singular: bool) -> Array:
    """Return the covariance (p + c, p + c) of the point, without directions that vanished."""
    if singular:
        return np.asarray(np.linalg.pinv(information, rcond=1e-10, hermitian=True))
    return np.asarray(np.linalg.inv(information))


def carry_level_errors(
    structures: Sequence[Structure],
    fixed: Array,
    bases: Sequence[Array],
    lams: Sequence[Array],
    cov: Array,
    *,
    singular: bool,
) -> Array:
    """Return the covariance (p + m, p + m) of beta and the free elements of all G.

    As `bhlm.reml.family.estimate.carry_errors` of a single factor, factor by factor.

    Args:
        structures: F, in the order of all that follows and of the result.
        fixed: (p, p) A, so that beta = A beta~.
        bases: F, (q_f, q_f).
        lams: F, (q_f, q_f) whitened.
        cov: (p + c, p + c) of whitened beta and theta.
        singular: whether some G has lost rank.
    """
    p = len(fixed)
    jacobian = np.zeros((p + sum(len(each.labels) for each in structures), len(cov)))
    jacobian[:p, :p] = fixed
    row, column, lost = p, p, []
    for structure, basis, lam in zip(structures, bases, lams, strict=True):
        turned = structure.factors @ lam.T
        tangents = basis @ (turned + turned.transpose(0, 2, 1)) @ basis.T
        m, c = len(structure.labels), len(structure.factors)
        jacobian[row : row + m, column : column + c] = structure.read(tangents).T
        if singular:
            lost += [
                row + at
                for at, (i, _) in enumerate(structure.labels)
                if has_lost_rank(lam, structure.find_block(i))
            ]
        row, column = row + m, column + c
    result = np.asarray(jacobian @ cov @ jacobian.T)
    result[lost, :] = result[:, lost] = np.nan
    return result
