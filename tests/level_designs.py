"""Small designs of several grouping factors with slopes, their fits, and their dense algebra."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from bhlm.fits.levels_fit import LevelsFit
from bhlm.fits.model import Model

Array = np.ndarray

FORMULAS = {
    "two nested": "y ~ x + w + (1 | school) + (x | school:klass)",
    "three nested": "y ~ x + w + (1 | school) + (x | klass) + (1 | pupil)",
    "crossed": "y ~ x + w + (x | rater) + (1 | item)",
    "crossed within nested": "y ~ x + w + (1 | school) + (x | klass) + (1 | rater)",
}


@cache
def make_table(kind: str) -> pd.DataFrame:
    """Return the rows of one design: unbalanced, with effects that vary."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    n = 160
    school = np.sort(rng.integers(0, 7, n))
    klass = school * 3 + rng.integers(0, 3, n)
    pupil = klass * 4 + rng.integers(0, 4, n)
    rater = school * 4 + rng.integers(0, 4, n) if "within" in kind else rng.integers(0, 9, n)
    item = rng.integers(0, 11, n)
    x = rng.normal(size=n)
    w = rng.normal(size=7)[school] if "nested" in kind else rng.normal(size=n)
    y = 2.0 + 0.5 * x + 0.3 * w + rng.normal(size=n)
    labels = {"school": school, "klass": klass, "pupil": pupil, "rater": rater, "item": item}
    for label in labels.values():
        count = int(label.max()) + 1
        y += rng.normal(size=count)[label] + 0.8 * rng.normal(size=count)[label] * x
    return pd.DataFrame({"y": y, "x": x, "w": w} | labels)


@cache
def fit_design(kind: str, method: str = "reml") -> LevelsFit:
    """Return the fit of a design."""
    found = Model(FORMULAS[kind], make_table(kind)).reml(method=method)
    assert found.converged
    assert not found.singular
    return found


class Dense(NamedTuple):
    """The n x n algebra of a fit at its estimates."""

    x: Array  # (n, p)
    y: Array
    z: list[Array]  # by factor, (n, J q)
    v: Array  # (n, n)
    inverse: Array
    c: Array  # (p, p) covariance of beta
    p: Array  # (n, n) V^-1 - V^-1 X C X'V^-1
    tangents: Array  # (m + 1, n, n) dV by the free elements of every G and sigma^2


@cache
def spell_out(kind: str, method: str = "reml") -> Dense:
    """Return the dense algebra of a design."""
    fit, table = fit_design(kind, method), make_table(kind)
    n = len(table)
    columns = {"Intercept": np.ones(n), "x": table["x"], "w": table["w"]}
    x = np.column_stack([columns[name] for name in fit.moments.fixed])
    wide, tangents = [], []
    v = fit.sigma2 * np.eye(n)
    for factor, structure, g in zip(fit.moments.factors, fit.structures, fit.gs, strict=True):
        codes = table.groupby(list(factor.columns)).ngroup().to_numpy()
        count, q = int(codes.max()) + 1, structure.q
        own = np.zeros((n, count, q))
        own[np.arange(n), codes] = np.column_stack([columns[name] for name in structure.names])
        z = own.reshape(n, count * q)
        wide.append(z)
        v += z @ np.kron(np.eye(count), g) @ z.T
        tangents += [z @ np.kron(np.eye(count), each) @ z.T for each in structure.directions]
    tangents.append(np.eye(n))
    inverse = np.linalg.inv(v)
    c = np.linalg.inv(x.T @ inverse @ x)
    p = inverse - inverse @ x @ c @ x.T @ inverse
    return Dense(x, table["y"].to_numpy(), wide, v, inverse, c, p, np.array(tangents))
