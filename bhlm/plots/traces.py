"""Traces: each parameter's draws in their order, a line per chain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.errors import check_arguments
from bhlm.layout import count
from bhlm.plots.arviz_figures import name_roles
from bhlm.plots.chains import ROW, choose_worst, draw_panels, keep_every, list_looks, name_chains
from bhlm.plots.choice import merge_names
from bhlm.plots.figure import Figure
from bhlm.plots.style import shorten

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

SHOWN = 250  # draws of each chain


@check_arguments
def plot_traces(
    post: Posterior,
    *,
    names: str | Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of the draws in their order, one panel per parameter, by ArviZ.

    Chains that have found the posterior wander over the same range, without a trend. At most 250
    draws of each chain are drawn, at even steps.

    The figure's table has one row per chain and draw: `chain`, `draw` (from 0) and each
    parameter's value, of the draws that are drawn.

    Args:
        post: the posterior.
        names: parameters to draw; None for fixed effects, SDs and correlations, at most the eight
            of the worst R-hat and ESS.
        var_names: the same by ArviZ's name, which takes "beta" and "sd|school" too.

    Raises:
        ArgumentError: a name that is no parameter, or an empty list.
    """
    names = merge_names(names, var_names, post.parameters)
    every = post.draws
    chosen, left = choose_worst(post, names)
    draws = [every[name] for name in chosen]
    thinned = [keep_every(values, SHOWN)[0] for values in draws]
    step = keep_every(draws[0], SHOWN)[1]

    def draw(backend: str) -> Any:
        chains = len(thinned[0])
        colours, _ = list_looks(chains, backend)
        collection = draw_panels(
            "plot_trace", thinned, chosen, backend, step=step, color=colours,
            visuals={"trace": {"width": 0.8, "alpha": 0.8}},
        )  # fmt: skip
        name_roles(collection, name_chains([str(i + 1) for i in range(chains)]), backend)
        return collection

    return Figure(
        name="traces",
        title="Draws in their order",
        reading=_read(chosen, draws, step) + left + ".",
        table=tabulate_traces(chosen, thinned, step),
        height=ROW * -(-len(chosen) // 2) + 60,
        draw=draw,
    )


def tabulate_traces(names: Sequence[str], draws: Sequence[Array], step: int) -> "pd.DataFrame":
    """Return one row per chain and draw, with each parameter's value in a column of its name."""
    import pandas as pd

    chains, kept = draws[0].shape
    columns = [
        np.repeat(np.arange(1, chains + 1), kept),
        np.tile(np.arange(kept) * step, chains),
        *(values.ravel() for values in draws),
    ]
    frame = pd.DataFrame(dict(enumerate(columns)))
    return frame.set_axis(["chain", "draw", *names], axis=1)


def measure_apart(draws: Array) -> float:
    """Return the largest gap between the means of two chains, in SDs within the chains."""
    within = float(np.sqrt(np.mean(np.var(draws, axis=1, ddof=1))))
    means = draws.mean(axis=1)
    return float(np.ptp(means)) / within if within > 0.0 else float("inf") * np.ptp(means)


def measure_trend(draws: Array) -> float:
    """Return the gap between the means of the second and the first half, in SDs of all draws."""
    half = draws.shape[1] // 2
    spread = float(draws.std())
    shift = float(draws[:, half:].mean() - draws[:, :half].mean()) if half else float("nan")
    return shift / spread if spread > 0.0 else float("nan")


def _read(names: Sequence[str], draws: Sequence[Array], step: int) -> str:
    chains, kept = draws[0].shape
    trends = np.array([measure_trend(values) for values in draws])
    shown = f" (drawn: every {_order(step)} of {kept:,} draws)" if step > 1 else ""
    if not np.isfinite(trends).any():
        drift = "no parameter moves at all"
    else:
        at = int(np.nanargmax(np.abs(trends)))
        drift = (
            f"from the first to the second half of the draws no mean moves by more than "
            f"{abs(trends[at]):.2g} SD ({shorten(names[at])})"
        )
    if chains == 1:
        return f"There is one chain, so nothing to compare it with; {drift}{shown}"
    apart = np.array([measure_apart(values) for values in draws])
    worst = int(np.nanargmax(np.where(np.isnan(apart), -1.0, apart)))
    return (
        f"The means of {count(chains, 'chain')} lie at most {apart[worst]:.2g} SD apart "
        f"({shorten(names[worst])}), and {drift}{shown}"
    )


def _order(number: int) -> str:
    teens = 10 <= number % 100 <= 20
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
