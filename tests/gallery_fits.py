"""Fits of the gallery's models with seed 1, each made once: they are frozen values."""

from functools import cache

from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import Reconciliation, reconcile
from bhlm.fits.reml_fit import RemlFit
from bhlm.sources.gallery import find_model, load_data


@cache
def make_model(name: str) -> Model:
    entry = find_model(name)
    return Model(entry.formula, load_data(entry))


@cache
def fit_reml(name: str) -> RemlFit:
    return make_model(name).reml()


@cache
def sample_posterior(name: str) -> BayesFit:
    return make_model(name).sample(seed=1)


@cache
def reconcile_both(name: str) -> Reconciliation:
    """Return the reconciliation, which knows the printed values."""
    published = find_model(name).published
    return reconcile(fit_reml(name), sample_posterior(name), published=published)
