"""Samples one posterior with one program and writes its draws; prints the seconds as JSON.

Run as `python bayes_workers.py PROGRAM TABLE DRAWS`; PROGRAM is bhlm, conditional or Bambi, TABLE
a Parquet file with columns g, x, y, and DRAWS the .npz to write. The model is y ~ x + (x | g),
4 chains of 1000 + 1000. A timed call goes from the pandas DataFrame and the formula to the
posterior's summary; the first call of the process also pays for imports and compilation.
"""

import json
import sys
import time

START = time.perf_counter()

from collections.abc import Callable  # noqa: E402
from importlib.metadata import version  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

NAMES = ("Intercept", "x", "sd(Intercept|g)", "sd(x|g)", "corr(Intercept,x|g)", "sd(Residual)")


def sample_bhlm(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    import bhlm

    post = bhlm.Model("y ~ x + (x | g)", table).sample(seed=seed)
    post.summary()
    return {name: draws for name, draws in post.draws.items() if name in NAMES}


def sample_conditional(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    import arviz as az
    import pymc as pm

    import bhlm

    with bhlm.Model("y ~ x + (x | g)", table).pymc(form="conditional"):
        data = pm.sample(random_seed=seed, progressbar=False, nuts_sampler="nutpie")
    az.summary(data, var_names=["beta", "sd", "corr", "sigma"])
    drawn = data["posterior"]
    beta, sd = drawn["beta"].values, drawn["sd"].values
    columns = (beta[..., 0], beta[..., 1], sd[..., 0], sd[..., 1], drawn["corr"].values[..., 0, 1],
               drawn["sigma"].values)  # fmt: skip
    return dict(zip(NAMES, columns, strict=True))


def sample_bambi(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    import arviz as az
    import bambi

    data = bambi.Model("y ~ x + (x | g)", table).fit(
        draws=1000, tune=1000, chains=4, random_seed=seed, progressbar=False
    )
    az.summary(data, var_names=["Intercept", "x", "1|g_sigma", "x|g_sigma", "sigma"])
    drawn = data["posterior"]
    names = ("Intercept", "x", "1|g_sigma", "x|g_sigma", "sigma")
    ours = tuple(name for name in NAMES if not name.startswith("corr"))
    return {ours[i]: drawn[names[i]].values for i in range(len(names))}


PROGRAMS: dict[str, tuple[Callable[[pd.DataFrame, int], dict[str, Any]], str]] = {
    "bhlm": (sample_bhlm, "bhlm"),
    "conditional": (sample_conditional, "pymc"),
    "Bambi": (sample_bambi, "bambi"),
}


def main() -> None:
    program, path, target = sys.argv[1:4]
    sample, package = PROGRAMS[program]
    table = pd.read_parquet(path)
    draws = sample(table, 1)
    first = time.perf_counter() - START
    start = time.perf_counter()
    draws = sample(table, 2)
    second = time.perf_counter() - start
    np.savez(target, **draws)
    print(json.dumps({"version": version(package), "first": first, "second": second}))


if __name__ == "__main__":
    main()
