"""What the figures of groups share: estimates side by side, lines of groups, which ones to show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import HELD, Draws, summarize_effects
from bhlm.layout import list_names, name_unit, show_name
from bhlm.likelihood.effects import tabulate_effects
from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.moments import INTERCEPT, Moments
from bhlm.moments.patterns import Patterns
from bhlm.plots.marks import Axis, Note
from bhlm.plots.style import cut_middle, shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.groups import measure_groups, place_fixed
from bhlm.reml.standard_errors import Z95

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.reconciliation.comparison import Comparison

Array = np.ndarray
type Fit = Estimate | Draws | Comparison

SHOWN = 200  # groups that one panel draws
ENDS = 20  # of these, how many from either end of the order
DRAWS = 1000  # on which a page rests where there are very many groups
NAME = 30  # characters of a label in a sentence
TICKED = 8  # groups whose names stand along the axis, where a number would say nothing
NUMBERED = 5  # numbers along the axis of more groups, about
LABEL = 18  # characters of a name in a figure
# Share of the axes that two names need between them on a narrow screen: on one side of their
# points, or towards each other.
APART, TOWARDS, ABOVE = 0.35, 0.7, 0.08


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one of several grouping factors, as the figures of groups call them."""

    group: str  # the factor
    groups: Array  # (J,) labels, object; of several columns joined by ":"

    @property
    def n_groups(self) -> int:
        """The number J of units."""
        return len(self.groups)


@dataclass(frozen=True, slots=True)
class GroupLines:
    """The expected response of J groups along one column, the other columns at the group's mean.

    A line is y = at + slope (x - origin). What does not exist is nan. Without a column that varies
    within groups the slopes are zero.
    """

    column: str | None  # the column along x; None: nothing varies within groups
    origin: float  # where `at` is taken
    at: dict[str, Array]  # "population", "ols", "eb", "posterior" -> (J,)
    slope: dict[str, Array]  # the same keys -> (J,)


def split_fit(fit: Fit) -> tuple[Estimate | None, Draws | None]:
    """Return the REML fit and the posterior that a fit consists of."""
    if isinstance(fit, Estimate):
        return fit, None
    if isinstance(fit, Draws):
        return None, fit
    return fit.split_pair("a figure of groups")


def join_effects(reml: Estimate | None, post: Draws | None) -> "pd.DataFrame":
    """Return one row per group and random coefficient, under column names of its own.

    Columns: `group`, `coefficient`, `n`; of REML `fixed`, `ols`, `eb`, `u` = eb - fixed,
    `reliability` and `shrinkage`, the standard error of prediction of u, `u_se` (the root of
    Henderson's C22), and its 95 % interval `u_low`, `u_high`; of the posterior `mean`, `low` and
    `high` (95 %) of u, and `post_fixed`, the posterior mean of the fixed part. What a fit that is
    None would give is nan.
    """
    given = reml if reml is not None else post
    assert given is not None
    moments = given.moments
    shape = (moments.n_groups, len(moments.random))
    unknown = np.full(shape, np.nan)
    values: dict[str, Array] = {"n": np.broadcast_to(moments.n.astype(int)[:, None], shape)}
    names = ("fixed", "ols", "eb", "u", "reliability", "shrinkage", "pev")
    found = dict.fromkeys(names, unknown) if reml is None else measure_groups(reml)
    values |= {name: found[name] for name in names[:-1]}
    values["u_se"] = np.sqrt(found["pev"])
    values["u_low"] = found["u"] - Z95 * values["u_se"]
    values["u_high"] = found["u"] + Z95 * values["u_se"]
    if post is None:
        values |= dict.fromkeys(("mean", "low", "high", "post_fixed"), unknown)
    else:
        effects = summarize_effects(post)
        values |= {"mean": effects["mean"], "low": effects["lower"], "high": effects["upper"]}
        values["post_fixed"] = np.einsum("jip,p->ji", place_fixed(moments), mean_beta(post))
    return tabulate_effects(moments, values, group="group")


def thin_posterior(post: Draws, *, held: int = HELD) -> Draws:
    """Return the fit with about 1,000 of its draws, where all would take long for the groups.

    That is where their effects are more numbers than `held`, as many as a fit holds.
    """
    draws = count_draws(post)
    step = draws // DRAWS
    if step < 2 or draws * post.moments.n_groups * len(post.moments.random) <= held:
        return post
    return post.with_data(post.data.isel(draw=slice(None, None, step), missing_dims="ignore"))


def count_draws(post: Draws) -> int:
    """Return how many draws all chains have together."""
    chains, draws = post.shape
    return chains * draws


def rename_columns(reml: Estimate, taken: Sequence[str]) -> Estimate:
    """Return the fit with another name for each column of the data that is called as one `taken`.

    Tables with a column for each coefficient have columns of their own, such as "p", which may
    well be the name of a covariate.
    """
    moments = reml.moments

    names = {name: f"{name} of the data" for name in (moments.group, *moments.columns)}
    clashing = {name: other for name, other in names.items() if name in taken}
    return replace(reml, moments=moments.rename(clashing))


def mean_beta(post: Draws) -> Array:
    """Return the posterior mean (p,) of the fixed effects."""
    return np.asarray(post.contents.read("posterior", "beta").mean(axis=(0, 1)))


def find_column(moments: Moments) -> str | None:
    """Return the column to draw groups along: the first random slope, or what varies within one."""
    for name in (*moments.random, *moments.fixed):
        if name != INTERCEPT and varies_within(moments, name).any():
            return name
    return None


def varies_within(moments: Moments, name: str) -> Array:
    """Return in which groups (J,) a column varies by more than rounding."""
    i = moments.columns.index(name)
    noise = ROUNDING * moments.n * moments.mean[:, i] ** 2
    return np.asarray(moments.cross[:, i, i] > noise)


def draw_lines(
    moments: Moments, effects: "pd.DataFrame", beta: dict[str, Array], *, origin: float
) -> GroupLines:
    """Return the lines of every group through the means of its columns.

    A line passes through (mean of x, mean_X'beta + mean_Z'u). Its slope is the group's coefficient
    of x: the fixed part of `place_fixed`, which counts products of x with what is constant in
    groups, plus u where x is random. Any other column stays at its mean in the group, a power of
    x too.

    Args:
        moments: of the fit.
        effects: what `tabulate_effects` returns.
        beta: fixed effects (p,) of "reml" and "posterior", where there are such fits.
        origin: where along x the lines' values are taken.
    """
    column = find_column(moments)
    place = {name: i for i, name in enumerate(moments.columns)}
    mean_x = np.column_stack([_mean_of(moments, place, name) for name in moments.fixed])
    mean_z = np.column_stack([_mean_of(moments, place, name) for name in moments.random])
    shape = (moments.n_groups, len(moments.random))
    by_kind: dict[str, tuple[str, Array]] = {}
    if "reml" in beta:
        fixed = effects["fixed"].to_numpy().reshape(shape)
        by_kind["population"] = ("reml", np.zeros(shape))
        by_kind["ols"] = ("reml", effects["ols"].to_numpy().reshape(shape) - fixed)
        by_kind["eb"] = ("reml", effects["u"].to_numpy().reshape(shape))
    if "posterior" in beta:
        by_kind.setdefault("population", ("posterior", np.zeros(shape)))
        by_kind["posterior"] = ("posterior", effects["mean"].to_numpy().reshape(shape))
    turn = np.zeros((moments.n_groups, len(moments.fixed)))
    if column is not None:
        turn = place_slopes(moments, column)
    offset = 0.0 if column is None else _mean_of(moments, place, column) - origin
    at, slope = {}, {}
    for kind, (source, u) in by_kind.items():
        slope[kind] = turn @ beta[source]
        if column in moments.random:
            slope[kind] = slope[kind] + u[:, moments.random.index(column)]
        level = mean_x @ beta[source] + np.einsum("jk,jk->j", mean_z, u)
        at[kind] = level - slope[kind] * offset
    return GroupLines(column=column, origin=origin, at=at, slope=slope)


def place_slopes(moments: Moments, column: str) -> Array:
    """Return t_j (J, p): t_j beta is the fixed part of group j's slope along a column."""
    random = moments.random
    if column not in random:
        random = (*(name for name in random if name == INTERCEPT), column)
    place = place_fixed(moments.with_blocks((random,)))
    return np.asarray(place[:, random.index(column)])


def find_held(moments: Moments, column: str | None) -> tuple[str, ...]:
    """Return the columns that vary within groups and that a line along `column` holds fixed."""
    if column is None:
        return ()
    counted = np.nan_to_num(place_slopes(moments, column), nan=1.0).any(axis=0)
    along = {name for name, there in zip(moments.fixed, counted, strict=True) if there} | {column}
    return tuple(
        name
        for name in dict.fromkeys((*moments.random, *moments.fixed))
        if name != INTERCEPT and name not in along and varies_within(moments, name).any()
    )


def list_columns(names: Sequence[str]) -> str:
    """Return names of columns as a list in a sentence, the first few of them."""
    return list_names([shorten(name, NAME) for name in names])


def choose_shown(n: int, *, most: int = SHOWN, ends: int = ENDS) -> Array:
    """Return which ranks of n to draw: all, or both ends and every k-th between them."""
    if n <= most:
        return np.arange(n)
    inner = np.linspace(ends, n - 1 - ends, most - 2 * ends).round().astype(int)
    return np.unique(np.concatenate([np.arange(ends), inner, np.arange(n - ends, n)]))


def name_groups(labels: Sequence[Any] | Array) -> list[str]:
    """Return group labels as texts."""
    return [show_name(label) for label in np.asarray(labels).tolist()]


def _mean_of(moments: Moments, place: dict[str, int], name: str) -> Array:
    return np.ones(moments.n_groups) if name == INTERCEPT else moments.mean[:, place[name]]


def name_group(moments: Moments | Units | Patterns, j: int) -> str:
    """Return one group for a sentence, such as "school 8367"."""
    label = cut_middle(name_groups(moments.groups[[j]])[0], NAME)
    return name_unit(shorten(moments.group, NAME), label)


def order_axis(moments: Moments | Units | Patterns) -> Axis:
    """Return the axis of groups in the order of the data, the first of which stands at 1."""
    n = moments.n_groups
    if n <= TICKED:
        places = np.arange(1, n + 1)
        texts = tuple(cut_middle(name, LABEL) for name in name_groups(moments.groups))
    else:
        places = np.unique(np.append(1, np.arange(0, n + 1, _find_step(n))[1:]))
        texts = tuple(f"{at:,}" for at in places)
    edge = 0.5 + 0.02 * n
    return Axis(
        f"{moments.group}, in the order of the data",
        ticks=(tuple(places.astype(float).tolist()), texts),
        range=(1.0 - edge, n + edge),
    )


def _find_step(n: int) -> int:
    """Return the round step that counts to n in about `NUMBERED` steps."""
    size = 10 ** int(np.log10(n / NUMBERED))
    return next(factor * size for factor in (1, 2, 5, 10) if factor * size * NUMBERED >= n)


def note_groups(
    moments: Moments | Units | Patterns, heights: Array, largest: Sequence[int]
) -> list[Note]:
    """Return the names beside the points of groups, without those that would lie on another.

    A name stands on the side where there is more room. Few groups have theirs along the axis.

    Args:
        moments: of the fit.
        heights: (J,) where each group's point is.
        largest: the groups to name, the most important first.
    """
    n, notes = moments.n_groups, list[Note]()
    if n <= TICKED:
        return notes
    known = heights[np.isfinite(heights)]
    high = float(known.max() - min(known.min(), 0.0)) if len(known) else 1.0
    for j in largest:
        at, height, before = j + 1.0, float(heights[j]), j + 1.0 > 0.5 * (n + 1)
        if all(
            abs(at - other.x) > (APART if other.before == before else TOWARDS) * n
            or abs(height - other.y) > ABOVE * high
            for other in notes
        ):
            name = cut_middle(name_groups(moments.groups[[j]])[0], LABEL)
            notes.append(Note(at, height, name, before=before))
    return notes
