"""Moments of several grouping factors: a block for each combination of labels that occurs."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import narwhals as nw
import numpy as np

from bhlm.design.cells import Labels, code_cells, prepare_cells, read_labels
from bhlm.design.design import (
    Design,
    GroupingFactor,
    apply_design,
    build_prepared,
    check_design,
    distinct_columns,
    tally_table,
)
from bhlm.design.formula.terms import Formula
from bhlm.design.formula.weights import Weights
from bhlm.design.labels import kind_of_labels
from bhlm.design.rows import name_groups, read_frame, read_table
from bhlm.errors import ArgumentError, DataError, check_arguments, check_fields
from bhlm.layout import count, list_names, print_label, show_name
from bhlm.moments.cell_stream import reduce_cell_scan
from bhlm.moments.check import check_blocks
from bhlm.moments.disclosure import find_large_groups, join_promises, list_disclosures
from bhlm.moments.file import (
    is_moments_path,
    read_blocks,
    refuse_same,
    report_broken,
    write_blocks,
)
from bhlm.moments.memory import (
    Blocks,
    LeftOut,
    Reduced,
    accumulate_moments,
    accumulate_weighted,
    count_complete,
)
from bhlm.moments.merge import check_alike, merge_cells, name_parts
from bhlm.moments.moments import (
    INTERCEPT,
    Moments,
    check_counts,
    freeze,
    open_designed,
    rebuild_design,
    tell_rows_used,
)
from bhlm.moments.reduce import check_still, reduce_frame
from bhlm.moments.stream import can_stream
from bhlm.moments.weighting import (
    Applied,
    Weighting,
    apply_weights,
    settle_units,
    weigh_mass,
)
from bhlm.sources.parquet import ParquetScan
from bhlm.sources.watch import unchanged

Array = np.ndarray
LOGGER = logging.getLogger("bhlm")


@check_fields
@dataclass(frozen=True, slots=True)
class CellMoments:
    """All that the Gaussian likelihood needs from a table with F grouping factors, by cell.

    A cell is a combination of labels that occurs: of nested factors a unit of the finest. Its
    block is what a group's is in `Moments`: n_c, the column means and the cross-product about them.
    """

    n: Array  # (C,) rows per cell, float64 that holds integers
    mean: Array  # (C, k) column means
    cross: Array  # (C, k, k) cross-products about the cell's mean
    labels: tuple[Labels, ...]  # F, with the levels (C,) that the cells belong to
    design: Design  # what the k columns are, and the factors
    dropped: int  # rows left out because a used column was missing
    missing: tuple[tuple[str, int], ...] = ()  # columns, and rows dropped in which each is missing
    suppressed: int = 0  # rows of cells that were too small to disclose
    min_group_size: int | None = None  # rows that every cell is promised to have, by who wrote it
    weighting: Weighting | None = None  # of rows, by cell: means and cross-products are weighted
    unit_weights: tuple[Array | None, ...] = ()  # F, of the factor's units (J_f,); None is 1

    def __repr__(self) -> str:
        """Return the formula and the size of the data."""
        return f"CellMoments({self.formula!r}: {self.size}, {len(self.columns)} columns)"

    @property
    def size(self) -> str:
        """The rows and the levels of every factor, in words."""
        levels = [f"{number} of {name!r}" for name, number in self.groups.items()]
        return f"{self.n_rows} rows in {list_names(levels, most=len(levels))}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The k column names, response last."""
        return self.design.columns

    @property
    def fixed(self) -> tuple[str, ...]:
        """The p fixed effects, in order."""
        return self.design.fixed

    @property
    def factors(self) -> tuple[GroupingFactor, ...]:
        """The F grouping factors."""
        return self.design.factors

    @property
    def formula(self) -> str:
        """The formula, as the user wrote it."""
        return self.design.formula.text

    @property
    def response(self) -> str:
        """The name of the response column."""
        return self.columns[-1]

    @property
    def n_rows(self) -> int:
        """The number of rows behind the moments."""
        return int(self.n.sum())

    @property
    def n_cells(self) -> int:
        """The number of cells C."""
        return len(self.n)

    @property
    def weights(self) -> Weights | None:
        """What the weights of rows mean; None without weights."""
        return self.design.formula.weights

    @property
    def mass(self) -> Array:
        """By how much each cell's means count (C,): its rows, or the sum of their weights."""
        return weigh_mass(self.weights, self.weighting, self.n)

    @property
    def applied(self) -> Applied | None:
        """What the weights of rows do to each cell's part of the likelihood; None without any."""
        if self.weights is None or self.weighting is None:
            return None
        return apply_weights(self.weights, self.weighting, self.n)

    @property
    def level_weights(self) -> tuple[Array, ...]:
        """By factor, the weights of its units (J_f,), each given the unit that it lies in."""
        given = self.unit_weights or (None,) * len(self.labels)
        return tuple(
            np.ones(labels.n_levels) if each is None else each
            for labels, each in zip(self.labels, given, strict=True)
        )

    @property
    def effective_size(self) -> dict[str, Any]:
        """The effective numbers (sum w)^2 / sum w^2 of `rows`, and of `units` by factor.

        All weights of a row, or of a unit, are multiplied: its own and those of the units that it
        lies in. Source: Kish (1965), Survey Sampling, 11.7.
        """
        codes, given = self.codes, self.level_weights
        order = sorted(range(len(given)), key=lambda factor: len(given[factor]))
        whole, units = np.ones(self.n_cells), {}
        for factor in order:  # from the coarsest
            whole = whole * given[factor][codes[factor]]
            own = np.empty(len(given[factor]))
            own[codes[factor]] = whole
            units[self.factors[factor].name] = float(own.sum() ** 2 / (own @ own))
        sums, squares = self.n, self.n
        if self.weighting is not None and self.applied is not None:
            whole = whole * self.applied.factor
            sums, squares = self.weighting.sums, self.weighting.squares
        rows = float((whole @ sums) ** 2 / (whole**2 @ squares))
        return {"rows": rows, "units": {name: units[name] for name in self.groups}}

    @property
    def codes(self) -> Array:
        """The level (F, C) of every factor that each cell belongs to."""
        return np.array([each.codes for each in self.labels])

    @property
    def groups(self) -> dict[str, int]:
        """The number of levels of every factor."""
        names = (factor.name for factor in self.factors)
        return dict(zip(names, (each.n_levels for each in self.labels), strict=True))

    @property
    def group_size(self) -> dict[str, dict[str, float]]:
        """By factor, the smallest, the mean and the largest number of rows of a level."""
        sizes = {}
        for factor, labels in zip(self.factors, self.labels, strict=True):
            rows = np.bincount(labels.codes, weights=self.n)
            sizes[factor.name] = {
                "min": int(rows.min()),
                "mean": float(rows.mean()),
                "max": int(rows.max()),
            }
        return sizes

    @property
    def rows_used(self) -> str:
        """How many rows were used, and how often which column was missing in the others."""
        return tell_rows_used(
            self.n_rows, dropped=self.dropped, missing=self.missing, suppressed=self.suppressed
        )

    @property
    def blocks(self) -> Blocks:
        """The blocks, with the label of every grouping column of the formula."""
        names = [factor.name for factor in self.factors]
        places = [] if self.weights is None else [names.index(at) for at, _ in self.weights.factors]
        units = [self.level_weights[at][self.labels[at].codes] for at in places]
        return Blocks(
            tuple(self.cell_labels.values()), self.n, self.mean, self.cross, self.weighting,
            np.column_stack(units) if units else None,
        )  # fmt: skip

    @property
    def cell_labels(self) -> dict[str, Array]:
        """The label (C,) of every cell, by grouping column."""
        return spread_labels(self.design, self.labels)

    @property
    def cells_are(self) -> str:
        """What the cells are: the groups of the finest factor, or combinations."""
        for factor, labels in zip(self.factors, self.labels, strict=True):
            if labels.n_levels == self.n_cells:
                return f"groups of '{factor.name}'"
        named = [f"'{factor.name}'" for factor in self.factors]
        return f"cells of {list_names(named, most=len(named))}"

    def save(self, path: str | Path, *, min_group_size: int | None = None) -> None:
        """Write the moments to one Parquet file; see `save_cells`."""
        save_cells(self, path, min_group_size=min_group_size)

    def disclosures(self, *, min_group_size: int | None = None) -> tuple[str, ...]:
        """Return what the moments tell of single rows; see `list_cell_disclosures`."""
        return list_cell_disclosures(self, min_group_size=min_group_size)

    def update(self, more: Any) -> "CellMoments":
        """Return the moments with more rows; see `update_cells`."""
        return update_cells(self, more)

    @property
    def note(self) -> str:
        """What to know of labels that may be nested implicitly; empty if nothing."""
        return " ".join(list_implicit(self))


class Layered(Protocol):
    """A reduced table with several grouping factors."""

    @property
    def factors(self) -> tuple[GroupingFactor, ...]:
        """The F grouping factors."""

    @property
    def labels(self) -> tuple[Labels, ...]:
        """Their labels, with the levels of the cells or patterns."""

    @property
    def n_rows(self) -> int:
        """The number of rows behind it."""


def spread_labels(design: Design, labels: Sequence[Labels]) -> dict[str, Array]:
    """Return the label of every cell or pattern, by grouping column."""
    found = {
        name: column[own.codes]
        for factor, own in zip(design.factors, labels, strict=True)
        for name, column in zip(factor.columns, own.columns, strict=True)
    }
    return {name: found[name] for name in design.formula.group_columns}


type AnyMoments = Moments | CellMoments


def reduce_cells(formula: Formula, table: Any) -> CellMoments:
    """Return the moments of the rows of a table that a formula with several factors uses.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
    """
    with unchanged(table):
        if formula.weights is not None:
            return _reduce_weighted(formula, formula.weights, table)
        if isinstance(table, ParquetScan) and can_stream(formula, table):
            design, blocks, left_out = reduce_cell_scan(formula, table)
            if not _is_finite(blocks):
                check_design(design, table)
            return _arrange(design, blocks, left_out)
        table = read_table(table, formula)
        if isinstance(read_frame(table), nw.LazyFrame):
            return _reduce_lazy(formula, table)
        return _reduce_memory(formula, table)


def _reduce_memory(formula: Formula, table: Any) -> CellMoments:
    """Return the moments of a table in memory, by compiled passes."""
    prepared = prepare_cells(formula, table)
    design = prepared.design
    columns = tuple(distinct_columns(formula, design.levels).values())
    n, mean, cross = accumulate_moments(prepared.rows(), columns, formula.response)
    # A bad value spoils the moments, and only then is it worth looking for it.
    if not (np.isfinite(mean).all() and np.isfinite(cross).all()):
        prepared.check()
    labels = zip(prepared.labels, prepared.codes, strict=True)
    return CellMoments(
        n,
        mean,
        cross,
        labels=tuple(each._replace(codes=codes) for each, codes in labels),
        design=design,
        dropped=prepared.dropped,
        missing=tuple(prepared.missing.items()),
    )


def _reduce_weighted(formula: Formula, weights: Weights, table: Any) -> CellMoments:
    """Return the weighted moments of a table, of which the columns that are read fit into memory.

    Raises:
        ArgumentError: weights of groups that do not name the factor they are of.
        DataError: weights that cannot be taken.
    """
    check_unit_weights(formula)
    names = tuple(formula.groupings)
    prepared = prepare_cells(formula, read_table(table, formula))
    design, rows = prepared.design, prepared.rows()
    columns = tuple(distinct_columns(formula, design.levels).values())
    found = accumulate_weighted(rows, columns, formula, groups=np.arange(rows.n_groups))
    if not (np.isfinite(found.mean).all() and np.isfinite(found.cross).all()):
        prepared.check()
    by_factor: dict[str, Array] = {}
    for name, expression in zip(
        (each for each, _ in weights.factors), weights.factor_expressions, strict=True
    ):
        at = names.index(name)
        own = np.broadcast_to(rows.evaluate(expression, slice(0, len(rows.codes))), len(rows.codes))
        by_factor[name] = settle_units(
            own, prepared.labels[at].codes, prepared.labels[at].n_levels, group=name
        )
    labels = zip(prepared.labels, prepared.codes, strict=True)
    return CellMoments(
        found.n,
        found.mean,
        found.cross,
        labels=tuple(each._replace(codes=codes) for each, codes in labels),
        design=design,
        dropped=prepared.dropped,
        missing=tuple(prepared.missing.items()),
        weighting=found.weighting,
        unit_weights=tuple(by_factor.get(name) for name in names),
    )


def check_unit_weights(formula: Formula) -> None:
    """Raise `ArgumentError` where weights do not fit a formula of several factors."""
    weights = formula.weights
    if weights is None:
        return
    names = tuple(formula.groupings)
    if weights.groups is not None:
        raise ArgumentError(
            f"groups='{weights.groups}' does not say of which of {list_names(names)} it is; give "
            "groups={" + f"'{names[-1]}': '{weights.groups}'" + "}"
        )
    if unknown := [name for name, _ in weights.factors if name not in names]:
        raise ArgumentError(
            f"groups= names '{unknown[0]}', which is no factor of the formula; they are "
            f"{list_names(names, most=len(names))}"
        )
    if weights.scaling == "gk" and weights.is_sampling:
        raise ArgumentError(
            "scaling='gk' moves the rows' weights to a single factor, of which there are "
            f"{len(names)}; take 'size', 'effective' or 'none'"
        )


def _reduce_lazy(formula: Formula, table: Any) -> CellMoments:
    """Return the moments of a lazy table, by a GROUP BY of its engine."""
    prepared = build_prepared(formula, table)
    frame = apply_design(prepared.design, table, check=False, means=True)
    blocks = reduce_frame(frame, formula, tuple(name_groups(formula)))
    check_still(formula, table, prepared, n=int(blocks.n.sum()))
    if not _is_finite(blocks):
        check_design(prepared.design, table)
    return _arrange(prepared.design, blocks, LeftOut(prepared.dropped, prepared.missing))


def _is_finite(blocks: Blocks) -> bool:
    """Return whether no bad value spoilt the moments; only if one did it is worth a search."""
    return bool(np.isfinite(blocks.mean).all() and np.isfinite(blocks.cross).all())


def _arrange(design: Design, blocks: Blocks, left_out: LeftOut, *, least: int = 2) -> CellMoments:
    """Return moments whose cells have the order of their factors' labels.

    Raises:
        DataError: a factor has fewer levels than `least`, or a unit has two weights.
    """
    formula = design.formula
    by_column = dict(zip(formula.group_columns, blocks.labels, strict=True))
    labels = read_labels(formula, by_column, n=count_complete(blocks), least=least)
    order, codes = code_cells([each.codes for each in labels])
    order = np.argsort(order, kind="stable")
    names = [factor.name for factor in design.factors]
    given: list[Array | None] = [None] * len(names)
    if blocks.units is not None and formula.weights is not None:
        for (name, _), own in zip(formula.weights.factors, blocks.units.T, strict=True):
            at = names.index(name)
            given[at] = settle_units(
                own, labels[at].codes, labels[at].n_levels, group=name, of="cell"
            )
    return CellMoments(
        blocks.n[order],
        blocks.mean[order],
        blocks.cross[order],
        labels=tuple(each._replace(codes=at) for each, at in zip(labels, codes, strict=True)),
        design=design,
        dropped=left_out.dropped,
        missing=tuple(left_out.missing.items()),
        weighting=None if blocks.weighting is None else blocks.weighting.select(order),
        unit_weights=tuple(given) if blocks.units is not None else (),
    )


class CellRows(NamedTuple):
    """The complete rows of a table that a formula with several factors uses."""

    codes: Array  # (F, n) the level of every factor, as in the labels of the moments
    x: Array  # (n, p)
    z: tuple[Array, ...]  # F, (n, q_f)
    y: Array  # (n,)


def read_cell_rows(formula: Formula, table: Any) -> CellRows:
    """Return the rows of a table that a formula with several factors uses, in their order.

    Raises:
        DataError: the table cannot serve the formula.
    """
    prepared = prepare_cells(formula, table)
    design, rows = prepared.design, prepared.rows()
    columns = tuple(distinct_columns(formula, design.levels).values())
    factors = [part.factor for column in columns for part in column.parts]
    rows.find_means([*factors, formula.response])
    n = len(prepared.cells)
    every = slice(0, n)
    values = {INTERCEPT: np.ones(n)}
    for name, column in zip(design.columns[:-1], columns, strict=True):
        values[name] = np.array(rows.column(column, every), dtype=np.float64)
    y = np.array(rows.evaluate(formula.response, every), dtype=np.float64)
    x = np.column_stack([values[name] for name in design.fixed])
    z = tuple(
        np.column_stack([values[name] for term in factor.blocks for name in term])
        for factor in design.factors
    )
    return CellRows(np.array([each.codes for each in prepared.labels]), x, z, y)


def compute_cells(design: Design, table: Any) -> CellMoments:
    """Return the moments of a table under a design that may come from another one.

    The centring constants and levels are the design's, which makes moments of parts of a table
    merge. A part may have a single level of a factor.

    Raises:
        DataError: the table has values or levels that the design cannot serve.
    """
    with unchanged(table):
        table = read_table(table, design.formula)
        frame = apply_design(design, table, means=True)
        blocks = reduce_frame(frame, design.formula, tuple(name_groups(design.formula)))
        total, missing = tally_table(design, table)
    left_out = LeftOut(total - count_complete(blocks), missing)
    return _arrange(design, blocks, left_out, least=1)


def describe_cells(moments: CellMoments) -> dict[str, Any]:
    """Return all of some moments but the arrays, as JSON can hold it."""
    design = moments.design
    return {
        "columns": design.columns,
        "fixed": design.fixed,
        "random": design.random,
        "blocks": design.blocks,
        "group": design.group,
        "groupings": design.formula.group_columns,
        "factors": [(each.name, each.columns, each.blocks) for each in design.factors],
        "formula": design.formula.text,
        "dropped": moments.dropped,
        "constants": sorted(design.constants.items()),
        "levels": list(design.levels.items()),
        "suppressed": moments.suppressed,
        "missing": moments.missing,
    } | ({} if moments.weights is None else {"weights": moments.weights.describe()})


def rebuild_level_design(description: Mapping[str, Any]) -> Design:
    """Return the design of several factors that a description has.

    Raises as `rebuild_cells` does.
    """
    factors = tuple(GroupingFactor(*map(freeze, each)) for each in description["factors"])
    design = replace(rebuild_design(description), factors=factors)
    if tuple(description["groupings"]) != design.formula.group_columns:
        raise ValueError(f"the grouping columns {description['groupings']}")
    return design


def rebuild_cells(description: Mapping[str, Any], blocks: Blocks) -> CellMoments:
    """Return the moments of which `describe_cells` is a description, perhaps read from JSON.

    Raises:
        DataError: its formula cannot be read.
        ValueError, LookupError, TypeError: it is not such a description.
    """
    design = rebuild_level_design(description)
    if (design.formula.weights is None) != (blocks.weighting is None):
        raise ValueError("weights that are named and not there, or the other way round")
    left_out = LeftOut(description["dropped"], dict(freeze(description["missing"])))
    found = _arrange(design, blocks, left_out, least=1)
    return replace(found, suppressed=description["suppressed"])


@check_arguments
def save_cells(
    moments: CellMoments, path: str | Path, *, min_group_size: int | None = None
) -> None:
    """Write moments to one file, which `bhlm.load_moments` gives back to the last bit.

    As `bhlm.moments.moments.save_moments`, with cells in the place of groups: `min_group_size` is
    the fewest rows of a cell, which of nested factors is a unit of the finest.

    Raises:
        DataError: cells below the minimum, moments that contradict themselves, labels of a type
            that has no place in a file, a folder that cannot be written to.
    """
    min_group_size = moments.min_group_size if min_group_size is None else min_group_size
    if min_group_size is not None:
        find_large_groups(moments.n, min_group_size, of=moments.cells_are, action="refuse")
        min_group_size = int(min_group_size)
    check_blocks(moments.design, moments.blocks, "the moments")
    description = describe_cells(moments) | {"min_group_size": min_group_size}
    write_blocks(path, description, moments.blocks)
    for sentence in moments.disclosures(min_group_size=min_group_size):
        LOGGER.warning("%s: %s", path, sentence)


def open_cells(header: Mapping[str, Any], blocks: Blocks, name: str) -> CellMoments:
    """Return the moments of a file, called `name` in errors, from what `read_blocks` gives.

    Raises:
        DataError: they contradict themselves.
    """
    with report_broken(name):
        check_counts(header, blocks.n)
        moments = rebuild_cells(header, blocks)
        check_blocks(moments.design, moments.blocks, name)
    return replace(moments, min_group_size=header.get("min_group_size"))


def list_cell_disclosures(
    moments: CellMoments, *, min_group_size: int | None = None
) -> tuple[str, ...]:
    """Return what moments by cell give away of single rows, a sentence each.

    As `bhlm.moments.moments.list_moments_disclosures`, by cell: nested factors give away what the
    groups of the finest would. Of crossed factors the cells are smaller than any group, often
    single rows, and which labels occur together is told as such.
    """
    k = moments.min_group_size if min_group_size is None else min_group_size
    shown = [":".join(map(print_label, each)) for each in zip(*moments.blocks.labels, strict=True)]
    reduced = Reduced(np.array(shown, dtype=object), moments.n, moments.mean, moments.cross)
    told = list_disclosures(
        moments.design, reduced, of=moments.cells_are, k=k, suppressed=moments.suppressed
    )
    if moments.n_cells in moments.groups.values():
        return told
    names = [f"'{name}'" for name in moments.groups]
    return (
        *told,
        f"the cells tell which labels of {list_names(names, most=len(names))} occur together, and "
        "in how many rows",
    )


def merge_cell_moments(
    parts: Sequence[CellMoments], *, names: Sequence[str] | None = None
) -> CellMoments:
    """Return the moments of the union of disjoint sets of rows.

    As `bhlm.moments.moments.merge_moments`: blocks of a cell merge exactly. Columns of cwc() and
    gm() rest on the mean of a whole level of their factor, so that no level of it may have rows in
    two parts; other factors may cross the parts.

    Raises:
        DataError: no parts; two parts of the same rows; parts of different models, constants,
            levels or types of labels; a level in two parts of a factor within which means are
            taken.
    """
    names = name_parts(parts, names)
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        check_alike(first.design, part.design, names=(names[0], name))
    refuse_same([part.blocks for part in parts], names)
    blocks = merge_cells(first.design, [part.blocks for part in parts], names=names)
    missing = sum((Counter(dict(part.missing)) for part in parts), Counter[str]())
    left_out = LeftOut(sum(part.dropped for part in parts), missing)
    merged = _arrange(first.design, blocks, left_out, least=1)
    return replace(
        merged,
        suppressed=sum(part.suppressed for part in parts),
        min_group_size=join_promises(part.min_group_size for part in parts),
    )


def update_cells(moments: CellMoments, more: Any) -> CellMoments:
    """Return the moments of the rows so far and of new ones, which must be disjoint.

    Args:
        moments: of the rows so far.
        more: moments, a .moments file, or a table or path of new rows, to be reduced under the
            constants and levels of `moments`.

    Raises:
        DataError: the new rows cannot be read or do not merge; see `merge_cell_moments`.
    """
    if is_moments_path(more):
        header, blocks = read_blocks(more)
        if "groupings" not in header:
            raise DataError(f"'{more}' has moments of a single factor; give those of several")
        more = open_cells(header, blocks, f"'{more}'")
    elif not isinstance(more, CellMoments):
        more = compute_cells(moments.design, open_cells_alike(moments, more))
    return merge_cell_moments([moments, more], names=["the moments so far", "the new rows"])


class HasCells(Protocol):
    """Moments or patterns of several grouping factors."""

    @property
    def design(self) -> Design:
        """The columns, and what they rest on."""

    @property
    def cell_labels(self) -> dict[str, Array]:
        """The label of every cell or pattern, by grouping column."""


def open_cells_alike(moments: HasCells, data: Any, **how: Any) -> Any:
    """Return the table behind data, with labels of the types that those of some moments have.

    `how` are the memory_limit, separator and missing of `bhlm.sources.open.open_table`, whose
    `DataError` is raised.
    """
    kinds = {name: kind_of_labels(each) for name, each in moments.cell_labels.items()}
    return open_designed(moments.design, kinds, data, **how)


def suppress_small_cells(
    moments: CellMoments, k: int, *, action: str = "refuse"
) -> tuple[CellMoments, str]:
    """Return moments without cells of fewer than k rows, and a sentence on what was done.

    As `bhlm.moments.moments.suppress_small_groups`, which says what is guaranteed and what is not.
    Of nested factors a cell is a unit of the finest: what is published of a school are the units
    of it. Of crossed factors most cells may be small, and a fit to what remains is one to the
    labels that occur together often.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are cells below k to refuse, or no cell would be left.
    """
    keep, sentence = find_large_groups(moments.n, k, of=moments.cells_are, action=action)
    if keep.all():
        is_known = moments.min_group_size == k
        return moments if is_known else replace(moments, min_group_size=int(k)), sentence
    labels, n, mean, cross, weighting, units = moments.blocks
    kept = Blocks(
        tuple(each[keep] for each in labels), n[keep], mean[keep], cross[keep],
        None if weighting is None else weighting.select(keep),
        None if units is None else units[keep],
    )  # fmt: skip
    left_out = LeftOut(moments.dropped, dict(moments.missing))
    rest = _arrange(moments.design, kept, left_out, least=1)
    rows = moments.suppressed + int(moments.n[~keep].sum())
    return replace(rest, suppressed=rows, min_group_size=int(k)), sentence


def refuse_factors(formula: Formula, what: str) -> ArgumentError:
    """Return the error for what is not there yet for several grouping factors.

    Whoever cannot serve a model of several factors says so by this one sentence.
    """
    names = list_names(list(formula.groupings), most=9)
    return ArgumentError(
        f"{what} is not there yet for several grouping factors ({names}); model.reml() and "
        "model.sample() fit them without it, and a model of one column of groups has it"
    )


def list_implicit(moments: Layered) -> list[str]:
    """Return a sentence for each factor whose labels count anew from the same within another.

    Class 1, 2, ... (or a, b, ...) in every school may be one class that crosses all schools, or as
    many. With one row for each combination they cannot be as many: nothing would tell them from the
    residual. Whoever writes both readings, `(1 | school/class) + (1 | class)`, knows of them.
    """
    sentences = []
    pairs = zip(moments.factors, moments.labels, strict=True)
    single = [(factor, labels) for factor, labels in pairs if len(factor.columns) == 1]
    for outer, outside in single:
        for inner, inside in single:
            if inner is outer or not _is_count(inside.columns[0]):
                continue
            both = {outer.name, inner.name}
            if any(both <= set(factor.columns) for factor in moments.factors):
                continue
            held, first = np.unique(
                outside.codes * inside.n_levels + inside.codes, return_index=True
            )
            schools, classes = outside.codes[first], inside.codes[first]
            many = np.bincount(schools, minlength=outside.n_levels)
            last = np.zeros(outside.n_levels, dtype=np.int64)
            np.maximum.at(last, schools, classes)
            spread = int(np.bincount(classes).max())
            numbered = bool((last + 1 == many).all()) and inside.n_levels < outside.n_levels
            if numbered and spread > 1 and len(held) < moments.n_rows:
                label = show_name(inside.columns[0][0])
                sentences.append(
                    f"'{inner.name}' {label} occurs in {count(spread, repr(outer.name))} and is "
                    f"taken as one and the same, so that the two are crossed; if each "
                    f"'{outer.name}' has a '{inner.name}' {label} of its own, write "
                    f"(... | {outer.name}/{inner.name})."
                )
    return sentences


def _is_count(labels: Array) -> bool:
    """Return whether sorted labels count: from 0 or 1, or from a or A."""
    texts = list(map(print_label, labels.tolist()))
    if all(text.isdecimal() for text in texts):
        numbers = sorted(map(int, texts))
        return numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
    first = texts[0]
    return first in ("a", "A") and texts == [chr(ord(first) + i) for i in range(len(texts))]
