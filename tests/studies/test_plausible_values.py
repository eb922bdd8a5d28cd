"""Several responses over one X: one pass, weights, and what pools to itself."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import bhlm
from bhlm.errors import ArgumentError, BhlmError
from bhlm.moments import responses
from bhlm.reml import estimate

SAME = 1e-7
FORMULA = "~ x + C(k) + (1 | g)"
NAMES = ["pv1", "pv2", "pv3"]
WEIGHTS = bhlm.SamplingWeights(rows="w", groups="wg")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(25), 6)
    x, u = rng.normal(size=150), rng.normal(size=25)
    found = pd.DataFrame(
        {"g": g, "x": x, "k": rng.choice(list("abc"), 150), "w": rng.uniform(1, 3, 150)}
    )
    found["wg"] = rng.uniform(1, 9, 25)[g]
    for name in NAMES:
        found[name] = x + u[g] + rng.normal(size=150)
    return found


def pooled(table: pd.DataFrame, **more) -> bhlm.PooledFit:
    choice = {"responses": NAMES, "weights": WEIGHTS, "method": "ml"} | more
    return bhlm.fit_imputations(FORMULA, table, **choice)


def test_one_pass_gives_what_a_pass_for_each_does(table):
    found = pooled(table)
    apart = [
        bhlm.Model(f"{name} {FORMULA}", table, weights=WEIGHTS).reml(method="ml") for name in NAMES
    ]
    expected = bhlm.pool(apart)
    np.testing.assert_allclose(found.estimates, expected.estimates, SAME, SAME)
    assert found.df == expected.df == "z"
    assert [fit.errors for fit in found.fits] == ["full"] * 3


def test_a_sum_on_the_left_names_the_responses(table):
    found = bhlm.fit_imputations(f"pv1 + pv2 + `pv3` {FORMULA}", table)
    expected = bhlm.fit_imputations(FORMULA, table, responses=NAMES)
    assert found.responses == ("pv1", "pv2", "pv3")
    np.testing.assert_array_equal(found.estimates, expected.estimates)


@pytest.mark.parametrize("lacking", [False, True])
def test_the_table_is_read_once(table, monkeypatch, lacking):
    asked = []

    def count(*args):
        asked.append(args)
        return reduce_table(*args)

    reduce_table = responses.reduce_table
    monkeypatch.setattr(responses, "reduce_table", count)
    monkeypatch.setattr("bhlm.fits.model.reduce_table", None)
    # Arrays without gaps need not even go through the formula.
    pooled(table.assign(x=table["x"].mask(table.index < lacking)))
    assert len(asked) == lacking


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_others_are_found_from_the_first_one(table, monkeypatch, weights):
    asked = []

    def count(*args, **more):
        asked.append(args)
        return fit_moments(*args, **more)

    fit_moments = estimate.fit_moments
    monkeypatch.setattr(estimate, "fit_moments", count)
    pooled(table, weights=weights)
    assert len(asked) == 1


# Relative to the largest of an array: a search ends where the gradient by theta is below 1e-9.
SINGLE = 1e-10


def check_alone(found: bhlm.PooledFit, formula: str, given, weights, **choice) -> None:
    """Every fit is what a model of its response alone gives."""
    for name, fit in zip(found.responses, found.fits, strict=True):
        alone = bhlm.Model(f"{name} {formula}", given, weights=weights).reml(**choice)
        assert fit.moments.columns == alone.moments.columns
        assert (fit.moments.dropped, fit.moments.missing) == (
            alone.moments.dropped,
            alone.moments.missing,
        )
        for what in ("beta", "beta_cov", "g", "variance_cov", "sigma2", "loglik", "linear_loglik"):
            one, other = np.asarray(getattr(fit, what)), np.asarray(getattr(alone, what))
            np.testing.assert_allclose(one, other, rtol=0, atol=SINGLE * np.nanmax(np.abs(other)))
        assert (fit.converged, fit.singular) == (alone.converged, alone.singular)


@pytest.mark.parametrize("rows", ["complete", "some lacking", "arrow"])
@pytest.mark.parametrize(
    ("formula", "more"),
    [
        (FORMULA, {}),
        (FORMULA, {"errors": "separate"}),
        (FORMULA, {"weights": None, "errors": "uncorrected"}),
        ("~ 0 + x + C(k) + (1 | g)", {}),
        ("~ 0 + x + (0 + x | g)", {"weights": None, "errors": "block"}),
        (FORMULA, {"weights": "w", "method": "reml"}),
        (FORMULA, {"weights": None, "method": "reml"}),
        ("~ x + (x | g)", {"errors": "block"}),
        ("~ cwc(x) + gm(x) + (cwc(x) || g)", {"weights": None}),
        ("~ x + (x | g)", {"weights": None, "covariance": "exchangeable"}),
    ],
)
def test_each_fit_is_that_of_its_response_alone(table, formula, more, rows):
    if rows == "some lacking":
        table = table.assign(x=table["x"].where(table.index % 17 > 0))
    given = pa.Table.from_pandas(table) if rows == "arrow" else table
    choice = {"weights": WEIGHTS, "method": "ml"} | more
    found = bhlm.fit_imputations(formula, given, responses=NAMES, **choice)
    check_alone(found, formula, given, choice.pop("weights"), **choice)


# Sums over groups go by panels of 64 and by stretches of 1024 and 4096.
@pytest.mark.parametrize("n_groups", [63, 65, 1025, 4100])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_each_fit_is_that_of_its_response_alone_in_many_groups(n_groups, weights):
    rng = np.random.default_rng(n_groups)
    g = np.repeat(np.arange(n_groups), 4)
    x, u = rng.normal(size=len(g)), rng.normal(size=(3, n_groups))
    table = pd.DataFrame({"g": g, "x": x, "w": rng.uniform(1, 3, len(g))})
    table["wg"] = rng.uniform(1, 9, n_groups)[g]
    for name, own in zip(NAMES, u, strict=True):
        # Far from zero, as test scores are.
        table[name] = 500.0 + x + own[g] + rng.normal(size=len(g))
    found = bhlm.fit_imputations(
        "~ x + (1 | g)", table, responses=NAMES, weights=weights, method="ml", errors="full"
    )
    check_alone(found, "~ x + (1 | g)", table, weights, method="ml", errors="full")


@pytest.mark.parametrize("flat", [0, 1])
def test_a_response_without_variance_between_groups_is_fitted_as_alone(table, flat):
    name = NAMES[flat]
    between = (table[name] - table["x"]).groupby(table["g"]).transform("mean")
    other = table.assign(**{name: table[name] - between})
    found = pooled(other)
    for name, fit in zip(NAMES, found.fits, strict=True):
        alone = bhlm.Model(f"{name} {FORMULA}", other, weights=WEIGHTS).reml(method="ml")
        assert fit.singular == alone.singular == (name == NAMES[flat])
        assert fit.loglik == pytest.approx(alone.loglik, rel=1e-12)
        np.testing.assert_allclose(fit.beta, alone.beta, rtol=1e-9)


def test_a_response_at_fault_is_named(table):
    with pytest.raises(BhlmError, match=r"response 'pv3'.*constant"):
        pooled(table.assign(pv3=1.0))
    with pytest.raises(BhlmError, match="response 'pv2': the response 'pv2' is used again"):
        bhlm.fit_imputations("~ x + pv2 + (1 | g)", table, responses=NAMES)


def test_responses_that_miss_rows_of_their_own_keep_their_rows(table):
    gaps = table.copy()
    gaps.loc[:4, "pv2"] = np.nan
    found = pooled(gaps)
    assert [fit.moments.n_rows for fit in found.fits] == [150, 145, 150]


def test_a_weight_of_zero_is_refused_as_of_a_response_alone(table):
    zero = table.assign(w=table["w"].where(table.index != 7, 0.0))
    with pytest.raises(BhlmError, match="is 0 in 1 row") as alone:
        bhlm.Model(f"pv1 {FORMULA}", zero, weights=WEIGHTS)
    with pytest.raises(BhlmError) as found:
        pooled(zero)
    assert str(found.value) == f"response 'pv1': {alone.value}"


def test_one_plausible_value_repeated_pools_to_itself(table):
    repeated = table.assign(pv2=table["pv1"], pv3=table["pv1"])
    found = pooled(repeated)
    one = bhlm.Model(f"pv1 {FORMULA}", table, weights=WEIGHTS).reml(method="ml")
    columns = ["estimate", "se"]
    np.testing.assert_allclose(found.estimates[columns], one.estimates[columns], SAME)
    assert np.abs(found.between).max() < 1e-12


def test_fits_of_other_weights_do_not_pool(table):
    one = bhlm.Model(f"pv1 {FORMULA}", table, weights=WEIGHTS).reml(method="ml")
    two = bhlm.Model(f"pv2 {FORMULA}", table).reml(method="ml")
    with pytest.raises(ArgumentError, match="fit 2 has the weights"):
        bhlm.pool([one, two])
