"""Draws that were changed after they were diagnosed are judged as they are."""

from dataclasses import replace

import numpy as np
import pytest
from gallery_fits import fit_reml, sample_posterior

from bhlm.bayes.draws import Posterior
from bhlm.errors import DataError
from bhlm.fits.reconciliation import reconcile
from bhlm.reconciliation.recheck import find_contradictions, rejudge_draws


def change(post: Posterior, **changed: np.ndarray) -> Posterior:
    """Return draws some of whose variables are others."""
    posterior = post.data["posterior"].dataset
    tree = post.data.copy()
    parts = {name: posterior[name].copy(data=values) for name, values in changed.items()}
    tree["posterior"].dataset = posterior.assign(parts)
    return post.with_data(tree)


def read(post: Posterior, name: str) -> np.ndarray:
    return post.data["posterior"].dataset[name].values.copy()


def copy_chain(post: Posterior) -> Posterior:
    """Return draws whose second chain is the first."""
    changed = {}
    for name in post.data["posterior"].dataset.data_vars:
        changed[name] = read(post, name)
        changed[name][1] = changed[name][0]
    return change(post, **changed)


def test_draws_as_they_were_sampled_are_left_alone():
    post = sample_posterior("rail")
    assert rejudge_draws(post) is post
    assert find_contradictions(post) == []


def test_a_chain_that_was_copied_later_is_found():
    found = rejudge_draws(copy_chain(sample_posterior("rail")))
    assert not found.converged
    assert "chain 2 has 100% of its states from chain 1" in found.diagnostics.failures[0]


def test_what_is_changed_in_place_is_read_anew():
    post = change(sample_posterior("rail"), beta=read(sample_posterior("rail"), "beta"))
    assert post.draws  # which are kept
    post.data["posterior"]["beta"].values[3] += 100.0
    assert any("R-hat of Intercept" in each for each in rejudge_draws(post).diagnostics.failures)


def test_what_failed_when_sampled_still_fails():
    post = copy_chain(sample_posterior("rail"))
    known = replace(post, diagnostics=post.diagnostics.add_failure("the lights went out"))
    assert rejudge_draws(known).diagnostics.failures[0] == "the lights went out"


@pytest.mark.parametrize("name", ["sd", "G"])
def test_variables_that_are_not_one_set_of_draws_are_named(name):
    post = sample_posterior("rail")
    values = read(post, name)
    (found,) = find_contradictions(
        change(post, **{name: values.mean() + (values - values.mean()) / 2})
    )
    assert f"contradict themselves: {name} in post.data are not" in found


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_variable_that_is_no_number_is_refused(value):
    post = sample_posterior("rail")
    sd = read(post, "sd")
    sd[0, 0] = value
    with pytest.raises(DataError, match=r"'sd' in .* has 1 of \d+ values that are not finite"):
        find_contradictions(change(post, sd=sd))


@pytest.mark.slow
def test_sabotage_of_the_draws_turns_the_verdict():
    reml, post = fit_reml("rail"), sample_posterior("rail")
    both = reconcile(reml, copy_chain(post), checks=False)
    assert both.verdict == "not_converged"
    assert both.findings.convergence.status == "fails"
    values = read(post, "sd")
    both = reconcile(
        reml, change(post, sd=values.mean() + (values - values.mean()) / 2), checks=False
    )
    assert both.verdict == "unexplained"
    assert any("contradict themselves" in reason for reason in both.reasons)
    beta = read(post, "beta")
    both = reconcile(reml, change(post, beta=beta.mean() + (beta - beta.mean()) / 2), checks=False)
    assert both.verdict == "unexplained"
    assert "e-" not in both.words["Intercept"]  # rounding is not called unexplained
    assert "the draws are off in" in both.words["Intercept"]
