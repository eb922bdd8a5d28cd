"""Small random designs with sampling weights, and their pseudo-likelihood by integrals over units.

Many lie on the boundary: few units, variances of zero, true covariances without full rank.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bhlm import SamplingWeights

Array = np.ndarray

COLUMNS = (("1",), ("1", "x1"), ("1", "x1", "x2"))
BARS = ("|", "||")


@dataclass(frozen=True, slots=True)
class Survey:
    """A table, a model of it, and the weights."""

    table: pd.DataFrame
    formula: str
    weights: SamplingWeights
    random: tuple[tuple[str, ...], ...]  # by factor, school first, the columns of its effects


def make_survey(seed: int, *, nested: bool = True, schools: tuple[int, int] = (3, 12)) -> Survey:
    """Return the design of a seed: 3 to 12 schools, of 1 to 4 rooms, of 1 to 10 rows."""
    rng = np.random.default_rng([20261129, seed])
    n_schools = int(rng.integers(schools[0], schools[1] + 1))
    rooms = rng.integers(1, 5, n_schools)
    rooms[:2] = np.maximum(rooms[:2], 2)
    above = np.repeat(np.arange(n_schools), rooms)
    sizes = rng.integers(1, 8, len(above))
    sizes[0] += 3
    room = np.repeat(np.arange(len(above)), sizes)
    school = above[room]
    n = len(room)
    x = rng.normal(size=(n, 2)) + rng.normal(size=(len(above), 2))[room] * rng.choice([0.0, 1.0])

    def draw(count: int, q: int) -> Array:
        root = rng.normal(size=(q, q)) * rng.choice([0.0, 0.2, 1.0])
        if rng.random() < 0.4:
            root[:, 1:] = 0.0
        return rng.normal(size=(count, q)) @ root.T

    q = [int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])) for _ in range(2)]
    bars = [str(rng.choice(BARS, p=[0.75, 0.25])) for _ in range(2)]
    z = np.column_stack([np.ones(n), x])
    y = 1.0 + x @ [0.5, -0.3] + (z[:, : q[0]] * draw(n_schools, q[0])[school]).sum(axis=1)
    y += rng.normal(size=n)
    if nested:
        y += (z[:, : q[1]] * draw(len(above), q[1])[room]).sum(axis=1)
    if rng.random() < 0.2:
        y[rng.integers(n)] += 6.0
    table = pd.DataFrame({"y": y, "x1": x[:, 0], "x2": x[:, 1], "school": school, "room": room})
    spread = rng.choice([0.0, 0.5, 1.0])
    table["w"] = np.exp(spread * rng.normal(size=n))
    table["w_room"] = np.exp(spread * rng.normal(size=len(above)))[room]
    table["w_school"] = np.exp(spread * rng.normal(size=n_schools))[school]
    scaling = str(rng.choice(["none", "size", "effective"]))
    random = tuple(COLUMNS[each - 1] for each in (q if nested else q[:1]))
    factors = ("school", "room")[: len(random)]
    terms = [
        f"({' + '.join(columns)} {bar} {factor})"
        for columns, bar, factor in zip(random, bars, factors, strict=False)
    ]
    groups: Any = {"school": "w_school", "room": "w_room"} if nested else "w_school"
    return Survey(
        table,
        f"y ~ x1 + x2 + {' + '.join(terms)}",
        SamplingWeights("w", groups, scaling=scaling),
        random,
    )


def integrate_survey(survey: Survey, *, beta: Array, roots: list[Array], sigma2: float) -> float:
    """Return the pseudo-log-likelihood: the log of integrals over units, weighted from within.

    A row's log-density, weighted, is a - e'A e / 2 + b'e in the effects e of its units, which are
    standard normal times a root of G. Integrated over the effects of a room it is of that form in
    those of its school, counts by the room's weight, and so on.
    """
    table = survey.table
    columns = {"1": np.ones(len(table)), "x1": table["x1"], "x2": table["x2"]}
    rest = table["y"] - np.column_stack(list(columns.values())) @ beta
    z = [
        np.column_stack([columns[name] for name in names]) @ root
        for names, root in zip(survey.random, roots, strict=True)
    ]
    total = 0.0
    for _, school in table.groupby("school"):
        q = len(survey.random[0])
        whole = np.zeros((q + 1, q + 1)), 0.0
        units = ["room"] if len(z) > 1 else ["school"]
        for _, rows in school.groupby(units):
            at = rows.index.to_numpy()
            w = rows["w"].to_numpy()
            if survey.weights.scaling == "size":
                w = w * len(w) / w.sum()
            elif survey.weights.scaling == "effective":
                w = w * w.sum() / (w @ w)
            # Of [effects of the room, effects of the school, residual], by the rows' precision.
            wide = np.column_stack([*(part[at] for part in reversed(z)), rest[at]])
            form = wide.T @ (w[:, None] * wide) / sigma2
            log = -0.5 * float(w.sum()) * np.log(2.0 * np.pi * sigma2)
            if len(z) > 1:
                form, log = _integrate(form, log, len(survey.random[1]))
                form, log = form * rows["w_room"].iloc[0], log * rows["w_room"].iloc[0]
            whole = whole[0] + form, whole[1] + log
        form, log = _integrate(*whole, q)
        total += school["w_school"].iloc[0] * (log - 0.5 * form[0, 0])
    return total


def _integrate(form: Array, log: float, q: int) -> tuple[Array, float]:
    """Return exp(log - v'form v / 2) integrated over the first q of v, standard normal ones."""
    inside = np.eye(q) + form[:q, :q]
    left = form[q:, q:] - form[q:, :q] @ np.linalg.solve(inside, form[:q, q:])
    return left, log - 0.5 * float(np.linalg.slogdet(inside)[1])
