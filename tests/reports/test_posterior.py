"""The posterior as text: numbers, sections, and a verdict that nobody can overlook."""

import re
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from simulate import simulate_table

from bhlm.bayes.draws import Settings
from bhlm.bayes.sampling import sample_moments
from bhlm.design.design import build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.moments.moments import compute_moments
from bhlm.reports.text.posterior import render_posterior

HEADINGS = ["mean", "sd", "2.5 %", "50 %", "97.5 %", "bulk ESS", "tail ESS", "R-hat", "MCSE"]


def sample(names=None, formula="y ~ x + (x | g)"):
    table = simulate_table(3, n_groups=30)
    moments = compute_moments(build_design(parse_formula(formula), table), table)
    if names:
        moments = moments.rename(names)
    return sample_moments(moments, seed=1, settings=Settings(draws=60, tune=200, chains=2))


@pytest.fixture(scope="module")
def fit():
    return sample()


@pytest.fixture(scope="module")
def good(fit):
    diagnostics = replace(fit.diagnostics, ok=True, failures=(), max_rhat=1.00421, divergences=0)
    return replace(fit, diagnostics=diagnostics, seconds=3.21)


def test_the_head_says_what_was_sampled(good):
    moments = good.moments
    lines = render_posterior(good).splitlines()
    assert lines[:4] == [
        "Posterior of y ~ x + (x | g)",
        f"{moments.n_rows} rows; 30 groups of 'g' with 1 to 9 rows, "
        f"{moments.n_rows / 30:.1f} on average",
        "2 chains x 60 draws, seed 1, 3.2 s (numba density, nutpie)",
        "",
    ]
    dropped = replace(good, moments=replace(moments, dropped=7))
    assert "rows used, 7 dropped for missing values; 30 groups" in render_posterior(dropped)


def read_table(text):
    body = text.partition("\n-")[2].partition("\nPriors")[0].splitlines()
    return body[1], [line for line in body[2:] if not line.startswith("-") and line]


def test_every_number_parses_back_to_its_estimate(fit):
    estimates = fit.estimates
    head, rows = read_table(render_posterior(fit))
    assert re.split(r"(?<=\S) +(?!%|ESS)", head.strip()) == HEADINGS
    keys = ("mean", "sd", "lower", "median", "upper", "ess_bulk", "ess_tail", "rhat", "mcse_mean")
    relative = dict.fromkeys(keys, 5.1e-5) | {"mcse_mean": 0.051}
    absolute = dict.fromkeys(keys, 0.0) | {"ess_bulk": 0.51, "ess_tail": 0.51, "rhat": 5.1e-5}
    seen = []
    for line in rows:
        name, *numbers = line.split()
        if len(numbers) == len(keys):
            seen.append(name)
            for key, number in zip(keys, numbers, strict=True):
                value = estimates.loc[name, key]
                assert float(number) == pytest.approx(value, rel=relative[key], abs=absolute[key])
    assert seen == list(estimates.index)


def test_sections(fit):
    _, rows = read_table(render_posterior(fit))
    names = [line.split("  ")[0] or line.split()[0] for line in rows]
    assert names == [
        "Fixed effects",
        "Intercept",
        "x",
        "Variance components",
        "var(Intercept|g)",
        "var(x|g)",
        "cov(Intercept,x|g)",
        "var(Residual)",
        "SDs and correlations",
        "sd(Intercept|g)",
        "sd(x|g)",
        "corr(Intercept,x|g)",
        "sd(Residual)",
    ]


def test_the_priors_are_those_of_the_fit(fit):
    text = render_posterior(fit).partition("\nPriors")[2].partition("\n\n")[0]
    priors, _, scales = text.partition("scaled by the SDs")
    shown = dict(line.strip().split("  ", 1) for line in priors.splitlines()[1:] if line.strip())
    for name, sd in fit.scales.items():
        assert f"{name} {sd:.4g}" in " ".join(scales.split())
    assert {name: prior.strip() for name, prior in shown.items()} == fit.priors.describe(
        fit.moments
    )


def test_a_good_verdict_comes_last(good):
    text = render_posterior(good)
    assert "FAILED" not in text
    verdict = text.rpartition("\n\n")[2].replace("\n", " ")
    seen = good.diagnostics
    assert verdict == (
        f"Convergence: ok (largest R-hat 1.0042, smallest bulk ESS {seen.min_ess_bulk:.0f}, "
        f"smallest tail ESS {seen.min_ess_tail:.0f}, smallest E-BFMI {seen.min_bfmi:.2f}, "
        "0 divergences, 0 at the tree-depth limit)."
    )


def test_a_failed_verdict_leads_and_is_repeated(fit):
    assert not fit.converged  # 120 draws cannot have an ESS of 400
    text = render_posterior(fit)
    lead = text.partition("\n\n")[0]
    assert lead.startswith("FAILED: the draws do not pass their verdict\n* ")
    unwrapped = re.sub(r"\n  ", " ", lead).splitlines()[1:]
    assert unwrapped == [f"* {failure}" for failure in fit.diagnostics.failures]
    assert len(unwrapped) >= 2
    assert text.rpartition("\n\n")[2].startswith("Convergence: FAILED (")


# R-hat of a constant is 0 / 0.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_number_that_does_not_exist_is_a_dot(good):
    frozen = good.data.copy(deep=True)
    frozen["posterior"]["sigma"][:] = 2.0
    diagnostics = replace(good.diagnostics, min_ess_bulk=np.nan)
    text = render_posterior(replace(good.with_data(frozen), diagnostics=diagnostics))
    row, _ = re.findall(r"^  sd\(Residual\) .*$", text, re.M)  # the other is its prior
    assert "nan" not in text
    assert row.split()[1] == "2.0000"
    assert row.split()[-2] == "."
    assert "smallest bulk ESS .," in text.replace("\n", " ")


@pytest.mark.parametrize("name", ["x" * 60, "\u5b66\u6821\u5e74", "line\nfeed"])
def test_names_of_any_width_stay_whole_and_aligned(name):
    text = render_posterior(sample({"x": name, "g": "\u5b66\u6821"}))
    shown = name.replace("\n", "\\n")
    head, rows = read_table(text)
    ends = {cell_len(line) for line in [head, *rows] if line[:1] == " "}
    assert len(ends) == 1
    assert f"\n  corr(Intercept,{shown}|\u5b66\u6821) " in text
    assert f"\n  {shown} " in text
