"""Exact deletion against refits of the other groups' moments."""

import numpy as np
import pytest

from bhlm.influence import measure_influence
from bhlm.model import Model
from bhlm.reml import fit_moments


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_deletion_is_a_refit_without_the_group(method, hsb):
    model = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb)
    fit = model.reml(method=method)
    table = measure_influence(fit).set_index("school")
    assert len(table) == 160
    assert table["converged"].all()
    for label in (1224, 4292, 9586):
        rest = fit_moments(model.moments.without([label]), method=method)
        own, other = fit.estimates["estimate"], rest.estimates["estimate"]
        for name in ("Intercept", "cwc(ses)", "var(Intercept|school)", "var(Residual)",
                     "cov(Intercept,cwc(ses)|school)"):  # fmt: skip
            assert table.loc[label, name] == pytest.approx(other[name] - own[name], abs=1e-7)
        step = rest.beta - fit.beta
        cook = step @ np.linalg.solve(fit.beta_cov, step) / 2
        assert table.loc[label, "cook"] == pytest.approx(cook, rel=1e-6)
        ratio = np.linalg.det(rest.beta_cov) / np.linalg.det(fit.beta_cov)
        assert table.loc[label, "covratio"] == pytest.approx(ratio, rel=1e-6)


def test_an_outlying_group_stands_out(hsb):
    table = hsb.copy()
    table.loc[table["school"] == 1288, "mathach"] += 40.0
    influence = measure_influence(Model("mathach ~ 1 + (1 | school)", table).reml())
    assert influence.loc[influence["cook"].idxmax(), "school"] == 1288
