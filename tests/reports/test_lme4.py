"""lme4's summary, against what R printed (tests/reference/lme4_summaries)."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from lme4_cases import fit_case
from rich.cells import cell_len
from simulate import simulate_table

from bhlm.design.design import build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.moments.moments import compute_moments
from bhlm.reml.estimate import fit_moments
from bhlm.reports.text.lme4 import format_r, render_lme4

SUMMARIES = Path(__file__).parents[1] / "reference" / "lme4_summaries"
FILES = sorted(SUMMARIES.glob("*.txt"))


def cut_r(text):
    """R's lines without those that need the rows, the call, or R's abbreviations."""
    text = re.sub(r"Scaled residuals:.*?\n\n", "", text, flags=re.S)
    text = re.sub(r"(Data|   Data|Control): .*\n", "", text)
    text = re.sub(r"\n(optimizer|boundary) \(.*", "", text)
    before, _, corr = text.partition("Correlation of Fixed Effects:\n")
    return before.rstrip().splitlines(), [line.split()[1:] for line in corr.splitlines()[1:]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_prints_what_lme4_prints(path):
    name, method = path.stem.rsplit(".", 1)
    fit = fit_case(name, method)
    lines, corr = cut_r(render_lme4(fit))
    expected, expected_corr = cut_r(path.read_text(encoding="utf-8"))
    assert lines[1].removeprefix("Formula: ") == fit.moments.formula
    # lme4 repeats the formula as R writes it, with more parentheses.
    assert [line for line in lines if not line.startswith("Formula")] == [
        line for line in expected if not line.startswith("Formula")
    ]
    assert corr == expected_corr
    assert bool(corr) == (len(fit.moments.fixed) > 1)


def test_there_are_r_files():
    assert [path.stem for path in FILES] == [
        "dyestuff2.reml",
        "machines.reml",
        "sleepstudy.reml",
        "sleepstudy_independent.ml",
    ]


@pytest.mark.parametrize(
    ("values", "digits", "texts"),
    [
        ([612.0954, 35.07166, 654.9410], 4, ["612.10", " 35.07", "654.94"]),
        ([12345.678, 1.5, 200.0], 4, ["12345.7", "    1.5", "  200.0"]),
        ([1e-7, 1.5, 200.0], 4, ["1.0e-07", "1.5e+00", "2.0e+02"]),
        ([0.1, 1.5, 200.0], 4, ["  0.1", "  1.5", "200.0"]),
        ([0.0, 13.8057], 4, [" 0.00", "13.81"]),
        ([float("nan"), 1.25], 4, [" NaN", "1.25"]),
        ([float("-inf"), 1.25], 4, ["-Inf", "1.25"]),
        ([], 4, []),
    ],
)
def test_format_r(values, digits, texts):
    assert format_r(values, digits) == texts


def test_correlations_of_the_fixed_effects_have_whole_names():
    text = render_lme4(fit_case("machines", "reml"))
    corr = text.partition("Correlation of Fixed Effects:\n")[2].splitlines()
    assert corr == [
        "           (Intercept) Machine[B]",
        "Machine[B]  0.463",
        "Machine[C] -0.374       0.301",
    ]


def test_singular_last_and_failed_first():
    fit = fit_case("dyestuff2", "reml")
    assert render_lme4(fit).endswith(f"\n\nboundary (singular) fit: {fit.advice}")
    fit = replace(fit_case("sleepstudy", "reml"), converged=False)
    assert render_lme4(fit).startswith("FAILED: the optimiser did not reach a stationary point")


def test_a_zero_variance_has_no_correlation():
    fit = fit_case("sleepstudy", "reml")
    g = fit.g.copy()
    g[0, :] = g[:, 0] = 0.0
    rows = render_lme4(replace(fit, g=g)).partition("Random effects:")[2].splitlines()
    assert rows[3].split()[-1] == "NaN"


def test_blocks_are_groups_of_their_own():
    table = simulate_table(3, n_groups=60)
    formula = "y ~ x + t + (x | g) + (0 + t | g)"
    design = build_design(parse_formula(formula), table)
    moments = compute_moments(design, table)
    rows = render_lme4(fit_moments(moments)).partition("Random effects:\n")[2].splitlines()
    assert [row.split()[0] for row in rows[:5]] == ["Groups", "g", "x", "g.1", "Residual"]
    shared = render_lme4(fit_moments(moments, covariance="exchangeable"))
    rows = shared.partition("Random effects:\n")[2].splitlines()
    corr = [row.split()[-1] for row in rows[2:4]]
    assert corr[0] == corr[1]
    long = moments.rename({"g": "\u5b66\u6821" * 15, "x": "x" * 60})
    text = render_lme4(fit_moments(long))
    assert "\u5b66\u6821" * 15 in text
    fixed = text.partition("Fixed effects:\n")[2].partition("\n\n")[0].splitlines()
    assert len({cell_len(line) for line in fixed}) == 1
