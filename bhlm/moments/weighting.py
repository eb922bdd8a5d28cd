"""Weights by group: their sums, what they make of a group's moments, and what is wrong with them.

Cross-products are taken with the weights as given. Scaling within groups multiplies a group's
block by one number, which follows from n, sum w and sum w^2, so that it is applied when a fit
asks, and files of weighted moments merge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.design.formula.terms import Formula
from bhlm.design.formula.weights import Weights
from bhlm.errors import DataError, show_value
from bhlm.kernels import kernel
from bhlm.layout import agree, count

Array = np.ndarray

HUGE = 1e100  # size of a weight whose squares, times those of columns, are doubles
# What `add_weights` keeps of a group, by column of its state.
SUM, SQUARES, LOGS, LOW, HIGH, ZERO, NEGATIVE, BROKEN, BETWEEN, LEAST, N, PRODUCT = range(12)
WIDTH = 16  # doubles, whole cache lines
# Weights are multiplied as long as the product stays between FAR and its inverse, then their
# logarithm is taken: a logarithm for each of them would cost more than all else.
FAR = 1e100
CONSTANT = 1e-9  # relative difference below which a group's weights are one, computed row by row


@dataclass(frozen=True, slots=True)
class Weighting:
    """What the weights of J groups sum to, as they were given."""

    sums: Array  # (J,) of w
    squares: Array  # (J,) of w^2
    logs: Array  # (J,) of log w
    groups: Array  # (J,) the weights of the groups
    rows: Array  # (J,) rows of the table, which frequencies count several times

    def select(self, keep: Array) -> "Weighting":
        """Return the weights of the groups that the mask or index `keep` selects."""
        return Weighting(*(getattr(self, each.name)[keep] for each in fields(self)))


class Applied(NamedTuple):
    """What a likelihood does with weighted moments."""

    factor: Array  # (J,) that a group's block, means and cross-products, is multiplied by
    size: Array  # (J,) rows that count in the group's likelihood
    groups: Array | None  # (J,) that the group's log-likelihood is multiplied by; None is 1
    offset: float  # that the log-likelihood is more by


def weigh_mass(weights: Weights | None, weighting: Weighting | None, n: Array) -> Array:
    """Return by what the means of groups count (J,) when blocks are added up: the sum of weights.

    That is n where cross-products were taken without weights.
    """
    if weights is None or weighting is None or not weights.weighs_rows:
        return n
    return weighting.sums


def apply_weights(weights: Weights, weighting: Weighting, n: Array) -> Applied:
    """Return what the weights do to each group's part of the likelihood.

    Precision weights leave the number of rows, and add half the sum of log w; sampling weights
    take the sum of the scaled weights for it, and multiply the whole by the group's weight.
    """
    ones = np.ones(len(n))
    if not weights.is_sampling:
        offset = 0.0 if weights.counts_rows else 0.5 * float(weighting.logs.sum())
        return Applied(ones, n, None, offset)
    match weights.scaling:
        case "size":
            factor = n / weighting.sums
        case "effective":
            factor = weighting.sums / weighting.squares
        case _:
            factor = ones
    if weights.scaling == "gk":
        return Applied(ones, n, weighting.groups * weighting.sums / n, 0.0)
    return Applied(factor, factor * weighting.sums, weighting.groups, 0.0)


def count_effective(weighting: Weighting, applied: Applied) -> tuple[float, float]:
    """Return the effective numbers of rows and of groups, (sum w)^2 / sum w^2 of all weights.

    A row's weight is its own times its group's. Source: Kish (1965), Survey Sampling, 11.7.
    """
    groups = np.ones(len(weighting.sums)) if applied.groups is None else applied.groups
    scale = groups * applied.factor
    rows = float((scale @ weighting.sums) ** 2 / (scale**2 @ weighting.squares))
    return rows, float(groups.sum() ** 2 / (groups @ groups))


def make_weight_states(n_groups: int) -> Array:
    """Return empty states (J, WIDTH) for `add_weights`."""
    states = np.zeros((n_groups, WIDTH))
    states[:, LOW] = np.inf
    states[:, HIGH] = -np.inf
    states[:, PRODUCT] = 1.0
    return states


@kernel
def add_weights(codes: Array, rows: Array, groups: Array, states: Array) -> None:
    """Update the states of groups (J, WIDTH) with the weights (n,) of rows and of their groups."""
    n = len(codes)
    i = 0
    while i < n:
        own, code = states[codes[i]], codes[i]
        # Rows of a group often follow each other, and what they add up to stays at hand.
        total, squares, product = own[SUM], own[SQUARES], own[PRODUCT]
        low, high, between, start = own[LOW], own[HIGH], own[BETWEEN], i
        while i < n and codes[i] == code:
            w, group = rows[i], groups[i]
            i += 1
            if not (0.0 < w < np.inf and 0.0 < group < np.inf):
                _note_bad(w, group, own)
                continue
            total += w
            squares += w * w
            if FAR > w > 1.0 / FAR:
                product *= w
                if not FAR > product > 1.0 / FAR:
                    own[LOGS] += np.log(product)
                    product = 1.0
            else:
                own[LOGS] += np.log(w)
            low = min(low, group)
            high = max(high, group)
            if w != np.floor(w):
                between += 1.0
        own[N] += i - start
        own[SUM], own[SQUARES], own[PRODUCT] = total, squares, product
        own[LOW], own[HIGH], own[BETWEEN] = low, high, between


@kernel
def _note_bad(w: float, group: float, own: Array) -> None:
    """Count a weight, of a row or its group, that is not finite, negative or zero."""
    least = min(w, group)
    if not (w < np.inf and group < np.inf):
        own[BROKEN] += 1.0
    elif least < 0.0:
        own[NEGATIVE] += 1.0
        own[LEAST] = min(own[LEAST], least)
    else:
        own[ZERO] += 1.0


WEIGHTS = ("rows", "groups")  # the columns of a frame that hold those of a row and its group
# What an engine sums of `list_weight_columns`, by the name of the sum.
SUMMED = ("ws", "wq", "wl", "wlow", "whigh", "wzero", "wnegative", "wbroken", "wbetween", "wleast")


def list_weight_columns() -> dict[str, nw.Expr]:
    """Return the columns of rows that `list_weight_sums` sums, from `rows` and `groups`."""
    own, group = nw.col("rows"), nw.col("groups")
    fine = own.is_finite() & group.is_finite()
    good = fine & (own > 0.0) & (group > 0.0)
    # Engines may take the logarithm of what a condition leaves out, and stop at that of 0.
    safe = nw.when(good).then(own).otherwise(1.0)
    least = nw.when(own < group).then(own).otherwise(group)

    def flag(condition: nw.Expr) -> nw.Expr:
        return condition.cast(nw.Int32).cast(nw.Float64)

    negative = fine & (least < 0.0)
    return {
        "w_s": safe * flag(good),
        "w_q": safe * safe * flag(good),
        "w_l": safe.log(),
        "w_zero": flag(fine & (least == 0.0)),
        "w_negative": flag(negative),
        "w_broken": flag(~fine),
        "w_between": flag(safe != safe.floor()),
        "w_least": least,
    }


def list_weight_sums() -> list[nw.Expr]:
    """Return the aggregates of a group, under the names of `SUMMED`."""
    summed = ("w_s", "w_q", "w_l", "w_zero", "w_negative", "w_broken", "w_between")
    return [
        *(nw.col(name).sum().alias(name.replace("_", "")) for name in summed),
        nw.col("w_least").min().alias("wleast"),
        nw.col("groups").min().alias("wlow"),
        nw.col("groups").max().alias("whigh"),
    ]


def read_weight_sums(columns: Mapping[str, Array], n: Array) -> Array:
    """Return the states (J, WIDTH) of the sums that an engine returned."""
    states = make_weight_states(len(n))
    for at, name in enumerate(SUMMED):
        states[:, at] = columns[name]
    states[:, N] = n
    return states


def settle_weights(formula: Formula, labels: Array, states: Array, *, group: str) -> Weighting:
    """Return the weights of groups from what rows added up to (J, WIDTH).

    Raises:
        DataError: weights that are zero, negative or infinite; frequencies that are no whole
            numbers; weights of a group that differ between its rows.
    """
    weights = formula.weights
    assert weights is not None
    named = " and ".join(f"'{text}'" for text in (weights.rows, weights.groups) if text)
    what = "the known variance" if weights.holds_sigma else "the weight"
    rows = f"{what} {named}"
    broken, negative, zero = (int(states[:, at].sum()) for at in (BROKEN, NEGATIVE, ZERO))
    if broken:
        raise DataError(
            f"{rows} is not a finite number in {count(broken, 'row')}; give one above 0, or leave "
            "those rows out"
        )
    if negative:
        raise DataError(
            f"{rows} is negative in {count(negative, 'row')} (the least is "
            f"{states[:, LEAST].min():g}); give one above 0, or leave those rows out"
        )
    if zero:
        raise DataError(
            f"{rows} is 0 in {count(zero, 'row')}; such rows count for nothing, so leave them out"
        )
    if weights.counts_rows and (odd := int(states[:, BETWEEN].sum())):
        raise DataError(
            f"{rows} is no whole number in {count(odd, 'row')}, and a frequency is one; for other "
            "weights give bhlm.SamplingWeights or bhlm.PrecisionWeights"
        )
    low, high = states[:, LOW], states[:, HIGH]
    sizes = np.append(np.sqrt(states[:, SQUARES] / states[:, N]), low)
    if (far := (sizes > HUGE) | (sizes < 1.0 / HUGE)).any():
        raise DataError(
            f"{rows} is of the size {sizes[far][0]:.2g}, with which doubles do not compute; give "
            f"it in other units, between {1.0 / HUGE:g} and {HUGE:g}"
        )
    differ = high - low > CONSTANT * high
    if differ.any():
        at = int(np.argmax(differ))
        label = show_value(labels[at : at + 1].tolist()[0])
        raise DataError(
            f"the weight of groups '{weights.groups}' differs between the rows of "
            f"{int(differ.sum())} of the {len(low)} groups of '{group}', such as {label} (from "
            f"{low[at]:g} to {high[at]:g}); give one value per group, and what differs to rows="
        )
    logs = states[:, LOGS] + np.log(states[:, PRODUCT])
    return Weighting(states[:, SUM], states[:, SQUARES], logs, low, states[:, N])


def settle_units(
    weights: Array, codes: Array, n_units: int, *, group: str, of: str = "row"
) -> Array:
    """Return the weights (J,) of a factor's units from those of its rows (n,), or of cells.

    Raises:
        DataError: weights that are zero, negative or infinite, or differ within a unit.
    """
    bad = ~(np.isfinite(weights) & (weights > 0.0))
    if bad.any():
        raise DataError(
            f"the weight of '{group}' is {show_value(float(weights[bad][0]))} in "
            f"{count(int(bad.sum()), of)}; give a finite number above 0, or leave those rows out"
        )
    low, high = np.full(n_units, np.inf), np.zeros(n_units)
    np.minimum.at(low, codes, weights)
    np.maximum.at(high, codes, weights)
    refuse_differing(low, high, group=group)
    return low


def refuse_differing(low: Array, high: Array, *, group: str) -> None:
    """Raise `DataError` where the least (J,) and the largest weight of a unit's rows differ."""
    differ = high - low > CONSTANT * np.abs(high)
    if differ.any():
        at = int(np.argmax(differ))
        raise DataError(
            f"the weight of '{group}' differs between the rows of {int(differ.sum())} of its "
            f"{len(low)} units (from {low[at]:g} to {high[at]:g}); give one value per unit"
        )


def merge_weightings(
    parts: Sequence[Weighting], index: Array, n_groups: int, *, names: Sequence[str]
) -> Weighting:
    """Return the weights of the union of parts, whose groups stand at `index` one after the other.

    Raises:
        DataError: a group that has two weights.
    """
    sums = {
        each: np.bincount(
            index,
            weights=np.concatenate([getattr(part, each) for part in parts]),
            minlength=n_groups,
        )
        for each in ("sums", "squares", "logs", "rows")
    }
    given = np.concatenate([part.groups for part in parts])
    groups = np.full(n_groups, np.nan)
    groups[index] = given
    if (bad := np.abs(groups[index] - given) > CONSTANT * given).any():
        many = int(bad.sum())
        raise DataError(
            f"{many} {agree(many, 'group has', 'groups have')} one weight in {names[0]} "
            "and another in a part that follows; give a group one weight"
        )
    return Weighting(**sums, groups=groups)


def describe_weighting(weighting: Weighting) -> dict[str, Any]:
    """Return the arrays by name, to be stored."""
    return {each.name: getattr(weighting, each.name) for each in fields(weighting)}
