"""Data sets with few groups, for tests of what holds at few groups."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def draw_groups(
    n_groups: int,
    n: int | Sequence[int],
    *,
    sd: Sequence[float] = (0.0, 0.0),
    seed: int = 0,
    columns: int = 1,
) -> pd.DataFrame:
    """Return y, x (x2 ..), w (between groups) and g.

    Args:
        n_groups: how many.
        n: rows per group; several are taken in turn.
        sd: of the intercept and the slopes; what is not given is 0.
        seed: of the random numbers.
        columns: how many covariates x.
    """
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), np.resize(n, n_groups))
    x = rng.standard_normal((len(g), columns))
    scales = np.zeros(1 + columns)
    scales[: len(sd)] = sd[: 1 + columns]
    u = rng.standard_normal((n_groups, 1 + columns)) * scales
    w = rng.standard_normal(n_groups)[g]
    y = 0.3 * w + u[g, 0] + (x * (0.3 + u[g, 1:])).sum(axis=1) + rng.standard_normal(len(g))
    names = ["x", *(f"x{i + 1}" for i in range(1, columns))]
    return pd.DataFrame({"y": y, "w": w, "g": g} | dict(zip(names, x.T, strict=True)))
