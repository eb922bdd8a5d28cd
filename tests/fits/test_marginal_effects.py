"""Fits in the package marginaleffects: its slopes and predictions are those of bhlm."""

import gc
import sys

import numpy as np
import pandas as pd
import pytest
from gallery_fits import make_model
from simulate import simulate_table

from bhlm.errors import DataError, MissingPackageError
from bhlm.fits.marginal_effects import define_adapter
from bhlm.fits.model import Model

STEP = 1e-8  # relative: standard errors there are finite differences, with the steps that follow
STEPS = {"eps": 0.1, "eps_vcov": 0.1}  # predictions are linear, and smaller ones cost digits


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    made = simulate_table(3, n_groups=24, largest=6)
    at = made["g"].to_numpy()
    sex = np.array(["a", "b", "c"])[np.arange(len(made)) % 3]
    return made.assign(
        sex=sex, outer=at % 8, kind=np.where(at % 2, "public", "private"), flag=(at % 3 == 0) * 1
    )


def make(name: str, table: pd.DataFrame) -> Model:
    if name == "Table 4.5":
        return make_model("hsb_intercepts_and_slopes")
    if name == "means and slopes":
        return Model("y ~ cwc(x) * flag + gm(x) + (cwc(x) | g)", table)
    if name == "a categorical factor":
        return Model("y ~ x * sex + (1 | g)", table)
    if name == "by ML, of groups of two kinds":
        return Model("y ~ x * kind + (x | g)", table)
    return Model("y ~ x * flag + (1 | outer/g)", table)


CASES = {  # the column of marginaleffects, ours, and the moderator
    "Table 4.5": ("ses", "cwc(ses)", "sector"),
    "means and slopes": ("x", "cwc(x)", "flag"),
    "a categorical factor": ("x", "x", None),
    "by ML, of groups of two kinds": ("x", "x", "kind"),
    "three levels": ("x", "x", "flag"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow if "Table" in each else ()) for each in CASES],
)
def test_slopes_and_predictions_agree(name, table):
    me = pytest.importorskip("marginaleffects")
    theirs, ours, by = CASES[name]
    model = make(name, table)
    fit = model.reml(method="ml" if "ML" in name else "reml")
    adapted = fit.marginaleffects()
    slopes = me.avg_slopes(adapted, variables=theirs, by=by or True, **STEPS)
    slopes = slopes.sort(by) if by else slopes
    expected = fit.average_effects(ours, by=by, method="z")
    if by:
        expected = expected.sort_values(by)
    for found, wanted in (
        ("estimate", "slope"), ("std_error", "se"), ("conf_low", "lower"), ("conf_high", "upper"),
    ):  # fmt: skip
        assert slopes[found].to_numpy() == pytest.approx(expected[wanted].to_numpy(), rel=STEP)
    rows = me.predictions(adapted, eps_vcov=STEPS["eps_vcov"])
    expected = model.predict(fit, kind="population")
    order = rows["rowid"].to_numpy().argsort()
    for found, wanted in (("estimate", "estimate"), ("std_error", "se")):
        assert rows[found].to_numpy()[order] == pytest.approx(expected[wanted].to_numpy(), rel=STEP)


def test_levels_are_told_apart(table):
    me = pytest.importorskip("marginaleffects")
    model = make("a categorical factor", table)
    fit = model.reml()
    found = me.avg_slopes(fit.marginaleffects(), variables="x", by="sex", **STEPS).sort("sex")
    assert found["sex"].to_list() == ["a", "b", "c"]
    expected = fit.effects("x", by="sex", method="z")
    assert found["estimate"].to_list() == pytest.approx(expected["slope"].tolist(), rel=STEP)
    assert found["std_error"].to_list() == pytest.approx(expected["se"].tolist(), rel=STEP)


# Of polars 1's last versions, in what marginaleffects asks of it.
@pytest.mark.filterwarnings("ignore:.*get_categories:DeprecationWarning")
def test_a_level_is_compared_with_the_reference(table):
    me = pytest.importorskip("marginaleffects")
    polars = pytest.importorskip("polars")
    if int(polars.__version__.split(".")[0]) >= 2:
        pytest.skip("marginaleffects 0.6 asks polars for what polars 2 has removed")
    model = make("a categorical factor", table)
    fit = model.reml()
    found = me.avg_comparisons(fit.marginaleffects(), variables="sex")
    expected = [fit.average_effects(f"sex[{level}]")["slope"].item() for level in "bc"]
    assert sorted(found["estimate"].to_list()) == pytest.approx(sorted(expected), rel=STEP)


def test_a_grid_and_other_standard_errors(table):
    me = pytest.importorskip("marginaleffects")
    model = make("means and slopes", table)
    fit = model.reml()
    grid = me.datagrid(flag=[0, 1])
    found = me.slopes(fit.marginaleffects(), variables="x", newdata=grid, vcov="cr2", **STEPS)
    expected = fit.effects("cwc(x)", by={"flag": [0, 1]}, method="cr2")
    assert found["estimate"].to_list() == pytest.approx(expected["slope"].tolist(), rel=STEP)
    assert found["std_error"].to_list() == pytest.approx(expected["se"].tolist(), rel=STEP)


def test_a_posterior_has_the_mean_and_covariance_of_its_draws(hsb_post, hsb_model):
    me = pytest.importorskip("marginaleffects")
    found = me.avg_slopes(hsb_post.marginaleffects(), variables="ses", by=True, **STEPS)
    expected = hsb_post.average_effects("cwc(ses)")
    assert found["estimate"].item() == pytest.approx(expected["mean"].item(), rel=STEP)
    assert found["std_error"].item() == pytest.approx(expected["sd"].item(), rel=STEP)


def test_what_is_refused(table, monkeypatch):
    model = make("a categorical factor", table)
    fit = model.reml()
    monkeypatch.setitem(sys.modules, "marginaleffects.classes", None)
    define_adapter.cache_clear()
    with pytest.raises(MissingPackageError, match=r"pip install 'bhlm\[effects\]'"):
        fit.marginaleffects()
    del model
    gc.collect()
    with pytest.raises(DataError, match="keep the model, made from the table, in a variable"):
        fit.marginaleffects()
