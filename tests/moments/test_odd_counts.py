"""Weights, known variances, exposures, trials and responses of odd types and sizes."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bhlm.design.formula.weights import FrequencyWeights, PrecisionWeights, SamplingWeights
from bhlm.errors import BhlmError
from bhlm.fits.model import Model
from bhlm.fits.pooled_fit import fit_imputations
from tests.fuzz.outcome import judge

N = 60
ODD: dict[str, Callable[[], Any]] = {
    "texts": lambda: ["1"] * N,
    "booleans": lambda: [True, False] * 30,
    "categories": lambda: pd.Categorical(["1", "2"] * 30),
    "categories of integers": lambda: pd.Categorical([1, 2] * 30),
    "dates": lambda: pd.date_range("2020", periods=N),
    "decimals": lambda: [Decimal(1)] * N,
    "halves": lambda: np.ones(N, np.float16),
    "complex numbers": lambda: np.ones(N) * 1j,
    "lists": lambda: [[1]] * N,
    "negative": lambda: [-1.0] * N,
    "missing": lambda: [np.nan] * N,
    "infinite": lambda: [np.inf] + [1.0] * (N - 1),
    "zeros": lambda: [0.0] * N,
    "tiny": lambda: [1e-320] * N,
    "huge": lambda: [1e300] * N,
    "integers beyond 2^53": lambda: np.full(N, 2**63, np.uint64),
    "gaps": lambda: pd.array([1] * (N - 1) + [None], dtype="Int64"),
}
GAUSSIAN = "y ~ x + (1 | g)"
USES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "precision": lambda t: Model(GAUSSIAN, t, weights=PrecisionWeights("w")).reml(),
    "frequency": lambda t: Model(GAUSSIAN, t, weights=FrequencyWeights("w")).reml(),
    "sampling": lambda t: Model(GAUSSIAN, t, weights=SamplingWeights("w")).ml(),
    "of groups": lambda t: Model(GAUSSIAN, t, weights=SamplingWeights("one", "w")).ml(),
    "variance": lambda t: Model(GAUSSIAN, t, known_variance="w").reml(),
    "exposure": lambda t: Model("k ~ x + (1 | g)", t, family="poisson", exposure="w").ml(),
    "trials": lambda t: Model("b ~ x + (1 | g)", t, family="binomial", trials="w").ml(),
    "zero or one": lambda t: Model("w ~ x + (1 | g)", t, family="bernoulli").ml(),
    "count": lambda t: Model("w ~ x + (1 | g)", t, family="poisson").ml(),
    "plausible value": lambda t: fit_imputations("y + w ~ x + (1 | g)", t),
}


def make_table(values: Any) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    group, x = np.repeat(np.arange(12), 5), rng.normal(size=N)
    y = x + rng.normal(size=12)[group] + rng.normal(size=N)
    counts = {"k": rng.poisson(2, N), "b": (rng.random(N) < 0.5).astype(int), "one": 1.0}
    return pd.DataFrame({"y": y, "x": x, "g": group, **counts}).assign(w=pd.Series(values))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "kind",
    [
        each if each in ("tiny", "categories") else pytest.param(each, marks=pytest.mark.slow)
        for each in ODD
    ],
)
def test_odd_columns_end_in_an_answer_or_one_line(kind: str, use: str) -> None:
    _, wrong = judge(partial(USES[use], make_table(ODD[kind]())), strict=True)
    assert not wrong


@pytest.mark.parametrize(
    ("use", "kind", "told"),
    [
        ("precision", "tiny", "in other units"),
        ("frequency", "huge", "in other units"),
        ("of groups", "huge", "in other units"),
        ("exposure", "tiny", "or the exposure, in other units"),
        ("count", "integers beyond 2^53", "beyond 2\\^53 doubles do not count"),
        ("count", "zeros", "'w' is 0 in every row"),
        ("plausible value", "categories", "'w'"),
    ],
)
def test_what_doubles_do_not_compute_with_is_named(use: str, kind: str, told: str) -> None:
    with pytest.raises(BhlmError, match=told):
        USES[use](make_table(ODD[kind]()))
