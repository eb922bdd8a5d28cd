"""The note on few groups."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import run
from scipy import stats
from small_groups import draw_groups

from bhlm.fits.model import Model
from bhlm.reml.fixed.few_groups import (
    FewGroups,
    compare_tests,
    describe_few_groups,
    note_binary,
    note_few_groups,
)
from bhlm.reml.fixed.hlm_df import coefficient_df
from bhlm.reports.json import describe_levels, describe_reml


def fit(J, formula="y ~ w + x + (x | g)", seed=3, sd=(0.6, 0.5)):
    return Model(formula, draw_groups(J, 10, sd=sd, seed=seed)).reml()


def test_many_groups_need_no_note():
    assert note_few_groups(fit(60)) == ""


def test_note_names_the_worst_effect_with_both_p_values():
    few = fit(8)
    text, table = note_few_groups(few), few.fixed_effects()
    rows = table.drop(index="Intercept")
    name = rows["df"].idxmin()
    row = rows.loc[name]
    by_z = 2.0 * stats.norm.sf(abs(row["statistic"]))
    assert f"{name} has {row['df']:.1f} degrees of freedom" in text
    assert f"p = {by_z:.3f} by z, {row['p']:.3f} by t" in text
    assert "8 of 'g'" in text
    assert "--df" in text


def test_note_names_effects_that_t_takes_back():
    statistic, df = np.array([9.0, 2.1, 2.2, 2.3]), np.array([6.0, 5.0, 7.0, 200.0])
    found = FewGroups(
        names=("Intercept", "a", "b", "c"), statistic=statistic, df=df,
        p_z=2.0 * stats.norm.sf(statistic), p_t=2.0 * stats.t.sf(statistic, df),
        groups={"g": 8}, method="Satterthwaite",
    )  # fmt: skip
    text = describe_few_groups(found)
    assert "a has 5.0 degrees of freedom" in text
    assert "b is below .05 by z and not by t" in text
    assert "c " not in text


def test_intercept_is_named_only_alone():
    assert "Intercept has" in note_few_groups(fit(8, "y ~ 1 + (1 | g)"))


def test_unconverged_fits_say_other_things():
    assert note_few_groups(replace(fit(8), converged=False)) == ""


def test_comparison_holds_what_fixed_effects_hold():
    few = fit(8)
    found, table = compare_tests(few), few.fixed_effects()
    assert found.df == pytest.approx(table["df"].to_numpy())
    assert found.p_t == pytest.approx(table["p"].to_numpy())
    assert np.all(found.p_z <= found.p_t)


def test_singular_fits_take_the_smaller_df():
    singular = Model("y ~ w + x + (1 | g)", draw_groups(8, 10, sd=(0.0,), seed=2)).reml()
    assert singular.singular
    found = compare_tests(singular)
    assert found.df[1] == coefficient_df(singular.moments)[1] == 6.0
    assert "as the fit is singular" in note_few_groups(singular)
    assert "--df hlm" in note_few_groups(singular)


@pytest.mark.parametrize("style", ["stata", "hlm", "lme4"])
def test_every_summary_has_the_note_and_the_tests_asked_for(style):
    few = fit(8)
    words = " ".join(few.summary(style=style).split())
    assert note_few_groups(few) in words
    assert note_few_groups(few) in " ".join(repr(few).split())
    assert "Few groups" not in fit(60).summary(style=style)
    assert "Tests of fixed effects by kenward-roger" in few.summary(style=style, df="kenward-roger")
    assert ("J - S - 1" in fit(60).summary(style=style)) == (style == "hlm")


def test_json_has_df_and_notes():
    few = fit(8)
    content = describe_reml(few, df="satterthwaite")
    table = few.fixed_effects()
    assert content["df_method"] == "z"
    assert content["few_groups"]["tests"]["x"]["df"] == pytest.approx(table.loc["x", "df"])
    assert content["fixed_effects"]["tests"]["x"]["p"] == pytest.approx(table.loc["x", "p"])
    assert content["notes"] == [note_few_groups(few)]
    assert describe_reml(fit(60))["few_groups"] == {}
    assert table.attrs == {"df": "satterthwaite"}


def test_command_line_has_df(capsys, tmp_path):
    path = tmp_path / "few.csv"
    draw_groups(8, 10, sd=(0.6,), seed=3).to_csv(path, index=False)
    wanted = tmp_path / "out.json"
    given = ("reml", "--data", path, "--formula", "y ~ w + (1 | g)", "--json", wanted)
    status, out, _ = run(capsys, *given, "--df", "hlm")
    assert status == 0
    assert "Tests of fixed effects by hlm" in out
    assert json.loads(wanted.read_text())["reml"]["fixed_effects"]["tests"]["w"]["df"] == 6.0
    status, _, err = run(capsys, *given, "--df", "wald")
    assert status == 2
    assert "method='wald' is not known" in err


@pytest.mark.parametrize("as_type", [int, bool, float])
def test_responses_of_zero_and_one_have_a_note(as_type):
    table = draw_groups(40, 10, sd=(0.6,), seed=3)
    table["passed"] = (table["y"] > 0.0).astype(as_type)
    binary = Model("passed ~ w + (1 | g)", table).reml()
    assert note_binary(binary).startswith("passed is 0 or 1")
    assert "passed is 0 or 1" in binary.summary()
    assert note_binary(Model("y ~ w + (1 | g)", table).reml()) == ""
    twos = pd.DataFrame(table.assign(passed=2.0 * table["passed"]))
    assert note_binary(Model("passed ~ w + (1 | g)", twos).reml()) == ""


@pytest.mark.parametrize("formula", ["y ~ w + x + (1 | g/h)", "y ~ w + x + (1 | g) + (1 | k)"])
def test_several_factors_have_the_note_as_well(formula: str) -> None:
    """In every summary, in JSON and on the page, with the p-values of their own tests."""
    table = draw_groups(8, 10, sd=(0.6, 0.5), seed=3)
    rng = np.random.default_rng(4)
    h, k = rng.integers(0, 3, len(table)), rng.integers(0, 40, len(table))
    table["y"] += 0.7 * rng.normal(size=24)[3 * pd.factorize(table["g"])[0] + h]
    table["y"] += 0.7 * rng.normal(size=40)[k]
    several = Model(formula, table.assign(h=h, k=k)).reml()
    text, tests = note_few_groups(several), several.fixed_effects()
    assert text.startswith("Few groups (8 of 'g', ")
    assert f"w has {tests.loc['w', 'df']:.1f} degrees of freedom" in text
    assert f"{tests.loc['w', 'p']:.3f} by t" in text
    for style in ("stata", "hlm", "lme4"):
        assert " ".join(text.split()) in " ".join(several.summary(style=style).split())
    assert "Few groups" in repr(several)
    found = describe_levels(several)["few_groups"]["tests"]["w"]
    assert found["p_t"] == pytest.approx(tests.loc["w", "p"])


def test_advice_that_was_followed_is_not_given_again() -> None:
    """Whoever asked for tests by t is told the sentence, and not where to get them."""
    table = draw_groups(8, 10, sd=(0.6, 0.5), seed=3)
    table["k"] = np.arange(len(table)) % 7
    for formula in ("y ~ w + x + (1 | g)", "y ~ w + x + (1 | g) + (1 | k)"):
        few = Model(formula, table).reml()
        for df in (None, "z"):
            assert "gives every test by t" in " ".join(few.summary(df=df).split())
        told = few.summary(df="kenward-roger")
        assert "Few groups (8 of 'g'" in told
        assert "gives every test" not in " ".join(told.split())


def test_a_response_of_zero_and_one_of_several_factors_has_its_note() -> None:
    """In text, JSON and repr; the way out says that it has a single grouping factor."""
    table = draw_groups(12, 12, sd=(0.6, 0.5), seed=3)
    table["k"] = np.arange(len(table)) % 9
    table["passed"] = (table["y"] > 0.0).astype(int)
    fit = Model("passed ~ w + x + (1 | g) + (1 | k)", table).reml()
    told = "passed is 0 or 1: effects are differences of probabilities"
    assert told in fit.summary()
    assert told in repr(fit)
    assert any(note.startswith(told) for note in describe_levels(fit)["notes"])
    assert "family='bernoulli', for a single grouping factor, does" in " ".join(
        fit.summary().split()
    )
    assert note_binary(Model("y ~ w + x + (1 | g) + (1 | k)", table).reml()) == ""
