"""Moments: all that a Gaussian likelihood needs from a table, and where they come from.

From a table by its formula or by the design of other moments, from a file, from parts.
"""

import logging
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.design.design import INTERCEPT as INTERCEPT
from bhlm.design.design import Design, build_design
from bhlm.design.formula.expressions import column_names
from bhlm.design.formula.terms import Formula, list_factors, parse_formula
from bhlm.design.formula.weights import Weights, rebuild_weights
from bhlm.design.labels import kind_of_labels
from bhlm.design.rows import open_rows
from bhlm.errors import (
    DataError,
    FormulaError,
    check_arguments,
    check_fields,
    show_value,
)
from bhlm.layout import count, show_name
from bhlm.moments.check import check_blocks
from bhlm.moments.disclosure import find_large_groups, join_promises, list_disclosures
from bhlm.moments.file import (
    is_moments_path,
    read_blocks,
    refuse_same,
    report_broken,
    write_blocks,
)
from bhlm.moments.memory import Blocks, LeftOut, Reduced
from bhlm.moments.merge import check_alike, merge_blocks, name_parts
from bhlm.moments.reduce import reduce_designed, reduce_formula
from bhlm.moments.sums import sum_blocks, sum_products
from bhlm.moments.weighting import (
    Applied,
    Weighting,
    apply_weights,
    count_effective,
    weigh_mass,
)
from bhlm.sources.watch import unchanged

if TYPE_CHECKING:
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.patterns import Patterns

Array = np.ndarray
LOGGER = logging.getLogger("bhlm")
NAMED = 6  # columns with missing values that a sentence names


@check_fields
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
    design: Design  # what the k columns are, and the constants and levels that they rest on
    dropped: int  # rows left out because a used column was missing
    suppressed: int = 0  # rows of groups that were too small to disclose
    missing: tuple[tuple[str, int], ...] = ()  # columns, and rows dropped in which each is missing
    min_group_size: int | None = None  # rows that every group is promised to have, by who wrote it
    weighting: Weighting | None = None  # what the weights of each group sum to; None has none

    def __repr__(self) -> str:
        """Return the formula and the size of the data."""
        size = f"{self.n_rows} rows in {self.n_groups} groups of {self.group!r}"
        return f"Moments({self.formula!r}: {size}, {len(self.columns)} columns)"

    @property
    def columns(self) -> tuple[str, ...]:
        """The k column names, response last."""
        return self.design.columns

    @property
    def fixed(self) -> tuple[str, ...]:
        """The p fixed effects, in order."""
        return self.design.fixed

    @property
    def random(self) -> tuple[str, ...]:
        """The q random coefficients, in order."""
        return self.design.random

    @property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The random coefficients of each random term."""
        return self.design.blocks

    @property
    def group(self) -> str:
        """The name of the grouping column."""
        return self.design.group

    @property
    def formula(self) -> str:
        """The formula, as the user wrote it."""
        return self.design.formula.text

    @property
    def reduced(self) -> Reduced:
        """The blocks without what their columns are."""
        return Reduced(self.groups, self.n, self.mean, self.cross, self.weighting)

    @property
    def weights(self) -> Weights | None:
        """What the weights of rows and groups mean; None of unweighted moments."""
        return self.design.formula.weights

    @property
    def mass(self) -> Array:
        """By how much each group's means count (J,): its rows, or the sum of their weights."""
        return weigh_mass(self.weights, self.weighting, self.n)

    @property
    def applied(self) -> Applied | None:
        """What the weights do to each group's part of the likelihood; None without weights."""
        if self.weights is None or self.weighting is None:
            return None
        return apply_weights(self.weights, self.weighting, self.n)

    @property
    def effective_size(self) -> dict[str, float]:
        """The effective numbers of rows and of groups, (sum w)^2 / sum w^2."""
        if self.weighting is None or (applied := self.applied) is None:
            return {"rows": float(self.n_rows), "groups": float(self.n_groups)}
        rows, groups = count_effective(self.weighting, applied)
        return {"rows": rows, "groups": groups}

    @property
    def response(self) -> str:
        """The name of the response column."""
        return self.columns[-1]

    @property
    def n_rows(self) -> int:
        """The number of rows behind the moments."""
        return int(self.n.sum())

    @property
    def rows_used(self) -> str:
        """How many rows were used, and how often which column was missing in the others."""
        return tell_rows_used(
            self.n_rows, dropped=self.dropped, missing=self.missing, suppressed=self.suppressed
        )

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
        known = set(self.groups.tolist())
        for label in groups:
            if not isinstance(label, Hashable) or label not in known:
                raise DataError(
                    f"{show_value(label)} is not a {self.group}; the labels are in moments.groups"
                )
        keep = ~np.isin(self.groups, list(groups))
        return select_groups(self, keep)

    def with_blocks(self, blocks: tuple[tuple[str, ...], ...]) -> "Moments":
        """Return the moments with other random coefficients, which are columns or the intercept."""
        random = tuple(name for block in blocks for name in block)
        return replace(self, design=replace(self.design, random=random, blocks=blocks))

    def rename(self, names: Mapping[str, str]) -> "Moments":
        """Return the moments with other names for some columns, and for the group."""
        return replace(self, design=self.design.rename(names))

    def save(self, path: str | Path, *, min_group_size: int | None = None) -> None:
        """Write the moments to one Parquet file; see `save_moments`."""
        save_moments(self, path, min_group_size=min_group_size)

    def disclosures(self, *, min_group_size: int | None = None) -> tuple[str, ...]:
        """Return what the moments tell of single rows; see `list_moments_disclosures`."""
        return list_moments_disclosures(self, min_group_size=min_group_size)

    def update(self, more: Any) -> "Moments":
        """Return the moments with more rows; see `update_moments`."""
        return update_moments(self, more)


def tell_rows_used(
    n_rows: int, *, dropped: int, missing: Sequence[tuple[str, int]], suppressed: int = 0
) -> str:
    """Return how many rows were used, and how often which column was missing in the others."""
    if not dropped:
        return f"{n_rows} rows"
    worst = sorted(missing, key=lambda item: -item[1])
    named = [f"{show_name(name)} {count}" for name, count in worst[:NAMED]]
    named += [f"{len(worst) - NAMED} more columns"] if len(worst) > NAMED else []
    return (
        f"{n_rows} of {n_rows + suppressed + dropped} rows used, {dropped} dropped for missing "
        "values" + (f" ({', '.join(named)})" if named else "")
    )


def describe_moments(moments: Moments) -> dict[str, Any]:
    """Return all of some moments but the arrays, as JSON can hold it."""
    return (
        describe_design(moments.design)
        | {
            "dropped": moments.dropped,
            "suppressed": moments.suppressed,
            "missing": moments.missing,
        }
        | ({} if moments.weights is None else {"weights": moments.weights.describe()})
    )


def describe_design(design: Design) -> dict[str, Any]:
    """Return all of a design but its weights, as JSON can hold it."""
    return {
        "columns": design.columns,
        "fixed": design.fixed,
        "random": design.random,
        "blocks": design.blocks,
        "group": design.group,
        "formula": design.formula.text,
        "constants": sorted(design.constants.items()),
        "levels": list(design.levels.items()),
    }


def rebuild_moments(description: Mapping[str, Any], reduced: Reduced) -> Moments:
    """Return the moments of which `describe_moments` is a description, perhaps read from JSON.

    Raises:
        DataError: its formula cannot be read.
        ValueError, LookupError, TypeError: it is not such a description.
    """
    design = rebuild_design(description)
    if (design.formula.weights is None) != (reduced.weighting is None):
        raise ValueError("weights that are named and not there, or the other way round")
    return Moments(
        *reduced[:4],
        weighting=reduced.weighting,
        design=design,
        dropped=description["dropped"],
        suppressed=description["suppressed"],
        # Files of earlier versions do not name the columns.
        missing=freeze(description.get("missing", [])),
    )


def rebuild_design(description: Mapping[str, Any]) -> Design:
    """Return the design in a description of moments, but for several grouping factors.

    Raises as `rebuild_moments` does.
    """
    try:
        formula = parse_formula(description["formula"])
    except FormulaError as error:
        raise DataError(f"the formula of the moments cannot be read: {error}") from error
    formula = replace(formula, weights=rebuild_weights(description.get("weights")))
    return Design(
        formula=formula,
        group=description["group"],
        fixed=freeze(description["fixed"]),
        random=freeze(description["random"]),
        blocks=freeze(description["blocks"]),
        columns=freeze(description["columns"]),
        levels={factor: tuple(levels) for factor, levels in description["levels"]},
        constants={call: tuple(values) for call, values in description["constants"]},
    )


def select_groups(moments: Moments, keep: Array) -> Moments:
    """Return the moments of the groups that the mask or index `keep` (J,) selects."""
    return replace(
        moments,
        groups=moments.groups[keep],
        n=moments.n[keep],
        mean=moments.mean[keep],
        cross=moments.cross[keep],
        weighting=None if moments.weighting is None else moments.weighting.select(keep),
    )


def reduce_table(formula: str | Formula, table: Any) -> Moments:
    """Return the moments of the rows of a table that a formula uses.

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
    design, reduced, left_out = reduce_formula(formula, table)
    return _assemble(design, reduced, left_out)


def compute_moments(design: Design, table: Any) -> Moments:
    """Return the moments of a table under a design that may come from another one.

    The centring constants and levels are the design's, which makes moments of parts of a table
    merge.

    Raises:
        DataError: the table has values or levels that the design cannot serve.
    """
    reduced, left_out = reduce_designed(design, table)
    return _assemble(design, reduced, left_out)


def _assemble(design: Design, reduced: Reduced, left_out: LeftOut) -> Moments:
    missing = tuple(left_out.missing.items())
    if formula_weights := design.formula.weights:
        lost = {name for each in formula_weights.expressions for name in column_names(each)}
        for name, times in missing:
            if name in lost:
                LOGGER.warning("%s without a weight in '%s' left out", count(times, "row"), name)
    return Moments(
        *reduced[:4],
        weighting=reduced.weighting,
        design=design,
        dropped=left_out.dropped,
        missing=missing,
    )


@check_arguments
def merge_moments(parts: Sequence[Moments], *, names: Sequence[str] | None = None) -> Moments:
    """Return the moments of the union of disjoint sets of rows.

    Two blocks of one group merge by the pairwise update, see `bhlm.moments.merge.merge_blocks`.

    Columns of cwc() and gm() rest on the mean of a whole group. Parts that share a group have
    each taken the mean of their own rows, and no merge of theirs is the moments of the union.

    Args:
        parts: moments under one formula, centring constants and levels.
        names: what to call each part in an error, such as its file.

    Where every part promises a smallest group, the union promises the smallest of these.

    Raises:
        DataError: no parts; two parts of the same rows; parts of different models, constants,
            levels or types of labels; a group in two parts of a model with cwc() or gm().
    """
    names = name_parts(parts, names)
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        check_alike(first.design, part.design, names=(names[0], name))
    refuse_same([part.reduced.blocks for part in parts], names)
    reduced = merge_blocks(first.design, [part.reduced for part in parts], names=names)
    return Moments(
        *reduced[:4],
        weighting=reduced.weighting,
        design=first.design,
        dropped=sum(part.dropped for part in parts),
        suppressed=sum(part.suppressed for part in parts),
        missing=tuple(sum((Counter(dict(part.missing)) for part in parts), Counter()).items()),
        min_group_size=join_promises(part.min_group_size for part in parts),
    )


@check_arguments
def save_moments(moments: Moments, path: str | Path, *, min_group_size: int | None = None) -> None:
    """Write moments to one file, which `load_moments` gives back to the last bit.

    The file appears whole or not at all: a writer that is stopped leaves what was there before.

    Args:
        moments: what to write.
        path: the file; by custom it ends in .moments.
        min_group_size: refuse to write groups with fewer rows than this, and promise so in the
            file; see `suppress_small_groups` for what that guards against, and for dropping them.
            None promises what the moments themselves do, as those of a file or of a merge.

    What the file tells of single rows nonetheless (`Moments.disclosures`) is logged as warnings of
    the logger "bhlm".

    Raises:
        DataError: groups below the minimum, moments that contradict themselves, labels of a type
            that has no place in a file, a folder that cannot be written to.
    """
    min_group_size = moments.min_group_size if min_group_size is None else min_group_size
    if min_group_size is not None:
        find_large_groups(
            moments.n, min_group_size, of=f"groups of '{moments.group}'", action="refuse"
        )
        min_group_size = int(min_group_size)
    check_moments(moments, "the moments")
    description = describe_moments(moments) | {"min_group_size": min_group_size}
    write_blocks(path, description, moments.reduced.blocks)
    for sentence in moments.disclosures(min_group_size=min_group_size):
        LOGGER.warning("%s: %s", path, sentence)


def list_moments_disclosures(
    moments: Moments, *, min_group_size: int | None = None
) -> tuple[str, ...]:
    """Return what moments give away of single rows, a sentence each: nothing if it is empty.

    Told are groups of one row, groups that have too few rows for their columns, columns of two
    values of which one is rare in a group, and constants from which rows that were left out follow.
    `suppress_small_groups` says what is given away beside.

    Args:
        moments: what is to be released.
        min_group_size: the fewest rows that a group, or a value in a group, may have. None takes
            what the moments promise, and if they promise nothing the number of columns and 2 more.
    """
    k = moments.min_group_size if min_group_size is None else min_group_size
    return list_disclosures(
        moments.design,
        moments.reduced,
        of=f"groups of '{moments.group}'",
        k=k,
        suppressed=moments.suppressed,
    )


@check_arguments
def load_moments(path: str | Path) -> Moments:
    """Return the moments of a file that `save_moments` wrote, equal to the last bit.

    Raises:
        DataError: no such file; not a moments file; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    name = f"'{path}'"
    header, blocks = read_blocks(path)
    if "groupings" in header:
        raise DataError(
            f"{name} has moments by cell, of several grouping factors; bhlm.load_moments reads it"
        )
    return open_blocks(header, blocks, name)


def open_blocks(header: Mapping[str, Any], blocks: Blocks, name: str) -> Moments:
    """Return the moments of a file, called `name` in errors, from what `read_blocks` gives.

    Raises:
        DataError: they contradict themselves.
    """
    with report_broken(name):
        moments = rebuild_moments(header, Reduced(blocks.labels[0], *blocks[1:5]))
        check_counts(header, blocks.n)
        check_moments(moments, name)
    return replace(moments, min_group_size=header.get("min_group_size"))


def check_counts(header: Mapping[str, Any], n: Array) -> None:
    """Raise `ValueError` where a file does not have the rows per block that its header tells."""
    counts = (header["dropped"], header["suppressed"])
    if int(n.sum()) != header["rows"] or any(type(c) is not int or c < 0 for c in counts):
        raise ValueError(f"{header['rows']} rows, of which {counts} left out")
    promised = header.get("min_group_size")
    if promised is not None and not (type(promised) is int and 1 <= promised <= n.min()):
        raise ValueError(f"a smallest group of {promised!r} rows is promised, and not kept")


def check_moments(moments: Moments, name: str) -> None:
    """Raise `DataError`, about `name`, where moments contradict themselves or their formula."""
    check_blocks(moments.design, moments.reduced.blocks, name)


@check_arguments
def reduce_part(formula: str, table: Any) -> Moments:
    """Return the moments of a table that may be one part of many, even a single group.

    The constants of cgm() and poly() and the levels of factors are those of this part; the other
    parts take them over with `reduce_like`. The part that goes first must have every level; where
    no site has all of them, build the design from a made-up table that does
    (`bhlm.design.design.build_design`), and let every site compute its moments under it
    (`bhlm.moments.moments.compute_moments`).

    Args:
        formula: the model.
        table: any dataframe that narwhals accepts, or the path of a file.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
    """
    opened = open_rows(parse_formula(formula), table)
    with unchanged(opened):
        return compute_moments(build_design(formula, opened, check=False), opened)


@check_arguments
def reduce_like(reference: Moments | str | Path, table: Any) -> Moments:
    """Return the moments of a table under the constants and levels of other moments.

    Moments that are computed so merge with those of the reference. Centring on the reference's
    grand means instead of one's own moves the intercept, and changes no fit otherwise.

    Args:
        reference: moments, or the path of a moments file.
        table: any dataframe that narwhals accepts, or the path of a file.

    Raises:
        DataError: the reference cannot be read, or the table has levels or types that it does not
            know.
    """
    if not isinstance(reference, Moments):
        reference = load_moments(reference)
    return compute_moments(reference.design, open_alike(reference, table))


def open_alike(moments: "Moments | Patterns", data: Any, **how: Any) -> Any:
    """Return the table behind data, with labels of the types that those of some moments have.

    `how` are the memory_limit, separator and missing of `bhlm.sources.open.open_table`, whose
    `DataError` is raised.
    """
    kinds = {moments.group: kind_of_labels(moments.groups)}
    return open_designed(moments.design, kinds, data, **how)


def open_designed(design: Design, kinds: Mapping[str, str], data: Any, **how: Any) -> Any:
    """Return the table behind data, with labels of the types that a design and `kinds` tell.

    `how` are the memory_limit, separator and missing of `bhlm.sources.open.open_table`, whose
    `DataError` is raised.
    """
    text = [name for name, kind in kinds.items() if kind == "text"]
    for factor in list_factors(design.formula):
        levels = design.levels.get(str(factor), ())
        if levels and isinstance(levels[0], str):
            text += column_names(factor)
    return open_rows(design.formula, data, text=text, **how)


def update_moments(moments: Moments, more: Any) -> Moments:
    """Return the moments of the rows so far and of new ones, which must be disjoint.

    Args:
        moments: of the rows so far.
        more: moments, a .moments file, or a table or path of new rows, to be reduced under the
            constants and levels of `moments`.

    Raises:
        DataError: the new rows cannot be read or do not merge; see `merge_moments`. In a model
            with cwc() or gm(), new rows of an old group change its mean and do not merge.
    """
    if is_moments_path(more):
        more = load_moments(more)
    elif not isinstance(more, Moments):
        more = reduce_like(moments, more)
    return merge_moments([moments, more], names=["the moments so far", "the new rows"])


@check_arguments
def suppress_small_groups(
    moments: Moments, k: int, *, action: str = "refuse"
) -> tuple[Moments, str]:
    """Return moments without groups of fewer than k rows, and a sentence on what was done.

    What this guarantees: no block of the result comes from fewer than k rows; its files and their
    merges promise so (`Moments.min_group_size`). Why it is needed:
    a group's moments fix its rows up to order and (n - 1)(n - 2)/2 free numbers where n - 1 is at
    most the number of columns. One row is given away exactly, two are given away exactly, three
    but for one number, which a 0/1 column may settle. So k should exceed the number of columns
    by 2 at least, and 10 is a customary floor.

    What this does not guarantee: a 0/1 column that is 1 in a single row of a large group gives
    away that row, since its cross-products are sums over that row alone; a column that is constant
    in a group (any covariate of the group, any gm()) is given away by its mean; labels and the
    names of all levels are written as they are; the difference of two releases, with other rows
    or another k, has the moments of the rows between them; the constants of cgm() and poly() come
    from all rows, suppressed ones included. It is a threshold, not differential privacy.

    Args:
        moments: the moments to be released.
        k: the fewest rows that a group may have, at least 1.
        action: "refuse" raises if there is a smaller group; "drop" leaves those groups out and
            adds their rows to `moments.suppressed`. A fit to what remains is a fit to the large
            groups only.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are groups below k to refuse, or no group would be left.
    """
    keep, sentence = find_large_groups(
        moments.n, k, of=f"groups of '{moments.group}'", action=action
    )
    if keep.all():
        is_known = moments.min_group_size == k
        return moments if is_known else replace(moments, min_group_size=int(k)), sentence
    rows = int(moments.n[~keep].sum())
    kept = replace(select_groups(moments, keep), suppressed=moments.suppressed + rows)
    kept = replace(kept, min_group_size=int(k))
    return kept, sentence


def pool(
    moments: "Moments | CellMoments | Patterns | LevelPatterns",
) -> tuple[float, Array, Array]:
    """Return n, the grand means (k,) and the total cross-product about them (k, k)."""
    return pool_blocks(moments.mass, moments.mean, moments.cross)


def pool_blocks(n: Array, mean: Array, cross: Array) -> tuple[float, Array, Array]:
    """Return what `pool` does, of blocks that count by n (J,)."""
    whole = float(n.sum())
    grand = n @ mean / whole
    between = mean - grand
    with np.errstate(over="ignore", invalid="ignore"):  # whoever divides by it looks
        return whole, grand, sum_blocks(cross) + sum_products(n[:, None] * between, between)


def freeze(value: Any) -> Any:
    """Return what JSON read with tuples in the place of its lists."""
    return tuple(map(freeze, value)) if isinstance(value, list) else value
