"""The sections of a page about the posterior given all imputations, and its reconciliation."""

from typing import TYPE_CHECKING

from bhlm.layout import count, format_percent
from bhlm.plots.choice import say
from bhlm.plots.forest import list_rows
from bhlm.plots.imputations import name_fits
from bhlm.plots.style import shorten
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text, Tone
from bhlm.reports.dashboard.outcome import judge_mixture
from bhlm.reports.dashboard.reconciliation import HEADINGS, TONES
from bhlm.reports.dashboard.reproduction import tabulate_priors
from bhlm.reports.dashboard.verdict import join_ends, measure_rows
from bhlm.reports.text.pooled_reconciliation import HEADS, LEGEND

if TYPE_CHECKING:
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.reconciled import PooledComparison


def build_mixture(subject: Subject) -> Section | None:
    """Return the section on the mixture of posteriors; None where nothing was drawn."""
    mixture = subject.mixture
    if mixture is None:
        return None
    first = mixture.fits[0]
    found = judge_mixture(mixture)
    chains, draws = first.shape
    run = (
        f"{count(chains, 'chain')} of {count(draws, 'draw')} given each of {len(mixture.fits)} "
        f"({first.sampler})"
    )
    blocks: list[Block] = [
        Text(
            (found.headline, *found.details, f"{run[:1].upper()}{run[1:]}."),
            tone="good" if found.holds else "bad",
            heading="The draws converged" if found.holds else "The draws fail",
            listed=True,
        ),
        _tabulate_mixture(mixture),
    ]
    if first.adjustment is not None:
        told = first.adjustment.sentence
        text = f"{told[:1].upper()}{told[1:]}."
        tone: Tone = "caution" if first.adjustment.failure else "plain"
        blocks.append(Text((text,), tone=tone, heading="Draws under sampling weights"))
    blocks += [_tabulate_posteriors(mixture), tabulate_priors(first)]
    blocks.append(
        Text(("Priors are those given the first; defaults are scaled to each one's own response.",))
    )
    return Section("posterior", "Posterior", tuple(blocks))


def build_mixed_comparison(subject: Subject) -> Section | None:
    """Return the section on pooled estimates against the mixture; None if there are not both."""
    both = subject.mixed
    if both is None:
        return None
    verdicts = [one.verdict for one in both.each]
    blocks: list[Block] = [
        Text((both.conclusion,), tone=TONES[both.verdict], heading=HEADINGS[both.verdict]),
        _tabulate_shares(both),
        Text(
            tuple(text.replace(name, say(name)) for name, text in both.words.items()),
            heading="Each gap in words",
            listed=True,
        ),
    ]
    if both.reasons:
        blocks.append(Text(both.reasons, heading="Points", listed=True))
    names = name_fits(both.pooled)
    told = tuple(f"{name}: {verdict}." for name, verdict in zip(names, verdicts, strict=True))
    blocks.append(Text(told, heading="The verdict given each", listed=True))
    return Section("reconciliation", "Comparison", tuple(blocks))


def _tabulate_mixture(mixture: "Mixture") -> Table:
    import pandas as pd

    table = mixture.estimates
    rows = [name for name in table.index if name in set(list_rows(mixture.pooled))]
    own, pooled = table.loc[rows], mixture.pooled.estimates.loc[rows]
    frame = pd.DataFrame(
        {
            "pooled": pooled["estimate"],
            "posterior mean": own["mean"],
            "95 % interval": join_ends(own, measure_rows(own)),
            "sd": own["sd"],
            "within": own["within"],
            "between": own["between"],
            "fmi": own["fmi"],
            "ESS": own["ess_bulk"],
            "R-hat": own["rhat"],
        },
        index=pd.Index(rows, name="parameter"),
    )
    top = own["fmi"].dropna()
    reading = (
        "SD² is that within imputations plus that of their means; FMI is the share of the latter"
    )
    if len(top):
        most = str(top.idxmax())
        reading += f", at most {format_percent(float(top.max()))} ({shorten(most)})"
    return Table(
        "mixture", "The posterior given all, beside the pooled estimates", f"{reading}.", frame,
        first=("pooled", "posterior mean", "95 % interval", "fmi"),
        sizes=measure_rows(own), sized=("pooled", "posterior mean", "sd", "within", "between"),
    )  # fmt: skip


def _tabulate_posteriors(mixture: "Mixture") -> Table:
    import pandas as pd

    rows = []
    for name, fit in zip(name_fits(mixture.pooled), mixture.fits, strict=True):
        found = fit.diagnostics
        least = min(found.min_ess_bulk, found.min_ess_tail)
        rows.append([name, "yes" if fit.converged else "no", found.max_rhat, least])
    columns = ["given", "converged", "largest R-hat", "smallest ESS"]
    table = pd.DataFrame(rows, columns=columns).set_index("given")
    reading = (
        f"R-hat is at most {table['largest R-hat'].max():.4f}, ESS at least "
        f"{table['smallest ESS'].min():,.0f}."
    )
    return Table("posteriors", "The draws given each", reading, table)


def _tabulate_shares(both: "PooledComparison") -> Table:
    kept = [name for name in HEADS if name in both.table]
    frame = both.table[kept].rename(
        columns={"posterior": "mixture", "comparable_se": "comparable se", "gap_sd": "gap in SDs"}
    )
    frame = frame.rename(columns={"monte_carlo": "Monte Carlo"})
    legend = LEGEND.replace("se*", "comparable se")
    return Table("shares", "Where each gap comes from", legend, frame)
