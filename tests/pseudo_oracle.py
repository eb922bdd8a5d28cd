"""The pseudo-likelihood of nested factors by brute force, and the sandwiches of it.

The effects of a unit are integrated out of its rows' weighted densities, whose log is a quadratic
form in the effects of all levels:

    log of the integral over u of exp(c + b'u - u'A u / 2) N(u; 0, G)
      = c - log det(I + G A) / 2 + b'(I + G A)^-1 G b / 2

which holds for complex numbers too, so that scores are by complex steps, exact to rounding, and the
Hessian by differences of these. Nothing of bhlm is called.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Array = np.ndarray
TINY = 1e-30  # complex steps cancel nothing
STEP = 1e-3  # of each parameter's size; what fourth order leaves is 1e-10


@dataclass(frozen=True, slots=True)
class Level:
    """A grouping factor: its name, its labels' column, those of its effects, its units' weights."""

    factor: str
    column: str
    columns: tuple[str, ...] = ("Intercept",)
    weight: str | None = None
    independent: bool = False

    @property
    def free(self) -> list[tuple[int, int]]:
        """The elements of G that are parameters: variances, then covariances."""
        q = range(len(self.columns))
        pairs = [] if self.independent else [(i, j) for i in q for j in q if i < j]
        return [(i, i) for i in q] + pairs

    @property
    def names(self) -> list[str]:
        """What bhlm calls them."""
        kinds = [("var", self.columns[i]) for i in range(len(self.columns))]
        kinds += [
            ("cov", f"{self.columns[i]},{self.columns[j]}")
            for i, j in self.free[len(self.columns) :]
        ]
        return [f"{kind}({what}|{self.factor})" for kind, what in kinds]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit's weight, and either its rows or the units within it."""

    weight: float
    x: Array  # (n, p)
    y: Array  # (n,)
    z: Array  # (n, q of all levels)
    w: Array  # (n,)
    within: tuple["Unit", ...]


class Oracle:
    """A model of a table without gaps; levels from the coarsest."""

    def __init__(
        self,
        table: pd.DataFrame,
        response: str,
        fixed: tuple[str, ...],
        levels: tuple[Level, ...],
        *,
        rows: Array | None = None,
        scaling: str = "none",
    ) -> None:
        self.fixed, self.levels, self.scaling = fixed, levels, scaling
        self.names = [*fixed, *(name for level in levels for name in level.names)]
        self.names.append("var(Residual)")
        table = table.reset_index(drop=True).assign(Intercept=1.0)
        weights = np.ones(len(table)) if rows is None else np.asarray(rows, dtype=float)

        def grow(rows: pd.DataFrame, depth: int) -> tuple[Unit, ...]:
            if depth == len(levels):
                return ()
            found = []
            for _, own in rows.groupby(levels[depth].column, sort=True):
                w, name = weights[own.index], levels[depth].weight
                weight = 1.0 if name is None else float(own[name].iloc[0])
                if scaling == "gk" and depth + 1 == len(levels):
                    weight = weight * w.mean()
                w = {
                    "none": w, "size": w * len(w) / w.sum(),
                    "effective": w * w.sum() / (w @ w), "gk": np.ones(len(w)),
                }[scaling]  # fmt: skip
                columns = [name for level in levels for name in level.columns]
                x, z = (own[list(names)].to_numpy(float) for names in (fixed, columns))
                y = own[response].to_numpy(float)
                found.append(Unit(weight, x, y, z, w, grow(own, depth + 1)))
            return tuple(found)

        self.units = grow(table, 0)

    def logliks(self, theta: Array) -> Array:
        """Return the weighted log-likelihoods (J,) of the coarsest units at parameters `names`."""
        at, gs = len(self.fixed), []
        for level in self.levels:
            g = np.zeros((len(level.columns),) * 2, dtype=theta.dtype)
            for i, j in level.free:
                g[i, j] = g[j, i] = theta[at]
                at += 1
            gs.append(g)
        beta = theta[: len(self.fixed)]
        return np.array([self.integrate(each, 0, beta, gs, theta[-1])[0] for each in self.units])

    def integrate(
        self, unit: Unit, depth: int, beta: Array, gs: list[Array], sigma2: Any
    ) -> tuple[Any, Array, Array]:
        """Return c, b and A of a unit, weighted, in the effects of the levels above it."""
        if unit.within:
            parts = [self.integrate(each, depth + 1, beta, gs, sigma2) for each in unit.within]
            c, b, a = (sum(each[k] for each in parts) for k in range(3))
        else:
            rest = unit.y - unit.x @ beta
            c = -0.5 * unit.w.sum() * np.log(2.0 * np.pi * sigma2)
            c = c - 0.5 * (unit.w * rest) @ rest / sigma2
            b, a = unit.z.T @ (unit.w * rest) / sigma2, (unit.z.T * unit.w) @ unit.z / sigma2
        q, g = len(gs[depth]), gs[depth]
        above, own = slice(0, len(b) - q), slice(len(b) - q, None)
        inside = np.eye(q) + g @ a[own, own]
        middle = np.linalg.solve(inside, g)
        c = c - 0.5 * np.log(np.linalg.det(inside)) + 0.5 * b[own] @ middle @ b[own]
        left = b[above] - a[above, own] @ middle @ b[own]
        form = a[above, above] - a[above, own] @ middle @ a[own, above]
        return unit.weight * c, unit.weight * left, unit.weight * form

    def scores(self, theta: Array, size: Array) -> Array:
        """Return the scores (J, c) of the coarsest units; `size` (c,) is that of the parameters."""
        steps = np.diag(1j * TINY * size)
        return np.stack([self.logliks(theta + step).imag for step in steps], axis=1) / (TINY * size)

    def hessian(self, theta: Array, size: Array) -> Array:
        """Return minus the second derivatives (c, c), by differences of fourth order."""
        found = []
        for step in np.diag(STEP * size):
            down, back, ahead, up = (
                self.scores(theta + s * step, size).sum(axis=0) for s in (-2, -1, 1, 2)
            )
            found.append((8.0 * (back - ahead) + (up - down)) / (12.0 * step.sum()))
        return 0.5 * (np.array(found) + np.array(found).T)

    def errors(self, theta: Array, size: Array) -> tuple[float, pd.DataFrame]:
        """Return s'H^-1 s of the summed scores s, and standard errors by each convention."""
        scores, hessian = self.scores(theta, size), self.hessian(theta, size)
        p, count = len(self.fixed), len(scores)
        factor = np.sqrt(count / (count - 1.0))
        meat, bread = scores.T @ scores, np.linalg.inv(hessian)
        b, v = slice(0, p), slice(p, None)

        def sandwich(inverse: Array, part: slice) -> Array:
            return np.sqrt(np.diag(inverse @ meat[part, part] @ inverse))

        whole = sandwich(bread, slice(None))
        fixed = sandwich(np.linalg.inv(hessian[b, b]), b)
        own, profiled = sandwich(np.linalg.inv(hessian[v, v]), v), sandwich(bread[v, v], v)
        total = scores.sum(axis=0)
        table = {
            "full": factor * whole,
            "uncorrected": whole,
            "block": factor * np.concatenate([fixed, profiled]),
            "separate": factor * np.concatenate([fixed, own]),
        }
        return float(total @ bread @ total), pd.DataFrame(table, index=self.names)
