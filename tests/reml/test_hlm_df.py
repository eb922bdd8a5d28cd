"""HLM's degrees of freedom, and the equations that fixed columns belong to."""

from dataclasses import replace

import numpy as np
import pytest
from simulate import simulate_table

from bhlm.fits.model import Model
from bhlm.reml.fixed.hlm_df import assign_equations, coefficient_df, hlm_df

FULL = (
    "mathach ~ gm(ses) + sector + cwc(ses) + gm(ses):cwc(ses) + sector:cwc(ses) + female "
    "+ female:sector + (cwc(ses) | school)"
)


def test_hsb_equations_and_df(hsb):
    moments = Model(FULL, hsb).moments
    expected = {
        "Intercept": (0, 157),
        "gm(ses)": (0, 157),
        "sector": (0, 157),
        "cwc(ses)": (1, 157),
        "gm(ses):cwc(ses)": (1, 157),
        "sector:cwc(ses)": (1, 157),
        "female": (None, 7185 - 8),
        "female:sector": (None, 7185 - 8),
    }
    df = dict(zip(moments.fixed, coefficient_df(moments), strict=True))
    equations = dict(zip(moments.fixed, assign_equations(moments), strict=True))
    assert {name: (equations[name], df[name]) for name in moments.fixed} == expected


def test_table_4_4_has_159(hsb):
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    assert hlm_df(fit, np.eye(2)).tolist() == [159, 159]


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_numbers_decide_whatever_the_names_and_offsets(shift):
    rng = np.random.default_rng(1)
    table = simulate_table(7, n_groups=20)
    table["x"] += shift
    table["same"] = table["w"] * table["x"]
    table["other"] = table["same"] + 1e-3 * rng.normal(size=len(table))
    moments = Model("y ~ x + w + same + other + (x | g)", table).moments
    assert dict(zip(moments.fixed, assign_equations(moments), strict=True)) == {
        "Intercept": 0,
        "x": 1,
        "w": 0,
        "same": 1,
        "other": None,
    }


def test_a_centred_column_is_no_multiple_of_the_raw_one():
    moments = Model("y ~ x + cwc(x) + gm(x) + (x | g)", simulate_table(7, n_groups=20)).moments
    wrong = dict(zip(moments.fixed, assign_equations(moments), strict=True))
    assert wrong == {"Intercept": 0, "x": 1, "cwc(x)": None, "gm(x)": 0}


def test_its_own_name_comes_first():
    table = simulate_table(7, n_groups=20)
    table["same"] = table["w"] * table["x"]
    moments = Model("y ~ x + same + (x + same | g)", table).moments
    assert assign_equations(moments) == (0, 1, 2)


def test_means_that_rounding_moves_stay_constant():
    table = simulate_table(7, n_groups=20)
    table["product"] = table["w"] * table.groupby("g")["x"].transform("mean")
    moments = Model("y ~ gm(x) + product + (0 + gm(x) | g)", table).moments
    noise = np.random.default_rng(1).normal(size=moments.mean.shape) * moments.mean * 1e-15
    cross = moments.cross + noise[:, :, None] * noise[:, None, :]
    assert assign_equations(replace(moments, cross=cross))[1:] == (0, 0)


def test_an_equation_without_its_own_intercept_loses_one_df_less():
    moments = Model("y ~ w + w:x + (x | g)", simulate_table(7, n_groups=20)).moments
    assert dict(zip(moments.fixed, coefficient_df(moments), strict=True)) == {
        "Intercept": 18,
        "w": 18,
        "w:x": 19,
    }


def test_a_level_one_effect_has_n_less_p():
    model = Model("y ~ x + w + (1 | g)", simulate_table(7, n_groups=20))
    fit, n = model.reml(), model.moments.n_rows
    assert hlm_df(fit, np.eye(3)).tolist() == [18, n - 3, 18]
    assert hlm_df(fit, np.array([[0.0, 1.0, 0.0], [0.0, 1.0, -1.0]])).tolist() == [n - 3, 18]
