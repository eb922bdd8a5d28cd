"""Posterior predictive checks of the groups, from moments alone.

Each draw of the posterior gives replicates of every group's mean, slopes and residual SD; the
observed ones, and their summaries over the groups, are looked up among them. Source: Gelman, Meng
& Stern (1996), Statistica Sinica 6, 733-807; Marshall & Spiegelhalter (2003), Statistics in
Medicine 22, 1649-1660, for checks with new groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import HELD, STREAM, Draws, Posterior, flatten_draws, stream_effects
from bhlm.design.formula.weights import refuse_weights
from bhlm.errors import ArgumentError
from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_digits,
    format_fixed,
    measure_widest,
    name_some,
    name_unit,
    show_name,
    wrap,
)
from bhlm.likelihood.parameters import name_group_dimension
from bhlm.likelihood.within import find_tails, regress_within, replicate_statistics
from bhlm.markup import ShownAsText

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

KINDS = ("same groups", "new groups")
OVER = ("mean", "SD", "largest deviation")  # of a statistic over the groups
ROUNDING = 1e-12  # of what is predicted, below which what is observed is 0 but for rounding
OUTSIDE = 0.01  # a two-sided tail probability below this is outside
LEAST = 200  # draws; with fewer no Monte Carlo p-value is below OUTSIDE
CHECK = 4  # separates these seeds from the fit's other streams
WIDTH = 80


@dataclass(frozen=True, slots=True, repr=False)
class PredictiveCheck(ShownAsText):
    """Statistics of the groups beside their posterior predictive distribution.

    `groups` has one row per statistic and group: `observed`, `predicted` (mean), `lower` and
    `upper` (95 %), `p` = P(replicate >= observed), and `p_adjusted`, two-sided and multiplied by
    the number of rows (Bonferroni). `overall` has one row per statistic and summary of it over
    the groups, with `p_two_sided` in place of `p_adjusted`.
    """

    kind: str
    draws: int
    seed: int
    group: str  # name of the grouping column
    groups: "pd.DataFrame"
    overall: "pd.DataFrame"
    # posterior_predictive and observed_data as ArviZ plots them; None beyond 2^25 numbers
    data: "xr.DataTree | None"

    @property
    def outside(self) -> tuple[str, ...]:
        """One sentence for each summary, and for the groups of each statistic, that is outside."""
        return self.far_summaries + self.far_groups

    @property
    def far_summaries(self) -> tuple[str, ...]:
        """One sentence for each summary over the groups that is outside."""
        sentences = []
        for row in self.overall[self.overall["p_two_sided"] < OUTSIDE].itertuples():
            side = "above" if row.observed > row.predicted else "below"
            is_rounding = abs(row.observed) < ROUNDING * abs(row.predicted)
            observed = 0.0 if is_rounding else row.observed
            sentences.append(
                f"the {row.over} over groups of {name_statistic(row.statistic)} is "
                f"{format_digits(observed, 3)}, {side} what the model predicts: "
                f"{format_digits(row.predicted, 3)}, 95 % {format_digits(row.lower, 3)} to "
                f"{format_digits(row.upper, 3)} "
                f"(two-sided p = {row.p_two_sided:.3f})"
            )
        return tuple(sentences)

    @property
    def far_groups(self) -> tuple[str, ...]:
        """One sentence for the groups of each statistic that are outside, their number allowed."""
        sentences = []
        far = self.groups[self.groups["p_adjusted"] < OUTSIDE]
        label = self.groups.columns[0]
        for statistic, rows in far.groupby("statistic", sort=False):
            names = name_some(rows[label].tolist())
            sentences.append(
                f"{name_statistic(statistic)} of {name_unit(self.group, names)} is outside: "
                f"two-sided p < {OUTSIDE} after multiplying by the {len(self.groups)} group "
                "statistics compared"
            )
        return tuple(sentences)

    @property
    def ok(self) -> bool:
        """Whether nothing is outside."""
        return not self.outside

    def summary(self) -> str:
        """Return the summaries over groups and what is outside, as text."""
        return render_check(self)


def check_groups(
    fit: Draws,
    *,
    kind: str = "same groups",
    draws: int = 400,
    seed: int | None = None,
    held: int = HELD,
    stream: int = STREAM,
) -> PredictiveCheck:
    """Return statistics of the groups beside replicates of them under the posterior.

    The statistics are the group's mean response, its least-squares slope of each column that
    varies within groups, random or not, and the SD of the residuals about that regression. "same
    groups" replicates the response of these groups, with u from the posterior, which has seen
    their means and slopes: it is the one for residual SDs, and for slopes that are not random.
    "new groups" draws u from N(0, G): it checks whether effects vary as the model says.

    The p of single groups are exact for each draw of the parameters; those of summaries count
    replicates.

    Args:
        fit: the posterior.
        kind: "same groups" or "new groups".
        draws: of the posterior, spread evenly over each chain; at least 200.
        seed: of the replicates; None takes the fit's.
        held: numbers of the replicates that are kept; beyond it `data` is None.
        stream: new groups that are drawn at a time.

    Raises:
        ArgumentError: an unknown kind, a seed that is negative, or too few draws.
    """
    check_kind(kind)
    if fit.moments.weights is not None:
        raise refuse_weights(fit.moments.weights, "check()")
    seed = check_seed(fit, seed)
    picked, shape = thin_draws(fit, draws, least=LEAST)
    beta, root, sigma = flatten_draws(fit).take(picked)
    rng = np.random.default_rng([seed, CHECK, KINDS.index(kind)])
    within = regress_within(fit.moments)
    names = ("mean", *(f"slope({name})" for name in within.columns), "residual SD")
    # (J, S), nan where a group has no such statistic
    observed = np.column_stack([fit.moments.mean[:, -1], within.slopes, within.sd])
    if np.sum(within.df > 0.0) < 2:
        names, observed = names[:-1], observed[:, :-1]
    centre = np.nanmean(observed, axis=0)
    n_draws = len(picked)
    kept = np.empty((n_draws, *observed.shape)) if n_draws * observed.size <= held else None
    table = np.empty((4, *observed.shape))
    sums = _start_sums(n_draws, len(names))
    effects = root if kind == "new groups" else None
    for members, u in _stream_u(fit, picked, effects, rng, stream):
        seen = observed[members]
        replicates = replicate_statistics(within, fit.moments.n, members, beta, u, sigma, rng)
        replicates = np.where(np.isnan(seen), np.nan, replicates[..., : len(names)])
        table[0, members] = replicates.mean(axis=0)
        table[1:3, members] = np.quantile(replicates, [0.025, 0.975], axis=0)
        known = u if effects is None else np.zeros_like(u)
        table[3, members] = find_tails(
            within, fit.moments.n, members, seen, beta, known, sigma, effects
        )
        _add_sums(sums, replicates - centre)
        if kept is not None:
            kept[:, members] = replicates
    own = _start_sums(1, len(names))
    _add_sums(own, (observed - centre)[None])
    return PredictiveCheck(
        kind=kind,
        draws=n_draws,
        seed=seed,
        group=fit.moments.group,
        groups=_tabulate_groups(fit.moments.group, fit.moments.groups, names, observed, table),
        overall=_tabulate_overall(names, _finish_sums(own, centre)[0], _finish_sums(sums, centre)),
        data=None
        if kept is None
        else _build_tree(fit.moments.group, fit.moments.groups, names, observed, kept, shape),
    )


@dataclass(frozen=True, slots=True)
class Replicates:
    """All replicates of the groups' statistics beside the observed ones."""

    names: tuple[str, ...]  # (S,)
    observed: Array  # (J, S), nan where a group has no such statistic
    drawn: Array  # (D, J, S)
    p: Array  # (J, S) P(replicate >= observed)

    def tell(
        self,
        group: str,
        labels: Array,
        *,
        kind: str,
        seed: int,
        shape: tuple[int, int],
        held: int = HELD,
    ) -> PredictiveCheck:
        """Return the check of these groups.

        Args:
            group: what they are groups of.
            labels: of the groups (J,).
            kind: which groups were drawn.
            seed: of the replicates.
            shape: chains and draws of each, which D is the product of.
            held: numbers of the replicates that are kept; beyond it `data` is None.
        """
        lower, upper = np.quantile(self.drawn, [0.025, 0.975], axis=0)
        table = np.stack([self.drawn.mean(axis=0), lower, upper, self.p])
        centre = np.nanmean(self.observed, axis=0)
        own, sums = _start_sums(1, len(self.names)), _start_sums(len(self.drawn), len(self.names))
        _add_sums(own, (self.observed - centre)[None])
        _add_sums(sums, self.drawn - centre)
        found = _finish_sums(own, centre)[0], _finish_sums(sums, centre)
        is_kept = self.drawn.size <= held
        return PredictiveCheck(
            kind=kind,
            draws=len(self.drawn),
            seed=seed,
            group=group,
            groups=_tabulate_groups(group, labels, self.names, self.observed, table),
            overall=_tabulate_overall(self.names, *found),
            data=_build_tree(group, labels, self.names, self.observed, self.drawn, shape)
            if is_kept
            else None,
        )


def check_kind(kind: str) -> None:
    """Refuse a kind of check that there is not.

    Raises:
        ArgumentError: it is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is not known; choose 'same groups' or 'new groups'")


def thin_draws(fit: Posterior, draws: int, *, least: int = 1) -> tuple[Array, tuple[int, int]]:
    """Return positions among the flattened draws, spread over each chain, and (chains, kept).

    Raises:
        ArgumentError: a number of draws below `least`, or a fit that has not that many.
    """
    chains, length = fit.shape
    if not (isinstance(draws, int | np.integer) and draws >= least):
        raise ArgumentError(f"draws={draws!r} is too small; give {least} or more")
    kept = min(length, -(-int(draws) // chains))
    if chains * kept < least:
        raise ArgumentError(
            f"the fit has {chains * length} draws, and the check needs {least}; sample more"
        )
    along = np.linspace(0, length - 1, kept).round().astype(np.int64)
    return (np.arange(chains)[:, None] * length + along).ravel(), (chains, kept)


def check_seed(fit: Posterior, seed: int | None) -> int:
    """Return the seed to use, the fit's own if None.

    Raises:
        ArgumentError: a seed that is not an integer of 0 or more.
    """
    if seed is None:
        return fit.seed
    if not (isinstance(seed, int | np.integer) and seed >= 0):
        raise ArgumentError(f"seed={seed!r} is not a seed; give an integer of 0 or more")
    return int(seed)


def render_check(check: PredictiveCheck) -> str:
    """Return the summaries over groups, stars where they are outside, and the verdict."""
    headings = ("observed", "predicted", "2.5 %", "97.5 %", "p (two-sided)")
    columns = ["observed", "predicted", "lower", "upper", "p_two_sided"]
    table = check.overall
    cells = [headings] + [
        (
            *(format_digits(value, 5) for value in numbers),
            format_fixed(p, 3) + ("*" if p < OUTSIDE else " "),
        )
        for *numbers, p in table[columns].itertuples(index=False, name=None)
    ]
    body = align_columns(cells, sides=(align_right,) * len(headings), gap="  ")
    shown = ["  " + str(over) for over in table["over"]]
    titles = [show_name(name) for name in table["statistic"]]
    width = measure_widest([*shown, *titles])
    rule = "-" * (width + 2 + measure_widest(body))
    lines = [
        f"Posterior predictive check of the {check.kind}: {check.draws} draws, seed {check.seed}",
        rule, align_left(f"over '{show_name(check.group)}'", width) + "  " + body[0], rule,
    ]  # fmt: skip
    for at, (title, name, row) in enumerate(zip(titles, shown, body[1:], strict=True)):
        lines += [title] if at % len(OVER) == 0 else []
        lines.append(f"{align_left(name, width)}  {row}")
    verdict = check.outside
    n_summaries = len(table)
    close = (
        f"{len(verdict) or 'Nothing'} outside: two-sided p < {OUTSIDE} for the {n_summaries} "
        f"summaries, of which {OUTSIDE * n_summaries:.2g} are by chance, and for the "
        f"{len(check.groups)} statistics of single groups after multiplying by their number."
    )
    sentences = [*(f"* {sentence}" for sentence in verdict), close]
    return "\n".join(
        [*lines, rule, *(line for text in sentences for line in wrap(text, WIDTH, indent=2))]
    )


def _stream_u(
    fit: Draws, picked: Array, effects: Array | None, rng: np.random.Generator, stream: int
) -> Iterator[tuple[Array, Array]]:
    """Yield positions of groups and u (D, m, q): the posterior's, or new from roots `effects`."""
    every = np.arange(fit.moments.n_groups)
    if effects is None:
        for members, u in stream_effects(fit, every):
            yield members, u[picked]
        return
    for start in range(0, len(every), stream):
        members = every[start : start + stream]
        noise = rng.standard_normal((len(picked), len(members), effects.shape[-1]))
        yield members, np.einsum("dab,djb->dja", effects, noise)


def _start_sums(n_draws: int, n_statistics: int) -> Array:
    """Return count, sum, sum of squares, smallest and largest (5, D, S) of no groups."""
    sums = np.zeros((5, n_draws, n_statistics))
    sums[3], sums[4] = np.inf, -np.inf
    return sums


def _add_sums(sums: Array, values: Array) -> None:
    """Add groups' statistics (D, m, S), less a common centre, to the sums; nan is no group."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    sums[0] += there.sum(axis=1)
    sums[1] += filled.sum(axis=1)
    sums[2] += (filled**2).sum(axis=1)
    np.minimum(sums[3], np.where(there, values, np.inf).min(axis=1), out=sums[3])
    np.maximum(sums[4], np.where(there, values, -np.inf).max(axis=1), out=sums[4])


def _finish_sums(sums: Array, centre: Array) -> Array:
    """Return mean, SD and largest deviation from the mean (D, S, 3) over the groups."""
    count, total, squares, least, most = sums
    mean = total / count
    sd = np.sqrt(np.maximum(squares - total * mean, 0.0) / (count - 1.0))
    return np.stack([mean + centre, sd, np.maximum(most - mean, mean - least)], axis=-1)


def _tabulate_groups(
    group: str, labels: Array, names: tuple[str, ...], observed: Array, table: Array
) -> "pd.DataFrame":
    import pandas as pd

    columns = ("statistic", "observed", "predicted", "lower", "upper", "p", "p_adjusted")
    there = ~np.isnan(observed.T)
    at, row = np.nonzero(there)
    predicted, lower, upper, p = (values.T[there] for values in table)
    adjusted = np.minimum(1.0, 2.0 * len(p) * np.minimum(p, 1.0 - p))
    return pd.DataFrame(
        {
            name_group_dimension(group, taken=columns): labels[row],
            "statistic": np.array(names, dtype=object)[at],
            "observed": observed.T[there],
            "predicted": predicted,
            "lower": lower,
            "upper": upper,
            "p": p,
            "p_adjusted": adjusted,
        }
    )


def _tabulate_overall(names: tuple[str, ...], own: Array, drawn: Array) -> "pd.DataFrame":
    """Return the table of summaries: observed (S, 3), replicated (D, S, 3)."""
    import pandas as pd

    above, below = np.sum(drawn >= own, axis=0), np.sum(drawn <= own, axis=0)
    # The observed one counts among the replicates, so that no p-value is zero.
    two_sided = np.minimum(1.0, 2.0 * (1.0 + np.minimum(above, below)) / (len(drawn) + 1.0))
    lower, upper = np.quantile(drawn, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "statistic": np.repeat(np.array(names, dtype=object), len(OVER)),
            "over": list(OVER) * len(names),
            "observed": own.ravel(),
            "predicted": drawn.mean(axis=0).ravel(),
            "lower": lower.ravel(),
            "upper": upper.ravel(),
            "p": (above / len(drawn)).ravel(),
            "p_two_sided": two_sided.ravel(),
        }
    )


def name_statistic(name: str) -> str:
    """Return a statistic of groups for a sentence: "the mean", but "slope(x)"."""
    return name if name.endswith(")") else f"the {name}"


def name_variable(name: str) -> str:
    """Return the name of a statistic in `data`: a DataTree takes "/" for a path."""
    return name.replace("/", "\u2044")  # the fraction slash, which looks the same


def _build_tree(
    group: str,
    labels: Array,
    names: tuple[str, ...],
    observed: Array,
    drawn: Array,
    shape: tuple[int, int],
) -> "xr.DataTree":
    """Return replicates and observed values, each statistic over the groups that have it."""
    from arviz_base import from_dict

    dimension = name_variable(name_group_dimension(group, taken=names))
    replicated, own, coords, dims = {}, {}, {}, {}
    for k, name in enumerate(map(name_variable, names)):
        there = ~np.isnan(observed[:, k])
        dim = dimension if there.all() else f"{dimension}[{name}]"
        coords[dim], dims[name] = labels[there], [dim]
        replicated[name] = drawn[:, there, k].reshape(*shape, -1)
        own[name] = observed[there, k]
    return from_dict(
        {"posterior_predictive": replicated, "observed_data": own}, coords=coords, dims=dims
    )
