"""REML and ML of several grouping factors: printed values, dense algebra, boundaries, refusals."""

import json
import pickle
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import check_refusal, run
from scipy import stats

import bhlm
from bhlm.errors import ArgumentError, BhlmError, FormulaError, IdentifiabilityError
from bhlm.fits.levels_fit import PLURAL, LevelsFit
from bhlm.fits.model import Model
from bhlm.likelihood.cells import whiten_cells
from bhlm.reml.level_search import LevelsProblem, maximize_levels

FOLDER = Path(__file__).parents[1] / "reference" / "levels"
PRODUCTIVITY = "gsp ~ private + emp + hwy + water + other + unemp + "
CASES = {
    "productivity": PRODUCTIVITY + "(1 | region/state)",
    "productivity slopes": PRODUCTIVITY
    + "(0 + hwy + unemp || region) + (1 | region) + (1 | state)",
    "pastes": "strength ~ 1 + (1 | batch/cask)",
    "penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
}
# lme4 1.1.31, each log-likelihood to the digits that it stops at.
LOGLIKS = {
    ("productivity", "ml"): 1430.501593,
    ("productivity", "reml"): 1404.710042,
    ("pastes", "reml"): -123.495373,
    ("penicillin", "reml"): -165.430294,
}
LME4 = 1e-6


@cache
def load(name: str) -> pd.DataFrame:
    """Return one of the tables."""
    if name.startswith("productivity"):
        raw = pd.read_csv(FOLDER / "produc.csv")
        logs = raw[["hwy", "water", "gsp", "emp"]].apply(np.log)
        rest = {"private": np.log(raw["pc"]), "other": np.log(raw["util"])}
        return raw[["state", "region", "unemp"]].join(logs).assign(**rest)
    return pd.read_csv(FOLDER / f"{name}.csv")


@cache
def fit(name: str, method: str = "reml") -> LevelsFit:
    """Return the fit of a case."""
    return Model(CASES[name], load(name)).reml(method=method)


def agrees(value: float, printed: str, *, units: float = 0.5) -> bool:
    """Whether a value is within so many units of the last digit of what was printed."""
    decimals = len(printed.partition(".")[2])
    return abs(value - float(printed)) <= 1.001 * units * 10.0**-decimals


# Stata [ME] mixed manual, Examples 4 and 5, by ML.
PRINTED = {
    "productivity": {
        "loglik": "1430.5017",
        "private": (".2671484", ".0212591"),
        "emp": (".7540721", ".0261868"),
        "hwy": (".0709767", ".023041"),
        "water": (".0761187", ".0139248"),
        "other": ("-.0999955", ".0169366"),
        "unemp": ("-.0058983", ".0009031"),
        "Intercept": ("2.128823", ".1543855"),
        "var(Intercept|region)": (".0014506", ".0012995"),
        "var(Residual)": (".0013461", ".0000689"),
    },
    "productivity slopes": {
        "loglik": "1447.6787",
        "var(hwy|region)": (".0000209", ".0001103"),
        "var(unemp|region)": (".0000238", ".0000135"),
        "var(Intercept|region)": (".0030349", ".0086684"),
        "var(Intercept|state)": (".0063658", ".0015611"),
        "var(Residual)": (".0012469", ".0000643"),
    },
}
# The likelihood of Example 5 is flat along its components: Stata's optimiser stops where the
# log-likelihood has all printed digits and these have three.
FLAT = 5e-3
# Stata's data are floats, and R's are not: that is worth a unit or so of the last digits.
FLOATS = 1.5
# MixedModels.jl, test/pls.jl at 2228a9a, by ML: minus twice the log-likelihood, and estimates.
JULIA = {
    "pastes": {
        "objective": "247.9944658624955",
        "Intercept": ("60.0533333333333", "0.6421355774401101"),
        "sd(Intercept|batch:cask)": ("2.90407793598792",),
        "sd(Intercept|batch)": ("1.0950608007768226",),
        "sd(Residual)": ("0.8234073887751603",),
    },
    "penicillin": {
        "objective": "332.1883486700085",
        "Intercept": ("22.97222222222222", "0.7446037806555799"),
        "sd(Intercept|plate)": ("0.845571948075415",),
        "sd(Intercept|sample)": ("1.770666460750787",),
        "sd(Residual)": ("0.549931906953287",),
    },
}
# Their search ends some 1e-9 above the minimum, where estimates have five digits.
STOPPED = 2e-5


@pytest.mark.parametrize("name", PRINTED)
def test_published_values_are_reproduced_by_ml(name):
    floats = {key: np.float32 for key, kind in load(name).dtypes.items() if kind == np.float64}
    table = load(name).astype(floats).astype(dict.fromkeys(floats, np.float64))
    rounded = Model(CASES[name], table).reml(method="ml")
    rows = dict(PRINTED[name])
    assert agrees(rounded.loglik, rows.pop("loglik"))
    found = fit(name, "ml")
    assert found.converged
    assert not found.singular
    table = found.estimates
    for parameter, both in rows.items():
        for key, printed in zip(("estimate", "se"), both, strict=False):
            value = float(table.loc[parameter, key])
            if name == "productivity slopes" and parameter != "var(Residual)":
                assert value == pytest.approx(float(printed), rel=FLAT), parameter
            else:
                assert agrees(value, printed, units=FLOATS), (parameter, key, value, printed)


@pytest.mark.parametrize("name", JULIA)
def test_mixedmodels_stops_no_lower(name):
    found, rows = fit(name, "ml"), dict(JULIA[name])
    theirs = float(rows.pop("objective"))
    assert -2.0 * found.loglik == pytest.approx(theirs, abs=1e-8)
    assert -2.0 * found.loglik <= theirs + 1e-10
    for parameter, both in rows.items():
        for key, printed in zip(("estimate", "se"), both, strict=False):
            value = found.estimates.loc[parameter, key]
            assert value == pytest.approx(float(printed), rel=STOPPED), parameter


@pytest.mark.parametrize(("name", "method"), LOGLIKS)
def test_the_maximum_is_lme4s(name, method):
    assert fit(name, method).loglik == pytest.approx(LOGLIKS[name, method], abs=LME4)


def dense_deviance(table: pd.DataFrame, gs, sigma2: float, *, restricted: bool) -> float:
    """Return minus twice the log-likelihood of Pastes by n x n algebra, beta being GLS."""
    v = sigma2 * np.eye(len(table))
    for label, g in zip((table["batch"], table["sample"]), gs, strict=True):
        v += g * (label.to_numpy()[:, None] == label.to_numpy())
    y, x = table["strength"].to_numpy(), np.ones((len(table), 1))
    inverse = np.linalg.inv(v)
    weight = x.T @ inverse @ x
    r = y - x @ np.linalg.solve(weight, x.T @ inverse @ y)
    value = np.linalg.slogdet(v)[1] + r @ inverse @ r
    value += np.linalg.slogdet(weight)[1] if restricted else 0.0
    return float(value + (len(y) - restricted) * np.log(2.0 * np.pi))


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_standard_errors_are_the_dense_observed_information(method):
    found, table, restricted = fit("pastes", method), load("pastes"), method == "reml"
    at = np.array([*(float(g[0, 0]) for g in found.gs), found.sigma2])

    def deviance(point):
        return dense_deviance(table, point[:2], point[2], restricted=restricted)

    assert found.loglik == pytest.approx(-0.5 * deviance(at), abs=1e-9)
    steps = 1e-3 * at
    hessian = np.empty((3, 3))
    for a in range(3):
        for b in range(3):
            one, other = steps[a] * np.eye(3)[a], steps[b] * np.eye(3)[b]
            corners = (deviance(at + s * one + t * other) * s * t for s in (1, -1) for t in (1, -1))
            hessian[a, b] = sum(corners) / (4.0 * steps[a] * steps[b])
    expected = np.linalg.inv(0.5 * hessian)
    # Second differences with steps of a thousandth have errors of the fourth order.
    np.testing.assert_allclose(found.variance_cov, expected, rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.parametrize("name", CASES)
def test_gradient_vanishes_and_random_starts_end_no_higher(name):
    found = fit(name)
    white = whiten_cells(found.moments, found.structures)
    problem = LevelsProblem(white, found.structures, restricted=True)
    value, gradient = problem.value_and_gradient(found.theta)
    assert np.abs(gradient).max() < 1e-6
    rng = np.random.default_rng(1)
    for _ in range(2):
        start = found.theta * rng.lognormal(sigma=1.0, size=len(found.theta))
        again = maximize_levels(white, found.structures, restricted=True, start=start)
        assert again.criterion.at.value >= value - 1e-6


def test_the_quasi_newton_search_of_many_levels_ends_where_newtons_does():
    rng = np.random.default_rng(2)
    subject, item = rng.integers(0, 400, 3000), rng.integers(0, 320, 3000)
    x = rng.normal(size=3000)
    u, v = 0.8 * rng.normal(size=400), 0.5 * rng.normal(size=320)
    y = x + u[subject] + v[item] + rng.normal(size=3000)
    data = pd.DataFrame({"y": y, "x": x, "subject": subject, "item": item})
    found = Model("y ~ x + (1 | subject) + (1 | item)", data).reml()
    assert found.white.levels.bends_dearly
    assert found.converged
    problem = LevelsProblem(found.white, found.structures, restricted=True)
    step = np.linalg.solve(problem.hessian(found.theta), found.gradient)
    np.testing.assert_allclose(step, 0.0, atol=1e-8)


def simulate(seed=3, *, spread=(0.0, 1.0)) -> pd.DataFrame:
    """Return rows of 8 classes in each of 6 schools, with the SDs of schools and of classes."""
    rng = np.random.default_rng(seed)
    school = np.repeat(np.arange(6), 40)
    label = np.tile(np.repeat(np.arange(8), 5), 6)
    x = rng.normal(size=240)
    u = spread[0] * rng.normal(size=6)
    v = spread[1] * rng.normal(size=48)
    y = 1.0 + x + u[school] + v[8 * school + label] + rng.normal(size=240)
    return pd.DataFrame({"y": y, "x": x, "school": school, "class": label})


def test_a_variance_of_zero_is_a_result_with_advice():
    for seed in range(3, 20):
        found = Model("y ~ x + (1 | school/class)", simulate(seed)).reml()
        if found.singular:
            break
    assert found.singular
    assert found.converged
    assert "var(Intercept|school) = 0" in found.advice
    table = found.estimates
    assert table.loc["var(Intercept|school)", "estimate"] == 0.0
    assert np.isnan(table.loc["var(Intercept|school)", "se"])
    # It is then the fit of the classes alone.
    data = simulate(seed)
    alone = Model("y ~ x + (1 | k)", data.assign(k=8 * data["school"] + data["class"])).reml()
    assert found.loglik == pytest.approx(alone.loglik, abs=1e-8)
    for ours, theirs in (("var(Intercept|school:class)", "var(Intercept|k)"), ("x", "x")):
        for key in ("estimate", "se"):
            expected = alone.estimates.loc[theirs, key]
            assert table.loc[ours, key] == pytest.approx(expected, rel=1e-6)
    assert "singular" not in found.summary()
    assert "var(Intercept|school) = 0" in found.summary()


def test_order_of_rows_factors_and_labels_does_not_matter():
    data = simulate(spread=(0.8, 0.6))
    first = Model("y ~ x + (1 | school/class)", data).reml()
    turned = data.sample(frac=1.0, random_state=1).assign(school=lambda t: 100 - t["school"])
    second = Model("y ~ x + (1 | class:school) + (1 | school)", turned).reml()
    assert second.loglik == pytest.approx(first.loglik, abs=1e-9)
    assert second.estimates.loc["var(Intercept|class:school)", "estimate"] == pytest.approx(
        first.estimates.loc["var(Intercept|school:class)", "estimate"], rel=1e-6
    )


def test_effects_by_factor_are_the_dense_ones():
    found, table = fit("penicillin"), load("penicillin")
    n = len(table)
    wide = [pd.get_dummies(table[name]).to_numpy(float) for name in ("plate", "sample")]
    z = np.hstack(wide)
    variances = [float(g[0, 0]) for g in found.gs]
    g = np.diag(np.repeat(variances, [each.shape[1] for each in wide]))
    inverse = np.linalg.inv(z @ g @ z.T + found.sigma2 * np.eye(n))
    x, y = np.ones((n, 1)), table["diameter"].to_numpy()
    beta_cov = np.linalg.inv(x.T @ inverse @ x)
    u = g @ z.T @ inverse @ (y - x[:, 0] * found.beta[0])
    given = g - g @ z.T @ inverse @ z @ g
    carried = g @ z.T @ inverse @ x
    whole = given + carried @ beta_cov @ carried.T
    effects = found.group_effects()
    np.testing.assert_allclose(found.beta_cov, beta_cov, rtol=1e-8)
    np.testing.assert_allclose(effects["estimate"], u, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(effects["sd"], np.sqrt(np.diag(given)), rtol=1e-8)
    np.testing.assert_allclose(effects["pev"], np.diag(whole), rtol=1e-8)
    assert effects["factor"].tolist() == ["plate"] * 24 + ["sample"] * 6
    alone = found.group_effects("sample")
    assert list(alone.columns) == ["sample", "coefficient", "estimate", "sd", "pev"]
    assert alone["sample"].tolist() == list("ABCDEF")
    with pytest.raises(ArgumentError, match="factor='batch' is not a grouping factor"):
        found.group_effects("batch")


def test_icc_adds_up_what_levels_share():
    nested, crossed = fit("pastes").icc(), fit("penicillin").icc()
    assert nested["share"].sum() == pytest.approx(1.0)
    assert nested.loc["batch:cask", "icc"] == pytest.approx(1.0 - nested.loc["Residual", "share"])
    assert nested.loc["batch", "icc"] == nested.loc["batch", "share"]
    assert (crossed["icc"] == crossed["share"]).tolist() == [True, True, False]
    variance = fit("pastes").estimates.loc["var(Intercept|batch)", "estimate"]
    assert nested.loc["batch", "variance"] == pytest.approx(variance)


def test_structures_hold_for_every_factor():
    data = simulate(spread=(0.8, 0.6))
    formula = "y ~ x + (x | school/class)"
    free = Model(formula, data).reml()
    apart = Model(formula.replace("x |", "x ||"), data).reml()
    forced = Model(formula, data).reml(covariance="independent")
    assert len(free.parameters) - len(apart.parameters) == 4
    assert forced.loglik == pytest.approx(apart.loglik, abs=1e-8)
    assert free.loglik > apart.loglik
    names = list(map(str, free.parameters))
    assert "cov(Intercept,x|school:class)" in names
    assert "corr(Intercept,x|school)" in names


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (
            "y ~ x + (1 | school) + (1 | twin)",
            "'school' and 'twin' divide the rows into the same 6",
        ),
        ("y ~ x + (1 | school) + (1 | row)", "'row' has a level for each of the 240 rows"),
        ("y ~ x + (1 + w | school) + (1 | class)", "'w' never varies within any 'school'"),
        (
            "y ~ x + C(school) + (1 | school) + (1 | class)",
            r"does not depend on var\(Intercept\|school\); drop random terms",
        ),
    ],
)
def test_what_the_rows_cannot_tell_is_refused(formula, message):
    data = simulate(spread=(1.0, 1.0))
    data = data.assign(twin=-data["school"], row=np.arange(240), w=data["school"] % 2.0)
    with pytest.raises(IdentifiabilityError, match=message):
        Model(formula, data).reml()


def test_a_slope_of_single_rows_is_a_variance_that_depends_on_its_column():
    rng = np.random.default_rng(5)
    data = simulate(spread=(1.0, 1.0)).assign(row=np.arange(240))
    data["y"] += 1.5 * rng.normal(size=240) * data["x"]
    found = Model("y ~ x + (1 | school) + (0 + x | row)", data).reml()
    tau, slope = (float(g[0, 0]) for g in found.gs)
    same = np.equal.outer(data["school"].to_numpy(), data["school"].to_numpy())
    x, y = np.column_stack([np.ones(240), data["x"]]), data["y"].to_numpy()

    def restricted(tau, slope, sigma2):
        v = tau * same + np.diag(slope * x[:, 1] ** 2 + sigma2)
        inverse = np.linalg.inv(v)
        c = np.linalg.inv(x.T @ inverse @ x)
        left = y - x @ (c @ x.T @ inverse @ y)
        logdets = np.linalg.slogdet(v)[1] - np.linalg.slogdet(c)[1]
        return -0.5 * (238 * np.log(2 * np.pi) + logdets + left @ inverse @ left)

    at = np.array([tau, slope, found.sigma2])
    assert slope > 0.5
    assert found.loglik == pytest.approx(restricted(*at), abs=1e-7)
    for i in range(3):
        for factor in (0.97, 1.03):
            assert restricted(*np.where(np.arange(3) == i, factor * at, at)) < found.loglik
    signs = data.assign(x=np.where(data["x"] > 0.0, 1.0, -1.0))
    for formula in ("y ~ x + (1 | school) + (0 + x | row)", "y ~ x + (1 | school) + (x | row)"):
        with pytest.raises(
            IdentifiabilityError, match="'row' has a level for each of the 240 rows"
        ):
            Model(formula, signs).reml()


def test_every_style_names_every_factor():
    found = fit("productivity slopes")
    for style in ("stata", "hlm", "lme4"):
        text = found.summary(style=style)
        for word in ("region", "state", "unemp"):
            assert word in text
    stata = fit("productivity", "ml").summary()
    assert "Log likelihood = 1430.5016" in stata
    assert "         region |        9         51       90.7        136" in stata
    assert " var(_cons) |   .0014506   .0012995" in stata
    assert ", nested, " in repr(fit("pastes"))
    assert ", crossed, " in repr(fit("penicillin"))
    assert "Groups     " in fit("pastes").summary(style="lme4")
    with pytest.raises(ArgumentError, match="style='sas' is not known"):
        found.summary(style="sas")


def test_what_is_not_there_yet_is_refused_in_one_sentence():
    found = fit("pastes")
    model = Model(CASES["pastes"], load("pastes"))
    asked = [
        lambda: found.test_homogeneity(),
        lambda: model.moments,
    ]
    for ask in asked:
        with pytest.raises(BhlmError, match="not there yet for several grouping factors") as caught:
            ask()
        assert "batch and batch:cask" in str(caught.value)
    with pytest.raises(BhlmError, match="is not a BayesFit or a LevelBayesFit"):
        bhlm.reconcile(found, found)
    assert not hasattr(found, "coefficients")
    with pytest.raises(AttributeError, match="has no 'nothing'"):
        _ = found.nothing
    assert pickle.loads(pickle.dumps(found)).estimates.equals(found.estimates)
    with pytest.raises(FormulaError, match=r"cwc\(strength, batch\)|is used again"):
        Model("strength ~ cwc(strength) + (1 | batch/cask)", load("pastes"))


def test_the_command_line_fits_and_refuses(tmp_path, capsys):
    path, out = FOLDER / "pastes.csv", tmp_path / "out.json"
    asked = ["--data", str(path), "--formula", CASES["pastes"]]
    status, text, _ = run(capsys, "reml", *asked, "--json", out)
    assert status == 0
    assert "batch:cask: Identity" in text
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["model"]["groups"] == {"batch": 10, "batch:cask": 30}
    assert content["model"]["pattern"] == "nested"
    assert content["reml"]["loglik"] == pytest.approx(fit("pastes").loglik)
    status, text, _ = run(capsys, "reml", *asked, "--df", "satterthwaite")
    assert status == 0
    assert "Tests of fixed effects by satterthwaite:" in text
    check_refusal(run(capsys, "reml", *asked, "--df", "hlm"), "method='hlm'")


SCRIPT = """
suppressMessages(library(lme4))
data("egsingle", package = "mlmRev")
write.csv(egsingle, file.path(commandArgs(TRUE)[1], "egsingle.csv"), row.names = FALSE)
for (reml in c(TRUE, FALSE)) {
  fit <- lmer(math ~ year + (year | schoolid) + (year | childid), egsingle, REML = reml)
  cat(sprintf("%.10f\n", as.numeric(logLik(fit))))
}
"""


@pytest.mark.slow
def test_growth_of_pupils_in_schools_equals_lme4(tmp_path):
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    (tmp_path / "fit.R").write_text(SCRIPT, encoding="utf-8")
    command = ["Rscript", str(tmp_path / "fit.R"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "there is no package" in done.stderr:
        pytest.skip(f"R lacks a package: {done.stderr.strip()[-80:]}")
    assert done.returncode == 0, done.stderr
    theirs = [float(line) for line in done.stdout.split()]
    data = pd.read_csv(tmp_path / "egsingle.csv")
    model = Model("math ~ year + (year | schoolid) + (year | childid)", data)
    for method, expected in zip(("reml", "ml"), theirs, strict=True):
        found = model.reml(method=method)
        assert found.loglik == pytest.approx(expected, abs=LME4)
        assert found.loglik >= expected - 1e-8
    # lme4 1.1.31, computed once; the variances to what its optimiser leaves of them.
    assert found.loglik == pytest.approx(-8163.115558, abs=LME4)
    assert found.estimates.loc["var(Intercept|childid)", "estimate"] == pytest.approx(
        0.64045383965, rel=1e-4
    )
    assert stats.chi2.sf(found.lr_test["chi2"], 6) == found.lr_test["p"]


def test_every_source_and_kind_of_label_gives_the_same_fit(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    table, expected = load("pastes"), fit("pastes").loglik
    table.to_parquet(tmp_path / "pastes.parquet")
    query = f"select * from '{tmp_path / 'pastes.parquet'}'"
    sources = {
        "categories": table.astype({"batch": "category", "cask": "category"}),
        "parquet": tmp_path / "pastes.parquet",
        "csv": FOLDER / "pastes.csv",
        "duckdb": duckdb.sql(query),
    }
    for name, source in sources.items():
        found = Model(CASES["pastes"], source).reml()
        assert found.loglik == pytest.approx(expected, abs=1e-10), name
    alone = Model("strength ~ 1 + (1 | batch:cask)", table).reml()
    plain = Model("strength ~ 1 + (1 | sample)", table).reml()
    assert alone.loglik == pytest.approx(plain.loglik, abs=1e-9)


def test_what_has_another_name_for_several_factors_is_refused_with_it() -> None:
    """A refusal that says "not there yet" is true: what is there by factor is named."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"y": rng.normal(size=60), "a": np.arange(60) % 6, "b": np.arange(60) % 5})
    fit = Model("y ~ 1 + (1 | a) + (1 | b)", table).reml()
    for name, instead in PLURAL.items():
        assert not hasattr(fit, name)
        assert hasattr(fit, instead.partition("(")[0])
        with pytest.raises(ArgumentError, match="has 2; fit") as caught:
            getattr(fit, name)
        assert str(caught.value).endswith(f"fit.{instead} has it for each")
        assert "\n" not in str(caught.value)
