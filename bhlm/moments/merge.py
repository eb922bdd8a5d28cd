"""Moments of disjoint sets of rows -> those of their union."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from bhlm.design.design import Design
from bhlm.design.formula.expressions import Apply, walk
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.labels import kind_of_labels
from bhlm.design.rows import list_within
from bhlm.errors import ArgumentError, DataError
from bhlm.moments.memory import Blocks, Reduced
from bhlm.moments.weighting import merge_weightings, weigh_mass

Array = np.ndarray


class HasGroups(Protocol):
    """Moments or patterns of a single factor."""

    @property
    def groups(self) -> Array:
        """The labels (J,) of the groups."""


def merge_blocks(design: Design, parts: Sequence[Reduced], *, names: Sequence[str]) -> Reduced:
    """Return the blocks of all groups of some parts, which have the columns of one design.

    Two blocks of one group merge by the pairwise update: with d the difference of the means,
    cross = cross_1 + cross_2 + (n_1 n_2 / (n_1 + n_2)) d d'. Source: Chan, Golub & LeVeque
    (1983), The American Statistician 37, 242-247, eq. 2.1.

    Raises:
        DataError: labels of different types; a label twice in one part; a group in two parts of
            a model with cwc() or gm(), of which each part has taken the mean of its own rows.
    """
    labels = join_labels([part.groups for part in parts], design.group, names=names)
    groups, index = np.unique(labels, return_inverse=True)
    if len(groups) < len(labels):
        check_shared(design, parts, index, names=names)
    weights = design.formula.weights
    counted = [
        part.blocks._replace(n=weigh_mass(weights, part.weighting, part.n)) for part in parts
    ]
    found = _add_up(counted, index, len(groups))
    if weights is None:
        return Reduced(groups, *found)
    weightings = [part.weighting for part in parts if part.weighting is not None]
    weighting = merge_weightings(weightings, index, len(groups), names=names)
    rows = np.bincount(index, weights=np.concatenate([part.n for part in parts]))
    return Reduced(groups, rows, found.mean, found.cross, weighting)


def name_parts(
    parts: Sequence[object], names: Sequence[str] | None, *, what: str = "moments"
) -> Sequence[str]:
    """Return what errors call each part: its name, or its number.

    Raises:
        DataError: no parts.
        ArgumentError: another number of names.
    """
    if not parts:
        raise DataError(f"there are no {what} to merge; give at least one part")
    names = names or [f"part {i + 1}" for i in range(len(parts))]
    if len(names) != len(parts):
        raise ArgumentError(f"{len(names)} names for {len(parts)} parts; give one for each")
    return names


def merge_cells(design: Design, parts: Sequence[Blocks], *, names: Sequence[str]) -> Blocks:
    """Return the blocks of all cells of some parts, which have the columns of one design.

    As `merge_blocks`, with a label in each of several grouping columns.

    Raises:
        DataError: labels of different types; a cell twice in one part; a level in two parts of
            the factor within which cwc() or gm() takes means.
    """
    columns = design.formula.group_columns
    joined = [
        join_labels([part.labels[at] for part in parts], name, names=names)
        for at, name in enumerate(columns)
    ]
    index = number_cells(joined)
    first = np.unique(index, return_index=True)[1]
    _check_cells(design, parts, index, dict(zip(columns, joined, strict=True)), names=names)
    labels, weights = tuple(each[first] for each in joined), design.formula.weights
    counted = [part._replace(n=weigh_mass(weights, part.weighting, part.n)) for part in parts]
    found = _add_up(counted, index, len(first))
    if weights is None:
        return Blocks(labels, *found)
    weightings = [part.weighting for part in parts if part.weighting is not None]
    weighting = merge_weightings(weightings, index, len(first), names=names)
    rows = np.bincount(index, weights=np.concatenate([part.n for part in parts]))
    given = [part.units for part in parts if part.units is not None]
    units = np.concatenate(given)[first] if given else None
    return Blocks(labels, rows, found.mean, found.cross, weighting, units)


def number_cells(labels: Sequence[Array]) -> Array:
    """Return the code (C,) of each combination of labels, C of them in each column."""
    codes = np.zeros(len(labels[0]), dtype=np.int64)
    for each in labels:
        own, inverse = np.unique(each, return_inverse=True)
        _, codes = np.unique(codes * len(own) + inverse, return_inverse=True)
    return codes


class _Sums(NamedTuple):
    """Rows (J,), means (J, k) and cross-products (J, k, k) of merged blocks."""

    n: Array
    mean: Array
    cross: Array


def _add_up(parts: Sequence[Blocks], index: Array, n_groups: int) -> _Sums:
    """Return the merged blocks; `index` says where each block of each part belongs."""
    k = parts[0].mean.shape[1]
    n = np.zeros(n_groups)
    mean = np.zeros((n_groups, k))
    cross = np.zeros((n_groups, k, k))
    start = 0
    for part in parts:
        at = index[start : start + len(part.n)]
        start += len(part.n)
        total = n[at] + part.n
        step = part.mean - mean[at]
        weight = n[at] * part.n / total
        # The product of the steps comes first, so that cross stays symmetric to the last bit.
        cross[at] += part.cross + weight[:, None, None] * (step[:, :, None] * step[:, None, :])
        mean[at] += (part.n / total)[:, None] * step
        n[at] = total
    return _Sums(n, mean, cross)


def check_alike(first: Design, part: Design, *, names: tuple[str, str]) -> None:
    """Raise `DataError` where two parts are moments of different columns."""
    remedy = f"compute {names[1]} again from its table by reduce_like, with {names[0]} as reference"
    mine, yours = first.levels, part.levels
    for factor in mine.keys() & yours.keys():
        if mine[factor] != yours[factor]:
            raise DataError(
                f"moments differ in levels of '{factor}': {names[1]} has {yours[factor]} and "
                f"{names[0]} has {mine[factor]}; {remedy}"
            )
    if first.formula.weights != part.formula.weights:
        here, there = part.formula.weights, first.formula.weights
        raise DataError(
            f"moments differ in weights: {names[1]} has {here or 'none'} and {names[0]} has "
            f"{there or 'none'}; reduce both with one weights="
        )
    for name in ("columns", "fixed", "random", "blocks", "group", "factors"):
        here, there = getattr(part, name), getattr(first, name)
        if here != there:
            raise DataError(
                f"moments differ in {name}: {names[1]} ('{part.formula.text}') has {here} and "
                f"{names[0]} ('{first.formula.text}') has {there}; reduce both for one formula"
            )
    ours, theirs = first.constants, part.constants
    for call in sorted({*ours, *theirs}):
        if ours.get(call) != theirs.get(call):
            raise DataError(
                f"moments differ in constants of '{call}': {names[1]} has {theirs.get(call)} and "
                f"{names[0]} has {ours.get(call)}, each from its own rows; {remedy}"
            )


def join_labels(parts: Sequence[Array], group: str, *, names: Sequence[str]) -> Array:
    """Return the labels of all parts, one after the other.

    Raises `DataError` where they are of different types, and 1 and '1' would be taken for one
    group or for two.
    """
    first = parts[0]
    expected = kind_of_labels(first)

    def describe(labels: Array, name: str) -> str:
        return f"{kind_of_labels(labels)} ({labels.dtype}) such as {labels[:1].tolist()} in {name}"

    dtypes = {first.dtype}
    for part, name in zip(parts[1:], names[1:], strict=True):
        alike = kind_of_labels(part) == expected
        if alike and expected == "integers":
            # Integers of 64 bits, signed and not, only meet as floats, and those lose digits.
            dtypes.add(part.dtype)
            alike = np.result_type(*dtypes).kind in "iu"
        if not alike:
            raise DataError(
                f"labels of '{group}' are {describe(part, name)} and "
                f"{describe(first, names[0])}; give the column one type in every part"
            )
    try:
        return np.concatenate(list(parts))
    except OverflowError as error:
        raise DataError(f"labels of '{group}': {error}; give them one unit") from error


def check_shared(
    design: Design, parts: Sequence["HasGroups"], index: Array, *, names: Sequence[str]
) -> None:
    """Raise `DataError` where a group with blocks in several places cannot be put together."""
    start = 0
    for part, name in zip(parts, names, strict=True):
        at = index[start : start + len(part.groups)]
        start += len(part.groups)
        if len(np.unique(at)) < len(at):
            raise DataError(
                f"a label of '{design.group}' occurs twice in {name}; merge moments whose groups "
                "are distinct"
            )
    factors = list_factors(design.formula)
    calls = [
        str(node)
        for node in dict.fromkeys(node for factor in factors for node in walk(factor))
        if isinstance(node, Apply) and node.function in ("cwc", "gm")
    ]
    if calls:
        shared = int((np.bincount(index) > 1).sum())
        raise DataError(
            f"{shared} of the groups of '{design.group}' have rows in more than one part, and "
            f"{' and '.join(calls)} would rest on each part's own group means; put all rows of a "
            "group into one part and reduce it again"
        )


def _check_cells(
    design: Design,
    parts: Sequence[Blocks],
    index: Array,
    labels: Mapping[str, Array],
    *,
    names: Sequence[str],
) -> None:
    """Raise `DataError` where cells with blocks in several places cannot be put together."""
    belongs = np.repeat(np.arange(len(parts)), [len(part.n) for part in parts])
    formula = design.formula
    for at, name in enumerate(names):
        if len(np.unique(index[belongs == at])) < len(parts[at].n):
            raise DataError(
                f"a cell of '{formula.group}' occurs twice in {name}; merge moments whose cells "
                "are distinct"
            )
    check_within(formula, belongs, labels)


def check_within(formula: Formula, belongs: Array, labels: Mapping[str, Array]) -> None:
    """Raise `DataError` where a level, within which means are taken, has rows in several parts.

    Args:
        formula: with several factors.
        belongs: the part (C,) of each cell.
        labels: those (C,) of each grouping column.
    """
    for written in list_within(formula):
        factor = str(formula.find_grouping(written))
        codes = number_cells([labels[column] for column in formula.groupings[factor]])
        pairs = np.unique(np.column_stack([codes, belongs]), axis=0)
        if shared := int((np.bincount(pairs[:, 0]) > 1).sum()):
            raise DataError(
                f"{shared} of the groups of '{factor}' have rows in more than one part, and cwc() "
                "and gm() within it would rest on each part's own means; put all rows of a "
                f"'{factor}' into one part and reduce it again"
            )
