"""Moments by group and stratum, of which each has a residual variance of its own."""

from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, build_design
from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import CENTRINGS, Apply, walk
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.formula.weights import StratumWeights
from bhlm.design.frames import collect_frame
from bhlm.design.rows import advise_column, read_frame, read_table
from bhlm.errors import DataError, FormulaError
from bhlm.layout import count
from bhlm.moments.memory import Reduced
from bhlm.moments.merge import merge_blocks
from bhlm.moments.moments import Moments, compute_moments
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

    @property
    def design(self) -> Design:
        """The columns of the model."""
        return self.parts[0].design

    @property
    def n(self) -> Array:
        """The rows (S,) of every stratum."""
        return np.array([part.n_rows for part in self.parts], dtype=np.float64)

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
        names = [f"{self.column} = {level}" for level in self.levels]
        merged = merge_blocks(design, weighed, names=names)
        return Moments(*merged[:4], weighting=merged.weighting, design=design, dropped=self.dropped)


def reduce_strata(formula: Formula, table: Any, column: str) -> StratumMoments:
    """Return the moments of a table by group and by the levels of a column.

    Raises:
        FormulaError: the formula cannot be read, or takes means within groups.
        DataError: the table cannot serve it; the column is not there, or has one level or too
            many.
    """
    for node in (node for factor in list_factors(formula) for node in walk(factor)):
        if isinstance(node, Apply) and node.function in (*CENTRINGS, "poly", "scale"):
            raise FormulaError(
                f"'{node}' takes means of all rows, and residual='{column}' reduces each stratum "
                "apart; compute that column first"
            )
    # Parquet files and the like are read with the columns of the formula and the strata.
    frame = read_frame(table if not hasattr(table, "schema") else read_table(table, formula))
    names = list(frame.collect_schema())
    if column not in names:
        raise DataError(f"the table has no column '{column}'; {advise_column(column, names)}")
    frame = frame.filter(~nw.col(column).is_null())
    found = frame.select(column).unique()
    found = collect_frame(found) if isinstance(found, nw.LazyFrame) else found
    levels = sorted(level for level in found[column].to_list() if level == level)
    if not 1 <= len(levels) <= MOST:
        raise DataError(
            f"residual='{column}' has {count(len(levels), 'level')}; a stratum needs rows of its "
            f"own, so choose a column with at most {MOST} levels"
        )
    design = build_design(formula, frame.to_native(), check=False)
    parts = tuple(
        compute_moments(design, frame.filter(nw.col(column) == level).to_native())
        for level in levels
    )
    # The largest stratum's residual variance is known best.
    order = sorted(range(len(levels)), key=lambda s: -parts[s].n_rows)
    return StratumMoments(
        column=column,
        levels=tuple(levels[s] for s in order),
        parts=tuple(parts[s] for s in order),
        dropped=sum(part.dropped for part in parts),
    )
