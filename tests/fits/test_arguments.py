"""Every argument of the public functions and methods: an answer, or one line that refuses it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
import pytest

import bhlm
from bhlm.errors import BhlmError, check_arguments
from tests.fuzz.arguments import (
    fit_others,
    in_folder,
    list_cases,
    list_public,
    name_called,
    try_arguments,
)
from tests.simulate import simulate_table

TABLE = simulate_table(3, n_groups=12, largest=6)
FORMULA = "y ~ x + (x | g)"


@pytest.fixture(scope="module")
def model() -> bhlm.Model:
    return bhlm.Model(FORMULA, TABLE)


@pytest.fixture(scope="module")
def fits(model: bhlm.Model) -> tuple[bhlm.RemlFit, bhlm.BayesFit]:
    return model.reml(), model.sample(seed=1, draws=60, tune=60, chains=2)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the verdicts of so few draws to themselves."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def test_odd_arguments_are_answered_or_refused_in_one_line():
    assert list(try_arguments(range(100), long=False)) == []


@pytest.mark.wide
@pytest.mark.filterwarnings("ignore")
def test_every_public_function_and_method_is_among_the_cases():
    model = bhlm.Model("y ~ x * w + (x | g)", TABLE)
    post = model.sample(seed=1, draws=120, tune=60, chains=2)
    with in_folder() as folder:
        others = fit_others(TABLE, long=True)
        cases = list_cases(model, model.reml(), post, TABLE, folder, others)
    assert list_public() - {name_called(case) for case in cases} == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_thousand_odd_arguments():
    assert list(try_arguments(range(1000))) == []


WRONG = {
    "cores=0": (lambda model, fits: model.sample(cores=0), "cores=0 is too small; give at least 1"),
    "priors={}": (
        lambda model, fits: model.sample(priors={"sd": 1}),
        "priors=<dict> is not a Priors or None; write priors=bhlm.Priors(",
    ),
    "a fit for a model": (
        lambda model, fits: bhlm.calibrate(fits[0], seed=1),
        "give the model that was fitted, which is fit.model",
    ),
    "a model for a fit": (
        lambda model, fits: bhlm.reconcile(model, fits[1]),
        "reml=<Model> is not a RemlFit or a LevelsFit or a FamilyFit or a FamilyLevelsFit or a "
        "StrataFit or a PooledFit; give a fit, such as",
    ),
    "a number for a fit": (
        lambda model, fits: model.predict(-1),
        "fit=-1 is not a RemlFit or a LevelsFit or a BayesFit or a FamilyFit or a FamilyLevelsFit",
    ),
    "progress=True": (
        lambda model, fits: model.sample(progress=True),
        "progress=True is not a function or None; give a function or None",
    ),
    "draws of 2.5": (lambda model, fits: model.sample(draws=2.5), "draws=2.5 is not a count; give"),
    "level nan": (
        lambda model, fits: fits[0].profile(level=float("nan")),
        "level=nan is not between 0 and 1",
    ),
    "text for a list": (
        lambda model, fits: fits[0].profile(parameters="x"),
        "parameters='x' is not a list of text or None",
    ),
    "zero byte": (lambda model, fits: bhlm.load("a\0.zarr"), "holds a zero byte"),
    "a word to draw": (lambda model, fits: fits[0].test(1), "a hypothesis is a text such as"),
    "an infinite prior": (
        lambda model, fits: bhlm.Normal(0, 10**400), "is not a distribution; give a finite",
    ),
    "names of parts": (
        lambda model, fits: bhlm.merge_moments([model.moments], names=["a", "b"]),
        "2 names for 1 parts",
    ),
    "a method": (
        lambda model, fits: bhlm.compare_posteriors({"a": fits[1], "b": fits[1]}, method="x"),
        "method='x' is not known; choose one of stacking",
    ),
    "a list as a group": (
        lambda model, fits: model.moments.without([["a"]]), "<list> is not a g; the labels are",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named_with_what_to_give(name, model, fits):
    call, expected = WRONG[name]
    with pytest.raises(BhlmError) as caught:
        call(model, fits)
    assert expected in str(caught.value)


@pytest.mark.parametrize("value", [True, False, np.True_, [True], (np.False_, 1)])
@pytest.mark.parametrize("name", ["whole", "maybe", "number", "several"])
def test_true_is_no_number(name, value):
    """It would count as 1 in silence."""

    @check_arguments
    def take(
        whole: int = 1, maybe: int | None = None, number: float = 0.5, several: Sequence[int] = (1,)
    ) -> None:
        del whole, maybe, number, several

    with pytest.raises(BhlmError, match=f"^{name}=.* is not "):
        take(**{name: value})

    @check_arguments
    def switch(on: bool | int = True, table: Sequence[bool] = ()) -> list:
        return [on, *table]

    assert switch(np.True_, [True]) == [True, True]


def test_integers_of_numpy_arrive_as_plain_ones():
    @check_arguments
    def show(draws: int, level: float = 0.5) -> list[type]:
        return [type(draws), type(level)]

    assert show(np.int32(4), np.float32(0.25)) == [int, float]


def test_a_value_refuses_fields_of_another_type(model):
    values = {each.name: getattr(model.moments, each.name) for each in fields(model.moments)}
    for name, odd in {"design": np.zeros(2), "n": "x", "dropped": 0.5, "missing": 1}.items():
        with pytest.raises(BhlmError, match=f"{name}=.* is not "):
            bhlm.Moments(**values | {name: odd})
    with pytest.raises(BhlmError, match="labels=None is not a tuple; give a tuple"):
        bhlm.CellMoments(values["n"], values["mean"], values["cross"], None, values["design"], 0)


def test_a_message_is_one_line_without_control_characters():
    assert str(BhlmError("a\nb\x1b[31m \ud800")) == "a b\\x1b[31m \\ud800"
    assert len(str(BhlmError("x" * 10**6))) < 2100


def test_the_repr_of_every_result_fits_on_a_screen(fits):
    many = [f"v{i}" for i in range(25)]
    table = TABLE.assign(**{name: np.random.default_rng(3).normal(size=len(TABLE))
                            for name in many})  # fmt: skip
    table[many] = np.random.default_rng(1).normal(size=(len(table), len(many)))
    wide = bhlm.Model(f"y ~ {' + '.join(many)} + (1 | g)", table)
    reml, post = fits
    results = {
        "model": wide, "moments": wide.moments, "reml": wide.reml(), "post": post,
        "both": bhlm.reconcile(reml, post), "bootstrap": reml.bootstrap(replicates=2),
        "prior predictive": bhlm.draw_prior_predictive(reml.moments, seed=1, draws=10),
        "figure": bhlm.plots.plot_caterpillar(reml), "gallery": bhlm.find_model("sleepstudy"),
        "icc": post.icc(), "joint": reml.test("x = 0"),
    }  # fmt: skip
    for name, result in results.items():
        lines = repr(result).splitlines()
        assert len(lines) <= 30, name
        assert max(map(len, lines)) <= 430, name
    note = "lines are left out here; print(...) of its summary() shows them"
    assert note in repr(results["reml"])
    assert repr(wide.moments).startswith("Moments('y ~ v0 +")


def test_what_a_call_may_not_have_is_told_with_the_functions_name():
    with pytest.raises(TypeError, match=r"plot_forest\(\) takes 1 positional argument but 2"):
        bhlm.plots.plot_forest(1, 2)
    with pytest.raises(TypeError, match=r"plot_forest\(\) got an unexpected keyword .*'colour'"):
        bhlm.plots.plot_forest(1, colour="red")
