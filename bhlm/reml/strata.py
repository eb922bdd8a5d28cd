"""REML and ML with a residual variance for each stratum, as nlme's varIdent.

With the ratios of the residual SDs known a row of stratum s counts by 1 / ratio_s^2, and the fit is
that with precision weights. Outside it the logarithms of the S - 1 ratios are searched: few, smooth
and without bounds. Source: Pinheiro & Bates (2000), Mixed-Effects Models in S and S-PLUS, 5.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bhlm.errors import ArgumentError, check_fields
from bhlm.layout import name_some, print_label, show_name
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.parameters import RESIDUAL, Parameter
from bhlm.likelihood.whitening import Whitened, whiten, whiten_parts
from bhlm.moments.moments import Moments
from bhlm.moments.strata import StratumMoments
from bhlm.reml.estimate import Estimate, fit_moments
from bhlm.reml.optimize import Optimum, maximize, unwhiten_loglik
from bhlm.reml.rows import Row, list_variances
from bhlm.reml.standard_errors import log_interval, standard_errors

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

STEP = 1e-3  # of differences in log ratios: fourth order leaves 1e-12 of them
LARGEST = 15.0  # log ratio of two residual SDs, from which on one has vanished
EPS = float(np.finfo(np.float64).eps)
# Curvature by a log ratio below which its standard error is above 30: nothing is known of it.
NOTHING = 1e-3
FLAT = 1e-5  # slope by a log ratio that counts as none, in log-likelihood
# Residual SDs that the response may be away from zero; beyond, its rounding shows in the slope.
FAR = 1e8


@check_fields
@dataclass(frozen=True, slots=True)
class StrataEstimate:
    """A fit whose residual variance differs by stratum."""

    strata: StratumMoments
    at: Estimate  # the fit at the ratios, whose sigma2 is the first stratum's
    log_ratios: Array  # (S,) of the residual SDs to the first one's, which is 0
    variance_cov: Array  # (m + S, m + S) of g's free elements, then every residual variance
    converged: bool
    common: Estimate  # the fit with one residual variance
    gradient: Array  # (S - 1,) slopes of the log-likelihood by the log ratios

    @property
    def advice(self) -> str:
        """What to do about a fit that is singular or did not converge; empty if neither."""
        if self.converged or not self.at.converged:
            return self.at.advice
        moments = self.at.moments
        away = abs(float(moments.mean[:, -1].mean()))
        slope = float(np.abs(self.gradient).max())
        said = f"the search of the ratios of the residual SDs did not end (slope {slope:.2g})"
        if away > FAR * np.sqrt(self.at.sigma2):
            return (
                f"{said}: '{moments.response}' is about {away:.2g} throughout, and differs within "
                "groups by too little beside that to leave enough digits; subtract a constant first"
            )
        return f"{said}; do not report these estimates, and merge strata or drop random terms"

    @property
    def loglik(self) -> float:
        """The (restricted) log-likelihood."""
        return self.at.loglik

    @property
    def moments(self) -> Moments:
        """The moments of all rows, every stratum's counting alike."""
        return self.strata.whole

    @property
    def structure(self) -> Structure:
        """The covariance structure of the random coefficients."""
        return self.at.structure

    @property
    def method(self) -> str:
        """How it was fitted: "reml" or "ml"."""
        return self.at.method

    @property
    def singular(self) -> bool:
        """Whether a variance or correlation of G stands on its boundary."""
        return self.at.singular

    @property
    def residual_variances(self) -> dict[Any, float]:
        """The residual variance of every stratum."""
        values = self.at.sigma2 * np.exp(2.0 * self.log_ratios)
        return dict(zip(self.strata.levels, values.tolist(), strict=True))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in the order of the tables."""
        structure = self.at.structure
        own = [
            replace(RESIDUAL, stratum=f"{self.strata.column}={print_label(level)}")
            for level in self.strata.levels
        ]
        scaled = (each.scaled for each in own)
        fixed = (Parameter("fixed", name) for name in self.at.moments.fixed)
        return (*fixed, *structure.variances, *own, *structure.scaled, *scaled)

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: as of other fits, with var(Residual|...) and sd(Residual|...)."""
        import pandas as pd

        fit, p = self.at, len(self.at.beta)
        m = len(fit.structure.labels)
        own = self.variance_cov[: m + 1, : m + 1]
        rows = list_variances((fit.structure,), (fit.g,), fit.sigma2, own)
        errors = standard_errors(self.variance_cov)[m:].tolist()
        squared, rooted = [], []
        for value, se in zip(self.residual_variances.values(), errors, strict=True):
            squared.append(Row(value, se, *log_interval(value, se)))
            sd, error = np.sqrt(value), se / (2.0 * np.sqrt(value))
            rooted.append(Row(sd, error, *log_interval(sd, error)))
        rows = [*rows[:m], *squared, *rows[m + 1 : -1], *rooted]
        index = [str(each) for each in self.parameters[p:]]
        table = pd.DataFrame(np.array(rows), index, list(Row._fields))
        return pd.concat([fit.estimates.iloc[:p], table]).rename_axis("parameter")

    def test_homogeneity(self) -> dict[str, float]:
        """Return the LR test that all strata have one residual variance: chi2, df, p."""
        chi2 = max(2.0 * (self.loglik - self.common.loglik), 0.0)
        df = len(self.strata.levels) - 1
        return {"chi2": chi2, "df": df, "p": float(chi_square_tail(chi2, df))}

    def group_effects(self) -> "pd.DataFrame":
        """Return the empirical-Bayes effects, as of other fits."""
        return self.at.group_effects()

    def summary(self, *, df: str | None = None) -> str:
        """Return the model, every estimate, and the test of homogeneity, as text.

        `df="z"` adds the tests of the fixed effects.

        Raises:
            ArgumentError: another df.
        """
        from bhlm.reml.fixed.contrasts import tabulate_fixed

        check_tests(self.strata.column, df)
        test, moments = self.test_homogeneity(), self.at.moments
        head = (
            f"{show_name(moments.formula)} by {self.method.upper()}, residual variance by "
            f"{show_name(self.strata.column)}: {self.strata.rows_used}; {moments.n_groups} of "
            f"'{show_name(moments.group)}', log-likelihood {self.loglik:.6g}"
        )
        table = self.estimates[["estimate", "se", "lower", "upper"]].to_string(
            float_format=lambda value: f"{value:.5g}"
        )
        tests = []
        if df is not None:
            shown = tabulate_fixed(self.at, method=df)[["estimate", "se", "statistic", "p"]]
            tests = [
                "Tests of fixed effects by z:",
                shown.to_string(float_format=lambda value: f"{value:.5g}"),
            ]
        return "\n".join(
            [
                head,
                *([] if self.converged else [f"FAILED: {show_name(self.advice)}"]),
                table,
                *tests,
                f"LR test of one residual variance: chi2({test['df']}) = {test['chi2']:.2f}, "
                f"p = {test['p']:.3g}",
            ]
        )


def check_tests(column: str, df: str | None) -> None:
    """Raise `ArgumentError` where fixed effects are to be tested otherwise than by z.

    The strata's ratios are estimates too, and no df is known that counts them.
    """
    if df not in (None, "z"):
        raise ArgumentError(
            f"df={df!r} is not there yet with residual='{column}', whose ratios are "
            "estimates too; take 'z'"
        )


class _Visit(NamedTuple):
    """What is profiled at some ratios of the residual SDs."""

    value: float  # the (restricted) log-likelihood
    slopes: Array  # (S - 1,) of it, by the log ratios
    g: Array  # (q, q)
    sigma2: float  # of the first stratum


def fit_strata(
    strata: StratumMoments, *, method: str = "reml", covariance: str | None = None
) -> StrataEstimate:
    """Return the fit with a residual variance for each stratum.

    Raises:
        ArgumentError: an unknown method or covariance, a fit on the boundary of G whose standard
            errors do not exist, or residuals of a stratum that vanish.
        IdentifiabilityError: the moments cannot identify the model.
    """
    known: list[Estimate] = []  # where the search of G begins, once there is such a place

    def fit(free: Array) -> Estimate:
        moments = strata.weigh(np.append(0.0, free))
        start = known[0] if known and not known[0].singular else None
        return fit_moments(moments, method=method, covariance=covariance, start=start)

    visits: dict[bytes, _Visit] = {}
    inside: list[Array] = []  # theta of the last visit, where it was not singular

    def visit(free: Array) -> _Visit:
        """The likelihood there, without what else a fit computes."""
        key = free.tobytes()
        if key in visits:
            return visits[key]
        if not np.abs(free).max() <= LARGEST:
            raise _refuse_vanished(strata, _find_least(strata, free))
        moments = strata.weigh(np.append(0.0, free))
        structure = known[0].structure
        white = whiten(moments, structure)
        restricted = known[0].method == "reml"
        start = inside[-1] if inside else None
        optimum = maximize(white, structure, restricted=restricted, start=start)
        inside[:] = [] if optimum.singular else [optimum.theta]
        value = unwhiten_loglik(optimum.criterion.value, white, restricted)
        if not np.isfinite(value):
            raise _refuse_vanished(strata)
        parts = whiten_parts(strata, moments, structure)
        weights = np.exp(-2.0 * np.append(0.0, free))
        slopes = score_ratios(white, optimum, parts, weights) - strata.n
        sigma2 = optimum.criterion.sigma2 * white.scale**2
        root = white.basis @ optimum.lam * np.sqrt(sigma2)
        visits[key] = _Visit(value, slopes[1:], root @ root.T, sigma2)
        return visits[key]

    def slope(free: Array) -> Array:
        return visit(free).slopes

    def descend(free: Array) -> tuple[float, Array]:
        return -visit(free).value, -visit(free).slopes

    others = len(strata.levels) - 1
    common = fit(np.zeros(others))
    if not common.converged:
        raise ArgumentError(
            f"residual='{strata.column}': the fit fails with one residual variance already: "
            f"{common.advice}"
        )
    known.append(common)
    inside += [] if common.singular else [common.theta]
    if not others:
        none = np.empty((0, 0))
        cov = _join_errors(visit, common, np.empty(0), none)
        return StrataEstimate(
            strata, common, np.zeros(1), cov, common.converged, common, np.empty(0)
        )
    from scipy.optimize import minimize  # slow to load, and few fits need it

    found = minimize(
        descend,
        np.zeros(others),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-4},
    )
    free = np.asarray(found.x)
    if not np.isfinite(found.fun):
        raise _refuse_vanished(strata)
    known[0] = fit(free)
    for _ in range(5):
        gradient = slope(free)
        hessian = np.array([_differ(slope, free, c) for c in range(len(free))])
        hessian = 0.5 * (hessian + hessian.T)
        if not np.isfinite(hessian).all():
            raise _refuse_vanished(strata)
        if np.abs(gradient).max() < 1e-8 or np.linalg.eigvalsh(hessian)[-1] >= 0.0:
            break
        free = free - np.linalg.solve(hessian, gradient)
    if not np.abs(free).max() <= LARGEST or np.linalg.cond(hessian) > 1.0 / EPS:
        raise _refuse_vanished(strata, _find_least(strata, free))
    if (lost := np.flatnonzero(np.abs(np.diag(hessian)) < NOTHING) + 1).size:
        raise _refuse_vanished(strata, [strata.levels[s] for s in lost.tolist()])
    at, gradient = fit(free), slope(free)
    return StrataEstimate(
        strata=strata,
        at=at,
        log_ratios=np.append(0.0, free),
        variance_cov=_join_errors(visit, at, free, -np.linalg.inv(hessian)),
        converged=bool(at.converged and np.abs(gradient).max() < FLAT),
        common=common,
        gradient=gradient,
    )


def score_ratios(
    white: Whitened, optimum: Optimum, parts: Sequence[tuple[Array, Array]], weights: Array
) -> Array:
    """Return the slopes (S,) of the profiled log-likelihood by the log ratios of the SDs, plus n_s.

    At the optimum of all that is profiled these are the slopes where that is held. With C the
    coefficients of Henderson's equations, W_s = [Z, X] of the rows of stratum s, e_s what the
    predictions leave of them, and w_s = 1 / ratio_s^2, the slope is
    w_s e_s'e_s / sigma^2 + w_s tr(C^-1 W_s'W_s) - n_s, for ML without the fixed effects in C.
    Source: Pinheiro & Bates (2000), 5.2, in which it is taken by differences; Searle, Casella &
    McCulloch (1992), Variance Components, 6.6 and 7.6, for C.

    Args:
        white: all rows by their weights, whitened.
        optimum: of the criterion there.
        parts: the strata's places among the groups (J_s,) and cross-products (J_s, k, k), as
            `whiten_parts` has them.
        weights: (S,) w_s.
    """
    q, p, at, lam = white.q, white.p, optimum.criterion, optimum.lam
    a = white.blocks
    inner = np.linalg.inv(np.eye(q) + lam.T @ a[:, :q, :q] @ lam)
    spread = lam @ inner @ lam.T  # (J, q, q) of the random coefficients, given the fixed ones
    tied = -spread @ a[:, :q, q : q + p]  # (J, q, p) how they move with the fixed ones
    effects = spread @ (a[:, :q, -1] - a[:, :q, q : q + p] @ at.beta)[..., None]  # (J, q, 1)
    left = np.concatenate(
        [-effects[..., 0], np.tile(np.append(-at.beta, 1.0), (len(a), 1))], axis=1
    )
    slopes = np.zeros(len(parts))
    for s, ((places, blocks), w) in enumerate(zip(parts, weights.tolist(), strict=True)):
        v = left[places]
        squares = float(np.einsum("ja,jab,jb->", v, blocks, v))
        trace = float(np.einsum("jab,jab->", spread[places], blocks[:, :q, :q]))
        if at.restricted:
            t, x = tied[places], blocks[:, :q, q : q + p]
            mixed = t.transpose(0, 2, 1) @ x
            outer = t.transpose(0, 2, 1) @ blocks[:, :q, :q] @ t
            total = outer + mixed + mixed.transpose(0, 2, 1) + blocks[:, q : q + p, q : q + p]
            trace += float(np.sum(at.phi * total.sum(axis=0)))
        slopes[s] = w * (squares / at.sigma2 + trace)
    return slopes


def _find_least(strata: StratumMoments, free: Array) -> list[Any]:
    """Return the stratum with the smallest residual SD, where all of them are numbers."""
    if not np.isfinite(free).all():
        return []
    return [strata.levels[int(np.argmin(np.append(0.0, free)))]]


def _refuse_vanished(strata: StratumMoments, levels: Sequence[Any] = ()) -> ArgumentError:
    named = f" ({name_some(levels)})" if levels else ""
    return ArgumentError(
        f"the residual variance of a stratum of '{show_name(strata.column)}'{named} goes to zero, "
        "so nothing is left of it to estimate; merge it with another"
    )


def _differ(function: Any, point: Array, c: int) -> Any:
    """Return the derivative of a function by coordinate c, by differences of fourth order."""

    def at(size: float) -> Any:
        moved = point.copy()
        moved[c] += size
        return function(moved)

    near, far = at(STEP) - at(-STEP), at(2.0 * STEP) - at(-2.0 * STEP)
    return (8.0 * near - far) / (12.0 * STEP)


def _join_errors(visit: Callable[[Array], _Visit], at: Estimate, free: Array, cov: Array) -> Array:
    """Return the covariance (m + S, m + S) of g's elements and of the residual variances.

    What the fit knows at given ratios, and what their own errors (S - 1, S - 1) add by way of the
    estimates' dependence on them.
    """
    structure = at.structure
    m, others = len(structure.labels), len(free)

    def values(point: Array) -> Array:
        moved = visit(point)
        sigma2 = moved.sigma2 * np.exp(2.0 * np.append(0.0, point))
        return np.array([*structure.read(moved.g), *sigma2])

    by_ratio = np.zeros((m + others + 1, others))
    for c in range(others):
        by_ratio[:, c] = _differ(values, free, c)
    by_own = np.zeros((m + others + 1, m + 1))
    by_own[:m, :m] = np.eye(m)
    by_own[m:, m] = np.exp(2.0 * np.append(0.0, free))
    return np.asarray(by_own @ at.variance_cov @ by_own.T + by_ratio @ cov @ by_ratio.T)
