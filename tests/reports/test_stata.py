"""Stata's output: the seed's text line by line, and what its table must be for other fits."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from simulate import simulate_table

from bhlm.design.design import build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.errors import ArgumentError
from bhlm.moments.moments import compute_moments
from bhlm.reml.estimate import fit_moments
from bhlm.reml.variance_tests import judge_variances
from bhlm.reports.text.stata import render_stata
from bhlm.reports.text.styles import render
from bhlm.sources.gallery import agrees_with_print

GOLDEN = Path(__file__).parents[1] / "reference" / "stata_hsb_4_4.txt"
TABLE_4_4 = "mathach ~ cwc(ses) + (cwc(ses) | school)"
STOPPED_EARLY = 5e-5  # Stata's optimiser, relative: see tests/reference/README.md
NUMBER = r"(?<!\S)(?:-?\d*\.?\d+(?:e[-+]\d+)?|\.)(?!\S)"


def reduce(formula, table):
    return compute_moments(build_design(parse_formula(formula), table), table)


@pytest.fixture(scope="module")
def table_4_4(hsb):
    return fit_moments(reduce(TABLE_4_4, hsb))


@pytest.fixture(scope="module")
def moments():
    return reduce("y ~ x + t + (x + t | g)", simulate_table(3, n_groups=60))


def read_rows(text):
    """Every row of the two tables: its name and its numbers, as strings."""
    rows = [line.split(" |") for line in text.splitlines() if " |" in line]
    cut = {name.strip(): re.findall(NUMBER, numbers) for name, numbers in rows}
    return {name: numbers for name, numbers in cut.items() if len(numbers) in (4, 6)}


def normalise_log(text):
    return re.sub(r"(Iteration \d+:.*\n)+", "Iterations\n", text)


def test_table_4_4_line_by_line(table_4_4):
    ours = normalise_log(render_stata(table_4_4) + "\n").splitlines()
    assert ours == normalise_log(GOLDEN.read_text(encoding="utf-8")).splitlines()


def test_the_log_rises_to_the_loglik(table_4_4):
    text = render_stata(table_4_4)
    steps = re.findall(r"^Iteration (\d+):   log restricted-likelihood = (\S+)$", text, re.M)
    assert [int(count) for count, _ in steps] == list(range(len(steps)))
    values = [float(value) for _, value in steps]
    assert len(values) >= 2
    assert values == sorted(values)
    assert steps[-1][1] == "-23357.117"


def test_every_number_that_stata_printed(table_4_4, printed):
    text = render_stata(table_4_4)
    rows = read_rows(text)
    names = {
        "cwc(ses)": "cwc(ses)",
        "Intercept": "_cons",
        "var(cwc(ses)|school)": "var(cwc(ses))",
        "var(Intercept|school)": "var(_cons)",
        "cov(Intercept,cwc(ses)|school)": "cov(cwc(ses),_cons)",
        "var(Residual)": "var(Residual)",
    }
    for parameter, values in printed["estimates"].items():
        ours = rows[names[parameter]]
        assert len(ours) == len(values)
        for number, value in zip(ours, values.values(), strict=True):
            assert float(number) == pytest.approx(float(value), rel=STOPPED_EARLY)
    for text_of in (
        f"Number of obs      ={printed['n']:>10}",
        f"Number of groups   ={printed['groups']:>10}",
        f"avg ={printed['group_size']['mean']:>10}",
        f"Wald chi2({printed['wald']['df']})       ={printed['wald']['chi2']:>10}",
        f"Log restricted-likelihood = {printed['loglik']}",
        f"chi2({printed['lr_test']['df']}) ={printed['lr_test']['chi2']:>9}",
    ):
        assert text_of in text


@pytest.mark.parametrize("covariance", [None, "independent", "exchangeable", "identity"])
def test_every_number_parses_back_to_its_estimate(moments, covariance):
    fit = fit_moments(moments, covariance=covariance)
    rows = read_rows(render_stata(fit))
    estimates = fit.estimates
    seen = 0
    for name, row in estimates.iterrows():
        if name in fit.moments.fixed:
            shown = "_cons" if name == "Intercept" else name
            keys = ("estimate", "se", "statistic", "p", "lower", "upper")
        elif name.startswith(("var(", "cov(")):
            ends = name[4:-1].removesuffix("|g").split(",")
            if covariance in ("exchangeable", "identity") and name != "var(Residual)":
                shown = f"{name[:3]}(x t _cons)"
            else:
                order = {"x": 0, "t": 1, "Intercept": 2}
                ends.sort(key=lambda end: order.get(end, 3))
                shown = f"{name[:3]}({','.join(ends).replace('Intercept', '_cons')})"
            keys = ("estimate", "se", "lower", "upper")
        else:
            continue
        for key, number in zip(keys, rows[shown], strict=True):
            assert agrees_with_print(row[key], number), (name, key)
            if key not in ("statistic", "p"):
                assert float(number) == pytest.approx(row[key], rel=5e-7, abs=5e-8)
        seen += 1
    assert seen == len(rows)


def test_the_order_of_the_rows(moments):
    expected = {
        None: "var(x) var(t) var(_cons) cov(x,t) cov(x,_cons) cov(t,_cons)",
        "independent": "var(x) var(t) var(_cons)",
        "exchangeable": "var(x t _cons) cov(x t _cons)",
        "identity": "var(x t _cons)",
    }
    for covariance, names in expected.items():
        text = render_stata(fit_moments(moments, covariance=covariance))
        rows = re.findall(r"^ *((?:var|cov)\(.*?\)) \|", text, re.M)
        assert " | ".join(rows) == " | ".join([*re.findall(r"\S+\(.*?\)", names), "var(Residual)"])
        assert re.findall(r"^g: (\S+) +\|$", text, re.M) == [(covariance or "unstructured").title()]
        fixed = re.findall(r"^ *(\S+) \|", text.partition("Random-effects")[0], re.M)
        assert fixed == ["y", "x", "t", "_cons"]


def test_one_section_per_block_of_random_terms():
    table = simulate_table(3, n_groups=60)
    fit = fit_moments(reduce("y ~ x + t + (x | g) + (0 + t | g)", table))
    text = render_stata(fit)
    assert re.findall(r"^g: (\S+) +\|$", text, re.M) == ["Unstructured", "Identity"]
    parts = text.partition("g: Unstructured")[2].split("g: Identity")
    assert re.findall(r"(\S+\)) \|", parts[0]) == ["var(x)", "var(_cons)", "cov(x,_cons)"]
    assert re.findall(r"(\S+\)) \|", parts[1]) == ["var(t)", "var(Residual)"]


def test_the_anova_has_no_wald_test_and_a_mixture(hsb):
    text = render_stata(fit_moments(reduce("mathach ~ 1 + (1 | school)", hsb)))
    tail = text.partition("Mixed-effects")[2].splitlines()[5:]
    assert tail == [
        "                                                               max =        67",
        "",
        "                                                Wald chi2(0)       =         .",
        "Log restricted-likelihood = -23558.397          Prob > chi2        =         .",
        "",
        "-" * 78,
        "     mathach |      Coef.   Std. Err.      z    P>|z|     [95% Conf. Interval]",
        "-" * 13 + "+" + "-" * 64,
        "       _cons |   12.63697   .2443936    51.71   0.000     12.15797    13.11598",
        "-" * 78,
        "",
        "-" * 78,
        "  Random-effects Parameters  |   Estimate   Std. Err.     [95% Conf. Interval]",
        "-" * 29 + "+" + "-" * 48,
        "school: Identity             |",
        "                  var(_cons) |   8.614025   1.078804      6.739122    11.01055",
        "-" * 29 + "+" + "-" * 48,
        "               var(Residual) |   39.14832   .6606447      37.87466    40.46481",
        "-" * 78,
        "LR test vs. linear regression: chibar2(01) =   986.12 Prob >= chibar2 = 0.0000",
    ]


def test_the_mixture_halves_p():
    table = simulate_table(5, n_groups=12)
    rng = np.random.default_rng(2)
    table["y"] = 0.35 * rng.normal(size=12)[table["g"]] + rng.normal(size=len(table))
    fit = fit_moments(reduce("y ~ 1 + (1 | g)", table))
    assert 0.01 < fit.lr_test["p"] < 0.9
    text = render_stata(fit)
    assert f"Prob >= chibar2 = {fit.lr_test['p'] / 2:.4f}" in text
    exact = judge_variances(fit, "Intercept", null="exact").p
    assert f"exact null at 12 groups:{'':>19} Prob >= LR      = {exact:.4f}" in text
    assert f"{exact:.4f}" != f"{fit.lr_test['p'] / 2:.4f}"
    assert max(map(len, text.splitlines())) <= 78


def test_several_parameters_of_few_groups_point_to_the_bootstrap():
    fit = fit_moments(reduce("y ~ x + (x | g)", simulate_table(5, n_groups=12)))
    assert "fit.test_variances(...) gives its p at 12 groups." in render_stata(fit)


def test_ml_is_called_so(hsb):
    text = render_stata(fit_moments(reduce(TABLE_4_4, hsb), method="ml"))
    assert "Mixed-effects ML regression   " in text
    assert re.search(r"^Log likelihood = -23355\.\d{3} +Prob > chi2", text, re.M)
    assert re.search(r"^Iteration 0:   log likelihood = -", text, re.M)
    assert "restricted" not in text


def make_singular():
    """Group means that vary less than the rows within groups let expect."""
    y = np.tile([-1.0, 1.0, -2.0, 2.0], 6) + np.linspace(0.0, 0.01, 24)
    return pd.DataFrame({"g": np.repeat(np.arange(6), 4), "y": y})


def test_a_singular_fit_has_dots_and_the_advice():
    fit = fit_moments(reduce("y ~ 1 + (1 | g)", make_singular()))
    assert fit.singular
    text = render_stata(fit)
    assert re.search(r"^ +var\(_cons\) \| {10}0 {10}\. {13}\. {11}\.$", text, re.M)
    assert "chibar2(01) =     0.00 Prob >= chibar2 = 1.0000" in text
    note = text.partition("\n\nNote: ")[2]
    assert note.replace("\n", " ") == fit.advice
    assert max(map(len, text.splitlines())) <= 78


def test_a_fit_that_did_not_converge_says_so_first(table_4_4):
    fit = replace(table_4_4, converged=False)
    text = render_stata(fit)
    assert text.startswith("FAILED: convergence not achieved; the optimiser did not reach")
    assert "do not report these estimates\n\nPerforming EM" in text.replace(
        "\nestimates", " estimates"
    )


def check_alignment(text):
    """Rules, bars and last digits of each table, stand in one column."""
    _, *tables = text.partition("LR test")[0].split("\n\n-")
    assert len(tables) == 2
    for table in tables:
        lines = [line for line in ("-" + table).splitlines() if line.strip()]
        ends = {cell_len(line) for line in lines if not line.rstrip().endswith("|")}
        assert len(ends) == 1
        bars = {cell_len(line[: line.index("|")]) for line in lines if "|" in line}
        bars |= {line.index("+") for line in lines if line.startswith("-") and "+" in line}
        assert len(bars) == 1


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"x": "x" * 60, "y": "y" * 60, "g": "g" * 60},
        {"x": "\u00e9conomie", "g": "\u5b66\u6821", "y": "\u6210\u7e3e"},
        {"g": "\u5b66\u6821" * 20},
        {"x": "line\nfeed", "g": "tab\tbed"},
    ],
)
def test_names_of_any_width_stay_whole_and_aligned(moments, names):
    text = render_stata(fit_moments(moments.rename(names)))
    check_alignment(text)
    for name in names.values():
        assert name.replace("\n", "\\n").replace("\t", "\\t") in text
    header = text[text.index("Mixed-effects") :].partition("---")[0]
    values = [line for line in header.splitlines() if re.search(r"= +\S+$", line)]
    assert len(values) == 7
    assert len({cell_len(line) for line in values}) == 1


def test_a_wide_header_keeps_its_halves_apart(moments):
    text = render_stata(fit_moments(moments.rename({"g": "g" * 60})))
    assert f"\nGroup variable: {'g' * 60}  Number of groups   =        60\n" in text


def test_huge_and_tiny_numbers_keep_their_columns():
    table = simulate_table(3, n_groups=40)
    for scale in (1e-9, 1e9):
        text = render_stata(
            fit_moments(reduce("y ~ x + (x | g)", table.assign(y=table["y"] * scale)))
        )
        check_alignment(text)
    table["y"] = table["y"] * 1e-6 + 1.0
    text = render_stata(fit_moments(reduce("y ~ x + (1 | g)", table)))
    check_alignment(text)
    statistic = read_rows(text)["_cons"][2]
    assert float(statistic) > 1e5


def test_render_dispatches_by_style(table_4_4):
    assert render(table_4_4) == render_stata(table_4_4)
    assert render(table_4_4, style="lme4").startswith("Linear mixed model fit by REML")
    assert render(table_4_4, style="hlm").startswith("sigma_squared = 36.70020")
    with pytest.raises(ArgumentError, match="style='sas' is not known; choose one of stata, hlm"):
        render(table_4_4, style="sas")
