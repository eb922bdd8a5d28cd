"""The section on convergence: the verdict, its numbers by parameter, and the figures behind it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.convergence import BFMI, ESS, RHAT
from bhlm.bayes.importance.draws import KHAT
from bhlm.bayes.live import measure_shortfall
from bhlm.layout import agree, count
from bhlm.plots.chains import choose_worst
from bhlm.plots.divergences import plot_divergences
from bhlm.plots.energy import plot_energy
from bhlm.plots.evolution import plot_evolution
from bhlm.plots.ranks import plot_ranks
from bhlm.plots.style import SERIES, shorten
from bhlm.plots.traces import plot_traces
from bhlm.reports.dashboard.blocks import Section, Subject, Table, Text

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.draws import Posterior

COLUMNS = ("rhat", "ess_bulk", "ess_tail", "mean", "sd", "mcse_mean")


def build_convergence(subject: Subject) -> Section | None:
    """Return the section on whether the draws can be trusted; None without a posterior.

    It says what the verdict of `fit.diagnostics` says, tables R-hat, ESS and Monte Carlo error by
    parameter, the worst first, and shows ranks, traces, R-hat and ESS over the draws, and of NUTS
    energy and divergences.
    """
    post = subject.posterior
    if post is None:
        return None
    estimates = post.estimates
    panels, _ = choose_worst(post, None, estimates=estimates)
    lines, _ = choose_worst(post, None, most=len(SERIES), estimates=estimates)
    is_moved = post.diagnostics.certificate is None
    return Section(
        name="convergence",
        title="Convergence",
        blocks=(
            _describe_verdict(post, panels),
            _tabulate(estimates),
            plot_ranks(post, names=panels),
            plot_traces(post, names=panels),
            plot_evolution(post, names=lines),
            *([plot_energy(post), plot_divergences(post)] if is_moved else []),
        ),
    )


def _describe_verdict(post: "Posterior", panels: Sequence[str]) -> Text:
    found = post.diagnostics
    chains, draws = post.shape
    run = f"{count(chains, 'chain')} of {count(draws, 'draw')}"
    certificate = found.certificate
    run += (
        f" after {post.settings.tune:,} of warm-up"
        if certificate is None
        else ", drawn independently"
    )
    left = sum(not parameter.is_squared for parameter in post.parameters) - len(panels)
    shown = (
        (
            f"Ranks and traces are those of the {len(panels)} fixed effects, SDs and correlations "
            f"of the worst R-hat and ESS; {left} more {agree(left, 'is', 'are')} in the table "
            "alone.",
        )
        if left
        else ()
    )
    if found.failures:
        first = f"Of {run}: {count(len(found.failures), 'check')} failed, so do not report them."
        failures = tuple(f"{text[:1].upper()}{text[1:]}." for text in found.failures)
        content = (first, *failures, *shown)
        return Text(content, tone="bad", heading="The draws fail", listed=True)
    rest = (
        f"E-BFMI at least {found.min_bfmi:.2f} (limit {BFMI}); no transition diverged, and none "
        "hit the tree-depth limit."
        if certificate is None
        else f"{certificate.sentence} (limit of k-hat {KHAT})."
    )
    return Text(
        (
            f"{run[:1].upper()}{run[1:]} pass every check: R-hat is at most {found.max_rhat:.4f} "
            f"(limit {RHAT}), ESS at least {min(found.min_ess_bulk, found.min_ess_tail):,.0f} "
            f"(limit {ESS:.0f}), {rest}",
            *shown,
        ),
        tone="good",
        heading="The draws converged",
    )


def _tabulate(estimates: "pd.DataFrame") -> Table:
    shortfall = _measure(estimates)
    order = np.argsort(-shortfall, kind="stable")
    frame = estimates.iloc[order][list(COLUMNS)]
    failing = int((~(shortfall <= 1.0)).sum())
    worst, ratios = frame.iloc[0], frame["mcse_mean"] / frame["sd"]
    noise = (
        "No Monte Carlo error can be computed"
        if ratios.isna().all()
        else f"The Monte Carlo error of a mean is at most {100.0 * ratios.max():.1f} % of the "
        f"posterior SD ({shorten(ratios.idxmax())})"
    )
    verdict = f"{failing} of {count(len(frame), 'parameter')} {'is' if failing == 1 else 'are'}"
    verdict = f"{verdict if failing else 'No parameter is'} beyond a limit"
    return Table(
        name="diagnostics",
        title="R-hat, effective sample size and Monte Carlo error",
        reading=(
            f"{verdict}; the worst is {shorten(frame.index[0])}, with R-hat {worst['rhat']:.4f} "
            f"and an ESS of {min(worst['ess_bulk'], worst['ess_tail']):,.0f}. {noise}."
        ),
        frame=frame,
    )


def _measure(estimates: "pd.DataFrame") -> np.ndarray:
    columns = (estimates[key].to_numpy() for key in ("rhat", "ess_bulk", "ess_tail"))
    return measure_shortfall(*columns)
