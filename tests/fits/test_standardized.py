"""Standardised coefficients: by hand at each level, and what scale() makes of the formula."""

import numpy as np
import pandas as pd
import pytest
from gallery_fits import fit_reml
from simulate import simulate_table

from bhlm.errors import ArgumentError, DataError, FormulaError
from bhlm.fits.model import Model

EXACT = 1e-8


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    made = simulate_table(3, n_groups=24, largest=6)
    return made.assign(w=made.groupby("g")["x"].transform("mean") ** 2)


def test_each_level_by_hand(hsb):
    fit = fit_reml("hsb_intercepts_and_slopes")
    found = fit.standardized(method="z")
    means = hsb.groupby("school")[["ses", "mathach", "sector"]].mean()
    sizes = hsb.groupby("school").size()
    n, groups = len(hsb), len(means)
    within = hsb["mathach"] - hsb.groupby("school")["mathach"].transform("mean")
    inside = within @ within / (n - groups)
    between = sizes @ (means["mathach"] - hsb["mathach"].mean()) ** 2 / (groups - 1)
    size = (n - (sizes**2).sum() / n) / (groups - 1)
    tau = (between - inside) / size
    ses = hsb["ses"] - hsb.groupby("school")["ses"].transform("mean")
    beta = fit.estimates["estimate"]
    assert found["level"].to_dict() == {
        "gm(ses)": "between", "sector": "between", "cwc(ses)": "within",
        "gm(ses):cwc(ses)": "within", "sector:cwc(ses)": "within",
    }  # fmt: skip
    own = beta["cwc(ses)"] * np.sqrt(ses @ ses / (n - groups) / inside)
    assert found.loc["cwc(ses)", "by_level"] == pytest.approx(own, rel=EXACT)
    own = beta["sector"] * means["sector"].std() / np.sqrt(tau)
    assert found.loc["sector", "by_level"] == pytest.approx(own, rel=EXACT)
    whole = beta["cwc(ses)"] * ses.std() / hsb["mathach"].std()
    assert found.loc["cwc(ses)", "total"] == pytest.approx(whole, rel=EXACT)
    ratio = found.loc["sector", "by_level_upper"] / found.loc["sector", "by_level"]
    assert ratio == pytest.approx(fit.estimates.loc["sector", "upper"] / beta["sector"])


def test_what_varies_at_both_levels_has_no_sd_of_one(table):
    found = Model("y ~ x + w + (1 | g)", table).reml().standardized()
    assert found["level"].tolist() == ["both", "between"]
    assert np.isnan(found.loc["x", "by_level"])
    assert np.isfinite(found.loc["x", "total"])


def test_units_do_not_matter(table):
    one = Model("y ~ cwc(x) + w + (1 | g)", table).reml().standardized()
    other = table.assign(x=table["x"] * 100 + 7, w=table["w"] / 3, y=table["y"] * 5 - 2)
    two = Model("y ~ cwc(x) + w + (1 | g)", other).reml().standardized()
    for name in ("total", "total_lower", "by_level", "by_level_upper"):
        assert two[name].to_numpy() == pytest.approx(one[name].to_numpy(), rel=1e-5)


def test_a_formula_in_sds_has_the_standardised_coefficient(table):
    plain = Model("y ~ cwc(x) + w + (1 | g)", table).reml()
    scaled = Model("y ~ scale(cwc(x)) + scale(w) + (1 | g)", table).reml()
    sd = table["x"].sub(table.groupby("g")["x"].transform("mean")).std()
    assert scaled.beta[1] == pytest.approx(plain.beta[1] * sd, rel=1e-6)
    assert scaled.beta[2] == pytest.approx(plain.beta[2] * table["w"].std(), rel=1e-6)
    total = plain.standardized()["total"].to_numpy() * table["y"].std()
    assert scaled.beta[1:] == pytest.approx(total, rel=1e-6)


def test_new_rows_are_scaled_by_the_rows_of_the_model(table):
    model = Model("y ~ scale(x) + (1 | g)", table)
    fit = model.reml()
    new = table.iloc[:3]
    found = model.predict(fit, new, kind="population")["estimate"].to_numpy()
    x = (new["x"] - table["x"].mean()) / table["x"].std()
    assert found == pytest.approx((fit.beta[0] + fit.beta[1] * x).to_numpy(), rel=EXACT)


def test_what_is_refused(table):
    with pytest.raises(DataError, match=r"'scale\(one\)' cannot be computed: one has the SD 0"):
        Model("y ~ scale(one) + (1 | g)", table.assign(one=3.0))
    with pytest.raises(FormulaError, match=r"'scale\(x, 2\)' does not have one argument"):
        Model("y ~ scale(x, 2) + (1 | g)", table)
    levels = Model("y ~ x + (1 | outer/g)", table.assign(outer=table["g"] % 8)).reml()
    with pytest.raises(ArgumentError, match="several grouping factors; standardise the columns"):
        levels.standardized()
