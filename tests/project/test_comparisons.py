"""The comparison bench: what adapters answer, what the runner makes of it, and the tables."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bhlm.fits.model import Model
from bhlm.sources.gallery import find_model, list_models, load_data

pytestmark = pytest.mark.wide

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "comparisons"
RESULTS = FOLDER / "results"
MODEL = "sleepstudy"

# Programs stop where their optimisers do: relative, to the estimate or the product of two SDs.
ESTIMATES = 1e-3
# The same log-likelihood by two programs and two formulas.
LOGLIK = 1e-5
KEYS = {"program", "variant", "version", "seconds", "loglik", "estimates", "converged", "warnings"}


@pytest.fixture(scope="module")
def run() -> ModuleType:
    """The runner, imported from its folder as a script would be."""
    sys.path.insert(0, str(FOLDER))
    try:
        import run as runner
    finally:
        sys.path.remove(str(FOLDER))
    return runner


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    sys.path.insert(0, str(FOLDER / "rivals"))
    try:
        import contract
    finally:
        sys.path.remove(str(FOLDER / "rivals"))
    return contract


@pytest.fixture(scope="module")
def task(run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run.prepare_task(find_model(MODEL), tmp_path_factory.mktemp("columns"))


def find_rival(run: ModuleType, program: str, method: str = "reml") -> Any:
    (found,) = (r for r in run.RIVALS if (r.program, r.method) == (program, method))
    return found


def state(run: ModuleType, task: Any, variant: str = "default") -> dict[str, Any]:
    request: dict[str, Any] = task.request | run.BAYES
    return request | {"method": "reml", "variant": variant, "seed": 1}


def check_answer(said: dict[str, Any], task: Any, program: str) -> None:
    """The keys of the contract, and estimates under bhlm's names, equal to bhlm's."""
    assert set(said) == KEYS
    assert said["program"] == program
    assert said["converged"] is True
    assert said["seconds"] > 0
    assert abs(said["loglik"] - task.fit.loglik) < LOGLIK
    expected = task.fit.estimates
    assert list(said["estimates"]) == list(expected.index)
    for name, pair in said["estimates"].items():
        assert set(pair) == {"estimate", "se"}
        size = 1.0 if name.startswith("corr(") else abs(expected.loc[name, "estimate"])
        if name.startswith("cov("):
            size = float(np.sqrt(np.prod(np.diag(task.fit.g))))
        assert abs(pair["estimate"] - expected.loc[name, "estimate"]) < ESTIMATES * size, name
    for name in task.fit.moments.fixed:
        se = said["estimates"][name]["se"]
        assert math.isclose(se, expected.loc[name, "se"], rel_tol=ESTIMATES)


def ask_directly(run: ModuleType, program: str, request: dict[str, Any]) -> dict[str, Any]:
    command = find_rival(run, program).command
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def needs(path: str) -> pytest.MarkDecorator:
    there = (ROOT / path / "bin" / "python").exists()
    return pytest.mark.skipif(not there, reason=f"{path} is not there; run make rivals")


@pytest.mark.slow
def test_bhlm_answers_by_the_contract(run: ModuleType, task: Any) -> None:
    check_answer(ask_directly(run, "bhlm", state(run, task)), task, "bhlm")


@needs(".venv-rivals")
def test_statsmodels_answers_by_the_contract(run: ModuleType, task: Any) -> None:
    said = ask_directly(run, "statsmodels", state(run, task, "lbfgs"))
    assert said["variant"] == "lbfgs"
    check_answer(said, task, "statsmodels")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Rscript") is None, reason="Rscript is not installed")
def test_lme4_answers_by_the_contract(run: ModuleType, task: Any) -> None:
    said = ask_directly(run, "lme4", state(run, task))
    if "missing" in said:
        pytest.skip(f"the R package {said['missing']} is not installed")
    check_answer(said, task, "lme4")


def test_an_adapter_reads_a_path_as_well(run: ModuleType, task: Any, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(state(run, task)))
    command = [*find_rival(run, "complete pooling").command, str(tmp_path / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert set(said) == KEYS
    assert abs(said["loglik"] - task.fit.linear_loglik) < LOGLIK
    assert said["estimates"]["var(Intercept|Subject)"]["estimate"] == 0.0


def test_complete_pooling_is_judged_by_the_same_function(run: ModuleType, task: Any) -> None:
    said = run.ask(find_rival(run, "complete pooling"), state(run, task), limit=60.0)
    found = run.judge(task, {"model": MODEL} | said)
    gap = task.fit.loglik - task.fit.linear_loglik
    assert abs(found["loglik_gap"] - gap) < LOGLIK
    assert abs(found["criterion_gap"] - gap) < LOGLIK


def test_no_pooling_averages_the_regressions_of_the_groups(run: ModuleType, task: Any) -> None:
    said = run.ask(find_rival(run, "no pooling"), state(run, task), limit=60.0)
    data = pd.read_csv(task.request["data"])
    lines = np.array([np.polyfit(rows["x1"], rows["y"], 1)[::-1] for _, rows in data.groupby("g")])
    estimates = said["estimates"]
    assert np.allclose(
        [estimates["Intercept"]["estimate"], estimates["Days"]["estimate"]], lines.mean(axis=0)
    )
    assert np.isclose(estimates["var(Days|Subject)"]["estimate"], lines[:, 1].var(ddof=1))
    error = lines[:, 1].std(ddof=1) / np.sqrt(len(lines))
    assert np.isclose(estimates["Days"]["se"], error)


def test_bhlm_is_no_distance_from_itself(run: ModuleType, task: Any) -> None:
    estimates = {
        name: {"estimate": float(value), "se": None}
        for name, value in task.fit.estimates["estimate"].items()
    }
    said = {"status": "ok", "method": "reml", "loglik": task.fit.loglik, "estimates": estimates}
    assert abs(run.judge(task, said)["criterion_gap"]) < LOGLIK
    # Half the residual variance is far below the maximum.
    estimates["var(Residual)"]["estimate"] = 0.5 * task.fit.sigma2
    assert run.judge(task, said)["criterion_gap"] > 10.0
    estimates["var(Residual)"]["estimate"] = None
    assert run.judge(task, said)["criterion_gap"] is None


def test_a_rival_that_is_not_there_is_reported(
    run: ModuleType, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(find_rival(run, "statsmodels"), environment=".venv-nowhere")
    said = run.ask(absent, state(run, task), limit=60.0)
    assert (said["status"], said["message"]) == ("not installed", "there is no .venv-nowhere")
    monkeypatch.setenv("PATH", "")
    said = run.ask(find_rival(run, "lme4"), state(run, task), limit=60.0)
    assert (said["status"], said["message"]) == ("not installed", "there is no Rscript")
    rows = run.list_rows([run.judge(task, {"model": MODEL} | said)])
    assert list(rows["status"]) == ["not installed"]
    assert list(rows["program"]) == ["lme4"]


def test_a_package_that_is_not_there_is_reported(run: ModuleType, task: Any) -> None:
    # An adapter in an environment that has Python but not the package.
    there = replace(find_rival(run, "mixedlm-rs"), environment="bhlm")
    said = run.ask(there, state(run, task), limit=60.0)
    assert (said["status"], said["message"]) == ("not installed", "no package mixedlm_rs")


@pytest.mark.slow
def test_a_failure_is_reported_with_its_message(run: ModuleType, task: Any, tmp_path: Path) -> None:
    broken = state(run, task) | {"formula": "y ~ nowhere + (1 | g)"}
    said = run.ask(find_rival(run, "bhlm"), broken, limit=60.0)
    assert said["status"] == "failed"
    assert "nowhere" in said["message"]
    said = run.ask(find_rival(run, "bhlm"), {"variant": "default"}, limit=60.0)
    assert said["status"] == "failed"  # not a request: no JSON comes back, stderr does
    assert "KeyError" in said["message"]
    assert run.judge(task, said)["criterion_gap"] is None


def test_a_rival_that_takes_too_long_is_stopped(run: ModuleType, task: Any) -> None:
    said = run.ask(find_rival(run, "bhlm"), state(run, task), limit=0.05)
    assert (said["status"], said["message"]) == ("timed out", "stopped after 0.05 s")


def test_every_rival_has_an_adapter_and_one_name(run: ModuleType) -> None:
    keys = [(rival.program, rival.method) for rival in run.RIVALS]
    assert len(set(keys)) == len(keys)
    adapters = {path.name for path in (FOLDER / "rivals").glob("*.[pR]*")}
    assert {rival.adapter for rival in run.RIVALS} == adapters - {"contract.py", "contract.R"}


def test_the_models_that_every_rival_gets_are_said_by_their_formula_alone(run: ModuleType) -> None:
    shared = [entry for entry in list_models() if run.is_shared(entry)]
    assert {"hsb_random_coefficient", "dyestuff", "sleepstudy"} <= {each.name for each in shared}
    for entry in shared:
        plain = Model(entry.formula, load_data(entry)).reml(
            method="ml", covariance=entry.covariance
        )
        stated = Model(entry.formula, load_data(entry), **entry.outcome)
        assert stated.reml(method="ml", covariance=entry.covariance).loglik == plain.loglik


@pytest.mark.slow
def test_results_are_added_to_those_that_are_there(run: ModuleType, tmp_path: Path) -> None:
    null = [find_rival(run, "complete pooling")]
    for name in ("rail", "dyestuff", "rail"):
        run.run([find_model(name)], null, seed=1, folder=tmp_path)
    record = json.loads((tmp_path / "gallery.json").read_text())
    assert [said["model"] for said in record["outcomes"]] == ["dyestuff", "rail"]
    rows = pd.read_csv(tmp_path / "gallery.csv")
    assert list(rows.columns) == run.COLUMNS
    assert set(rows["model"]) == {"dyestuff", "rail"}


def test_names_of_three_correlated_coefficients(contract: ModuleType) -> None:
    names = contract.name_parameters(["Intercept"], [["Intercept", "a", "b"]], "g")
    assert names[4:8] == ["cov(Intercept,a|g)", "cov(Intercept,b|g)", "cov(a,b|g)", "var(Residual)"]
    names = contract.name_parameters(["Intercept"], [["Intercept"], ["a", "b"]], "g")
    assert [name for name in names if name.startswith("c")] == ["cov(a,b|g)", "corr(a,b|g)"]


def test_split_rhat_sees_a_chain_elsewhere(contract: ModuleType) -> None:
    draws = np.random.default_rng(1).normal(size=(4, 1000, 2))
    draws[3, :, 1] += 1.0
    good, bad = contract.split_rhat(draws)
    assert good < contract.RHAT < bad


def test_the_tables_are_those_of_the_committed_rows(run: ModuleType) -> None:
    rows = pd.read_csv(RESULTS / "gallery.csv")
    assert run.render_tables(rows) == (RESULTS / "gallery.md").read_text()


def test_the_committed_rows_are_those_of_the_committed_answers(run: ModuleType) -> None:
    record = json.loads((RESULTS / "gallery.json").read_text())
    text = run.list_rows(record["outcomes"]).to_csv(index=False)
    assert text == (RESULTS / "gallery.csv").read_text()


def test_a_table_says_what_failed_and_what_is_short(run: ModuleType) -> None:
    head = {"model": "m", "method": "reml", "variant": "default", "version": "1", "message": ""}
    good = {"loglik_gap": 0.0, "seconds": 0.1, "converged": True, "status": "ok"}
    estimates = {"Intercept": {"estimate": 1.0, "se": 0.5}, "var(Residual)": {"estimate": 2.0}}
    short = {name: {"estimate": 2.0, "se": 1.0} for name in estimates}
    rows = run.list_rows(
        [
            head | good | {"program": "bhlm", "criterion_gap": 0.0, "estimates": estimates},
            head | good | {"program": "hasty", "criterion_gap": 99.5, "estimates": short},
            head | {"program": "absent", "status": "not installed", "message": "there is no | x"},
        ]
    )
    text = run.render_tables(rows)
    (hasty,) = [line for line in text.splitlines() if line.startswith("| hasty | 1 | 0 |")]
    # The intercept is off by 1, and so by its whole self; its standard error is smaller.
    assert hasty == "| hasty | 1 | 0 | 99.50 | 1.0e+00 | Intercept | 0.1 | says it converged |"
    assert "not installed: there is no \\| x" in text
    assert "| absent |  | 0 of 1 |" in text


def test_statsmodels_on_table_4_4_is_shown() -> None:
    rows = pd.read_csv(RESULTS / "gallery.csv")
    model = rows[(rows["model"] == "hsb_random_coefficient") & (rows["method"] == "reml")]
    gaps = model.groupby(["program", "variant"])["criterion_gap"].first()
    assert gaps[("statsmodels", "default")] > 10.0
    assert abs(gaps[("lme4", "default")]) < LOGLIK


def test_the_adjusted_pseudo_posterior_covers_and_the_unadjusted_one_does_not():
    """What the documentation says of the committed study."""
    found = json.loads((RESULTS / "pseudo_posterior.json").read_text(encoding="utf-8"))
    # As it was planned, by a seed that no trial had.
    plan = (FOLDER / "pseudo_posterior.py").read_text(encoding="utf-8")
    for name, each in found.items():
        assert f"SEED = {each['seed']}\n" in plan
        assert f'"{name}": {each["replicates"]}' in plan
    schools, strong = found["schools"], found["strong"]
    covered, bare = schools["coverage"]["adjusted"], schools["coverage"]["unadjusted"]
    assert all(abs(each - 95.0) <= 2.0 for each in covered.values())
    assert (min(covered.values()), max(covered.values())) == (93.1, 94.4)
    assert (min(bare.values()), max(bare.values())) == (86.9, 88.0)
    assert all(0.955 < each < 1.02 for each in schools["ratio"]["adjusted"].values())
    # What is off with strong chances is the centre of SDs; fixed effects are near.
    fixed = [strong["coverage"]["adjusted"][name] for name in ("Intercept", "x", "z")]
    assert (min(fixed), max(fixed)) == (92.6, 93.4)
    assert strong["bias"]["adjusted"]["sd(Residual)"] < -1.5
    assert strong["coverage"]["adjusted"]["sd(Intercept|g)"] == 86.4
    assert strong["coverage"]["adjusted"]["sd(Residual)"] == 55.0
