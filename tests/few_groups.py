"""Random data sets of every awkward kind: few groups, singular, improper, rank-deficient."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bhlm.fits.model import Model


@dataclass(frozen=True, slots=True)
class Case:
    """A data set with the formula that it is made for."""

    seed: int
    formula: str
    table: pd.DataFrame
    q: int
    groups: int


def make_case(seed: int) -> Case:
    """Return the data set of a seed: q 1..4, J 3..200, many with a rank-deficient true G."""
    rng = np.random.default_rng([20261128, seed])
    q = 1 + seed % 4
    groups = int(rng.choice([3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 100, 200]))
    kind = rng.choice(["flat", "zero", "line", "full"], p=[0.2, 0.2, 0.3, 0.3])
    sizes = rng.integers(q + 1, 2 * q + 14, size=groups)
    if rng.random() < 0.3:
        sizes = rng.integers(1, 2 * q + 10, size=groups)  # rank-deficient groups among them
        sizes[: max(2, groups // 2)] += q + 1
    n = int(sizes.sum())
    g = np.repeat(np.arange(groups), sizes)
    slopes = ["x1", "x2", "x3"][: q - 1]
    x = rng.normal(size=(n, 3)) + rng.choice([0.0, 3.0]) + 0.5 * rng.normal(size=(groups, 3))[g]
    w = rng.normal(size=(groups, 3))[g]
    z = np.column_stack([np.ones(n), x[:, : q - 1]])
    sd = {"flat": 1.0, "zero": 0.0, "line": 1.0, "full": 0.5}[str(kind)]
    root = sd * rng.normal(size=(q, q)) * rng.choice([0.2, 1.0])
    if kind == "line":
        root[:, 1:] = 0.0
    u = rng.normal(size=(groups, q)) @ root.T
    y = 1.0 + x @ [0.5, -0.2, 0.1] + 0.3 * w[:, 0] + np.einsum("ij,ij->i", z, u[g])
    y = y + rng.normal(size=n)
    others = rng.permutation(["x1", "x2", "x3"])[: rng.integers(0, 3)]
    fixed = list(dict.fromkeys([*slopes, *others]))
    fixed += [f"w{i + 1}" for i in range(int(rng.integers(0, 1 + min(3, groups - 3))))]
    bar = "||" if q > 1 and rng.random() < 0.25 else "|"
    random = " + ".join(slopes) if slopes else "1"
    formula = f"y ~ {' + '.join(fixed) if fixed else '1'} + ({random} {bar} g)"
    columns = {f"x{i + 1}": x[:, i] for i in range(3)} | {f"w{i + 1}": w[:, i] for i in range(3)}
    return Case(seed, formula, pd.DataFrame({"y": y, **columns, "g": g}), q, groups)


def simulate_model(
    groups: int,
    q: int,
    seed: int,
    kind: Literal["regular", "singular", "zero", "perfect"] = "regular",
) -> Model:
    """Return a model of `groups` groups with q random coefficients whose SDs are 0.6.

    With "singular" the last SD is 0, with "zero" all are, with "perfect" the first two
    coefficients are one.
    """
    rng = np.random.default_rng([groups, q, seed])
    sizes = np.full(groups, 6) if groups >= 1000 else rng.integers(5, 17, groups)
    g = np.repeat(np.arange(groups), sizes)
    x, w = rng.standard_normal((len(g), 3)), rng.standard_normal(groups)[g]
    names = ["a", "b", "c"][: q - 1]
    sd = np.full(q, 0.0 if kind == "zero" else 0.6)
    if kind == "singular":
        sd[-1] = 0.0
    u = rng.standard_normal((groups, q)) * sd
    if kind == "perfect" and q > 1:
        u[:, 1] = u[:, 0]
    z = np.column_stack([np.ones(len(g)), x[:, : q - 1]])
    y = 1 + 0.5 * x[:, 0] - 0.3 * w + (z * u[g]).sum(axis=1) + rng.standard_normal(len(g))
    table = pd.DataFrame({"g": g, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "w": w, "y": y})
    fixed = ["a"] if q == 1 else names
    fixed = [*fixed, "w"] if groups > 6 else fixed
    return Model(f"y ~ {' + '.join(fixed)} + ({' + '.join(['1', *names])} | g)", table)
