"""HLM's chi-square of variance components against printed values and least squares."""

import numpy as np
import pytest
from scipy import stats
from simulate import simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.hlm_chi_square import hlm_chi_square


def test_hsb_table_4_4(hsb):
    table = hlm_chi_square(Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml())
    assert table["chi2"].tolist() == pytest.approx([1771.013, 213.457], abs=5e-4)
    assert table["df"].tolist() == [159, 159]
    assert table["groups"].tolist() == [160, 160]
    assert table["p"].tolist() == pytest.approx(stats.chi2.sf(table["chi2"], 159), rel=1e-9)


@pytest.mark.parametrize("columns", [(), ("x",), ("x", "t")])
def test_chi_square_is_that_of_least_squares_in_each_group(columns):
    table = simulate_table(9, n_groups=12)
    random = " + ".join(("1", *columns))
    fit = Model(f"y ~ x + w + t + ({random} | g)", table).reml()
    q = len(columns) + 1
    chi2, groups = np.zeros(q), 0
    for _, rows in table.groupby("g"):
        z = np.column_stack([np.ones(len(rows)), *(rows[name] for name in columns)])
        if len(rows) < q:
            continue
        x = rows.assign(Intercept=1.0)[list(fit.moments.fixed)].to_numpy()
        inverse = np.linalg.inv(z.T @ z)
        u = inverse @ z.T @ (rows["y"].to_numpy() - x @ fit.beta)
        chi2 += u**2 / (fit.sigma2 * np.diag(inverse))
        groups += 1
    result = hlm_chi_square(fit)
    assert groups < 12 or q == 1
    assert result["chi2"].tolist() == pytest.approx(chi2, rel=1e-9)
    assert result["groups"].tolist() == [groups] * q
    assert result["df"].tolist() == [groups - 2, *[groups - 1] * (q - 1)]


def test_too_few_full_groups_are_refused():
    table = simulate_table(0, n_groups=30, largest=12)
    rows = table[(table["g"] == 1) | ~table.duplicated("g")]
    fit = Model("y ~ w + (x | g)", rows).reml()
    with pytest.raises(ArgumentError, match=r"only 1 of 30 'g' have .* likelihood-ratio test"):
        hlm_chi_square(fit)
