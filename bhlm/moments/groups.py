"""Where labels and rows stand among the groups of moments."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.design.labels import widen_labels
from bhlm.errors import ArgumentError, DataError, show_value
from bhlm.moments.moments import Moments

if TYPE_CHECKING:
    from bhlm.moments.patterns import Patterns

Array = np.ndarray

KINDS = ("conditional", "population")
# Rows and moments of one table agree in the response's group means to this share of its size.
SAME = 1e-8


def locate_groups(moments: "Moments | Patterns", labels: Array) -> Array:
    """Return where each label (n,) stands among the groups, -1 for those that are none of them."""
    import pandas as pd

    return np.asarray(pd.Index(moments.groups).get_indexer(pd.Index(widen_labels(labels))))


def find_groups(moments: "Moments | Patterns", groups: Sequence[Any]) -> Array:
    """Return the positions of group labels among the groups.

    Raises:
        DataError: a label is not one of the groups.
    """
    positions = {label: at for at, label in enumerate(moments.groups.tolist())}
    for label in groups:
        if not isinstance(label, Hashable) or label not in positions:
            shown = f"{show_value(label)} is not a {moments.group}"
            raise DataError(f"{shown}; the labels are in fit.moments.groups")
    return np.array([positions[label] for label in groups], dtype=np.int64)


def place_new_rows(
    moments: "Moments | Patterns", labels: Array, *, kind: str, new_groups: str
) -> Array:
    """Return where the group of each row (n,) stands among those of the fit, -1 for new ones.

    Raises:
        ArgumentError: an unknown kind, or an unknown choice for new groups.
        DataError: a new group, if conditional predictions are asked for and that is an error.
    """
    _check_choice(kind, new_groups)
    at = locate_groups(moments, labels)
    if kind == "conditional" and new_groups == "error" and np.any(at < 0):
        unknown = np.asarray(labels)[at < 0].tolist()[0]
        raise DataError(
            f"{unknown!r} is not a {moments.group} of the fit; ask for kind='population' "
            "or new_groups='population'"
        )
    return at


def place_own_rows(moments: Moments, labels: Array, y: Array) -> Array:
    """Return where each row's label (n,) stands among the groups.

    Raises:
        DataError: rows of other groups, numbers of rows or responses than the moments'.
    """
    at = locate_groups(moments, labels)
    if np.any(at < 0):
        raise DataError(
            f"{np.asarray(labels)[at < 0].tolist()[0]!r} is not a {moments.group} of the fit; "
            "give the rows that the model was fitted to"
        )
    n = np.bincount(at, minlength=moments.n_groups)
    mean = np.bincount(at, weights=y, minlength=moments.n_groups) / np.maximum(n, 1)
    wrong = np.abs(mean - moments.mean[:, -1]) > SAME * np.max(np.abs(y))
    bad = np.flatnonzero((n != moments.n) | wrong)
    if len(bad):
        raise DataError(
            f"{moments.group} {moments.groups[bad[0]]!s} has {n[bad[0]]} rows with mean "
            f"{mean[bad[0]]:g} of '{moments.response}' here, and {moments.n[bad[0]]:.0f} with "
            f"{moments.mean[bad[0], -1]:g} in the fit; give the rows that the model was fitted to"
        )
    return at


def check_units(names: Sequence[str], codes: Array, *, kind: str, new_groups: str) -> None:
    """Refuse predictions for units of several factors that a fit has not seen, if that is asked.

    Args:
        names: of the F factors.
        codes: the unit (F, n) of every factor, -1 for units that the fit has not seen.
        kind: "conditional" or "population".
        new_groups: "error" or "population".

    Raises:
        ArgumentError: an unknown kind, or choice for new units.
        DataError: a unit that the fit has not seen, if that is an error.
    """
    _check_choice(kind, new_groups)
    if kind == "conditional" and new_groups == "error" and (codes < 0).any():
        name = names[int(np.flatnonzero((codes < 0).any(axis=1))[0])]
        raise DataError(
            f"some rows have a level of '{name}' that the fit has not seen; ask for "
            "new_groups='population', or kind='population'"
        )


def _check_choice(kind: str, new_groups: str) -> None:
    """Refuse a kind of prediction, or a choice for new groups, that is not known."""
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    if new_groups not in ("error", "population"):
        raise ArgumentError(
            f"new_groups={new_groups!r} is not known; choose 'error' or 'population'"
        )
