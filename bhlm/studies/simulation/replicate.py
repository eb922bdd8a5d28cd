"""One replicate: a data set is simulated, and every estimator's numbers on it are recorded.

A replicate depends on the study's seed and its number alone, not on where or when it runs. The
record is JSON's: numbers that do not exist, such as Wald's interval of a variance that is estimated
as zero, are null, and an estimator that could not run leaves its error in their place.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from bhlm.bayes.convergence import tabulate_summaries
from bhlm.bayes.density import build_density, constrain
from bhlm.bayes.draws import parameter_draws
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.priors.tails import describe_ray, judge_priors
from bhlm.bayes.sampling import choose_acceptance, sample_density
from bhlm.errors import ArgumentError, BhlmError
from bhlm.files import make_plain
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.parameters import bound_parameters, list_parameters
from bhlm.likelihood.whitening import whiten
from bhlm.moments.moments import Moments
from bhlm.reml.estimate import Estimate, fit_moments
from bhlm.reml.fixed.contrasts import infer_fixed
from bhlm.reml.profile.intervals import profile_intervals
from bhlm.studies.simulation.conditions import Condition, reduce_rows, simulate_rows
from bhlm.studies.simulation.study import Study

Array = np.ndarray
POINTS = ("mean", "median", "mode")  # point estimates that are taken from a posterior
INTERVAL = ("lower", "upper")
# What an estimator may fail with on a data set; anything else is an error of the program.
FAILURES = (BhlmError, np.linalg.LinAlgError, RuntimeError)


def run_replicate(study: Study, number: int) -> dict[str, Any]:
    """Return the record of one replicate.

    Replicates of all conditions take turns, so that a study that is stopped has as many of each,
    and more of them can be added. `fits` holds, for "reml" and each set of priors, what to know
    of convergence, and the values:

    - "reml": `fixed`, by df method (p, 3), and `variances`, by method (m, 3): estimate, lower,
      upper;
    - each set of priors: `all` (p + m, 5): mean, median, mode, lower, upper.
    """
    turn, at = divmod(number, len(study.conditions))
    rng = np.random.default_rng(np.random.SeedSequence([study.seed, at, turn]))
    moments = reduce_rows(study.truth, simulate_rows(study.truth, study.conditions[at], rng))
    seeds = rng.integers(2**31, size=len(study.priors)).tolist()
    fits = {"reml": _try(fit_reml, study, moments)}
    for (name, priors), seed in zip(study.priors, seeds, strict=True):
        fits[f"bayes {name}"] = _try(sample_posterior, study, moments, priors, seed)
    return {"replicate": number, "fits": fits}


def fit_reml(study: Study, moments: Moments) -> dict[str, Any]:
    """Return the REML estimates with the intervals of every df method."""
    fit = fit_moments(moments)
    every = np.eye(len(fit.beta))
    fixed = {}
    for method in study.df_methods:
        inference = infer_fixed(fit, every, method=method)
        half = stats.t.ppf(0.975, inference.df) * np.sqrt(np.diag(inference.cov))
        fixed[method] = make_plain(np.column_stack([fit.beta, fit.beta - half, fit.beta + half]))
    return {
        "converged": bool(fit.converged),
        "singular": bool(fit.singular),
        "fixed": fixed,
        "variances": {
            method: make_plain(interval_variances(fit, method=method))
            for method in study.variance_methods
        },
    }


def interval_variances(fit: Estimate, *, method: str) -> Array:
    """Return estimate, lower and upper (m, 3) of the parameters after the fixed effects.

    "wald" has none where the fit is singular. "profile" has those of variances and SDs in any
    fit that converged, from 0 on where the likelihood does not rule 0 out; other rows are nan.
    """
    rows = fit.estimates[["estimate", *INTERVAL]].iloc[len(fit.beta) :]
    if method == "wald":
        return rows.to_numpy()
    if not fit.converged:
        return rows.assign(lower=np.nan, upper=np.nan).to_numpy()
    names = [str(parameter) for parameter in fit.parameters if parameter.is_positive]
    table = profile_intervals(fit, parameters=names)[["estimate", *INTERVAL]]
    return table.reindex(rows.index).to_numpy()


def sample_posterior(study: Study, moments: Moments, priors: Priors, seed: int) -> dict[str, Any]:
    """Return the posterior's point estimates and equal-tailed 95 % intervals."""
    structure = arrange(moments)
    white = whiten(moments, structure)
    resolved = resolve_priors(priors, moments, structure=structure)
    density = build_density(white, resolved, structure)
    settings = study.settings
    if settings.target_accept is None:
        settings = replace(settings, target_accept=choose_acceptance(moments.n_groups))
    x, diverging = sample_density(density, settings, seed=seed)
    beta, root, sigma = (
        part.reshape(*x.shape[:2], *part.shape[1:])
        for part in constrain(density, white, resolved.frame, x.reshape(-1, x.shape[-1]))
    )
    draws = parameter_draws(moments, structure, beta, root @ root.swapaxes(-1, -2), sigma)
    bounds = bound_parameters(list_parameters(moments.fixed, structure))
    table = tabulate_summaries(draws, index="parameter", bounds=bounds)
    column = {name: values.to_numpy() for name, values in table.items()}
    return {
        "rhat": make_plain(np.max(column["rhat"])),  # null where one cannot be computed
        "ess_bulk": make_plain(np.min(column["ess_bulk"])),
        "ess_tail": make_plain(np.min(column["ess_tail"])),
        "divergences": int(diverging.sum()),
        "all": make_plain(np.column_stack([column[name] for name in (*POINTS, *INTERVAL)])),
    }


def check_study(study: Study) -> None:
    """Refuse a study in which a condition cannot identify the model, or a prior does not fit it.

    Raises:
        IdentifiabilityError: a condition with too few rows or groups.
        PriorError: priors that do not fit the model.
        ArgumentError: priors under which the posterior of a condition is improper.
    """
    for condition in study.conditions:
        rows = simulate_rows(study.truth, condition, np.random.default_rng(study.seed))
        moments = reduce_rows(study.truth, rows)
        try:
            whiten(moments, arrange(moments))
        except BhlmError as error:
            raise type(error)(f"condition {condition}: {error}") from error
        for name, priors in study.priors:
            _check_priors(study, condition, moments, name, priors)


def _check_priors(
    study: Study, condition: Condition, moments: Moments, name: str, priors: Priors
) -> None:
    try:
        resolved = resolve_priors(priors, moments)
    except BhlmError as error:
        raise type(error)(f"priors '{name}': {error}") from error
    structure = arrange(moments)
    existence = judge_priors(whiten(moments, structure), structure, resolved)
    if not existence.proper:
        reason = describe_ray(existence.slowest, structure)
        raise ArgumentError(
            f"priors '{name}' give no posterior in condition {condition}: {reason}; give more "
            "groups or a proper prior"
        )


def _try(estimate: Any, *arguments: Any) -> dict[str, Any]:
    """Return what an estimator returns, or the error that it failed with."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is recorded as such
            return estimate(*arguments)
    except FAILURES as error:
        return {"error": f"{type(error).__name__}: {error}"}
