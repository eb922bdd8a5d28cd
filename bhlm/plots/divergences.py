"""Divergences: where in the plane of an SD and another parameter the sampler lost its way."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.errors import check_arguments
from bhlm.layout import agree, count
from bhlm.likelihood.parameters import RESIDUAL_SD
from bhlm.plots.chains import tick_log
from bhlm.plots.choice import title
from bhlm.plots.energy import refuse_unmoved
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Panel, Points
from bhlm.plots.style import shorten

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

SHOWN = 2000  # draws
MARKED = 500  # divergent ones
WIDE = 30.0  # times the smallest draw: from here on the axis is logarithmic


@check_arguments
def plot_divergences(post: Posterior) -> Figure:
    """Return the figure of the draws in the plane of an SD and a correlation, divergences marked.

    Across is the random effects' SD in which the divergent transitions lie furthest from the
    others; if there are none, the one that comes closest to zero. Up is one of its correlations,
    else the next SD, else that of the residuals, else a fixed effect. Divergences that crowd in
    one corner show the part of the posterior that the sampler does not reach; scattered ones are
    often harmless, and go away with a smaller step (target_accept). Reference: Betancourt (2017),
    arXiv:1701.02434, section 6.2.

    The figure's table has one row per point: `chain`, `draw` (from 0), `divergent`, and the two
    parameters. At most 2,000 draws are drawn, at even steps, and 500 divergent ones.

    Args:
        post: the posterior.

    Raises:
        ArgumentError: independent draws, which no sampler moved.
    """
    refuse_unmoved(post, "divergences")
    diverging = post.data["sample_stats"]["diverging"].values
    draws = post.draws
    across, up = choose_plane(post, draws, diverging)
    table = tabulate_plane(draws[across], draws[up], diverging, names=(across, up))
    x = draws[across]
    log = bool(x.min() > 0.0 and x.max() > WIDE * x.min())
    ticks = tick_log(float(x.min()), float(x.max()), steps=(1.0, 3.0)) if log else None
    calm, wild = (table[table["divergent"] == flag] for flag in (False, True))
    marks = [
        Points(
            x=calm.iloc[:, 3].to_numpy(),
            y=calm.iloc[:, 4].to_numpy(),
            role="data",
            name="draws",
            size=4.0,
            opacity=0.4,
        )
    ]
    if len(wild):
        marks.append(
            Points(
                x=wild.iloc[:, 3].to_numpy(),
                y=wild.iloc[:, 4].to_numpy(),
                role="warning",
                name="divergent transitions",
                hover=tuple(
                    f"divergent: chain {chain}, draw {draw}\n{across} {x:.4g}\n{up} {y:.4g}"
                    for chain, draw, _, x, y in wild.itertuples(index=False, name=None)
                ),
                size=8.0,
            )
        )
    return Figure(
        name="divergences",
        title="Divergent transitions",
        reading=_read(draws, across, up, diverging, len(calm), len(wild)),
        table=table,
        panels=(
            Panel(
                x=Axis(title(across) + (" (log scale)" if log else ""), ticks, log=log),
                y=Axis(title(up)),
                marks=tuple(marks),
            ),
        ),
    )


def choose_plane(post: Posterior, draws: Mapping[str, Array], diverging: Array) -> tuple[str, str]:
    """Return the SD that goes across and the parameter that goes up.

    Args:
        post: the posterior.
        draws: parameter -> (chain, draw).
        diverging: (chain, draw) of bool.
    """
    labels = post.structure.labels
    named = dict(zip(labels, map(str, post.structure.scaled), strict=True))
    sds = [i for i, j in labels if i == j]
    at = max(sds, key=lambda i: _measure_pull(draws[named[i, i]], diverging))
    partners = [named[label] for label in labels if at in label and label != (at, at)]
    others = [named[i, i] for i in sds if i != at]
    # Of a family there is no residual SD, and where it is known no draw of it.
    rest = [name for name in (str(RESIDUAL_SD), *draws) if name in draws and name != named[at, at]]
    return named[at, at], [*partners, *others, *rest][0]


def _measure_pull(draws: Array, diverging: Array) -> float:
    """Return how far the divergent draws are from the mean, in SDs; else how close 0 comes."""
    mean, sd = float(draws.mean()), float(draws.std())
    if diverging.any() and sd > 0.0:
        return abs(float(draws[diverging].mean()) - mean) / sd
    return -float(np.quantile(draws, 0.025)) / mean if mean > 0.0 else 0.0


def tabulate_plane(
    x: Array, y: Array, diverging: Array, *, names: tuple[str, str]
) -> "pd.DataFrame":
    """Return the draws that are drawn, at most 2,000 that did not diverge and 500 that did.

    Args:
        x: (chain, draw) of the parameter across.
        y: (chain, draw) of the parameter up.
        diverging: (chain, draw) of bool.
        names: of the two.
    """
    import pandas as pd

    parts = [_thin(np.flatnonzero(~diverging), SHOWN), _thin(np.flatnonzero(diverging), MARKED)]
    at = np.concatenate(parts)
    chain, draw = np.unravel_index(at, diverging.shape)
    columns = [chain + 1, draw, diverging.ravel()[at], x.ravel()[at], y.ravel()[at]]
    frame = pd.DataFrame(dict(enumerate(columns)))
    return frame.set_axis(["chain", "draw", "divergent", *names], axis=1)


def _thin(at: Array, most: int) -> Array:
    return at[:: max(1, -(-len(at) // most))]


def _read(
    draws: Mapping[str, Array], across: str, up: str, diverging: Array, calm: int, wild: int
) -> str:
    found, total = int(diverging.sum()), diverging.size
    shown = f" ({calm:,} of the other {total - found:,} draws {agree(calm, 'is', 'are')} drawn)"
    shown = shown if calm < total - found else ""
    if found == 0:
        shown = shown.replace("other ", "")
        low, high = np.quantile(draws[across], [0.025, 0.975])
        return (
            f"None of the {total:,} transitions diverged, down to the smallest values of "
            f"{shorten(across)}, whose 95 % interval is {low:.3g} to {high:.3g}{shown}."
        )
    values = draws[across]
    middle, wildly = float(np.median(values)), values[diverging]
    below = int((wildly < middle).sum())
    side = "below" if 2 * below >= found else "above"
    number = below if side == "below" else found - below
    which = f"{number} of them" if found > 1 else "it"
    if number == found > 1:
        which = "all of them"
    marked = f" ({wild} {agree(wild, 'is', 'are')} marked)" if wild < found else ""
    return (
        f"{count(found, 'transition')} of {total:,} diverged{marked}, {which} {side} the median "
        f"{middle:.3g} of {shorten(across)}: part of the posterior there may not have been reached"
        f"{shown}."
    )
