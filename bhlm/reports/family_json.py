"""Results of families other than the gaussian -> the dictionaries of the JSON."""

from typing import TYPE_CHECKING, Any

from bhlm.files import make_plain
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.inference import tabulate_ratios
from bhlm.reml.family.levels import FamilyLevelsEstimate, tell_integration
from bhlm.reml.family.population import (
    estimate_population,
    measure_dispersion,
    share_variance,
)
from bhlm.reports.json import ESTIMATE_KEYS, describe_posterior

if TYPE_CHECKING:
    from bhlm.bayes.family.level_draws import AnyFamilyDraws


def describe_patterns(patterns: Patterns) -> dict[str, Any]:
    """Return what `describe_model` does of a family, with its name, its link and the patterns."""
    return {
        "formula": patterns.formula,
        "family": patterns.family.name,
        "link": patterns.family.link,
        "n": patterns.n_rows,
        "groups": patterns.n_groups,
        "group": patterns.group,
        "group_size": patterns.group_size,
        "patterns": patterns.n_patterns,
        "dropped_rows": patterns.dropped,
        "missing": dict(patterns.missing),
    }


def describe_family(fit: FamilyEstimate) -> dict[str, Any]:
    """Return the fit of a family under the keys of the JSON."""
    population = estimate_population(fit, method="z", level=0.95)
    ratios = None
    if fit.family.link != "probit":
        ratios = tabulate_ratios(fit, method="z", level=0.95).to_dict("index")
    return make_plain(
        {
            "method": "ml",
            "loglik": fit.loglik,
            "integration": {"error": fit.error, "nagq": fit.nagq, "nodes": fit.nodes},
            "converged": fit.converged,
            "singular": fit.singular,
            "advice": fit.advice,
            "estimates": fit.estimates[list(ESTIMATE_KEYS)].to_dict("index"),
            "wald": fit.wald,
            "lr_test": fit.lr_test,
            "ratios": ratios,
            "population_effects": population.to_dict("index"),
            "icc": share_variance(fit).to_dict("index"),
            "dispersion": measure_dispersion(fit),
            "df_method": "z",
        }
    )


def describe_level_patterns(patterns: LevelPatterns) -> dict[str, Any]:
    """Return what `describe_patterns` does, with levels and sizes by grouping factor."""
    return {
        "formula": patterns.formula,
        "family": patterns.family.name,
        "link": patterns.family.link,
        "n": patterns.n_rows,
        "groups": patterns.groups,
        "group_size": patterns.group_size,
        "patterns": patterns.n_patterns,
        "dropped_rows": patterns.dropped,
        "missing": dict(patterns.missing),
    }


def describe_family_levels(fit: FamilyLevelsEstimate) -> dict[str, Any]:
    """Return the fit of a family with several factors under the keys of the JSON.

    `integration` says how the effects were integrated, or that it is Laplace's approximation, whose
    `error` is not known, and has what the log-likelihood at the estimates is from it by importance
    sampling, where that can be told.
    """
    ratios = None
    if fit.family.link != "probit":
        ratios = tabulate_ratios(fit, method="z", level=0.95).to_dict("index")
    found = fit.find_error()
    population = estimate_population(fit, method="z", level=0.95)
    return make_plain(
        {
            "method": "ml",
            "loglik": fit.loglik,
            "integration": {
                "error": fit.error,
                "nagq": fit.nagq,
                "label": tell_integration(fit),
                "at_estimates": None if found is None else found._asdict(),
            },
            "converged": fit.converged,
            "singular": fit.singular,
            "advice": fit.advice,
            "estimates": fit.estimates[list(ESTIMATE_KEYS)].to_dict("index"),
            "wald": fit.wald,
            "lr_test": fit.lr_test,
            "ratios": ratios,
            "population_effects": population.to_dict("index"),
            "icc": fit.icc().to_dict("index"),
            "dispersion": measure_dispersion(fit),
            "df_method": "z",
        }
    )


def describe_family_posterior(fit: "AnyFamilyDraws") -> dict[str, Any]:
    """Return the posterior of a family under the keys of the JSON.

    `integration` has the largest error of the log-likelihood over the draws.
    """
    from bhlm.bayes.family.level_draws import FamilyLevelDraws
    from bhlm.bayes.family.quantities import derive_icc, derive_level_icc
    from bhlm.bayes.family.quantities import tabulate_ratios as tabulate_draws

    ratios = None if fit.family.link == "probit" else tabulate_draws(fit).to_dict("index")
    shares = derive_level_icc(fit) if isinstance(fit, FamilyLevelDraws) else derive_icc(fit)
    own = {
        "integration": {"error": fit.error},
        "ratios": ratios,
        "icc": shares.estimates.to_dict("index"),
    }
    return dict(make_plain(describe_posterior(fit) | own))
