"""Prior predictive draws: what data the priors expect, from moments alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import HELD, STREAM, parameter_draws
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import Priors, check_drawable, draw_prior, resolve_priors
from bhlm.design.formula.weights import refuse_weights
from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import shorten, show_name
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.within import WithinRegressions, regress_within, replicate_statistics
from bhlm.likelihood.within_levels import (
    UnitMoments,
    UnitRegressions,
    regress_units,
    replicate_units,
)
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import Moments, pool

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.likelihood.covariance import Structure

Array = np.ndarray

PRIOR = 3  # separates this seed's stream from others of the same seed
BLOCK = 2**22  # numbers of cells' slopes, and of effects, that are in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class PriorPredictive:
    """Parameters drawn from the priors, and data sets like this one drawn under them.

    `groups` holds each group's mean response, least-squares slopes on the columns that vary
    within groups, and residual SD, as `bhlm.bayes.checks.predictive.check_groups` has them of the
    posterior; of several factors the groups are the units of `factor`. It is None beyond 2^25
    numbers. `overall` holds the response's mean and SD over all
    rows, and the mean and SD of each statistic over the groups.
    """

    factor: str  # whose units the groups are
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
        head = (
            f"Prior predictive of {size} data sets, seed {self.seed}, groups by "
            f"'{show_name(self.factor)}', under the priors"
        )
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
    moments: Moments | CellMoments,
    priors: Priors | None = None,
    *,
    seed: int,
    draws: int = 1000,
    covariance: str | None = None,
    factor: str | None = None,
    held: int = HELD,
    block: int = BLOCK,
) -> PriorPredictive:
    """Return data sets of this design drawn from the prior, as statistics of their groups.

    Each draw takes parameters from the prior, u_j ~ N(0, G), of several factors those of each, and
    then the sufficient statistics of each group's rows under them, exactly, so that no rows are
    needed.

    Args:
        moments: the reduced table, whose design (X, Z and the group sizes) is kept.
        priors: what replaces the autoscaled defaults.
        seed: makes the draws repeatable.
        draws: how many data sets.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        factor: of several, the one whose units have statistics; None is that with the fewest.
        held: numbers of the groups' statistics that are kept; beyond it `groups` is None.
        block: numbers that are worked on at a time, of several factors.

    Raises:
        ArgumentError: a count that is not positive, a seed that is no such number, a factor that is
            not one of the model, or several factors with weights.
        PriorError: a prior that cannot be drawn from, such as a flat one.
    """
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0), ("block", block, 1)):
        if not (isinstance(value, int | np.integer) and value >= least):
            raise ArgumentError(f"{name}={value!r} is not an integer of at least {least}")
    place = _find_factor(moments, factor)
    if isinstance(moments, CellMoments) and moments.weights is not None:
        raise refuse_weights(moments.weights, "prior predictive draws of several grouping factors")
    structure = arrange_prior(moments, covariance)
    resolved = resolve_priors(priors, moments, structure=structure)
    check_drawable(resolved, moments, structure)
    rng = np.random.default_rng([seed, PRIOR])
    parameters = draw_prior(resolved, structure, rng, draws)
    beta, root, sigma = parameters
    g = root @ root.swapaxes(-1, -2)
    of: Moments | UnitMoments
    if isinstance(moments, CellMoments):
        units = regress_units(moments, place)
        of, within = units.units, units.within
        parts = _replicate_levels(units, parameters, structure, rng, block=block)
    else:
        of, within = moments, regress_within(moments)
        parts = _replicate_groups(moments, within, parameters, rng)
    observed = np.column_stack([of.mean[:, -1], within.slopes, within.sd])
    names = ("mean", *(f"slope({name})" for name in within.columns), "residual SD")
    kept = np.empty((draws, *observed.shape)) if draws * observed.size <= held else None
    centre = np.nanmean(observed, axis=0)  # far from zero, sums of squares would cancel
    sums = np.zeros((3, draws, len(names)))
    response = np.zeros((3, draws))
    for part, members, drawn in parts:
        values = np.where(np.isnan(observed[members]), np.nan, drawn)
        _add_groups(sums[:, part], values - centre)
        add_squares(response[:, part], of, within, members, values, centre=centre[0])
        if kept is not None:
            kept[part, members] = values
    own = np.zeros((3, 1, len(names)))
    _add_groups(own, (observed - centre)[None])
    n, grand, total = pool(moments)
    sd = float(np.sqrt(total[-1, -1] / (n - 1.0)))
    seen = {"response mean": float(grand[-1]), "response SD": sd}
    seen |= {name: float(x[0]) for name, x in _summarize_groups(own, names, centre).items()}
    mean = response[0] / n
    squares = np.maximum(response[1] - n * mean**2, 0.0) + response[2]
    overall = {"response mean": mean + centre[0], "response SD": np.sqrt(squares / (n - 1.0))}
    overall |= _summarize_groups(sums, names, centre)
    return PriorPredictive(
        factor=_name_factors(moments)[place],
        draws=parameter_draws(moments, structure, beta[None], g[None], sigma[None]),
        statistics=names,
        groups=kept,
        overall=overall,
        observed=seen,
        observed_groups=observed,
        priors=resolved.describe(moments, structure=structure),
        seed=int(seed),
    )


def _name_factors(moments: Moments | CellMoments) -> list[str]:
    return list(moments.groups) if isinstance(moments, CellMoments) else [moments.group]


def _find_factor(moments: Moments | CellMoments, factor: str | None) -> int:
    """Return the place of the factor whose units have statistics.

    Raises:
        ArgumentError: it is not a factor of the model.
    """
    names = _name_factors(moments)
    if factor is None:
        many = moments.groups.values() if isinstance(moments, CellMoments) else [0]
        return int(np.argmin(list(many)))
    if factor not in names:
        raise ArgumentError(
            f"factor={factor!r} is not a grouping factor; choose one of {', '.join(names)}"
        )
    return names.index(factor)


def _replicate_groups(
    moments: Moments, within: WithinRegressions, parameters: Parameters, rng: np.random.Generator
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield draws, some groups, and their statistics (D, m, S) in all draws of the parameters."""
    beta, root, sigma = parameters
    for start in range(0, moments.n_groups, STREAM):
        members = np.arange(start, min(start + STREAM, moments.n_groups))
        noise = rng.standard_normal((len(beta), len(members), root.shape[-1]))
        u = np.einsum("dab,djb->dja", root, noise)
        values = replicate_statistics(within, moments.n, members, beta, u, sigma, rng)
        yield slice(None), slice(start, start + len(members)), values


def _replicate_levels(
    units: UnitRegressions,
    parameters: Parameters,
    structure: "Structure",
    rng: np.random.Generator,
    *,
    block: int,
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield some draws, all units of a factor, and their statistics (d, J, S) in these draws."""
    beta, root, sigma = parameters
    moments = units.moments
    counts = [labels.n_levels for labels in moments.labels]
    effects = sum(count * part.q for count, part in zip(counts, structure.parts, strict=True))
    size = max(1, block // max(moments.n_cells * len(moments.columns), effects))
    for start in range(0, len(beta), size):
        part = slice(start, min(start + size, len(beta)))
        u = [
            rng.standard_normal((part.stop - start, count, span.stop - span.start))
            @ root[part, span, span].swapaxes(1, 2)
            for count, span in zip(counts, structure.spans, strict=True)
        ]
        yield part, slice(None), replicate_units(units, beta[part], u, sigma[part], rng)


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
    moments: Moments | UnitMoments,
    within: WithinRegressions,
    members: Array | slice,
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
