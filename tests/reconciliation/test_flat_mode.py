"""The flat-prior mode by the sampler's density is the REML estimate, singular or not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from few_groups import make_case

from bhlm.bayes.density import build_density
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.fits.model import Model
from bhlm.reconciliation.flat_mode import find_flat_mode

DATA = Path(__file__).parent / "data"
# In log-likelihood: REML stops at a gradient of 1e-6 to 1e-9, whose square this is far above.
SAME_HEIGHT = 1e-6
# The remainder is a sum of terms near 1e3, rounded to 1e-13 each.
CONSTANT = 1e-8


def build(reml):
    priors = resolve_priors(Priors.flat(), reml.moments, structure=reml.structure)
    return build_density(reml.white, priors, reml.structure)


@pytest.mark.parametrize("seed", [0, 3, 5, 10, 14, 19, 27])
def test_the_mode_is_the_reml_estimate(seed):
    case = make_case(seed)
    reml = Model(case.formula, case.table).reml()
    density = build(reml)
    mode = find_flat_mode(density, reml.white, start=reml.root / np.sqrt(reml.sigma2))
    assert mode.start_loglik == pytest.approx(reml.loglik, abs=SAME_HEIGHT)
    assert mode.loglik == pytest.approx(reml.loglik, abs=SAME_HEIGHT)
    assert mode.flatness < CONSTANT
    alone = find_flat_mode(density, reml.white)
    assert alone.loglik == pytest.approx(reml.loglik, abs=SAME_HEIGHT)


def test_case_22_is_found():
    table = pd.read_csv(DATA / "22-reconcile-three-coefficients.csv")
    reml = Model("y ~ x + z + (x + z | g)", table).reml()
    mode = find_flat_mode(build(reml), reml.white)
    assert mode.singular
    assert mode.loglik == pytest.approx(reml.loglik, abs=SAME_HEIGHT)
    assert mode.g == pytest.approx(reml.g, abs=1e-5)
    assert mode.sigma2 == pytest.approx(reml.sigma2, rel=1e-6)
    assert mode.beta == pytest.approx(reml.beta, abs=1e-6)


def test_a_start_that_stops_short_is_told_from_a_wrong_density():
    case = make_case(7)
    reml = Model(case.formula, case.table).reml()
    mode = find_flat_mode(build(reml), reml.white, start=1.1 * reml.root / np.sqrt(reml.sigma2))
    assert mode.shortfall > 1e-3
    assert mode.loglik == pytest.approx(reml.loglik, abs=SAME_HEIGHT)
    assert mode.flatness < CONSTANT


@pytest.mark.parametrize("wrong", ["power", "eta", "sigma", "scale"])
def test_a_density_that_is_not_flat_is_seen(wrong):
    case = make_case(7)
    reml = Model(case.formula, case.table).reml()
    density = build(reml)
    p = reml.white.p
    numbers = density.numbers.copy()
    if wrong == "power":
        numbers[p, 0] += 1.0
    elif wrong == "sigma":
        numbers[-1, 0] -= 1.0
    change = {"eta": {"eta": 2.0}, "scale": {"inverse_basis": 1.01 * density.inverse_basis}}
    broken = density._replace(numbers=numbers, **change.get(wrong, {}))
    assert find_flat_mode(broken, reml.white).flatness > 1e-2
