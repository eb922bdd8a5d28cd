"""Fits one model with one program and prints seconds, log-likelihood and estimates as JSON.

Run as `python workers.py PROGRAM TABLE RUNS [FRAME]`; PROGRAM is one of PROGRAMS and TABLE a
Parquet file with columns g, x, y. The model is y ~ x + (x | g) by REML. A timed call goes from the
pandas DataFrame and the formula to estimates with their standard errors; with FRAME, "pandas" or
"polars", from such a frame to Satterthwaite's degrees of freedom too. Slow programs end after fewer
RUNS.
"""

import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FEWEST, PATIENCE = 3, 10.0  # calls that are timed at least, and seconds after which no more are


def fit_bhlm(table: pd.DataFrame) -> Any:
    import bhlm

    fit = bhlm.Model("y ~ x + (x | g)", table).reml()
    return fit.loglik, fit.beta.tolist(), fit.estimates["se"].to_numpy()[:2].tolist()


def fit_statsmodels(table: pd.DataFrame) -> Any:
    import statsmodels.formula.api as smf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = smf.mixedlm("y ~ x", table, groups=table["g"], re_formula="~x").fit(reml=True)
        values = (float(fit.llf), fit.fe_params.tolist(), fit.bse_fe.tolist())
    return values


def fit_mixedlm_rs(table: pd.DataFrame) -> Any:
    import mixedlm_rs

    fit = mixedlm_rs.mixedlm("y ~ x", table, groups="g", re_formula="~x").fit(reml=True)
    values = (float(fit.llf), list(map(float, fit.fe_params)), list(map(float, fit.bse_fe)))
    return values


def fit_glmm(table: pd.DataFrame) -> Any:
    import glmm

    fit = glmm.fit(table, "y ~ x + (x | g)", reml=True)
    values = (float(fit.loglik), list(map(float, fit.beta)), list(map(float, fit.se)))
    return values


def fit_mixedlm(table: pd.DataFrame) -> Any:
    import mixedlm

    fit = mixedlm.lmer("y ~ x + (x | g)", data=table)
    errors = np.sqrt(np.diag(np.asarray(fit.vcov())))
    values = (float(fit.logLik().value), list(map(float, fit.beta)), errors.tolist())
    return values


def fit_lme_python(table: pd.DataFrame) -> Any:
    import lme_python

    fit = lme_python.lmer("y ~ x + (x | g)", table)
    values = (
        float(fit.log_likelihood), list(map(float, fit.coefficients)),
        list(map(float, fit.std_errors)),
    )  # fmt: skip
    return values


def fit_kamino(table: pd.DataFrame) -> Any:
    import kamino

    labelled = table.assign(g=table["g"].astype(str))  # it takes no other labels
    fit = kamino.lmer("y ~ 1 + x + (1 + x | g)", labelled, reml=True)
    errors = np.sqrt(np.diag(np.asarray(fit.beta_covariance)))
    values = (float(fit.log_likelihood), list(map(float, fit.beta)), errors.tolist())
    return values


def test_bhlm(table: Any) -> Any:
    import bhlm

    fit = bhlm.Model("y ~ x + (x | g)", table).reml()
    rows, tests = fit.estimates, fit.fixed_effects(method="satterthwaite")
    errors = rows["se"].to_numpy()[:2].tolist()
    return fit.loglik, fit.beta.tolist(), errors, tests["df"].tolist()


def test_glmm(table: Any) -> Any:
    import glmm

    fit = glmm.fit(table, "y ~ x + (x | g)", reml=True)
    values = (float(fit.loglik), list(map(float, fit.beta)), list(map(float, fit.se)))
    return *values, list(map(float, fit.coef_df))


# What also gives Satterthwaite's degrees of freedom, from a pandas or a polars frame.
TESTED: dict[str, Callable[[Any], Any]] = {"bhlm": test_bhlm, "glmm": test_glmm}

PROGRAMS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "bhlm": fit_bhlm,
    "statsmodels": fit_statsmodels,
    "mixedlm-rs": fit_mixedlm_rs,
    "glmm": fit_glmm,
    "mixedlm": fit_mixedlm,
    "lme-python": fit_lme_python,
    "kamino-lme": fit_kamino,
}


def read_status(field: str) -> float:
    """Return a field of this process's status in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) / 1024
    raise KeyError(field)


def reset_peak() -> float:
    """Make the peak start anew at the present size, which is returned in megabytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return read_status("VmRSS")


def main() -> None:
    program, path, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    table = pd.read_parquet(path)
    frame = sys.argv[4] if len(sys.argv) > 4 else None
    fit: Callable[[Any], Any] = PROGRAMS[program] if frame is None else TESTED[program]
    # Imports, compilation and caches are not what a fit costs: one small fit comes first.
    small = table.head(min(len(table), 2000))
    fit(small.assign(g=np.arange(len(small)) % 50))
    del small
    given: Any = table
    if frame == "polars":
        import polars

        given = polars.from_pandas(table)
    before = reset_peak()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        loglik, beta, se, *tested = fit(given)
        seconds.append(time.perf_counter() - start)
        if len(seconds) >= FEWEST and sum(seconds) > PATIENCE:
            break
    after = read_status("VmHWM")
    print(
        json.dumps(
            {
                "version": version(program), "seconds": seconds,
                "loglik": loglik, "beta": beta, "se": se,
                "df": tested[0] if tested else None,
                "peak_mb": after, "before_mb": before,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
