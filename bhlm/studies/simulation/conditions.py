"""Conditions of a simulation study -> simulated rows, their moments, and the true parameters.

A data set has J groups; a covariate x that varies within groups and a covariate w of groups, both
standard normal and drawn anew for each data set; and the response

    y_ij = sum_k beta_k column_k,ij + u0_j + u1_j x_ij + e_ij,
    (u0_j, u1_j) ~ N(0, G), e_ij ~ N(0, residual variance).

G holds the intercept variance tau00 = residual variance icc / (1 - icc), so that icc is the
intraclass correlation at x = 0; the slope variance; and their correlation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bhlm.design.design import Design
from bhlm.design.formula.terms import parse_formula
from bhlm.likelihood.covariance import Structure, combine
from bhlm.likelihood.parameters import Parameter, list_parameters, scale_covariance
from bhlm.moments.memory import reduce_columns
from bhlm.moments.moments import INTERCEPT, Moments

Array = np.ndarray
GROUP, RESPONSE = "group", "y"
EFFECTS = (INTERCEPT, "x", "w", "x:w")  # what may be a fixed effect
COEFFICIENTS = (INTERCEPT, "x")  # what may vary over groups


@dataclass(frozen=True, slots=True)
class Condition:
    """One cell of the grid: how much data there is, and how it varies."""

    groups: int
    sizes: tuple[int, ...]  # rows per group, repeated over the groups in turn
    icc: float
    slope_variance: float
    correlation: float

    def __str__(self) -> str:
        """Return the condition as it is named in tables."""
        sizes = "/".join(map(str, self.sizes))
        return (
            f"J = {self.groups}, n = {sizes}, ICC = {self.icc:g}, slope variance = "
            f"{self.slope_variance:g}, correlation = {self.correlation:g}"
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """What all conditions share: true fixed effects and residual variance, the model fitted."""

    fixed: tuple[tuple[str, float], ...]  # fixed effect and true value, in the order of EFFECTS
    random: tuple[str, ...]  # the random coefficients of the model that is fitted
    correlated: bool  # whether the fitted ones may covary
    residual_variance: float

    @property
    def names(self) -> tuple[str, ...]:
        """The fixed effects."""
        return tuple(name for name, _ in self.fixed)

    @property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The correlated sets of random coefficients."""
        return (self.random,) if self.correlated else tuple((name,) for name in self.random)

    @property
    def structure(self) -> Structure:
        """The covariance structure of the model that is fitted."""
        return combine(self.blocks, group=GROUP)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter of the model that is fitted, in the order of its tables."""
        return list_parameters(self.names, self.structure)

    @property
    def formula(self) -> str:
        """The model that is fitted."""
        text = {INTERCEPT: "1", "x": "0 + x"}
        terms = [text[block[0]] if len(block) == 1 else block[1] for block in self.blocks]
        fixed = [name for name in self.names if name != INTERCEPT] or ["1"]
        return f"{RESPONSE} ~ {' + '.join([*fixed, *(f'({term} | {GROUP})' for term in terms)])}"


def cross_grid(
    groups: Sequence[int],
    sizes: Sequence[tuple[int, ...]],
    *,
    icc: Sequence[float],
    slope_variance: Sequence[float],
    correlation: Sequence[float],
) -> tuple[Condition, ...]:
    """Return every combination once, the last factor fastest.

    Where the intercept or the slope does not vary there is nothing to correlate: the correlation
    is 0 there, and conditions that differ in it alone are one.
    """
    found: dict[Condition, None] = {}
    for J, n, rho, tau, r in product(groups, sizes, icc, slope_variance, correlation):
        found[Condition(J, n, rho, tau, r if rho > 0.0 and tau > 0.0 else 0.0)] = None
    return tuple(found)


def true_covariance(truth: Truth, condition: Condition) -> Array:
    """Return G (2, 2) of intercept and slope."""
    icc, slope = condition.icc, condition.slope_variance
    intercept = truth.residual_variance * icc / (1.0 - icc)
    shared = condition.correlation * np.sqrt(intercept * slope)
    return np.array([[intercept, shared], [shared, slope]])


def true_values(truth: Truth, condition: Condition) -> dict[str, float]:
    """Return the true value of every parameter of the fitted model, in the order of its tables.

    A correlation with a coefficient that does not vary has none: nan.
    """
    at = [COEFFICIENTS.index(name) for name in truth.random]
    g = true_covariance(truth, condition)[np.ix_(at, at)]
    labels = truth.structure.labels
    values = [
        *(value for _, value in truth.fixed),
        *truth.structure.read(g).tolist(),
        truth.residual_variance,
        *scale_covariance(g, labels).tolist(),
        float(np.sqrt(truth.residual_variance)),
    ]
    return dict(zip(map(str, truth.parameters), values, strict=True))


def simulate_rows(truth: Truth, condition: Condition, rng: np.random.Generator) -> dict[str, Array]:
    """Return the columns group, x, w and y (n,) of one data set."""
    group = np.repeat(np.arange(condition.groups), np.resize(condition.sizes, condition.groups))
    x = rng.standard_normal(len(group))
    columns = {GROUP: group, "x": x, "w": rng.standard_normal(condition.groups)[group]}
    r = condition.correlation
    sd = np.sqrt(np.diag(true_covariance(truth, condition)))
    root = sd[:, None] * np.array([[1.0, 0.0], [r, np.sqrt(1.0 - r**2)]])
    u = (rng.standard_normal((condition.groups, 2)) @ root.T)[group]
    noise = np.sqrt(truth.residual_variance) * rng.standard_normal(len(group))
    with np.errstate(over="ignore", invalid="ignore"):  # who reads the rows refuses what is none
        fitted = sum(value * _column(columns, name) for name, value in truth.fixed)
        return columns | {RESPONSE: fitted + u[:, 0] + u[:, 1] * x + noise}


def reduce_rows(truth: Truth, rows: dict[str, Array]) -> Moments:
    """Return the moments of simulated rows for the fitted model, as `reduce_table` would."""
    named = [name for name in dict.fromkeys((*truth.random, *truth.names)) if name != INTERCEPT]
    values = np.column_stack([_column(rows, name) for name in (*named, RESPONSE)])
    group = rows[GROUP]
    n_groups = int(group[-1]) + 1
    n, mean, cross = reduce_columns(group, values, n_groups)
    return Moments(
        groups=np.arange(n_groups),
        n=n,
        mean=mean,
        cross=cross,
        design=Design.assemble(parse_formula(truth.formula), {}, {}),
        dropped=0,
    )


def _column(columns: dict[str, Array], name: str) -> Array:
    """Return a column (n,): the intercept, a covariate, or a product of covariates."""
    if name == INTERCEPT:
        return np.ones(len(columns[GROUP]))
    return np.prod([columns[part] for part in name.split(":")], axis=0)
