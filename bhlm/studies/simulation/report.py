"""A study as text: what was simulated, a table per condition, how the fits went."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bhlm.layout import align_columns, align_left, align_right, format_digits, wrap
from bhlm.studies.simulation.study import Study
from bhlm.studies.simulation.summary import ESS_PER_HALF, RHAT

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 100
DIGITS = 3
HEAD = ("", "true", "bias", "+-MC", "RMSE", "cover", "+-MC", "width", "reject", "+-MC")
LEGEND = (
    "true: the value simulated with. bias: mean estimate less true. cover: percent of 95 % "
    "intervals that hold the true value, of the replicates in which there is an interval; where "
    "some have none, how many do stands behind the line. width: of the intervals, the median. "
    "reject: percent of intervals that leave out 0, the power of the test, or its size where true "
    "is 0. +-MC: the Monte Carlo standard error of the number before it. REML intervals: by df "
    "method for fixed effects; of variances, reml: Wald on the log scale (of correlations on "
    "Fisher's z), reml profile: by the profile likelihood. Bayes: equal-tailed."
)


def render_study(study: Study, table: "pd.DataFrame", fits: "pd.DataFrame") -> str:
    """Return the study's text.

    Args:
        study: the study.
        table: of `StudyResult.table`.
        fits: of `StudyResult.fits`.
    """
    true = ", ".join(f"{name} {value:g}" for name, value in study.truth.fixed)
    settings = study.settings
    lines = [
        f"Simulation study: {study.title}",
        f"{study.truth.formula}, {study.total} data sets, {study.replicates} in each of "
        f"{len(study.conditions)} conditions; seed {study.seed}",
        f"true fixed effects: {true}; residual variance {study.truth.residual_variance:g}",
    ]
    if study.priors:
        lines.append(
            f"posteriors of {settings.chains} chains of {settings.draws} draws after "
            f"{settings.tune} of warm-up"
        )
        lines += [f"  priors {name}: {_describe_priors(priors)}" for name, priors in study.priors]
    # Means tell all about the fixed effects, and variances about SDs.
    sds = [str(parameter) for parameter in study.truth.parameters if parameter.is_sd]
    for at, condition in enumerate(study.conditions):
        lines += ["", str(condition)]
        lines += _draw_table(table[(table["condition"] == at) & ~table["parameter"].isin(sds)])
        lines += _describe_fits(fits[fits["condition"] == at])
    return "\n".join([*lines, "", *wrap(LEGEND, WIDTH), *wrap(_explain_failures(study), WIDTH)])


def _draw_table(shown: "pd.DataFrame") -> list[str]:
    """Return the table of one condition: under each parameter its estimators."""
    tested = shown["reject"].notna()
    shown = shown[~tested | shown["point"].isin(["estimate", "mean"])]
    rows: list[tuple[str, ...]] = [HEAD]
    notes = [""]
    for name in dict.fromkeys(shown["parameter"]):
        part = shown[shown["parameter"] == name]
        true = format_digits(float(part["true"].iloc[0]), DIGITS)
        rows.append((name, true, *[""] * (len(HEAD) - 2)))
        notes.append("")
        for row in part.to_dict("records"):
            rows.append(_draw_row(row))
            lacks = row["intervals"] < row["replicates"]
            notes.append(f"  of {row['intervals']}" if lacks else "")
    sides = [align_left, *[align_right] * (len(HEAD) - 1)]
    lines = align_columns(rows, sides=sides, gap="  ")
    rule = "-" * max(map(len, lines))
    lines = [f"{line}{note}" for line, note in zip(lines, notes, strict=True)]
    return [rule, lines[0], rule, *lines[1:], rule]


def _draw_row(row: dict[str, Any]) -> tuple[str, ...]:
    point = "" if row["point"] == "estimate" else f" {row['point']}"
    return (
        f"  {row['estimator']}{point}",
        "",
        format_digits(row["bias"], DIGITS),
        format_digits(row["bias_mcse"], DIGITS - 1),
        format_digits(row["rmse"], DIGITS),
        _percent(row["coverage"]),
        _percent(row["coverage_mcse"]),
        format_digits(row["width_median"], DIGITS),
        _percent(row["reject"]),
        _percent(row["reject_mcse"]),
    )


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f}" if share == share else "."


def _describe_fits(fits: "pd.DataFrame") -> list[str]:
    """Return a line per fit that says how many went wrong, and the first error."""
    lines = []
    for row in fits.to_dict("records"):
        parts = [f"{row['errors']} errors", f"{row['not_converged']} not converged"]
        if row["fit"] == "reml":
            parts.append(f"{row['singular']} singular")
        else:
            parts.append(f"{row['divergent']} with divergent transitions")
            parts.append(
                f"smallest ESS of any parameter {row['median_ess_bulk']:.0f} bulk, "
                f"{row['median_ess_tail']:.0f} tail (median over fits)"
            )
        text = f"{row['fit']}: {row['replicates']} fits, {', '.join(parts)}"
        lines += wrap(text, WIDTH, indent=2)
        if row["first_error"]:
            lines += wrap(f"  the first error: {row['first_error']}", WIDTH, indent=2)
    return lines


def _explain_failures(study: Study) -> str:
    """Return what becomes of fits that failed."""
    text = (
        "Fits that did not converge are counted like the others; those with an error have no "
        "numbers to count. A singular fit has no standard errors of the variances concerned, "
        "hence no Wald intervals: their cover is that of the other replicates. Profile intervals "
        "exist in every fit."
    )
    if any(each.icc == 0.0 or each.slope_variance == 0.0 for each in study.conditions):
        text += (
            " A variance that is truly 0 lies outside every interval for it by Wald or by Bayes: "
            "its cover is 0 by construction. A profile interval holds it unless the likelihood "
            "ratio exceeds 3.84, which it does in less than 2.5 % of data sets: half of those "
            "ratios or more are 0."
        )
    if study.priors:
        least = 2 * study.settings.chains * ESS_PER_HALF
        text += (
            f" Posteriors count as converged with R-hat up to {RHAT:g} and a bulk and tail ESS "
            f"of at least {least:g} for every parameter."
        )
    return text


def _describe_priors(priors: Any) -> str:
    given = {
        name: getattr(priors, name)
        for name in ("fixed", "sd", "corr", "sigma")
        if getattr(priors, name) is not None
    }
    if not given:
        return "autoscaled defaults"
    parts = []
    for name, value in given.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{each} {prior}" for each, prior in value.items())
        parts.append(f"{name} {value}")
    return "; ".join(parts) + "; defaults for the rest" * (len(given) < 4)
