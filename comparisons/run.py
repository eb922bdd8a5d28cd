"""Every rival on every model of the gallery -> results/gallery.json, gallery.csv, gallery.md.

Each adapter of `rivals/` runs as a process of its own, in an environment of its own, and answers a
request in JSON. All of them get the same columns: what cwc(), gm() and contrasts make of the
gallery's data, written once by bhlm. Results are added to those that are there, one by one.

    python comparisons/run.py                                   # everything
    python comparisons/run.py --method bayes --models dyestuff rail
    python comparisons/run.py --rivals lme4 statsmodels --models hsb_random_coefficient
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tables import render_tables

from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.design.formula.terms import parse_formula
from bhlm.files import make_plain, write_text
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.reconciliation.published import loglik_at
from bhlm.sources.gallery import GalleryModel, find_model, list_models, load_data

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
LIMITS = {"reml": 60.0, "bayes": 300.0}  # seconds that a process may take
BAYES = {"draws": 1000, "tune": 1000, "chains": 4}
COLUMNS = [
    *("model", "method", "program", "variant", "version", "parameter", "estimate", "se"),
    *("loglik", "loglik_gap", "criterion_gap", "seconds", "converged", "status", "message"),
]


@dataclass(frozen=True, slots=True)
class Rival:
    """One adapter, the environment it runs in, and the variants of it that are asked."""

    program: str
    adapter: str  # a file of rivals/
    environment: str  # "bhlm", "R", or the folder of a virtual environment
    method: str = "reml"
    variants: tuple[str, ...] = ("default",)

    @property
    def command(self) -> list[str] | None:
        """The command that runs the adapter; None if its interpreter is not installed."""
        adapter = str(HERE / "rivals" / self.adapter)
        if self.environment == "R":
            return ["Rscript", adapter] if shutil.which("Rscript") else None
        if self.environment == "bhlm":
            return [sys.executable, adapter]
        python = ROOT / self.environment / "bin" / "python"
        return [str(python), adapter] if python.exists() else None


RIVALS = (
    Rival("bhlm", "bhlm_reml.py", "bhlm"),
    Rival("lme4", "lme4.R", "R", variants=("default", "bobyqa")),
    Rival("nlme", "nlme.R", "R", variants=("default", "optim")),
    Rival("glmmTMB", "glmmTMB.R", "R"),
    Rival(
        "statsmodels", "statsmodels_mixedlm.py", ".venv-rivals",
        variants=("default", "lbfgs", "powell"),
    ),
    Rival("mixedlm-rs", "mixedlm_rs_reml.py", ".venv-rivals"),
    Rival(
        "interlace-lme", "interlace_reml.py", ".venv-interlace", variants=("default", "bobyqa")
    ),
    Rival("complete pooling", "complete_pooling.py", "bhlm"),
    Rival("no pooling", "no_pooling.py", "bhlm"),
    Rival("bhlm", "bhlm_bayes.py", "bhlm", "bayes"),
    Rival("PyMC, conditional model of bhlm", "pymc_conditional.py", "bhlm", "bayes"),
    Rival("Bambi", "bambi_bayes.py", ".venv-bambi", "bayes"),
    Rival("rstanarm", "rstanarm.R", "R", "bayes"),
    Rival("brms", "brms.R", "R", "bayes"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A model of the gallery as every rival gets it."""

    entry: GalleryModel
    fit: RemlFit  # bhlm's, by which logliks are judged
    request: dict[str, Any]


def is_shared(entry: GalleryModel) -> bool:
    """Return whether every rival can be asked for a model: gaussian, of one factor, unweighted."""
    plain = entry.is_gaussian and entry.is_plain
    return plain and not parse_formula(entry.formula).has_levels


def prepare_task(entry: GalleryModel, folder: Path) -> Task:
    """Return the request of a gallery model; its columns are written into the folder."""
    model = Model(entry.formula, load_data(entry))
    fit = model.reml(method=entry.method, covariance=entry.covariance)
    moments = fit.moments
    blocks = arrange_prior(moments, entry.covariance).blocks
    labels, x, z, y = model.rows()
    plain = {"Intercept": "Intercept"}
    codes = np.unique(labels, return_inverse=True)[1]
    table = {"y": y, "g": [f"g{code}" for code in codes]}
    for names, values in ((moments.fixed, x), (moments.random, z)):
        for name, column in zip(names, values.T, strict=True):
            if name not in plain:
                plain[name] = f"x{len(plain)}"
                table[plain[name]] = column
    path = folder / f"{entry.name}.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    fixed, random = ([plain[name] for name in names] for names in (moments.fixed, moments.random))
    parts = [[plain[name] for name in block] for block in blocks]
    request = {
        "formula": f"y ~ {write_terms(fixed)} + "
        + " + ".join(f"({write_terms(part)} | g)" for part in parts),
        "response": "y", "group": "g", "fixed": fixed, "random": random, "blocks": parts,
        "names": {column: name for name, column in plain.items()}, "grouping": moments.group,
        "data": str(path),
    }  # fmt: skip
    return Task(entry, fit, request)


def write_terms(columns: Sequence[str]) -> str:
    """Return the right side of a formula of plain columns."""
    head = "1" if "Intercept" in columns else "0"
    return " + ".join([head, *(name for name in columns if name != "Intercept")])


def ask(rival: Rival, request: dict[str, Any], *, limit: float) -> dict[str, Any]:
    """Return what an adapter answers, with `status` ok, failed, timed out or not installed."""
    head = {"program": rival.program, "method": rival.method, "variant": request["variant"]}
    command = rival.command
    if command is None:
        where = "Rscript" if rival.environment == "R" else rival.environment
        return head | {"status": "not installed", "message": f"there is no {where}"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, complaints = process.communicate(json.dumps(request), timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # chains run in children of the adapter
        process.communicate()
        return head | {"status": "timed out", "message": f"stopped after {limit:g} s"}
    return head | read_answer(printed, complaints, process.returncode)


def read_answer(printed: str, complaints: str, code: int) -> dict[str, Any]:
    """Return the last line of what an adapter printed, with its status."""
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = [line.strip() for line in complaints.splitlines() if line.strip()]
        return {"status": "failed", "message": last[-1][:300] if last else f"exit status {code}"}
    if "missing" in said:
        return {"status": "not installed", "message": f"no package {said['missing']}"}
    if "error" in said:
        return {"status": "failed", "message": said["error"]}
    said.pop("program")
    return said | {"status": "ok", "message": "; ".join(said["warnings"])}


def judge(task: Task, said: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with its log-likelihood below bhlm's: by its own account, and by bhlm's.

    `criterion_gap` is bhlm's restricted log-likelihood at bhlm's estimates less that at the
    rival's variance estimates, both by one function, so that no program's constants enter.
    """
    gaps: dict[str, float | None] = {"loglik_gap": None, "criterion_gap": None}
    if said["status"] != "ok" or said["method"] != "reml":
        return said | gaps
    if said["loglik"] is not None:
        gaps["loglik_gap"] = task.fit.loglik - said["loglik"]
    components = read_components(task.fit, said["estimates"])
    if components is not None:
        gaps["criterion_gap"] = task.fit.loglik - loglik_at(task.fit, *components)
    return said | gaps


def read_components(
    fit: RemlFit, estimates: dict[str, dict[str, float | None]]
) -> tuple[np.ndarray, float] | None:
    """Return G (q, q) and sigma^2 of a rival; None where one is missing or sigma^2 is zero."""
    random, group = fit.moments.random, fit.moments.group
    sigma2 = estimates["var(Residual)"]["estimate"]
    g = np.zeros_like(fit.g)
    for i, j in fit.structure.labels:
        name = f"var({random[i]}|{group})" if i == j else f"cov({random[i]},{random[j]}|{group})"
        value = estimates[name]["estimate"]
        if value is None:
            return None
        g[i, j] = g[j, i] = value
    return (g, sigma2) if sigma2 else None


def list_rows(outcomes: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the tidy table: a row for each parameter, one without for what has no estimates."""
    rows = []
    for said in outcomes:
        about = {key: said.get(key) for key in COLUMNS}
        estimates = said.get("estimates") or {"": {"estimate": None, "se": None}}
        rows += [about | {"parameter": name} | pair for name, pair in estimates.items()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"estimate": float, "se": float})


def write_results(record: dict[str, Any], folder: Path) -> None:
    """Write the record as JSON, as a tidy CSV, and as the tables made from that CSV."""
    models = [entry.name for entry in list_models()]
    order = {(r.method, r.program, v): k for k, r in enumerate(RIVALS) for v in r.variants}
    record["outcomes"].sort(
        key=lambda said: (
            said["model"] not in models,
            said["model"],
            order[said["method"], said["program"], said["variant"]],
        )
    )
    record["versions"] = {
        said["program"]: said["version"] for said in record["outcomes"] if "version" in said
    }
    folder.mkdir(exist_ok=True)
    write_text(json.dumps(make_plain(record), indent=1) + "\n", folder / "gallery.json")
    path = folder / "gallery.csv"
    write_text(list_rows(record["outcomes"]).to_csv(index=False), path)
    write_text(render_tables(pd.read_csv(path)), folder / "gallery.md")


def describe_machine() -> dict[str, Any]:
    """Return what the seconds depend on."""
    return {
        "machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
        "python": platform.python_version(),
    }  # fmt: skip


def run(
    entries: Sequence[GalleryModel],
    rivals: Sequence[Rival],
    *,
    seed: int,
    folder: Path,
    limit: float | None = None,
) -> dict[str, Any]:
    """Run rivals on models, write what comes out after each, and return the record."""
    path = folder / "gallery.json"
    record = json.loads(path.read_text()) if path.exists() else {"outcomes": []}
    record |= {
        "machine": describe_machine(), "made": datetime.now(UTC).date().isoformat(),
        "limits": LIMITS, "bayes": BAYES, "seed": seed,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        for entry in entries:
            task = prepare_task(entry, Path(scratch))
            for rival in rivals:
                for variant in rival.variants:
                    asked = {"method": rival.method, "variant": variant, "seed": seed} | BAYES
                    said = ask(rival, task.request | asked, limit=limit or LIMITS[rival.method])
                    found = judge(task, {"model": entry.name} | said)
                    print(describe(found), file=sys.stderr, flush=True)
                    keys = ("model", "method", "program", "variant")
                    record["outcomes"] = [
                        old
                        for old in record["outcomes"]
                        if any(old[key] != found[key] for key in keys)
                    ] + [found]
                    write_results(record, folder)
    return record


def describe(said: dict[str, Any]) -> str:
    """Return an outcome in one line."""
    head = f"{said['model']} {said['method']} {said['program']} ({said['variant']}): "
    if said["status"] != "ok":
        return f"{head}{said['status']}: {said['message']}"
    gap = said["criterion_gap"]
    return head + f"{said['seconds']:.3f} s" + ("" if gap is None else f", {gap:.2g} below bhlm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", help="names of the gallery; default: all")
    parser.add_argument("--rivals", nargs="+", help="programs; default: all")
    parser.add_argument("--method", choices=tuple(LIMITS), help="default: both")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, help="seconds a process may take, for LIMITS")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    known = {rival.program for rival in RIVALS}
    for name in options.rivals or ():
        if name not in known:
            parser.error(f"no rival {name!r}; known are {', '.join(sorted(known))}")
    rivals = [
        rival
        for rival in RIVALS
        if options.method in (None, rival.method)
        and (options.rivals is None or rival.program in options.rivals)
    ]
    names = options.models
    entries = list(filter(is_shared, list_models() if names is None else map(find_model, names)))
    for name in set(names or ()) - {each.name for each in entries}:
        parser.error(
            f"{name!r} is not a model of one factor that every rival can be asked for; leave it out"
        )
    run(entries, rivals, seed=options.seed, folder=options.results, limit=options.limit)
    print((options.results / "gallery.md").read_text())


if __name__ == "__main__":
    main()
