"""One program fits a nested or crossed model, from a dataframe in memory: seconds, log-likelihood.

    python comparisons/level_workers.py PROGRAM FILE MODEL RUNS

Prints one line of JSON. The first run warms up and is not counted. FILE is .csv or .parquet; of
Parquet bhlm reads the file itself each time.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pandas as pd

MODELS = {
    "egsingle": "math ~ year + (year | schoolid) + (year | childid)",
    "insteval": "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
    "million": "y ~ x + (1 | g) + (1 | u)",
}


def fit_bhlm(data: Any, formula: str) -> float:
    """Fit by bhlm, with standard errors."""
    import bhlm

    fit = bhlm.Model(formula, data).reml()
    assert len(fit.estimates)
    return float(fit.loglik)


def fit_mixedlm(data: Any, formula: str) -> float:
    """Fit by mixedlm (PyPI)."""
    import mixedlm

    fit = mixedlm.lmer(formula, data=data)
    return float(fit.logLik().value)


def fit_glmm(data: Any, formula: str) -> float:
    """Fit by glmm (PyPI)."""
    import glmm

    fit = glmm.lmer(formula, data)
    return float(fit.loglik)


def fit_lme_python(data: Any, formula: str) -> float:
    """Fit by lme-python (PyPI)."""
    import lme_python

    fit = lme_python.lmer(formula, data)
    return float(fit.log_likelihood)


def fit_interlace(data: Any, formula: str) -> float:
    """Fit by interlace-lme (PyPI)."""
    import interlace

    fixed, _, random = formula.partition(" + (")
    terms = [each.rstrip(" )") for each in ("(" + random).split("+ (")]
    groups = [term.split("|")[1].strip(" )") for term in terms]
    random_terms = ["(" + term.lstrip("( ").rstrip(" )") + ")" for term in terms]
    fit = interlace.fit(fixed, data=data, groups=groups, random=random_terms)
    return float(fit.llf)


PROGRAMS: dict[str, Callable[[Any, str], float]] = {
    "bhlm": fit_bhlm,
    "mixedlm": fit_mixedlm,
    "glmm": fit_glmm,
    "lme-python": fit_lme_python,
    "interlace-lme": fit_interlace,
}


def main() -> None:
    """Time one program."""
    program, path, model, runs = sys.argv[1:5]
    read = path if path.endswith(".parquet") and program == "bhlm" else None
    table = None if read else (pd.read_parquet if path.endswith(".parquet") else pd.read_csv)(path)
    seconds = []
    loglik = float("nan")
    for at in range(int(runs) + 1):
        begin = time.perf_counter()
        loglik = PROGRAMS[program](read or table, MODELS[model])
        if at or int(runs) == 0:
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": min(seconds), "loglik": loglik}))


if __name__ == "__main__":
    main()
