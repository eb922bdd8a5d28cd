"""The command of a page that was made in Python: typed, it makes the same page."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from command_line import run

import bhlm

pytestmark = pytest.mark.wide

EXACT = 1e-9  # digits of the same fit to the same rows, read from a CSV
SHORT = {"draws": 100, "tune": 100, "chains": 2}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(20), 10)
    found = pd.DataFrame({"g": g, "h": np.tile(np.arange(10), 20), "x": rng.normal(size=200)})
    found["sex"] = np.tile(["F", "M"], 100)
    found["w"], found["wg"] = rng.uniform(1, 3, 200), rng.uniform(1, 9, 20)[g]
    found["v"] = rng.uniform(0.5, 2.0, 200)
    u, k = rng.normal(size=20)[g], rng.normal(size=10)[found["h"]]
    for name in ("y", "pv1", "pv2", "pv3"):
        found[name] = found["x"] + u + 0.7 * k + rng.normal(size=200)
    found["n"] = 8
    found["hits"] = rng.binomial(8, 1.0 / (1.0 + np.exp(-0.5 * (u + found["x"]))))
    return found


def sampling(**more):
    return bhlm.SamplingWeights("w", "wg", **more)


CASES = {
    "reml": lambda t: bhlm.Model("y ~ x + (x | g)", t).reml(covariance="independent"),
    "ml": lambda t: bhlm.Model("y ~ x + (1 | g)", t).reml(method="ml"),
    "draws": lambda t: bhlm.Model("y ~ x + (1 | g)", t).sample(seed=3, **SHORT),
    "crossed": lambda t: reconcile(bhlm.Model("y ~ x + (1 | g) + (1 | h)", t)),
    "crossed, reml": lambda t: bhlm.Model("y ~ x + (1 | g) + (1 | h)", t).reml(),
    "counts": lambda t: bhlm.Model("hits ~ x + (1 | g)", t, family="poisson").ml(nagq=7),
    "proportions": lambda t: reconcile_family(
        bhlm.Model("hits / n ~ x + (1 | g)", t, family="binomial", link="probit")
    ),
    "weights": lambda t: bhlm.Model("y ~ x + (1 | g)", t, weights=sampling(scaling="size")).reml(
        method="ml", errors="block"
    ),
    "precision": lambda t: bhlm.Model(
        "y ~ x + (1 | g)", t, weights=bhlm.PrecisionWeights("w")
    ).reml(),
    "strata": lambda t: reconcile(bhlm.Model("y ~ x + (1 | g)", t, residual="sex")),
    "known": lambda t: bhlm.Model("y ~ x + (1 | g)", t, known_variance="v").reml(),
    "pooled": lambda t: bhlm.fit_imputations(
        "pv1 + pv2 + pv3 ~ x + (1 | g)", t, method="ml", weights=sampling()
    ),
}


def reconcile(model):
    return bhlm.reconcile(model.reml(), model.sample(seed=3, **SHORT))


def reconcile_family(model):
    return bhlm.reconcile(model.ml(), model.sample(seed=3, **SHORT))


def read_twin(page):
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def find_command(twin):
    """The words of the command, None where the page has none."""
    blocks = [block for section in twin["sections"] for block in section["blocks"]]
    found = [block["sentences"] for block in blocks if block.get("heading") == "The command"]
    return shlex.split(found[0][0]) if found else None


def list_numbers(twin):
    """The numbers of every table of estimates."""
    return {
        (section["name"], block["name"], column["name"]): column["values"]
        for section in twin["sections"]
        for block in section["blocks"]
        if block["kind"] == "table" and "estimates" in block["name"]
        for column in block["columns"]
    }


@pytest.mark.parametrize("case", CASES)
def test_the_command_of_a_page_makes_it_again(table, case, capsys, tmp_path):
    fit = CASES[case](table)
    fit.dashboard(tmp_path / "first.html")
    twin = read_twin(tmp_path / "first.html")
    words = find_command(twin)
    assert words is not None
    table.to_csv(tmp_path / "table.csv", index=False)
    told = {"FILE": str(tmp_path / "table.csv"), "report.html": str(tmp_path / "second.html")}
    status, _, error = run(capsys, *[told.get(word, word) for word in words[1:]])
    assert status in (0, 1), error  # 100 draws are too few for a verdict
    again = read_twin(tmp_path / "second.html")
    first, second = list_numbers(twin), list_numbers(again)
    assert first.keys() == second.keys()
    assert len(first) > 3
    for name, values in first.items():
        for one, other in zip(values, second[name], strict=True):
            assert other == (pytest.approx(one, rel=EXACT) if isinstance(one, float) else one)


@pytest.mark.parametrize(
    "fit",
    [
        lambda model: model.sample(seed=3, target_accept=0.95, **SHORT),
        lambda model: model.sample(seed=3, priors=bhlm.Priors(sigma=bhlm.HalfNormal(1.0)), **SHORT),
    ],
    ids=["acceptance", "priors"],
)
def test_no_command_stands_where_none_says_what_was_fitted(table, fit, tmp_path):
    fit(bhlm.Model("y ~ x + (1 | g)", table)).dashboard(tmp_path / "page.html")
    assert find_command(read_twin(tmp_path / "page.html")) is None
