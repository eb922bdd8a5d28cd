"""The posterior predictive check of the groups: what was observed among replicates of it."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.checks.predictive import (
    OUTSIDE,
    PredictiveCheck,
    check_groups,
    name_statistic,
    name_variable,
)
from bhlm.bayes.draws import Draws
from bhlm.bayes.family.checks import check_groups as check_family_draws
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.family.level_checks import check_units
from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.errors import check_arguments
from bhlm.layout import format_digits
from bhlm.plots.arviz_figures import BY_COLOUR, find_writer, name_roles
from bhlm.plots.family_check import draw_family_check
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Panel, Points
from bhlm.plots.style import ROLES, shorten
from bhlm.reml.family.checks import check_groups as check_family
from bhlm.reml.family.estimate import FamilyEstimate

if TYPE_CHECKING:
    import pandas as pd

REPLICATES = 25  # densities that one panel draws
GRID = 128  # points of a density
PANEL = 190  # pixels
ROW, SIDE_BY_SIDE = 230, 3  # pixels of a row of densities on a screen, and how many stand in it
FEWEST = 30  # groups from which on a density says more than its three summaries
PANELS = 6  # statistics that are drawn


@check_arguments
def plot_predictive(
    post: Draws | FamilyDraws | FamilyLevelDraws | FamilyEstimate, *, kind: str = "same groups"
) -> Figure:
    """Return the distribution over groups of their statistics, beside that of replicates.

    The statistics are each group's mean, its least-squares slopes and its residual SD. ArviZ's
    `plot_ppc_dist` draws a density of the observed ones and of each of 25 replicates. With fewer
    than 30 groups, of which a density says little, and with so many that replicates are not
    kept, their mean, SD and largest deviation over the groups stand beside the 95 % intervals of
    those of replicates.

    Of zeros and ones, proportions and counts it is each group's proportion or rate beside the 95 %
    interval of its replicates, and the calibration by tenths of what is predicted.

    Args:
        post: the posterior, or the fit of a family by maximum likelihood.
        kind: of `post.check`: "same groups" or "new groups".

    Raises:
        ArgumentError: an unknown kind, or a fit with too few draws for the check.
    """
    if isinstance(post, FamilyDraws):
        return draw_family_check(check_family_draws(post, kind=kind))
    if isinstance(post, FamilyLevelDraws):
        return draw_family_check(check_units(post, kind=kind))
    if isinstance(post, FamilyEstimate):
        return draw_family_check(check_family(post, kind=kind))
    return draw_predictive(check_groups(post, kind=kind))


def draw_predictive(check: PredictiveCheck) -> Figure:
    """Return the figure of a check that has been made already."""
    names = list(dict.fromkeys(check.overall["statistic"].tolist()))[:PANELS]
    table = check.overall[check.overall["statistic"].isin(names)].reset_index(drop=True)
    shared: dict[str, Any] = {
        "name": "predictive",
        "title": f"Statistics of each {shorten(check.group)} and replicates of them",
        "reading": _read(check),
        "table": table,
    }
    if check.data is None or len(check.groups) < FEWEST * check.groups["statistic"].nunique():
        panels = tuple(_draw_intervals(table[table["statistic"] == name]) for name in names)
        return Figure(**shared, panels=panels, height=PANEL * len(panels) + 60)
    tree = check.data

    def draw(backend: str) -> Any:
        return _draw_densities(tree, [name_variable(name) for name in names], backend)

    rows = -(-len(names) // SIDE_BY_SIDE)
    return Figure(**shared, draw=draw, height=ROW * rows + 90)


def _draw_densities(tree: Any, names: list[str], backend: str) -> Any:
    import xarray as xr
    from arviz_plots import plot_ppc_dist

    write = find_writer(backend)
    # As many as ArviZ is asked for, so that it does not choose among them, anew each time.
    chains, draws = (tree["posterior_predictive"].sizes[name] for name in ("chain", "draw"))
    along = np.linspace(0, draws - 1, min(draws, -(-REPLICATES // chains))).round().astype(int)
    # ArviZ takes the titles of the panels from the variables, whatever labeller it is given.
    titles = {name: name_variable(write(name)) + " " * at for at, name in enumerate(names)}
    parts = {"posterior_predictive": {"draw": along}, "observed_data": {}}
    shown = xr.DataTree.from_dict(
        {
            part: tree[part].dataset[names].isel(chosen).rename(titles)
            for part, chosen in parts.items()
        }
    )
    with warnings.catch_warnings():
        # Values near zero, or means of integers, look binary or discrete to ArviZ.
        warnings.filterwarnings("ignore", message=".*look (binary|discrete)", category=UserWarning)
        collection = plot_ppc_dist(
            shown,
            var_names=list(titles.values()),
            kind="kde",
            num_samples=chains * len(along),
            backend=backend,
            col_wrap=SIDE_BY_SIDE if backend == "plotly" else 1,
            visuals={
                "predictive_dist": {"color": ROLES["posterior"].light, "alpha": 0.35},
                "observed_dist": {"color": ROLES["population"].light, "width": 2.5},
            },
            stats={"predictive_dist": {"grid_len": GRID}, "observed_dist": {"grid_len": GRID}},
        )
    names_of = {"posterior": "Replicates", "population": "Observed"}
    name_roles(collection, {BY_COLOUR[ROLES[r].light]: n for r, n in names_of.items()}, backend)
    return collection


def _draw_intervals(rows: "pd.DataFrame") -> Panel:
    """Return observed summaries of one statistic beside their intervals, in their half-widths."""
    at = np.arange(len(rows), dtype=float)
    half = 0.5 * (rows["upper"] - rows["lower"]).to_numpy()
    middle = rows["predicted"].to_numpy()
    low, high, observed = (
        (rows[name].to_numpy() - middle) / half for name in ("lower", "upper", "observed")
    )
    name = shorten(rows["statistic"].iloc[0])
    hover = tuple(
        f"{row.over} of {name}\nobserved {format_digits(row.observed, 4)}\npredicted "
        f"{format_digits(row.predicted, 4)}, 95 % {format_digits(row.lower, 4)} to "
        f"{format_digits(row.upper, 4)}"
        for row in rows.itertuples()
    )
    marks = (
        Points(
            np.zeros(len(at)), at, "posterior", "Replicates, 95 %", x_low=low, x_high=high,
            hover=hover,
        ),
        Points(observed, at, "published", "Observed", hover=hover),
    )  # fmt: skip
    texts = tuple(rows["over"].astype(str))
    return Panel(
        Axis("half-widths from prediction"),
        Axis("", ticks=(tuple(at.tolist()), texts), range=(-0.6, len(at) - 0.4)),
        marks,
        title=name,
    )


def _read(check: PredictiveCheck) -> str:
    """Return how many summaries are outside, and how far the furthest one is."""
    table = check.overall
    row = table.loc[table["p_two_sided"].idxmin()]
    far = int(np.sum(table["p_two_sided"] < OUTSIDE))
    groups = int(np.sum(check.groups["p_adjusted"] < OUTSIDE))
    return (
        f"Of {len(table)} summaries over the groups {far or 'none'} {'is' if far == 1 else 'are'} "
        f"outside what {check.draws:,} replicates make likely (two-sided p < {OUTSIDE:g}), and of "
        f"{len(check.groups):,} statistics of single groups {groups or 'none'} after allowing for "
        f"their number; the furthest summary is the {row['over']} of "
        f"{name_statistic(shorten(row['statistic']))}, "
        f"{format_digits(row['observed'], 3)} where {format_digits(row['lower'], 3)} to "
        f"{format_digits(row['upper'], 3)} is predicted (p = {row['p_two_sided']:.3f})."
    )
