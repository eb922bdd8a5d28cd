"""Every public function and method with one odd argument at a time, and what comes of it."""

import contextlib
import importlib
import inspect
import logging
import os
import pkgutil
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bhlm
from bhlm import plots
from bhlm.plots.level_caterpillar import plot_factor
from bhlm.studies.simulation.run import run_study
from tests.fuzz.outcome import judge
from tests.simulate import simulate_table
from tests.small_studies import small_study

# What no argument is, or only some are; each in the place of one that is right.
ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "1": lambda: 1,
    "10**20": lambda: 10**20,
    "10**400": lambda: 10**400,
    "-0.5": lambda: -0.5,
    "0.5": lambda: 0.5,
    "1e300": lambda: 1e300,
    "True": lambda: True,
    "numpy integer": lambda: np.int64(3),
    "empty text": lambda: "",
    "text": lambda: "no such thing",
    "text in lines": lambda: "a\nb\x1b[31m",
    "zero byte": lambda: "a\0b",
    "half a character": lambda: "\ud800",
    "long text": lambda: "x" * 100_000,
    "bytes": lambda: b"bytes\xff",
    "a list": list,
    "a list of None": lambda: [None],
    "a list of texts": lambda: ["x", "nothing"],
    "a list twice": lambda: ["Intercept", "Intercept"],
    "nested lists": lambda: [[1, [2, [3]]]],
    "a dictionary": dict,
    "a dictionary of texts": lambda: {"sd": "x", "y": 1},
    "a set": lambda: {1, 2},
    "a function": lambda: lambda *args, **kwargs: None,
    "a class": lambda: int,
    "an object": object,
    "an array": lambda: np.zeros((2, 3)),
    "an array without numbers": lambda: np.empty(0),
    "a complex number": lambda: 1j,
    "a decimal": lambda: Decimal("0.5"),
    "an empty table": pd.DataFrame,
    "a table": lambda: pd.DataFrame({"x": [1.0, 2.0], "g": ["a", "b"]}),
    "a date": lambda: pd.Timestamp("2020-01-01"),
    "a generator": lambda: (each for each in (1, 2)),
    "a path": lambda: Path("/no/such/folder/file.html"),
    "a module": lambda: np,
}

STARTING = ("processes",)  # start processes where they are right, which takes long
CALLED = ("progress", "evaluate")  # are called where they are functions, and raise what they raise
# Where what is right takes seconds; the others answer or refuse within a moment.
LONG = (
    *(
        "PooledFit.sample",
        "Model.sample",
        "Model.pymc",
        "Model.check_rows",
        "Model.loo_rows",
        "calibrate",
    ),
    *("LevelsFit.model.sample", "StrataFit.model.sample", "Weighted.model.sample"),
    *("Known.model.sample", "LevelsFit.model.pymc", "Meta.model.sample", "Meta.bootstrap"),
    *("integrate_posterior", "RemlFit.bootstrap", "BayesFit.loo", "plot_curves", "plot_loo_pit"),
    *(
        "Reconciliation.curves",
        "RemlFit.dashboard",
        "BayesFit.dashboard",
        "PooledFit.dashboard",
        "plot_sensitivity",
    ),
    *("Reconciliation.dashboard", "BayesFit.save", "compare_posteriors", "RemlFit.profile"),
    *("plot_khat", "plot_group", "Figure.save", "RemlFit.test_variances", "Figure.plotly"),
)
PRIORS = (
    *("Cauchy", "Exponential", "Flat", "Gamma", "HalfCauchy", "HalfNormal", "HalfStudentT", "LKJ"),
    *("LogNormal", "Normal", "StudentT"),
)
WEIGHTS = ("FrequencyWeights", "PrecisionWeights", "SamplingWeights")
# Methods of the kernels and of the rooms, which nobody calls by hand.
INNER_METHODS = ("of", "log_density", "log_constant", "families", "add_failure", "weigh")
# Values of the rooms behind, which annotations name and nobody is handed.
INNER = (
    *("Draws", "Estimate", "FamilyDraws", "Integrator", "LevelDraws", "NestIntegrator", "Prior"),
    "Rows",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A function with right arguments by name, and what it is called in messages."""

    name: str
    call: Callable[..., Any]
    right: Mapping[str, Any]

    def odd(self, fits: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield each argument with one odd value, as a call without arguments.

        Args:
            fits: by kind, which are odd where one of another kind is right.
        """
        others = {f"a {kind}": partial(_pass, fit) for kind, fit in fits.items()}
        for parameter in inspect.signature(self.call).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            for label, make in {**ODD, **others}.items():
                if parameter.name in STARTING and label in ("None", "0", "numpy integer"):
                    continue
                if parameter.name in CALLED and label in ("a function", "a class"):
                    continue
                shown = f"{self.name}({parameter.name}={label})"
                yield shown, partial(self._call, parameter, make)

    def _call(self, parameter: inspect.Parameter, make: Callable[[], Any]) -> Any:
        right = dict(self.right)
        if parameter.kind is parameter.VAR_POSITIONAL:
            right.pop(parameter.name, None)
            return self.call(make(), **right)
        before = right.pop("hypotheses", right.pop("fits", ()))
        if isinstance(before, dict | list):  # compare_posteriors and pool take `fits` by name
            right["fits"] = before
            before = ()
        return self.call(*before, **right | {parameter.name: make()})


def list_cases(
    model: bhlm.Model,
    reml: bhlm.RemlFit,
    post: bhlm.BayesFit,
    table: pd.DataFrame,
    folder: Path,
    others: Mapping[str, tuple[bhlm.Model, Any]],
) -> list[Case]:
    """Return every public function, method of a fit and figure, with right arguments."""
    both = bhlm.reconcile(reml, post)
    small = bhlm.Model("y ~ 1 + (1 | g)", table).reml()
    cells = others["LevelsFit"][0].cells
    moments = folder / "right.moments"
    model.moments.save(moments)
    post.save(folder / "right.zarr")
    few: dict[str, Any] = {"seed": 1, "draws": 20, "tune": 20, "chains": 1}
    right: dict[str, Mapping[str, Any]] = {
        "calibrate": {"model": model, "seed": 1, "replicates": 2, "n_draws": 5, "thin": 1,
                      "tune": 20, "processes": 1},
        "center_grand": {"table": table, "column": "x"},
        "center_within": {"table": table, "column": "x", "group": "g"},
        "group_mean": {"table": table, "column": "x", "group": "g"},
        "compare_fits": {"fits": (small, reml)},
        "compare_nested": {"small": small, "large": reml},
        "compare_posteriors": {"fits": {"a": post, "b": post}},
        "diagnose_data": {"data": post.data},
        "draw_prior_predictive": {"moments": model.moments, "seed": 1, "draws": 10},
        "fit_imputations": {"formula": "y ~ 1 + (1 | g)", "data": [table, table]},
        "pool": {"fits": [reml, reml]},
        "PooledFit.contrast": {"hypotheses": ("x = 0",)},
        "PooledFit.sample": few,
        "PooledFit.test": {"hypotheses": ("x = 0",)},
        "find_model": {"name_or_path": "sleepstudy"},
        "integrate_posterior": {"moments": small.moments, "budget": 2000, "tolerance": 0.1},
        "load": {"path": folder / "right.zarr"},
        "load_dataset": {"name": "sleepstudy"},
        "load_moments": {"path": moments},
        "merge_files": {"paths": [moments]},
        "merge_moments": {"parts": [model.moments]},
        "open_table": {"data": table},
        "reconcile": {"reml": reml, "post": post},
        "reduce_like": {"reference": model.moments, "table": table},
        "reduce_part": {"formula": "y ~ x + (x | g)", "table": table},
        "save_moments": {"moments": model.moments, "path": folder / "new.moments"},
        "suppress_small_groups": {"moments": model.moments, "k": 1},
        "tabulate_priors": {"moments": model.moments, "points": 5},
        "variance_explained": {"fit": reml, "base": small},
        "Model": {"formula": "y ~ x + (x | g)", "data": table},
        "Model.sample": few,
        "Model.check_rows": {"fit": post, "draws": 100, "seed": 1},
        "Model.loo_rows": {"fit": post},
        "Model.predict": {"fit": reml, "data": table},
        "Model.residuals": {"fit": reml},
        "Model.replicate_errors": {"fit": reml},
        "Model.from_moments": {"data": model.moments},
        "RemlFit.test": {"hypotheses": ("x = 0",)},
        "RemlFit.contrast": {"hypotheses": ("x = 0",)},
        "RemlFit.bootstrap": {"replicates": 2},
        "RemlFit.test_variances": {"coefficients": "x", "replicates": 100, "null": "mixture"},
        **{f"{kind}.{verb}": {"column": "x"} for kind in ("RemlFit", "BayesFit")
           for verb in ("effects", "effect_lines", "average_effects")},
        **{f"{kind}.{verb}": {"column": "x", "by": "w"} for kind in ("RemlFit", "BayesFit")
           for verb in ("compare_effects", "johnson_neyman")},
        "BayesFit.hypothesis": {"text": "x > 0"},
        "BayesFit.probability": {"text": "x > 0"},
        "BayesFit.rope": {"text": "x", "low": -1.0, "high": 1.0},
        "BayesFit.save": {"path": folder / "new.zarr"},
        "BayesFit.save_effects": {"path": folder / "new.parquet"},
        "BayesFit.loo": {"refit": False},
        "Moments.save": {"path": folder / "new.moments"},
        "Moments.rename": {"names": {"x": "z"}},
        "Moments.update": {"more": table},
        "Moments.without": {"groups": [model.moments.groups[0]]},
        "Moments.with_blocks": {"blocks": (model.moments.random,)},
        "Figure.save": {"path": folder / "new.svg"},
        "plot_effects": {"fit": reml, "column": "x"},
        "plot_johnson_neyman": {"fit": reml, "column": "x", "by": "w"},
        "plot_fits": {"fits": {"a": reml, "b": post}},
        "plot_pairs": {"fit": post},
        "plot_variance_shares": {"fits": [reml]},
        "table": {"models": [reml]},
        "ModelTable.save": {"path": folder / "new.tex"},
        "plot_group": {"fit": reml, "group": model.moments.groups[0]},
    }  # fmt: skip
    verbs = {name.partition(".")[2]: given for name, given in right.items() if "Fit." in name}
    for kind, (_, fit) in others.items():
        right |= {f"{kind}.{verb}": given for verb, given in verbs.items()}
        verbs_of_rows = ("residuals", "loo_rows", "replicate_errors")
        right |= {f"{kind}.model.{verb}": {"fit": fit} for verb in verbs_of_rows}
        right[f"{kind}.model.check_rows"] = {"fit": fit, "draws": 100, "seed": 1}
        right[f"{kind}.model.predict"] = {"fit": fit, "data": enrich(table)}
        right[f"{kind}.model.sample"] = few
    right |= {f"{kind}.plot_effects": {"factor": "h"} for kind in others}
    for kind, method in (("Weighted", "cr0"), ("Known", "z"), ("Meta", "z")):
        for verb in ("fixed_effects", "test", "contrast", "effects", "effect_lines",
                     "average_effects", "compare_effects", "johnson_neyman"):  # fmt: skip
            right[f"{kind}.{verb}"] = {**verbs.get(verb, {}), "method": method}
    right["Meta.test_variances"] = {"coefficients": "Intercept", "replicates": 100}
    right["plot_studies"] = {"reml": others["Meta"][1]} if "Meta" in others else {}
    right["plot_homogeneity"] = {"reml": reml, "least_df": 1}
    right["RemlFit.test_homogeneity"] = {"least_df": 1}
    right["CellMoments.save"] = {"path": folder / "cells.moments"}
    right["PooledReconciliation.to_dict"] = {"df": "wald"}
    right["Calibration.ecdf"] = {"parameter": "x"}
    for kind in PRIORS:
        right[f"{kind}.draw"] = {"rng": np.random.default_rng(1), "size": 3}
        right[f"{kind}.quantile"] = {"p": np.array([0.1, 0.5])}
    pooled = bhlm.pool([reml, reml])
    results = make_results(model, reml, post, pooled, others)
    subjects = {"both": both, "fit": reml, "post": post, "reml": reml, "pooled": pooled}
    subjects["result"] = results["StudyResult"]
    several = others["LevelsFit"][1]
    holders = {
        "Model": model, "RemlFit": reml, "BayesFit": post, "Reconciliation": both,
        "Moments": model.moments, "PooledFit": pooled,
        "Figure": plots.plot_caterpillar(reml), "ModelTable": bhlm.table([reml]),
        "CellMoments": cells, **{name: fit for name, (_, fit) in others.items()},
        **{f"{name}.model": stated for name, (stated, _) in others.items()},
        **results,
    }  # fmt: skip
    cases = []
    for name in bhlm.__all__:
        value = getattr(bhlm, name)
        if inspect.isclass(value):
            if issubclass(value, BaseException) or name in ("Calibration", "CellMoments"):
                continue
            if name not in holders or name in ("Model", "ReplicateWeights", *PRIORS, *WEIGHTS):
                cases.append(Case(name, value, right.get(name, _guess_prior(value))))
        elif callable(value):
            cases.append(Case(name, value, right.get(name, {})))
    cases.append(Case("plots.plot_factor", plot_factor, {"fit": several, "factor": "h"}))
    for name in plots.__all__:
        function = getattr(plots, name)
        if name != "Figure":
            needed = {each: subjects[each] for each in inspect.signature(function).parameters
                      if each in subjects}  # fmt: skip
            cases.append(Case(name, function, right.get(name, needed)))
    for kind, holder in holders.items():
        for name in dir(holder):
            found = inspect.getattr_static(holder, name)
            if name.startswith("_") or name in INNER_METHODS or isinstance(found, property):
                continue
            method = getattr(holder, name)
            if inspect.ismethod(method) or isinstance(found, staticmethod):
                shown = f"{kind}.{name}"
                ours = {"path": folder / f"{kind}.html"} if name == "dashboard" else {}
                given = right.get(shown, ours)
                taken = inspect.signature(method).parameters.keys() | {"hypotheses"}
                cases.append(Case(shown, method, {k: v for k, v in given.items() if k in taken}))
    return cases


def make_results(
    model: bhlm.Model,
    reml: bhlm.RemlFit,
    post: bhlm.BayesFit,
    pooled: bhlm.PooledFit,
    others: Mapping[str, tuple[bhlm.Model, Any]],
) -> dict[str, Any]:
    """Return one of every value with methods that a public function returns beside fits."""
    sampled = pooled.sample(seed=1, draws=120, tune=60, chains=2)
    study = small_study(2)
    return {
        **{kind: getattr(bhlm, kind)(**_guess_prior(getattr(bhlm, kind))) for kind in PRIORS},
        **{kind: getattr(bhlm, kind)("weight") for kind in WEIGHTS[:2]},
        "SamplingWeights": bhlm.SamplingWeights("weight", "weight"),
        "ReplicateWeights": bhlm.ReplicateWeights(["weight", "weight"]),
        "Mixture": sampled,
        "PooledReconciliation": bhlm.reconcile(pooled, sampled),
        "Calibration": bhlm.calibrate(
            model, seed=1, replicates=2, n_draws=5, thin=1, tune=20, processes=1
        ),
        "StudyResult": run_study(study, file=None, processes=1),
        "Bootstrap": reml.bootstrap(replicates=2, processes=1),
        "Sensitivity": post.sensitivity(),
        "Probability": post.probability("x > 0"),
        "Loo": post.loo(refit=False),
        "PredictiveCheck": post.check(),
        "RowCheck": model.check_rows(post, draws=100, seed=1),
        "Diagnostics": post.diagnostics,
        **({"FamilyCheck": others["FamilyFit"][1].check()} if "FamilyFit" in others else {}),
        "Priors": bhlm.Priors(),
    }


def enrich(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with what the models of every kind read: factors, weights, counts."""
    place = np.arange(len(table))
    return table.assign(
        h=place % 5, s=np.array(["a", "b"])[place % 2], weight=1.0 + place % 3,
        known=0.5 + 0.1 * (place % 4), hit=(table["y"] > table["y"].median()).astype(int),
        count=(place * 7) % 5,
    )  # fmt: skip


def fit_others(table: pd.DataFrame, *, long: bool) -> dict[str, tuple[bhlm.Model, Any]]:
    """Return a model and a fit of every kind beside those of one factor without weights.

    Args:
        table: of `simulate_table`.
        long: whether the fits are among them that take seconds.
    """
    wide = enrich(table)
    several = bhlm.Model("y ~ x * w + (1 | g) + (1 | h)", wide)
    strata = bhlm.Model("y ~ x + (1 | g)", wide, residual="s")
    weighted = bhlm.Model(
        "y ~ x * w + (1 | g)", wide, weights=bhlm.SamplingWeights("weight", "weight / weight")
    )
    known = bhlm.Model("y ~ x + (1 | g)", wide, known_variance="known")
    means = wide.groupby("g", as_index=False).first()
    meta = bhlm.Model("y ~ 1 + (1 | g)", means, known_variance="known")
    found = {
        "LevelsFit": (several, several.reml()),
        "StrataFit": (strata, strata.reml()),
        "Weighted": (weighted, weighted.reml(method="ml")),
        "Known": (known, known.reml()),
        "Meta": (meta, meta.reml()),
    }
    if long:
        hits = bhlm.Model("hit ~ x + w + (1 | g)", wide, family="bernoulli")
        counts = bhlm.Model("count ~ x + (1 | g)", wide, family="poisson", exposure="weight")
        nested = bhlm.Model("y ~ x + (x | h) + (1 | h:s)", wide)
        crossed = bhlm.Model("hit ~ x + (1 | g) + (1 | h)", wide, family="bernoulli")
        inner = bhlm.Model("count ~ x + (1 | h) + (1 | h:s)", wide, family="poisson")
        found |= {
            "FamilyFit": (hits, hits.ml()),
            "FamilyLevelsFit": (crossed, crossed.ml()),
            "Counts": (counts, counts.ml()),
            "InnerCounts": (inner, inner.ml()),
            "Nested": (nested, nested.reml()),
            "LevelBayesFit": (several, several.sample(seed=1, draws=120, tune=60, chains=2)),
            "FamilyBayesFit": (hits, hits.sample(seed=1, draws=120, tune=60, chains=2)),
            "FamilyLevelBayesFit": (inner, inner.sample(seed=1, draws=120, tune=60, chains=2)),
            "WeightedBayesFit": (known, known.sample(seed=1, draws=120, tune=60, chains=2)),
        }
    return found


def _pass(value: Any) -> Any:
    return value


def _guess_prior(kind: type) -> dict[str, float]:
    parameters = inspect.signature(kind).parameters.values()
    return {each.name: 1.0 for each in parameters if each.default is each.empty}


def list_public() -> set[str]:
    """Return the names of public functions, and of methods of classes that users are handed.

    Those are the public classes, the classes of fits, and whatever a public function or method
    says that it returns.
    """
    known: dict[str, list[type]] = {}
    for module in pkgutil.walk_packages(bhlm.__path__, "bhlm."):
        if module.name.split(".")[1] != "commands":
            for name, value in vars(importlib.import_module(module.name)).items():
                if inspect.isclass(value) and value.__module__ == module.name:
                    known.setdefault(name, []).append(value)
    fits = [name for name in known if known[name][0].__module__.startswith("bhlm.fits.")]
    handed: list[Any] = [getattr(bhlm, name) for name in bhlm.__all__ if name != "plots"]
    handed += [getattr(plots, name) for name in plots.__all__]
    handed += [each for name in fits for each in known[name] if not each.__subclasses__()]
    found, seen = set(), set()
    while handed:
        value = handed.pop()
        if value in seen or (inspect.isclass(value) and issubclass(value, tuple | BaseException)):
            continue
        seen.add(value)
        shown = {value.__name__: value}
        if inspect.isclass(value):
            if value.__name__ in INNER or value.__name__.startswith("_"):
                continue
            members = {n: inspect.getattr_static(value, n) for n in dir(value) if n[0] != "_"}
            shown = {
                f"{value.__name__}.{name}": getattr(value, name) for name, member in members.items()
                if name not in INNER_METHODS
                and (inspect.isfunction(member) or isinstance(member, classmethod))
            }  # fmt: skip
        found |= shown.keys()
        for each in shown.values():
            returned = str(inspect.signature(each).return_annotation)
            handed += [cls for word in re.findall(r"\w+", returned) for cls in known.get(word, [])]
    return found


def name_called(case: Case) -> str:
    """Return the function of a case as `list_public` calls it."""
    holder = getattr(case.call, "__self__", None)
    kind = holder if inspect.isclass(holder) else type(holder)
    shown = getattr(case.call, "__name__", case.name)
    return shown if holder is None else f"{kind.__name__}.{shown}"


@contextlib.contextmanager
def in_folder() -> Iterator[Path]:
    """Work in a folder of its own: what is written by odd names stays there."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def try_arguments(numbers: range, *, long: bool = True, seed: int = 1) -> Iterator[str]:
    """Yield what is wrong with odd calls, which are taken in a random order.

    Args:
        numbers: places in that order.
        long: whether functions that take seconds where an argument is right are among them.
        seed: of the order.
    """
    table = simulate_table(3, n_groups=12, largest=6)
    model = bhlm.Model("y ~ x * w + (x | g)", table)
    logging.disable(logging.ERROR)  # the verdicts of so few draws
    try:
        with in_folder() as folder:
            post = model.sample(seed=1, draws=120, tune=60, chains=2)
            reml, others = model.reml(), fit_others(table, long=long)
            cases = [
                case for case in list_cases(model, reml, post, table, folder, others)
                if long or case.name not in LONG
            ]  # fmt: skip
            fits = {kind: fit for kind, (_, fit) in others.items()}
            fits |= {"RemlFit": reml, "BayesFit": post, "PooledFit": bhlm.pool([reml, reml])}
            calls = [call for case in cases for call in case.odd(fits)]
            random.Random(seed).shuffle(calls)
            for shown, call in calls[numbers.start : numbers.stop]:
                if wrong := judge(lambda call=call: repr(call()))[1]:
                    yield f"{shown}: {wrong}"
    finally:
        logging.disable(logging.NOTSET)
