"""Expected responses of a family where the fixed columns have given values.

A unit-specific response is that of a group whose random effects are zero; a population-averaged one
is the mean over all groups there may be. They differ wherever the link is curved. Source: Zeger,
Liang & Albert (1988), Biometrics 44, 1049-1060.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.averages import average_mean
from bhlm.likelihood.families import Family
from bhlm.likelihood.slopes import By, Grid, Value, find_step, state_points
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.moments.moments import INTERCEPT

Array = np.ndarray

SCALES = ("response", "link")
UNIT, POPULATION = KINDS = ("unit-specific", "population-averaged")


@dataclass(frozen=True, slots=True)
class Places:
    """m combinations of columns' values at which a response is expected."""

    x: Array  # (m, p) fixed columns
    z: Array  # (m, q) random columns, of all factors
    offset: float  # the mean over rows

    def add_effects(self, beta: Array) -> Array:
        """Return the linear predictor (N, m) of beta (N, p) where random effects are zero."""
        return np.asarray(self.offset + beta @ self.x.T)

    def expect(self, family: Family, beta: Array, g: Array, *, kind: str) -> Array:
        """Return the expected response (N, m) of one trial or unit of exposure.

        Args:
            family: with its link.
            beta: fixed effects (N, p).
            g: covariances (N, q, q) of the random coefficients, of all factors.
            kind: one of `KINDS`.
        """
        eta = self.add_effects(beta)
        if kind == UNIT:
            return family.mean(eta)
        spread = np.sqrt(np.maximum(np.einsum("ia,nab,ib->ni", self.z, g, self.z), 0.0))
        return average_mean(family, eta.ravel(), spread.ravel()).reshape(eta.shape)


def find_places(patterns: AnyPatterns, rows: Array) -> Places:
    """Return where rows (m, p) of the fixed columns are.

    A random column that is not a fixed one stands at its mean, and so does the offset.
    """
    weight = patterns.n / patterns.n.sum()
    means = dict(zip(patterns.random, weight @ patterns.take(patterns.random), strict=True))
    z = np.empty((len(rows), len(patterns.random)))
    for i, name in enumerate(patterns.random):
        known = name in patterns.fixed
        z[:, i] = rows[:, patterns.fixed.index(name)] if known else means[name]
        z[:, i] = 1.0 if name == INTERCEPT else z[:, i]
    return Places(np.asarray(rows), z, float(weight @ patterns.offset))


def find_middle(patterns: AnyPatterns) -> Places:
    """Return the one place where every column has its mean over the trials or the exposure."""
    weight = patterns.n / patterns.n.sum()
    x, z = (weight @ patterns.take(names) for names in (patterns.fixed, patterns.random))
    return Places(x[None], z[None], float(weight @ patterns.offset))


@dataclass(frozen=True, slots=True)
class Steps:
    """An effect on the response at r combinations of moderators: a difference, or a derivative."""

    grid: Grid  # of the r combinations; its contrasts are the higher places less the lower ones
    low: Array  # (r, p)
    high: Array  # (r, p)
    width: float  # of the step, 1 where the effect is a difference

    def measure(
        self,
        patterns: AnyPatterns,
        family: Family,
        beta: Array,
        g: Array,
        *,
        kind: str,
    ) -> Array:
        """Return the effects (N, r); arguments as of `Places.expect`."""
        places = find_places(patterns, np.concatenate([self.low, self.high]))
        found = places.expect(family, beta, g, kind=kind)
        r = len(self.low)
        return np.asarray((found[:, r:] - found[:, :r]) / self.width)


def state_steps(
    patterns: AnyPatterns,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
) -> Steps:
    """Return the effect of a column on the response at each combination of moderators' values.

    Of a level of a categorical factor, and of a column of zeros and ones, it is the difference
    that they make, of any other column the derivative at its mean. Moderators need not interact:
    on the scale of the response every effect depends on every column.

    Raises:
        ArgumentError: as `bhlm.likelihood.slopes.state_slopes`.
    """
    name, (low, high) = find_step(patterns, column)
    own = (
        by if isinstance(by, Mapping) else dict.fromkeys([by] if isinstance(by, str) else by or ())
    )
    if name in own:
        raise ArgumentError(f"'{name}' is the column and a moderator; leave it out of by=")
    if name in (at or {}):
        raise ArgumentError(f"'{name}' is the column and cannot stand at one value; leave it out")
    grid = state_points(patterns, {**own, name: [low, high]}, at=at)
    points: list[tuple[Value, ...]] = [point[:-1] for point in grid.points[::2]]
    first, second = grid.contrasts[::2], grid.contrasts[1::2]
    width = 1.0
    if isinstance(low, float) and isinstance(high, float) and (low, high) != (0.0, 1.0):
        width = high - low
    stated = Grid(column, grid.moderators[:-1], tuple(points), second - first, grid.held)
    return Steps(stated, first, second, width)


def check_scale(scale: str) -> None:
    """Raise `ArgumentError` for a scale that is not known."""
    if scale not in SCALES:
        raise ArgumentError(f"scale={scale!r} is not known; choose one of {', '.join(SCALES)}")


def check_kind(scale: str, kind: str | None) -> str:
    """Return the kind of response that is meant; on the link scale it is unit-specific.

    Raises:
        ArgumentError: a scale or a kind that is not known, or one that the link has not.
    """
    check_scale(scale)
    if kind not in (None, *KINDS):
        raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    if scale == "link":
        if kind == POPULATION:
            raise ArgumentError(
                "kind='population-averaged' is on the response scale; fit.population_effects() "
                "has population-averaged effects on the link scale"
            )
        return UNIT
    return kind or POPULATION
