"""Hierarchical linear models by restricted maximum likelihood and by Bayes, reconciled.

import bhlm

hsb = bhlm.load_hsb()
model = bhlm.Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb)
reml = model.reml()
post = model.sample(seed=1)
both = bhlm.reconcile(reml, post)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bhlm.centering import center_grand, center_within, group_mean
    from bhlm.comparison import (
        compare_fits,
        compare_nested,
        design_effect,
        intraclass_correlation,
        r_squared,
        variance_explained,
    )
    from bhlm.datasets import load_hsb
    from bhlm.errors import BhlmError
    from bhlm.gallery import find_model, list_models
    from bhlm.model import Model
    from bhlm.moments import Moments, merge_moments
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
    from bhlm.reconcile import Reconciliation, reconcile
    from bhlm.reml import RemlFit
    from bhlm.sampling import BayesFit

__version__ = "0.1.0"

_HOMES = {
    "LKJ": "priors",
    "BayesFit": "sampling",
    "BhlmError": "errors",
    "Cauchy": "priors",
    "Exponential": "priors",
    "Flat": "priors",
    "Gamma": "priors",
    "HalfCauchy": "priors",
    "HalfNormal": "priors",
    "HalfStudentT": "priors",
    "Model": "model",
    "Moments": "moments",
    "Normal": "priors",
    "Priors": "priors",
    "Reconciliation": "reconcile",
    "RemlFit": "reml",
    "StudentT": "priors",
    "center_grand": "centering",
    "center_within": "centering",
    "compare_fits": "comparison",
    "compare_nested": "comparison",
    "design_effect": "comparison",
    "find_model": "gallery",
    "group_mean": "centering",
    "intraclass_correlation": "comparison",
    "list_models": "gallery",
    "load_hsb": "datasets",
    "merge_moments": "moments",
    "r_squared": "comparison",
    "reconcile": "reconcile",
    "variance_explained": "comparison",
}

__all__ = [
    "LKJ",
    "BayesFit",
    "BhlmError",
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
    "center_grand",
    "center_within",
    "compare_fits",
    "compare_nested",
    "design_effect",
    "find_model",
    "group_mean",
    "intraclass_correlation",
    "list_models",
    "load_hsb",
    "merge_moments",
    "r_squared",
    "reconcile",
    "variance_explained",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that `import bhlm` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bhlm' has no attribute '{name}'")
    home = import_module(f"bhlm.{_HOMES[name]}")
    # `from bhlm import reconcile` must give the function, not the module of that name.
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
