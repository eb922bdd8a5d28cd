"""BayesFit -> the posterior table, the priors and the convergence verdict as text."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_digits,
    format_fixed,
    measure_widest,
    show_name,
    wrap,
)
from bhlm.likelihood.parameters import Parameter

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.convergence import Diagnostics
    from bhlm.bayes.draws import Posterior
    from bhlm.design.formula.weights import Weights
    from bhlm.moments.either import Reduced

WIDTH = 100
DIGITS = 5  # of what is estimated; Monte Carlo noise hides the others
HEADINGS = ("mean", "sd", "2.5 %", "50 %", "97.5 %", "bulk ESS", "tail ESS", "R-hat", "MCSE")


def render_posterior(fit: "Posterior") -> str:
    """Return what was sampled and how, the parameters' table, the priors and the verdict.

    Intervals are the equal-tailed 95 % ones; "." stands where a number does not exist. If the
    draws fail the convergence verdict, the text begins with FAILED and a sentence for each
    failure, and ends by saying so again; where the default prior alone bounds an SD, it begins
    with that.
    """
    lines = []
    if not fit.diagnostics.ok:
        lines += ["FAILED: the draws do not pass their verdict"]
        lines += [*_list_sentences(fit.diagnostics.failures), ""]
    if fit.diagnostics.prior_bound:
        lines += ["THE PRIOR DECIDES: the data leave part of the answer to it"]
        lines += [*_list_sentences(fit.diagnostics.prior_bound), ""]
    lines += [
        *_head(fit),
        "",
        *_tabulate(fit.estimates, fit.parameters),
        *_list_withheld(fit),
        "",
        *_list_priors(fit),
        "",
        *_judge(fit.diagnostics),
    ]
    return "\n".join(lines)


def _list_sentences(sentences: Sequence[str]) -> list[str]:
    return [line for text in sentences for line in wrap(f"* {text}", WIDTH, indent=2)]


def _judge(diagnostics: "Diagnostics") -> list[str]:
    numbers = diagnostics.numbers
    if diagnostics.ok:
        return wrap(f"Convergence: ok ({numbers}).", WIDTH)
    return wrap(
        f"Convergence: FAILED ({numbers}); do not report these draws, see the top for the next "
        "step.",
        WIDTH,
    )


def _head(fit: "Posterior") -> list[str]:
    moments = fit.moments
    chains, draws = fit.shape
    weights = moments.design.formula.weights
    error = getattr(fit, "error", None)
    known = [] if error is None else [f"log-likelihood known to {error:.1g} at every draw"]
    return [
        f"Posterior of {show_name(moments.formula)}",
        *_tell_sizes(moments),
        *([] if weights is None else wrap(_tell_weights(fit, weights), WIDTH, indent=2)),
        f"{chains} chains x {draws} draws, seed {fit.seed}, {fit.seconds:.1f} s ({fit.sampler})",
        *_tell_made(fit),
        *known,
    ]


def _tell_made(fit: "Posterior") -> list[str]:
    """Return how independent draws were made."""
    found = fit.diagnostics.certificate
    if found is None:
        return []
    text = (
        f"resampled by their weights from a mixture of t's that was fitted to the posterior, in "
        f"{found.evaluations:,} evaluations; {found.sentence}"
    )
    return wrap(text, WIDTH, indent=2)


def _tell_weights(fit: "Posterior", weights: "Weights") -> str:
    """Return what the weights are, and what was done to draws under sampling weights."""
    adjustment = getattr(fit, "adjustment", None)
    text = show_name(weights.sentence)
    return text if adjustment is None else f"{text}; {adjustment.sentence}"


def _tell_sizes(moments: "Reduced") -> list[str]:
    """Return how many rows and groups there are, of several factors a line each."""
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.level_patterns import LevelPatterns

    family = getattr(moments, "family", None)
    kind = [] if family is None else [f"{family.name} with {family.link} link"]
    if isinstance(moments, CellMoments | LevelPatterns):
        return [
            *kind,
            f"{moments.rows_used};",
            *(
                f"{count} levels of '{show_name(name)}' with {size['min']} to {size['max']} rows, "
                f"{size['mean']:.1f} on average"
                for (name, count), size in zip(
                    moments.groups.items(), moments.group_size.values(), strict=True
                )
            ),
        ]
    size = moments.group_size
    return [
        *kind,
        f"{moments.rows_used}; {moments.n_groups} groups of "
        f"'{show_name(moments.group)}' with {size['min']} to {size['max']} rows, "
        f"{size['mean']:.1f} on average",
    ]


def _tabulate(estimates: "pd.DataFrame", parameters: Sequence[Parameter]) -> list[str]:
    """Return the table, cut by headings into fixed effects, variances and the scaled ones."""
    rows = {str(name): _format_row(row) for name, row in estimates.iterrows()}
    sections: dict[str, list[str]] = {
        "Fixed effects": [],
        "Variance components": [],
        "SDs and correlations": [],
    }
    effects, squared, scaled = sections.values()
    for parameter in parameters:
        part = effects if parameter.is_fixed else squared if parameter.is_squared else scaled
        part.append(str(parameter))
    shown = {name: "  " + show_name(name) for name in rows}
    width = measure_widest([*shown.values(), *sections])
    cells = align_columns([HEADINGS, *rows.values()], sides=(align_right,) * len(HEADINGS))
    body = dict(zip(rows, cells[1:], strict=True))
    rule = "-" * (width + 1 + measure_widest(cells))
    lines = [rule, align_left("", width) + " " + cells[0], rule]
    for title, names in sections.items():
        lines.append(title)
        lines += [f"{align_left(shown[name], width)} {body[name]}" for name in names]
    return [*lines, rule]


def _list_withheld(fit: "Posterior") -> list[str]:
    """Return why means stand as ".", in a note each."""
    notes = dict.fromkeys(fit.withheld.values())
    return [line for note in notes for line in wrap(f"* {show_name(note)}.", WIDTH, indent=2)]


def _format_row(row: "pd.Series[float]") -> tuple[str, ...]:
    return (
        *(format_digits(row[key], DIGITS) for key in ("mean", "sd", "lower", "median", "upper")),
        *(format_fixed(row[key], 0) for key in ("ess_bulk", "ess_tail")),
        format_fixed(row["rhat"], 4),
        format_digits(row["mcse_mean"], 2),
    )


def _list_priors(fit: "Posterior") -> list[str]:
    pairs = [
        ("  " + show_name(name), show_name(prior))
        for name, prior in fit.priors.describe(fit.moments, structure=fit.structure).items()
    ]
    lines = align_columns(pairs, sides=(align_left, align_left), gap="  ")
    scales = ", ".join(f"{show_name(name)} {sd:.4g}" for name, sd in fit.scales.items())
    what = "the SDs of the columns"
    family = getattr(fit.moments, "family", None)
    if family is not None and math.isnan(family.latent_variance):
        what += ", and 1 for the response on the log scale"
    elif family is not None:  # the last is the response's
        what += " and of the link's latent residual"
    scaled = wrap(f"scaled by {what}: {scales}", WIDTH, indent=2)
    return ["Priors (autoscaled to the data where none was given)", *lines, *scaled]
