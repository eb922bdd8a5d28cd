"""The models that lme4 and its companions fitted, by name, with the same fit of this package."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.sources.datasets import load_hsb

FOLDER = Path(__file__).parent / "reference" / "r"


@cache
def load_cases() -> dict[str, Any]:
    """Return what R stored, by model name."""
    text = (FOLDER / "lme4_reference.json").read_text(encoding="utf-8")
    models: dict[str, Any] = json.loads(text)["models"]
    return models


@cache
def fit_case(name: str, method: str) -> RemlFit:
    """Return this package's fit of a model."""
    case = load_cases()[name]
    data = load_hsb() if name.startswith("hsb") else pd.read_csv(FOLDER / case["data"])
    return Model(case["formula"], data).reml(method=method)


def in_order(fit: RemlFit, values: dict[str, float]) -> np.ndarray:
    """Return values (p,) that R stored by name, in the order of the fit's fixed effects."""
    assert set(values) == set(fit.moments.fixed)
    return np.array([values[name] for name in fit.moments.fixed], dtype=float)


def select_rows(fit: RemlFit, names: list[str]) -> np.ndarray:
    """Return the contrasts (c, p) that pick fixed effects by name."""
    return np.eye(len(fit.beta))[[fit.moments.fixed.index(name) for name in names]]
