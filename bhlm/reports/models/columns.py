"""One fit -> the numbers of its column in a table of several models."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from bhlm.bayes.draws import Draws
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.family.level_draws import AnyFamilyDraws, FamilyLevelDraws
from bhlm.bayes.family.quantities import derive_icc as derive_latent_icc
from bhlm.bayes.family.quantities import derive_level_icc
from bhlm.bayes.family.quantities import derive_r_squared as derive_latent_r_squared
from bhlm.bayes.family.quantities import tabulate_ratios as tabulate_drawn_ratios
from bhlm.bayes.quantities import derive_icc, derive_r_squared
from bhlm.design.formula.weights import has_shares
from bhlm.errors import ArgumentError
from bhlm.likelihood.parameters import Parameter
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.reml.compare import count_parameters, intraclass_correlation, r_squared
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.inference import tabulate_fixed as tabulate_link
from bhlm.reml.family.inference import tabulate_ratios
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.maximum import LABEL, FamilyMaximum
from bhlm.reml.family.population import explain_variance, share_variance
from bhlm.reml.fixed.contrasts import tabulate_fixed
from bhlm.reml.levels import LevelsEstimate
from bhlm.studies.imputations.pooled import Pooled

if TYPE_CHECKING:
    import pandas as pd

NONE = float("nan")


class Cell(NamedTuple):
    """A parameter in one model; what it does not have is nan."""

    estimate: float  # of a posterior its mean
    se: float  # of a posterior its SD
    lower: float
    upper: float
    p: float = NONE


@dataclass(frozen=True, slots=True)
class Column:
    """What a table tells of one model."""

    method: str  # "REML", "ML", "Bayes"
    tests: str  # by what its fixed effects are tested; empty if they are not
    formula: str
    response: str
    fixed: tuple[str, ...]
    rows: int
    groups: dict[str, int]  # grouping factor -> its levels
    cells: dict[Parameter, Cell]
    icc: dict[str, float]  # grouping factor -> intraclass correlation
    r2: tuple[float, float]  # marginal, conditional; nan where it is not known
    deviance: float
    parameters: int  # that the likelihood counts; 0 where there is none
    notes: tuple[str, ...]  # what to know of it, sentences without a stop
    family: str = ""  # with its link; empty of the gaussian
    label: str = ""  # what its likelihood is an approximation by
    ratio: str = ""  # what fixed effects are shown as, such as "Odds ratio"


def read_fit(fit: Any, *, df: str, level: float, ratios: bool = False) -> Column:
    """Return the column of a fit.

    Args:
        fit: a fit by REML or ML, of one or several factors, a posterior, or pooled fits.
        df: by which the fixed effects of a fit of one factor are tested.
        level: of the intervals.
        ratios: whether exp of the fixed effects stands in their place.

    Raises:
        ArgumentError: something else than a fit, an unknown method of df, fits that were pooled at
            another level, or ratios of a fit that has none.
    """
    if isinstance(fit, FamilyMaximum):
        return _read_family(fit, df, level, ratios=ratios)
    if isinstance(fit, FamilyDraws | FamilyLevelDraws):
        return _read_family_draws(fit, level, ratios=ratios)
    if ratios and isinstance(fit, Estimate | LevelsEstimate | Draws | Pooled):
        raise ArgumentError(
            "ratios=True is for fits of zeros and ones, proportions and counts, and "
            f"'{_find_formula(fit)}' is gaussian; leave it out"
        )
    if isinstance(fit, Estimate):
        return _read_reml(fit, df, level)
    if isinstance(fit, LevelsEstimate):
        return _read_levels(fit, level)
    if isinstance(fit, Draws):
        return _read_draws(fit, level)
    if isinstance(fit, Pooled):
        return _read_pooled(fit, level)
    raise ArgumentError(
        f"a {type(fit).__name__} has no place in a table of models; give what model.reml() or "
        "model.sample() returned"
    )


def _read_reml(fit: Estimate, df: str, level: float) -> Column:
    cells = _read_rows(fit.parameters, fit.estimates, level=level)
    if fit.converged:
        table = tabulate_fixed(fit, method=df, level=level)
        fixed = [each for each in fit.parameters if each.is_fixed]
        cells |= {each: _read_row(table.loc[str(each)]) for each in fixed}
    shares = r_squared(fit)
    return Column(
        method=fit.method.upper(),
        tests=df if fit.converged else "z",
        formula=fit.moments.formula,
        response=fit.moments.response,
        fixed=tuple(fit.moments.fixed),
        rows=fit.moments.n_rows,
        groups={fit.moments.group: fit.moments.n_groups},
        cells=cells,
        icc={fit.moments.group: intraclass_correlation(fit)},
        r2=(shares["marginal"], shares["conditional"]),
        deviance=-2.0 * fit.loglik,
        parameters=count_parameters(fit),
        notes=_note_fit(fit),
    )


def _read_levels(fit: LevelsEstimate, level: float) -> Column:
    shares = fit.icc()["icc"] if has_shares(fit.weights) else {}
    held = fit.weights is not None and fit.weights.holds_sigma
    free = sum(len(each.labels) for each in fit.structures) + int(not held)
    return Column(
        method=fit.method.upper(),
        tests="z",
        formula=fit.moments.formula,
        response=fit.moments.response,
        fixed=tuple(fit.moments.fixed),
        rows=fit.moments.n_rows,
        groups=dict(fit.moments.groups),
        cells=_read_rows(fit.parameters, fit.estimates, level=level),
        icc={name: float(shares.get(name, NONE)) for name in fit.moments.groups},
        r2=(NONE, NONE),
        deviance=-2.0 * fit.loglik,
        parameters=len(fit.beta) + free,
        notes=_note_fit(fit),
    )


def _find_formula(fit: Estimate | LevelsEstimate | Draws | Pooled) -> str:
    return fit.fits[0].moments.formula if isinstance(fit, Pooled) else fit.moments.formula


def _read_family(fit: FamilyMaximum, df: str, level: float, *, ratios: bool) -> Column:
    """Return the column of a family; tests are by z, or cluster-robust if `df` says so."""
    method = df if df == "cr0" else "z"
    moments = fit.moments
    cells = _read_rows(fit.parameters, fit.estimates, level=level)
    fixed = [each for each in fit.parameters if each.is_fixed]
    if ratios:
        table = tabulate_ratios(fit, method=method, level=level).rename(
            columns={"ratio": "estimate"}
        )
    else:
        table = tabulate_link(fit, method=method, level=level)
    cells |= {each: _read_row(table.loc[str(each)]) for each in fixed}
    if isinstance(fit, FamilyEstimate):
        shares, groups = share_variance(fit)["icc"], {fit.patterns.group: fit.patterns.n_groups}
    else:
        assert isinstance(fit, FamilyLevelsEstimate)
        shares, groups = fit.icc()["icc"], fit.patterns.groups
    r2 = {} if fit.family.link == "log" else explain_variance(fit)
    return Column(
        method=f"ML ({fit.label.removesuffix(' approximation')})" if fit.label else "ML",
        tests=method,
        formula=moments.formula,
        response=moments.response,
        fixed=tuple(moments.fixed),
        rows=moments.n_rows,
        groups=dict(groups),
        cells=cells,
        icc={name: float(shares[name]) for name in groups},
        r2=(r2.get("marginal", NONE), r2.get("conditional", NONE)),
        deviance=-2.0 * fit.loglik,
        parameters=count_parameters(fit),
        notes=(*_note_label(fit), *_note_fit(fit)),
        family=_name_family(fit),
        label=fit.label,
        ratio=_name_ratio(fit) if ratios else "",
    )


def _note_label(fit: FamilyMaximum) -> tuple[str, ...]:
    """Return that a likelihood is an approximation, if it is."""
    if not fit.label:
        return ()
    known = f"{fit.label} of the likelihood" if fit.label == LABEL else f"{fit.label} per dimension"
    return (f"{known}, whose error is not known",)


def _name_family(fit: FamilyMaximum | AnyFamilyDraws) -> str:
    return f"{fit.family.name} with {fit.family.link} link"


def _name_ratio(fit: FamilyMaximum | AnyFamilyDraws) -> str:
    return fit.family.ratio_name or "Hazard ratio"


def _read_family_draws(fit: AnyFamilyDraws, level: float, *, ratios: bool) -> Column:
    cells = _read_drawn(fit, level)
    if ratios:
        table = tabulate_drawn_ratios(fit, level=level)
        for each in (each for each in fit.parameters if each.is_fixed):
            row = table.loc[str(each)]
            cells[each] = Cell(float(row["ratio"]), NONE, float(row["lower"]), float(row["upper"]))
    r2 = {} if fit.family.link == "log" else derive_latent_r_squared(fit).draws
    if isinstance(fit, FamilyLevelDraws):
        shares = derive_level_icc(fit).draws
        icc = {name: float(np.mean(shares.get(f"icc({name})", NONE))) for name in fit.factors}
    else:
        icc = {fit.moments.group: float(derive_latent_icc(fit).draws["icc"].mean())}
    return replace(
        _draw_column(
            fit,
            cells,
            icc,
            float(np.mean(r2.get("marginal", NONE))),
            float(np.mean(r2.get("conditional", NONE))),
        ),
        family=_name_family(fit),
        ratio=_name_ratio(fit) if ratios else "",
    )


def _read_draws(fit: Draws, level: float) -> Column:
    icc = derive_icc(fit).draws["icc"].mean()
    r2 = derive_r_squared(fit).draws
    marginal, conditional = float(r2["marginal"].mean()), float(r2["conditional"].mean())
    shares = {fit.moments.group: float(icc)}
    return _draw_column(fit, _read_drawn(fit, level), shares, marginal, conditional)


def _draw_column(
    fit: Draws | AnyFamilyDraws,
    cells: dict[Parameter, Cell],
    icc: dict[str, float],
    marginal: float,
    conditional: float,
) -> Column:
    """Return the column of a posterior with these cells, shares and R2."""
    moments = fit.moments
    groups = (
        moments.groups if isinstance(moments, LevelPatterns) else {moments.group: moments.n_groups}
    )
    return Column(
        method="Bayes",
        tests="",
        formula=moments.formula,
        response=moments.response,
        fixed=tuple(moments.fixed),
        rows=moments.n_rows,
        groups=groups,
        cells=cells,
        icc=icc,
        r2=(marginal, conditional),
        deviance=NONE,
        parameters=0,
        notes=_note_draws(fit),
    )


def _read_drawn(fit: Draws | AnyFamilyDraws, level: float) -> dict[Parameter, Cell]:
    """Return means, SDs and equal-tailed intervals."""
    table, draws = fit.estimates, fit.draws
    tails = [0.5 - level / 2.0, 0.5 + level / 2.0]
    cells = {}
    for each in fit.parameters:
        row = table.loc[str(each)]
        low, high = np.quantile(draws[str(each)], tails)
        cells[each] = Cell(float(row["mean"]), float(row["sd"]), float(low), float(high))
    return cells


def _note_draws(fit: Draws | AnyFamilyDraws) -> tuple[str, ...]:
    notes = [] if fit.converged else [f"not converged: {'; '.join(fit.diagnostics.failures)}"]
    notes += [f"{name} has no mean: {why}" for name, why in fit.withheld.items()]
    return (*notes, *(["drawn from the prior alone"] if fit.settings.prior_only else []))


def _read_pooled(pooled: Pooled, level: float) -> Column:
    if level != pooled.level:
        raise ArgumentError(
            f"level={level!r} is not that of the pooled fits of '{pooled.fits[0].moments.formula}' "
            f"({pooled.level!r}); give level={pooled.level!r}, or pool them again"
        )
    fits, table = pooled.fits, pooled.estimates
    first = fits[0].moments
    shares = [r_squared(fit) for fit in fits]
    return Column(
        method=f"{fits[0].method.upper()}, {pooled.m} pooled",
        tests=pooled.df,
        formula=first.formula,
        response=", ".join(pooled.responses),
        fixed=tuple(first.fixed),
        rows=first.n_rows,
        groups={first.group: first.n_groups},
        cells={each: _read_row(table.loc[str(each)]) for each in pooled.parameters},
        icc={first.group: float(np.mean([intraclass_correlation(fit) for fit in fits]))},
        r2=(
            float(np.mean([each["marginal"] for each in shares])),
            float(np.mean([each["conditional"] for each in shares])),
        ),
        deviance=NONE,
        parameters=0,
        notes=pooled.notes,
    )


def _note_fit(fit: Estimate | LevelsEstimate | FamilyMaximum) -> tuple[str, ...]:
    if not fit.converged:
        return (f"not converged, and not to be reported: {fit.advice}",)
    return (f"singular: {fit.advice}",) if fit.singular else ()


def _read_rows(
    parameters: tuple[Parameter, ...], table: "pd.DataFrame", *, level: float
) -> dict[Parameter, Cell]:
    """Return the cells of a table of estimates whose intervals are of another level."""
    z = float(special.ndtri(0.5 + level / 2.0))
    cells = {}
    for each in parameters:
        row = table.loc[str(each)]
        estimate, se = float(row["estimate"]), float(row["se"])
        cells[each] = Cell(estimate, se, *_bound(each, estimate, z * se), float(row["p"]))
    return cells


def _bound(parameter: Parameter, estimate: float, half: float) -> tuple[float, float]:
    """Return an interval on the scale of `fit.estimates`: log, Fisher's z, or as it is."""
    if parameter.is_positive:
        if not estimate > 0.0:
            return NONE, NONE
        with np.errstate(over="ignore"):  # next to zero it spans all that doubles can say
            factor = np.exp(half / estimate)
            return float(estimate / factor), float(estimate * factor)
    if parameter.is_correlation:
        if not abs(estimate) < 1.0:
            return NONE, NONE
        z, half = np.arctanh(estimate), half / (1.0 - estimate**2)
        return float(np.tanh(z - half)), float(np.tanh(z + half))
    return estimate - half, estimate + half


def _read_row(row: "pd.Series[float]") -> Cell:
    return Cell(*(float(row[name]) for name in ("estimate", "se", "lower", "upper", "p")))
