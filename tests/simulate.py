"""Small random data sets whose likelihood the tests can also compute densely, row by row."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import multivariate_normal

from bhlm.fits.model import Model

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Rows:
    """A table with its formula, and the design matrices of its rows."""

    model: Model
    labels: Array  # (n,)
    x: Array  # (n, p)
    z: Array  # (n, q)
    y: Array  # (n,)


def simulate_table(seed: int, *, n_groups: int = 8, largest: int = 9) -> pd.DataFrame:
    """Return groups of unequal size (one row included) with covariates x, t and w."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, n_groups)
    sizes[0] = 1
    sizes[1] = largest
    group = np.repeat(np.arange(n_groups), sizes)
    n = len(group)
    x, t = rng.normal(size=n), rng.normal(size=n)
    w = rng.normal(size=n_groups)[group]
    u = rng.normal(size=(n_groups, 3)) * [1.5, 0.8, 0.5]
    y = 3.0 + 2.0 * x - w + u[group, 0] + u[group, 1] * x + u[group, 2] * t + rng.normal(size=n)
    return pd.DataFrame({"g": group, "x": x, "t": t, "w": w, "y": y})


def simulate_rows(seed: int, random: str = "x", **shape: int) -> Rows:
    """Return the rows of `y ~ x + w + (random | g)`, or of whatever random terms are given."""
    terms = random if random.startswith("(") else f"({random} | g)"
    model = Model(f"y ~ x + w + {terms}", simulate_table(seed, **shape))
    return Rows(model, *model.rows())


def dense_covariance(rows: Rows, g: Array, sigma2: float) -> Array:
    """Return V (n, n) = Z G Z' within groups + sigma2 I."""
    same = rows.labels[:, None] == rows.labels[None, :]
    return np.where(same, rows.z @ g @ rows.z.T, 0.0) + sigma2 * np.eye(len(rows.y))


def dense_loglik(rows: Rows, beta: Array, g: Array, sigma2: float) -> float:
    """Return the marginal log-likelihood by a dense multivariate normal."""
    v = dense_covariance(rows, g, sigma2)
    return float(multivariate_normal.logpdf(rows.y, rows.x @ beta, v))


def dense_restricted(rows: Rows, g: Array, sigma2: float) -> float:
    """Return the restricted log-likelihood, from n x n matrices alone."""
    v = dense_covariance(rows, g, sigma2)
    inner = rows.x.T @ np.linalg.solve(v, rows.x)
    beta = np.linalg.solve(inner, rows.x.T @ np.linalg.solve(v, rows.y))
    p = rows.x.shape[1]
    full = dense_loglik(rows, beta, g, sigma2)
    return full + 0.5 * p * np.log(2.0 * np.pi) - 0.5 * float(np.linalg.slogdet(inner)[1])


def random_covariance(rng: np.random.Generator, q: int) -> Array:
    """Return a positive-definite (q, q)."""
    root = rng.normal(size=(q, q)) + np.eye(q)
    return root @ root.T
