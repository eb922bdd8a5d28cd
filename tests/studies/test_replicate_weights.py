"""Standard errors from replicate weights: by hand, and by deleting groups."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import run

import bhlm
from bhlm.commands.shared import list_replicates
from bhlm.errors import ArgumentError, DataError
from bhlm.studies.replicate_weights import combine_replicates, plan_replicates

FORMULA = "y ~ x + (1 | g)"
GROUPS = 6
JK = [f"jk{r}" for r in range(GROUPS)]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(GROUPS), 8)
    x = rng.normal(size=len(g))
    y = 1.0 + x + rng.normal(size=GROUPS)[g] + rng.normal(size=len(g))
    jk = {name: np.where(g == r, 0.0, GROUPS / (GROUPS - 1.0)) for r, name in enumerate(JK)}
    return pd.DataFrame({"g": g, "x": x, "y": y, "w": 1.0} | jk)


@pytest.fixture(scope="module")
def model(table) -> bhlm.Model:
    return bhlm.Model(FORMULA, table, weights=bhlm.SamplingWeights(groups="w"))


def test_jackknife_weights_leave_each_group_out(table, model):
    fit = model.ml()
    found = model.replicate_errors(fit, groups=JK, method="JK1")
    without = np.array(
        [bhlm.Model(FORMULA, table[table.g != r]).ml().estimates["estimate"] for r in range(GROUPS)]
    )
    gaps = without - fit.estimates["estimate"].to_numpy()
    by_hand = np.sqrt((GROUPS - 1.0) / GROUPS * (gaps**2).sum(axis=0))
    np.testing.assert_allclose(found["se"], by_hand, rtol=1e-6)
    assert found.loc["x", "upper"] == pytest.approx(fit.beta[1] + 1.959964 * found.loc["x", "se"])
    about_mean = model.replicate_errors(fit, groups=JK, method="JK1", mse=False)
    centred = without - without.mean(axis=0)
    np.testing.assert_allclose(
        about_mean["se"], np.sqrt((GROUPS - 1.0) / GROUPS * (centred**2).sum(axis=0)), rtol=1e-6
    )


def test_the_factors_are_those_of_the_methods():
    full, replicates = np.array([1.0]), np.array([[0.0], [1.0], [2.0], [4.0]])
    squares = 1.0 + 0.0 + 1.0 + 9.0
    for method, more, expected in (
        ("BRR", {}, squares / 4.0),
        ("Fay", {"rho": 0.5}, squares / (4.0 * 0.25)),
        ("JK1", {}, 0.75 * squares),
        ("JK2", {}, squares),
        ("JKn", {"rscales": [0.5, 0.5, 0.5, 1.0]}, 0.5 * 2.0 + 9.0),
        ("bootstrap", {}, squares / 3.0),
    ):
        scheme = plan_replicates(method, 4, **more)
        assert combine_replicates(full, replicates, scheme)[0, 0] == pytest.approx(expected)


def test_what_replicates_cannot_be_is_refused(table, model):
    fit = model.ml()
    for more, told in (
        ({"groups": JK, "method": "SDR"}, "method='SDR' is not known"),
        ({"groups": JK, "method": "Fay"}, "which is 0.5 in PISA"),
        ({"groups": JK, "method": "JKn"}, "without rscales"),
        ({"groups": JK, "rows": JK[:2]}, "2 and 6 replicates"),
        ({"groups": JK[:1]}, "has no variance"),
        ({"rows": "jk0"}, "is not a list of text"),
        ({}, "no replicates"),
    ):
        with pytest.raises(ArgumentError, match=told):
            model.replicate_errors(fit, **more)
    plain = bhlm.Model(FORMULA, table)
    with pytest.raises(ArgumentError, match="none of"):
        plain.replicate_errors(plain.ml(), groups=JK)
    reduced = bhlm.Model.from_moments(model.moments)
    with pytest.raises(DataError, match="no replicate weights"):
        reduced.replicate_errors(fit, groups=JK)


REPLICATES = bhlm.ReplicateWeights(groups=JK, method="JK1")


def test_a_fit_takes_its_standard_errors_from_replicates(model, tmp_path):
    table = model.replicate_errors(model.ml(), groups=JK, method="JK1")
    fit = model.reml(method="ml", errors=REPLICATES)
    found = fit.estimates
    names = ["Intercept", "x", "var(Intercept|g)", "var(Residual)"]
    np.testing.assert_allclose(found.loc[names, "estimate"], table.loc[names, "estimate"])
    np.testing.assert_allclose(found.loc[names, "se"], table.loc[names, "se"])
    covariance = table.attrs["covariance"].loc[["Intercept", "x"], ["Intercept", "x"]]
    np.testing.assert_allclose(fit.beta_cov, covariance)
    assert fit.judged_by_z
    assert "Standard errors by 6 replicate weights (JK1)" in " ".join(fit.summary().split())
    fit.dashboard(tmp_path / "page.html")
    told = (tmp_path / "page.json").read_text(encoding="utf-8")
    assert "errors=replicates" in told
    assert "[f'jk{r}' for r in range(6)]" in told
    assert "could not be computed" not in told


def test_plausible_values_add_what_lies_between_to_the_replicates(table):
    rng = np.random.default_rng(4)
    given = table.assign(**{f"y{k}": table["y"] + rng.normal(size=len(table)) for k in range(3)})
    weights = bhlm.SamplingWeights(groups="w")
    choice = {"weights": weights, "method": "ml", "errors": REPLICATES}
    pooled = bhlm.fit_imputations("y0 + y1 + y2 ~ x + (1 | g)", given, **choice)
    betas, squares = [], []
    for k in range(3):
        model = bhlm.Model(f"y{k} ~ x + (1 | g)", given, weights=weights)
        fit = model.ml()
        betas.append(fit.beta)
        errors = model.replicate_errors(fit, groups=JK, method="JK1")["se"]
        squares.append(errors.loc[["Intercept", "x"]].to_numpy() ** 2)
    total = np.mean(squares, axis=0) + 4 / 3 * np.var(betas, axis=0, ddof=1)
    np.testing.assert_allclose(pooled.estimates["se"].iloc[:2], np.sqrt(total), rtol=1e-6)
    text = " ".join(pooled.summary().split())
    assert "Standard errors of each fit by 6 replicate weights (JK1)" in text
    assert "Sampling weights of groups w" in text


def test_replicates_are_refused_before_a_fit(table, model):
    for replicates, told in (
        (bhlm.ReplicateWeights(groups=JK, method="Fay"), "which is 0.5 in PISA"),
        (bhlm.ReplicateWeights(), "no replicates"),
        (bhlm.ReplicateWeights(rows=JK, groups=JK[:2]), "2 and 6 replicates"),
    ):
        with pytest.raises(ArgumentError, match=told):
            model.reml(method="ml", errors=replicates)
    with pytest.raises(ArgumentError, match="none of"):
        bhlm.Model(FORMULA, table).reml(method="ml", errors=REPLICATES)
    with pytest.raises(ArgumentError, match="no rows have that distribution"):
        model.reml(errors=REPLICATES)
    strata = bhlm.Model(FORMULA, table.assign(s=np.arange(len(table)) % 2), residual="s")
    with pytest.raises(ArgumentError, match="which this model has none of"):
        strata.reml(method="ml", errors=REPLICATES)


def test_replicates_on_the_command_line(table, model, capsys, tmp_path):
    path = tmp_path / "rows.csv"
    table.to_csv(path, index=False)
    given = ["--data", path, "--formula", FORMULA, "--group-weights", "w", "--method", "ml"]
    out = tmp_path / "out.json"
    jk = ["--group-replicates", "jk{0..5}", "--replicates-are", "JK1"]
    status, _, err = run(capsys, "reml", *given, *jk, "--json", out)
    assert status == 0, err
    content = json.loads(out.read_text())["reml"]
    expected = model.reml(method="ml", errors=REPLICATES).estimates
    assert content["estimates"]["x"]["se"] == pytest.approx(expected.loc["x", "se"], rel=1e-6)
    assert content["errors"] == "6 replicate weights (JK1)"
    for options, told in (
        (["--group-replicates", "jk0"], "does not say how many replicates there are"),
        (["--group-replicates", "jk{5..5}"], "does not say how many replicates there are"),
        (["--rho", "0.5"], "give their columns too"),
        ([*jk, "--errors", "full"], "two ways to standard errors"),
        (["--group-replicates", "jk{0..5}", "--replicates-are", "Fay"], "which is 0.5 in PISA"),
    ):
        status, _, err = run(capsys, "reml", *given, *options)
        assert status == 2
        assert told in err
        assert err.count("\n") == 1


def test_a_range_stands_for_every_number():
    assert list_replicates("w{8..10} / w{8..10}s") == ["w8 / w8s", "w9 / w9s", "w10 / w10s"]
    assert list_replicates("JR{01..03}") == ["JR01", "JR02", "JR03"]


@pytest.mark.parametrize(
    "given",
    [
        REPLICATES,
        bhlm.ReplicateWeights(
            rows=[f"w_fstr{r} / w_fschwt" for r in range(1, 81)], method="Fay", rho=0.5
        ),
        bhlm.ReplicateWeights(rows=["w01", "w02"], groups=["a", "b"], mse=False),
        bhlm.ReplicateWeights(groups={"s": ["v9", "v10", "v11"], "c": ["a {b}1", "x", "y"]}),
        bhlm.ReplicateWeights(groups=JK, method="JKn", rscales=[0.5] * GROUPS),
        bhlm.ReplicateWeights(groups=JK[:2], method="JKn", rscales=[0.5, 0.75]),
    ],
)
def test_the_code_of_replicate_weights_makes_them_again(given):
    assert eval(given.code, {"bhlm": bhlm}) == given


def make_nested() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    schools, classes, rows = 8, 3, 6
    s = np.repeat(np.arange(schools), classes * rows)
    c = np.repeat(np.arange(schools * classes), rows)
    x = rng.normal(size=len(s))
    y = 1.0 + x + rng.normal(size=schools)[s] + rng.normal(size=schools * classes)[c]
    weights = {
        "w": rng.uniform(1.0, 2.0, len(s)),
        "ws": rng.uniform(1.0, 2.0, schools)[s],
        "wc": rng.uniform(1.0, 2.0, schools * classes)[c],
    }
    weights |= {
        f"ws{r}": np.where(s == r, 0.0, weights["ws"] * schools / (schools - 1.0))
        for r in range(schools)
    }
    return pd.DataFrame({"s": s, "c": c, "x": x, "y": y + rng.normal(size=len(s))} | weights)


NESTED = "y ~ x + (1 | s) + (1 | c)"
NESTED_WEIGHTS = bhlm.SamplingWeights("w", {"s": "ws", "c": "wc"})
SCHOOLS = {"s": [f"ws{r}" for r in range(8)]}


def test_replicates_of_nested_factors_leave_each_school_out(tmp_path):
    table = make_nested()
    model = bhlm.Model(NESTED, table, weights=NESTED_WEIGHTS)
    fit = model.reml(method="ml", errors=bhlm.ReplicateWeights(groups=SCHOOLS, method="JK1"))
    without = np.array(
        [
            bhlm.Model(NESTED, table[table.s != r], weights=NESTED_WEIGHTS)
            .reml(method="ml")
            .estimates["estimate"]
            for r in range(8)
        ]
    )
    names = ["Intercept", "x", "var(Intercept|s)", "var(Intercept|c)", "var(Residual)"]
    gaps = without - fit.estimates["estimate"].to_numpy()
    by_hand = pd.Series(np.sqrt(7.0 / 8.0 * (gaps**2).sum(axis=0)), fit.estimates.index)
    np.testing.assert_allclose(fit.estimates["se"][names], by_hand[names], rtol=1e-4)
    np.testing.assert_allclose(fit.fixed_effects(method="z")["se"], by_hand[names[:2]], rtol=1e-4)
    assert "Standard errors by 8 replicate weights (JK1)." in " ".join(fit.summary().split())
    fit.dashboard(tmp_path / "page.html")
    told = (tmp_path / "page.json").read_text(encoding="utf-8")
    assert "groups={'s': [f'ws{r}' for r in range(8)]}" in told
    assert "Effective units of s" in told
    assert "could not be computed" not in told


def test_replicates_name_factors_that_have_weights():
    model = bhlm.Model(NESTED, make_nested(), weights=NESTED_WEIGHTS)
    with pytest.raises(ArgumentError, match="groups= is a list, and the model has weights of"):
        model.reml(method="ml", errors=bhlm.ReplicateWeights(groups=SCHOOLS["s"]))
    with pytest.raises(ArgumentError, match="replicates of t, of which the model has no weights"):
        model.reml(method="ml", errors=bhlm.ReplicateWeights(groups={"t": SCHOOLS["s"]}))


def test_commands_take_jkn_and_nested_factors(table, capsys, tmp_path):
    table.to_csv(tmp_path / "one.csv", index=False)
    status, *_ = run(
        capsys, "reml", "--data", str(tmp_path / "one.csv"), "--formula", FORMULA, "--method", "ml",
        "--group-weights", "w", "--group-replicates", "jk{0..5}", "--replicates-are", "JKn",
        "--rscales", f"{1.0 - 1.0 / GROUPS}", "--json", str(tmp_path / "one.json"),
    )  # fmt: skip
    assert status == 0
    found = json.loads((tmp_path / "one.json").read_text())["reml"]["estimates"]["x"]["se"]
    model = bhlm.Model(FORMULA, table, weights=bhlm.SamplingWeights(groups="w"))
    # With (R - 1) / R for each replicate JKn is JK1.
    by_jk1 = model.reml(method="ml", errors=REPLICATES).estimates.loc["x", "se"]
    assert found == pytest.approx(by_jk1, rel=1e-9)
    make_nested().to_csv(tmp_path / "two.csv", index=False)
    status, shown, _ = run(
        capsys, "reml", "--data", str(tmp_path / "two.csv"), "--formula", NESTED, "--method", "ml",
        "--weights", "w", "--group-weights", "s=ws; c=wc", "--group-replicates", "s=ws{0..7}",
        "--replicates-are", "JK1", "--dashboard", str(tmp_path / "two.html"),
    )  # fmt: skip
    assert status == 0
    assert "8 replicate weights (JK1)" in " ".join(shown.split())
