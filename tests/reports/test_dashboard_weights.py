"""Pages of fits with weights, known variances, and residual variances by stratum."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import run

import bhlm
from bhlm.errors import ArgumentError
from bhlm.reports.dashboard.groups import _about_means

pytestmark = pytest.mark.wide

FORMULA = "y ~ x + (1 | g)"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(25), 8)
    x, u = rng.normal(size=200), rng.normal(size=25)
    sex = np.tile(["F", "M"], 100)
    found = pd.DataFrame({"g": g, "x": x, "sex": sex, "w": rng.uniform(1, 3, 200)})
    found["wg"] = rng.uniform(1, 9, 25)[g]
    found["y"] = x + u[g] + np.where(sex == "F", 1.0, 2.5) * rng.normal(size=200)
    return found


@pytest.fixture(scope="module")
def studies() -> pd.DataFrame:
    return bhlm.load_dataset("expectancy")


def read_twin(page):
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def find_block(twin, section, name):
    (found,) = [each for each in twin["sections"] if each["name"] == section]
    (block,) = [each for each in found["blocks"] if each.get("name") == name]
    return block


def read_columns(block):
    return {column["name"]: column["values"] for column in block["columns"]}


def write_twin(fit, tmp_path):
    fit.dashboard(tmp_path / "page.html")
    twin = read_twin(tmp_path / "page.html")
    assert "could not be computed" not in json.dumps(twin["sections"])
    if not hasattr(fit, "diagnostics") and not hasattr(fit, "post"):  # draws have checks to come
        assert "not there yet" not in json.dumps(twin["sections"][0])
    return twin


def test_studies_lead_the_page_of_a_meta_analysis(studies, tmp_path):
    fit = bhlm.Model("effect ~ 1 + (1 | study)", studies, known_variance="variance").reml()
    twin = write_twin(fit, tmp_path)
    lead = read_columns(find_block(twin, "verdict", "studies"))
    np.testing.assert_allclose(sorted(lead["eb"]), sorted(fit.studies()["eb"]))
    facts = dict(find_block(twin, "verdict", "facts")["items"])
    found = fit.heterogeneity()
    assert facts["I²"] == f"{found.i2:.0f} %"
    assert f"Q, {found.df} df" in facts
    assert "ICC" not in facts
    shown = read_columns(find_block(twin, "verdict", "estimates"))
    assert shown["p"][0] == pytest.approx(fit.fixed_effects(method="z")["p"].iloc[0])
    assert "known_variance='variance'" in json.dumps(twin["sections"][-1])


def test_sampling_weights_tell_effective_sizes_and_test_by_z(table, tmp_path):
    weights = bhlm.SamplingWeights("w", "wg")
    fit = bhlm.Model(FORMULA, table, weights=weights).ml()
    twin = write_twin(fit, tmp_path)
    facts = dict(find_block(twin, "verdict", "facts")["items"])
    size = fit.moments.effective_size
    assert facts["Effective rows"] == f"{size['rows']:,.0f}"
    assert facts["Effective groups"] == f"{size['groups']:,.0f}"
    shown = read_columns(find_block(twin, "verdict", "conventions"))
    expected = fit.compare_conventions()
    for name in expected.attrs["programs"]:
        assert shown[name] == pytest.approx(list(expected[name]))
    block = find_block(twin, "verdict", "estimates")
    assert block["reading"].endswith("p is by z.")
    p = read_columns(block)["p"]
    np.testing.assert_allclose(p[:2], fit.fixed_effects(method="z")["p"])
    (checks,) = [section for section in twin["sections"] if section["name"] == "checks"]
    assert [each["heading"] for each in checks["blocks"]] == ["What was not checked"]
    lines = json.dumps(twin["sections"][-1])
    assert "weights=bhlm.SamplingWeights(rows='w', groups='wg', scaling='none')" in lines
    assert twin["outcome"]["headline"].startswith("The ML fit converged")


def test_each_stratum_has_its_residual_sd(table, tmp_path):
    fit = bhlm.Model(FORMULA, table, residual="sex").reml()
    twin = write_twin(fit, tmp_path)
    facts = dict(find_block(twin, "verdict", "facts")["items"])
    for level, value in fit.residual_variances.items():
        assert float(facts[f"Residual SD, sex {level}"]) == pytest.approx(np.sqrt(value), rel=5e-3)
    shown = read_columns(find_block(twin, "verdict", "estimates"))
    assert shown["parameter"][-2:] == ["sd(Residual|sex=F)", "sd(Residual|sex=M)"]
    assert [str(each) for each in fit.parameters] == list(fit.estimates.index)
    forest = read_columns(find_block(twin, "verdict", "forest"))
    assert forest["parameter"] == shown["parameter"]
    reading = find_block(twin, "verdict", "reml_estimates")["reading"]
    assert "The residual variances by sex differ" in reading
    assert "residual='sex'" in json.dumps(twin["sections"][-1])
    with pytest.raises(ArgumentError, match="rows=True is not there yet with residual='sex'"):
        fit.dashboard(tmp_path / "page.html", rows=True)


@pytest.mark.parametrize("asked", [["--weights", "w"], ["--residual", "sex"]])
def test_a_command_writes_the_page_and_says_itself(table, asked, tmp_path, capsys):
    table.to_csv(tmp_path / "rows.csv", index=False)
    page = tmp_path / "page.html"
    given = ["--data", tmp_path / "rows.csv", "--formula", FORMULA, *asked, "--dashboard", page]
    assert run(capsys, "reml", *given)[0] == 0
    assert " ".join(asked) in json.dumps(read_twin(page)["sections"][-1])


def test_a_meta_analysis_has_pages_of_its_posterior(studies, tmp_path):
    """There is no residual SD whose draws, profile or prior could be shown."""
    model = bhlm.Model("effect ~ 1 + (1 | study)", studies, known_variance="variance")
    post = model.sample(seed=1, draws=400, tune=400)
    for fit in (post, bhlm.reconcile(model.reml(), post)):
        fit.dashboard(tmp_path / "page.html")
        twin = read_twin(tmp_path / "page.html")
        assert "could not be computed" not in json.dumps(twin["sections"])
        names = [section["name"] for section in twin["sections"]]
        assert {"verdict", "convergence", "groups", "checks", "priors"} <= set(names)
        # The priors are judged; replicates of the rows are not there, and the page says so.
        assert twin["outcome"]["findings"]["priors"]["status"] != "unknown"
        assert "not checked by replicates" in json.dumps(twin["outcome"]["findings"])
    curves = bhlm.reconcile(model.reml(), post).curves(points=5)
    assert set(curves["parameter"]) == {"var(Intercept|study)", "sd(Intercept|study)"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "outcome", [{"weights": bhlm.SamplingWeights("w", "wg")}, {"residual": "sex"}], ids=str
)
def test_posteriors_have_pages_too(table, outcome, tmp_path):
    post = bhlm.Model(FORMULA, table, **outcome).sample(seed=1, draws=500, tune=500)
    twin = write_twin(post, tmp_path)
    titles = [section["name"] for section in twin["sections"]]
    assert {"verdict", "convergence", "groups", "checks", "priors", "reproduction"} <= set(titles)


@pytest.mark.wide
@pytest.mark.parametrize("kind", ["sampling", "known"])
def test_reconciliations_have_pages(kind, table, studies, tmp_path):
    if kind == "known":
        model = bhlm.Model("effect ~ 1 + (1 | study)", studies, known_variance="variance")
    else:
        model = bhlm.Model(FORMULA, table, weights=bhlm.SamplingWeights("w", "wg"))
    fit = model.reml(method="reml" if kind == "known" else "ml")
    both = bhlm.reconcile(fit, model.sample(seed=1, draws=500, tune=500))
    twin = write_twin(both, tmp_path)
    names = [block.get("name") for section in twin["sections"] for block in section["blocks"]]
    text = json.dumps(twin["sections"])
    if kind == "known":
        curves = both.curves()
        assert set(curves["parameter"]) == {"sd(Intercept|study)", "var(Intercept|study)"}
        assert "curves" in names
        assert "residual SD is" not in text
        assert "compare_conventions" not in text
    else:
        assert "curves" not in names
        assert "by REML" not in text
        with pytest.raises(ArgumentError, match="is no likelihood of the rows"):
            both.curves()


@pytest.mark.wide
def test_reconciliations_by_stratum_have_pages(table, tmp_path):
    model = bhlm.Model(FORMULA, table, residual="sex")
    post = model.sample(seed=1, draws=200, tune=200)
    page = tmp_path / "page.html"
    write_twin(post, tmp_path)
    with pytest.raises(ArgumentError, match="rows=True is not there yet with residual='sex'"):
        post.dashboard(page, rows=True)
    both = bhlm.reconcile(model.reml(), post)
    twin = write_twin(both, tmp_path)
    names = [block.get("name") for section in twin["sections"] for block in section["blocks"]]
    assert "attribution_shares" in names
    assert "curves" not in names
    shown = read_columns(find_block(twin, "verdict", "estimates"))
    assert {"sd(Residual|sex=F)", "sd(Residual|sex=M)"} < set(shown["parameter"])
    tests = both.reml.fixed_effects(method="z")
    assert shown["p"][:2] == pytest.approx(list(tests["p"]))
    facts = dict(find_block(twin, "verdict", "facts")["items"])
    assert "Residual SD, sex M" in facts
    assert "residual='sex'" in json.dumps(twin["sections"][-1])
    both.dashboard(page, df="z")
    shown = read_columns(find_block(read_twin(page), "verdict", "fixed_tests"))
    assert shown["p"] == pytest.approx(list(tests["p"]))
    assert both.to_dict(df="z")["reml"]["fixed_effects"]["df_method"] == "z"
    for refused in (
        lambda: both.dashboard(page, df="satterthwaite"),
        lambda: both.to_dict(df="hlm"),
        lambda: both.reml.fixed_effects(method="cr2"),
        lambda: both.reml.summary(df="cr0"),
    ):
        with pytest.raises(ArgumentError, match="whose ratios are estimates too; take 'z'"):
            refused()
    with pytest.raises(ArgumentError, match="rows=True is not there yet with residual='sex'"):
        both.dashboard(page, rows=True)


def test_the_axes_of_a_group_do_not_depend_on_the_size_of_weights(table):
    """A range of two SDs about the means is one of rows, whatever their weights add up to."""
    heavy = table.assign(w=1e3 * table["w"])
    ranges = [
        [_about_means(moments, moments.columns.index(name)) for name in ("x", "y")]
        for moments in (
            bhlm.Model(FORMULA, rows, weights=bhlm.SamplingWeights("w")).moments
            for rows in (table, heavy)
        )
    ]
    np.testing.assert_allclose(ranges[1], ranges[0], rtol=1e-9)
    assert ranges[0][1][1] < table["y"].max() + 2.0 * table["y"].std()


def test_units_of_nested_factors_are_shown_under_sampling_weights(tmp_path):
    rng = np.random.default_rng(6)
    school, room = np.repeat(np.arange(12), 12), np.repeat(np.arange(36), 4)
    table = pd.DataFrame({"school": school, "room": room, "x": rng.normal(size=144)})
    table["y"] = table["x"] + rng.normal(size=12)[school] + rng.normal(size=36)[room]
    table["y"] += rng.normal(size=144)
    table["w"], table["W"] = rng.uniform(1, 3, 144), rng.uniform(1, 3, 12)[school]
    weights = bhlm.SamplingWeights("w", {"school": "W"})
    fit = bhlm.Model("y ~ x + (1 | school/room)", table, weights=weights).reml(method="ml")
    fit.dashboard(tmp_path / "page.html")
    text = (tmp_path / "page.json").read_text(encoding="utf-8")
    assert "Effects of school:room" in text
    assert "Empirical Bayes and its SD given the estimates, of 36 units" in text
    assert "standard error of prediction" not in text
