"""A model asked about the fit of another model, or of other rows, refuses it."""

import logging
from collections.abc import Iterator

import pytest

import bhlm
from bhlm.errors import BhlmError
from tests.fuzz.arguments import enrich
from tests.simulate import simulate_table

TABLE = enrich(simulate_table(3, n_groups=12, largest=6))
FORMULA = "y ~ x + (1 | g)"
OTHERS = {
    "other column": lambda: bhlm.Model("y ~ w + (1 | g)", TABLE),
    "fewer columns": lambda: bhlm.Model("y ~ 1 + (1 | g)", TABLE),
    "other response": lambda: bhlm.Model("w ~ x + (1 | g)", TABLE),
    "weights": lambda: bhlm.Model(FORMULA, TABLE, weights=bhlm.PrecisionWeights("weight")),
    "known variances": lambda: bhlm.Model(FORMULA, TABLE, known_variance="known"),
}
VALUES = {
    "other values": lambda: bhlm.Model(FORMULA, TABLE.assign(x=2.0 * TABLE["x"])),
    "fewer rows": lambda: bhlm.Model(FORMULA, TABLE.iloc[:-1]),
}


@pytest.fixture(scope="module")
def model() -> bhlm.Model:
    return bhlm.Model(FORMULA, TABLE)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the verdicts of so few draws to themselves."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", OTHERS)
def test_the_fit_of_another_model_is_refused(model: bhlm.Model, kind: str):
    fit = OTHERS[kind]().reml()
    for call in (model.residuals, model.predict):
        with pytest.raises(BhlmError, match="take the model that was fitted"):
            call(fit)


@pytest.mark.parametrize("kind", VALUES)
def test_the_fit_of_other_rows_has_no_residuals_here(model: bhlm.Model, kind: str):
    with pytest.raises(BhlmError, match="take the model that was fitted"):
        model.residuals(VALUES[kind]().reml())


@pytest.mark.parametrize("kind", ["other column", "fewer columns", "other response", *VALUES])
def test_rows_are_not_checked_against_draws_of_another_model(model: bhlm.Model, kind: str):
    post = (OTHERS | VALUES)[kind]().sample(seed=1, draws=60, tune=60, chains=2)
    for call in (model.loo_rows, model.check_rows):
        with pytest.raises(BhlmError, match="take the model that was fitted"):
            call(post)


def test_the_same_model_made_again_is_taken(model: bhlm.Model):
    again = bhlm.Model(FORMULA, TABLE.sample(frac=1.0, random_state=1))
    own = model.residuals(model.reml()).sort_index()
    assert own["fitted"].to_numpy() == pytest.approx(
        model.residuals(again.reml()).sort_index()["fitted"].to_numpy(), rel=1e-9
    )
