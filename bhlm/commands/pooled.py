"""Plausible values on the command line: several responses, fitted, mixed or reconciled, pooled."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.commands.shared import (
    find_data,
    keep_fit,
    name_source,
    print_text,
    print_title,
    read_settings,
    write_all,
)
from bhlm.errors import ArgumentError
from bhlm.progress import VOICE

if TYPE_CHECKING:
    from bhlm.fits.pooled_fit import PooledFit
    from bhlm.sources.gallery import GalleryModel
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.pooled import Pooled
    from bhlm.studies.imputations.reconciled import PooledComparison
    from bhlm.studies.replicate_weights import ReplicateWeights


def has_responses(which: str | None, formula: str | None) -> bool:
    """Return whether a gallery model, or the left side of a formula, has several responses."""
    from bhlm.sources.gallery import find_model

    if which is not None:
        return bool(find_model(which).responses)
    if formula is None or "+" not in formula.partition("~")[0]:
        return False
    from bhlm.fits.pooled_fit import split_responses

    return split_responses(formula)[1] is not None


def run_pooled(
    what: str,
    which: str | None,
    data: str | None,
    formula: str | None,
    *,
    weights: Any,
    refused: Mapping[str, Any],
    separator: str | None = None,
    missing: Sequence[str] | None = None,
    method: str | None = None,
    covariance: str | None = None,
    errors: "str | ReplicateWeights | None" = None,
    df: str | None = None,
    priors: str | None = None,
    counts: Mapping[str, Any] | None = None,
    json: Path | None = None,
    dashboard: Path | None = None,
    save: Path | None = None,
    command: str = "",
    adjust: bool = True,
) -> int:
    """Pool the fits of several responses, sample or reconcile them, and return the exit status.

    Args:
        what: "reml", "sample" or "reconcile".
        which: a gallery model, or None.
        data: a file, without one.
        formula: with the plausible values on its left, added up, without one.
        weights: of rows and groups, without one.
        refused: options by name that plausible values do not take; those given are an error.
        separator: of columns of a text file.
        missing: texts that stand for missing values.
        method: "reml" or "ml"; None is the gallery's, and "ml" with sampling weights.
        covariance: in the place of the formula's.
        errors: of each fit, as in `Model.reml`.
        df: of the fixed effects.
        priors: what --priors says.
        counts: seed, draws, tune, chains.
        json: where the numbers go.
        dashboard: where the page goes, with its own numbers beside it.
        save: where the posteriors are kept; see `bhlm.studies.imputations.storage`.
        command: how it was asked for, which the page says.
        adjust: with sampling weights, whether the draws get the sandwich's covariance.

    Raises:
        ArgumentError: options that plausible values do not take, or data without a formula.
    """
    from bhlm.files import write_json
    from bhlm.fits.reconciliation import reconcile

    given = [name for name, value in refused.items() if value not in (None, False)]
    if given:
        raise ArgumentError(f"{given[0]} is not there with several responses; leave it out")
    if save is not None:
        from bhlm.studies.imputations.storage import check_mixture_place

        check_mixture_place(save)
    pooled, entry = _fit(
        which, data, formula,
        weights=weights, separator=separator, missing=missing, method=method,
        covariance=covariance, errors=errors, df=df,
    )  # fmt: skip
    print_title(entry)
    print_text(pooled.summary())
    writers: list[Callable[[], object]] = []
    status = 0
    content: dict[str, Any] = pooled.to_dict()
    shown: Pooled | Mixture | PooledComparison = pooled
    if what != "reml":
        chosen, _ = read_settings(entry, covariance, priors)
        VOICE.say("posterior given each response")
        mixture = shown = pooled.sample(priors=chosen, adjust=adjust, **dict(counts or {}))
        if save is not None:
            writers.append(partial(keep_fit, mixture, save))
        print_text(mixture.summary())
        content = {**content, "posterior": mixture.estimates.to_dict("index")}
        status = 0 if mixture.converged else 1
        if what == "reconcile":
            VOICE.say("reconciling")
            both = shown = reconcile(pooled, mixture)
            print_text(both.summary())
            content = both.to_dict()
            status = 0 if both.verdict in ("agree", "explained") else 1
    if dashboard:
        from bhlm.reports.dashboard.subjects import write_pooled

        page, title = dashboard, entry.title if entry else None
        source = name_source(entry, data) | {"Command": command}
        writers.append(lambda: write_pooled(shown, page, title=title, source=source))
    if json:
        writers.append(lambda: write_json(content, json))
    write_all(*writers)
    return status


def _fit(
    which: str | None,
    data: str | None,
    formula: str | None,
    *,
    weights: Any,
    separator: str | None,
    missing: Sequence[str] | None,
    method: str | None,
    covariance: str | None,
    errors: "str | ReplicateWeights | None",
    df: str | None,
) -> tuple["PooledFit", "GalleryModel | None"]:
    """Return the pooled fits, and the gallery model if it is one."""
    from bhlm.design.formula.weights import read_weights
    from bhlm.fits.pooled_fit import fit_imputations
    from bhlm.sources.gallery import find_model
    from bhlm.sources.open import open_table

    entry = None if which is None else find_model(which)
    table: Any
    responses = None if entry is None else entry.responses
    if entry is not None:
        if data is not None or formula is not None or weights is not None:
            raise ArgumentError(
                f"'{which}' names a gallery model, which has its data, formula and weights; give "
                "either the model or --data with --formula"
            )
        table, formula = find_data(entry), entry.formula
        weights = read_weights(entry.weights)
        method, covariance = method or entry.method, covariance or entry.covariance
    else:
        if data is None or formula is None:
            option = "--data" if data is None else "--formula"
            raise ArgumentError(
                f"{option} is missing; give --data FILE with --formula 'pv1 + pv2 ~ x + (x | g)'"
            )
        table = open_table(data, separator=separator, missing=missing or ())
    VOICE.say("fitting every response")
    sampling = weights is not None and weights.is_sampling
    found = fit_imputations(
        formula,
        table,
        responses=list(responses) if responses else None,
        method=method or ("ml" if sampling else "reml"),
        covariance=covariance,
        weights=weights,
        errors=errors,
        df=df,
    )
    return found, entry
