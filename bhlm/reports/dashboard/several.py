"""The sections of a page about several posteriors side by side."""

from typing import TYPE_CHECKING

from bhlm.bayes.checks.loo import compare_posteriors
from bhlm.errors import BhlmError
from bhlm.layout import count, format_digits
from bhlm.plots.side_by_side import plot_fits, read_estimates
from bhlm.plots.variance_shares import plot_variance_shares
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text
from bhlm.reports.dashboard.reproduction import tabulate_versions

if TYPE_CHECKING:
    import pandas as pd


def build_side_by_side(subject: Subject) -> Section:
    """Return what was fitted, and every parameter of every fit."""
    told = []
    for name, fit in subject.fits.items():
        moments = fit.moments
        told.append(
            f"{name}: {moments.formula}; {moments.n_rows:,} rows in "
            f"{count(moments.n_groups, 'group')} of '{moments.group}'; "
            f"{'converged' if fit.converged else 'not to be reported, as its draws fail'}."
        )
    figure = plot_fits(subject.fits)
    table = tabulate_fits(subject)
    return Section(
        "verdict",
        "Side by side",
        (
            Text(tuple(told), heading="What was fitted", listed=True),
            figure,
            Table(
                "estimates",
                "Estimates",
                "Posterior means, beside their SDs and 95 % intervals.",
                table,
                first=("parameter", *subject.fits),
            ),
            plot_variance_shares(dict(subject.fits)),
        ),
    )


def tabulate_fits(subject: Subject) -> "pd.DataFrame":
    """Return a row per parameter: of each fit the mean, then SD and interval."""
    import pandas as pd

    parts = []
    for name, fit in subject.fits.items():
        own = read_estimates(fit)
        names = {"value": name, "spread": f"{name} SD", "lower": f"{name} lower"}
        parts.append(own.rename(columns=names | {"upper": f"{name} upper"}))
    joined = pd.concat(parts, axis=1)
    order = [*subject.fits, *(each for each in joined.columns if each not in subject.fits)]
    return joined[order].rename_axis("parameter")


def build_convergences(subject: Subject) -> Section:
    """Return how each fit converged."""
    import pandas as pd

    rows = []
    for name, fit in subject.fits.items():
        found = fit.diagnostics
        rows.append(
            [name, "yes" if found.ok else "no", found.max_rhat, found.min_ess_bulk,
             found.min_ess_tail, None if found.certificate is not None else found.divergences]
        )  # fmt: skip
    columns = ["fit", "ok", "largest R-hat", "least bulk ESS", "least tail ESS", "divergences"]
    table = pd.DataFrame(rows, columns=columns).set_index("fit")
    bad = int((table["ok"] == "no").sum())
    reading = f"{count(bad, 'fit')} of {len(table)} fail." if bad else "All fits converged."
    return Section(
        "convergence", "Convergence", (Table("diagnostics", "Diagnostics", reading, table),)
    )


def build_comparison(subject: Subject) -> Section:
    """Return which fit predicts a new group best."""
    try:
        found = compare_posteriors(subject.fits)
    except BhlmError as error:
        sentence = f"The fits cannot be compared by leaving groups out: {error}"
        return Section("checks", "Comparison", (Text((sentence,), tone="caution"),))
    best, other = found.index[0], found.index[1]
    behind = abs(float(found["elpd_diff"].iloc[1]))
    reading = (
        f"A new group is predicted best by {best}; {other} is "
        f"{format_digits(behind, 3)} behind, with a standard error of "
        f"{format_digits(float(found['dse'].iloc[1]), 2)}."
    )
    names = {"elpd_diff": "difference", "dse": "SE of the difference", "p": "effective parameters"}
    table = found.rename(columns=names).rename_axis("fit")
    return Section(
        "checks", "Comparison", (Table("elpd", "Leave-one-group-out elpd", reading, table),)
    )


def build_several_reproduction(subject: Subject) -> Section:
    """Return the versions, and the lines that read the fits."""
    blocks: list[Block] = [tabulate_versions()]
    if command := subject.source.get("Command"):
        blocks.append(Text((command,), heading="The command", code=True))
    lines = (
        "import bhlm",
        *(f"bhlm.load({path!r})" for path in subject.source.get("Fits", "").split("\n")),
    )
    blocks.append(Text(lines, heading="In Python", code=True))
    return Section("reproduction", "Reproduction", tuple(blocks))
