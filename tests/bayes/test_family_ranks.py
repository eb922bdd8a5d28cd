"""Simulation-based calibration of families: true values rank uniformly among posterior draws."""

import numpy as np
import pandas as pd
import pytest

from bhlm import HalfNormal, Model, Normal, Priors
from bhlm.bayes.draws import Settings
from bhlm.bayes.family.sampling import sample_patterns
from bhlm.likelihood.families import find_family
from bhlm.studies.uniformity import uniformity_p

KEPT, THIN = 39, 6
GROUPS, SIZE = 10, 6
# Four ranks are tested in each of three families, and chance may have one in a thousand.
LEAST = 1e-3 / 12.0
CASES = {
    "bernoulli": ("y ~ x + (1 | g)", "logit", 1),
    "binomial": ("y / n ~ x + (1 | g)", "cloglog", 4),
    "poisson": ("y ~ x + (1 | g)", "log", 1),
}


def rank_true_values(name: str, *, replicates: int, seed: int) -> dict[str, np.ndarray]:
    """Return by parameter the rank (replicates,) of its true value among KEPT draws.

    The covariate's mean is zero, where the prior of the intercept stands.
    """
    formula, link, trials = CASES[name]
    family, rng = find_family(name, link), np.random.default_rng(seed)
    g = np.repeat(np.arange(GROUPS), SIZE)
    x = np.tile([-1.0, 0.0, 1.0], len(g) // 3)
    n = np.full(len(g), trials)
    priors = Priors(fixed=Normal(0.0, 1.0), sd=HalfNormal(1.0))
    settings = Settings(draws=KEPT * THIN, tune=300, chains=1)
    ranks: dict[str, list[int]] = {"Intercept": [], "x": [], "sd(Intercept|g)": [], "u": []}
    for replicate in range(replicates):
        beta, sd = rng.normal(size=2), abs(rng.normal())
        u = sd * rng.normal(size=GROUPS)
        y = family.draw(family.mean(beta[0] + beta[1] * x + u[g]), n, rng=rng)
        table = pd.DataFrame({"g": g, "x": x, "y": y, "n": n})
        model = Model(formula, table, family=name, link=link)
        fit = sample_patterns(model.patterns, seed=replicate, settings=settings, priors=priors)
        draws = {key: fit.draws[key].ravel() for key in list(ranks)[:3]} | {
            "u": fit.list_effects()[:, 0, 0]
        }
        for key, true in zip(ranks, (*beta, sd, u[0]), strict=True):
            ranks[key].append(int((draws[key][::THIN] < true).sum()))
    return {key: np.array(each) for key, each in ranks.items()}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_true_values_rank_uniformly(name: str) -> None:
    for key, ranks in rank_true_values(name, replicates=300, seed=11).items():
        assert uniformity_p(ranks, KEPT) > LEAST, key


@pytest.mark.slow
def test_ranks_tell_a_wrong_prior() -> None:
    """Ranks of true values that are half as large as drawn are not uniform."""
    ranks = rank_true_values("poisson", replicates=40, seed=12)["sd(Intercept|g)"]
    assert uniformity_p(ranks, KEPT) > LEAST
    assert uniformity_p(ranks // 2, KEPT) < LEAST
