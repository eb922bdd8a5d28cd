"""Tables whose columns have other offsets and units, and what that leaves unchanged."""

import numpy as np
import pandas as pd

from bhlm.sources.gallery import GalleryModel

FACTOR = 3.0


def recode(table: pd.DataFrame, column: str, *, sds: float = 100.0) -> pd.DataFrame:
    offset = sds * table[column].std()
    return table.assign(**{column: FACTOR * table[column] + offset})


def find_kept(one: np.ndarray, other: np.ndarray) -> dict[int, float]:
    """Return which coefficients a recoding leaves unchanged, with the factors of their units.

    Args:
        one: the columns (n, m) of the model.
        other: the same of the recoded table, a linear map of them.
    """
    # one beta = other beta', so that beta' = turn beta.
    turn = np.linalg.lstsq(other, one, rcond=None)[0]
    turn = np.where(np.abs(turn) > 1e-8 * np.abs(turn).max(axis=1, keepdims=True), turn, 0.0)
    alone = np.count_nonzero(turn, axis=1) == 1
    return {int(i): float(turn[i, i]) for i in np.flatnonzero(alone) if turn[i, i] != 0.0}


def list_columns(entry: GalleryModel, table: pd.DataFrame, group: str) -> list[str]:
    """Return the numeric columns of a model, the response among them."""
    found = [
        name
        for name in table.columns
        if name != group
        and name in entry.formula
        and f"C({name})" not in entry.formula
        and pd.api.types.is_numeric_dtype(table[name])
    ]
    assert found
    return found


def choose_offset(entry: GalleryModel) -> float:
    """Return by how many SDs columns are moved: powers far from zero are one another."""
    return 1.0 if "**" in entry.formula else 100.0
