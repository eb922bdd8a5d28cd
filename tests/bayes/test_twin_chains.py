"""Chains that are not independent: copies, shadows, repeats."""

import numpy as np
import pytest

from bhlm.bayes.convergence import diagnose
from bhlm.bayes.twin_chains import describe_twins, find_twins


@pytest.fixture
def chains():
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((4, 500, 3))
    for t in range(1, 500):
        noise[:, t] = 0.8 * noise[:, t - 1] + 0.6 * noise[:, t]
    return noise


def name(chains):
    return {f"p{i}": chains[:, :, i] for i in range(chains.shape[2])}


def test_independent_chains_are_no_twins(chains):
    assert find_twins(name(chains)) == []
    for seed in range(5):
        walk = np.cumsum(np.random.default_rng(seed).standard_normal((4, 200, 6)), axis=1)
        # Even chains that have not converged are not taken for copies in most parameters.
        assert not any(pair.copied for pair in find_twins(name(walk)))


@pytest.mark.parametrize("kind", ["copy", "shifted", "reversed", "noisy", "half", "repeats"])
def test_twins_are_found(chains, kind):
    if kind == "copy":
        chains[1] = chains[0]
    elif kind == "shifted":
        chains[1] = np.roll(chains[0], 37, axis=0)
    elif kind == "reversed":
        chains[1] = chains[0, ::-1]
    elif kind == "noisy":
        chains[1] = chains[0] + 0.1 * np.random.default_rng(0).standard_normal(chains[0].shape)
    elif kind == "half":
        chains[1, 250:] = chains[0, :250]
    else:
        chains[1, 250:] = chains[1, :250]
    assert len(describe_twins(find_twins(name(chains)))) == 1


def test_rejections_are_no_repeats(chains):
    stuck = np.repeat(chains[:, ::5], 5, axis=1)
    assert find_twins(name(stuck)) == []


def test_a_duplicated_chain_fails_the_verdict(chains):
    quiet = np.zeros((4, 500), dtype=bool)
    energy = np.random.default_rng(3).standard_normal((4, 500))
    chains[2] = chains[0]
    failures = diagnose(name(chains), energy=energy, diverging=quiet, treedepth=quiet).failures
    assert failures[0].startswith("chain 3 has 100% of its states from chain 1")


def test_integers_may_meet_again():
    counts = np.random.default_rng(0).integers(0, 5, size=(4, 200))
    assert find_twins({"k": counts}) == []
