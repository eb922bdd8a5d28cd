"""Reconciliations -> the dictionaries of the JSON."""

from typing import TYPE_CHECKING, Any

from bhlm.files import make_plain
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.strata import StrataEstimate
from bhlm.reports.family_json import (
    describe_family,
    describe_family_levels,
    describe_level_patterns,
    describe_patterns,
)
from bhlm.reports.json import (
    describe_cells,
    describe_levels,
    describe_model,
    describe_pooled,
    describe_posterior,
    describe_reml,
    describe_strata,
)

if TYPE_CHECKING:
    from bhlm.reconciliation.comparison import Comparison
    from bhlm.reconciliation.findings import Findings
    from bhlm.studies.imputations.reconciled import PooledComparison


def describe_reconciliation(both: "Comparison", *, df: str | None = None) -> dict[str, Any]:
    """Return the whole reconciliation under the keys of the JSON; `df` as in `describe_reml`."""
    rows = {}
    for name, row in both.table.iterrows():
        values = row.to_dict()
        text = values.pop("published")
        rows[str(name)] = {
            "published": None if text is None else float(text),
            "published_text": text,
            **values,
            "withheld": both.withheld.get(str(name)),
            "words": both.words[str(name)],
        }
    return make_plain(
        {
            **_describe_reml_side(both.reml, df),
            "posterior": describe_posterior(both.post),
            "reconciliation": rows,
            "printed": [
                {
                    "name": check.name,
                    "quantity": check.quantity,
                    "printed": check.printed,
                    "computed": check.computed,
                    "reproduced": check.reproduced,
                    "to_last_digit": check.exact,
                }
                for check in both.printed
            ],
            "printed_note": both.printed_note,
            "route": both.route,
            "certification": describe_certification(both),
            "findings": describe_findings(both.findings),
            "reasons": list(both.reasons),
            "advice": list(both.advice),
            "conclusion": both.conclusion,
            "verdict": both.verdict,
        }
    )


def _describe_reml_side(
    fit: Estimate | LevelsEstimate | FamilyEstimate | FamilyLevelsEstimate | StrataEstimate,
    df: str | None,
) -> dict[str, Any]:
    """Return `model` and `reml` of a single factor or several, or of a family."""
    if isinstance(fit, FamilyEstimate):
        return {"model": describe_patterns(fit.patterns), "reml": describe_family(fit)}
    if isinstance(fit, FamilyLevelsEstimate):
        told = describe_level_patterns(fit.patterns)
        return {"model": told, "reml": describe_family_levels(fit)}
    if isinstance(fit, LevelsEstimate):
        return {"model": describe_cells(fit.moments), "reml": describe_levels(fit, df=df)}
    if isinstance(fit, StrataEstimate):
        return {"model": describe_model(fit.moments), "reml": describe_strata(fit, df=df)}
    return {"model": describe_model(fit.moments), "reml": describe_reml(fit, df=df)}


def describe_pooled_reconciliation(both: "PooledComparison") -> dict[str, Any]:
    """Return the reconciliation of pooled fits; `imputations` has that given each."""
    return make_plain(
        {
            **describe_pooled(both.pooled),
            "posterior": both.mixture.estimates.to_dict("index"),
            "reconciliation": {
                str(name): {**row.to_dict(), "words": both.words[str(name)]}
                for name, row in both.table.iterrows()
            },
            "imputations": [
                {"verdict": one.verdict, "certification": describe_certification(one)}
                for one in both.each
            ],
            "reasons": list(both.reasons),
            "conclusion": both.conclusion,
            "verdict": both.verdict,
        }
    )


def describe_findings(findings: "Findings") -> dict[str, Any]:
    """Return status and words of each finding that there is, by its topic."""
    return {
        name: {
            "status": found.status,
            "label": found.label,
            "headline": found.headline,
            "details": list(found.details),
        }
        for name, found in findings._asdict().items()
        if found is not None
    }


def describe_certification(both: "Comparison") -> dict[str, Any]:
    """Return whether the draws are certified, by what, and what is refuted of them."""
    exact, judgement = both.evidence.exact, both.evidence.judgement
    return {
        "certified": judgement is not None and judgement.sound and both.verdict != "not_converged",
        "route": both.evidence.route,
        "khat": None if exact is None else exact.khat,
        "effective_draws": None if exact is None else exact.draws.ess,
        "resolution": None if judgement is None else judgement.resolution,
        "refuted": [] if judgement is None else [list(each) for each in judgement.refuted],
    }
