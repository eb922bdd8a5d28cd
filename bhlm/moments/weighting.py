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
from bhlm.design.kernels import kernel
from bhlm.errors import DataError, show_value
from bhlm.layout import agree, count

Array = np.ndarray

HUGE = 1e100  # size of a weight whose squares, times those of columns, are doubles
# What `memory.add_weighed` keeps of a group, side by side in a cache line: the sums of its rows'
# weights, of their squares, of logarithms and the product that the next logarithm is taken of; the
# least and the largest weight of the group itself; and the number of rows.
SUM, SQUARES, LOGS, PRODUCT, LOW, HIGH, N = range(7)
WIDTH = 8
# What it keeps of all rows: how many weights are 0, negative, not finite, and between whole
# numbers, and the least of those that are negative.
ZERO, NEGATIVE, BROKEN, BETWEEN, LEAST = range(5)
# Weights are multiplied as long as the product stays between FAR and its inverse, then their
# logarithm is taken: a logarithm for each of them would cost more than all else.
FAR = 1e100
_EMPTY = np.zeros(WIDTH)
_EMPTY[PRODUCT], _EMPTY[LOW], _EMPTY[HIGH] = 1.0, np.inf, -np.inf
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


class Weighed(NamedTuple):
    """What the weights of rows have added up to, as rows came, or an engine has summed them."""

    groups: Array  # (J, WIDTH)
    faults: Array  # (5,)

    def grow(self, n_groups: int) -> "Weighed":
        """Return the same with room for more groups."""
        wider = make_weighed(n_groups, first=self.groups)
        return Weighed(wider.groups, self.faults)

    def select(self, order: Array) -> "Weighed":
        """Return the same of some groups, in some order."""
        return Weighed(self.groups[order], self.faults)


def make_weighed(n_groups: int, *, first: Array | None = None) -> Weighed:
    """Return what no rows add up to, but for the `first` groups."""
    groups = np.empty((n_groups, WIDTH))
    known = 0 if first is None else len(first)
    if first is not None:
        groups[:known] = first
    groups[known:] = _EMPTY
    return Weighed(groups, np.zeros(5))


@kernel
def note_fault(w: float, group: float, faults: Array) -> None:
    """Count a weight, of a row or its group, that is not finite, negative or zero."""
    least = min(w, group)
    if not (w < np.inf and group < np.inf):
        faults[BROKEN] += 1.0
    elif least < 0.0:
        faults[NEGATIVE] += 1.0
        faults[LEAST] = min(faults[LEAST], least)
    else:
        faults[ZERO] += 1.0


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


def read_weight_sums(columns: Mapping[str, Array], n: Array) -> Weighed:
    """Return what weights added up to from the sums that an engine returned."""
    found = make_weighed(len(n))
    places = (SUM, SQUARES, LOGS, LOW, HIGH)
    for at, name in zip(places, SUMMED[:5], strict=True):
        found.groups[:, at] = columns[name]
    found.groups[:, N] = n
    for at, name in zip((ZERO, NEGATIVE, BROKEN, BETWEEN), SUMMED[5:9], strict=True):
        found.faults[at] = np.sum(columns[name])
    found.faults[LEAST] = np.min(columns[SUMMED[9]], initial=0.0)
    return found


def settle_weights(formula: Formula, labels: Array, weighed: Weighed, *, group: str) -> Weighting:
    """Return the weights of groups from what rows added up to.

    Raises:
        DataError: weights that are zero, negative or infinite; frequencies that are no whole
            numbers; weights of a group that differ between its rows.
    """
    weights = formula.weights
    assert weights is not None
    named = " and ".join(f"'{text}'" for text in (weights.rows, weights.groups) if text)
    what = "the known variance" if weights.holds_sigma else "the weight"
    rows = f"{what} {named}"
    sums, faults = np.ascontiguousarray(weighed.groups.T), weighed.faults
    broken, negative, zero = (int(faults[at]) for at in (BROKEN, NEGATIVE, ZERO))
    if broken:
        raise DataError(
            f"{rows} is not a finite number in {count(broken, 'row')}; give one above 0, or leave "
            "those rows out"
        )
    if negative:
        raise DataError(
            f"{rows} is negative in {count(negative, 'row')} (the least is "
            f"{faults[LEAST]:g}); give one above 0, or leave those rows out"
        )
    if zero:
        raise DataError(
            f"{rows} is 0 in {count(zero, 'row')}; such rows count for nothing, so leave them out"
        )
    if weights.counts_rows and (odd := int(faults[BETWEEN])):
        raise DataError(
            f"{rows} is no whole number in {count(odd, 'row')}, and a frequency is one; for other "
            "weights give bhlm.SamplingWeights or bhlm.PrecisionWeights"
        )
    low, high = sums[LOW], sums[HIGH]
    sizes = np.append(np.sqrt(sums[SQUARES] / sums[N]), low)
    if sizes.max() > HUGE or sizes.min() < 1.0 / HUGE:
        far = (sizes > HUGE) | (sizes < 1.0 / HUGE)
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
    logs = sums[LOGS] + np.log(sums[PRODUCT])
    return Weighting(sums[SUM], sums[SQUARES], logs, low, sums[N])


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
