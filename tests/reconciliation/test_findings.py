"""The four findings: each has a status and words of its own, and none speaks for another."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from gallery_fits import fit_reml, make_model, sample_posterior

from bhlm.bayes.checks.model_checks import Checks, run_checks
from bhlm.bayes.checks.sensitivity import Sensitivity
from bhlm.commands.shared import report_both
from bhlm.fits.reconciliation import Reconciliation, reconcile
from bhlm.reconciliation.comparison import compare
from bhlm.reconciliation.findings import judge_model, judge_priors
from bhlm.reml.fixed.contrasts import tabulate_fixed
from bhlm.reports.dashboard.blocks import Subject, Text
from bhlm.reports.dashboard.marks import mark_failed
from bhlm.reports.dashboard.outcome import judge
from bhlm.reports.dashboard.page import SECTIONS, build_sections
from bhlm.reports.dashboard.verdict import build_verdict
from bhlm.reports.notebook import show_reconciliation

RHAT = "R-hat of sd(Intercept|Rail) is 2.60, above 1.01; run longer (tune, draws)"
# What nobody may read of a fit that failed.
CONSOLATIONS = (
    "nothing unexplained", "pass every", "certifies", "judges", "data decide", "as uniform as",
    "No: no", "within what", "No statistic", "Every gap", "agree",
)  # fmt: skip


def make_subject(both: Reconciliation) -> Subject:
    return Subject(both.reml, both.post, both, both.model, "t", {})


def report(both: Reconciliation) -> int:
    return report_both(both, json=None, page=None, model=None, title=None, source={})


@pytest.fixture(scope="module")
def rail() -> Reconciliation:
    return reconcile(fit_reml("rail"), sample_posterior("rail"))


@pytest.fixture(scope="module")
def failed(rail: Reconciliation) -> Reconciliation:
    """Return the reconciliation of draws whose chains disagree."""
    found = replace(rail.post.diagnostics.add_failure(RHAT), max_rhat=2.6)
    return reconcile(rail.reml, replace(rail.post, diagnostics=found))


def test_a_model_check_that_fails_is_told_beside_gaps_that_are_explained(
    sleep_both: Reconciliation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Subject 332 has a day far from all others; the two answers agree on the wrong model."""
    findings = sleep_both.findings
    assert sleep_both.verdict == "explained"
    assert [each.status for each in findings[:3]] == ["holds", "holds", "fails"]
    assert sleep_both.checks is not None
    assert sleep_both.checks.pit is not None
    assert sleep_both.checks.pit.p < 1e-3
    told = " ".join(findings.model_checks.details)
    assert f"(p = {sleep_both.checks.pit.p:.2g})" in told
    assert "The residual SD of Subject 332 is outside" in told
    outcome = judge(make_subject(sleep_both))
    assert (outcome.tone, outcome.label) == ("caution", "A model check fails")
    assert any("model checks" in text for text in outcome.advice)
    # The exit status is the verdict's, which is about the two answers.
    assert report(sleep_both) == 0
    assert "model checks    fails    A model check fails" in capsys.readouterr().out
    content = json.loads(json.dumps(sleep_both.to_dict()))["findings"]
    assert set(content) == {"convergence", "reconciliation", "model_checks", "priors"}
    assert content["model_checks"]["status"] == "fails"
    assert "model checks    fails    A model check fails" in sleep_both.summary()
    assert findings.model_checks.headline in show_reconciliation(sleep_both)


def test_a_choice_of_df_stands_in_json_and_page(sleep_both: Reconciliation) -> None:
    reml = sleep_both.reml
    content = sleep_both.to_dict(df="hlm")["reml"]
    assert content["fixed_effects"]["df_method"] == "hlm"
    expected = tabulate_fixed(reml, method="hlm")
    assert content["fixed_effects"]["tests"]["Days"]["p"] == expected.loc["Days", "p"]
    assert "fixed_effects" not in sleep_both.to_dict()["reml"]
    blocks = build_verdict(replace(make_subject(sleep_both), df="hlm")).blocks
    (table,) = (each for each in blocks if getattr(each, "name", "") == "fixed_tests")
    pd.testing.assert_frame_equal(table.frame, expected)
    assert table.reading.startswith("By df='hlm' p is below .05 for 2 of 2 fixed effects")
    names = [getattr(each, "name", "") for each in build_verdict(make_subject(sleep_both)).blocks]
    assert "fixed_tests" not in names


def test_what_holds_is_good(hsb_both: Reconciliation) -> None:
    """Of Table 4.4 the priors decide nothing; with sound checks all four hold."""
    assert hsb_both.findings.priors.label == "The data decide"
    assert hsb_both.checks is not None
    pit = replace(hsb_both.checks.pit, p=0.5)
    predictive = hsb_both.checks.predictive
    inside = replace(
        predictive,
        groups=predictive.groups.assign(p_adjusted=1.0),
        overall=predictive.overall.assign(p_two_sided=0.5),
    )
    sound = replace(hsb_both, checks=replace(hsb_both.checks, pit=pit, predictive=inside))
    assert all(each.holds for each in sound.findings.told)
    outcome = judge(make_subject(sound))
    assert (outcome.tone, outcome.label) == ("good", "Every gap is explained")
    # One summary of many is no more than a doubt.
    doubtful = inside.overall.assign(p_two_sided=[0.005] + [0.5] * (len(inside.overall) - 1))
    checks = replace(sound.checks, predictive=replace(inside, overall=doubtful))
    found = judge_model(checks)
    assert (found.status, found.label) == ("caution", "A model check is in doubt")
    assert f"of {len(doubtful)} summaries" in found.details[-1].lower()
    assert judge(make_subject(replace(sound, checks=checks))).tone == "caution"


def test_chains_that_disagree_let_nothing_else_be_judged(
    failed: Reconciliation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed.verdict == "not_converged"
    statuses = [each.status for each in failed.findings.told]
    assert statuses == ["fails", "unknown", "unknown", "unknown"]
    assert failed.checks is None
    assert (failed.table["verdict"] == "not_converged").all()
    assert report(failed) == 1
    for text in (capsys.readouterr().out, json.dumps(failed.to_dict()), repr(failed)):
        assert not [words for words in CONSOLATIONS if words in text]
    assert failed.to_dict()["certification"]["certified"] is False
    assert f"Posterior: {RHAT}." in failed.findings.convergence.details
    assert len(failed.advice) == 1
    assert failed.advice[0].startswith("Sample again")
    assert all("failed their diagnostics" in text for text in failed.words.values())


def test_reml_that_failed_is_named(rail: Reconciliation) -> None:
    both = replace(rail, reml=replace(rail.reml, converged=False), verdict="not_converged")
    assert both.findings.convergence.headline.startswith("The REML fit did not converge")
    assert both.findings.model_checks.headline == "Not judged: the REML fit did not converge."
    assert both.route.endswith("no gap is split: the REML fit did not converge.")
    (advice,) = judge(make_subject(both)).advice
    assert advice == "Do not report the REML estimates until the optimiser converges."


@pytest.mark.parametrize(
    "shown", [slice(2), pytest.param(slice(len(SECTIONS) - 1), marks=pytest.mark.slow)]
)
def test_every_block_of_a_failed_page_is_marked(failed: Reconciliation, shown: slice) -> None:
    subject = make_subject(failed)
    for section in mark_failed(build_sections(subject, SECTIONS[shown]), subject):
        marks = section.marks or ("",) * len(section.blocks)
        for block, mark in zip(section.blocks, marks, strict=True):
            if isinstance(block, Text):
                told = " ".join(block.sentences)
                assert block.tone != "good", block
            else:
                told = block.reading
                is_reml = block.name in ("reml_estimates", "influence", "residuals")
                assert (mark == "") == is_reml, block.name
            if "convergence" not in section.name:
                assert not [words for words in CONSOLATIONS if words in told], block
    outcome = judge(subject)
    assert (outcome.tone, outcome.label) == ("bad", "Not converged")


def test_a_page_that_holds_bears_no_mark(rail: Reconciliation) -> None:
    subject = make_subject(rail)
    sections = build_sections(subject, SECTIONS[:1])
    assert mark_failed(sections, subject) == sections


def test_the_prior_decides_is_not_that_draws_failed(rail: Reconciliation) -> None:
    table = pd.DataFrame(
        {"prior": [0.4, 0.01], "likelihood": [0.01, 0.3], "sd": [0.4, 0.0]},
        index=pd.Index(["sd(Intercept|g)", "x"], name="parameter"),
    ).assign(diagnosis=["strong prior", "ok"])
    checks = Checks(None, None, Sensitivity(table, 0.05))
    found = judge_priors(checks)
    assert (found.status, found.label) == ("caution", "The prior decides")
    assert found.headline == "The prior decides sd(Intercept|g): the data hardly move it."
    both = replace(rail, checks=checks)
    assert both.findings.convergence.holds
    assert both.findings.priors.label == "The prior decides"
    assert "converge" not in " ".join((found.headline, *found.details))


def test_priors_that_move_a_mean_have_a_say(rail: Reconciliation) -> None:
    """By the split of the gap, also where power-scaling sees little."""
    calm = rail.checks.sensitivity
    calm = replace(calm, table=calm.table.assign(diagnosis="ok"))
    both = replace(rail, checks=replace(rail.checks, sensitivity=calm))
    share = (both.table["prior"] / both.table["sd"]).abs()
    found = both.findings.priors
    assert found.label == "The prior has a say"
    assert f"by up to {share.max():.2g} posterior SDs" in found.details[0]


def test_an_improper_posterior_is_the_priors_fault() -> None:
    found = judge_priors(None, failed=("posterior",), improper=True)
    assert (found.status, found.label) == ("fails", "Improper posterior")


def test_an_sd_that_the_default_prior_bounds_is_no_failure_of_the_draws(
    rail: Reconciliation,
) -> None:
    """Few groups leave the upper tail to the prior, and draws of that posterior may be perfect."""
    sentence = "2 groups do not bound sd(Intercept|Rail): the upper tail is that of the prior"
    diagnostics = replace(rail.post.diagnostics, prior_bound=(sentence,))
    both = Reconciliation.of(compare(rail.reml, replace(rail.post, diagnostics=diagnostics)))
    assert both.findings.convergence.holds
    assert (both.findings.priors.status, both.findings.priors.label) == (
        "fails",
        "The prior decides",
    )
    assert both.verdict == "undetermined"
    assert f"Priors: {sentence}." in both.reasons
    assert report(both) == 1
    text = both.post.summary()
    assert text.startswith("THE PRIOR DECIDES")
    assert "Convergence: ok" in text


def test_checks_that_were_not_made_do_not_hold(rail: Reconciliation) -> None:
    both = replace(rail, checks=None)
    assert both.findings.model_checks.status == "unknown"
    assert judge(make_subject(both)).tone == "caution"


def test_without_rows_the_groups_are_checked(rail: Reconciliation) -> None:
    checks = run_checks(rail.post)
    assert checks.pit is not None
    assert checks.pit.whose == "Of the means of 6 groups"
    assert not checks.pit.of_rows
    assert rail.checks.pit.whose == "Of all 18 rows"


def test_rows_that_changed_are_a_reason(rail: Reconciliation) -> None:
    other = make_model("dyestuff2")
    checks = run_checks(rail.post, other.rows)
    assert checks.pit is None
    assert checks.left_out[0].startswith("The PIT of the rows was not computed: ")
    assert judge_model(checks).status == "unknown"
    assert np.isfinite(checks.sensitivity.table["prior"]).all()
