"""Hierarchical linear models by restricted maximum likelihood and by Bayes, reconciled.

import bhlm

hsb = bhlm.load_hsb()
model = bhlm.Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb)
reml = model.reml()
post = model.sample(seed=1)
both = bhlm.reconcile(reml, post)
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bhlm import plots
    from bhlm.bayes import BayesFit
    from bhlm.calibration.ranks import Calibration
    from bhlm.calibration.study import calibrate
    from bhlm.centering import center_grand, center_within, group_mean
    from bhlm.checks.loo import compare_posteriors
    from bhlm.comparison import (
        compare_fits,
        compare_nested,
        design_effect,
        intraclass_correlation,
        r_squared,
        variance_explained,
    )
    from bhlm.convergence import diagnose_data
    from bhlm.datasets import load_dataset, load_hsb
    from bhlm.disclosure import suppress_small_groups
    from bhlm.errors import BhlmError
    from bhlm.gallery import find_model, list_models
    from bhlm.model import Model
    from bhlm.moments import Moments, merge_moments
    from bhlm.moments_file import (
        load_moments,
        merge_files,
        reduce_like,
        reduce_part,
        save_moments,
    )
    from bhlm.prior_predictive import draw_prior_predictive
    from bhlm.prior_table import tabulate_priors
    from bhlm.priors import (
        LKJ,
        Cauchy,
        Exponential,
        Flat,
        Gamma,
        HalfCauchy,
        HalfNormal,
        HalfStudentT,
        Normal,
        Priors,
        StudentT,
    )
    from bhlm.quadrature import integrate_posterior
    from bhlm.reconcile import Reconciliation, reconcile
    from bhlm.reml import RemlFit
    from bhlm.sources import open_table
    from bhlm.storage.fits import load

__version__ = "0.1.0"

_HOMES = {
    "BayesFit": "bayes",
    "BhlmError": "errors",
    "Calibration": "calibration.ranks",
    "Cauchy": "priors",
    "Exponential": "priors",
    "Flat": "priors",
    "Gamma": "priors",
    "HalfCauchy": "priors",
    "HalfNormal": "priors",
    "HalfStudentT": "priors",
    "LKJ": "priors",
    "Model": "model",
    "Moments": "moments",
    "Normal": "priors",
    "Priors": "priors",
    "Reconciliation": "reconcile",
    "RemlFit": "reml",
    "StudentT": "priors",
    "calibrate": "calibration.study",
    "center_grand": "centering",
    "center_within": "centering",
    "compare_fits": "comparison",
    "compare_nested": "comparison",
    "compare_posteriors": "checks.loo",
    "design_effect": "comparison",
    "diagnose_data": "convergence",
    "draw_prior_predictive": "prior_predictive",
    "find_model": "gallery",
    "group_mean": "centering",
    "integrate_posterior": "quadrature",
    "intraclass_correlation": "comparison",
    "list_models": "gallery",
    "load": "storage.fits",
    "load_dataset": "datasets",
    "load_hsb": "datasets",
    "load_moments": "moments_file",
    "merge_files": "moments_file",
    "merge_moments": "moments",
    "open_table": "sources",
    "r_squared": "comparison",
    "reconcile": "reconcile",
    "reduce_like": "moments_file",
    "reduce_part": "moments_file",
    "save_moments": "moments_file",
    "suppress_small_groups": "disclosure",
    "tabulate_priors": "prior_table",
    "variance_explained": "comparison",
}

__all__ = [
    "LKJ",
    "BayesFit",
    "BhlmError",
    "Calibration",
    "Cauchy",
    "Exponential",
    "Flat",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "Model",
    "Moments",
    "Normal",
    "Priors",
    "Reconciliation",
    "RemlFit",
    "StudentT",
    "calibrate",
    "center_grand",
    "center_within",
    "compare_fits",
    "compare_nested",
    "compare_posteriors",
    "design_effect",
    "diagnose_data",
    "draw_prior_predictive",
    "find_model",
    "group_mean",
    "integrate_posterior",
    "intraclass_correlation",
    "list_models",
    "load",
    "load_dataset",
    "load_hsb",
    "load_moments",
    "merge_files",
    "merge_moments",
    "open_table",
    "plots",
    "r_squared",
    "reconcile",
    "reduce_like",
    "reduce_part",
    "save_moments",
    "suppress_small_groups",
    "tabulate_priors",
    "variance_explained",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that `import bhlm` stays light."""
    if name == "plots":
        return import_module("bhlm.plots")
    if name not in _HOMES:
        raise AttributeError(f"module 'bhlm' has no attribute '{name}'")
    home = import_module(f"bhlm.{_HOMES[name]}")
    # `from bhlm import reconcile` must give the function, not the module of that name.
    value = globals()[name] = getattr(home, name)
    return value


class _Package(ModuleType):
    """The package, in which a public name is never taken by the module of that name.

    Importing bhlm.reconcile would bind the module over the function `bhlm.reconcile`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
