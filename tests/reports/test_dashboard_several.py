"""The page about fits side by side: what stands on it, and what is refused."""

import json

import pytest
from command_line import check_refusal, run
from simulate import simulate_table

import bhlm
from bhlm.errors import ArgumentError
from bhlm.plots.side_by_side import plot_fits
from bhlm.reports.dashboard.subjects import write_several


def test_every_parameter_of_every_fit_is_on_one_axis(hsb_both):
    figure = plot_fits({"REML": hsb_both.reml, "Bayes": hsb_both.post})
    table = figure.table.set_index(["parameter", "fit"])
    row = table.loc[("cwc(ses)", "Bayes")]
    reml = hsb_both.reml.estimates.loc["cwc(ses)"]
    mean = hsb_both.post.estimates.loc["cwc(ses)", "mean"]
    assert row["value"] == mean
    assert row["position"] == pytest.approx((mean - reml["estimate"]) / reml["se"])
    assert table.loc[("Intercept", "REML"), "position"] == 0.0
    assert [mark.name for mark in figure.panels[0].marks if getattr(mark, "name", "")] == [
        "REML", "Bayes",
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="fits= has 1 fits; give 2 to 6, by name"):
        plot_fits({"REML": hsb_both.reml})
    with pytest.raises(ArgumentError, match="a str is no fit"):
        plot_fits({"a": "x", "b": "y"})


def test_the_page_has_every_fit(hsb_post, tmp_path):
    fits = {"first": hsb_post, "second": hsb_post}
    page = tmp_path / "page.html"
    write_several(fits, page, source={"Fits": "a.zarr\nb.zarr"})
    text = page.read_text()
    assert "2 fits side by side" in text
    twin = json.loads(page.with_suffix(".json").read_text())
    assert [section["name"] for section in twin["sections"]] == [
        "verdict", "convergence", "checks", "reproduction",
    ]  # fmt: skip
    estimates = next(b for b in twin["sections"][0]["blocks"] if b.get("name") == "estimates")
    columns = {column["name"]: column["values"] for column in estimates["columns"]}
    at = columns["parameter"].index("cwc(ses)")
    assert columns["second"][at] == hsb_post.estimates.loc["cwc(ses)", "mean"]
    assert columns["first SD"][at] == hsb_post.estimates.loc["cwc(ses)", "sd"]
    with pytest.raises(ArgumentError, match="1 fit cannot stand side by side; give 2 to 6"):
        write_several({"one": hsb_post}, page)


def test_what_the_command_refuses(capsys, tmp_path):
    page = tmp_path / "page.html"
    refused = run(capsys, "dashboard", "hsb_anova", "rail", "-o", page)
    check_refusal(refused, "'hsb_anova' is no saved fit, and several stand side by side only if")
    refused = run(capsys, "dashboard", "a.zarr", "b.zarr", "-o", page, "--seed", 2)
    check_refusal(refused, "--seed is for a page about one fit; leave it out, or name one")
    refused = run(capsys, "dashboard", "a.zarr", "a.zarr", "-o", page)
    check_refusal(refused, "'a.zarr' is named twice; give each fit once")


@pytest.mark.slow
def test_the_command_writes_the_page(capsys, tmp_path):
    model = bhlm.Model("y ~ x + (1 | g)", simulate_table(3, n_groups=12))
    for name, seed in (("a", 1), ("b", 2)):
        model.sample(seed=seed, draws=400, tune=400).save(tmp_path / f"{name}.zarr")
    page = tmp_path / "page.html"
    status, out, _ = run(capsys, "dashboard", tmp_path / "a.zarr", tmp_path / "b.zarr", "-o", page)
    assert status in (0, 1)
    assert out.startswith("a: y ~ x + (1 | g); ")
    assert page.exists()
