"""Fit one data set by one Python program and print seconds and estimates as JSON.

Run as: python hglm_workers.py PROGRAM DATA TABLE.csv NODES RUNS
"""

import json
import math
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import pandas as pd

FORMULAS = {
    "contraception": "use ~ urban + age + C(livch) + (1 | district)",
    "toenail": "y ~ treatment * time + (1 | patientID)",
    "cbpp": "incidence / size ~ C(period) + (1 | herd)",
    "verb_agg": "y ~ Anger + C(Gender) + C(btype) + C(situ) + (1 | id) + (1 | item)",
    "grouseticks": "TICKS ~ C(YEAR) + h + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
}
FAMILIES = {"cbpp": "binomial", "grouseticks": "poisson"}
GROUPS = {"contraception": "district", "toenail": "patientID", "cbpp": "herd"}


def spread_trials(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row of 0 or 1 for each trial, for programs that take no trials."""
    rows = []
    for row in table.to_dict("records"):
        for k in range(row["size"]):
            rows.append(
                {"herd": row["herd"], "period": str(row["period"]), "y": int(k < row["incidence"])}
            )
    return pd.DataFrame(rows)


def expand(name: str, table: pd.DataFrame) -> tuple[str, pd.DataFrame, float]:
    """Return a formula of 0 and 1, its table, and what the log-likelihood of the trials adds."""
    if name != "cbpp":
        return FORMULAS[name].replace("C(livch)", "livch"), table, 0.0
    size, cases = table["size"], table["incidence"]
    added = sum(
        math.lgamma(n + 1) - math.lgamma(y + 1) - math.lgamma(n - y + 1)
        for n, y in zip(size, cases, strict=True)
    )
    return "y ~ period + (1 | herd)", spread_trials(table), added


def fit_bhlm(name: str, table: pd.DataFrame, nodes: int) -> dict[str, Any]:
    import bhlm

    family = FAMILIES.get(name, "bernoulli")
    fit = bhlm.Model(FORMULAS[name], table, family=family).ml(nagq=nodes or None)
    fit.estimates  # noqa: B018
    g = fit.g if name in GROUPS else fit.gs[fit.white.order[0]]
    return {"loglik": fit.loglik, "beta": fit.beta.tolist(), "sd": float(g[0, 0] ** 0.5)}


def fit_mixedlm(name: str, table: pd.DataFrame, nodes: int) -> dict[str, Any]:
    import mixedlm

    formula, rows, added = expand(name, table)
    fit = mixedlm.glmer(formula, rows, family=mixedlm.families.Binomial(), nAGQ=nodes)
    fixed = fit.fixef()
    beta = list(fixed.values()) if isinstance(fixed, dict) else list(fixed)
    theta = abs(float(fit.theta[0]))
    value = fit.logLik()
    loglik = float(getattr(value, "value", value))
    return {"loglik": loglik + added, "beta": [float(b) for b in beta], "sd": theta}


def fit_glmm(name: str, table: pd.DataFrame, nodes: int) -> dict[str, Any]:
    import glmm

    formula, rows, added = expand(name, table)
    fit = glmm.fit(rows, formula, family="binomial", nagq=nodes)
    beta = [float(b) for b in fit.beta]
    return {"loglik": float(fit.loglik) + added, "beta": beta, "sd": float(fit.tau2[0]) ** 0.5}


def fit_interlace(name: str, table: pd.DataFrame, nodes: int) -> dict[str, Any]:
    import interlace

    formula, rows, added = expand(name, table)
    fixed = formula.split(" + (1")[0]
    fit = interlace.glmer(fixed, rows, family="binomial", groups=GROUPS[name], nAGQ=nodes)
    return {
        "loglik": float(fit.llf) + added,
        "beta": [float(b) for b in fit.fe_params],
        "sd": abs(float(fit.theta[0])),
    }


def fit_statsmodels(name: str, table: pd.DataFrame, nodes: int) -> dict[str, Any]:
    """A variational Bayes fit: it has no likelihood."""
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

    formula, rows, _ = expand(name, table)
    fixed = formula.split(" + (1")[0]
    random = {"g": f"0 + C({GROUPS[name]})"}
    found = BinomialBayesMixedGLM.from_formula(fixed, random, rows).fit_vb()
    return {
        "loglik": None,
        "beta": found.fe_mean.tolist(),
        "sd": float(math.exp(found.vcp_mean[0])),
    }


FITS = {
    "bhlm": (fit_bhlm, "bhlm"),
    "glmm": (fit_glmm, "glmm"),
    "mixedlm": (fit_mixedlm, "mixedlm"),
    "interlace": (fit_interlace, "interlace-lme"),
    "statsmodels": (fit_statsmodels, "statsmodels"),
}


def main(program: str, name: str, path: str, nodes: int, runs: int) -> None:
    warnings.simplefilter("ignore")
    table = pd.read_csv(path)
    fit, package = FITS[program]
    fit(name, table, nodes)
    seconds, found = [], {}
    for _ in range(runs):
        start = time.perf_counter()
        found = fit(name, table, nodes)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"version": version(package), "seconds": seconds, **found}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
