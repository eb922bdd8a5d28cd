"""What draws and models of PyMC call the variables, dimensions and labels of grouping factors."""

from collections.abc import Sequence

import numpy as np

from bhlm.layout import print_label
from bhlm.likelihood.parameters import name_group_dimension
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns

Array = np.ndarray


def name_factors(
    moments: CellMoments | LevelPatterns, *, taken: tuple[str, ...] = ("dimension",)
) -> list[str]:
    """Return the name of each factor's dimension, which its variables `sd|name`, ... bear too.

    It is the factor's own, unless draws use it otherwise or no path can hold it.
    """
    names: list[str] = []
    for factor in moments.factors:
        own = name_group_dimension(factor.name, taken=(*taken, *names))
        names.append(f"group_{len(names)}" if own in names else own)
    return names


def join_labels(moments: CellMoments | LevelPatterns, at: int) -> Array:
    """Return the label (J,) of every level of a factor; of several columns joined by ":"."""
    return join_columns(moments.labels[at].columns)


def join_columns(columns: Sequence[Array]) -> Array:
    """Return labels (J,) of several columns joined by ":".

    Where two levels would have one name ("a:b" with "c", "a" with "b:c"), what holds a colon stands
    in backquotes.
    """
    if len(columns) == 1:
        return columns[0]
    levels = [tuple(map(print_label, each)) for each in zip(*columns, strict=True)]
    joined = [":".join(each) for each in levels]
    if len(set(joined)) < len(set(levels)):
        joined = [
            ":".join(f"`{text.replace('`', '``')}`" if ":" in text else text for text in each)
            for each in levels
        ]
    return np.array(joined, dtype=object)
