"""Posteriors of several factors by the compiled density and by the marginal PyMC model."""

import numpy as np
import pytest

from bhlm.fits.model import Model
from bhlm.sources.gallery import find_model, load_data

ERRORS = 4.0  # Monte Carlo standard errors of a difference of means; seeds are fixed
SCHOOLS = 12  # of egsingle, whose 60 schools PyMC needs minutes for


def read_model(name):
    entry = find_model(name)
    data = load_data(entry)
    if name.startswith("egsingle"):
        schools = data["schoolid"].unique()[:SCHOOLS]
        data = data[data["schoolid"].isin(schools)]
    return Model(entry.formula, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pastes", "penicillin", "egsingle_growth"])
def test_both_routes_draw_the_same_posterior(name):
    model = read_model(name)
    one, other = (model.sample(seed=4, sampler=route) for route in ("density", "pymc"))
    assert one.sampler != other.sampler
    ours, theirs = one.estimates, other.estimates
    assert list(ours.index) == list(theirs.index)
    error = np.hypot(ours["mcse_mean"], theirs["mcse_mean"])
    gap = (ours["mean"] - theirs["mean"]) / error
    assert np.nanmax(np.abs(gap)) < ERRORS, gap
    for factor in one.factors:
        a, b = one.group_effects(factor), other.group_effects(factor)
        spread = np.hypot(a["sd"], b["sd"])
        assert ((a["mean"] - b["mean"]).abs() / spread).max() < 0.2
        assert a["sd"].corr(b["sd"]) > 0.5 or np.ptp(a["sd"]) < 0.2 * a["sd"].mean()
