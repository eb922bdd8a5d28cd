"""bhlm reml with weights: what the options mean, and one line for what they cannot."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
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


SAMPLING = ["--weights", "w", "--group-weights", "W", "--method", "ml"]


@pytest.fixture
def survey(tmp_path) -> Path:
    rng = np.random.default_rng(2)
    school = np.repeat(np.arange(12), 8)
    table = pd.DataFrame({"school": school, "room": school * 2 + np.tile([0, 1], 48)})
    table["x"] = rng.normal(size=96)
    table["y"] = table["x"] + rng.normal(size=12)[school] + rng.normal(size=96)
    table["w"] = rng.uniform(1, 3, 96)
    table["W"] = rng.uniform(1, 3, 12)[school]
    path = tmp_path / "survey.csv"
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("levels", [False, True])
def test_conventions_stand_side_by_side(survey, levels, capsys, tmp_path):
    formula = "y ~ x + (1 | school)" + (" + (1 | school:room)" if levels else "")
    weights = ["--weights", "w", "--group-weights", "school=W", "--method", "ml"]
    found = tmp_path / "found.json"
    given = ["--data", survey, "--formula", formula, *(weights if levels else SAMPLING)]
    status, text, err = run(capsys, "reml", *given, "--conventions", "--json", found)
    assert status == 0, err
    for told in ("GLLAMM", "SAS, Mplus", "Stata mixed", "WeMix", "uncorrected", "J / (J - 1)"):
        assert told in text
    assert "nan" not in text
    table = bhlm.Model(
        formula, survey, weights=bhlm.SamplingWeights("w", {"school": "W"})
    ).reml(method="ml").compare_conventions()  # fmt: skip
    content = json.loads(found.read_text())["reml"]["conventions"]
    assert set(content) == set(table.attrs["programs"])
    for name, each in content.items():
        assert list(each["se"].values()) == pytest.approx(list(table[name]), rel=1e-8)
        assert each["why"] == table.attrs["why"][name]
    plain = ["--data", survey, "--formula", formula, "--conventions"]
    status, _, err = run(capsys, "reml", *plain)
    assert status == 2
    assert "the restricted likelihood is no sum over groups" in err


@pytest.mark.parametrize(
    "options",
    [
        ["--weights", "w"],
        ["--known-variance", "w"],
        SAMPLING[:4],
        [*SAMPLING[:4], "--scaling", "size"],
    ],
    ids=str,
)
def test_moments_of_sites_keep_their_weights(survey, options, capsys, tmp_path):
    formula = "y ~ x + (1 | school)"
    table = pd.read_csv(survey)
    parts = []
    for at, rows in enumerate((table["school"] < 5, table["school"] >= 5)):
        part, out = tmp_path / f"{at}.csv", tmp_path / f"{at}.moments"
        table[rows].to_csv(part, index=False)
        like = ["--like", parts[0]] if at else ["--formula", formula, *options]
        assert run(capsys, "moments", part, *like, "-o", out)[0] == 0
        parts.append(out)
    merged = tmp_path / "merged.moments"
    assert run(capsys, "merge", *parts, "-o", merged)[0] == 0
    method = ["--method", "ml"]
    one = run(capsys, "reml", "--data", merged, *method)
    two = run(capsys, "reml", "--data", survey, "--formula", formula, *options, *method)
    assert one[0] == two[0] == 0
    assert one[1] == two[1]
    status, _, err = run(capsys, "moments", survey, "--like", parts[0], "--weights", "w")
    assert status == 2
    assert "holds which weights its moments were reduced with" in err


@pytest.mark.wide
def test_plausible_values_have_the_page_of_pool(survey, capsys, tmp_path):
    table = pd.read_csv(survey)
    table["z"] = table["y"] + np.linspace(-1, 1, 96) ** 2
    table.to_csv(survey, index=False)
    page = tmp_path / "page.html"
    formula = ["--formula", "y + z ~ x + (1 | school)", "--dashboard", page]
    twins = []
    for asked in (["pool", survey], ["reml", "--data", survey]):
        status, _, err = run(capsys, *asked, *formula, *SAMPLING)
        assert status == 0, err
        twins.append(json.loads(page.with_suffix(".json").read_text()))
    assert twins[0]["pooled"] == twins[1]["pooled"]
    assert twins[1]["source"]["Command"].startswith("bhlm reml --data")
    status, _, err = run(capsys, "reml", "pisa_nz", "--dashboard", page)
    assert status == 0, err
    twin = json.loads(page.with_suffix(".json").read_text())
    assert twin["title"].startswith("PISA 2012, New Zealand")
    assert "OECD" in twin["source"]["Citation"]
