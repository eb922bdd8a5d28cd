"""What the figures of convergence share: which parameters they draw, of which draws."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.bayes.live import ignore_short_chains, measure_shortfall
from bhlm.plots.arviz_figures import find_writer
from bhlm.plots.choice import choose_parameters, title
from bhlm.plots.style import DASHES, ROLES, SERIES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

MOST = 8  # panels
ROW = 180  # pixels of a row of panels
BETWEEN = 48.0  # pixels between two rows, where a title stands


def choose_worst(
    post: Posterior,
    names: Sequence[str] | None,
    *,
    most: int = MOST,
    estimates: "pd.DataFrame | None" = None,
) -> tuple[list[str], str]:
    """Return the parameters that a figure of convergence draws, and the clause on the others.

    By default fixed effects, SDs and correlations: ranks, R-hat and bulk ESS of a variance are
    those of its SD. Where there are too many, those of the worst R-hat and ESS.

    Args:
        post: the posterior.
        names: those asked for; None for the default.
        most: parameters that the default draws.
        estimates: `post.estimates`, where they have been computed.

    Raises:
        ArgumentError: a name that is no parameter, or an empty list.
    """
    import pandas as pd

    known = [str(parameter) for parameter in post.parameters]
    default = [str(parameter) for parameter in post.parameters if not parameter.is_squared]
    weight = pd.Series(0.0, index=known)
    if names is None and len(default) > most:
        estimates = post.estimates if estimates is None else estimates
        columns = (estimates[key].to_numpy() for key in ("rhat", "ess_bulk", "ess_tail"))
        weight = pd.Series(measure_shortfall(*columns), index=estimates.index)
    chosen, left = choose_parameters(known, names, default=default, weight=weight, most=most)
    return chosen, left.replace("are left out", "with a better R-hat and ESS are left out")


def keep_every(draws: Array, most: int) -> tuple[Array, int]:
    """Return every k-th draw (chain, draw / k) with the least k that leaves `most`, and k."""
    step = -(-draws.shape[1] // most)
    return draws[:, ::step], step


def build_tree(draws: Sequence[Array], *, step: int = 1) -> "xr.DataTree":
    """Return draws (chain, draw) of parameters as ArviZ takes them, named p0, p1, ...

    A name of a parameter may hold what xarray's paths and ArviZ's labels read otherwise.
    """
    from arviz_base import from_dict

    chains, kept = draws[0].shape
    with ignore_short_chains():
        return from_dict(
            {"posterior": {f"p{at}": values for at, values in enumerate(draws)}},
            coords={"chain": np.arange(chains), "draw": np.arange(kept) * step},
        )


def draw_panels(
    function: str,
    draws: Sequence[Array],
    names: Sequence[str],
    backend: str,
    *,
    step: int = 1,
    **options: Any,
) -> Any:
    """Return the PlotCollection of a function of arviz_plots with a panel for each parameter.

    Chains have the colours of SERIES, in turn; panels stand in two columns under their names.

    Args:
        function: its name, such as "plot_rank".
        draws: (chain, draw) of each parameter.
        names: the parameters.
        backend: "plotly" or "matplotlib".
        step: of the draws' numbers, where they are every so many of a chain.
        options: what the function takes beside.
    """
    import arviz_plots
    from arviz_base.labels import MapLabeller

    escape = find_writer(backend)
    titles: dict[Any, Any] = {f"p{at}": escape(title(name)) for at, name in enumerate(names)}
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    sizes: dict[str, Any] = {"figsize": (900, rows * ROW + 60), "figsize_units": "dots"}
    sizes["sharex"] = True
    if backend == "plotly" and rows > 1:
        sizes["vertical_spacing"] = BETWEEN / (rows * ROW)
    return getattr(arviz_plots, function)(
        build_tree(draws, step=step), backend=backend, labeller=MapLabeller(var_name_map=titles),
        col_wrap=columns, figure_kwargs=sizes, **options,
    )  # fmt: skip


def tick_log(low: float, high: float, *, steps: Sequence[float]) -> tuple[Any, Any] | None:
    """Return positions and texts of a log axis's ticks, at the steps times powers of ten.

    None where there would be fewer than two, which is left to the library that draws.
    """
    if not (0.0 < low < high < np.inf):
        return None
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = [step * 10.0**power for power in powers for step in steps]
    inside = tuple(value for value in every if low <= value <= high)
    return (inside, tuple(f"{value:,.10g}" for value in inside)) if len(inside) > 1 else None


def list_roles(chains: int) -> list[str]:
    """Return the role of each chain; beyond six they begin again."""
    return [SERIES[at % len(SERIES)] for at in range(chains)]


def list_looks(chains: int, backend: str) -> tuple[list[str], list[Any]]:
    """Return the colour and the dash of each chain, as ArviZ's backend takes them."""
    looks = [ROLES[role] for role in list_roles(chains)]
    dashes = [look.dash if backend == "plotly" else DASHES[look.dash] for look in looks]
    return [look.light for look in looks], dashes


def name_chains(labels: Sequence[str]) -> dict[str, str]:
    """Return the legend's entry of each role: the chains that are drawn in it."""
    names: dict[str, list[str]] = {}
    for role, label in zip(list_roles(len(labels)), labels, strict=True):
        names.setdefault(role, []).append(label)
    return {
        role: f"chain{'s' * (len(found) > 1)} {', '.join(found[:3])}{', …' * (len(found) > 3)}"
        for role, found in names.items()
    }
