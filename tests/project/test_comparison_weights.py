"""What `comparisons/weights.py` says of digits that programs print and bhlm does not."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bhlm

FOLDER = Path(__file__).parents[2] / "comparisons"
CONVENTIONS = ("full", "uncorrected", "block", "separate")


@pytest.fixture(scope="module")
def weights() -> ModuleType:
    """The script, imported from its folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        import weights
    finally:
        sys.path.remove(str(FOLDER))
    return weights


@pytest.fixture(scope="module")
def survey(weights: ModuleType) -> tuple[Any, Any]:
    """New Zealand's pupils: the fit, and the pseudo-likelihood written out."""
    table = bhlm.load_dataset("pisa_nz")[lambda rows: rows["PCGIRLS"].notna()]
    given = bhlm.SamplingWeights(rows="W_FSTUWT / W_FSCHWT", groups="W_FSCHWT")
    fit = bhlm.Model("PV1MATH ~ PCGIRLS + (1 | SCHOOLID)", table, weights=given).reml(method="ml")
    school = table["SCHOOLID"].astype("category").cat.codes.to_numpy().astype(np.int64)
    pseudo = weights.PseudoLikelihood(
        np.column_stack([np.ones(len(table)), table["PCGIRLS"]]),
        table["PV1MATH"].to_numpy(),
        (table["W_FSTUWT"] / table["W_FSCHWT"]).to_numpy(),
        table["W_FSCHWT"].groupby(school).first().to_numpy(),
        school,
    )
    return fit, pseudo


def test_the_pseudo_likelihood_written_out_is_bhlms(weights, survey):
    fit, pseudo = survey
    table = fit.compare_conventions()[:4]
    top = pseudo.maximize(table["estimate"].to_numpy() * (1.0 + 1e-3))
    np.testing.assert_allclose(table["estimate"], top, weights.SAME)
    assert pseudo.logliks(top).sum() == pytest.approx(fit.loglik, rel=1e-13)
    for convention in CONVENTIONS:
        np.testing.assert_allclose(table[convention], pseudo.errors(top, convention), weights.SAME)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_program_that_stopped_early_is_told_from_another_formula(convention, weights, survey):
    fit, pseudo = survey
    top = fit.compare_conventions()["estimate"].to_numpy()[:4]
    stopped = top * (1.0 + 3e-5 * np.array([1.0, -1.0, 1.0, -1.0]))
    estimates = weights.read([f"{each:.4f}" for each in stopped])
    texts = [f"{each:.3f}" for each in pseudo.errors(stopped, convention)]
    errors = weights.read(texts)
    assert weights.find_loss(pseudo, top, estimates) > 1e-8
    assert weights.find_loss(pseudo, top, weights.read([f"{each:.3f}" for each in top])) < 1e-8
    found = weights.find_stop(pseudo, top, estimates, errors, convention)
    assert all(weights.agree(value, text)[0] for value, text in zip(found, texts, strict=True))
    # What is printed by another convention is not reached from these estimates.
    other = "uncorrected" if convention != "uncorrected" else "full"
    found = weights.find_stop(pseudo, top, estimates, errors, other)
    assert not all(weights.agree(value, text)[0] for value, text in zip(found, texts, strict=True))


def test_what_the_documentation_says_of_the_committed_output():
    text = (FOLDER / "results" / "weights.txt").read_text(encoding="utf-8")
    assert "93 of 115 printed numbers to their last digit, 115 within 0.0001" in text
    assert text.count("11 of 11 standard errors are those at such estimates") == 3
    assert text.count("-12789991.9 is above the maximum, -12789991.99385") == 2
    assert "se escs: 2.13047 there, printed 2.131: rounded twice" in text
    assert "2 standard errors differ for no reason that is known" in text
    assert "pooled, full: Intercept estimate 489.507, se 8.48904, lambda 0.124518" in text
