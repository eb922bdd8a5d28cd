"""What a posterior holds is made when it is asked for, and is the same whoever asks first."""

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import xarray as xr
from simulate import simulate_table

from bhlm.bayes.contents import Contents
from bhlm.bayes.draws import Posterior
from bhlm.errors import DataError
from bhlm.fits.model import Model

FORMULAS = {
    "one factor": ("y ~ x + (x | g)", {}),
    "nested factors": ("y ~ x + (1 | h) + (x | g)", {}),
    "zeros and ones": ("pass ~ x + (1 | g)", {"family": "binomial"}),
}


@pytest.fixture(scope="module", params=FORMULAS)
def sample(request: pytest.FixtureRequest):
    """Return a function that draws a posterior, the same at each call."""
    table = simulate_table(seed=4)
    table["h"] = table["g"] // 3
    table["pass"] = (table["y"] > table["y"].median()).astype(int)
    formula, arguments = FORMULAS[request.param]
    model = Model(formula, table, **arguments)
    return lambda: model.sample(seed=2, draws=100, chains=2)


def test_tables_are_read_off_the_parameters_alone(sample) -> None:
    post: Posterior = sample()
    _ = post.estimates, post.diagnostics, post.draws, post.flat, post.shape, post.tail_indices
    assert not post.contents.is_made
    assert post.data is post.data
    assert post.contents.is_made


def test_what_is_asked_for_first_changes_nothing(sample) -> None:
    first, second = sample(), sample()
    _ = first.data
    estimates = first.estimates
    assert second.estimates.equals(estimates)
    assert second.data.equals(first.data)
    assert second.estimates.equals(first.with_data(second.data).estimates)


def test_copies_have_the_tree(sample) -> None:
    post = sample()
    for other in (copy.copy(post), copy.deepcopy(post), pickle.loads(pickle.dumps(post))):
        assert other.data.identical(post.data)
        assert other.estimates.equals(post.estimates)
    apart = copy.deepcopy(post)
    apart.data["posterior"]["beta"][:] = 0.0
    assert not (post.data["posterior"]["beta"] == 0.0).any()


def test_estimates_are_of_the_draws_that_are_there(sample) -> None:
    post, plain = sample(), sample().estimates
    beta = post.data["posterior"]["beta"].values
    beta[:, :, 0] += np.linspace(0.0, 5.0, beta.shape[1])
    changed = post.estimates
    assert changed.loc["Intercept", "mean"] == pytest.approx(plain.loc["Intercept", "mean"] + 2.5)
    assert changed.loc["Intercept", "ess_bulk"] < 0.5 * plain.loc["Intercept", "ess_bulk"]
    assert changed.loc["x"].equals(plain.loc["x"])


def test_contents_are_read_from_the_arrays_and_then_from_the_tree() -> None:
    made = []

    def complete(arrays: dict[str, dict[str, np.ndarray]]) -> xr.DataTree:
        made.append(arrays)
        variables = arrays["posterior"] | {"u": np.ones(3)}
        return xr.DataTree.from_dict(
            {"posterior": xr.Dataset({name: ("draw", x) for name, x in variables.items()})}
        )

    beta = np.arange(3.0)
    contents = Contents({"posterior": {"beta": beta}}, complete)
    assert contents.read("posterior", "beta") is beta
    assert not contents.has("posterior", "u")
    with pytest.raises(KeyError, match="'u'"):
        contents.read("posterior", "u")
    assert contents.tree is contents.tree
    assert len(made) == 1
    assert contents.has("posterior", "u")
    assert not contents.has("sample_stats", "u")
    contents.tree["posterior"]["beta"][:] = 7.0
    assert (contents.read("posterior", "beta") == 7.0).all()


def test_a_tree_that_cannot_be_made_is_tried_again() -> None:
    """As where memory ran out for it."""
    answers = iter([MemoryError("full"), xr.DataTree()])

    def complete(_: object) -> xr.DataTree:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    contents = Contents({"posterior": {"beta": np.zeros(3)}}, complete)
    with pytest.raises(MemoryError, match="full"):
        _ = contents.tree
    assert contents.has("posterior", "beta")
    assert isinstance(contents.tree, xr.DataTree)


def test_what_is_read_may_be_written_to_without_moving_the_effects(sample) -> None:
    """They are those of the draws that were sampled, made before or after."""
    first, second = sample(), sample()
    _ = first.data
    for post in (first, second):
        for values in (*post.draws.values(), *post.flat):
            values *= 0.5
    for node in ("posterior", "log_prior", "log_likelihood"):
        assert second.data[node].dataset.equals(first.data[node].dataset)


def test_copies_tell_what_the_tree_has_lost(sample) -> None:
    post = sample()
    post.data["posterior"].dataset = post.data["posterior"].dataset.drop_vars("beta")
    for other in (
        post,
        replace(post, seed=1),
        copy.deepcopy(post),
        pickle.loads(pickle.dumps(post)),
    ):
        with pytest.raises(DataError, match="has lost 'beta'"):
            _ = other.estimates


@pytest.mark.parametrize("what", ["empty", "without beta", "of other columns", "of one chain only"])
def test_a_tree_without_these_parameters_is_refused(sample, what) -> None:
    post = sample()
    tree = post.data.copy()
    if what == "empty":
        tree = xr.DataTree()
    elif what == "without beta":
        tree["posterior"].dataset = tree["posterior"].dataset.drop_vars("beta")
    elif what == "of other columns":
        tree = tree.isel(fixed=slice(0, 1), missing_dims="ignore")
    else:
        tree = tree.isel(chain=0, missing_dims="ignore")
    with pytest.raises(
        DataError, match=r"'beta' in 'posterior' of the tree .* give a tree made from"
    ):
        post.with_data(tree)


def test_a_tree_without_roots_says_so_when_they_are_asked_for(sample) -> None:
    post = sample()
    bare = post.with_data(post.data.drop_nodes("unconstrained_posterior"))
    with pytest.raises(DataError, match=r"fit.data\['unconstrained_posterior'\] has no 'chol"):
        _ = bare.flat


def test_a_fit_refuses_to_be_changed_in_one_line(sample) -> None:
    post = sample()
    with pytest.raises(FrozenInstanceError, match=r"'data' cannot be set; fit.with_data\("):
        post.data = post.data
    with pytest.raises(FrozenInstanceError, match="'note' cannot be set"):
        post.note = "mine"
    with pytest.raises(FrozenInstanceError, match="'seed' cannot be deleted"):
        del post.seed
