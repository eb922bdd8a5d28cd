"""Pairs: the draws of chosen parameters, each against each other."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.errors import ArgumentError, check_arguments
from bhlm.plots.chains import choose_worst
from bhlm.plots.choice import list_parameters, merge_names, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Panel, Points
from bhlm.reconciliation.comparison import Comparison

Array = np.ndarray

MOST = 4  # parameters of the default figure
MOST_ASKED = 7
SHOWN = 1000  # draws
PANEL = 260  # pixels


@check_arguments
def plot_pairs(
    fit: "Draws | Comparison",
    *,
    names: str | Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return one panel for each pair of parameters, with up to 1,000 draws and divergences marked.

    Of a reconciliation the REML estimate is marked too. The figure's table has a row for each pair,
    `x`, `y` and their `correlation`.

    Args:
        fit: a posterior, or a reconciliation.
        names: two to seven parameters; None for the four of the worst R-hat and ESS among fixed
            effects, SDs and correlations.
        var_names: the same by ArviZ's name, which takes "beta" and "sd|school" too.

    Raises:
        ArgumentError: a name that is no parameter, or fewer than two or more than seven of them.
    """
    import pandas as pd

    post = fit.split_pair("a figure of pairs")[1] if isinstance(fit, Comparison) else fit
    reml = fit.reml.estimates["estimate"] if isinstance(fit, Comparison) else None
    asked = merge_names(names, var_names, post.parameters)
    chosen, left = choose_worst(post, asked, most=MOST)
    if not 2 <= len(chosen) <= MOST_ASKED:
        raise ArgumentError(
            f"names= has {len(chosen)} of the parameters; give 2 to {MOST_ASKED} for pairs"
        )
    every = post.draws
    draws = {name: every[name].ravel() for name in chosen}
    stats = post.data["sample_stats"].dataset
    # Independent draws have no transitions.
    found = stats["diverging"].values if "diverging" in stats else np.zeros(post.shape)
    diverging = found.ravel().astype(bool)
    total = len(diverging)
    calm = np.flatnonzero(~diverging)
    calm, wild = calm[:: max(1, -(-len(calm) // SHOWN))], np.flatnonzero(diverging)[:SHOWN]
    panels, rows = [], []
    for a, b in combinations(chosen, 2):
        x, y = draws[a], draws[b]
        has_spread = float(x.std()) > 0.0 and float(y.std()) > 0.0
        r = float(np.corrcoef(x, y)[0, 1]) if has_spread else float("nan")
        rows.append([a, b, r])
        marks: list[Mark] = [Points(x[calm], y[calm], "data", "Draws", size=3.0, opacity=0.35)]
        if len(wild):
            marks.append(Points(x[wild], y[wild], "warning", "Divergent transitions", size=6.0))
        if reml is not None and np.isfinite(reml[[a, b]]).all():
            at = (np.array([float(reml[a])]), np.array([float(reml[b])]))
            marks.append(Points(*at, "reml", "REML estimate", size=9.0))
        panels.append(Panel(Axis(title(a)), Axis(title(b)), tuple(marks), title=f"r = {r:.2f}"))
    table = pd.DataFrame(rows, columns=["x", "y", "correlation"])
    size = table["correlation"].abs()
    if size.notna().any():
        strongest = table.loc[size.idxmax()]
        reading = (
            f"Over {total:,} draws the closest tie is that of {say(strongest['x'])} and "
            f"{say(strongest['y'])}, r = {strongest['correlation']:.2f}"
        )
    else:
        reading = f"None of {list_parameters(chosen)} moves"
    if "diverging" in stats:
        reading += f"; {int(diverging.sum()) or 'no'} transitions diverged"
    columns = min(3, len(panels))
    return Figure(
        name="pairs",
        title="Pairs of parameters",
        reading=reading + left + ".",
        table=table,
        panels=tuple(panels),
        columns=columns,
        height=PANEL * -(-len(panels) // columns) + 60,
    )
