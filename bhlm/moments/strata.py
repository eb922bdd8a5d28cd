"""Moments by group and stratum, of which each has a residual variance of its own."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, build_design
from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import CENTRINGS, Apply, walk
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.formula.weights import StratumWeights
from bhlm.design.frames import Frame, collect_frame
from bhlm.design.rows import advise_column, check_labels, check_schema, read_frame, read_table
from bhlm.errors import DataError, FormulaError
from bhlm.layout import count, list_names, print_label
from bhlm.moments.memory import Reduced
from bhlm.moments.merge import merge_blocks
from bhlm.moments.moments import Moments, compute_moments, tell_rows_used
from bhlm.moments.weighting import Weighting

Array = np.ndarray
MOST = 50  # strata; more look like an identifier


@dataclass(frozen=True, slots=True)
class StratumMoments:
    """The moments of every stratum under one design."""

    column: str  # of the strata
    levels: tuple[Level, ...]  # S, the first is what the others are compared with
    parts: tuple[Moments, ...]  # S
    dropped: int  # rows left out because a column, the strata's too, was missing
    missing: tuple[tuple[str, int], ...] = ()  # columns, and rows dropped in which each is missing

    @property
    def design(self) -> Design:
        """The columns of the model."""
        return self.parts[0].design

    @property
    def n(self) -> Array:
        """The rows (S,) of every stratum."""
        return np.array([part.n_rows for part in self.parts], dtype=np.float64)

    @property
    def rows_used(self) -> str:
        """How many rows were used, and how often which column was missing in the others."""
        return tell_rows_used(int(self.n.sum()), dropped=self.dropped, missing=self.missing)

    @property
    def whole(self) -> Moments:
        """The moments of all rows, every stratum's counting alike."""
        return self.weigh(np.zeros(len(self.parts)))

    def weigh(self, log_ratios: Array) -> Moments:
        """Return the moments of all rows where SDs relative to the first stratum's are known.

        A row of stratum s counts by 1 / ratio_s^2, as a precision weight does.

        Args:
            log_ratios: (S,) logarithms of the ratios of the residual SDs, the first 0.
        """
        weighed = []
        for part, log_ratio in zip(self.parts, log_ratios.tolist(), strict=True):
            w = float(np.exp(-2.0 * log_ratio))
            weighting = Weighting(
                sums=w * part.n,
                squares=w**2 * part.n,
                logs=-2.0 * log_ratio * part.n,
                groups=np.ones(part.n_groups),
                rows=part.n,
            )
            weighed.append(Reduced(part.groups, part.n, part.mean, w * part.cross, weighting))
        meant = replace(self.design.formula, weights=StratumWeights(self.column, self.levels))
        design = replace(self.design, formula=meant)
        names = [f"{self.column} = {print_label(level)}" for level in self.levels]
        merged = merge_blocks(design, weighed, names=names)
        return Moments(
            *merged[:4], weighting=merged.weighting, design=design, dropped=self.dropped,
            missing=self.missing,
        )  # fmt: skip


def reduce_strata(formula: Formula, table: Any, column: str) -> StratumMoments:
    """Return the moments of a table by group and by the levels of a column.

    Raises:
        FormulaError: the formula cannot be read, or takes means within groups.
        DataError: the table cannot serve it; the column is not there, or has one level or too
            many.
    """
    if not column:
        raise DataError("residual='' is not the name of a column; give one, in quotes")
    for node in (node for factor in list_factors(formula) for node in walk(factor)):
        if isinstance(node, Apply) and node.function in (*CENTRINGS, "poly", "scale"):
            raise FormulaError(
                f"'{node}' takes means of all rows, and residual='{column}' reduces each stratum "
                "apart; compute that column first"
            )
    frame = read_frame(read_table(table, formula, more=[column]))
    schema = check_schema(frame, formula)
    if column not in schema:
        raise DataError(
            f"the table has no column '{column}'; {advise_column(column, list(schema))}"
        )
    check_labels(frame, column, f"the column of residual='{column}'")
    levels, absent = _list_levels(frame, column)
    frame = frame.filter(nw.col(column).is_in(levels))
    design = build_design(formula, frame.to_native(), check=False)
    parts = tuple(
        compute_moments(design, frame.filter(nw.col(column) == level).to_native())
        for level in levels
    )
    missing = Counter({column: absent} if absent else {})
    for part in parts:
        missing.update(dict(part.missing))
    # The largest stratum's residual variance is known best.
    order = sorted(range(len(levels)), key=lambda s: -parts[s].n_rows)
    return StratumMoments(
        column=column,
        levels=tuple(levels[s] for s in order),
        parts=tuple(parts[s] for s in order),
        dropped=absent + sum(part.dropped for part in parts),
        missing=tuple(missing.items()),
    )


def _list_levels(frame: Frame, column: str) -> tuple[list[Level], int]:
    """Return the levels of the strata, sorted, and the number of rows that have none."""
    name = f"rows of {column}"
    try:
        found = frame.select(nw.col(column)).group_by(column).agg(nw.len().alias(name))
    except TypeError as error:  # of pandas' objects that cannot be looked up
        raise DataError(
            f"the column of residual='{column}' holds objects such as lists ({error}); choose a "
            "column of numbers, strings, booleans or categories"
        ) from error
    found = collect_frame(found) if isinstance(found, nw.LazyFrame) else found
    total = sum(found[name].to_list())
    found = found.filter(~nw.col(column).is_null())
    counts = dict(zip(found[column].to_list(), found[name].to_list(), strict=True))
    present = {level: n for level, n in counts.items() if level == level}
    try:
        levels = sorted(present)
    except TypeError:
        kinds = sorted({type(level).__name__ for level in present})
        if len(kinds) == 1:
            raise DataError(
                f"the column of residual='{column}' holds values of the type {kinds[0]}, which "
                "have no order; choose a column of numbers, strings, booleans or categories"
            ) from None
        raise DataError(
            f"residual='{column}' mixes {list_names(kinds)}; make all of them text"
        ) from None
    if not 1 <= len(levels) <= MOST:
        raise DataError(
            f"residual='{column}' has {count(len(levels), 'level')}; a stratum needs rows of its "
            f"own, so choose a column with at most {MOST} levels"
        )
    return levels, int(total - sum(present.values()))
