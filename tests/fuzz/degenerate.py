"""Fits at the edge of what data can tell, and everything that can be asked of each of them."""

import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bhlm
from bhlm import plots
from bhlm.reml.fixed.contrasts import METHODS
from tests.fuzz.outcome import judge

# What takes a second or more.
LONG = ("dashboard()", "profile()", "bootstrap()", "save()", "influence()", "predict new rows")
FEW: dict[str, Any] = {"seed": 1, "draws": 60, "tune": 60, "chains": 2}


def _rows(groups: int, size: int, seed: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    place = np.arange(len(g))
    return pd.DataFrame(
        {
            "g": g, "h": place % 3, "s": np.where(place % 2, "a", "b"),
            "x": rng.normal(size=len(g)),
            "w": rng.normal(size=groups)[g], "u": rng.normal(size=groups)[g],
            "e": rng.normal(size=len(g)), "weight": 1.0 + place % 3, "known": 0.5 + 0.1 * (g % 4),
        }
    )  # fmt: skip


# The responses of tables that leave little or nothing to estimate.
TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "constant within groups": lambda: _rows(8, 4).assign(y=lambda t: t["u"]),
    "constant": lambda: _rows(8, 4).assign(y=3.0),
    "two groups": lambda: _rows(2, 9).assign(y=lambda t: t["u"] + t["x"] + t["e"]),
    "three groups": lambda: _rows(3, 5).assign(y=lambda t: t["u"] + t["x"] + t["e"]),
    "singular": lambda: _rows(10, 4, 1).assign(
        y=lambda t: t["e"] - t.groupby("g")["e"].transform("mean")
    ),
    "one row in each group": lambda: _rows(12, 1).assign(y=lambda t: t["x"] + t["e"]),
    "perfect": lambda: _rows(8, 4).assign(y=lambda t: 1 + 2 * t["x"]),
    "perfect with effects": lambda: _rows(8, 4).assign(y=lambda t: 1 + 2 * t["x"] + t["u"]),
    "large numbers": lambda: _rows(8, 4).assign(y=lambda t: 1e12 + t["u"] + t["e"]),
    "one large group": lambda: _rows(8, 6).assign(
        g=lambda t: np.where(np.arange(len(t)) < 40, 0, np.arange(len(t))),
        y=lambda t: t["u"] + t["e"],
    ),
}  # fmt: skip


def _hits(table: pd.DataFrame, hit: Any) -> bhlm.Model:
    return bhlm.Model(
        "hit ~ x + (1 | g)", table.assign(hit=np.asarray(hit, int)), family="bernoulli"
    )


# Models by kind, each of a table.
MODELS: dict[str, Callable[[pd.DataFrame], bhlm.Model]] = {
    "intercepts": lambda t: bhlm.Model("y ~ x + w + (1 | g)", t),
    "slopes": lambda t: bhlm.Model("y ~ x + (x | g)", t),
    "several": lambda t: bhlm.Model("y ~ x + w + (1 | g) + (1 | h)", t),
    "strata": lambda t: bhlm.Model("y ~ x + (1 | g)", t, residual="s"),
    "survey": lambda t: bhlm.Model(
        "y ~ x + (1 | g)", t, weights=bhlm.SamplingWeights("weight", "known / known")
    ),
    "known": lambda t: bhlm.Model("y ~ x + (1 | g)", t, known_variance="known"),
    "split hits": lambda t: _hits(t, t["x"] > 0),
    "rare hits": lambda t: _hits(t, np.arange(len(t)) == 0),
    "hits by group": lambda t: _hits(t, t["g"] % 2),
    "counts of few": lambda t: bhlm.Model(
        "n ~ x + (1 | g)", t.assign(n=(t["g"] == 0).astype(int)), family="poisson"
    ),
}
FITS: dict[str, Callable[[bhlm.Model], Any]] = {
    "reml": lambda model: model.reml(),
    "ml": lambda model: model.reml(method="ml"),
    "sampled": lambda model: model.sample(**FEW),
}


def list_models(*, sampled: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield each table, kind of model and way of fitting."""
    for table in TABLES:
        for kind in MODELS:
            if kind in ("split hits", "rare hits", "hits by group", "counts of few"):
                if not sampled:
                    yield table, kind, "by likelihood"
            elif sampled:
                if kind in ("intercepts", "slopes", "several"):
                    yield table, kind, "sampled"
            else:
                yield table, kind, "ml" if kind == "survey" else "reml"


def list_questions(
    fit: Any, model: bhlm.Model, table: pd.DataFrame, folder: Path
) -> dict[str, Callable[[], Any]]:
    """Return every method of a fit and its model, and every function and figure of a fit."""
    given: dict[str, dict[str, Any]] = {
        "bootstrap": {"replicates": 2, "seed": 1},
        "test_variances": {"coefficients": "Intercept"},
        "dashboard": {"path": folder / "page.html"},
        "loo": {"refit": False},
        "rope": {"text": "x", "low": -1.0, "high": 1.0},
        "save": {"path": folder / "fit.zarr"},
        "save_effects": {"path": folder / "effects.parquet"},
        "check": {"draws": 20},
        "plot_effects": {"factor": "g"},
        "effects": {"column": "x"},
        "effect_lines": {"column": "x"},
        "compare_effects": {"column": "x", "by": "w"},
        "johnson_neyman": {"column": "x", "by": "w"},
        "probability": {"text": "x > 0"},
        "hypothesis": {"text": "x > 0"},
    }  # fmt: skip
    asked = {"contrast": ("x = 0",), "test": ("x = 0",)}
    found: dict[str, Callable[[], Any]] = {"repr": partial(repr, fit)}
    for name in dir(fit):
        if name.startswith("_") or name in ("of", "model", "find_effects"):
            continue
        static = inspect.getattr_static(type(fit), name)
        if isinstance(static, property):
            found[name] = partial(getattr, fit, name)
        elif inspect.isfunction(static):
            taken = inspect.signature(static).parameters
            own = {k: v for k, v in given.get(name, {}).items() if k in taken}
            needed = [k for k, v in taken.items() if v.default is v.empty and v.kind < 2]
            if set(needed) - {"self"} - own.keys():
                continue
            found[f"{name}()"] = partial(getattr(fit, name), *asked.get(name, ()), **own)
    for style in ("stata", "hlm", "lme4"):
        if "style" in inspect.signature(fit.summary).parameters:
            found[f"summary({style})"] = partial(fit.summary, style=style)
    inferences = [
        name for name in ("fixed_effects", "contrast", "test") if hasattr(type(fit), name)
    ]
    if inferences:
        for method in (*METHODS, "z", "cr1"):
            for name in inferences:
                more = partial(getattr(fit, name), *asked.get(name, ()), method=method)
                found[f"{name}({method})"] = more
    found["predict"] = partial(model.predict, fit)
    found["predict new rows"] = partial(model.predict, fit, table.assign(g=99, h=99))
    found["residuals"] = partial(model.residuals, fit)
    found["loo_rows"] = partial(model.loo_rows, fit)
    found["check_rows"] = partial(model.check_rows, fit, draws=100, seed=1)
    found["table"] = lambda: repr(bhlm.table([fit])) + bhlm.table([fit, fit]).to_latex()
    found["compare_fits"] = partial(bhlm.compare_fits, fit, fit)
    found["compare_nested"] = partial(bhlm.compare_nested, fit, fit)
    found["variance_explained"] = partial(bhlm.variance_explained, fit, fit)
    found["pool"] = lambda: repr(bhlm.pool([fit, fit]))
    for name in plots.__all__:
        function = getattr(plots, name)
        parameters = list(inspect.signature(function).parameters)
        if parameters[0] in ("fit", "reml", "post") and name != "Figure":
            more = {"group": 0, "column": "x", "by": "w"}
            own = {k: v for k, v in more.items() if k in parameters}
            found[name] = partial(_draw, function, fit, own)
    return found


def _draw(function: Callable[..., Any], fit: Any, given: dict[str, Any]) -> Any:
    figure = function(fit, **given)
    figure.plotly()
    return figure


def try_degenerate(numbers: range, *, sampled: bool = False, long: bool = True) -> Iterator[str]:
    """Yield what is wrong with a fit of a degenerate table, or with an answer of it.

    Args:
        numbers: of the tables and kinds of models, in their order.
        sampled: whether the fits are posteriors, each of which is reconciled too.
        long: whether figures, refits and pages are among what is asked.
    """
    cases = list(list_models(sampled=sampled))
    logging.disable(logging.ERROR)
    before = Path.cwd()
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for table, kind, how in cases[numbers.start : numbers.stop]:
                for wrong in _try_one(table, kind, how, Path(folder), long=long):
                    yield f"{table}, {kind}, {how}: {wrong}"
    finally:
        os.chdir(before)
        logging.disable(logging.NOTSET)


def _try_one(name: str, kind: str, how: str, folder: Path, *, long: bool) -> Iterator[str]:
    table = TABLES[name]()
    model, wrong = judge(lambda: MODELS[kind](table), strict=True)
    if wrong:
        yield f"model: {wrong}"
    if model is None:
        return
    fits = {"by likelihood": lambda model: model.ml()} | FITS
    fit, wrong = judge(lambda: fits[how](model), strict=True)
    if wrong:
        yield f"fit: {wrong}"
    if fit is None:
        return
    questions = list_questions(fit, model, table, folder)
    if how == "sampled":
        reml, _ = judge(model.reml)
        if reml is not None:
            both, wrong = judge(lambda: bhlm.reconcile(reml, fit), strict=True)
            if wrong:
                yield f"reconcile: {wrong}"
            if both is not None:
                for verb in ("summary", "to_dict", "_repr_html_"):
                    questions[f"both.{verb}()"] = getattr(both, verb)
    for asked, call in questions.items():
        if not long and (asked in LONG or asked.startswith("plot_")):
            continue
        if wrong := judge(call, strict=True)[1]:
            yield f"{asked}: {wrong}"
