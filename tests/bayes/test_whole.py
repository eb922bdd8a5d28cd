"""Draws that were changed after they were made: an answer, or a refusal of one line."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from bhlm.errors import BhlmError, DataError
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.fits.saved import load
from tests.fuzz.outcome import judge
from tests.simulate import simulate_table


@functools.cache
def make_model(kind: str) -> Model:
    table = simulate_table(1)
    if kind == "family":
        table = table.assign(y=1 * (table["y"] > table["y"].median()))
        return Model("y ~ x + (1 | g)", table, family="bernoulli")
    if kind == "levels":
        return Model("y ~ x + (1 | g) + (1 | h)", table.assign(h=np.arange(len(table)) % 5))
    return Model("y ~ x + (x | g)", table)


@functools.cache
def sample(kind: str) -> Any:
    return make_model(kind).sample(seed=1, draws=50, tune=100)


def scale(name: str, by: complex) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda held: held.assign({name: held[name] * by})


def spoil(name: str, value: float) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(held: xr.Dataset) -> xr.Dataset:
        values = held[name].values.copy()
        values.flat[3] = value
        return held.assign({name: (held[name].dims, values)})

    return change


CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "nan": spoil("beta", np.nan),
    "infinite": spoil("beta", np.inf),
    "lost": lambda held: held.drop_vars("beta"),
    "fewer draws": lambda held: held.isel(draw=slice(0, 1)),
    "no draws": lambda held: held.isel(draw=slice(0, 0)),
    "one chain": lambda held: held.isel(chain=[0]),
    "turned": lambda held: held.transpose(..., "chain", "draw"),
    "one number": lambda held: held.assign(beta=1.0),
    "text": lambda held: held.assign(beta=held["beta"].astype(str)),
    "objects": lambda held: held.assign(beta=held["beta"].astype(object)),
    "complex": scale("beta", 1j),
}
OF_SIGMA = {
    "negative": scale("sigma", -1.0),
    "zero": scale("sigma", 0.0),
    "nan": spoil("sigma", np.nan),
    "lost": lambda held: held.drop_vars("sigma"),
}


def change_draws(kind: str, change: Callable[[xr.Dataset], xr.Dataset], path: Any) -> Any:
    """Return a posterior that was saved, loaded and then changed."""
    sample(kind).save(path)
    post = load(path)
    post.data["posterior"] = xr.DataTree(change(post.data["posterior"].to_dataset()))
    return post


def ask(model: Model, post: Any) -> dict[str, Callable[[], Any]]:
    """Return what may be asked of a posterior, by name."""
    names = ("estimates", "draws", "flat", "shape")
    methods = ("summary", "icc", "r_squared", "group_effects", "check", "loo", "sensitivity")
    return {
        **{name: lambda name=name: getattr(post, name) for name in names},
        **{name: getattr(post, name) for name in methods if hasattr(post, name)},
        "repr": lambda: repr(post),
        "predict": lambda: model.predict(post),
        "probability": lambda: post.probability("x > 0"),
    }


@pytest.mark.parametrize(
    "kind", ["one", *(pytest.param(each, marks=pytest.mark.slow) for each in ("levels", "family"))]
)
@pytest.mark.parametrize("change", [*CHANGES, *(f"sigma {each}" for each in OF_SIGMA)])
def test_changed_draws_are_refused_in_one_line(kind: str, change: str, tmp_path: Any) -> None:
    if change.startswith("sigma ") and kind == "family":
        return  # it has none
    how = {**CHANGES, **{f"sigma {name}": each for name, each in OF_SIGMA.items()}}[change]
    post = change_draws(kind, how, tmp_path / "fit.nc")
    for name, call in ask(make_model(kind), post).items():
        _, wrong = judge(call)
        assert not wrong, (name, wrong)
        if name in ("estimates", "draws", "flat", "shape", "summary"):
            with pytest.raises(BhlmError):
                call()


def test_a_group_that_is_lost_is_named() -> None:
    model, post = make_model("one"), sample("one")
    held = post.data["sample_stats"]
    del post.data["sample_stats"]
    try:
        with pytest.raises(DataError, match=r"fit.data\['sample_stats'\] has lost"):
            reconcile(model.reml(), post)
    finally:
        post.data["sample_stats"] = held


def test_effects_and_more_variables_may_come_and_go(tmp_path: Any) -> None:
    def change(held: xr.Dataset) -> xr.Dataset:
        return held.drop_vars("u").assign(more=held["beta"], sigma=held["sigma"] * 2.0)

    post = change_draws("one", change, tmp_path / "fit.nc")
    assert post.draws["sd(Residual)"].mean() == pytest.approx(
        2.0 * sample("one").draws["sd(Residual)"].mean()
    )
    assert len(post.group_effects())
