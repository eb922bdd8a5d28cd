"""Fits with weights: printed values of other programs, identities, and standard errors."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.errors import ArgumentError, DataError

# WeMix 4.0's tests print log-likelihoods with all digits.
PRINTED = {
    "rows": ("Reaction ~ Days + (1 | Subject)", "-1048.34318418762"),
    "groups": ("Reaction ~ Days + (1 | Subject)", "-1055.34690957995"),
    "two effects": ("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", "-1018.29298875158"),
}
HEAVY = ("308", "309", "310")
LME4 = json.loads((Path(__file__).parents[1] / "reference" / "survey" / "weights.json").read_text())
SAME = 1e-9  # of two ways to one optimum
STEP = 1e-4  # of differences of second order, which leave about its square


@pytest.fixture(scope="module")
def sleepstudy() -> pd.DataFrame:
    table = bhlm.load_dataset("sleepstudy")
    heavy = table["Subject"].astype(str).isin(HEAVY)
    return table.assign(w=np.where(heavy, 2.0, 1.0), two=2.0, one=1.0)


def last_place(printed: str) -> float:
    """Return half a unit of a printed number's last digit."""
    return 0.5000001 * 10.0 ** -len(printed.partition(".")[2])


def fit(table, *, weights=None, formula="Reaction ~ Days + (1 | Subject)", **more):
    return bhlm.Model(formula, table, weights=weights).reml(**({"method": "ml"} | more))


def double(table: pd.DataFrame, *, anew: bool) -> pd.DataFrame:
    """Return a table with the rows of the heavy subjects twice, as their own or as others'."""
    again = table[table.w > 1].copy()
    again["Subject"] = again["Subject"].astype(str) + ("*" if anew else "")
    return pd.concat([table.assign(Subject=table["Subject"].astype(str)), again])


@pytest.mark.parametrize("case", PRINTED)
def test_printed_log_likelihoods(case, sleepstudy):
    formula, printed = PRINTED[case]
    side = "groups" if case == "groups" else "rows"
    found = fit(sleepstudy, weights=bhlm.SamplingWeights(**{side: "w"}), formula=formula)
    assert abs(found.loglik - float(printed)) < last_place(printed)


@pytest.mark.parametrize("anew", [False, True])
def test_weights_of_two_are_rows_or_groups_twice(anew, sleepstudy):
    side = {"groups": "w"} if anew else {"rows": "w"}
    weighted = fit(sleepstudy, weights=bhlm.SamplingWeights(**side))
    twice = fit(double(sleepstudy, anew=anew))
    assert weighted.loglik == pytest.approx(twice.loglik, rel=1e-12)
    np.testing.assert_allclose(weighted.estimates["estimate"], twice.estimates["estimate"], SAME)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_frequencies_are_rows_that_often(method, sleepstudy):
    weights = bhlm.FrequencyWeights("w")
    counted, twice = (
        fit(sleepstudy, weights=weights, method=method),
        fit(double(sleepstudy, anew=False), method=method),
    )
    assert counted.loglik == pytest.approx(twice.loglik, rel=1e-12)
    np.testing.assert_allclose(
        counted.estimates.to_numpy(float), twice.estimates.to_numpy(float), SAME * 100
    )
    assert counted.moments.n_rows == twice.moments.n_rows


@pytest.mark.parametrize(
    "weights",
    [
        "one",
        bhlm.FrequencyWeights("one"),
        bhlm.SamplingWeights(rows="one"),
        bhlm.SamplingWeights(rows="two", groups="one", scaling="size"),
        bhlm.SamplingWeights(rows="two", scaling="effective"),
        bhlm.SamplingWeights(rows="two / two", groups="one", scaling="gk"),
    ],
    ids=str,
)
def test_equal_weights_change_nothing(weights, sleepstudy):
    formula = "Reaction ~ Days + (Days | Subject)"
    weighted, plain = (fit(sleepstudy, weights=each, formula=formula) for each in (weights, None))
    assert weighted.loglik == pytest.approx(plain.loglik, rel=1e-12)
    np.testing.assert_allclose(weighted.estimates["estimate"], plain.estimates["estimate"], 1e-6)


def test_unscaled_weights_of_groups_multiply_the_likelihood(sleepstudy):
    plain = fit(sleepstudy)
    weighted = fit(sleepstudy, weights=bhlm.SamplingWeights(groups="two"))
    assert weighted.loglik == pytest.approx(2.0 * plain.loglik, rel=1e-12)
    np.testing.assert_allclose(weighted.beta, plain.beta, SAME)
    ours, theirs = weighted.compare_conventions(), plain.compare_conventions()
    np.testing.assert_allclose(ours, theirs, 1e-6)  # and leave sandwiches


def scaled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of a model whose every column is multiplied by sqrt(w)."""
    root = np.sqrt(table["w"])
    return pd.DataFrame(
        {"Subject": table["Subject"], "y": root * table["Reaction"], "s": root}
        | {"d": root * table["Days"]}
    )


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_precision_weights_are_columns_times_their_root(method, sleepstudy):
    rng = np.random.default_rng(4)
    table = sleepstudy.assign(w=rng.uniform(0.2, 3.0, len(sleepstudy)))
    formula = "Reaction ~ Days + (Days | Subject)"
    weighted = fit(table, weights="w", formula=formula, method=method)
    plain = fit(scaled(table), formula="y ~ 0 + s + d + (0 + s + d | Subject)", method=method)
    offset = 0.5 * np.log(table["w"]).sum()
    assert weighted.loglik == pytest.approx(plain.loglik + offset, rel=1e-12)
    ours, theirs = weighted.estimates, plain.estimates
    np.testing.assert_allclose(ours.to_numpy(float), theirs.to_numpy(float), 1e-6)
    for how in ("satterthwaite", "kenward-roger", "cr2") if method == "reml" else ():
        ours, theirs = (each.fixed_effects(method=how) for each in (weighted, plain))
        np.testing.assert_allclose(ours.to_numpy(float), theirs.to_numpy(float), 1e-6)
    ours, theirs = (each.group_effects()["estimate"] for each in (weighted, plain))
    np.testing.assert_allclose(ours, theirs, 1e-6, 1e-6)


def dense_logliks(table, parameters, *, scaling):
    """Return W_j l_j (J,) of a random intercept and slope, by dense algebra of a group's rows.

    With whole weights a row counts by as many factors of its density: V = Z G Z' + sigma^2 / w.
    """
    beta, g, sigma2 = parameters[:2], parameters[[2, 3, 3, 4]].reshape(2, 2), parameters[5]
    found = []
    for _, own in table.groupby("Subject", sort=True, observed=True):
        w = own["w"].to_numpy()
        w = w * {"none": 1.0, "size": len(w) / w.sum(), "effective": w.sum() / (w @ w)}[scaling]
        z = np.column_stack([np.ones(len(own)), own["Days"]])
        e = own["Reaction"].to_numpy() - z @ beta
        v = z @ g @ z.T + np.diag(sigma2 / w)
        # prod f(y | u)^w is a normal density with variance sigma^2 / w, but for a constant.
        rest = w.sum() * np.log(2 * np.pi * sigma2) - np.log(2 * np.pi * sigma2 / w).sum()
        dense = len(w) * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + e @ np.linalg.solve(v, e)
        found.append(-0.5 * own["W"].iloc[0] * (dense + rest))
    return np.array(found)


def differentiate(function, point, size):
    """Return central differences (..., c) of a function, in steps of a share of `size`."""
    columns = []
    for c in range(len(point)):
        step = np.zeros(len(point))
        step[c] = STEP * size[c]
        columns.append((function(point + step) - function(point - step)) / (2.0 * step[c]))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize(
    "scaling",
    ["size", *(pytest.param(each, marks=pytest.mark.slow) for each in ("none", "effective"))],
)
def test_pseudo_likelihood_and_sandwich_by_dense_algebra(scaling, sleepstudy):
    rng = np.random.default_rng(7)
    subject = sleepstudy["Subject"].astype("category").cat.codes
    table = sleepstudy.assign(
        w=rng.uniform(0.5, 3.0, len(sleepstudy)), W=rng.uniform(1.0, 40.0, 18)[subject]
    )
    weights = bhlm.SamplingWeights(rows="w", groups="W", scaling=scaling)
    found = fit(table, weights=weights, formula="Reaction ~ Days + (Days | Subject)")
    point = np.array([*found.beta, *found.g[np.triu_indices(2)], found.sigma2])
    size = np.array([250.0, 10.0, 600.0, 30.0, 30.0, 650.0])

    def logliks(at):
        return dense_logliks(table, at, scaling=scaling)

    assert logliks(point).sum() == pytest.approx(found.loglik, rel=1e-12)
    scores = differentiate(logliks, point, size)
    assert np.abs(scores.sum(axis=0) * size).max() < 1e-2
    hessian = -differentiate(
        lambda at: differentiate(lambda inner: logliks(inner).sum(), at, size), point, size
    )
    bread = np.linalg.inv(hessian)
    cov = bread @ scores.T @ scores @ bread
    table = found.compare_conventions()
    # `cov` has (var, cov, var) in the order of the triangle, the table variances first.
    order = [0, 1, 2, 4, 3, 5]
    expected = np.sqrt(np.diag(cov))[order]
    np.testing.assert_allclose(table["uncorrected"].iloc[:6], expected, 2e-4)
    np.testing.assert_allclose(table["full"], table["uncorrected"] * np.sqrt(18 / 17), SAME)
    meat = scores.T @ scores
    b, v = slice(0, 2), slice(2, None)
    inner = np.linalg.inv(hessian[b, b])
    block = np.sqrt(np.diag(inner @ meat[b, b] @ inner) * 18 / 17)
    np.testing.assert_allclose(table["block"].iloc[:2], block, 2e-4)
    np.testing.assert_allclose(table["separate"].iloc[:2], block, 2e-4)
    own = np.linalg.inv(hessian[v, v])
    profiled = np.linalg.inv(hessian[v, v] - hessian[v, b] @ inner @ hessian[b, v])
    for name, each in (("separate", own), ("block", profiled)):
        se = np.sqrt(np.diag(each @ meat[v, v] @ each) * 18 / 17)[[0, 2, 1, 3]]
        np.testing.assert_allclose(table[name].iloc[2:6], se, 2e-4)


def test_conventions_are_told_in_words(sleepstudy):
    found = fit(sleepstudy, weights=bhlm.SamplingWeights(rows="w"))
    table = found.compare_conventions()
    assert list(table.columns) == ["estimate", "full", "uncorrected", "block", "separate"]
    assert table.attrs["programs"]["block"] == "Stata mixed"
    assert "J / (J - 1)" in table.attrs["why"]["uncorrected"]
    assert found.errors == "full"
    np.testing.assert_array_equal(found.estimates["se"], table["full"])
    other = fit(sleepstudy, weights=bhlm.SamplingWeights(rows="w"), errors="separate")
    np.testing.assert_array_equal(other.estimates["se"], table["separate"])


def test_a_vanished_variance_leaves_the_others_their_errors():
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(30), 4)
    table = pd.DataFrame({"g": g, "y": rng.normal(size=120), "w": rng.uniform(1, 2, 120)})
    table["y"] -= 0.999 * table.groupby("g")["y"].transform("mean")
    found = fit(table, weights=bhlm.SamplingWeights(rows="w"), formula="y ~ 1 + (1 | g)")
    assert found.singular
    se = found.estimates["se"]
    assert np.isnan(se["var(Intercept|g)"])
    assert se["Intercept"] > 0
    assert se["var(Residual)"] > 0


def test_what_a_pseudo_likelihood_does_not_allow_is_refused(sleepstudy):
    model = bhlm.Model(
        "Reaction ~ Days + (1 | Subject)", sleepstudy, weights=bhlm.SamplingWeights(rows="w")
    )
    with pytest.raises(ArgumentError, match=r"pseudo-likelihood.*method='ml'"):
        model.reml()
    found = model.reml(method="ml")
    for ask in (
        found.profile,
        found.bootstrap,
        found.influence,
        found.coefficients,
        found.group_residuals,
        found.test_homogeneity,
        found.test_variances,
        lambda: found.test_variances("Intercept"),
        found.fixed_effects,
        lambda: model.residuals(found),
        lambda: model.predict(found),
        lambda: model.pymc(form="conditional"),
        lambda: found.summary(style="hlm"),
        lambda: bhlm.compare_fits(found),
        lambda: fit(sleepstudy, method="reml", errors="full"),
        lambda: fit(sleepstudy, errors="other"),
        lambda: fit(sleepstudy, method="reml").compare_conventions(),
    ):
        with pytest.raises(ArgumentError) as told:
            ask()
        assert "\n" not in str(told.value)
    assert np.isnan(found.lr_test["chi2"])
    assert found.fixed_effects(method="z")["se"].tolist() == pytest.approx(
        found.estimates["se"].iloc[:2].tolist()
    )
    assert found.test("Days = 0", method="z").p < 1e-6


def test_what_weights_are_is_printed(sleepstudy):
    found = fit(sleepstudy, weights=bhlm.SamplingWeights(rows="w", groups="two"))
    text = found.summary()
    assert "Log pseudolikelihood = -20" in text
    assert "Sampling weights of rows w as they are, of groups two" in text
    assert "18 of 18 groups" in text.replace("\n", " ")
    assert "LR test" not in text
    assert "Precision weights w" in repr(fit(sleepstudy, weights="w"))
    assert "Linear mixed model" in found.summary(style="lme4")


def test_weights_are_in_the_json(sleepstudy):
    from bhlm.reports.json import describe_model, describe_reml

    found = fit(sleepstudy, weights=bhlm.SamplingWeights(rows="w"))
    about = json.loads(json.dumps(describe_model(found.moments)))
    assert about["weights"]["kind"] == "sampling"
    assert about["weights"]["effective_size"]["rows"] < about["n"]
    assert describe_reml(found)["errors"] == "full"


@pytest.mark.parametrize("kind", ["plain", "rows", "sampling", "known"])
def test_another_response_takes_the_columns_of_the_fit_it_starts_from(kind, sleepstudy):
    rng = np.random.default_rng(11)
    table = sleepstudy.assign(
        w=rng.uniform(0.5, 3.0, len(sleepstudy)),
        other=sleepstudy["Reaction"] * 2.0 + 300.0 * rng.normal(size=len(sleepstudy)),
    )
    given = {
        "plain": {},
        "rows": {"weights": "w"},
        "sampling": {"weights": bhlm.SamplingWeights(rows="w")},
        "known": {"known_variance": "w"},
    }[kind]
    first, other = (
        bhlm.Model(f"{name} ~ Days + (Days | Subject)", table, **given)
        for name in ("Reaction", "other")
    )
    alone, beside = (other.reml(method="ml", start=s) for s in (None, first.reml(method="ml")))
    assert beside.loglik == pytest.approx(alone.loglik, rel=1e-11)
    np.testing.assert_allclose(
        beside.estimates.to_numpy(float), alone.estimates.to_numpy(float), 1e-5, 1e-5
    )


def test_a_start_that_leaves_nothing_to_gain_takes_few_steps(sleepstudy):
    model = bhlm.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    rough = sleepstudy.assign(Reaction=sleepstudy["Reaction"] * (1.0 + 1e-9))
    start = bhlm.Model("Reaction ~ Days + (Days | Subject)", rough).reml()
    assert len(model.reml(start=start).steps) < 5


def test_fitted_values_and_residuals_under_precision_weights_are_lme4s(sleepstudy):
    table = sleepstudy.assign(w=1 + sleepstudy["Days"] % 3)
    model = bhlm.Model("Reaction ~ Days + (Days | Subject)", table, weights="w")
    found = model.reml()
    assert found.loglik == pytest.approx(LME4["loglik"], abs=1e-7)
    rows = model.residuals(found)
    np.testing.assert_allclose(rows["fitted"], LME4["fitted"], 1e-5)
    np.testing.assert_allclose(rows["standardized"], LME4["scaled"], 1e-4, 1e-5)
    np.testing.assert_allclose(model.predict(found)["estimate"], LME4["fitted"], 1e-5)
    population = model.predict(found, table.drop(columns="w"), kind="population")
    np.testing.assert_allclose(population["estimate"], LME4["population"], 1e-5)
    wide = (population["upper_new"] - population["estimate"]) ** 2
    narrow = (population["upper"] - population["estimate"]) ** 2
    z = np.column_stack([np.ones(len(table)), table["Days"]])
    spread = np.einsum("ni,ij,nj->n", z, found.g, z) + found.sigma2
    np.testing.assert_allclose((wide - narrow) / 1.959963984540054**2, spread, 1e-9)


def test_rows_that_count_several_times_have_the_residuals_of_each(sleepstudy):
    both = []
    for table, weights in (
        (sleepstudy, bhlm.FrequencyWeights("w")),
        (double(sleepstudy, anew=False), None),
    ):
        model = bhlm.Model("Reaction ~ Days + (1 | Subject)", table, weights=weights)
        both.append(model.residuals(model.reml()).iloc[: len(sleepstudy)])
    np.testing.assert_allclose(both[0]["standardized"], both[1]["standardized"], 1e-6, 1e-8)


def test_rows_that_have_changed_are_found_out_under_weights(sleepstudy):
    table = sleepstudy.copy()
    model = bhlm.Model("Reaction ~ Days + (1 | Subject)", table, weights="w")
    found = model.reml()
    table.loc[3, "w"] = 1.5
    with pytest.raises(DataError, match="the table has changed"):
        model.residuals(found)


@pytest.mark.parametrize("ask", ["predict", "residuals", "check_rows", "loo_rows"])
def test_single_rows_of_a_pseudo_likelihood_are_refused(ask, sleepstudy):
    model = bhlm.Model(
        "Reaction ~ Days + (1 | Subject)", sleepstudy, weights=bhlm.SamplingWeights(rows="w")
    )
    with pytest.raises(ArgumentError, match="is not there with sampling weights") as told:
        getattr(model, ask)(model.reml(method="ml"))
    assert "\n" not in str(told.value)


def test_rows_of_zeros_and_ones_that_count_several_times_are_trials(sleepstudy):
    """WeMix prints -93.751679 by 13 points of quadrature that is not adaptive."""
    times = sleepstudy["Subject"].isin([308, 309, 310]) + 1
    high = (sleepstudy["Reaction"] >= 300).astype(int)
    table = sleepstudy.assign(high=high, times=times, successes=high * times)
    with pytest.raises(ArgumentError, match=r"'successes / times ~ \.\.\.' with family='binomial'"):
        bhlm.Model(
            "high ~ Days + (1 | Subject)",
            table,
            family="bernoulli",
            weights=bhlm.FrequencyWeights("times"),
        )
    trials = bhlm.Model("successes / times ~ Days + (1 | Subject)", table, family="binomial").ml()
    twice = pd.concat([table, table[times == 2]])
    rows = bhlm.Model("high ~ Days + (1 | Subject)", twice, family="bernoulli").ml()
    assert trials.loglik == pytest.approx(rows.loglik, abs=1e-8)
    assert trials.loglik == pytest.approx(-93.751679, abs=5e-6)
