"""bhlm ml: every family from a file to printed output and JSON, and bad input in one line."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import check_refusal, run

from bhlm.sources.datasets import load_dataset


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    table = load_dataset("cbpp")
    table["any"] = (table["incidence"] > 0).astype(int)
    table["x"] = np.arange(len(table)) % 5
    table.to_csv(path, index=False)
    return path


@pytest.mark.wide
def test_a_gallery_model(capsys, tmp_path):
    path = tmp_path / "out.json"
    status, out, err = run(capsys, "ml", "cbpp", "--style", "lme4", "--json", path)
    assert (status, err) == (0, "")
    assert "Generalized linear mixed model fit by maximum likelihood" in out
    found = json.loads(path.read_text())
    assert found["model"]["family"] == "binomial"
    assert found["model"]["groups"] == 15
    assert found["ml"]["integration"]["error"] < 1e-8
    assert found["ml"]["estimates"]["Intercept"]["estimate"] == pytest.approx(-1.3992304, abs=1e-6)
    assert found["ml"]["ratios"]["Intercept"]["ratio"] == pytest.approx(0.246787, abs=1e-6)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("any ~ x + (1 | herd)", ["--family", "bernoulli", "--link", "probit"]),
        ("incidence ~ x + (1 | herd)", ["--family", "binomial", "--trials", "size"]),
        ("incidence ~ x + (1 | herd)", ["--family", "poisson", "--exposure", "size"]),
        ("incidence ~ x + (1 | herd)", []),
    ],
)
def test_every_family_from_a_file(capsys, rows, tmp_path, formula, options):
    path = tmp_path / "out.json"
    status, out, _ = run(
        capsys, "ml", "--data", rows, "--formula", formula, *options, "--json", path
    )
    assert status == 0
    assert "Number of groups   =        15" in out
    assert json.loads(path.read_text())["ml"]["converged"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reml", "cbpp"], "bhlm ml cbpp fits it"),
        (["dashboard", "toenail", "-o", "page.html", "--rows"], "--rows is not there for family="),
        (["reconcile", "toenail", "--df", "hlm"], "bhlm ml toenail fits it"),
        (["ml", "cbpp", "--family", "poisson"], "leave --family, --weights and the like out"),
        (["ml", "hsb_anova", "--nagq", "3"], "nagq=3"),
    ],
)
def test_what_does_not_fit_together(capsys, arguments, message):
    check_refusal(run(capsys, *arguments), message)


def test_bad_responses(capsys, rows):
    given = ["--data", rows, "--formula", "incidence ~ x + (1 | herd)"]
    check_refusal(run(capsys, "ml", *given, "--family", "bernoulli"), "family='poisson'")
    check_refusal(run(capsys, "ml", *given, "--family", "gamma"), "choose one of gaussian")
    table = pd.read_csv(rows).assign(size=1)
    table.to_csv(rows.with_name("few.csv"), index=False)
    check_refusal(
        run(
            capsys, "ml", "--data", rows.with_name("few.csv"),
            "--formula", "incidence / size ~ x + (1 | herd)", "--family", "binomial",
        ),
        "from 0 to the trials",
    )  # fmt: skip


@pytest.mark.wide
def test_a_posterior_from_a_file(capsys, rows, tmp_path):
    path = tmp_path / "out.json"
    counts = ["--draws", "30", "--tune", "40", "--chains", "2", "--seed", "2"]
    formula = ["--formula", "incidence / size ~ 1 + (1 | herd)"]
    _, out, _ = run(
        capsys, "sample", "--data", rows, *formula, "--family", "binomial", *counts, "--json", path
    )
    assert "binomial with logit link" in out
    found = json.loads(path.read_text())
    assert found["model"]["patterns"] == 15
    assert found["posterior"]["integration"]["error"] < 1e-3
    assert set(found["posterior"]["ratios"]) == {"Intercept"}


@pytest.mark.slow
def test_a_reconciliation_from_a_file(capsys, rows, tmp_path):
    path = tmp_path / "out.json"
    formula = ["--formula", "incidence / size ~ 1 + (1 | herd)", "--family", "binomial"]
    status, out, _ = run(capsys, "reconcile", "--data", rows, *formula, "--json", path)
    assert status == 0
    assert "Reconciliation of ML and the posterior" in out
    found = json.loads(path.read_text())
    assert found["verdict"] == "explained"
    assert found["model"]["family"] == "binomial"
    assert found["reml"]["method"] == "ml"
