"""Estimates and intervals over replicates -> bias, RMSE, coverage, width and power.

Each with its Monte Carlo standard error, all over the R replicates in which the number exists:

    bias      mean(est) - true                 sd(est) / sqrt(R)
    emp_se    sd(est)                          emp_se / sqrt(2 (R - 1))
    rmse      sqrt(mse), mse = mean(d^2)       sd(d^2) / sqrt(R) / (2 rmse), d = est - true
    coverage  share of intervals that hold it  sqrt(c (1 - c) / R)
    width     mean(upper - lower)              sd(upper - lower) / sqrt(R)
    width_median   median(upper - lower), which a nearly singular fit's interval does not move
    reject    share of intervals without 0     sqrt(r (1 - r) / R)

Source: Morris, White & Crowther (2019), Statistics in Medicine 38, 2074-2102, table 6; the error
of the RMSE follows from that of the MSE by the delta method.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bhlm.studies.simulation.replicate import POINTS
from bhlm.studies.simulation.study import Study

Array = np.ndarray
MEASURES = (
    "true", "replicates", "used", "mean", "bias", "bias_mcse", "relative_bias", "emp_se",
    "emp_se_mcse", "rmse", "rmse_mcse", "intervals", "coverage", "coverage_mcse", "width",
    "width_mcse", "width_median", "reject", "reject_mcse",
)  # fmt: skip

# Of short chains, R-hat is above 1.01 by chance; from here on the chains do disagree.
RHAT = 1.05
# Effective draws for each half of a chain, below which R-hat and ESS themselves cannot be relied
# on. Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), section 4.
ESS_PER_HALF = 50.0


@dataclass(frozen=True, slots=True)
class Estimates:
    """What one estimator gave, over the replicates of a condition."""

    estimator: str  # "reml", "reml z", "reml profile", "bayes default"
    point: str  # "estimate", or which of a posterior's
    parameters: tuple[str, ...]
    values: Array  # (R, m, 3) estimate, lower, upper; nan where there is none
    failed: Array  # (R,) whether the fit failed or did not converge


def read_estimates(
    study: Study, records: Sequence[Mapping[str, Any]], parameters: Sequence[str]
) -> Iterator[Estimates]:
    """Yield what each estimator gave.

    Args:
        study: the study.
        records: one condition's.
        parameters: of the model, in the order of the records: fixed effects first.
    """
    p = len(study.truth.fixed)
    fixed, variances = tuple(parameters[:p]), tuple(parameters[p:])
    fits = [record["fits"]["reml"] for record in records]
    failed = np.array([has_failed(fit, study) for fit in fits])
    for method in study.df_methods:
        values = [fit["fixed"][method] if "fixed" in fit else None for fit in fits]
        table = _fill(values, (p, 3))
        yield Estimates(f"reml {method}", "estimate", fixed, table, failed)
    for method in study.variance_methods:
        values = [fit["variances"][method] if "variances" in fit else None for fit in fits]
        table = _fill(values, (len(variances), 3))
        if method == "wald":
            yield Estimates("reml", "estimate", variances, table, failed)
        else:  # of no other parameter
            positive = {str(each) for each in study.truth.parameters if each.is_positive}
            kept = [at for at, name in enumerate(variances) if name in positive]
            names = tuple(variances[at] for at in kept)
            yield Estimates(f"reml {method}", "estimate", names, table[:, kept], failed)
    for name, _ in study.priors:
        fits = [record["fits"][f"bayes {name}"] for record in records]
        failed = np.array([has_failed(fit, study) for fit in fits])
        table = _fill([fit.get("all") for fit in fits], (len(parameters), len(POINTS) + 2))
        for at, point in enumerate(POINTS):
            chosen = table[:, :, [at, -2, -1]]
            yield Estimates(f"bayes {name}", point, tuple(parameters), chosen, failed)


def has_failed(fit: Mapping[str, Any], study: Study) -> bool:
    """Whether a fit has an error, or did not converge."""
    if "error" in fit:
        return True
    if "converged" in fit:
        return not fit["converged"]
    found = [fit["rhat"], fit["ess_bulk"], fit["ess_tail"]]
    if None in found:
        return True
    least = 2 * study.settings.chains * ESS_PER_HALF
    return bool(found[0] > RHAT or min(found[1:]) < least)


def measure(true: float, values: Array, *, tested: bool) -> dict[str, float]:
    """Return `MEASURES` of one parameter by one estimator.

    Args:
        true: the true value; nan if there is none.
        values: estimate, lower and upper (R, 3), nan where there is none.
        tested: whether zero is a value that the parameter is tested against.
    """
    estimates = values[np.isfinite(values[:, 0]), 0]
    bounds = values[np.isfinite(values[:, 1:]).all(axis=1), 1:]
    used, intervals = len(estimates), len(bounds)
    mean, spread = _mean(estimates), _sd(estimates)
    squares = (estimates - true) ** 2
    rmse = float(np.sqrt(_mean(squares)))
    exists = np.isfinite(true)
    held = (bounds[:, 0] <= true) & (true <= bounds[:, 1])
    coverage = _mean(held) if exists else np.nan
    widths = bounds[:, 1] - bounds[:, 0]
    reject = _mean((bounds[:, 0] > 0.0) | (bounds[:, 1] < 0.0)) if tested else np.nan
    return {
        "true": true,
        "replicates": len(values),
        "used": used,
        "mean": mean,
        "bias": mean - true,
        "bias_mcse": _divide(spread, np.sqrt(used)) if exists else np.nan,
        "relative_bias": _divide(mean - true, true),
        "emp_se": spread,
        "emp_se_mcse": _divide(spread, np.sqrt(2.0 * (used - 1.0))) if used > 1 else np.nan,
        "rmse": rmse,
        "rmse_mcse": _divide(_divide(_sd(squares), np.sqrt(used)), 2.0 * rmse),
        "intervals": intervals,
        "coverage": coverage,
        "coverage_mcse": _share_error(coverage, intervals),
        "width": _mean(widths),
        "width_mcse": _divide(_sd(widths), np.sqrt(intervals)),
        "width_median": float(np.median(widths)) if intervals else np.nan,
        "reject": reject,
        "reject_mcse": _share_error(reject, intervals),
    }


def count_fits(study: Study, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for "reml" and each set of priors, how many fits failed, and how.

    `errors` could not run, `not_converged` did run, `singular` are REML fits with a variance of
    zero or a correlation of one, `divergent` posteriors with divergent transitions;
    `first_error` says what went wrong first.
    """
    rows = []
    for name in ("reml", *(f"bayes {each}" for each, _ in study.priors)):
        fits = [record["fits"][name] for record in records]
        errors = [fit["error"] for fit in fits if "error" in fit]
        rows.append(
            {
                "fit": name,
                "replicates": len(fits),
                "errors": len(errors),
                "not_converged": sum(has_failed(fit, study) for fit in fits) - len(errors),
                "singular": sum(fit.get("singular", False) for fit in fits),
                "divergent": sum(fit.get("divergences", 0) > 0 for fit in fits),
                "median_ess_bulk": _median(fits, "ess_bulk"),
                "median_ess_tail": _median(fits, "ess_tail"),
                "first_error": errors[0] if errors else "",
            }
        )
    return rows


def _fill(values: Sequence[Any], shape: tuple[int, int]) -> Array:
    """Return records' values (R, *shape) with nan for what is not there."""
    table = np.full((len(values), *shape), np.nan)
    for row, value in zip(table, values, strict=True):
        if value is not None:
            row[:] = np.array(value, dtype=np.float64)  # None becomes nan
    return table


def _median(fits: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the median over fits of the smallest ESS of any parameter; nan without one."""
    found = [fit[key] for fit in fits if fit.get(key) is not None]
    return float(np.median(found)) if found else float("nan")


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _sd(values: Array) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _divide(value: float, by: float) -> float:
    return float(value / by) if by != 0.0 else float("nan")


def _share_error(share: float, count: int) -> float:
    return float(np.sqrt(share * (1.0 - share) / count)) if count else float("nan")
