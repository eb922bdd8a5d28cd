"""Design + any dataframe -> Moments, by one GROUP BY; merging of moments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design import Design, apply_design, build_prepared, check_design
from bhlm.errors import DataError
from bhlm.formula import Formula
from bhlm.inmemory import reduce_rows
from bhlm.transforms import Frame

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
    expressions that is the same for every engine; tables in memory by compiled passes.

    Args:
        formula: the model.
        table: any dataframe that narwhals accepts, eager or lazy.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
    """
    design, rows, layout = build_prepared(formula, table)
    if isinstance(rows, nw.DataFrame):
        reduced = reduce_rows(design, rows, layout)
    else:
        reduced = reduce_frame(apply_design(design, table, check=False))
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
    total = nw.from_native(table).lazy().select(nw.len()).collect().item()
    reduced = reduce_frame(apply_design(design, table))
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
    )


def reduce_frame(frame: Frame) -> tuple[Array, Array, Array, Array]:
    """Return group labels (J,), n (J,), means (J, k) and cross-products (J, k, k) of w0, w1, ...

    The expressions are narwhals', so that a database computes them where the rows are.
    """
    names = [name for name in frame.collect_schema().names() if name != "group"]
    k = len(names)
    centred = frame.with_columns(
        *[(nw.col(name) - nw.col(name).mean().over("group")).alias(f"d{name}") for name in names]
    )
    pairs = [(i, j) for i in range(k) for j in range(i + 1)]
    centred = centred.with_columns(
        *[(nw.col(f"dw{i}") * nw.col(f"dw{j}")).alias(f"c{i}_{j}") for i, j in pairs]
    )
    reduced = centred.group_by("group").agg(
        nw.len().alias("n"),
        *[nw.col(name).mean() for name in names],
        *[nw.col(f"c{i}_{j}").sum() for i, j in pairs],
    )
    if isinstance(reduced, nw.LazyFrame):
        reduced = reduced.collect()
    labels = np.asarray(reduced["group"].to_numpy())
    order = np.argsort(labels, kind="stable")
    mean = np.column_stack([reduced[name].to_numpy() for name in names]).astype(np.float64)
    cross = np.empty((len(labels), k, k))
    for i, j in pairs:
        cross[:, i, j] = cross[:, j, i] = reduced[f"c{i}_{j}"].to_numpy()
    n = reduced["n"].to_numpy().astype(np.float64)
    return labels[order], n[order], mean[order], cross[order]


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of the union of disjoint sets of rows.

    Two blocks of one group merge by the pairwise update: with d the difference of the means,
    cross = cross_1 + cross_2 + (n_1 n_2 / (n_1 + n_2)) d d'. Source: Chan, Golub & LeVeque
    (1983), The American Statistician 37, 242-247, eq. 2.1.

    Raises:
        DataError: no parts, or parts of different models.
    """
    if not parts:
        raise DataError("there are no moments to merge; give at least one part")
    first = parts[0]
    for part in parts[1:]:
        for name in ("columns", "fixed", "random", "blocks", "group", "constants"):
            if getattr(part, name) != getattr(first, name):
                raise DataError(
                    f"moments differ in {name}: {getattr(part, name)} and {getattr(first, name)}; "
                    "compute both from the same design"
                )
    labels = np.concatenate([part.groups for part in parts])
    groups, index = np.unique(labels, return_inverse=True)
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
        cross[at] += part.cross + weight[:, None, None] * step[:, :, None] * step[:, None, :]
        mean[at] += (part.n / total)[:, None] * step
        n[at] = total
    return replace(
        first,
        groups=groups,
        n=n,
        mean=mean,
        cross=cross,
        dropped=sum(part.dropped for part in parts),
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
