"""Fits -> the page about them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.checks.model_checks import (
    Checks,
    run_checks,
    run_level_checks,
)
from bhlm.bayes.draws import Draws
from bhlm.bayes.family.checks import run_family_checks
from bhlm.bayes.family.level_checks import run_family_level_checks
from bhlm.bayes.family.level_draws import AnyFamilyDraws, FamilyLevelDraws
from bhlm.bayes.level_draws import LevelDraws
from bhlm.errors import ArgumentError, DataError
from bhlm.layout import count, list_names
from bhlm.moments.cells import CellMoments, refuse_factors
from bhlm.moments.patterns import Patterns
from bhlm.plots.family_groups import split_any
from bhlm.plots.level_caterpillar import split_levels
from bhlm.plots.style import SERIES
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.strata import StrataEstimate, check_tests
from bhlm.reports.dashboard.blocks import Subject
from bhlm.reports.dashboard.page import write_dashboard
from bhlm.reports.dashboard.paths import check_path
from bhlm.secrets import hide_passwords

if TYPE_CHECKING:
    from bhlm.fits.model import Model
    from bhlm.moments.moments import Moments
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.pooled import Pooled
    from bhlm.studies.imputations.reconciled import PooledComparison

# Relative difference up to which two engines' sums are of the same rows.
SAME = 1e-9


def write_reconciliation(
    both: "Comparison",
    path: str | Path,
    *,
    model: "Model | None" = None,
    title: str | None = None,
    source: dict[str, str] | None = None,
    df: str | None = None,
    rows: bool = False,
) -> None:
    """Write the page about two fits and their reconciliation, and its .json.

    Args:
        both: the reconciliation.
        path: the HTML file to write.
        model: the model with the rows; None does without the figures of rows.
        title: the page's heading; None names the response and the groups.
        source: label -> text on where the model and its data come from.
        df: a method of `reml.fixed_effects` by which the fixed effects are tested too.
        rows: whether page and .json may hold single rows: responses, predictors, residuals.

    Raises:
        DataError: a path that cannot be written to, a model of other data, or rows that are asked
            for and not at hand.
    """
    if isinstance(both.reml, LevelsEstimate):
        _refuse_rows(both.reml.moments, rows=rows)
        write_levels(both, path, title=title, source=source, df=df)
        return
    if isinstance(both.reml, FamilyMaximum):
        if rows:
            raise ArgumentError(
                f"rows=True is not there for family='{both.reml.family.name}', whose page has no "
                "figure of single rows; leave it out"
            )
        write_family(both, path, title=title, source=source)
        return
    check_path(path)
    strata = both.reml if isinstance(both.reml, StrataEstimate) else None
    if strata is not None:
        assert isinstance(both.post, Draws)
        check_tests(strata.strata.column, df)
        refuse_stratum_rows(strata.strata.column, rows=rows)
        model = None  # the page has no figure of rows
        reml, post = strata.at, both.post
    else:
        reml, post = both.split_pair("the page of a reconciliation")
    moments = reml.moments
    subject = Subject(
        reml=reml,
        post=post,
        both=both,
        model=_check_model(moments, model, rows=rows),
        title=title or _name(moments),
        source=_hide_passwords(source),
        df=df,
        rows=rows,
        strata=strata,
    )
    write_dashboard(subject, path)


def write_fit(
    fit: Draws | Estimate | StrataEstimate,
    path: str | Path,
    *,
    model: "Model | None" = None,
    title: str | None = None,
    source: dict[str, str] | None = None,
    rows: bool = False,
) -> None:
    """Write the page about one fit, by REML (or ML) or by Bayes, and its .json.

    Args and errors are those of `write_reconciliation`.
    """
    check_path(path)
    if isinstance(fit, StrataEstimate):
        _write_strata(fit, path, title=title, source=source, rows=rows)
        return
    checked = _check_model(fit.moments, model, rows=rows)
    subject = Subject(
        reml=fit if isinstance(fit, Estimate) else None,
        post=fit if isinstance(fit, Draws) else None,
        both=None,
        model=checked,
        title=title or _name(fit.moments),
        source=_hide_passwords(source),
        own_checks=_check_posterior(fit, checked) if isinstance(fit, Draws) else None,
        rows=rows,
    )
    write_dashboard(subject, path)


def _write_strata(
    fit: StrataEstimate,
    path: str | Path,
    *,
    title: str | None,
    source: dict[str, str] | None,
    rows: bool,
) -> None:
    """Write the page about a fit whose residual variance differs by stratum, and its .json."""
    refuse_stratum_rows(fit.strata.column, rows=rows)
    subject = Subject(
        reml=fit.at,
        post=None,
        both=None,
        model=None,
        title=title or _name(fit.at.moments),
        source=_hide_passwords(source),
        strata=fit,
    )
    write_dashboard(subject, path)


def refuse_stratum_rows(column: str, *, rows: bool) -> None:
    """Raise `ArgumentError` where a page with residual variances by stratum is to hold rows."""
    if rows:
        raise ArgumentError(f"rows=True is not there yet with residual='{column}'; leave it out")


def write_several(
    fits: Mapping[str, Draws],
    path: str | Path,
    *,
    title: str | None = None,
    source: dict[str, str] | None = None,
) -> None:
    """Write the page about two to six posteriors side by side, and its .json.

    Args:
        fits: by name.
        path: the HTML file to write.
        title: the page's heading; None names the responses.
        source: label -> text on where the fits come from.

    Raises:
        ArgumentError: fewer or more fits, or draws from the prior alone.
        DataError: a path that cannot be written to.
    """
    check_path(path)
    if not 2 <= len(fits) <= len(SERIES):
        raise ArgumentError(f"{count(len(fits), 'fit')} cannot stand side by side; give 2 to 6")
    for name, fit in fits.items():
        if fit.settings.prior_only:
            raise ArgumentError(
                f"'{name}' has draws from the prior alone; give posteriors to stand side by side"
            )
    responses = dict.fromkeys(fit.moments.response for fit in fits.values())
    subject = Subject(
        reml=None,
        post=None,
        both=None,
        model=None,
        title=title or f"{list_names(list(responses))}: {len(fits)} fits side by side",
        source=_hide_passwords(source),
        fits=fits,
    )
    write_dashboard(subject, path)


def write_pooled(
    fit: "Pooled | Mixture | PooledComparison",
    path: str | Path,
    *,
    title: str | None = None,
    source: dict[str, str] | None = None,
) -> None:
    """Write the page about fits pooled over plausible values or imputations, and its .json.

    Args:
        fit: the pooled fits, the mixture of their posteriors, or the reconciliation of both.
        path: the HTML file to write.
        title: the page's heading; None names the responses and the groups.
        source: label -> text on where the model and its data come from.

    Raises:
        DataError: a path that cannot be written to.
    """
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.reconciled import PooledComparison

    check_path(path)
    mixed = fit if isinstance(fit, PooledComparison) else None
    mixture = mixed.mixture if mixed is not None else fit if isinstance(fit, Mixture) else None
    pooled = fit.pooled if isinstance(fit, Mixture | PooledComparison) else fit
    group = pooled.fits[0].moments.group
    subject = Subject(
        reml=None,
        post=None,
        both=None,
        model=None,
        title=title or f"{list_names(pooled.responses)} by {group}, pooled",
        source=_hide_passwords(source),
        pooled=pooled,
        mixture=mixture,
        mixed=mixed,
    )
    write_dashboard(subject, path)


def write_levels(
    fit: "LevelsEstimate | LevelDraws | Comparison",
    path: str | Path,
    *,
    title: str | None = None,
    model: "Model | None" = None,
    source: dict[str, str] | None = None,
    df: str | None = None,
) -> None:
    """Write the page about fits of several grouping factors, and its .json.

    Args:
        fit: a fit by REML or ML, a posterior, or the reconciliation of both.
        path: the HTML file to write.
        title: the page's heading; None names the response and the factors.
        model: the model with the rows, against which a posterior is checked; None takes its units.
        source: label -> text on where the model and its data come from.
        df: a method of `reml.fixed_effects` by which the fixed effects are tested too.

    Raises:
        DataError: a path that cannot be written to.
    """
    check_path(path)
    reml, post, both = split_levels(fit)
    assert not isinstance(reml, FamilyLevelsEstimate)
    assert post is None or isinstance(post, LevelDraws)
    given = reml if reml is not None else post
    assert given is not None
    moments = given.moments
    names = list(moments.groups)
    checked = both is None and post is not None
    subject = Subject(
        reml=None,
        post=None,
        both=both,
        model=None,
        title=title or f"{moments.response} by {list_names(names, most=len(names))}",
        source=_hide_passwords(source),
        own_checks=_check_levels(post, model) if checked and post is not None else None,
        levels=reml,
        level_post=post,
        df=df,
    )
    write_dashboard(subject, path)


def write_family(
    fit: "FamilyMaximum | AnyFamilyDraws | Comparison",
    path: str | Path,
    *,
    title: str | None = None,
    source: dict[str, str] | None = None,
) -> None:
    """Write the page about fits of zeros and ones, proportions or counts, and its .json.

    Args:
        fit: by maximum likelihood, a posterior, or the reconciliation of both.
        path: the HTML file to write.
        title: the page's heading; None names the response and the groups.
        source: label -> text on where the model and its data come from.

    Raises:
        DataError: a path that cannot be written to.
    """
    check_path(path)
    both = fit if isinstance(fit, Comparison) else None
    pair = split_any(fit)
    ml, post, patterns = pair.ml, pair.post, pair.given.moments
    names = [patterns.group] if isinstance(patterns, Patterns) else list(patterns.groups)
    checked = both is None and post is not None
    subject = Subject(
        reml=None,
        post=None,
        both=both,
        model=None,
        title=title or f"{patterns.response} by {list_names(names, most=len(names))}",
        source=_hide_passwords(source),
        own_checks=_check_family(post) if checked and post is not None else None,
        counted=ml,
        counted_post=post,
    )
    write_dashboard(subject, path)


def _check_family(post: AnyFamilyDraws) -> Checks | None:
    """Return the checks of a posterior; None of draws that failed or that have seen no data."""
    if post.settings.prior_only or not post.converged:
        return None
    if isinstance(post, FamilyLevelDraws):
        return run_family_level_checks(post)
    return run_family_checks(post)


def _check_levels(post: LevelDraws, model: "Model | None") -> Checks | None:
    """Return the checks of a posterior; None of draws that failed or that have seen no data."""
    if post.settings.prior_only or not post.converged:
        return None
    return run_level_checks(post, model.cell_rows if model and model.has_rows else None)


def _refuse_rows(moments: CellMoments, *, rows: bool) -> None:
    if rows:
        raise refuse_factors(moments.design.formula, "a page with single rows (rows=True)")


def _check_posterior(post: Draws, model: "Model | None") -> Checks | None:
    """Return the checks of a posterior; None of draws that failed or that have seen no data."""
    if post.settings.prior_only or not post.converged:
        return None
    return run_checks(post, None if model is None else model.rows)


def _hide_passwords(source: dict[str, str] | None) -> dict[str, str]:
    """Return where the data come from as a page may show it: it may quote an address."""
    return {label: hide_passwords(str(text)) for label, text in (source or {}).items()}


def _name(moments: "Moments") -> str:
    return f"{moments.response} by {moments.group}"


def _check_model(moments: "Moments", model: "Model | None", *, rows: bool) -> "Model | None":
    """Return the model with the rows of these moments, where it has any."""
    if model is None or not model.has_rows:
        if rows:
            raise DataError(
                "rows=True asks for single rows, and the fit comes without them; give model=..., "
                "made from the table that was fitted, or --data on the command line"
            )
        return None
    if model.strata is not None:  # whose page has no figure of rows
        refuse_stratum_rows(model.strata.column, rows=rows)
        return None
    check_rows(moments, model)
    return model


def check_rows(moments: "Moments", model: "Model") -> None:
    """Refuse a model whose rows are not those that a fit was made from.

    Raises:
        DataError: other columns, groups, or numbers.
    """
    ours, theirs = moments, model.moments
    if ours is theirs:
        return
    same = (
        ours.columns == theirs.columns
        and ours.fixed == theirs.fixed
        and ours.random == theirs.random
        and ours.group == theirs.group
        and np.array_equal(ours.groups, theirs.groups)
        and np.array_equal(ours.n, theirs.n)
    )
    if not (same and _agree(ours.mean, theirs.mean) and _agree(ours.cross, theirs.cross)):
        raise DataError(
            f"the fit was made from {ours.n_rows} rows of {ours.n_groups} groups for "
            f"'{ours.formula}', and the rows given are {theirs.n_rows} of {theirs.n_groups} groups "
            f"for '{theirs.formula}' or hold other numbers; give the table that was fitted"
        )


def _agree(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Return whether two arrays are those of the same rows, added up in whatever order."""
    size = float(np.max(np.abs(ours), initial=0.0))
    return bool(np.allclose(ours, theirs, rtol=SAME, atol=SAME * size))
