"""Ranks: whether each chain's draws rank evenly among those of all chains."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.errors import check_arguments
from bhlm.layout import count
from bhlm.plots.arviz_figures import name_roles
from bhlm.plots.chains import (
    ROW,
    build_tree,
    choose_worst,
    draw_panels,
    keep_every,
    list_looks,
    name_chains,
)
from bhlm.plots.choice import merge_names
from bhlm.plots.figure import Figure
from bhlm.plots.plotly_figures import ROLE
from bhlm.plots.style import ROLES, shorten

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

SHOWN = 250  # draws of each chain; the test's cost grows with their number
CLEAR = 100.0  # times below its level a p-value leaves no doubt
ERROR = 0.05  # chance that good chains fail the test in any of the panels


@check_arguments
def plot_ranks(
    post: Posterior,
    *,
    names: str | Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of the chains' rank ECDFs less the even one's, by ArviZ.

    The draws of all chains are ranked together. Where the chains have found one posterior, each
    has its share of low, middle and high ranks, and its line stays near 0 from rank 0 to 1. A
    test of uniformity that knows of the ranks' dependence gives each panel a p-value, and points
    where it fails are marked; its level is 0.05 over the number of panels. At most 250 draws of
    each chain are ranked, at even steps; a single chain is cut in two halves, as for R-hat.

    The figure's table has one row per chain and rank: `chain`, `rank` (of 0 to 1) and each
    parameter's difference. Reference: ArviZ's plot_rank; Saeilynoja, Buerkner & Vehtari (2022),
    Statistics and Computing 32, 32, section 3.

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
    chains, kept = draws[0].shape
    halved = chains == 1 and kept > 1
    if halved:
        half = kept // 2
        draws = [np.stack([values[0, :half], values[0, half : 2 * half]]) for values in draws]
    labels = ["1, first half", "1, second half"] if halved else [str(i + 1) for i in range(chains)]
    thinned = [keep_every(values, SHOWN)[0] for values in draws]
    level = ERROR / len(chosen)

    def draw(backend: str) -> Any:
        colours, dashes = list_looks(len(labels), backend)
        collection = draw_panels(
            "plot_rank", thinned, chosen, backend, color=colours, linestyle=dashes,
            aes={"color": ["chain"], "linestyle": ["chain"], "overlay": ["chain"]},
            envelope_prob=1.0 - level,
            visuals={"remove_axis": False, "ecdf_lines": {"width": 1.5}},
        )  # fmt: skip
        _mark_suspects(collection.viz["figure"].item(), p_values, backend)
        name_roles(collection, name_chains(labels), backend, dashed=True)
        return collection

    table = tabulate_ranks(chosen, thinned, labels)
    p_values = find_p_values(thinned)
    shown = thinned[0].shape[1]
    thin = f" ({shown:,} of {draws[0].shape[1]:,} draws of each ranked)" if shown < kept else ""
    return Figure(
        name="ranks",
        title="Ranks of each chain's draws among all",
        reading=_read(chosen, p_values, level, table, halved) + thin + left + ".",
        table=table,
        height=ROW * -(-len(chosen) // 2) + 60,
        draw=draw,
    )


def tabulate_ranks(
    names: Sequence[str], draws: Sequence[Array], labels: Sequence[str]
) -> "pd.DataFrame":
    """Return the ECDF of each chain's fractional ranks less the even one's, on one grid of ranks.

    Args:
        names: the parameters, which name the columns.
        draws: (chain, draw) of each.
        labels: of the chains.
    """
    import pandas as pd

    kept = draws[0].shape[1]
    found = rank_draws(draws).azstats.ecdf(dim=["draw"], pit=True, npoints=kept)
    grid = found["p0"].sel(plot_axis="x", chain=0).values
    columns = [np.repeat(np.asarray(labels, dtype=object), kept), np.tile(grid, len(labels))]
    columns += [found[f"p{at}"].sel(plot_axis="y").values.ravel() for at in range(len(draws))]
    return pd.DataFrame(dict(enumerate(columns))).set_axis(["chain", "rank", *names], axis=1)


def rank_draws(draws: Sequence[Array]) -> "xr.Dataset":
    """Return each parameter's fractional ranks among all chains, by ArviZ."""
    import arviz_stats  # noqa: F401  (registers the accessor)

    dataset: xr.Dataset = build_tree(draws)["posterior"].dataset
    ranks: xr.Dataset = dataset.azstats.compute_ranks(dim=["chain", "draw"], relative=True)
    return ranks


def find_p_values(draws: Sequence[Array]) -> Array:
    """Return the p-value of the multi-chain test of uniformity of each parameter's ranks."""
    found = rank_draws(draws).azstats.mchain_uniformity_test(dim=["chain", "draw"])[0]
    return np.array([float(found[f"p{at}"]) for at in range(len(draws))])


def _mark_suspects(drawn: Any, p: Array, backend: str) -> None:
    """Give the points where the test fails their role, and the p-values two digits.

    ArviZ 1.3 takes no arguments for either.
    """
    texts = iter(["p < 0.0001" if value < 1e-4 else f"p = {value:.2g}" for value in p])
    if backend == "plotly":
        for trace in drawn.data:
            if trace.mode == "markers":
                trace.update(meta={ROLE: "warning"}, marker={"symbol": "x", "size": 4})
            elif trace.mode == "text":
                trace.text = [next(texts)]
        return
    for place in drawn.axes:
        for points in place.collections:
            points.set(color=ROLES["warning"].light, zorder=3)
        for text in place.texts:
            text.set_text(next(texts))


def _read(names: Sequence[str], p: Array, level: float, table: "pd.DataFrame", halved: bool) -> str:
    units = "halves of the one chain" if halved else "chains"
    failing = np.flatnonzero(~(p >= level))
    away = table.iloc[:, 2:].abs().to_numpy().max(axis=0)
    worst = int(np.argmax(away))
    far = f"{shorten(names[worst])} is furthest off, by {away[worst]:.2f}"
    if not len(failing):
        which = "the one parameter" if len(names) == 1 else f"all {len(names)} parameters"
        return (
            f"The {units} rank evenly in {which}: the smallest p is {p.min():.2g}, above "
            f"{level:.2g}, and {far}"
        )
    least = int(failing[np.argmin(np.nan_to_num(p[failing], nan=-1.0))])
    meaning = (
        "they have not found one posterior"
        if not p[least] >= level / CLEAR
        else "good chains come as far in one figure of 20"
    )
    return (
        f"The {units} do not rank evenly in {len(failing)} of {count(len(names), 'parameter')}: "
        f"p is {p[least]:.2g} in {shorten(names[least])}, below {level:.2g}, and {far}; {meaning}"
    )
