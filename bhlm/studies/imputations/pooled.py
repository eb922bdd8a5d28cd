"""Fits of one model to several imputed data sets, or plausible values -> Pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import ArgumentError, check_fields
from bhlm.layout import count, list_names
from bhlm.likelihood.parameters import Parameter, check_level
from bhlm.moments.cells import refuse_factors
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.contrasts import METHODS, infer_fixed
from bhlm.reml.fixed.method import NORMAL
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import check_converged
from bhlm.reml.rows import lay_out
from bhlm.studies.imputations.components import (
    Boundary,
    PooledRow,
    move_components,
    pool_components,
)
from bhlm.studies.imputations.rubin import Combined, combine, mean_df, t_tails

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


@check_fields
@dataclass(frozen=True, slots=True, repr=False)
class Pooled:
    """m fits of one model, pooled by Rubin's rules."""

    fits: tuple[Estimate, ...]  # (m,)
    df: str  # the method that complete-data degrees of freedom are by
    level: float  # of the intervals
    beta: Array  # (p,) fixed effects, the mean over the fits
    within: Array  # (p, p) W, the mean of the fits' covariances of the fixed effects
    between: Array  # (p, p) B, the covariance of the fixed effects over the fits
    total: Array  # (p, p) W + (1 + 1/m) B
    complete_df: Array  # (p,) harmonic means over the fits; infinite by "z"
    rows: tuple[PooledRow, ...]  # by `parameters`
    notes: tuple[str, ...]  # what to know, one sentence each

    @property
    def m(self) -> int:
        """The number of fits."""
        return len(self.fits)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in the order of the tables."""
        return self.fits[0].parameters

    @property
    def responses(self) -> tuple[str, ...]:
        """The responses of the fits, each once: several are plausible values."""
        return tuple(dict.fromkeys(fit.moments.response for fit in self.fits))

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `estimate, se, lower, upper, statistic, df, p, riv, lambda, fmi`.

        `df` are Barnard & Rubin's (1999), `riv` is the relative increase in variance, `lambda` the
        share riv / (1 + riv) of the total variance, and `fmi` the fraction of missing information,
        which counts besides that the variance between few imputations is itself uncertain (the
        names are those of R's mice). Variances and SDs are pooled by their logarithms,
        correlations by Fisher's z; `statistic` and `p` are of fixed effects only.
        """
        at = PooledRow._fields.index("fmi")
        values = np.array(self.rows)
        riv = values[:, PooledRow._fields.index("riv")]
        table = np.column_stack([values[:, :at], riv / (1.0 + riv), values[:, at:]])
        columns = (*PooledRow._fields[:at], "lambda", *PooledRow._fields[at:])
        return lay_out(table, tuple(map(str, self.parameters)), columns)


def pool_fits(
    fits: Sequence[Estimate], *, df: str = "satterthwaite", level: float = 0.95
) -> Pooled:
    """Return fits of one model to several imputations of the data, pooled.

    Args:
        fits: two or more fits of the same columns by the same method; responses may differ, as
            plausible values do.
        df: how each fit judges its fixed effects: standard errors and complete-data degrees of
            freedom are by that method of `bhlm.reml.fixed.contrasts`.
        level: of the intervals.

    Raises:
        ArgumentError: fewer than two fits, fits of different models, one that has not converged,
            an unknown method, or a level outside (0, 1).
    """
    check_level(level)
    if df not in METHODS:
        raise ArgumentError(f"df={df!r} is not known; choose one of {', '.join(METHODS)}")
    fits = tuple(fits)
    check_same_model(fits)
    p = len(fits[0].beta)
    betas, covs, complete_df = infer_all(fits, np.eye(p), df=df)
    known = ~np.isnan(complete_df)
    moved = move_components(fits)
    variances = [np.diagonal(each, axis1=1, axis2=2) for each in (covs, moved.covs)]
    # Of components the complete-data df are infinite, as in the fits' own intervals.
    far = np.full(moved.values.shape[1], np.inf)
    pooled = combine(
        np.concatenate([betas, moved.values], axis=1),
        np.concatenate(variances, axis=1),
        complete_df=np.concatenate([np.where(known, complete_df, np.inf), far]),
    )
    fixed, own = Combined(*(each[:p] for each in pooled)), Combined(*(each[p:] for each in pooled))
    half = pooled.reach(level)
    components = pool_components(fits, moved, own, half[p:], level=level)
    within = covs.mean(axis=0)
    gaps = betas - betas[0]
    gaps -= gaps.mean(axis=0)
    between = gaps.T @ gaps / (len(fits) - 1.0)
    names = fits[0].moments.fixed
    return Pooled(
        fits=fits,
        df=df,
        level=level,
        beta=fixed.estimate,
        within=within,
        between=between,
        total=within + (1.0 + 1.0 / len(fits)) * between,
        complete_df=complete_df,
        rows=(*tabulate(fixed, half[:p]), *components.squared, *components.scaled),
        notes=(
            *_note_rows(fits),
            *_note_equal(fits),
            *_note_df([name for name, each in zip(names, known, strict=True) if not each], df),
            *(_note_boundary(each, len(fits)) for each in components.boundary),
        ),
    )


def check_same_model(fits: Sequence[Any]) -> None:
    """Raise `ArgumentError` unless these are two or more converged fits of one model."""
    for at, fit in enumerate(fits, 1):
        if not isinstance(fit, Estimate):
            if isinstance(fit, LevelsEstimate):
                raise refuse_factors(fit.moments.design.formula, "pooling")
            raise ArgumentError(
                f"fit {at} to be pooled is a {type(fit).__name__}; give what model.reml() returned"
            )
    if len(fits) < 2:
        raise ArgumentError(
            f"{count(len(fits), 'fit')} cannot be pooled: the variance between imputations needs "
            "two or more; give one fit per imputation"
        )
    for at, fit in enumerate(fits, 1):
        if not _is_alike(fit, fits[0]):
            _check_description(at, _describe(fit), _describe(fits[0]))
        check_converged(fit, f"pooling fit {at}")


def _check_description(
    at: int, described: Mapping[str, tuple[str, ...]], first: Mapping[str, tuple[str, ...]]
) -> None:
    """Raise `ArgumentError` where the fit numbered `at` is described otherwise than the first."""
    for what, value in described.items():
        if value != first[what]:
            raise ArgumentError(
                f"fit {at} has {_tell_difference(what, value, first[what])}; pool fits of one "
                "model, with the same columns, random terms and method"
            )


def infer_all(fits: Sequence[Estimate], contrasts: Array, *, df: str) -> tuple[Array, Array, Array]:
    """Return each fit's contrasts (m, c), their covariances (m, c, c), and the mean df (c,)."""
    if df == NORMAL.name and np.array_equal(contrasts, np.eye(len(fits[0].beta))):
        betas, covs = np.array([fit.beta for fit in fits]), [fit.beta_cov for fit in fits]
        return betas, np.array(covs), np.full(len(contrasts), np.inf)
    values, covs, dfs = [], [], []
    for fit in fits:
        inference = infer_fixed(fit, contrasts, method=df)
        rows = contrasts @ inference.loadings
        values.append(contrasts @ fit.beta)
        covs.append(rows @ inference.inner @ rows.T)
        dfs.append(inference.df)
    return np.array(values), np.array(covs), mean_df(np.array(dfs))


def tabulate(combined: Combined, half: Array, *, values: Array | float = 0.0) -> list[PooledRow]:
    """Return a row per combination of fixed effects, tested against `values` (c,).

    Their intervals reach `half` (c,) to each side.
    """
    se = np.sqrt(combined.total)
    statistic = (combined.estimate - values) / se
    columns = (
        *(combined.estimate, se, combined.estimate - half, combined.estimate + half, statistic),
        *(combined.df, t_tails(statistic, combined.df)),
        *(combined.riv, combined.fmi),
    )
    return [PooledRow(*row) for row in zip(*(each.tolist() for each in columns), strict=True)]


def _is_alike(fit: Estimate, first: Estimate) -> bool:
    """Whether two fits are at once seen to be of one model, as plausible values are."""
    return (
        fit.structure is first.structure
        and fit.moments.fixed == first.moments.fixed
        and (fit.weights, fit.method, fit.errors) == (first.weights, first.method, first.errors)
    )


def _describe(fit: Estimate) -> dict[str, tuple[str, ...]]:
    """Return what fits of one model have in common, by what it is called."""
    return {
        "fixed effects": fit.moments.fixed,
        "group": (fit.moments.group,),
        "parameters": tuple(map(str, fit.parameters)),
        "method": (fit.method,),
        "weights": (fit.weights.sentence if fit.weights else "none",),
        "standard errors": (fit.errors,),
    }


def _tell_difference(what: str, value: tuple[str, ...], first: tuple[str, ...]) -> str:
    """Return in which way a description differs from that of fit 1."""
    if len(value) == len(first) == 1:
        return f"the {what} '{value[0]}' and fit 1 '{first[0]}'"
    more = [f"'{name}'" for name in value if name not in first]
    less = [f"'{name}'" for name in first if name not in value]
    if not (more or less):
        return f"its {what} in another order than fit 1"
    parts = [f"{list_names(more)} more"] if more else []
    parts += [f"no {list_names(less)}"] if less else []
    return f"other {what} than fit 1: {' and '.join(parts)}"


def _note_rows(fits: Sequence[Estimate]) -> list[str]:
    if all(fit.moments.n is fits[0].moments.n for fit in fits):
        return []
    notes = []
    for what, sizes in (
        ("rows", [fit.moments.n_rows for fit in fits]),
        ("groups", [fit.moments.n_groups for fit in fits]),
    ):
        if len(set(sizes)) > 1:
            least, most = min(sizes), max(sizes)
            notes.append(
                f"The fits have between {least:,} (fit {sizes.index(least) + 1}) and {most:,} "
                f"(fit {sizes.index(most) + 1}) {what}: imputations of one table have the same; "
                "look for values that are still missing"
            )
    return notes


def _note_equal(fits: Sequence[Estimate]) -> list[str]:
    first = fits[0]
    if any(not np.array_equal(fit.beta, first.beta) or fit.loglik != first.loglik for fit in fits):
        return []
    return ["All fits are the same: no value that differs between the imputations is used"]


def _note_df(names: Sequence[str], df: str) -> list[str]:
    if not names:
        return []
    return [f"No complete-data df by {df} for {list_names(names)}: the df are Rubin's of 1987"]


def _note_boundary(block: Boundary, m: int) -> str:
    several = len(block.parameters) > 1
    which = ", ".join(map(str, block.fits[:5])) + (", ..." if len(block.fits) > 5 else "")
    plain = "mean of the covariance matrices" if several else "mean of the variances"
    return (
        f"{list_names(list(map(str, block.parameters)))} {'lie' if several else 'lies'} on the "
        f"boundary in {len(block.fits)} of {m} fits ({which}), where logarithms end: the plain "
        f"{plain} stands here, without standard error and interval"
    )
