"""What draws and models of PyMC call the variables, dimensions and labels of grouping factors."""

import numpy as np

from bhlm.likelihood.parameters import name_group_dimension
from bhlm.moments.cells import CellMoments

Array = np.ndarray


def name_factors(moments: CellMoments, *, taken: tuple[str, ...] = ("dimension",)) -> list[str]:
    """Return the name of each factor's dimension, which its variables `sd|name`, ... bear too.

    It is the factor's own, unless draws use it otherwise or no path can hold it.
    """
    names: list[str] = []
    for factor in moments.factors:
        own = name_group_dimension(factor.name, taken=(*taken, *names))
        names.append(f"group_{len(names)}" if own in names else own)
    return names


def join_labels(moments: CellMoments, at: int) -> Array:
    """Return the label (J,) of every level of a factor; of several columns joined by ":"."""
    columns = moments.labels[at].columns
    if len(columns) == 1:
        return columns[0]
    return np.array([":".join(map(str, each)) for each in zip(*columns, strict=True)], dtype=object)
