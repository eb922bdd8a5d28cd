"""Normal Q-Q plots of the residuals at both levels, within simultaneous bands."""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import check_arguments
from bhlm.moments.groups import locate_groups
from bhlm.plots.figure import Figure
from bhlm.plots.groups import name_groups, rename_columns
from bhlm.plots.marks import Axis, Band, Line, Mark, Panel, Points
from bhlm.plots.ranks_of_rows import MEANS, average_ranks
from bhlm.plots.style import shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.groups import solve_groups
from bhlm.reml.residuals import GROUP_COLUMNS, VANISHED, group_residuals
from bhlm.studies.uniformity import grid_points, simultaneous_band

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.fits.model import Model

Array = np.ndarray

GRID = 99  # points at which the band holds together
# The tail probability that all counts of the band share is found for at most this many values: it
# tends to a limit, from 0.0018 for 160 over 0.0015 for 400 to 0.0013 for 1,000.
LARGE = 1000
TAIL = 0.025  # of the law, on either side, whose shares are told
LEVEL = 0.95
SAME = 1e-9  # share by which tail probabilities differ that are one
BAND = 200  # points of the drawn band
SHOWN = 200  # points of one panel
ENDS = 25  # of these, how many from either end
COEFFICIENTS = 3  # random coefficients that have a panel
PANEL = 330  # pixels


@dataclass(frozen=True, slots=True)
class Sample:
    """Values that follow a known distribution if the model holds."""

    name: str
    title: str
    values: Array  # (m,)
    law: "stats.rv_continuous"
    shape: tuple[float, ...]  # of the law
    labels: tuple[str, ...]  # (m,) for the hover texts; may be empty
    is_averaged: bool = False  # whether to draw means of neighbours, not single values


@check_arguments
def plot_residuals(
    reml: Estimate, *, model: "Model | None" = None, single_rows: bool = True
) -> Figure:
    """Return Q-Q plots of level-1 residuals, of each random coefficient, and of the distances.

    Each residual is divided by its own standard deviation under the model, so that it is standard
    normal if the model holds and the variances are as estimated: conditional residuals y - X beta
    - Z u_hat at level 1, which need the rows, and u_hat at level 2. With several random
    coefficients their squared Mahalanobis distances stand beside the chi-square. The band holds
    the empirical distribution at its 1 %, 2 %, ... 99 % points, all together, with a probability
    of 95 % for independent values; those of one group depend on each other a little.

    Source: Nobre & Singer (2007), Biometrical Journal 49, 863-875, for the residuals; Saeilynoja,
    Buerkner & Vehtari (2022), Statistics and Computing 32:32, for the band.

    Args:
        reml: the fit.
        model: what was fitted, if level-1 residuals are to be drawn.
        single_rows: whether the figure may hold residuals of single rows; if not, its points of
            level 1 are means of ten neighbours or more.

    Raises:
        DataError: rows of other groups than the fit's.
    """
    import pandas as pd

    samples = []
    if model is not None and model.has_rows:
        samples.append(replace(_take_rows(reml, model), is_averaged=not single_rows))
    samples += _take_groups(reml)
    panels, parts, found = [], [], []
    for sample in samples:
        panel, table, text = _draw_panel(sample)
        panels.append(panel)
        parts.append(table)
        found.append(text)
    drawn = {sample.name for sample in samples}
    still = [shorten(name) for name in reml.moments.random[:COEFFICIENTS] if name not in drawn]
    if still:
        found.append(f"REML finds no variance of {' and '.join(still)} over groups to draw")
    reading = "; ".join(found)
    return Figure(
        name="residuals",
        title="Residuals against the normal distribution",
        reading=f"{reading[0].upper()}{reading[1:]}.",
        table=pd.concat(parts, ignore_index=True) if parts else None,
        panels=tuple(panels) or (Panel(Axis("expected"), Axis("observed"), ()),),
        columns=2,
        height=PANEL * max(1, -(-len(panels) // 2)) + 40,
    )


def studentize_rows(fit: Estimate, labels: Array, x: Array, z: Array, y: Array) -> Array:
    """Return the conditional residuals (n,) over their standard deviations.

    With P = H^-1 - H^-1 X (X'H^-1 X)^-1 X'H^-1 the conditional residuals are H^-1-weighted ones,
    P y, with variance sigma^2 P_ii: [H^-1]_ii = 1 - z_i M_j z_i' and [H^-1 X]_i = x_i - z_i D_j,
    D_j `GroupSolution.loadings`, sigma^2 M_j its `cov`. nan where a row fits itself.

    Args:
        fit: the fit.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        y: the response (n,).
    """
    solution = solve_groups(fit)
    at = locate_groups(fit.moments, labels)
    turned, lever = z @ solution.basis, x @ solution.fixed
    left = y - x @ fit.beta - np.einsum("ni,ni->n", turned, solution.mean[at])
    lever -= np.einsum("ni,nip->np", turned, solution.loadings[at])
    variance = fit.sigma2 - np.einsum("ni,nij,nj->n", turned, solution.cov[at], turned)
    variance -= np.einsum("ni,ij,nj->n", lever, solution.fixed_cov, lever)
    there = variance > VANISHED * fit.sigma2
    return np.where(there, left / np.sqrt(np.where(there, variance, 1.0)), np.nan)


def standardize_effects(fit: Estimate) -> Array:
    """Return u_hat (J, q) over its standard deviation, sqrt(G - PEV).

    nan where it has none, as of a coefficient whose variance is estimated as zero.
    """
    solution = solve_groups(fit)
    turn = solution.basis
    spread = np.einsum("ia,jab,ib->ji", turn, solution.prior - solution.pev, turn)
    there = spread > VANISHED * np.diag(fit.g)
    u = solution.mean @ turn.T
    return np.where(there, u / np.sqrt(np.where(there, spread, 1.0)), np.nan)


def find_band(n: int) -> tuple[Array, Array, Array]:
    """Return z (99,) and the smallest and largest shares of n values below it that are likely.

    All shares have the same tail probability. It is exact up to 1,000 values and that of 1,000
    beyond, where the band holds with little less than 95 %.
    """
    z = grid_points(GRID)
    tail = _share_tail(min(n, LARGE))
    low = stats.binom.ppf(tail, n, z)
    return z, low / n, (n - stats.binom.ppf(tail, n, 1.0 - z)) / n


@cache
def _share_tail(n: int) -> float:
    """Return the tail probability beyond which a count of n uniform values leaves the band."""
    z = grid_points(GRID)
    low, high = simultaneous_band(n, GRID, LEVEL)
    # The largest probability that is still beyond an edge: rounding must not put it inside.
    beyond = np.maximum(stats.binom.cdf(low - 1, n, z), stats.binom.sf(high, n, z))
    return float(beyond.max()) * (1.0 + SAME)


def _take_rows(fit: Estimate, model: "Model") -> Sample:
    values = studentize_rows(fit, *model.rows())
    return Sample("level 1", "Level 1: rows", values[np.isfinite(values)],
                  stats.norm, (), ())  # fmt: skip


def _take_groups(fit: Estimate) -> list[Sample]:
    """Return the samples of level 2, without coefficients that do not vary."""
    moments = fit.moments
    values = standardize_effects(fit)
    labels = np.array(name_groups(moments.groups), dtype=object)
    samples = []
    for k, name in enumerate(moments.random[:COEFFICIENTS]):
        there = np.isfinite(values[:, k])
        if there.sum() > 1:
            samples.append(
                Sample(name, f"Level 2: {shorten(name)}", values[there, k], stats.norm, (),
                       tuple(labels[there]))
            )  # fmt: skip
    if len(moments.random) > 1:
        table = group_residuals(rename_columns(fit, GROUP_COLUMNS))
        df = int(table["df"].max())
        full = (table["df"] == df).to_numpy()
        if df > 1 and full.sum() > 1:
            samples.append(
                Sample("distances", "Level 2: distances",
                       table["mahalanobis"].to_numpy()[full], stats.chi2, (df,),
                       tuple(labels[full]))
            )  # fmt: skip
    return samples


def _draw_panel(sample: Sample) -> tuple[Panel, "pd.DataFrame", str]:
    """Return the panel of a sample, its table, and what is to be said of it."""
    import pandas as pd

    order = np.argsort(sample.values, kind="stable")
    n = len(order)
    observed = sample.values[order]
    expected = sample.law.ppf((np.arange(n) + 0.5) / n, *sample.shape)
    if sample.is_averaged:
        observed, expected = average_ranks(observed), average_ranks(expected)
    shown = _thin(len(observed))
    observed, expected = observed[shown], expected[shown]
    z, low, high = find_band(n)
    edge = sample.law.ppf(z, *sample.shape)
    ends_of_band = (edge[0], edge[-1])
    if n > LARGE:  # where it is open on one side it would be a sliver
        ends_of_band = tuple(sample.law.ppf([high[0], low[-1]], *sample.shape))
    across = np.linspace(
        max(expected[0], ends_of_band[0]), min(expected[-1], ends_of_band[1]), BAND
    )
    ends = (
        min(expected[0], observed[0], edge[0]),
        max(expected[-1], observed[-1], edge[-1]),
    )
    share = sample.law.cdf(across, *sample.shape)
    hover = tuple(
        f"{sample.labels[order[at]]}\nobserved {a:.2f}, expected {b:.2f}"
        for at, a, b in zip(shown, observed, expected, strict=True)
    ) if sample.labels else ()  # fmt: skip
    marks: list[Mark] = [
        Band(across, *_bound(share, low, high, edge, ends), "reference", "95 % band"),
        Line(np.array(ends), np.array(ends), "population", "As the model says", width=1.5),
        Points(expected, observed, "reml", "Residuals", hover=hover, size=5.0, opacity=0.8),
    ]
    below = np.searchsorted(sample.values[order], edge, side="left") / n
    inside = bool(np.all((below >= low) & (below <= high)))
    table = pd.DataFrame({"sample": sample.name, "expected": expected, "observed": observed})
    if sample.labels:
        table.insert(1, "group", [sample.labels[at] for at in order[shown]])
    room = 0.03 * (ends[1] - ends[0])
    reach = (ends[0] - room, ends[1] + room)
    panel = Panel(
        Axis("expected", range=reach),
        Axis("observed", range=reach),
        tuple(marks),
        title=sample.title,
    )
    return panel, table, _tell(sample, inside)


def _bound(
    share: Array, low: Array, high: Array, edge: Array, ends: tuple[float, float]
) -> tuple[Array, Array]:
    """Return the smallest and largest quantiles (m,) at `share` that the band holds.

    At least a share `low` of the values lies below `edge`, and at most `high`. Where they leave a
    quantile unbounded it goes to the end of the panel.
    """
    # A quantile lies below the first edge that has its share below it for certain, and above the
    # last one that has not.
    upper = np.append(edge, ends[1])[np.searchsorted(low, share, side="left")]
    lower = np.insert(edge, 0, ends[0])[np.searchsorted(high, share, side="left")]
    return lower, upper


def _thin(n: int) -> Array:
    """Return which order statistics to draw: both ends, and quantiles between them."""
    if n <= SHOWN:
        return np.arange(n)
    inner = np.linspace(ENDS, n - 1 - ENDS, SHOWN - 2 * ENDS).round().astype(int)
    return np.unique(np.concatenate([np.arange(ENDS), inner, np.arange(n - ENDS, n)]))


def _tell(sample: Sample, inside: bool) -> str:
    """Return whether a sample stays within its band, and if not how heavy its tails are."""
    what = {"level 1": "residuals of the rows", "distances": "Mahalanobis distances"}.get(
        sample.name, f"effects of {shorten(sample.name)}"
    )
    what = f"{len(sample.values):,} {what}"
    if inside:
        return f"the {what} stay within the band{f', where {MEANS}' if sample.is_averaged else ''}"
    ends = sample.law.ppf([TAIL, 1.0 - TAIL], *sample.shape)
    lower, upper = np.mean(sample.values < ends[0]), np.mean(sample.values > ends[1])
    means = f", where {MEANS}" if sample.is_averaged else ""
    return (
        f"the {what} leave the band{means} ({100 * lower:.1f} % lie in the lower and "
        f"{100 * upper:.1f} % in the upper {100 * TAIL:g} % of what the model says)"
    )
