"""Numbers and names of a given width, against what Stata printed and what must hold always."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhlm.errors import ArgumentError
from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_digits,
    format_fixed,
    format_g,
    measure_widest,
    name_unit,
    show_name,
    wrap,
)


def test_format_g_prints_every_number_of_the_seed(printed):
    for values in printed["estimates"].values():
        for key in ("estimate", "se", "lower", "upper"):
            if key in values:
                assert format_g(float(values[key])) == values[key]
    for text in (printed["loglik"], *printed["iterations"]):
        assert format_g(float(text), 10) == text


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (0.0, 9, "0"),
        (-0.0, 9, "0"),
        (1.0, 9, "1"),
        (100.0, 9, "100"),
        (0.5, 9, ".5"),
        (-0.5, 9, "-.5"),
        (0.99999999, 9, "1"),
        (9.99999999, 9, "10"),
        (0.0467921, 9, ".0467921"),
        (0.000012345, 9, ".0000123"),
        (0.0000012345, 9, "1.23e-06"),
        (1234567.8, 9, "1234568"),
        (9999999.9, 9, "1.00e+07"),
        (12345678.0, 9, "1.23e+07"),
        (123456789.0, 10, "1.235e+08"),
        (-123456789.0, 10, "-1.235e+08"),
        (1e-6, 10, "1.000e-06"),
        (1.5e-120, 9, "1.5e-120"),
        (math.nan, 9, "."),
        (math.inf, 9, "."),
        (-math.inf, 9, "."),
    ],
)
def test_format_g(value, width, text):
    assert format_g(value, width) == text


def test_format_g_refuses_a_width_without_room():
    with pytest.raises(ArgumentError, match="width=7 is too narrow"):
        format_g(1.0, 7)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([8, 9, 10, 12]))
def test_format_g_fits_its_width_and_parses_back(value, width):
    text = format_g(value, width)
    assert len(text.removeprefix("-")) < width
    if 1e-300 <= abs(value) <= 1e300:  # beyond, doubles have fewer digits or overflow
        long = re.search(r"e[-+]\d{3}$", text) is not None
        places = width - 8 if long else width - 7
        assert float(text) == pytest.approx(value, rel=0.5001 * 10.0**-places, abs=0.0)


def test_format_fixed():
    assert format_fixed(0.00004, 4) == "0.0000"
    assert format_fixed(math.inf, 2) == "."


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (12.63619, 5, "12.636"),
        (-0.0094067, 5, "-0.0094067"),
        (123456.7, 3, "123457"),
        (0.1, 2, "0.10"),
        (0.099999, 2, "0.10"),
        (1e-9, 2, "1.0e-09"),
        (1e12, 2, "1.0e+12"),
        (0.0, 5, "0"),
        (math.nan, 5, "."),
    ],
)
def test_format_digits(value, digits, text):
    assert format_digits(value, digits) == text


def test_names_stay_on_their_line():
    assert show_name("a\nb\tc\x1b[31m") == r"a\nb\tc\x1b[31m"
    assert show_name("pay\u202eroll") == r"pay\u202eroll"
    assert show_name("\u00e9cole \u5b66\u6821") == "\u00e9cole \u5b66\u6821"
    assert (
        show_name("\u0645\u06cc\u200c\u0634\u0648\u062f") == "\u0645\u06cc\u200c\u0634\u0648\u062f"
    )


def test_wide_characters_take_two_columns():
    assert align_right("\u5b66\u6821", 6) == "  \u5b66\u6821"
    assert align_left("\u5b66\u6821", 6) == "\u5b66\u6821  "
    assert measure_widest(["\u5b66\u6821", "abc"]) == 4
    assert measure_widest([], least=3) == 3
    rows = [("\u5b66\u6821", "1"), ("ab", "20")]
    lines = align_columns(rows, sides=(align_left, align_right), gap="|")
    assert lines == ["\u5b66\u6821| 1", "ab  |20"]


def test_wrap_cuts_no_name():
    name = "var(" + "x-" * 40 + "|g)"
    lines = wrap(f"* the variance {name} is 0", 30, indent=2)
    assert lines == ["* the variance", f"  {name}", "  is 0"]


def test_a_label_that_says_what_it_is_stands_alone():
    assert name_unit("school", "8367") == "school 8367"
    assert name_unit("clinic", "Clinic no. 7") == "Clinic no. 7"
    assert name_unit("g", "green") == "g green"
    assert name_unit("school", "schools") == "school schools"
    assert name_unit("school", "school") == "school school"
