"""LOO-PIT: whether the posterior's predictions are as wide as what they predict is spread."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.checks.loo_pit import ROWS, LooPit, bound_pit, check_pit, measure_uniformity
from bhlm.bayes.draws import Draws
from bhlm.errors import ArgumentError, check_arguments
from bhlm.plots.figure import Figure
from bhlm.plots.ranks_of_rows import MEANS, average_ranks, smooth_ranks
from bhlm.plots.style import ROLES

if TYPE_CHECKING:
    from bhlm.fits.model import Model

LEVEL = 0.95
HEIGHT = 380  # pixels


@check_arguments
def plot_loo_pit(
    post: Draws,
    model: "Model | None" = None,
    *,
    rows: int = ROWS,
    single_rows: bool = True,
) -> Figure:
    """Return the empirical distribution of the PIT less the uniform's, by ArviZ's `plot_ecdf_pit`.

    The PIT is that of the rows where they are at hand, else of the groups' means; see
    `bhlm.bayes.checks.loo_pit.check_pit`.

    Args:
        post: the posterior.
        model: what was sampled; None, or a model of moments, takes the groups' means.
        rows: how many rows the PIT is computed for, at most.
        single_rows: whether the figure may hold the PIT of single rows; if not, it holds means of
            ten rows or more.

    Raises:
        ArgumentError: draws from the prior alone, or rows that are not a positive number.
        DataError: rows that are not those of the fit.
    """
    if not (isinstance(rows, int) and rows > 0):
        raise ArgumentError(f"rows={rows!r} is not a number of rows; give 1 or more")
    source = model.rows if model is not None and model.has_rows else None
    return draw_loo_pit(check_pit(post, source, most=rows), single_rows=single_rows)


def draw_loo_pit(found: LooPit, *, single_rows: bool = True) -> Figure:
    """Return the figure of a PIT that has been computed; see `plot_loo_pit`."""
    import pandas as pd
    import xarray as xr

    ordered = np.sort(found.pit)
    ecdf = np.arange(1, len(ordered) + 1) / len(ordered)
    is_mean = found.of_rows and not single_rows
    drawn = smooth_ranks(ordered) if is_mean else found.pit
    inner = bound_pit(drawn)
    tree = xr.DataTree.from_dict({"loo_pit": xr.Dataset({"PIT": ("value", inner)})})

    def draw(backend: str) -> Any:
        from arviz_plots import plot_ecdf_pit

        return plot_ecdf_pit(
            tree,
            group="loo_pit",
            sample_dims=["value"],
            envelope_prob=LEVEL,
            backend=backend,
            visuals={
                "ecdf_lines": {"color": ROLES["posterior"].light},
                "suspicious_points": {"color": ROLES["warning"].light},
                "p_value_text": False,
                "xlabel": {"text": "PIT"},
                "ylabel": {"text": "share of values below, less the PIT"},
                "title": False,
            },
        )

    # ArviZ marks them where the values that are drawn say so.
    is_marked = not found.ok and measure_uniformity(inner) < 1.0 - LEVEL
    marked = "; the values that say so most are marked" if is_marked else ""
    return Figure(
        name="loo_pit",
        title="LOO-PIT of the rows" if found.of_rows else "PIT of the groups' means",
        reading=f"{found.reading}{marked}{f'; {MEANS}' if is_mean else ''}.",
        table=pd.DataFrame(
            {"pit": average_ranks(ordered), "ecdf": average_ranks(ecdf)}
            if is_mean
            else {"pit": ordered, "ecdf": ecdf}
        ),
        draw=draw,
        height=HEIGHT,
    )
