"""Evolution: how R-hat and the effective sample sizes came to be as the draws grew in number."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.convergence import ESS, RHAT
from bhlm.bayes.draws import Posterior
from bhlm.bayes.mixing import measure
from bhlm.errors import check_arguments
from bhlm.plots.chains import choose_worst, tick_log
from bhlm.plots.choice import merge_names
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Line, Panel, Rule
from bhlm.plots.style import SERIES, shorten

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

POINTS = 20  # counts of draws
LONG = 4000  # draws of each chain; of more the figure has half as many counts, which cost time
FIRST = 8  # draws of each chain, of which R-hat and ESS say anything
KINDS = {"rhat": "R-hat", "ess_bulk": "Bulk ESS", "ess_tail": "Tail ESS"}


@check_arguments
def plot_evolution(
    post: Posterior,
    *,
    names: str | Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of R-hat, bulk and tail ESS of the first m draws of every chain, over m.

    R-hat comes down to its limit of 1.01 and stays, and the ESS grows in proportion to the draws
    beyond its 400, where the chains explore the posterior; an ESS that levels off is a warning
    that more draws will not mend. R-hat and ESS are those of Vehtari, Gelman, Simpson, Carpenter
    & Buerkner (2021), Bayesian Analysis 16, 667-718, sections 4.1 to 4.3, by arviz_stats.

    The figure's table has one row per count of draws and parameter: `draws` (of each chain),
    `parameter`, `rhat`, `ess_bulk`, `ess_tail`.

    Args:
        post: the posterior.
        names: parameters to draw; None for the six of the worst R-hat and ESS among fixed effects,
            SDs and correlations.
        var_names: the same by ArviZ's name, which takes "beta" and "sd|school" too.

    Raises:
        ArgumentError: a name that is no parameter, or an empty list.
    """
    names = merge_names(names, var_names, post.parameters)
    chosen, left = choose_worst(post, names, most=len(SERIES))
    every = post.draws
    table = tabulate_evolution({name: every[name] for name in chosen})
    return Figure(
        name="evolution",
        title="R-hat and effective sample size as the draws grew",
        reading=_read(table) + left + ".",
        table=table,
        panels=tuple(_draw_panel(table, chosen, kind) for kind in KINDS),
        columns=3,
        height=400,
    )


def tabulate_evolution(draws: Mapping[str, Array]) -> "pd.DataFrame":
    """Return R-hat, bulk and tail ESS of the first draws, at up to twenty counts.

    Args:
        draws: parameter -> (chain, draw).
    """
    import pandas as pd

    names = list(draws)
    stack = np.stack([draws[name] for name in names])
    total = stack.shape[2]
    first = min(max(FIRST, total // POINTS), total)
    points = POINTS if total <= LONG else POINTS // 2
    counts = np.unique(np.linspace(first, total, points).astype(int))
    parts = []
    for count in counts:
        measured = measure(stack[:, :, :count])._asdict()
        parts.append(pd.DataFrame({"draws": count, "parameter": names} | measured))
    return pd.concat(parts, ignore_index=True)


def _draw_panel(table: "pd.DataFrame", names: Sequence[str], kind: str) -> Panel:
    marks: list[Line | Rule] = []
    for at, name in enumerate(names):
        rows = table[table["parameter"] == name]
        marks.append(
            Line(
                x=rows["draws"].to_numpy(),
                y=rows[kind].to_numpy(),
                role=SERIES[at % len(SERIES)],
                name=name,
                hover=tuple(
                    f"{name}\n{KINDS[kind]} {value:.4g} of the first {count:,} draws per chain"
                    for count, value in zip(rows["draws"], rows[kind], strict=True)
                ),
            )
        )
    limit = RHAT if kind == "rhat" else ESS
    shown = table[kind].to_numpy()
    shown = np.append(shown[np.isfinite(shown)], limit)
    marks.append(Rule(limit, "y", "reference", "limit: R-hat 1.01, ESS 400"))
    y = Axis(KINDS[kind])
    if kind != "rhat":
        y = Axis(KINDS[kind], tick_log(shown.min(), shown.max(), steps=(1.0, 2.0, 4.0)), log=True)
    return Panel(
        x=Axis("draws per chain"),
        y=y,
        marks=tuple(marks),
    )


def _read(table: "pd.DataFrame") -> str:
    """Return from which count of draws on the limits hold, and where the ESS ends."""
    sizes = table[["ess_bulk", "ess_tail"]].min(axis=1, skipna=False)
    holds = ((table["rhat"] <= RHAT), (sizes >= ESS))
    total = int(table["draws"].max())
    last = table[table["draws"] == total]
    ends = sizes[last.index]
    words = []
    for found, kept, lost, never in zip(
        holds,
        ("R-hat keeps to at most 1.01", "every ESS is at least 400"),
        ("R-hat ends above 1.01", "the ESS ends below 400"),
        ("R-hat cannot be computed", "the ESS cannot be computed"),
        strict=True,
    ):
        per_count = found.groupby(table["draws"]).all()
        failing = per_count.index[~per_count]
        if not len(failing):
            words.append(f"{kept} from the first {per_count.index[0]:,} draws per chain on")
        elif failing[-1] < total:
            since = per_count.index[per_count.index > failing[-1]][0]
            words.append(f"{kept} from {since:,} draws per chain on")
        else:
            values = last["rhat"] if found is holds[0] else ends
            if values.isna().any():
                worst = last.loc[values.isna().idxmax(), "parameter"]
                words.append(f"{never} for {shorten(worst)}")
            else:
                at = values.idxmax() if found is holds[0] else values.idxmin()
                size = f"{values[at]:.4g}" if found is holds[0] else f"{values[at]:,.0f}"
                words.append(f"{lost}, at {size} in {shorten(last.loc[at, 'parameter'])}")
    text = " and ".join(words)
    if ends.isna().all():
        return text[0].upper() + text[1:]
    if "the ESS ends below 400" in text:  # and where
        return text[0].upper() + text[1:]
    least = ends.idxmin()
    text += f"; of {total:,} draws per chain the smallest ESS is {ends[least]:,.0f}"
    return f"{text[0].upper()}{text[1:]}, in {shorten(last.loc[least, 'parameter'])}"
