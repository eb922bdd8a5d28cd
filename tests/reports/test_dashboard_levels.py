"""The page of a fit of several grouping factors, and the caterpillar of one of them."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from command_line import run
from level_designs import FORMULAS, make_table
from level_posteriors import draw_fit

from bhlm.errors import ArgumentError
from bhlm.fits.level_bayes_fit import LevelBayesFit
from bhlm.fits.model import Model
from bhlm.fits.saved import load
from bhlm.plots.level_caterpillar import plot_factor, tabulate_factor
from bhlm.sources.gallery import find_model, load_data


@cache
def fit(name):
    entry = find_model(name)
    return Model(entry.formula, load_data(entry)).reml()


@pytest.mark.parametrize("name", ["pastes", pytest.param("penicillin", marks=pytest.mark.slow)])
def test_one_command_goes_from_rows_to_a_page(name, tmp_path, capsys):
    page = tmp_path / "page.html"
    entry = find_model(name)
    path = tmp_path / "rows.csv"
    load_data(entry).to_csv(path, index=False)
    asked = ["reml", "--data", path, "--formula", entry.formula, "--dashboard", page]
    assert run(capsys, *map(str, asked))[0] == 0
    text = page.read_text(encoding="utf-8")
    assert entry.formula.split("~")[0] in text
    twin = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert twin["outcome"]["label"] == "Converged"
    assert twin["model"]["groups"] == fit(name).moments.groups
    titles = {
        block["title"]
        for section in twin["sections"]
        for block in section["blocks"]
        if "title" in block
    }
    for factor in fit(name).moments.groups:
        assert {f"Effects of {factor}", f"Effects of each {factor}, in order"} <= titles
    lines = json.dumps(twin["sections"])
    assert "bhlm reml --data" in lines
    assert json.dumps(twin["holds"]).count("No single row") == 1


def test_the_table_of_a_factor_is_its_effects():
    found = fit("pastes")
    table = tabulate_factor(found, "batch:cask")
    effects = found.group_effects("batch:cask")
    assert table["group"].tolist() == [
        f"{batch}:{cask}" for batch, cask in zip(effects["batch"], effects["cask"], strict=True)
    ]
    assert table["n"].unique().tolist() == [2]
    np.testing.assert_array_equal(table["u"], effects["estimate"])
    np.testing.assert_allclose(table["u_se"] ** 2, effects["pev"])


def test_the_caterpillar_draws_one_factor_or_one_units_children():
    found = fit("pastes")
    whole = plot_factor(found, "batch:cask")
    assert len(whole.table) == 30
    assert whole.title == "Effects of each batch:cask, in order"
    inside = found.plot_effects("batch:cask", within={"batch": "C"})
    assert sorted(inside.table["group"]) == ["C:a", "C:b", "C:c"]
    assert inside.table["rank"].tolist() == [1, 2, 3]
    crossed = fit("scots_sec").plot_effects("primary", within={"second": 3})
    rows = load_data(find_model("scots_sec"))
    feeding = rows.loc[rows["second"] == 3, "primary"].unique()
    assert len(crossed.table) == len(feeding)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"factor": "cask"}, "factor='cask' is not a grouping factor; choose one of batch"),
        ({"factor": "batch", "coefficient": "x"}, "coefficient='x' does not vary over 'batch'"),
        ({"factor": "batch", "within": {"lot": 1}}, "names no grouping column; choose one of"),
        ({"factor": "batch", "within": {"batch": "Z"}}, "'Z' is not a label of 'batch'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked, message):
    with pytest.raises(ArgumentError, match=message):
        plot_factor(fit("pastes"), asked.pop("factor"), **asked)


def read_twin(page):
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def list_titles(twin):
    return {
        block["title"]
        for section in twin["sections"]
        for block in section["blocks"]
        if "title" in block
    }


@pytest.mark.slow
def test_the_page_of_a_posterior_has_every_factor(tmp_path):
    post = draw_fit("two nested")
    page = tmp_path / "page.html"
    post.dashboard(page)
    twin = read_twin(page)
    assert [section["name"] for section in twin["sections"]] == [
        "verdict", "convergence", "groups", "checks", "priors", "reproduction",
    ]  # fmt: skip
    assert twin["model"]["groups"] == {"school": 7, "school:klass": 21}
    titles = list_titles(twin)
    assert {"Effects of school", "Where the variance lies, by the posterior"} <= titles
    assert not any("could not be computed" in str(section) for section in twin["sections"])
    (table,) = [
        block
        for section in twin["sections"]
        for block in section["blocks"]
        if block.get("name") == "effects_1"
    ]
    values = {column["name"]: column["values"] for column in table["columns"]}
    np.testing.assert_allclose(values["posterior mean"], post.group_effects("school:klass")["mean"])
    assert "u" not in values


@pytest.mark.wide
@pytest.mark.parametrize("has_rows", [True, False])
def test_the_model_is_checked_with_rows_and_without(has_rows, tmp_path):
    """The rows' PIT where they are at hand, else that of the units' means; both judge the model."""
    model = Model(FORMULAS["two nested"], make_table("two nested"))
    drawn = draw_fit("two nested", draws=200)
    sound = replace(drawn, diagnostics=replace(drawn.diagnostics, ok=True, failures=()))
    post = LevelBayesFit.of(sound, model=model if has_rows else None)
    post.dashboard(tmp_path / "page.html")
    twin = read_twin(tmp_path / "page.html")
    assert twin["outcome"]["findings"]["model_checks"]["status"] != "unknown"
    titles = list_titles(twin)
    assert "Statistics of each school and replicates of them" in titles
    assert ("LOO-PIT of the rows" if has_rows else "PIT of the groups' means") in titles
    facts = next(
        dict(block["items"])
        for section in twin["sections"]
        for block in section["blocks"]
        if block.get("name") == "facts"
    )
    assert {"ICC of school", "ICC of school:klass", "R², marginal", "R², conditional"} <= set(facts)


def test_the_caterpillar_of_a_posterior():
    post = draw_fit("crossed")
    effects = post.group_effects("rater")
    drawn = post.plot_effects("rater", coefficient="x").table
    own = effects.loc[effects["coefficient"] == "x", "mean"]
    np.testing.assert_allclose(drawn["mean"], np.sort(own))
    inside = post.plot_effects("rater", within={"item": 3})
    assert set(inside.table["coefficient"]) == {"Intercept", "x"}


SHORT = ("--draws", "500", "--tune", "500")  # tail ESS of 400 is asked for


def check_page(page):
    """Check the page of both fits of several factors, and return its numbers."""
    twin = read_twin(page)
    assert [section["name"] for section in twin["sections"]] == [
        "verdict", "reconciliation", "convergence", "groups", "checks", "priors", "reproduction",
    ]  # fmt: skip
    assert twin["reconciliation"]["verdict"] in ("agree", "explained")
    assert not any("could not be computed" in str(section) for section in twin["sections"])
    for factor in twin["model"]["groups"]:
        assert f"Effects of {factor}" in list_titles(twin)
    return twin


@pytest.mark.slow
def test_commands_sample_save_and_show_several_factors(tmp_path, capsys):
    kept, page = tmp_path / "fit.zarr", tmp_path / "page.html"
    run(capsys, "sample", "pastes", "--save", str(kept), *SHORT)
    run(capsys, "dashboard", str(kept), "--output", str(page))
    twin = check_page(page)
    (table,) = [
        block
        for section in twin["sections"]
        for block in section["blocks"]
        if block.get("name") == "posterior_estimates"
    ]
    values = {column["name"]: column["values"] for column in table["columns"]}
    np.testing.assert_allclose(values["mean"], load(kept).estimates["mean"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pastes", "penicillin"])
def test_a_command_goes_from_a_gallery_model_to_a_page(name, tmp_path, capsys):
    """What is printed of these two is by ML, and says nothing against REML."""
    page = tmp_path / "page.html"
    run(capsys, "dashboard", name, "--output", str(page), *SHORT)
    check_page(page)


@pytest.mark.wide
def test_commands_watch_and_test_by_df_with_several_factors(tmp_path, capsys):
    """Of the reconciliation the tests by df stand in the text, the JSON and the page."""
    page, numbers = tmp_path / "page.html", tmp_path / "both.json"
    asked = ("--live", "--df", "kenward-roger", "--dashboard", page, "--json", numbers, *SHORT)
    _, out, error = run(capsys, "reconcile", "pastes", *asked)
    assert "Tests of fixed effects by kenward-roger:" in out
    assert "Traceback" not in error
    expected = fit("pastes").fixed_effects(method="kenward-roger")
    told = json.loads(numbers.read_text(encoding="utf-8"))["reml"]["fixed_effects"]
    assert told["df_method"] == "kenward-roger"
    assert told["tests"]["Intercept"]["df"] == pytest.approx(expected.loc["Intercept", "df"])
    twin = read_twin(page)
    assert "Tests of the fixed effects" in list_titles(twin)
    assert "p is by df='kenward-roger'" in json.dumps(twin["sections"])


def test_df_that_crossed_factors_have_not_is_refused_before_anything_is_drawn(capsys):
    code, _, error = run(capsys, "reconcile", "penicillin", "--df", "cr2")
    assert code == 2
    assert "no factor of plate and sample holds all others" in error
    assert error.count("\n") == 1
