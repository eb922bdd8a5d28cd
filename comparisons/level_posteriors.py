"""Seconds and effective draws of posteriors of nested and crossed models, beside conditional PyMC.

4 chains of 1000 draws, from a dataframe in memory to the table of estimates. bhlm integrates the
random effects out: egsingle (growth of pupils in schools, mlmRev) by NUTS, InstEval (three crossed
factors with 4,114 effects, lme4) by independent draws. The conditional model is bhlm's own
`model.pymc(form="conditional")`, non-centred, with 1000 draws of warm-up by nutpie, its compilation
included. Each program has a process of its own; bhlm's kernels are loaded before, by a short call
of the smaller model and by a fit of the larger. ESS is the smallest over fixed effects, SDs,
correlations and the residual SD.

    python comparisons/level_posteriors.py [--models egsingle insteval] [--minutes 30]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from arviz_stats.base import array_stats
from level_workers import MODELS
from speed_levels import TABLES, ask

PROGRAMS = ("bhlm", "conditional")


def sample_bhlm(path: Path, formula: str) -> tuple[float, Mapping[str, np.ndarray]]:
    """Return the seconds, and the draws (chain, draw) of each parameter."""
    import bhlm

    table = pd.read_csv(path)
    small = pd.read_csv(path.with_name("egsingle.csv"))
    bhlm.Model(MODELS["egsingle"], small).sample(seed=1, draws=20, tune=20, chains=2)
    bhlm.Model(formula, table).reml()
    start = time.perf_counter()
    post = bhlm.Model(formula, table).sample(seed=2)
    assert len(post.estimates)
    seconds = time.perf_counter() - start
    return seconds, {name: x for name, x in post.draws.items() if not name.startswith("var")}


def sample_conditional(path: Path, formula: str) -> tuple[float, Mapping[str, np.ndarray]]:
    """Return the seconds, and the draws of beta, SDs, correlations and sigma."""
    import arviz as az
    import pymc as pm

    import bhlm

    table = pd.read_csv(path)
    start = time.perf_counter()
    with bhlm.Model(formula, table).pymc(form="conditional"):
        data = pm.sample(random_seed=2, progressbar=False, nuts_sampler="nutpie")
    drawn = data["posterior"].dataset
    names = [name for name in drawn if str(name).partition("_")[0] in ("beta", "sd", "sigma")]
    az.summary(data, var_names=names)
    seconds = time.perf_counter() - start
    draws = {}
    for name in names:
        x = drawn[name].values
        for at, column in enumerate(x.reshape(*x.shape[:2], -1).transpose(2, 0, 1)):
            draws[f"{name}[{at}]"] = column
    return seconds, draws


SAMPLERS: dict[str, Callable[[Path, str], tuple[float, Mapping[str, np.ndarray]]]] = {
    "bhlm": sample_bhlm,
    "conditional": sample_conditional,
}


def work(program: str, path: str, model: str) -> None:
    """Print one program's numbers as JSON."""
    seconds, draws = SAMPLERS[program](Path(path), MODELS[model])
    ess = {name: float(array_stats.ess(x, chain_axis=0, draw_axis=1)) for name, x in draws.items()}
    print(
        json.dumps({"seconds": seconds, "ess": min(ess.values()), "least": min(ess, key=ess.get)})
    )


def main() -> None:
    """Print a row for each model and program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=["egsingle", "insteval"])
    parser.add_argument("--programs", nargs="*", default=PROGRAMS, choices=PROGRAMS)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start")
    print(f"{'model':10}{'program':14}{'seconds':>9}{'ESS':>7}{'per second':>12}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "tables.R").write_text(TABLES, encoding="utf-8")
        subprocess.run(["Rscript", str(folder / "tables.R"), str(folder)], check=True)
        for model in options.models:
            for program in options.programs:
                path = str(folder / f"{model}.csv")
                command = [sys.executable, __file__, "--work", program, path, model]
                found = ask(command, minutes=options.minutes)
                if isinstance(found, str):
                    print(f"{model:10}{program:14}{found}", flush=True)
                    continue
                seconds, ess = found["seconds"], found["ess"]
                print(
                    f"{model:10}{program:14}{seconds:9.2f}{ess:7.0f}{ess / seconds:12.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:5])
    else:
        main()
