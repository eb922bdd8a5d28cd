"""LOO-PIT: whether the posterior's predictions are as wide as what they predict is spread."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from bhlm.bayes.checks.importance import score_units
from bhlm.bayes.checks.loo import check_likelihood, relative_efficiency
from bhlm.bayes.checks.predictive import check_groups, thin_draws
from bhlm.bayes.checks.rows import stream_rows
from bhlm.bayes.draws import Draws
from bhlm.errors import ArgumentError
from bhlm.layout import count
from bhlm.moments.groups import place_own_rows
from bhlm.plots.figure import Figure
from bhlm.plots.style import ROLES

if TYPE_CHECKING:
    from bhlm.fits.model import Model

Array = np.ndarray

ROWS = 1000  # for which the PIT is computed, by default
DRAWS = 1000  # over which it is averaged
CHOICE = 6  # separates this seed from the fit's other streams
LEVEL = 0.95
INSIDE = 1e-12  # the test of uniformity takes logarithms of the PIT and of 1 - PIT
HEIGHT = 380  # pixels


def plot_loo_pit(post: Draws, model: "Model | None" = None, *, rows: int = ROWS) -> Figure:
    """Return the empirical distribution of the PIT less the uniform's, by ArviZ's `plot_ecdf_pit`.

    Where the rows are at hand, the PIT of a row is the probability of a smaller response than it
    has, given all other rows, by Pareto-smoothed weights over up to 1,000 draws
    (`bhlm.bayes.checks.rows`). Of more rows than `rows` a random choice is taken, the same for
    every call. Without rows it is that of each group's mean among replicates with new group
    effects, which have seen that group; so it is a little too narrow.

    The test of uniformity allows for dependent values: Tesso et al. (2026), arXiv:2603.02928.

    Args:
        post: the posterior.
        model: what was sampled; None, or a model of moments, takes the groups' means.
        rows: how many rows the PIT is computed for, at most.

    Raises:
        ArgumentError: draws from the prior alone, or rows that are not a positive number.
        DataError: rows that are not those of the fit.
    """
    check_likelihood(post)
    if not (isinstance(rows, int) and rows > 0):
        raise ArgumentError(f"rows={rows!r} is not a number of rows; give 1 or more")
    if model is None or not model.has_rows:
        return _draw_groups(post)
    labels, x, z, y = model.rows()
    at = place_own_rows(post.moments, labels, y)
    picked = np.arange(len(y))
    if len(y) > rows:
        # At random, since every k-th row may be the same occasion in each group.
        rng = np.random.default_rng([post.seed, CHOICE])
        picked = np.sort(rng.choice(len(y), rows, replace=False))
    pit = predict_rows_left_out(post, at[picked], x[picked], z[picked], y[picked])
    few = len(picked) < len(y)
    return _draw(
        pit,
        f"{'Of a random ' if few else 'Of all '}{count(len(picked), 'row')}"
        + (f" out of {len(y):,}" if few else ""),
        "LOO-PIT of the rows",
    )


def predict_rows_left_out(post: Draws, at: Array, x: Array, z: Array, y: Array) -> Array:
    """Return the PIT (m,) of some rows, each given all other rows of the fit.

    Args:
        post: the posterior.
        at: where each row's group stands (m,).
        x: fixed columns (m, p).
        z: random columns (m, q).
        y: the response (m,).
    """
    reff = relative_efficiency(post)
    draws, _ = thin_draws(post, DRAWS)
    pit = np.empty(len(y))
    for rows, gap, log_sd in stream_rows(post, at, x, z, y):
        gap, log_sd = gap[:, draws], log_sd[:, draws]
        log_weights = score_units(-0.5 * gap**2 - log_sd, reff)[3]
        pit[rows] = np.sum(np.exp(log_weights) * ndtr(gap), axis=1)
    return np.clip(pit, 0.0, 1.0)


def _draw_groups(post: Draws) -> Figure:
    """Return the figure of the groups' means, from moments alone."""
    check = check_groups(post, kind="new groups")
    table = check.groups[check.groups["statistic"] == "mean"]
    pit = 1.0 - table["p"].to_numpy()
    return _draw(pit, f"Of the means of {count(len(pit), 'group')}", "PIT of the groups' means")


def _draw(pit: Array, whose: str, title: str) -> Figure:
    """Return the figure of PIT values (m,)."""
    import pandas as pd
    import xarray as xr
    from arviz_stats.base import array_stats

    inner = np.clip(pit, INSIDE, 1.0 - INSIDE)
    p = float(array_stats.uniformity_test(inner, axis=-1, method="pot_c")[0])
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

    ordered = np.sort(pit)
    return Figure(
        name="loo_pit",
        title=title,
        reading=_read(pit, p, whose),
        table=pd.DataFrame({"pit": ordered, "ecdf": np.arange(1, len(pit) + 1) / len(pit)}),
        draw=draw,
        height=HEIGHT,
    )


def _read(pit: Array, p: float, whose: str) -> str:
    inner = float(np.mean((pit > 0.25) & (pit < 0.75)))
    tails = float(np.mean((pit < 0.025) | (pit > 0.975)))
    if p < 1.0 - LEVEL:
        verdict = (
            f"so their distribution is not as the model says (p = {p:.2g})"
            + "; the values that say so most are marked"
        )
    else:
        verdict = f"which is as uniform as the model says (p = {p:.2f})"
    return (
        f"{whose}, {100 * inner:.1f} % lie in the middle half of their predictions and "
        f"{100 * tails:.1f} % in the outer 5 %, {verdict}."
    )
