"""Nested factors with weights: identities with rows and units entered twice, known variances."""

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm import Model, SamplingWeights
from bhlm.errors import ArgumentError, DataError
from bhlm.reml.level_sandwich import find_level_scores
from bhlm.reports.json import describe_levels

FORMULA = "y ~ x + (1 | school) + (x || school:class)"
SAME = 1e-8  # relative, of two ways to one maximum


def make_table(schools: int = 9, classes: int = 3, rows: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    school = np.repeat(np.arange(schools), classes * rows)
    room = np.tile(np.repeat(np.arange(classes), rows), schools)
    unit = school * classes + room
    n = len(school)
    x = rng.normal(size=n)
    u, v, b = rng.normal(size=schools), rng.normal(size=unit.max() + 1), rng.normal(size=100)
    y = 1.0 + x * (0.5 + 0.4 * b[unit]) + u[school] + 0.7 * v[unit] + rng.normal(size=n)
    table = pd.DataFrame({"school": school, "class": room, "x": x, "y": y})
    table["w"] = rng.integers(1, 3, n)
    table["w_class"] = rng.integers(1, 3, unit.max() + 1)[unit]
    table["w_school"] = rng.integers(1, 3, schools)[school]
    return table


TABLE = make_table()


def fit(table: pd.DataFrame, weights: SamplingWeights | None = None, **given):
    return Model(FORMULA, table, weights=weights, **given).reml(method="ml")


def repeat(table: pd.DataFrame, count: str, column: str | None) -> pd.DataFrame:
    """The table with rows as often as they count, their units of a column new ones each time."""
    parts = [table]
    more = table[table[count] == 2].copy()
    if column is not None:
        more[column] = more[column] + 1000
    return pd.concat([*parts, more], ignore_index=True)


@pytest.mark.parametrize(
    ("weights", "count", "column"),
    [
        (SamplingWeights(rows="w"), "w", None),
        (SamplingWeights(groups={"school:class": "w_class"}), "w_class", "class"),
        (SamplingWeights(groups={"school": "w_school"}), "w_school", "school"),
    ],
    ids=["rows", "classes", "schools"],
)
def test_a_weight_of_two_is_as_good_as_twice(weights, count, column) -> None:
    weighed, twice = fit(TABLE, weights), fit(repeat(TABLE, count, column))
    assert weighed.loglik == pytest.approx(twice.loglik, rel=SAME)
    ours, theirs = weighed.estimates["estimate"], twice.estimates["estimate"]
    assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-5, abs=1e-6)
    assert weighed.errors == "full"


def test_weights_of_one_change_nothing_but_the_standard_errors() -> None:
    table = TABLE.assign(one=1.0)
    weights = SamplingWeights("one", {"school": "one", "school:class": "one"}, scaling="size")
    weighed, plain = fit(table, weights), fit(table)
    assert weighed.loglik == pytest.approx(plain.loglik, rel=SAME)
    assert weighed.sigma2 == pytest.approx(plain.sigma2, rel=1e-6)
    model = Model(FORMULA, table, weights=weights).reml(method="ml", errors="model")
    assert model.variance_cov == pytest.approx(plain.variance_cov, rel=1e-5)
    # The Hessian by differences is that of the analytic information.
    found = find_level_scores(model)
    inverse = np.linalg.inv(found.hessian)
    p = len(model.beta)
    back = found.variances @ inverse[p:, p:] @ found.variances.T
    assert back == pytest.approx(plain.variance_cov, rel=1e-4, abs=1e-9)
    assert found.scores.sum(axis=0) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("errors", ["full", "block", "model"])
def test_tests_by_z_are_by_the_errors_of_the_fit(errors) -> None:
    weights = SamplingWeights("w", {"school": "w_school", "school:class": "w_class"})
    found = Model(FORMULA, TABLE, weights=weights).reml(method="ml", errors=errors)
    table = found.fixed_effects(method="z")
    shown = found.estimates.loc[table.index]
    for column in ("se", "lower", "upper", "p"):
        assert table[column].to_numpy() == pytest.approx(shown[column].to_numpy(), rel=1e-9)
    contrast = found.contrast("x = 0", method="z")
    assert contrast["se"].iloc[0] == pytest.approx(shown.loc["x", "se"], rel=1e-9)
    joint = found.test("x = 0", method="z")
    assert joint.statistic == pytest.approx(float(shown.loc["x", "statistic"]) ** 2, rel=1e-8)


def test_effective_sizes_are_those_of_the_rows_weights() -> None:
    weights = SamplingWeights("w", {"school": "w_school", "school:class": "w_class"})
    found = Model(FORMULA, TABLE, weights=weights).reml(method="ml")
    size = found.moments.effective_size

    def kish(w) -> float:
        return float(w.sum() ** 2 / (w @ w))

    each = TABLE.w_school * TABLE.w_class
    one = TABLE.assign(each=each).groupby(["school", "class"])[["each"]].first()["each"]
    assert size["rows"] == pytest.approx(kish(TABLE.w * each))
    assert size["units"]["school:class"] == pytest.approx(kish(one))
    assert size["units"]["school"] == pytest.approx(kish(TABLE.groupby("school").w_school.first()))
    assert "effective sample size" in " ".join(found.summary().split())
    scaled = SamplingWeights("w", {"school:class": "w_class"}, scaling="size")
    size = Model(FORMULA, TABLE, weights=scaled).reml(method="ml").moments.effective_size
    sums = TABLE.groupby(["school", "class"]).w.transform("sum")
    assert size["rows"] == pytest.approx(kish(TABLE.w * 5.0 / sums * TABLE.w_class))
    assert size["units"]["school"] == pytest.approx(9.0)


def test_four_conventions_stand_side_by_side() -> None:
    weights = SamplingWeights("w", {"school": "w_school", "school:class": "w_class"})
    found = fit(TABLE, weights)
    errors = {name: found.sandwich_errors(name) for name in ("full", "uncorrected")}
    ratio = errors["full"].fixed / errors["uncorrected"].fixed
    assert ratio == pytest.approx(9.0 / 8.0, rel=1e-12)
    table = found.compare_conventions()
    assert table["full"].to_numpy() == pytest.approx(found.estimates["se"].to_numpy(), nan_ok=True)


def pseudo_loglik(rows: pd.DataFrame, at: np.ndarray) -> float:
    """The log pseudo-likelihood of a school's rows with (1 | school / class), by hand.

    Both integrals are of exponentials of quadratics, in the class's effect and then the school's.
    """
    beta, (v, own, between) = at[:2], np.exp(at[2:])
    curve, slope, value = 1.0 / between, 0.0, -0.5 * np.log(between)
    for _, unit in rows.groupby("class"):
        w, e = unit["w"].to_numpy(), (unit["y"] - beta[0] - beta[1] * unit["x"]).to_numpy()
        n, first, second = w.sum(), w @ e / v, w @ e**2 / v
        inner = n / v + 1.0 / own
        times = unit["w_class"].iloc[0]
        curve += times * (n / v - (n / v) ** 2 / inner)
        slope += times * (first - first * (n / v) / inner)
        left = n * np.log(2.0 * np.pi * v) + np.log(own * inner) + second - first**2 / inner
        value -= 0.5 * times * left
    return float(value - 0.5 * np.log(curve) + 0.5 * slope**2 / curve)


def test_weights_at_three_levels_are_the_pseudo_likelihood_by_hand() -> None:
    weights = SamplingWeights("w", {"class": "w_class", "school": "w_school"})
    found = Model("y ~ x + (1 | school/class)", TABLE, weights=weights).reml(method="ml")
    table = found.estimates
    names = ["var(Residual)", "var(Intercept|school:class)", "var(Intercept|school)"]
    at = np.array([*found.beta, *np.log(table.loc[names, "estimate"])])
    schools = [(rows, rows["w_school"].iloc[0]) for _, rows in TABLE.groupby("school")]

    def logliks(point: np.ndarray) -> np.ndarray:
        return np.array([times * pseudo_loglik(rows, point) for rows, times in schools])

    def slopes(function, point: np.ndarray) -> np.ndarray:
        steps = 1e-4 * np.eye(5)
        return np.array([(function(point + s) - function(point - s)) / 2e-4 for s in steps])

    assert logliks(at).sum() == pytest.approx(found.loglik, rel=1e-12)
    scores = slopes(logliks, at)
    assert np.abs(scores.sum(axis=1)).max() < 1e-4
    bread = -np.linalg.inv(slopes(lambda p: slopes(logliks, p).sum(axis=1), at))
    errors = np.sqrt(np.diag(bread @ scores @ scores.T @ bread) * 9 / 8)
    errors[2:] *= table.loc[names, "estimate"]
    assert [*table["se"].iloc[:2], *table.loc[names, "se"]] == pytest.approx(errors, rel=1e-4)


def test_units_have_the_name_of_their_column_too() -> None:
    given = {"class": "w_class", "school": "w_school"}
    short = fit(TABLE, SamplingWeights("w", given))
    whole = fit(TABLE, SamplingWeights("w", {"school:class": "w_class", "school": "w_school"}))
    assert short.weights == whole.weights
    with pytest.raises(ArgumentError, match="weights of 'school:class' twice"):
        fit(TABLE, SamplingWeights("w", given | {"school:class": "w_class"}))


def test_what_weights_of_units_cannot_be_is_told() -> None:
    with pytest.raises(ArgumentError, match="does not say of which of school and school:class"):
        fit(TABLE, SamplingWeights(groups="w_school"))
    with pytest.raises(ArgumentError, match="names 'room', which is no factor"):
        fit(TABLE, SamplingWeights(groups={"room": "w_school"}))
    with pytest.raises(DataError, match="differs between the rows of"):
        fit(TABLE, SamplingWeights(groups={"school": "w_class"}))
    with pytest.raises(DataError, match="weight of 'school' is 0"):
        fit(TABLE.assign(w_school=0), SamplingWeights(groups={"school": "w_school"}))
    with pytest.raises(ArgumentError, match="REML integrates"):
        Model(FORMULA, TABLE, weights=SamplingWeights("w")).reml()
    crossed = TABLE.assign(item=np.arange(len(TABLE)) % 4)
    model = Model("y ~ x + (1 | school) + (1 | item)", crossed, weights=SamplingWeights("w"))
    with pytest.raises(ArgumentError, match="crossed"):
        model.reml(method="ml")
    model = Model(FORMULA, TABLE, weights=SamplingWeights("w"))
    with pytest.raises(ArgumentError, match="is not there with sampling weights"):
        model.sample(seed=1)


def test_one_factor_takes_weights_by_its_name() -> None:
    table, formula = TABLE, "y ~ x + (1 | school)"
    named = Model(formula, table, weights=SamplingWeights("w", {"school": "w_school"}))
    plain = Model(formula, table, weights=SamplingWeights("w", "w_school"))
    assert named.formula.weights == plain.formula.weights


def test_precision_and_frequency_of_nested_factors() -> None:
    twice = TABLE.loc[TABLE.index.repeat(TABLE["w"])]
    counted = Model(FORMULA, TABLE, weights=bhlm.FrequencyWeights("w")).reml()
    plain = Model(FORMULA, twice).reml()
    assert counted.loglik == pytest.approx(plain.loglik, rel=SAME)
    assert counted.beta_cov == pytest.approx(plain.beta_cov, rel=1e-5)
    # A precision of w everywhere is a residual variance w times smaller.
    table = TABLE.assign(c=4.0)
    weighed, plain = Model(FORMULA, table, weights="c").reml(), Model(FORMULA, table).reml()
    assert weighed.sigma2 == pytest.approx(4.0 * plain.sigma2, rel=1e-6)
    assert weighed.loglik == pytest.approx(plain.loglik, rel=SAME)


def test_known_variances_of_one_are_a_sigma_of_one() -> None:
    """Held at the estimate, sigma leaves estimates and likelihood where they are."""
    plain = Model(FORMULA, TABLE).reml()
    table = TABLE.assign(v=plain.sigma2)
    known = Model(FORMULA, table, known_variance="v").reml()
    assert known.loglik == pytest.approx(plain.loglik, rel=SAME)
    assert known.beta == pytest.approx(plain.beta, rel=1e-5)
    assert np.concatenate([g.ravel() for g in known.gs]) == pytest.approx(
        np.concatenate([g.ravel() for g in plain.gs]), rel=1e-4, abs=1e-6
    )


def test_schools_in_districts_are_those_of_metafor() -> None:
    """Konstantopoulos (2011), pp. 70-71, printed to four digits by metafor."""
    table = bhlm.load_dataset("school_calendar")
    model = Model("effect ~ 1 + (1 | district) + (1 | study)", table, known_variance="variance")
    found = model.reml()
    estimates = found.estimates["estimate"]
    assert f"{found.beta[0]:.4f}" == "0.1847"
    assert f"{np.sqrt(found.beta_cov[0, 0]):.4f}" == "0.0846"
    assert f"{estimates['var(Intercept|district)']:.4f}" == "0.0651"
    assert f"{estimates['var(Intercept|study)']:.4f}" == "0.0327"
    assert f"{found.loglik:.4f}" == "-7.9587"
    assert found.sigma2 == 1.0
    effects = found.group_effects("district")
    assert len(effects) == 11


def test_heterogeneity_of_schools_in_districts_is_metafors() -> None:
    """rma.mv(yi, vi, random = ~ 1 | district/school) of metafor 3.8.1, with I^2 by tr(P)."""
    table = bhlm.load_dataset("school_calendar")
    formula = "effect ~ 1 + (1 | district) + (1 | study)"
    fit = Model(formula, table, known_variance="variance").reml()
    found = fit.heterogeneity()
    assert found.q == pytest.approx(578.864017958, rel=1e-9)
    assert (found.df, found.p) == (55, pytest.approx(1.79683030193e-88, rel=1e-6))
    assert found.tau2["district"] == pytest.approx(0.0650619442753, rel=1e-5)
    assert found.i2["district"] == pytest.approx(63.3248378206, rel=1e-5)
    assert found.i2["study"] == pytest.approx(31.8624759019, rel=1e-5)
    assert found.total == pytest.approx(63.3248378206 + 31.8624759019, rel=1e-5)
    assert found.lower == pytest.approx(-0.450230970085, rel=1e-5)
    assert found.upper == pytest.approx(0.819657297430, rel=1e-5)
    assert str(found).startswith("Q(55) = 578.8640, p = 1.8e-88; district: tau^2 = 0.0651, I^2 = 6")
    # One factor more that does not vary: the numbers of the smaller model.
    one = Model("effect ~ 1 + (1 | study)", table, known_variance="variance").reml()
    spare = table.assign(none=table["effect"].rank(method="first").astype(int) % 8)
    both = Model("effect ~ 1 + (1 | study) + (1 | none)", spare, known_variance="variance").reml()
    assert both.gs[1][0, 0] == 0.0
    assert both.heterogeneity().i2["study"] == pytest.approx(one.heterogeneity().i2, rel=1e-4)
    assert both.heterogeneity().i2["none"] == 0.0
    moderated = Model(formula.replace("1 +", "year +"), table, known_variance="variance").reml()
    assert np.isnan(moderated.heterogeneity().lower)
    assert moderated.heterogeneity().df == 54
    plain = Model("effect ~ 1 + (1 | district) + (1 | year)", table).reml()
    with pytest.raises(ArgumentError, match="sampling variances that are known"):
        plain.heterogeneity()


def test_json_and_tables_of_known_variances_leave_out_shares() -> None:
    table = bhlm.load_dataset("school_calendar")
    formula = "effect ~ 1 + (1 | district) + (1 | study)"
    fit = bhlm.Model(formula, table, known_variance="variance").reml()
    assert "icc" not in describe_levels(fit)
    assert "study" in str(bhlm.table({"meta": fit}))
    with pytest.raises(ArgumentError, match="icc"):
        fit.icc()


def solve_effects(rows: pd.DataFrame, fit, *, scaled: bool) -> dict[str, tuple]:
    """Return means and covariances of the effects of a school and its classes, by their densities.

    A unit's effects have, given those above it, the density of its weighted parts times N(0, G).
    """
    beta, sigma2 = fit.beta, fit.sigma2
    school_g, class_g = fit.gs
    school, inside = np.zeros((2, 2)), np.zeros(2)
    kept = []
    for label, own in rows.groupby("class"):
        w = own["w"].to_numpy(float)
        w = w * len(w) / w.sum() if scaled else w
        z = np.column_stack([np.ones(len(own)), own["x"]])
        rest = own["y"].to_numpy() - z @ beta
        inner = np.ones((len(own), 1))
        a, above, b = inner.T * w @ inner, inner.T * w @ z, inner.T @ (w * rest)
        precision = np.linalg.inv(np.linalg.inv(class_g) + a / sigma2)
        kept.append((label, precision, above / sigma2, b / sigma2))
        times = own["w_class"].iloc[0]
        left = z.T * w @ z / sigma2 - above.T @ precision @ above / sigma2**2
        school += times * left
        inside += times * (z.T @ (w * rest) / sigma2 - above.T @ precision @ b / sigma2**2)
    cov = np.linalg.inv(np.linalg.inv(school_g) + school)
    mean = cov @ inside
    found = {"school": (mean, cov)}
    for label, precision, above, b in kept:
        moved = -precision @ above
        found[label] = (precision @ b + moved @ mean, precision + moved @ cov @ moved.T)
    return found


@pytest.mark.parametrize("scaled", [False, True])
def test_effects_of_units_are_those_of_their_weighted_densities(scaled) -> None:
    weights = SamplingWeights(
        "w", {"class": "w_class", "school": "w_school"}, scaling="size" if scaled else "none"
    )
    table = TABLE.assign(y=TABLE["y"] + 2.0 * TABLE["x"] * np.sin(TABLE["school"]))
    formula = "y ~ x + (x | school) + (1 | school:class)"
    fit = Model(formula, table, weights=weights).reml(method="ml")
    assert not fit.singular
    schools = fit.group_effects("school").set_index(["school", "coefficient"])
    classes = fit.group_effects("school:class").set_index(["school", "class"])
    assert list(schools.columns) == ["estimate", "sd"]
    for label, rows in table.groupby("school"):
        expected = solve_effects(rows, fit, scaled=scaled)
        mean, cov = expected.pop("school")
        own = schools.loc[label].loc[["Intercept", "x"]]
        np.testing.assert_allclose(own["estimate"], mean, 1e-8, 1e-9)
        np.testing.assert_allclose(own["sd"], np.sqrt(np.diag(cov)), 1e-8)
        for room, (value, spread) in expected.items():
            np.testing.assert_allclose(classes.loc[(label, room), "estimate"], value, 1e-8, 1e-9)
            np.testing.assert_allclose(classes.loc[(label, room), "sd"] ** 2, spread[0], 1e-8)


def test_effects_under_equal_weights_are_those_without() -> None:
    table = TABLE.assign(one=1.0)
    weights = SamplingWeights("one", {"school": "one"})
    weighed, plain = fit(table, weights).group_effects(), fit(table).group_effects()
    assert list(weighed.columns) == [name for name in plain.columns if name != "pev"]
    np.testing.assert_allclose(weighed["estimate"], plain["estimate"], 1e-5, 1e-6)
    np.testing.assert_allclose(weighed["sd"], plain["sd"], 1e-5)
    with pytest.raises(ArgumentError, match="sampling weights"):
        fit(table, weights).group_residuals("school")
