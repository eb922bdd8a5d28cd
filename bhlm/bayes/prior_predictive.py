"""Prior predictive draws: what data the priors expect, from moments alone."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import HELD, STREAM, parameter_draws
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import Priors, check_drawable, draw_prior, resolve_priors
from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import shorten
from bhlm.likelihood.within import WithinRegressions, regress_within, replicate_statistics
from bhlm.moments.moments import Moments, pool

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

PRIOR = 3  # separates this seed's stream from others of the same seed


@dataclass(frozen=True, slots=True, eq=False)
class PriorPredictive:
    """Parameters drawn from the priors, and data sets like this one drawn under them.

    `groups` holds each group's mean response, least-squares slopes on the columns that vary
    within groups, and residual SD, as `bhlm.bayes.checks.predictive.check_groups` has them of the
    posterior; it is None beyond 2^25 numbers. `overall` holds the response's mean and SD over all
    rows, and the mean and SD of each statistic over the groups.
    """

    draws: dict[str, Array] = field(repr=False)  # parameter -> (1, draw), as in `fit.draws`
    statistics: tuple[str, ...]  # (S,) of a group
    groups: Array | None = field(repr=False)  # (draw, J, S), nan where a group has none
    overall: dict[str, Array] = field(repr=False)  # summary -> (draw,)
    observed: dict[str, float]  # summary -> its value in the data
    observed_groups: Array = field(repr=False)  # (J, S)
    priors: dict[str, str]
    seed: int

    def __repr__(self) -> str:
        """Return the priors, on the scale of the data, and the table."""
        width = max(map(len, self.priors))
        lines = [f"  {name:{width}}  {prior}" for name, prior in self.priors.items()]
        size = len(self.overall["response SD"])
        head = f"Prior predictive of {size} data sets, seed {self.seed}, under the priors"
        table = self.table.to_string(float_format="{:.4g}".format)
        return shorten("\n".join([head, *lines, table]), whole="its table")

    @property
    def table(self) -> "pd.DataFrame":
        """Each summary: `observed`, prior predictive `median`, `lower`, `upper` (95 %) and `p`.

        p = P(replicate >= observed). A prior that leaves the data's own value in its tail, or
        spreads over values that nobody would believe, is worth another look.
        """
        import pandas as pd

        rows = {}
        for name, values in self.overall.items():
            lower, median, upper = np.quantile(values, [0.025, 0.5, 0.975])
            seen = self.observed[name]
            rows[name] = [seen, median, lower, upper, float(np.mean(values >= seen))]
        columns = ["observed", "median", "lower", "upper", "p"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        table.index.name = "statistic"
        return table


@check_arguments
def draw_prior_predictive(
    moments: Moments,
    priors: Priors | None = None,
    *,
    seed: int,
    draws: int = 1000,
    covariance: str | None = None,
    held: int = HELD,
) -> PriorPredictive:
    """Return data sets of this design drawn from the prior, as statistics of their groups.

    Each draw takes parameters from the prior, u_j ~ N(0, G), and then the sufficient statistics
    of each group's rows under them, exactly, so that no rows are needed.

    Args:
        moments: the reduced table, whose design (X, Z and the group sizes) is kept.
        priors: what replaces the autoscaled defaults.
        seed: makes the draws repeatable.
        draws: how many data sets.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        held: numbers of the groups' statistics that are kept; beyond it `groups` is None.

    Raises:
        ArgumentError: a count that is not positive, or a seed that is no such number.
        PriorError: a prior that cannot be drawn from, such as a flat one.
    """
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
        if not (isinstance(value, int | np.integer) and value >= least):
            raise ArgumentError(f"{name}={value!r} is not an integer of at least {least}")
    structure = arrange_prior(moments, covariance)
    resolved = resolve_priors(priors, moments, structure=structure)
    check_drawable(resolved, moments, structure)
    rng = np.random.default_rng([seed, PRIOR])
    beta, root, sigma = draw_prior(resolved, structure, rng, draws)
    g = root @ root.swapaxes(-1, -2)
    within = regress_within(moments)
    observed = np.column_stack([moments.mean[:, -1], within.slopes, within.sd])
    names = ("mean", *(f"slope({name})" for name in within.columns), "residual SD")
    n_groups = moments.n_groups
    kept = np.empty((draws, *observed.shape)) if draws * observed.size <= held else None
    centre = np.nanmean(observed, axis=0)  # far from zero, sums of squares would cancel
    sums = np.zeros((3, draws, len(names)))
    response = np.zeros((3, draws))
    for start in range(0, n_groups, STREAM):
        members = np.arange(start, min(start + STREAM, n_groups))
        noise = rng.standard_normal((draws, len(members), root.shape[-1]))
        u = np.einsum("dab,djb->dja", root, noise)
        values = replicate_statistics(within, moments.n, members, beta, u, sigma, rng)
        values = np.where(np.isnan(observed[members]), np.nan, values)
        _add_groups(sums, values - centre)
        add_squares(response, moments, within, members, values, centre=centre[0])
        if kept is not None:
            kept[:, members] = values
    own = np.zeros((3, 1, len(names)))
    _add_groups(own, (observed - centre)[None])
    n, grand, total = pool(moments)
    sd = float(np.sqrt(total[-1, -1] / (n - 1.0)))
    seen = {"response mean": float(grand[-1]), "response SD": sd}
    seen |= {name: float(x[0]) for name, x in _summarize_groups(own, names, centre).items()}
    mean = response[0] / n
    squares = np.maximum(response[1] - n * mean**2, 0.0) + response[2]
    drawn = {"response mean": mean + centre[0], "response SD": np.sqrt(squares / (n - 1.0))}
    drawn |= _summarize_groups(sums, names, centre)
    return PriorPredictive(
        draws=parameter_draws(moments, structure, beta[None], g[None], sigma[None]),
        statistics=names,
        groups=kept,
        overall=drawn,
        observed=seen,
        observed_groups=observed,
        priors=resolved.describe(moments, structure=structure),
        seed=int(seed),
    )


def _add_groups(sums: Array, values: Array) -> None:
    """Add groups' statistics (D, m, S) to count, sum and sum of squares; nan is no group."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    sums[0] += there.sum(axis=1)
    sums[1] += filled.sum(axis=1)
    sums[2] += (filled**2).sum(axis=1)


def _summarize_groups(sums: Array, names: tuple[str, ...], centre: Array) -> dict[str, Array]:
    """Return the mean and the SD over the groups (D,) of each statistic that groups have."""
    count, total, squares = sums
    found = {}
    for k, name in enumerate(names):
        if count[0, k] < 2:
            continue
        mean = total[:, k] / count[:, k]
        left = np.maximum(squares[:, k] - total[:, k] * mean, 0.0)
        found[f"mean over groups of {name}"] = mean + centre[k]
        found[f"SD over groups of {name}"] = np.sqrt(left / (count[:, k] - 1.0))
    return found


def add_squares(
    response: Array,
    moments: Moments,
    within: WithinRegressions,
    members: Array,
    values: Array,
    *,
    centre: float,
) -> None:
    """Add the sums n m_j, n m_j^2 and of squares about m_j of some groups to `response` (3, D).

    m_j are the groups' means in `values` (D, m, S), less `centre`. The squares about a group's
    mean are b'C'C b of its slopes b, and df times its residual variance. A column that varies in
    one group only has no slope among the statistics, and what it explains there is left out.
    """
    n, mean = moments.n[members], values[:, :, 0] - centre
    at = [moments.columns.index(name) for name in within.columns]
    slopes = np.nan_to_num(values[:, :, 1:-1])
    gram = moments.cross[members][:, at][:, :, at]
    explained = np.einsum("djb,djb->dj", np.einsum("dja,jab->djb", slopes, gram), slopes)
    left = within.df[members] * np.nan_to_num(values[:, :, -1]) ** 2
    response[0] += mean @ n
    response[1] += mean**2 @ n
    response[2] += (explained + left).sum(axis=1)
