"""The power of a design: the study that it states, and its numbers by hand."""

import json

import pytest
from command_line import check_refusal, run
from scipy import stats

from bhlm.errors import ArgumentError
from bhlm.studies.simulation.power import render_power, state_design, tabulate_power
from bhlm.studies.simulation.run import run_study

DESIGN = {
    "replicates": 60,
    "effects": {"x": 0.5, "w": 0.0},
    "design": {"groups": [8, 16], "group_size": 6, "icc": 0.1},
}


@pytest.fixture(scope="module")
def found():
    design = state_design(DESIGN)
    return design, run_study(design.study, file=None, processes=1)


def test_power_is_the_share_of_intervals_without_zero(found):
    design, result = found
    table = tabulate_power(result)
    assert table["parameter"].tolist() == ["x", "w", "x", "w"]
    assert table["J"].tolist() == [8, 8, 16, 16]
    own = result.table[(result.table["parameter"] == "x") & (result.table["condition"] == 0)]
    k = round(own["reject"].iloc[0] * 60)
    row = table.iloc[0]
    assert row["power"] == pytest.approx(k / 60)
    exact = stats.binomtest(k, 60).proportion_ci(method="exact")
    assert [row["lower"], row["upper"]] == pytest.approx([exact.low, exact.high])
    text = render_power(result, design)
    assert "w is 0, so that its column is the size of the test." in text
    assert "x: 80 % are reached by " in text


def test_a_slope_that_varies_is_in_the_fitted_model():
    changed = DESIGN | {"design": DESIGN["design"] | {"slope_variance": 0.05}, "df": "z"}
    study = state_design(changed).study
    assert study.truth.random == ("Intercept", "x")
    assert study.df_methods == ("z",)
    assert study.replicates == 60
    assert state_design(DESIGN).study.truth.random == ("Intercept",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effects": None}, "the table [effects] is missing"),
        ({"power": 0.9}, "'power' is no key; known are title, target"),
        ({"target": 2}, "target = 2 is not valid; give a number in (0, 1)"),
        ({"design": {"groups": 1, "group_size": 5, "icc": 0.1}}, "grid.groups = 1 is not valid"),
        ({"effects": {"z": 1.0}}, "has the unknown key 'z'"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ArgumentError) as refusal:
        state_design(DESIGN | change)
    assert message in str(refusal.value)


def test_the_command(capsys, tmp_path):
    path, out = tmp_path / "design.toml", tmp_path / "out.json"
    path.write_text(
        "replicates = 4\n[effects]\nx = 0.5\n[design]\ngroups = 8\ngroup_size = 6\nicc = 0.1\n"
    )
    status, text, _ = run(capsys, "power", path, "--processes", 1, "--json", out)
    assert status == 0
    assert text.startswith("Power: design\n")
    assert json.loads(out.read_text())["power"][0]["parameter"] == "x"
    check_refusal(run(capsys, "power", tmp_path / "no.toml"), "no.toml' cannot be read (No such")
