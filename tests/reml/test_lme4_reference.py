"""Estimates against lme4 and nlme, whose optima were polished: see tests/reference/r/README.md."""

import numpy as np
import pytest
from lme4_cases import fit_case, in_order, load_cases

from bhlm.reml.optimize import maximize, unwhiten_loglik

CASES = [(name, method) for name in load_cases() for method in ("reml", "ml")]
BELOW = 1e-6  # log-likelihood units that we may lie below lme4
# lme4's polished optima have scaled gradients of 1e-8 or less; estimates follow to about 1e-6.
ESTIMATES = 2e-6
STARTS, FEW = 16, 3


def components(fit):
    table = fit.estimates["estimate"]
    return {name: float(table[name]) for name in table.index}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_loglik_is_not_below_lme4s(name, method):
    fit, stored = fit_case(name, method), load_cases()[name][method]
    assert fit.converged
    assert fit.loglik > stored["logLik"] - BELOW
    assert fit.loglik == pytest.approx(stored["logLik"], abs=1e-5)
    if stored["nlme_logLik"] is not None:
        assert fit.loglik > stored["nlme_logLik"] - BELOW
    assert fit.linear_loglik == pytest.approx(stored["linear_model"]["logLik"], rel=1e-10)
    assert fit.singular == stored["singular"]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_estimates_and_errors(name, method):
    fit, stored = fit_case(name, method), load_cases()[name][method]
    np.testing.assert_allclose(fit.beta, in_order(fit, stored["fixed"]), rtol=ESTIMATES, atol=1e-8)
    se = np.sqrt(np.diag(fit.beta_cov))
    np.testing.assert_allclose(se, in_order(fit, stored["se"]), rtol=1e-5)
    ours = components(fit)
    scale = fit.sigma2 + np.abs(fit.g).max()
    for parameter, value in (stored["components"] | stored["scaled_components"]).items():
        if value is None:
            continue
        tolerance = 1e-5 if stored["singular"] else ESTIMATES
        absolute = 2e-6 * (scale if parameter.startswith(("var", "cov")) else np.sqrt(scale))
        if stored["singular"]:
            # lme4 stops at a boundary when it is near it; the square root is nearer than the SD.
            absolute = max(absolute, 1e-4 * np.sqrt(scale))
        assert ours[parameter] == pytest.approx(value, rel=tolerance, abs=absolute), parameter


@pytest.mark.parametrize(("name", "method"), CASES)
def test_errors_of_the_components(name, method):
    fit, stored = fit_case(name, method), load_cases()[name][method]
    errors = fit.estimates["se"]
    if stored["singular"]:
        # What has vanished has no standard error; independent coefficients that have not, do.
        independent = fit.structure.kind == "independent"
        for name in fit.estimates.index:
            if "|" in name:
                alive = independent and fit.estimates.loc[name, "estimate"] > 1e-6
                assert np.isfinite(errors[name]) == alive, name
        assert np.isfinite(errors["var(Residual)"])
        return
    for parameter, value in (stored.get("component_se") or {}).items():
        if value is not None:
            ours = float(fit.estimates.loc[parameter, "se"])
            assert ours == pytest.approx(value, rel=1e-3), parameter


@pytest.mark.parametrize("name", load_cases())
def test_starts_reach_one_optimum(name):
    check_starts(name, "reml", FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), CASES)
def test_sixteen_starts_reach_one_optimum(name, method):
    check_starts(name, method, STARTS)


def check_starts(name, method, starts):
    fit = fit_case(name, method)
    rng = np.random.default_rng(1)
    for _ in range(starts):
        start = rng.normal(scale=1.5, size=len(fit.theta))
        found = maximize(fit.white, fit.structure, restricted=method == "reml", start=start)
        loglik = unwhiten_loglik(found.criterion.value, fit.white, method == "reml")
        assert loglik == pytest.approx(fit.loglik, abs=1e-7)
