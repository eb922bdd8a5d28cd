"""bhlm reml with weights: what the options mean, and one line for what they cannot."""

import json

import numpy as np
import pytest
from command_line import run

import bhlm

FORMULA = "Reaction ~ Days + (1 | Subject)"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    table = bhlm.load_dataset("sleepstudy")
    table["w"] = table["Subject"].isin([308, 309, 310]) + 1.0
    found = tmp_path_factory.mktemp("data") / "sleep.csv"
    table.to_csv(found, index=False)
    return found


@pytest.mark.parametrize(
    ("options", "loglik"),
    [
        (["--weights", "w", "--weights-are", "sampling"], -1048.34318418762),
        (["--weights", "w", "--weights-are", "frequency"], -1048.34318418762),
        (["--group-weights", "w"], -1055.34690957995),
    ],
)
def test_weights_reach_the_fit(options, loglik, path, capsys, tmp_path):
    out = tmp_path / "out.json"
    status, text, _ = run(
        capsys, "reml", "--data", path, "--formula", FORMULA, "--method", "ml", *options,
        "--json", out,
    )  # fmt: skip
    content = json.loads(out.read_text())
    assert status == 0
    assert content["reml"]["loglik"] == pytest.approx(loglik, rel=1e-12)
    assert content["model"]["weights"]["kind"] in text.lower()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--weights", "w", "--weights-are", "other"], "--weights-are 'other' is not known"),
        (["--weights-are", "frequency"], "takes --weights alone"),
        (["--group-weights", "w"], "method='ml'"),
        (["--weights", "w", "--known-variance", "w"], "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, told, path, capsys):
    status, _, err = run(capsys, "reml", "--data", path, "--formula", FORMULA, *options)
    assert status == 2
    assert told in err
    assert err.count("\n") == 1


def test_strata_reach_the_fit_and_the_json(capsys, tmp_path):
    table = tmp_path / "teeth.csv"
    bhlm.load_dataset("orthodont").to_csv(table, index=False)
    out = tmp_path / "out.json"
    status, text, _ = run(
        capsys, "reml", "--data", table, "--formula", "distance ~ age + (1 | Subject)",
        "--residual", "Sex", "--json", out,
    )  # fmt: skip
    content = json.loads(out.read_text())
    assert status == 0
    assert "LR test of one residual variance" in text
    assert set(content["reml"]["residual_variances"]) == {"Male", "Female"}
    assert content["model"]["weights"]["levels"] == ["Male", "Female"]


@pytest.mark.wide
def test_weights_reach_the_posterior(path, capsys, tmp_path):
    out = tmp_path / "out.json"
    _, text, _ = run(
        capsys, "sample", "--data", path, "--formula", FORMULA, "--group-weights", "w",
        "--draws", "50", "--tune", "100", "--chains", "2", "--json", out,
    )  # fmt: skip
    posterior = json.loads(out.read_text())["posterior"]
    assert posterior["adjustment"]["adjusted"]
    assert "adjusted to the sandwich" in " ".join(text.split())


def test_plausible_values_are_pooled(capsys, tmp_path):
    table = bhlm.load_dataset("sleepstudy")
    table["pv2"] = table["Reaction"] + table["Days"] % 3
    table["w"] = table["Subject"].isin([308, 309, 310]) + 1.0
    path, out = tmp_path / "values.csv", tmp_path / "out.json"
    table.to_csv(path, index=False)
    given = ["--data", path, "--formula", "Reaction + pv2 ~ Days + (1 | Subject)"]
    more = ["--group-weights", "w"]
    status, text, _ = run(capsys, "reml", *given, *more, "--json", out)
    assert status == 0
    assert "2 fits pooled" in text
    content = json.loads(out.read_text())
    assert content["responses"] == ["Reaction", "pv2"]
    assert content["fits"][0]["loglik"] == pytest.approx(-1055.34690957995, rel=1e-12)
    status, _, err = run(capsys, "reml", *given, *more, "--residual", "w")
    assert status == 2
    assert "--residual is not there with several responses" in err


def test_a_model_of_the_gallery_says_what_its_data_are(capsys):
    status, text, _ = run(capsys, "reml", "sleepstudy_subject_weights")
    assert status == 0
    assert "-1055.3469" in text
    status, _, err = run(capsys, "reconcile", "teacher_expectancy", "--df", "hlm")
    assert status == 2
    assert "method='hlm' is not there with known variances variance" in err


QUICK = ["--draws", "50", "--tune", "100", "--chains", "2", "--seed", "1"]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("options", "df"),
    [
        (["--weights", "w"], "satterthwaite"),
        (["--group-weights", "w"], "z"),
        (["--group-weights", "w", "--no-adjust"], "z"),
        (["--known-variance", "v"], "z"),
        (["--residual", "half"], "z"),
    ],
    ids=["precision", "sampling", "not adjusted", "known variances", "strata"],
)
def test_reconciliations_have_pages_tests_and_a_view(options, df, capsys, tmp_path):
    table = bhlm.load_dataset("sleepstudy")
    table["w"] = table["Subject"].isin([308, 309, 310]) + 1.0
    table["v"] = 900.0
    table["half"] = np.where(table["Days"] < 5, "first", "second")
    path, page = tmp_path / "sleep.csv", tmp_path / "page.html"
    table.to_csv(path, index=False)
    status, text, err = run(
        capsys, "reconcile", "--data", path, "--formula", FORMULA, *options, "--df", df, "--live",
        "--dashboard", page, *QUICK,
    )  # fmt: skip
    assert status in (0, 1), err
    assert "Reconciliation of" in text
    assert f"Tests of fixed effects by {df}" in text
    told = json.dumps(json.loads(page.with_suffix(".json").read_text())["sections"][-1])
    assert all(option in told for option in options)


def test_what_strata_have_not_is_refused_before_anything_slow(capsys, tmp_path):
    bhlm.load_dataset("sleepstudy").to_csv(tmp_path / "rows.csv", index=False)
    given = ["--data", tmp_path / "rows.csv", "--formula", FORMULA, "--residual", "Days"]
    for asked in (given, ["orthodont_varident"]):
        for name, option in (
            ("reconcile", ["--df", "satterthwaite"]),
            ("reconcile", ["--rows", "--dashboard", "page.html"]),
            ("reml", ["--df", "hlm"]),
            ("reml", ["--style", "lme4"]),
        ):
            status, _, err = run(capsys, name, *asked, *option)
            assert status == 2
            assert "not there yet with" in err
            assert err.count("\n") == 1
