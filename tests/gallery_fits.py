"""Fits of the gallery's models with seed 1, each made once: they are frozen values."""

import fcntl
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

from bhlm.design.formula.terms import parse_formula
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import Reconciliation, reconcile
from bhlm.fits.reml_fit import RemlFit
from bhlm.sources.gallery import GalleryModel, find_model, list_models, load_data


def list_one_factor() -> list[GalleryModel]:
    """Return the models of the gallery with one grouping column."""
    return [
        each
        for each in list_models()
        if each.is_gaussian and each.is_plain and not parse_formula(each.formula).has_levels
    ]


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
def reconcile_both(name: str, folder: Path) -> Reconciliation:
    """Return the reconciliation, which knows the printed values.

    Some take half a minute: the first of the processes that share a folder makes it for all.
    """
    reml, post = fit_reml(name), sample_posterior(name)
    kept = folder / f"{name}.pickle"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            found = pickle.loads(kept.read_bytes())
            return replace(found, reml=reml, post=post)  # which know their model
        both = reconcile(reml, post, published=find_model(name).published)
        kept.write_bytes(pickle.dumps(both))
    return both
