"""The names of the parameters, and moves between the variance, SD and correlation scale."""

from collections.abc import Sequence

import numpy as np

from bhlm.errors import ArgumentError

Array = np.ndarray
RESIDUAL = "var(Residual)"


def name_group_dimension(group: str, *, taken: Sequence[str]) -> str:
    """Return the name of the groups' dimension: the column's, unless draws use it otherwise.

    A name that no path can hold has no place in a DataTree, nor in a file of one.
    """
    always = ("chain", "draw", "fixed", "coefficient", "coefficient_bis", ".", "..", "zarr.json")
    return "group" if group in (*always, *taken) or "/" in group else group


def variance_names(
    random: Sequence[str], group: str, labels: Sequence[tuple[int, int]]
) -> list[str]:
    """Return `var(x|g)` or `cov(x,z|g)` for each (row, column) of G."""
    return [
        f"var({random[i]}|{group})" if i == j else f"cov({random[i]},{random[j]}|{group})"
        for i, j in labels
    ]


def scaled_names(random: Sequence[str], group: str, labels: Sequence[tuple[int, int]]) -> list[str]:
    """Return `sd(x|g)` or `corr(x,z|g)` for each (row, column) of G."""
    return [
        f"sd({random[i]}|{group})" if i == j else f"corr({random[i]},{random[j]}|{group})"
        for i, j in labels
    ]


def scale_covariance(g: Array, labels: Sequence[tuple[int, int]]) -> Array:
    """Return SDs and correlations (..., m) that stand at `labels` of G (..., q, q)."""
    sd = np.sqrt(np.einsum("...ii->...i", g))
    columns = []
    for i, j in labels:
        if i == j:
            columns.append(sd[..., i])
        else:
            both = sd[..., i] * sd[..., j]
            with np.errstate(invalid="ignore", divide="ignore"):
                columns.append(np.clip(g[..., i, j] / both, -1.0, 1.0))
    return np.stack(columns, axis=-1)


def refuse_shared_names(names: Sequence[str], *, table: Sequence[str]) -> None:
    """Raise `ArgumentError` where a name of the data would stand twice over a table's columns.

    Args:
        names: the group and the coefficients that have columns in the table.
        table: the table's own columns.
    """
    seen = set(table)
    for name in names:
        if name in seen:
            raise ArgumentError(
                f"'{name}' is to be two columns of this table; rename it in the data and the "
                "formula, or give the group a column of its own"
            )
        seen.add(name)


def check_level(level: float) -> None:
    """Raise `ArgumentError` unless 0 < level < 1."""
    if not (isinstance(level, int | float | np.number) and 0.0 < level < 1.0):
        raise ArgumentError(f"level={level!r} is not between 0 and 1; write level=0.95 for 95 %")
