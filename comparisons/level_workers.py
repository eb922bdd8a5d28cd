"""One program fits a nested or crossed model, from a dataframe in memory: seconds, log-likelihood.

    python comparisons/level_workers.py PROGRAM FILE MODEL RUNS

Prints one line of JSON. The first run warms up and is not counted. FILE is .csv or .parquet; of
Parquet bhlm reads the file itself each time.
"""

import json
import re
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

    fit = glmm.fit(data, formula, reml=True)
    return float(fit.loglik)


def fit_lme_python(data: Any, formula: str) -> float:
    """Fit by lme-python (PyPI)."""
    import lme_python

    fit = lme_python.lmer(formula, data)
    return float(fit.log_likelihood)


def fit_interlace(data: Any, formula: str) -> float:
    """Fit by interlace-lme (PyPI)."""
    import interlace

    terms = re.findall(r"\([^)]*\)", formula)
    groups = [term.strip("()").partition("|")[2].strip() for term in terms]
    fixed = formula.partition(" + (")[0]
    return float(interlace.fit(fixed, data=data, groups=groups, random=terms).llf)


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
    if program != "bhlm":
        # Labels that are numbers would be read as such.
        labels = [term.strip("|) ") for term in re.findall(r"\|[^)]*\)", MODELS[model])]
        table = table.astype(dict.fromkeys(labels, str))
    seconds = []
    loglik = float("nan")
    for at in range(int(runs) + 1):
        begin = time.perf_counter()
        loglik = PROGRAMS[program](table if read is None else read, MODELS[model])
        if at or int(runs) == 0:
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": min(seconds), "loglik": loglik}))


if __name__ == "__main__":
    main()
