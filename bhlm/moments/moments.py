"""Design + any dataframe -> Moments, by one GROUP BY; merging of moments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, apply_design, build_prepared, check_design
from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import Apply, walk
from bhlm.design.formula.terms import Formula, list_factors, parse_formula
from bhlm.design.rows import read_table
from bhlm.design.transforms import GROUP, Frame, collect_frame
from bhlm.errors import DataError
from bhlm.moments.memory import reduce_rows
from bhlm.moments.stream import can_stream, reduce_scan
from bhlm.sources.parquet import ParquetScan

Array = np.ndarray
INTERCEPT = "Intercept"


@dataclass(frozen=True, slots=True)
class Moments:
    """All that the Gaussian likelihood needs from a table, one block per group.

    With W_j = [Z_j X_j y_j] the rows of group j, block j holds n_j, the column means, and the
    cross-product about those means. The intercept is not stored: its mean is 1 and its
    cross-products are 0. Blocks of disjoint rows merge exactly, so any engine may split the
    table any way it likes.
    """

    groups: Array  # (J,) group labels, sorted
    n: Array  # (J,) rows per group, float64 that holds integers
    mean: Array  # (J, k) column means
    cross: Array  # (J, k, k) cross-products about the group mean
    columns: tuple[str, ...]  # the k column names, response last
    fixed: tuple[str, ...]  # the p fixed effects, in order
    random: tuple[str, ...]  # the q random coefficients, in order
    blocks: tuple[tuple[str, ...], ...]  # the random coefficients of each random term
    group: str  # name of the grouping column
    formula: str
    dropped: int  # rows left out because a used column was missing
    constants: tuple[tuple[str, Any], ...] = ()  # centring constants that the columns rest on
    # by categorical factor, the reference first: two columns k[b] against different references
    # have one name and two meanings
    levels: tuple[tuple[str, tuple[Level, ...]], ...] = ()
    suppressed: int = 0  # rows of groups that were too small to disclose

    @property
    def response(self) -> str:
        """The name of the response column."""
        return self.columns[-1]

    @property
    def n_rows(self) -> int:
        """The number of rows behind the moments."""
        return int(self.n.sum())

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return len(self.groups)

    @property
    def group_size(self) -> dict[str, float]:
        """The smallest, the mean and the largest number of rows in a group."""
        return {
            "min": int(self.n.min()),
            "mean": float(self.n.mean()),
            "max": int(self.n.max()),
        }

    def without(self, groups: Sequence[Any]) -> "Moments":
        """Return the moments of the other groups.

        Raises:
            DataError: a label is not one of the groups.
        """
        keep = ~np.isin(self.groups, list(groups))
        if keep.sum() != len(self.groups) - len(set(groups)):
            unknown = sorted(set(groups) - set(self.groups.tolist()), key=str)
            raise DataError(
                f"{unknown[0]!r} is not a {self.group}; the labels are in moments.groups"
            )
        return select_groups(self, keep)

    def save(self, path: str | Path, *, min_group_size: int | None = None) -> None:
        """Write the moments to one Parquet file; see `bhlm.moments.file.save_moments`."""
        from bhlm.moments.file import save_moments

        save_moments(self, path, min_group_size=min_group_size)

    def update(self, more: Any) -> "Moments":
        """Return the moments with more rows; see `bhlm.moments.file.update_moments`."""
        from bhlm.moments.file import update_moments

        return update_moments(self, more)


def select_groups(moments: Moments, keep: Array) -> Moments:
    """Return the moments of the groups that the mask or index `keep` (J,) selects."""
    return replace(
        moments,
        groups=moments.groups[keep],
        n=moments.n[keep],
        mean=moments.mean[keep],
        cross=moments.cross[keep],
    )


def reduce_table(formula: str | Formula, table: Any) -> tuple[Design, Moments]:
    """Return the design of a formula on a table, and the moments of the rows that it uses.

    Cross-products are taken about the group means, which keeps the digits that raw sums of
    squares would lose. Lazy tables are reduced where they are, by one GROUP BY of narwhals
    expressions that is the same for every engine; tables in memory by compiled passes, and
    Parquet files that are not read yet by the same passes, batch by batch.

    Args:
        formula: the model.
        table: any dataframe that narwhals accepts, eager or lazy.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
    """
    formula = parse_formula(formula) if isinstance(formula, str) else formula
    if isinstance(table, ParquetScan) and can_stream(formula, table):
        design, reduced = reduce_scan(formula, table)
    else:
        table = read_table(table, formula)
        design, rows, layout = build_prepared(formula, table)
        if isinstance(rows, nw.DataFrame):
            reduced = reduce_rows(design, rows, layout)
        else:
            reduced = reduce_frame(apply_design(design, table, check=False, means=True))
    groups, _, mean, cross = reduced
    # A bad value spoils the moments, and only then is it worth looking for it.
    if len(groups) < 2 or not (np.isfinite(mean).all() and np.isfinite(cross).all()):
        check_design(design, table)
    return design, _label_moments(design, design.dropped, *reduced)


def compute_moments(design: Design, table: Any) -> Moments:
    """Return the moments of a table under a design that may come from another one.

    The centring constants and levels are the design's, which makes moments of parts of a table
    merge.

    Raises:
        DataError: the table has values or levels that the design cannot serve.
    """
    table = read_table(table, design.formula)
    total = collect_frame(nw.from_native(table).lazy().select(nw.len())).item()
    reduced = reduce_frame(apply_design(design, table, means=True))
    used = int(reduced[1].sum())
    return _label_moments(design, int(total) - used, *reduced)


def _label_moments(
    design: Design, dropped: int, groups: Array, n: Array, mean: Array, cross: Array
) -> Moments:
    return Moments(
        groups=groups,
        n=n,
        mean=mean,
        cross=cross,
        columns=design.columns,
        fixed=design.fixed,
        random=design.random,
        blocks=design.blocks,
        group=design.group,
        formula=design.formula.text,
        dropped=dropped,
        constants=_freeze(design.constants),
        levels=tuple((factor, tuple(levels)) for factor, levels in design.levels.items()),
    )


def reduce_frame(frame: Frame) -> tuple[Array, Array, Array, Array]:
    """Return group labels (J,), n (J,), means (J, k) and cross-products (J, k, k) of w0, w1, ...

    `frame` has the columns group, w0, ..., and the means m0, ... of these within groups.
    The expressions are narwhals', so that a database computes them where the rows are. Engines
    add in their own order, and a group mean near 1e8 is good to 1e-8 only. So the deviations d
    from it are summed as well, and what they do not sum to zero corrects the cross-products:
    cross -= sum(d) sum(d)' / n, the corrected two-pass algorithm. Source: Chan, Golub & LeVeque
    (1983), The American Statistician 37, 242-247, section 1.
    """
    k = (len(frame.collect_schema().names()) - 1) // 2
    pairs = [(i, j) for i in range(k) for j in range(i + 1)]
    centred = frame.with_columns(
        *[(nw.col(f"w{i}") - nw.col(f"m{i}")).alias(f"d{i}") for i in range(k)]
    )
    centred = centred.with_columns(
        *[(nw.col(f"d{i}") * nw.col(f"d{j}")).alias(f"c{i}_{j}") for i, j in pairs]
    )
    found = centred.group_by(GROUP).agg(
        nw.len().alias("n"),
        *[nw.col(f"m{i}").max() for i in range(k)],
        *[nw.col(f"d{i}").sum() for i in range(k)],
        *[nw.col(f"c{i}_{j}").sum() for i, j in pairs],
    )
    reduced = collect_frame(found) if isinstance(found, nw.LazyFrame) else found
    labels = np.asarray(reduced[GROUP].to_numpy())
    n = reduced["n"].to_numpy().astype(np.float64)
    mean, left = (
        np.column_stack([reduced[f"{kind}{i}"].to_numpy() for i in range(k)]).astype(np.float64)
        for kind in "md"
    )
    cross = np.empty((len(labels), k, k))
    for i, j in pairs:
        corrected = reduced[f"c{i}_{j}"].to_numpy() - left[:, i] * left[:, j] / n
        # Rounding must not make a sum of squares negative.
        cross[:, i, j] = cross[:, j, i] = np.maximum(corrected, 0.0) if i == j else corrected
    order = np.argsort(labels, kind="stable")
    return labels[order], n[order], mean[order], cross[order]


def merge_moments(parts: Sequence[Moments], *, names: Sequence[str] | None = None) -> Moments:
    """Return the moments of the union of disjoint sets of rows.

    Two blocks of one group merge by the pairwise update: with d the difference of the means,
    cross = cross_1 + cross_2 + (n_1 n_2 / (n_1 + n_2)) d d'. Source: Chan, Golub & LeVeque
    (1983), The American Statistician 37, 242-247, eq. 2.1.

    Columns of cwc() and gm() rest on the mean of a whole group. Parts that share a group have
    each taken the mean of their own rows, and no merge of theirs is the moments of the union.

    Args:
        parts: moments under one formula, centring constants and levels.
        names: what to call each part in an error, such as its file.

    Raises:
        DataError: no parts; parts of different models, constants, levels or types of labels; a
            group in two parts of a model with cwc() or gm().
    """
    if not parts:
        raise DataError("there are no moments to merge; give at least one part")
    names = names or [f"part {i + 1}" for i in range(len(parts))]
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        _check_alike(first, part, names=(names[0], name))
    labels = _join_labels(parts, names=names)
    groups, index = np.unique(labels, return_inverse=True)
    if len(groups) < len(labels):
        _check_shared(first, parts, index, names=names)
    k = len(first.columns)
    n = np.zeros(len(groups))
    mean = np.zeros((len(groups), k))
    cross = np.zeros((len(groups), k, k))
    start = 0
    for part in parts:
        at = index[start : start + len(part.groups)]
        start += len(part.groups)
        total = n[at] + part.n
        step = part.mean - mean[at]
        weight = n[at] * part.n / total
        # The product of the steps comes first, so that cross stays symmetric to the last bit.
        cross[at] += part.cross + weight[:, None, None] * (step[:, :, None] * step[:, None, :])
        mean[at] += (part.n / total)[:, None] * step
        n[at] = total
    return replace(
        first,
        groups=groups,
        n=n,
        mean=mean,
        cross=cross,
        dropped=sum(part.dropped for part in parts),
        suppressed=sum(part.suppressed for part in parts),
    )


def _check_alike(first: Moments, part: Moments, *, names: tuple[str, str]) -> None:
    """Raise `DataError` where two parts are moments of different columns."""
    remedy = f"compute {names[1]} again from its table by reduce_like, with {names[0]} as reference"
    mine, yours = dict(first.levels), dict(part.levels)
    for factor in mine.keys() & yours.keys():
        if mine[factor] != yours[factor]:
            raise DataError(
                f"moments differ in levels of '{factor}': {names[1]} has {yours[factor]} and "
                f"{names[0]} has {mine[factor]}; {remedy}"
            )
    for name in ("columns", "fixed", "random", "blocks", "group"):
        here, there = getattr(part, name), getattr(first, name)
        if here != there:
            raise DataError(
                f"moments differ in {name}: {names[1]} ('{part.formula}') has {here} and "
                f"{names[0]} ('{first.formula}') has {there}; reduce both for one formula"
            )
    ours, theirs = dict(first.constants), dict(part.constants)
    for call in ours | theirs:
        if ours.get(call) != theirs.get(call):
            raise DataError(
                f"moments differ in constants of '{call}': {names[1]} has {theirs.get(call)} and "
                f"{names[0]} has {ours.get(call)}, each from its own rows; {remedy}"
            )


def _join_labels(parts: Sequence[Moments], *, names: Sequence[str]) -> Array:
    """Return the labels of all parts, one after the other.

    Raises `DataError` where they are of different types, and 1 and '1' would be taken for one
    group or for two.
    """
    first = parts[0]
    expected = kind_of_labels(first.groups)

    def describe(part: Moments, name: str) -> str:
        labels = part.groups
        return f"{kind_of_labels(labels)} ({labels.dtype}) such as {labels[:1].tolist()} in {name}"

    dtypes = {first.groups.dtype}
    for part, name in zip(parts[1:], names[1:], strict=True):
        alike = kind_of_labels(part.groups) == expected
        if alike and expected == "integers":
            # Integers of 64 bits, signed and not, only meet as floats, and those lose digits.
            dtypes.add(part.groups.dtype)
            alike = np.result_type(*dtypes).kind in "iu"
        if not alike:
            raise DataError(
                f"labels of '{first.group}' are {describe(part, name)} and "
                f"{describe(first, names[0])}; give the column one type in every part"
            )
    try:
        return np.concatenate([part.groups for part in parts])
    except OverflowError as error:
        raise DataError(f"labels of '{first.group}': {error}; give them one unit") from error


def kind_of_labels(labels: Array) -> str:
    """Return what group labels are: "integers", "floats", "booleans", "text", "times", ..."""
    if labels.dtype.kind == "O":
        found = sorted({type(label).__name__ for label in labels})
        return "text" if found in (["str"], []) else " and ".join(found)
    kinds = {"i": "integers", "u": "integers", "f": "floats", "b": "booleans", "U": "text"}
    return kinds.get(labels.dtype.kind, "times" if labels.dtype.kind == "M" else "others")


def _check_shared(
    first: Moments, parts: Sequence[Moments], index: Array, *, names: Sequence[str]
) -> None:
    """Raise `DataError` where a group with blocks in several places cannot be put together."""
    start = 0
    for part, name in zip(parts, names, strict=True):
        at = index[start : start + len(part.groups)]
        start += len(part.groups)
        if len(np.unique(at)) < len(at):
            raise DataError(
                f"a label of '{first.group}' occurs twice in {name}; merge moments whose groups "
                "are distinct"
            )
    factors = list_factors(parse_formula(first.formula))
    calls = [
        str(node)
        for node in dict.fromkeys(node for factor in factors for node in walk(factor))
        if isinstance(node, Apply) and node.function in ("cwc", "gm")
    ]
    if calls:
        shared = int((np.bincount(index) > 1).sum())
        raise DataError(
            f"{shared} of the groups of '{first.group}' have rows in more than one part, and "
            f"{' and '.join(calls)} would rest on each part's own group means; put all rows of a "
            "group into one part and reduce it again"
        )


def pool(moments: Moments) -> tuple[float, Array, Array]:
    """Return n, the grand means (k,) and the total cross-product about them (k, k)."""
    n = float(moments.n.sum())
    grand = moments.n @ moments.mean / n
    between = moments.mean - grand
    total = moments.cross.sum(axis=0) + (moments.n[:, None] * between).T @ between
    return n, grand, total


def _freeze(constants: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in constants.items()))
