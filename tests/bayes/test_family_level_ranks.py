"""Simulation-based calibration of families with nested factors: true values rank uniformly."""

import numpy as np
import pandas as pd
import pytest

from bhlm import HalfNormal, Model, Normal, Priors
from bhlm.bayes.draws import Settings
from bhlm.bayes.family.level_sampling import sample_level_patterns
from bhlm.likelihood.families import find_family
from bhlm.studies.uniformity import uniformity_p

KEPT, THIN = 39, 5
SCHOOLS, CLASSES, SIZE = 6, 2, 6
# Six ranks are tested in each of two families, and chance may have one in a thousand.
LEAST = 1e-3 / 12.0
CASES = {"bernoulli": "logit", "poisson": "log"}
SDS = ("sd(Intercept|school)", "sd(Intercept|school:class)")


def rank_true_values(name: str, *, replicates: int, seed: int) -> dict[str, np.ndarray]:
    """Return by parameter the rank (replicates,) of its true value among KEPT draws.

    The covariate's mean is zero, where the prior of the intercept stands.
    """
    family, rng = find_family(name, CASES[name]), np.random.default_rng(seed)
    school = np.repeat(np.arange(SCHOOLS), CLASSES * SIZE)
    place = np.repeat(np.arange(SCHOOLS * CLASSES), SIZE)
    x = np.tile([-1.0, 0.0, 1.0], len(school) // 3)
    priors = Priors(fixed=Normal(0.0, 1.0), sd=HalfNormal(1.0))
    settings = Settings(draws=KEPT * THIN, tune=200, chains=1, target_accept=0.9)
    ranks: dict[str, list[int]] = {key: [] for key in ("Intercept", "x", *SDS, "u", "v")}
    for replicate in range(replicates):
        beta, (above, within) = rng.normal(size=2), np.abs(rng.normal(size=2))
        u = above * rng.normal(size=SCHOOLS)
        v = within * rng.normal(size=SCHOOLS * CLASSES)
        mean = family.mean(beta[0] + beta[1] * x + u[school] + v[place])
        y = family.draw(mean, np.ones(len(x)), rng=rng)
        table = pd.DataFrame({"school": school, "class": place, "x": x, "y": y})
        model = Model("y ~ x + (1 | school/class)", table, family=name)
        fit = sample_level_patterns(
            model.level_patterns, seed=replicate, settings=settings, priors=priors
        )
        draws = {key: fit.draws[key].ravel() for key in list(ranks)[:4]}
        draws |= {"u": fit.all_effects[0][:, 0, 0], "v": fit.all_effects[1][:, 0, 0]}
        for key, true in zip(ranks, (*beta, above, within, u[0], v[0]), strict=True):
            ranks[key].append(int((draws[key][::THIN] < true).sum()))
    return {key: np.array(each) for key, each in ranks.items()}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_true_values_rank_uniformly(name: str) -> None:
    for key, ranks in rank_true_values(name, replicates=300, seed=11).items():
        assert uniformity_p(ranks, KEPT) > LEAST, key


@pytest.mark.slow
def test_few_true_values_rank_uniformly_and_wrong_ones_do_not() -> None:
    found = rank_true_values("poisson", replicates=40, seed=12)
    for key, ranks in found.items():
        assert uniformity_p(ranks, KEPT) > LEAST, key
    assert uniformity_p(found[SDS[1]] // 2, KEPT) < LEAST
