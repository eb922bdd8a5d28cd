"""Formula text -> terms: the algebra of R and lme4, one spelling, and every refusal."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhlm.design.formula.expressions import Apply, Expression, Name, Number, column_names
from bhlm.design.formula.terms import Formula, RandomTerm, Term, list_factors, parse_formula
from bhlm.errors import FormulaError


def names(formula: Formula) -> tuple[list[str], list[list[str]]]:
    """Return the names of the fixed terms, and those of each random term."""
    blocks = [[term.name for term in block.terms] for block in formula.random]
    return [term.name for term in formula.fixed], blocks


def test_parts_are_frozen_terms() -> None:
    formula = parse_formula("  mathach ~ cwc(ses) + (cwc(ses) | school) ")
    slope = Term((Apply("cwc", (Name("ses"),)),))
    assert formula == Formula(
        text="mathach ~ cwc(ses) + (cwc(ses) | school)",
        response=Name("mathach"),
        fixed=(Term(), slope),
        random=(RandomTerm((Term(), slope), "school"),),
        group="school",
    )
    assert list_factors(formula) == [slope.factors[0]]
    with pytest.raises(AttributeError):
        formula.group = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("x", ["Intercept", "x"]),
        ("0 + x", ["x"]),
        ("x - 1", ["x"]),
        ("-1 + x", ["x"]),
        ("x + 0 + 1", ["Intercept", "x"]),
        ("x + 1", ["Intercept", "x"]),
        ("0 + x - 0", ["Intercept", "x"]),
        ("1", ["Intercept"]),
        ("x + x + x", ["Intercept", "x"]),
        ("z + x", ["Intercept", "z", "x"]),
        ("x:z + z:x", ["Intercept", "x:z"]),
        ("x:x", ["Intercept", "x"]),
        ("x * z", ["Intercept", "x", "z", "x:z"]),
        ("x * z - x", ["Intercept", "z", "x:z"]),
        ("x + z - (x + z)", ["Intercept"]),
        ("a / b", ["Intercept", "a", "a:b"]),
        ("(a + b) / c", ["Intercept", "a", "b", "a:b:c"]),
        ("a / (b + c)", ["Intercept", "a", "a:b", "a:c"]),
        ("(a + b)**2", ["Intercept", "a", "b", "a:b"]),
        ("(a + b + c)^2", ["Intercept", "a", "b", "c", "a:b", "a:c", "b:c"]),
        ("(a + b + c)**3 - a:b:c", ["Intercept", "a", "b", "c", "a:b", "a:c", "b:c"]),
        ("(a + b - b):c", ["Intercept", "a:c"]),
        ("(a + b):c", ["Intercept", "a:c", "b:c"]),
        ("x + (z + (w))", ["Intercept", "x", "z", "w"]),
    ],
)
def test_fixed_terms_follow_r(right: str, expected: list[str]) -> None:
    assert names(parse_formula(f"y ~ {right} + (1 | g)"))[0] == expected


@pytest.mark.parametrize(
    ("random", "expected"),
    [
        ("(1 | g)", [["Intercept"]]),
        ("(x | g)", [["Intercept", "x"]]),
        ("(0 + x | g)", [["x"]]),
        ("(x - 1 | g)", [["x"]]),
        ("(1 | g) + (0 + x | g)", [["Intercept"], ["x"]]),
        ("(x || g)", [["Intercept", "x"]]),
        ("(x * z | g)", [["Intercept", "x", "z", "x:z"]]),
        ("((x | g))", [["Intercept", "x"]]),
    ],
)
def test_random_terms_follow_lme4(random: str, expected: list[list[str]]) -> None:
    assert names(parse_formula(f"y ~ x + {random}"))[1] == expected


def test_two_bars_make_a_term_independent() -> None:
    formula = parse_formula("y ~ x + (0 + x * z || g)")
    (term,) = formula.random
    assert term.independent
    assert str(term) == "(0 + x + z + x:z || g)"
    assert parse_formula(str(formula)).random == formula.random
    assert not parse_formula("y ~ x + (1 || g)").random[0].independent


def test_random_term_may_stand_anywhere_in_the_sum() -> None:
    first = parse_formula("y ~ (x | g) + x + z")
    assert names(first) == (["Intercept", "x", "z"], [["Intercept", "x"]])
    assert names(parse_formula("y ~ x + ((x | g) + z)")) == names(first)


def test_interaction_in_a_random_term_takes_the_name_of_the_fixed_one() -> None:
    assert names(parse_formula("y ~ a:b + (b:a | g)"))[1] == [["Intercept", "a:b"]]
    assert names(parse_formula("y ~ a + b + (b:a | g)"))[1] == [["Intercept", "b:a"]]


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("cwc( ses )", "cwc(ses)"),
        ("I(x^2)", "I(x**2)"),
        ("{x + 1}", "I(x + 1)"),
        ("log(x+1)", "log(x + 1)"),
        ("np.log(x)", "log(x)"),
        ("numpy.sqrt(x)", "sqrt(x)"),
        ("I((x-3)/2)", "I((x - 3)/2)"),
        ("I(x-(z-w))", "I(x - (z - w))"),
        ("I((x-z)-w)", "I(x - z - w)"),
        ("I(x/(z*w))", "I(x/(z * w))"),
        ("I((x*z)/w)", "I(x * z/w)"),
        ("I(-x**2)", "I(-x**2)"),
        ("I((-x)**2)", "I((-x)**2)"),
        ("I(x**z**2)", "I(x**z**2)"),
        ("I((x**z)**2)", "I((x**z)**2)"),
        ("I(2**-x)", "I(2**(-x))"),
        ("I(-(x+z))", "I(-(x + z))"),
        ("I(x - -3)", "I(x - -3)"),
        ("I(+x)", "I(x)"),
        ("I(x*1e-3)", "I(x * 0.001)"),
        ("I(x*2.5E3)", "I(x * 2500.0)"),
        ("I(x*1e-7)", "I(x * 0.0000001)"),
        ("I(x*.5)", "I(x * 0.5)"),
        ("poly(x,2)", "poly(x, 2)"),
        ("poly(x)", "poly(x, 1)"),
        ("poly(x, degree=3, raw=False)", "poly(x, 3)"),
        ("poly(log(x), 2, raw=TRUE)", "poly(log(x), 2, raw=True)"),
        ("C(x)", "C(x)"),
        ("C(x, Treatment('b'))", 'C(x, Treatment("b"))'),
        ("C(x, Treatment(reference=2))", "C(x, Treatment(2))"),
        ("C(x, Treatment(-1))", "C(x, Treatment(-1))"),
        ('C(x, Treatment("O\'Brien"))', 'C(x, Treatment("O\'Brien"))'),
        ("`my column`", "`my column`"),
        ("`plain`", "plain"),
        ("log(`a^b`)", "log(`a^b`)"),
        ("mean.ses_2", "mean.ses_2"),
    ],
)
def test_factor_has_one_spelling(written: str, printed: str) -> None:
    assert names(parse_formula(f"y ~ {written} + (1 | g)"))[0] == ["Intercept", printed]
    assert names(parse_formula(f"y ~ {printed} + (1 | g)"))[0] == ["Intercept", printed]


def test_power_binds_before_a_minus_sign_and_from_the_right() -> None:
    def inside(text: str) -> Expression:
        factor = parse_formula(f"y ~ I({text}) + (1 | g)").fixed[1].factors[0]
        assert isinstance(factor, Apply)
        return factor.arguments[0]

    x, z, two = Name("x"), Name("z"), Number(2)
    assert inside("-x**2") == Apply("neg", (Apply("**", (x, two)),))
    assert inside("x**z**2") == Apply("**", (x, Apply("**", (z, two))))
    assert inside("x**-z**2") == Apply("**", (x, Apply("neg", (Apply("**", (z, two)),))))
    assert inside("x - z - 2") == Apply("-", (Apply("-", (x, z)), two))


def test_response_may_be_a_row_by_row_expression() -> None:
    assert str(parse_formula("log(y + 1) ~ x + (1 | g)").response) == "log(y + 1)"
    assert str(parse_formula("`the y` ~ x + (1 | g)").response) == "`the y`"


def test_group_may_be_in_backquotes() -> None:
    formula = parse_formula("y ~ x + (1 | `school id`)")
    assert formula.group == "school id"
    assert str(formula) == "y ~ 1 + x + (1 | `school id`)"


def test_a_backquote_in_a_name_is_written_twice() -> None:
    formula = parse_formula("y ~ `a``b` + `````` + (1 | `g```)")
    assert str(formula) == "y ~ 1 + `a``b` + `````` + (1 | `g```)"
    assert formula.group == "g`"


columns = st.sampled_from(["x", "z", "a b", "True", "x.1", "é", "`", "a`b"]).map(Name)
numbers = st.integers(0, 99) | st.floats(0, 1e9, allow_nan=False)
expressions = st.recursive(
    columns | numbers.map(Number),
    lambda inner: (
        st.builds(Apply, st.sampled_from(["+", "-", "*", "/", "**"]), st.tuples(inner, inner))
        | st.builds(Apply, st.sampled_from(["neg", "log", "cwc", "I"]), st.tuples(inner))
    ),
    max_leaves=8,
)


def has_constant_mean(expression: Expression) -> bool:
    """Return whether some cwc() reads no column, which is refused."""
    if not isinstance(expression, Apply):
        return False
    constant = expression.function == "cwc" and not column_names(expression)
    return constant or any(has_constant_mean(argument) for argument in expression.arguments)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(expressions)
def test_printed_expression_reads_back(inner: Expression) -> None:
    expression = Apply("I", (Apply("+", (Name("w"), inner)),))
    if has_constant_mean(inner):
        return
    formula = parse_formula(f"y ~ {expression} + ({expression} | g)")
    assert formula.fixed[1] == Term((expression,))
    again = parse_formula(str(formula))
    assert (again.fixed, again.random) == (formula.fixed, formula.random)


KNOWN = "known functions: C, I, abs, exp, log"
REFUSED = [
    ("", ["empty", "y ~ x + (x | g)"]),
    ("   ", ["empty"]),
    ("y", ["no '~'", "y ~ x + (x | g)"]),
    ("y ~ x ~ z", ["2 '~'", "write one"]),
    ("~ x + (1 | g)", ["nothing stands before '~'", "response"]),
    ("y ~ x", ["no random term", "(1 | g)"]),
    ("y ~ x + x | g", ["without parentheses", "(x | g)"]),
    ("y ~ x + ( | g)", ["nothing stands before '|'", "(1 | g)"]),
    ("y ~ x + (x | )", ["')' is not expected after '|'"]),
    ("y ~ x**2 + (1 | g)", ["'x**2'", "I(x**2)"]),
    ("y ~ x^2 + (1 | g)", ["'x**2'", "I(x**2)"]),
    ("y ~ log(x)**2 + (1 | g)", ["I(log(x)**2)"]),
    ("y ~ (a + b)**x + (1 | g)", ["power", "(a + b)**2"]),
    ("y ~ x + (1 | g + h)", ["'g + h'", "is not a grouping factor", "(1 | g) + (1 | h)"]),
    ("y ~ x + (1 | g*h)", ["'g * h'", "is not a grouping factor", "(x | g/h)"]),
    ("y ~ x + (1 || log(g))", ["'log(g)'", "is not a grouping factor"]),
    ("y ~ cwc(x) + (1 | g) + (1 | h)", ["'cwc(x)'", "g, h", "cwc(x, g)"]),
    ("y ~ cwc(x, k) + (1 | g) + (1 | h)", ["'k'", "is not a grouping factor", "g, h"]),
    ("y ~ cwc(x, log(g)) + (1 | g)", ["'log(g)'", "is not a grouping factor"]),
    ("y ~ gm(x, h) + (1 | g)", ["'h'", "is not a grouping factor", "have g"]),
    ("y ~ x + (1 | g | h)", ["inside a random term", "(x | g)"]),
    ("y ~ x + (0 | g)", ["(0 | g) has no coefficient", "(1 | g)"]),
    ("y ~ x - (1 | g)", ["(1 | g) is subtracted", "leave it out"]),
    ("y ~ x:(1 | g)", ["(1 | g) is inside a product", "'+'"]),
    ("y ~ 0 + (1 | g)", ["no fixed effect", "intercept"]),
    ("y ~ x - z + (1 | g)", ["'- z' removes a term that is not there"]),
    ("y ~ 2 + x + (1 | g)", ["2 is not a term", "I(2 * x)"]),
    ("y ~ 2*x + (1 | g)", ["2 is not a term", "I(2 * x)"]),
    ("y ~ True + (1 | g)", ["True is not a term"]),
    ("y ~ (a - a):b + (1 | g)", ["'a - a' in a product leaves no term", "remove"]),
    ("y ~ (x > 3) + (1 | g)", ["'x > 3' is not a term", "compute"]),
    ("y ~ (" + " + ".join(f"x{i}" for i in range(20)) + ")**9 + (1 | g)", ["more than 1000"]),
    ("y ~ I(__import__('os')) + (1 | g)", ["'__import__' is not known", KNOWN]),
    ("y ~ foo(x) + (1 | g)", ["'foo' is not known", KNOWN]),
    ("y ~ lgo(x) + (1 | g)", ["'lgo' is not known", "did you mean log?", KNOWN]),
    ("y ~ np.sin(x) + (1 | g)", ["'np.sin' is not known", KNOWN]),
    ("y ~ x.mean() + (1 | g)", ["'x.mean' is not known", KNOWN]),
    ("y ~ (x)(z) + (1 | g)", ["'(x)' is called", KNOWN]),
    ("y ~ I(x > 3) + (1 | g)", ["'x > 3' is not known", KNOWN]),
    ("y ~ I(x:z) + (1 | g)", ["'x:z' is not known", KNOWN]),
    ("y ~ I(x % 2) + (1 | g)", ["'%' is not expected after 'x'"]),
    ("y ~ I(x // 2) + (1 | g)", ["'//' is not expected after 'x'"]),
    ("y ~ I('x') + (1 | g)", ["'x'", "is not known", KNOWN]),
    ("y ~ x['a'] + (1 | g)", ["x['a']", "is not known", KNOWN]),
    ("y ~ I(x[0]) + (1 | g)", ["not expected"]),
    ("y ~ I(lambda: 0) + (1 | g)", ["'lambda:0' is not known", KNOWN]),
    ("y ~ I(2) + (1 | g)", ["'I(2)' uses no column"]),
    ("y ~ I(x + cwc(2)) + (1 | g)", ["'cwc(2)' uses no column"]),
    ("y ~ I() + (1 | g)", ["'I()' does not have one argument", "I(x)"]),
    ("y ~ log(x, 2) + (1 | g)", ["'log(x, 2)' does not have one argument", "log(x)"]),
    ("y ~ log(x=2) + (1 | g)", ["'log(x=2)' does not have one argument"]),
    ("y ~ poly(x, 2.5) + (1 | g)", ["'poly(x, 2.5)'", "poly(x, 2, raw=True)"]),
    ("y ~ poly(x, 0) + (1 | g)", ["'poly(x, 0)'", "degree from 1"]),
    ("y ~ poly(x, z) + (1 | g)", ["'z' is not a constant", "poly(x, 2)"]),
    ("y ~ poly(x, 2, 3) + (1 | g)", ["'3'", "poly(x, 2)"]),
    ("y ~ poly(x, 2, raw=1) + (1 | g)", ["raw=1", "poly(x, 2)"]),
    ("y ~ poly(x, 2, simple=True) + (1 | g)", ["simple=True", "poly(x, 2)"]),
    ("y ~ poly(1, 2) + (1 | g)", ["'poly(1, 2)' uses no column"]),
    ("y ~ cwc(C(x)) + (1 | g)", ["C(x) stands inside another call", "term of its own"]),
    ("y ~ I(poly(x, 2)) + (1 | g)", ["poly(x, 2) stands inside another call"]),
    ("y ~ C(log(x)) + (1 | g)", ["'C(log(x))'", 'C(x, Treatment("level"))']),
    ("y ~ C(x, Sum) + (1 | g)", ["contrast 'Sum'", 'C(x, Treatment("level"))']),
    ("y ~ C(x, Treatment(z)) + (1 | g)", ["'z' is not a constant", "Treatment"]),
    ("cwc(y) ~ x + (1 | g)", ["cwc(y)", "row by row", "compute that column first"]),
    ("C(y) ~ x + (1 | g)", ["C(y)", "row by row"]),
    ("y + 1 ~ x + (1 | g)", ["'y + 1' is arithmetic", "I(y + 1)"]),
    ("1 ~ x + (1 | g)", ["'1' uses no column"]),
    ("y | g ~ x + (1 | g)", ["arithmetic", "I()"]),
    ("y ~ x + (1 | g) = 3", ["'=' stands outside a call", "remove"]),
    ("(y ~ x + (1 | g))", ["'~' stands inside parentheses", "y ~ x"]),
    ("y ~ x +", ["ends after '+'", "missing"]),
    ("y ~ (x + (1 | g)", ["'(' is never closed", "')'"]),
    ("y ~ x) + (1 | g)", ["')' closes nothing", "'('"]),
    ("y ~ x z + (1 | g)", ["'z' is not expected after 'x'"]),
    ("y ~ 2x + (1 | g)", ["'2x' is neither a number nor a name", "operator"]),
    ("y ~ I(1e-3x) + (1 | g)", ["'1e' is neither a number nor a name"]),
    ("y ~ I(1e999 * x) + (1 | g)", ["1e999 is too large", "1.8e308"]),
    ("y ~ I(x + 1" + "0" * 308 + "0) + (1 | g)", ["too large", "1.8e308"]),
    ("y ~ I(" + "9" * 5000 + " * x) + (1 | g)", ["999999999999... is too large"]),
    ("y ~ _x + (1 | g)", ["'_x' begins with '_'", "`_x`"]),
    ("y ~ @x + (1 | g)", ["@", "backquotes"]),
    ("y ~ `x + (1 | g)", ["backquote (`) is not closed"]),
    ("y ~ C(x, Treatment('a)) + (1 | g)", ["quote (') is not closed"]),
    ("y ~ `` + (1 | g)", ["nothing between two backquotes", "column"]),
    (
        "y ~ " + "(" * 10_000 + "x" + ")" * 10_000 + " + (1 | g)",
        ["nested 10,000 parenth", "at most 100"],
    ),
    ("y ~ " + "I(" * 10_000 + "x", ["nested 10,000 parentheses deep", "at most 100"]),
    ("y ~ " + "+".join("x" * 60_000) + " + (1 | g)", ["it has 120,013 characters", "100,000"]),
    ("y ~ I(" + "+".join("x" * 500) + ") + (1 | g)", ["nested more than 100 deep", "column first"]),
    ("y ~ I(" + "**".join("x" * 500) + ") + (1 | g)", ["chain of 500 powers", "shorter"]),
    ("y ~ " + ":".join("x" * 5000) + " + (1 | g)", ["interaction of 5000 columns"]),
]


@pytest.mark.parametrize(("text", "pieces"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_refusal_names_the_value_and_the_way_out(
    text: str, pieces: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(FormulaError) as caught:
        parse_formula(text)
    message = str(caught.value)
    for piece in pieces:
        assert piece in message
    assert "\n" not in message
    assert len(message) < 500
    assert not caplog.records
    # A caller who prints the traceback must not see the parser's own.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("text", [None, 3, b"y ~ x", ["y ~ x"]])
def test_formula_that_is_not_a_string(text: object) -> None:
    with pytest.raises(FormulaError, match=rf"not {type(text).__name__}; put it in quotes"):
        parse_formula(text)  # type: ignore[arg-type]


def test_long_sum_is_read() -> None:
    many = " + ".join(f"x{i}" for i in range(900))
    assert len(parse_formula(f"y ~ {many} + (1 | g)").fixed) == 901
    hundred = " + ".join(f"x{i}" for i in range(100))
    assert names(parse_formula(f"y ~ I({hundred}) + (1 | g)"))[0][1] == f"I({hundred})"


def test_formula_over_several_lines() -> None:
    formula = parse_formula("y ~ x +\n    z\n    + (x | g)")
    assert names(formula)[0] == ["Intercept", "x", "z"]
    with pytest.raises(FormulaError, match="formula 'y ~ x z'") as caught:
        parse_formula("y ~ x\nz")
    assert "\n" not in str(caught.value)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(alphabet="yxg~+-*/:|()[]{}`'\",.^=<>!%1e09 _ILC\n", max_size=25))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for candidate in (text, f"y ~ {text} + (1 | g)"):
        try:
            parse_formula(candidate)
        except FormulaError as error:
            assert "\n" not in str(error)


def test_import_is_light() -> None:
    code = (
        "import sys, bhlm.design.formula.terms, bhlm.design.design; "
        "print(sorted({'pandas', 'scipy', 'polars'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "spelt", "groupings"),
    [
        (
            "y ~ x + (x | school/class)",
            "y ~ 1 + x + (1 + x | school) + (1 + x | school:class)",
            {"school": ("school",), "school:class": ("school", "class")},
        ),
        (
            "y ~ 1 + (1 | a/b/c)",
            "y ~ 1 + (1 | a) + (1 | a:b) + (1 | a:b:c)",
            {"a": ("a",), "a:b": ("a", "b"), "a:b:c": ("a", "b", "c")},
        ),
        (
            "y ~ 1 + (1 | subject) + (0 + x || item) + (1 | subject)",
            "y ~ 1 + (1 | subject) + (0 + x || item) + (1 | subject)",
            {"subject": ("subject",), "item": ("item",)},
        ),
        (
            "y ~ 1 + (1 | a:b) + (x | b:a)",
            "y ~ 1 + (1 | a:b) + (1 + x | a:b)",
            {"a:b": ("a", "b")},
        ),
        (
            "y ~ cwc(x, class) + gm(x, `the school`) + (1 | `the school`/class)",
            "y ~ 1 + cwc(x, class) + gm(x, `the school`) + (1 | `the school`) + "
            "(1 | `the school`:class)",
            {"the school": ("the school",), "the school:class": ("the school", "class")},
        ),
    ],
)
def test_several_factors_have_one_spelling(text, spelt, groupings) -> None:
    formula = parse_formula(text)
    assert str(formula) == spelt
    assert formula.groupings == groupings
    assert formula.has_levels
    assert str(parse_formula(spelt)) == spelt


def test_one_factor_may_be_named_where_it_goes_without_saying() -> None:
    plain, named = (
        parse_formula(f"y ~ cwc(x{group}) + gm(x{group}) + (1 | school)")
        for group in ("", ", school")
    )
    assert named.fixed == plain.fixed
    assert not named.has_levels
