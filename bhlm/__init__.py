"""Hierarchical linear models by restricted maximum likelihood and by Bayes, reconciled.

import bhlm

hsb = bhlm.load_hsb()
model = bhlm.Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb)
reml = model.reml()
post = model.sample(seed=1)
both = bhlm.reconcile(reml, post)

What there is:

- Model: a formula and a table; .reml(), .ml(), .sample(), .predict(fit), .residuals(fit).
- RemlFit, BayesFit, Reconciliation: what these return; print(fit.summary()), fit.estimates,
  fit.effects("x", by="w"), fit.standardized(), fit.icc(), fit.dashboard("page.html").
- Priors with Normal, HalfNormal, Exponential, LKJ and others: model.sample(priors=...).
- table([fit, fit]): models side by side; compare_fits, compare_nested, compare_posteriors.
- plots: one function per figure, each with .plotly(), .matplotlib() and .save("figure.pdf").
- open_table, load_hsb, load_dataset, find_model: tables and published models; load: a saved fit.
- reduce_part, merge_moments, save_moments and the like: what a fit needs of rows, without rows.
- SamplingWeights, fit_imputations, pool: surveys, plausible values; calibrate: is it right?
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bhlm.likelihood.caches import choose_caches

if TYPE_CHECKING:
    from bhlm import plots
    from bhlm.bayes.checks.loo import compare_posteriors
    from bhlm.bayes.convergence import diagnose_data
    from bhlm.bayes.prior_predictive import draw_prior_predictive
    from bhlm.bayes.prior_table import tabulate_priors
    from bhlm.bayes.priors.correlations import LKJ
    from bhlm.bayes.priors.families import (
        Cauchy,
        Exponential,
        Flat,
        Gamma,
        HalfCauchy,
        HalfNormal,
        HalfStudentT,
        LogNormal,
        Normal,
        StudentT,
    )
    from bhlm.bayes.priors.resolve import Priors
    from bhlm.bayes.quadrature import integrate_posterior
    from bhlm.design.centering import center_grand, center_within, group_mean
    from bhlm.design.formula.weights import FrequencyWeights, PrecisionWeights, SamplingWeights
    from bhlm.errors import BhlmError
    from bhlm.fits.bayes_fit import BayesFit
    from bhlm.fits.model import Model
    from bhlm.fits.pooled_fit import PooledFit, fit_imputations, pool
    from bhlm.fits.reconciliation import Reconciliation, reconcile
    from bhlm.fits.reduced import load_moments, merge_files, reduce_like, reduce_part
    from bhlm.fits.reml_fit import RemlFit
    from bhlm.fits.saved import load
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.either import merge_moments, save_moments, suppress_small_groups
    from bhlm.moments.moments import Moments
    from bhlm.reml.compare import (
        compare_fits,
        compare_nested,
        variance_explained,
    )
    from bhlm.reports.models.table import ModelTable, table
    from bhlm.sources.datasets import load_dataset, load_hsb
    from bhlm.sources.gallery import find_model, list_models
    from bhlm.sources.open import open_table
    from bhlm.studies.calibration.result import Calibration
    from bhlm.studies.calibration.run import calibrate
    from bhlm.studies.replicate_weights import ReplicateWeights

__version__ = "0.1.0"

choose_caches()

_HOMES = {
    "BayesFit": "fits.bayes_fit",
    "BhlmError": "errors",
    "Calibration": "studies.calibration.result",
    "Cauchy": "bayes.priors.families",
    "CellMoments": "moments.cells",
    "Exponential": "bayes.priors.families",
    "Flat": "bayes.priors.families",
    "FrequencyWeights": "design.formula.weights",
    "Gamma": "bayes.priors.families",
    "HalfCauchy": "bayes.priors.families",
    "HalfNormal": "bayes.priors.families",
    "HalfStudentT": "bayes.priors.families",
    "LKJ": "bayes.priors.correlations",
    "LogNormal": "bayes.priors.families",
    "Model": "fits.model",
    "ModelTable": "reports.models.table",
    "Moments": "moments.moments",
    "Normal": "bayes.priors.families",
    "PooledFit": "fits.pooled_fit",
    "PrecisionWeights": "design.formula.weights",
    "Priors": "bayes.priors.resolve",
    "Reconciliation": "fits.reconciliation",
    "RemlFit": "fits.reml_fit",
    "SamplingWeights": "design.formula.weights",
    "ReplicateWeights": "studies.replicate_weights",
    "StudentT": "bayes.priors.families",
    "calibrate": "studies.calibration.run",
    "center_grand": "design.centering",
    "center_within": "design.centering",
    "compare_fits": "reml.compare",
    "compare_nested": "reml.compare",
    "compare_posteriors": "bayes.checks.loo",
    "diagnose_data": "bayes.convergence",
    "draw_prior_predictive": "bayes.prior_predictive",
    "find_model": "sources.gallery",
    "fit_imputations": "fits.pooled_fit",
    "group_mean": "design.centering",
    "integrate_posterior": "bayes.quadrature",
    "list_models": "sources.gallery",
    "load": "fits.saved",
    "load_dataset": "sources.datasets",
    "load_hsb": "sources.datasets",
    "load_moments": "fits.reduced",
    "merge_files": "fits.reduced",
    "merge_moments": "moments.either",
    "open_table": "sources.open",
    "pool": "fits.pooled_fit",
    "reconcile": "fits.reconciliation",
    "reduce_like": "fits.reduced",
    "reduce_part": "fits.reduced",
    "save_moments": "moments.either",
    "suppress_small_groups": "moments.either",
    "table": "reports.models.table",
    "tabulate_priors": "bayes.prior_table",
    "variance_explained": "reml.compare",
}

__all__ = sorted([*_HOMES, "plots"])


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that `import bhlm` stays light."""
    if name == "plots":
        return import_module("bhlm.plots")
    if name not in _HOMES:
        raise AttributeError(f"module 'bhlm' has no attribute '{name}'")
    home = import_module(f"bhlm.{_HOMES[name]}")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
