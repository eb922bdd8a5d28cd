"""The sections of a page about fits pooled over plausible values or imputations."""

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.bayes.storage.description import hash_moments
from bhlm.layout import count, format_digits, format_percent, list_names
from bhlm.plots.forest import list_rows, plot_forest
from bhlm.plots.imputations import name_fits, plot_imputations, plot_missing_information
from bhlm.plots.style import shorten
from bhlm.reml.compare import intraclass_correlation, r_squared
from bhlm.reml.fixed.few_groups import tell_weights
from bhlm.reports.dashboard.blocks import Block, Facts, Section, Subject, Table, Text, Tone
from bhlm.reports.dashboard.choices import state_formula
from bhlm.reports.dashboard.command_line import write_command
from bhlm.reports.dashboard.holdings import HEADING, list_holdings
from bhlm.reports.dashboard.outcome import choose_tone, judge
from bhlm.reports.dashboard.reproduction import (
    frame_values,
    tabulate_versions,
    write_errors,
    write_weights,
)
from bhlm.reports.dashboard.verdict import describe_dropped, describe_sizes, join_ends, measure_rows

if TYPE_CHECKING:
    from bhlm.studies.imputations.pooled import Pooled

SURE = 0.1  # relative error of a standard error up to which the number of fits is enough
AIM = 0.05  # what the advice on their number aims at


def find_pooled(subject: Subject) -> "Pooled":
    """Return the pooled fits that the page is about."""
    assert subject.pooled is not None
    return subject.pooled


def name_values(pooled: "Pooled") -> str:
    """Return what the fits are of: "plausible values" or "imputations"."""
    return "plausible values" if len(pooled.responses) == pooled.m else "imputations"


def build_pooled_verdict(subject: Subject) -> Section:
    """Return the findings, every pooled estimate, and what the imputations cost each."""
    pooled = find_pooled(subject)
    outcome = judge(subject)
    banner = Text((outcome.headline, *outcome.failures), tone=outcome.tone, heading=outcome.label)
    finding = outcome.findings.convergence
    lights = [
        Text(
            (finding.headline,),
            tone=choose_tone(finding),
            heading=f"Convergence: {finding.label[0].lower()}{finding.label[1:]}",
            light=True,
        ),
        *_judge_information(pooled),
        *_show_weights(pooled),
    ]
    advice = (*outcome.advice, *_advise_number(pooled))
    advice = advice or ("Nothing: report the pooled estimates with their intervals.",)
    to_do = Text(advice, heading="What to do", listed=len(advice) > 1)
    blocks: list[Block] = [banner, to_do, *lights, _list_facts(pooled), plot_forest(pooled)]
    if _measure_cost(pooled) is not None:
        blocks.append(plot_missing_information(pooled))
    blocks.append(_tabulate_main(pooled))
    if pooled.notes:
        blocks.append(
            Text(tuple(f"{note}." for note in pooled.notes), heading="To know", listed=True)
        )
    blocks.append(Text(_describe_fitted(pooled), heading="What was fitted", listed=True))
    holdings = list_holdings(subject, pooled.fits[0].moments)
    blocks.append(Text(holdings, heading=HEADING, listed=True))
    blocks.append(_tabulate_all(pooled))
    return Section("verdict", "Verdict", tuple(blocks))


def build_pooled_fits(subject: Subject) -> Section:
    """Return each fit beside the pooled one."""
    pooled = find_pooled(subject)
    return Section("fits", "Each fit", (plot_imputations(pooled), _tabulate_fits(pooled)))


def build_pooled_reproduction(subject: Subject) -> Section:
    """Return settings, versions, the data's hashes, and the lines that run it again."""
    pooled = find_pooled(subject)
    fit = pooled.fits[0]
    rows: dict[str, object] = {"formula": state_formula(pooled), "fits pooled": pooled.m}
    rows |= {"likelihood": fit.method, "covariance": fit.structure.kind}
    rows |= {"standard errors": fit.errors, "tests by": pooled.df, "level": pooled.level}
    digests = [hash_moments(each.moments) for each in pooled.fits]
    rows |= {
        f"SHA-256 of the moments of {name}": digest
        for name, digest in zip(name_fits(pooled), digests, strict=True)
    }
    reading = f"The moments of the first fit have the SHA-256 {digests[0][:12]}…."
    blocks: list[Block] = [
        Table("settings", "Data and settings", reading, frame_values(rows, "setting"), digits=10),
        tabulate_versions(),
    ]
    if command := write_command(subject):
        blocks.append(Text((command,), heading="The command", code=True))
    blocks.append(Text(_write_lines(subject, pooled), heading="In Python", code=True))
    return Section("reproduction", "Reproduction", tuple(blocks))


class Cost(NamedTuple):
    """What the imputations cost the parameter that loses most by them."""

    parameter: str
    fmi: float
    error: float  # of its standard error, relative


def _measure_cost(pooled: "Pooled") -> Cost | None:
    fmi = pooled.estimates.loc[list_rows(pooled), "fmi"].dropna()
    if not len(fmi):
        return None
    top = float(fmi.max())
    return Cost(str(fmi.idxmax()), top, top / float(np.sqrt(2.0 * (pooled.m - 1.0))))


def _advise_number(pooled: "Pooled") -> tuple[str, ...]:
    cost = _measure_cost(pooled)
    if cost is None or cost.error <= SURE:
        return ()
    return (
        f"Take more {name_values(pooled)} if there are any: standard errors are known to within "
        f"{format_percent(cost.error)} only. The estimates stand.",
    )


def _judge_information(pooled: "Pooled") -> list[Text]:
    """Return what the imputations cost, and whether there are enough of them.

    With m fits the relative error of a standard error is fmi / sqrt(2 (m - 1)), so that an error of
    c takes 1 + (fmi / c)^2 / 2 fits. Source: von Hippel (2020), Sociol. Methods Res. 49, 699-718.
    """
    cost = _measure_cost(pooled)
    if cost is None:
        return []
    most, top, error = cost
    sentences = [
        f"{shorten(most)} loses most to the {name_values(pooled)}: {format_percent(top)} of its "
        "information.",
        f"With {pooled.m} of them its standard error is itself known to within "
        f"{format_percent(error)}.",
    ]
    if error > SURE:
        enough = ceil(1.0 + 0.5 * (top / AIM) ** 2)
        sentences.append(f"{enough} of them would make that {format_percent(AIM)}.")
    tone: Tone = "good" if error <= SURE else "caution"
    heading = f"Missing information: at most {format_percent(top)}"
    return [Text(tuple(sentences), tone=tone, heading=heading, light=True)]


def _show_weights(pooled: "Pooled") -> list[Text]:
    told = tell_weights(pooled.fits[0].moments)
    if not told:
        return []
    weights = pooled.fits[0].weights
    assert weights is not None
    return [Text((f"{told}.",), heading=f"Weights: {weights.kind}", light=True)]


def _list_facts(pooled: "Pooled") -> Facts:
    fits, moments = pooled.fits, pooled.fits[0].moments
    icc = float(np.mean([intraclass_correlation(fit) for fit in fits]))
    shares = [r_squared(fit) for fit in fits]
    fixed, both = (
        float(np.mean([each[name] for each in shares])) for name in ("marginal", "conditional")
    )
    items = [
        ("Rows", f"{moments.n_rows:,}"),
        (f"Groups of {shorten(moments.group)}", f"{moments.n_groups:,}"),
        ("Rows dropped", f"{moments.dropped:,}"),
        (name_values(pooled).capitalize(), str(pooled.m)),
        ("ICC", format_digits(icc, 2)),
        ("R², marginal", format_digits(fixed, 2)),
        ("R², conditional", format_digits(both, 2)),
    ]
    if moments.weights is not None and moments.weights.is_sampling:
        size = moments.effective_size
        items.insert(3, ("Effective rows", f"{size['rows']:,.0f}"))
        items.insert(4, ("Effective groups", f"{size['groups']:,.0f}"))
    reading = "ICC at the means of the random columns, R² of Nakagawa and others, means over fits."
    return Facts("facts", "In short", reading, tuple(items))


def _tabulate_main(pooled: "Pooled") -> Table:
    import pandas as pd

    table = pooled.estimates.loc[list_rows(pooled)]
    ends = f"{100 * pooled.level:g} % interval"
    sizes = measure_rows(table)
    frame = pd.DataFrame(
        {
            "estimate": table["estimate"],
            ends: join_ends(table, sizes),
            "p": table["p"],
            "fmi": table["fmi"],
            "se": table["se"],
            "t": table["statistic"],
            "df": table["df"],
            "riv": table["riv"],
        },
        index=table.index,
    )
    reading = (
        "FMI is the fraction of missing information, RIV the relative increase in variance; p is "
        + ("by Rubin's t." if pooled.df == "z" else "by t on Barnard and Rubin's df.")
    )
    return Table(
        "estimates", "Pooled estimates", reading, frame, first=("estimate", ends, "p", "fmi"),
        sizes=sizes, sized=("estimate", "se"),
    )  # fmt: skip


def _tabulate_all(pooled: "Pooled") -> Table:
    fixed = len(pooled.fits[0].moments.fixed)
    reading = (
        f"{count(fixed, 'fixed effect')}, then variances and covariances, then SDs and "
        "correlations; variances and SDs were pooled by their logarithms, correlations by "
        "Fisher's z."
    )
    return Table("pooled_estimates", "All parameters", reading, pooled.estimates)


def _tabulate_fits(pooled: "Pooled") -> Table:
    import pandas as pd

    rows = [
        [name, fit.moments.n_rows, fit.moments.n_groups, fit.loglik,
         "yes" if fit.singular else "no", intraclass_correlation(fit), np.sqrt(fit.sigma2)]
        for name, fit in zip(name_fits(pooled), pooled.fits, strict=True)
    ]  # fmt: skip
    columns = ["fit", "rows", "groups", "log-likelihood", "singular", "icc", "residual SD"]
    table = pd.DataFrame(rows, columns=columns).set_index("fit")
    low, high = table["icc"].min(), table["icc"].max()
    reading = (
        f"The ICC runs from {format_digits(float(low), 3)} to {format_digits(float(high), 3)}; "
        "log-likelihoods of different responses do not compare."
    )
    return Table("fits", "The fits", reading, table)


def _describe_fitted(pooled: "Pooled") -> tuple[str, ...]:
    fit = pooled.fits[0]
    moments = fit.moments
    sentences = [
        f"Formula: {state_formula(pooled)}",
        describe_sizes(moments),
        describe_dropped(moments),
        f"Estimated by {fit.method.upper()}, once for each of {pooled.m} {name_values(pooled)}, "
        "and pooled by Rubin's rules.",
    ]
    if len(pooled.responses) > 1:
        sentences.append(f"Responses: {list_names(pooled.responses, most=20)}.")
    return tuple(sentences)


def _write_lines(subject: Subject, pooled: "Pooled") -> tuple[str, ...]:
    """Return the Python lines that fit and pool again, and draw and reconcile where that was."""
    fit = pooled.fits[0]
    before = [f"replicates = {fit.errors_code}"] if fit.errors_code else []
    after = ['pooled.dashboard("report.html")']
    if (mixture := subject.mixture) is not None:
        run, adjustment = mixture.fits[0].settings, mixture.fits[0].adjustment
        counts = [] if mixture.seed is None else [f"seed={mixture.seed}"]
        counts += [f"draws={run.draws}", f"tune={run.tune}", f"chains={run.chains}"]
        counts += ["adjust=False"] if adjustment and adjustment.failure == "adjust=False" else []
        after = [f"mixture = pooled.sample({', '.join(counts)})"]
        if subject.mixed is None:
            after.append('mixture.dashboard("report.html")')
        else:
            after.append("both = bhlm.reconcile(pooled, mixture)")
            after.append('both.dashboard("report.html")')
    given = [f"method={fit.method!r}", f"df={pooled.df!r}", f"level={pooled.level!r}"]
    if fit.structure.name_override is not None:
        given.append(f"covariance={fit.structure.name_override!r}")
    if fit.weights is not None:
        given.append(write_weights(fit.weights))
    if fit.errors != "model":
        given.append(write_errors(fit.errors))
    several = len(pooled.responses) == pooled.m
    formula, data = (state_formula(pooled), "data") if several else (fit.moments.formula, "tables")
    what = "the table" if several else "a list with the imputed tables"
    return (
        "import bhlm",
        "",
        *before,
        f"pooled = bhlm.fit_imputations(  # {data}: {what}",
        f"    {formula!r},",
        f"    {data},",
        *(f"    {each}," for each in given),
        ")",
        *after,
    )
