"""Families with nested factors by dense tensors of nodes: small tables, and their integrals."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.special import log_ndtr, logsumexp

from bhlm.design.formula.terms import parse_formula
from bhlm.likelihood.covariance import combine
from bhlm.likelihood.families import find_family
from bhlm.likelihood.nested_families import WhitenedNest, whiten_nest
from bhlm.moments.level_patterns import LevelPatterns, reduce_level_patterns

# A normal density's trapezoidal rule with this gap has an error below 1e-16, and these integrands
# of some rows are hardly narrower.
GAP, REACH = 0.2, 9.0
KINDS = [
    ("bernoulli", "logit"),
    ("bernoulli", "probit"),
    ("bernoulli", "cloglog"),
    ("binomial", "logit"),
    ("poisson", "log"),
]


def draw(name: str, *, seed: int = 1, schools: int = 3, teachers: int = 2, rows: int = 4):
    """Return responses of rows in classes of teachers of schools."""
    rng = np.random.default_rng(seed)
    n = schools * teachers * 2 * rows
    table = pd.DataFrame({"school": np.arange(n) * schools // n})
    table["teacher"] = np.arange(n) * schools * teachers // n
    table["class"] = np.arange(n) * schools * teachers * 2 // n
    table["x"] = rng.integers(0, 3, n).astype(float)
    table["o"] = rng.normal(0.0, 0.1, n)
    eta = rng.normal(0.0, 0.7, n)[table["school"]] + 0.3 * table["x"] - 0.2
    table["t"] = rng.integers(2, 5, n)
    if name == "poisson":
        table["y"] = rng.poisson(np.exp(eta))
    else:
        trials = table["t"] if name == "binomial" else 1
        table["y"] = rng.binomial(trials, 1.0 / (1.0 + np.exp(-eta)))
    return table


def reduce(table: pd.DataFrame, name: str, link: str, random: str) -> LevelPatterns:
    """Return the patterns of a table, nested as `random` says."""
    left = "y / t" if name == "binomial" else "y"
    formula = parse_formula(f"{left} ~ x + offset(o) + {random}")
    return reduce_level_patterns(formula, table, family=find_family(name, link))


def whiten(table: pd.DataFrame, name: str, link: str, random: str) -> WhitenedNest:
    """Return whitened patterns of a table, nested as `random` says."""
    patterns = reduce(table, name, link, random)
    structures = [combine(each.blocks, group=each.name) for each in patterns.factors]
    return whiten_nest(patterns, structures)


def weigh(link: str, eta, n, y):
    """Return the log-likelihood of patterns (..., I), summed over these."""
    if link == "logit":
        return (y * eta - n * np.logaddexp(0.0, eta)).sum(axis=-1)
    if link == "probit":
        return (y * log_ndtr(eta) + (n - y) * log_ndtr(-eta)).sum(axis=-1)
    if link == "log":
        return (y * eta - n * np.exp(eta)).sum(axis=-1)
    tails = np.exp(eta)
    return (np.where(y > 0.0, y * np.log(-np.expm1(-tails)), 0.0) - (n - y) * tails).sum(axis=-1)


def integrate_densely(white: WhitenedNest, beta, lams, *, effect=None):
    """Return the log-likelihood by a tensor of nodes, or with the sum of f(v) of one unit's v.

    `effect` is (level, unit, power): then E[v^power] of the unit's first coefficient is returned.
    """
    line = np.arange(-REACH, REACH + GAP / 2, GAP)

    def integrate(level: int, unit: int, eta, tilt=None):
        lo, hi = white.bounds[level][unit : unit + 2]
        q = white.sizes[level]
        nodes = np.stack(np.meshgrid(*[line] * q, indexing="ij"), axis=-1).reshape(-1, q)
        logs = -0.5 * (nodes**2).sum(axis=1) + q * np.log(GAP / np.sqrt(2.0 * np.pi))
        a = white.z[level][lo:hi] @ lams[level]
        eta = eta[..., None, :] + nodes @ a.T
        if level + 1 < len(lams):
            finer = white.bounds[level + 1]
            children = range(np.searchsorted(finer, lo), np.searchsorted(finer, hi))
            total = sum(
                integrate(level + 1, c, eta[..., finer[c] - lo : finer[c + 1] - lo], tilt)
                for c in children
            )
        else:
            total = weigh(white.family.link, eta, white.n[lo:hi], white.y[lo:hi])
        total = total + logs
        if tilt is not None and tilt[:2] == (level, unit):
            # exp(s v) with a small s: the derivative of the log-integral by s is a moment.
            total = total + tilt[2] * nodes[:, 0]
        return logsumexp(total, axis=-1)

    base = white.offset + white.x @ beta
    found = 0.0
    for unit in range(white.counts[0]):
        lo, hi = white.bounds[0][unit : unit + 2]
        found += integrate(0, unit, base[lo:hi], effect)
    return found + sum(white.constant)


def differentiate(f: Callable[[float], float], step: float = 4e-3) -> float:
    """Return the derivative at zero, by six points."""
    weights = {1: 45.0, 2: -9.0, 3: 1.0}
    return sum(w * (f(k * step) - f(-k * step)) for k, w in weights.items()) / (60.0 * step)
