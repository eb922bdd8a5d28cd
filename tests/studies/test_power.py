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


@pytest.mark.parametrize(
    ("grid", "top", "said"),
    [
        ({"groups": 10**9}, {}, "with group_size = 5 these are 5,000,000,000 rows of one data set"),
        ({"group_size": 10**9}, {}, "10,000,000,000 rows of one data set; give at most 20,000,000"),
        ({"groups": [10, 10**40]}, {}, "rows of one data set"),
        ({"group_size": [[1, 10**9, 1]]}, {}, "with group_size = 1, 1000000000, 1 these"),
        ({"groups": list(range(2, 300)), "icc": [i / 999 for i in range(99)]}, {}, "29,502 cond"),
        ({}, {"replicates": 10**12}, "1000000000000 is not valid; give at most 10,000,000"),
        (
            {"groups": list(range(2, 200))}, {"replicates": 10**6},
            "with 198 conditions these are 198,000,000 data sets; give at most 100,000,000 in all",
        ),
        ({}, {"seed": 2**70}, "give at most 18,446,744,073,709,551,615"),
    ],
)  # fmt: skip
def test_sizes_that_nothing_could_hold_are_refused_before_they_are_simulated(grid, top, said):
    design = {"groups": 10, "group_size": 5, "icc": 0.1} | grid
    with pytest.raises(ArgumentError) as refusal:
        state_design(DESIGN | {"design": design} | top)
    assert said in str(refusal.value)


def test_effects_that_no_replicate_tests_have_no_power_and_say_so():
    design = state_design(
        {
            "replicates": 4, "effects": {"x": 0.5},
            "design": {
                "groups": 6, "group_size": 4, "icc": 0.1, "slope_variance": [0.1, 1e300],
            },
        }
    )  # fmt: skip
    found = run_study(design.study, file=None, processes=1)
    table = tabulate_power(found)
    assert table["power"].tolist()[1] == 0.0
    told = "4 tests of 8 could not be made, for want of a fit or an interval"
    assert told in render_power(found, design)


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
