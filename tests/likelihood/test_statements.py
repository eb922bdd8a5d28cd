"""Text about parameters: what it is worth at every draw, and what cannot be read."""

import numpy as np
import pytest

from bhlm.errors import ArgumentError
from bhlm.likelihood.statements import (
    collect_words,
    evaluate_statement,
    judge_statement,
    read_statement,
    subtract_sides,
)

NAMES = (
    "Intercept",
    "a",
    "and_more",
    "cwc(ses)",
    "cwc(ses):sector",
    "`my > var`",
    "C(d)[a and b]",
    "sd(Intercept|school)",
    "corr(Intercept,cwc(ses)|school)",
    "var(Residual)",
)
RNG = np.random.default_rng(1)
DRAWS = {name: RNG.normal(size=(2, 50)) + 1.0 for name in NAMES}
DRAWS["var(Residual)"] = np.exp(DRAWS["var(Residual)"])
WORDS = collect_words(
    DRAWS, aliases={"corr(cwc(ses),Intercept|school)": "corr(Intercept,cwc(ses)|school)"}
)
A, SES, BOTH = DRAWS["a"], DRAWS["cwc(ses)"], DRAWS["cwc(ses):sector"]
SD, CORR = DRAWS["sd(Intercept|school)"], DRAWS["corr(Intercept,cwc(ses)|school)"]
VAR = DRAWS["var(Residual)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cwc(ses) > 1", SES > 1),
        ("1 < cwc( ses )", SES > 1),
        ("Intercept > 1 and a > 1", (DRAWS["Intercept"] > 1) & (A > 1)),
        ("Intercept > 1and a > 1", (DRAWS["Intercept"] > 1) & (A > 1)),
        ("a > 1 or and_more > 1", (A > 1) | (DRAWS["and_more"] > 1)),
        ("not a > 1", ~(A > 1)),
        ("not (a > 1 or cwc(ses) > 1)", ~((A > 1) | (SES > 1))),
        ("0 < a <= 1.5", (A > 0) & (A <= 1.5)),
        ("sector:cwc(ses) < 0", BOTH < 0),
        ("2*a - cwc(ses) > 0.5", 2 * A - SES > 0.5),
        ("sd(Intercept|school) > 1 and cwc(ses):sector < 1", (SD > 1) & (BOTH < 1)),
        ("corr(Intercept,cwc(ses)|school) > 1", CORR > 1),
        ("corr( cwc(ses), Intercept | school ) > 1", CORR > 1),
        ("`my > var` > 1", DRAWS["`my > var`"] > 1),
        ("C(d)[a and b] > 1 and a > 1", (DRAWS["C(d)[a and b]"] > 1) & (A > 1)),
        ("abs(a) >= 1e0", np.abs(A) >= 1),
        ("-(a + 1)/2 < +cwc(ses)", -(A + 1) / 2 < SES),
        ("sd(Intercept|school)**2 / var(Residual) > .2", SD**2 / VAR > 0.2),
        ("  a\n > 1 ", A > 1),
    ],
)
def test_statements_hold_where_arithmetic_says_so(text, expected):
    holds = judge_statement(read_statement(text, WORDS))
    assert holds.dtype == bool
    np.testing.assert_array_equal(holds, expected)
    assert 0.0 < holds.mean() < 1.0  # so that a wrong sign would show


def test_expressions_and_differences():
    np.testing.assert_allclose(
        evaluate_statement(read_statement("2*a - cwc(ses)/4 + 1", WORDS)), 2 * A - SES / 4 + 1
    )
    np.testing.assert_allclose(
        subtract_sides(read_statement("a + 1 > cwc(ses)", WORDS)), A + 1 - SES
    )


def test_a_text_is_shown_with_the_names_of_the_tables():
    read = read_statement("sector : cwc(ses)  <  corr(cwc(ses), Intercept|school)", WORDS)
    assert read.shown == "cwc(ses):sector < corr(Intercept,cwc(ses)|school)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cwc(sess) > 2",
            "'cwc(sess)' in 'cwc(sess) > 2' cannot be read; did you mean 'cwc(ses)'?",
        ),
        ("sd(Intercept|scool) > 3", "did you mean 'sd(Intercept|school)'?"),
        ("sd(Intercept|school > 3", "did you mean 'sd(Intercept|school)'?"),
        (
            "a > 1 and qqq > 2",
            "'qqq' in 'a > 1 and qqq > 2' cannot be read; the parameters are Int",
        ),
        ("ax > 1", "'ax' in"),
        ("a.x > 1", "'a.x' in"),
        ("log(a) > 1", "'log(a)' in"),
        ("_1_ > 1", "'_1_' in '_1_ > 1' cannot be read"),
        ("a > True", "'True' in"),
        ("a > 'a'", "cannot be read"),
        ("a // 2 > 1", "'a // 2' in 'a // 2 > 1' cannot be read; write 'cwc(ses) > 2' or"),
        ("a >", "'a >' cannot be read; write 'cwc(ses) > 2'"),
        ("a > 1)", "'1)' in 'a > 1)' cannot be read; write"),
        ("(a > 1) > 0", "'a > 1' in '(a > 1) > 0' cannot be read; write"),
        ("a > 1; Intercept > 1", "cannot be read; write"),
        ("a", "'a' is no comparison; write 'cwc(ses) > 2' or"),
        ("a > 1 and cwc(ses)", "'cwc(ses)' in 'a > 1 and cwc(ses)' is no comparison"),
        ("a = 2", "'a = 2' does not compare by < or >, and equality has posterior probability 0"),
        ("a == 2", "ask for fit.rope with a region of practical equivalence"),
        ("a != 2", "does not compare by < or >"),
        ("a is 2", "does not compare by < or >"),
        ("a > 1 & Intercept > 1", "join comparisons by 'and' or 'or'"),
        ("2 > 1", "'2 > 1' says nothing about a parameter; write"),
        ("", "'' states nothing; write 'cwc(ses) > 2'"),
        (3, "3 states nothing"),
        ("1 / (a - a) > 1", "a side of '1 / (a - a) > 1' is not finite at 100 of 100 draws"),
        ("a > 1/0", "not finite"),
    ],
)
def test_what_is_no_statement_is_refused(text, message):
    with pytest.raises(ArgumentError) as caught:
        judge_statement(read_statement(text, WORDS))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_comparison_is_no_quantity_and_two_are_no_difference():
    with pytest.raises(ArgumentError, match=r"'a > 1' is a comparison, not a quantity; write a"):
        evaluate_statement(read_statement("a > 1", WORDS))
    for text in ("a > 1 and a < 2", "0 < a < 1", "not a > 1"):
        with pytest.raises(ArgumentError, match=r"more than one comparison; give fit\.hypothesis"):
            subtract_sides(read_statement(text, WORDS))
    with pytest.raises(ArgumentError, match="'-a' is no comparison"):
        subtract_sides(read_statement("-a", WORDS))
