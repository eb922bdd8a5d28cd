"""Columns of the data may be called anything, as response, group or term."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.bayes.draws import Draws
from bhlm.design.formula.expressions import Name
from bhlm.likelihood.parameters import OWN_NAMES, name_apart, name_group_dimension, name_response
from bhlm.reml.groups import describe_groups
from tests.simulate import simulate_table

TABLE = simulate_table(3)
# Names that tables of fits, tables of groups and draws have for themselves.
TAKEN = (
    *("coefficient", "estimate", "sd", "n", "cook", "displacement", "converged", "p", "df"),
    *("fitted", "marginal", "eb", "ols", "group", "Intercept", "var(Residual)", "G", "row", "w0"),
)


def fit_as(**names: str) -> tuple[bhlm.Model, Any]:
    """Return a model and its fit, with other names for columns g, x and y."""
    g, x, y = (str(Name(names.get(column, column))) for column in "gxy")
    model = bhlm.Model(f"{y} ~ {x} + ({x} | {g})", TABLE.rename(columns=names))
    return model, model.reml()


def list_tables(model: bhlm.Model, fit: Any) -> list[pd.DataFrame]:
    tables = [fit.group_effects(), fit.group_residuals(), describe_groups(fit), fit.estimates.T]
    return [*tables, model.residuals(fit), model.predict(fit)]


@pytest.fixture(scope="module")
def plain() -> tuple[float, list[pd.DataFrame]]:
    """Return the log-likelihood and the tables under names that nothing else has."""
    model, fit = fit_as()
    return fit.loglik, list_tables(model, fit)


@pytest.mark.parametrize("column", "gxy")
@pytest.mark.parametrize("name", TAKEN)
def test_every_table_has_its_columns_once(
    name: str, column: str, plain: tuple[float, list[pd.DataFrame]]
) -> None:
    model, fit = fit_as(**{column: name})
    assert fit.loglik == pytest.approx(plain[0], rel=1e-12)
    for found, expected in zip(list_tables(model, fit), plain[1], strict=True):
        assert found.columns.is_unique
        assert found.shape == expected.shape
        same = [c for c in expected.columns if c in found.columns and c not in "gxy"]
        pd.testing.assert_frame_equal(
            found[same].select_dtypes("number"), expected[same].select_dtypes("number")
        )


def test_a_column_called_intercept_is_not_the_intercept() -> None:
    table = TABLE.rename(columns={"x": "Intercept"})
    fit = bhlm.Model("y ~ Intercept + (1 | g)", table).reml()
    assert list(fit.moments.fixed) == ["Intercept", "`Intercept`"]
    alone = bhlm.Model("y ~ 0 + Intercept + (1 | g)", table).reml()
    same = bhlm.Model("y ~ 0 + x + (1 | g)", TABLE).reml()
    np.testing.assert_allclose(alone.beta, same.beta)


def test_the_group_may_be_a_term_too() -> None:
    fit = bhlm.Model("y ~ g + (1 | g)", TABLE).reml()
    found = fit.influence()
    assert found["g of the data"].tolist() == fit.moments.groups.tolist()
    assert "g" in found.columns


def test_draws_know_all_names_of_their_own(hsb_post: Draws) -> None:
    own = {
        str(name)
        for part in ("posterior", "log_prior", "log_likelihood")
        for name in (*hsb_post.data[part].data_vars, *hsb_post.data[part].dims)
    }
    assert own - {"school"} <= set(OWN_NAMES)


@pytest.mark.parametrize("name", [*OWN_NAMES, "chol_0", "a/b"])
def test_groups_and_responses_leave_these_names_alone(name: str) -> None:
    assert name_group_dimension(name, taken=()) == "group"
    assert name_response(name) == "response"


def test_names_stand_apart_however_many_there_are() -> None:
    assert name_apart(["p", "p", "q"], table=("p",)) == [
        "p of the data",
        "p of the data of the data",
        "q",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["G", "sigma", "beta", "sd", "chol_0", "u", "row", "a/b"])
def test_posteriors_work_under_every_name(name: str) -> None:
    for column in ("g", "y"):
        model, fit = fit_as(**{column: name})
        post = model.sample(seed=1, draws=100, tune=100, chains=2, cores=1)
        assert post.summary()
        assert len(post.prior_table())
        assert post.icc() is not None
        assert len(post.loo(refit=False).table) == fit.moments.n_groups
        assert bhlm.reconcile(fit, post).summary()
        assert model.check_rows(post, draws=5).data["observed_data"]
        assert model.pymc(form="conditional")
