"""Hypotheses as text, and their estimates and joint tests by every method."""

import numpy as np
import pytest
from scipy import stats
from simulate import simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.likelihood.linear import read_hypotheses
from bhlm.reml.fixed.contrasts import METHODS, estimate_contrasts, infer_fixed, judge_hypotheses
from bhlm.reml.fixed.hlm_df import hlm_df
from bhlm.reml.fixed.kenward_roger import kenward_roger
from bhlm.reml.fixed.robust import robust_covariance
from bhlm.reml.fixed.satterthwaite import satterthwaite_df
from bhlm.reml.fixed.wald import wald_test

NAMES = (
    "Intercept",
    "gm(ses)",
    "sector",
    "cwc(ses)",
    "gm(ses):cwc(ses)",
    "C(d, reference=2)[a; b]",
)


@pytest.fixture(scope="module")
def fit() -> RemlFit:
    return Model("y ~ x + w + x:w + (x | g)", simulate_table(3, n_groups=20)).reml()


@pytest.mark.parametrize(
    ("text", "rows", "values", "labels"),
    [
        ("sector = 0", [{2: 1}], [0], ["sector = 0"]),
        ("sector", [{2: 1}], [0], ["sector = 0"]),
        ("cwc( ses ) - 2*gm(ses) = 0", [{3: 1, 1: -2}], [0], ["cwc(ses) - 2*gm(ses) = 0"]),
        ("2 * (sector - 1) / 4 = gm(ses)", [{2: 0.5, 1: -1}], [0.5], None),
        ("-(sector + 3) = +Intercept * 2", [{2: -1, 0: -2}], [3], None),
        ("cwc(ses):gm(ses) = 1e-1", [{4: 1}], [0.1], ["gm(ses):cwc(ses) = 1e-1"]),
        (
            "sector = cwc(ses) = 0",
            [{2: 1, 3: -1}, {3: 1}],
            [0, 0],
            ["sector = cwc(ses)", "cwc(ses) = 0"],
        ),
        ("sector = 0; cwc(ses) = 1", [{2: 1}, {3: 1}], [0, 1], None),
        (["sector", "cwc(ses) = 1"], [{2: 1}, {3: 1}], [0, 1], None),
        ("C(d, reference=2)[a; b] = 0", [{5: 1}], [0], ["C(d, reference=2)[a; b] = 0"]),
    ],
)
def test_hypotheses_are_read(text, rows, values, labels):
    read = read_hypotheses(text, NAMES)
    expected = np.zeros((len(rows), len(NAMES)))
    for row, entries in zip(expected, rows, strict=True):
        for at, value in entries.items():
            row[at] = value
    assert read.contrasts == pytest.approx(expected)
    assert read.values == pytest.approx(values)
    assert labels is None or read.labels == tuple(labels)


def test_a_name_is_not_found_within_a_number():
    read = read_hypotheses("e = 1e5", ["e"])
    assert (read.contrasts.item(), read.values.item()) == (1.0, 1e5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sectors = 0", "'sectors' in the hypothesis"),
        ("", "lacks a side; write 'sector = 0' or"),
        ("sector =", "lacks a side"),
        ("sector == 0", "lacks a side"),
        ([], "there is no hypothesis to test"),
        ("1 = 1", "says nothing about a fixed effect"),
        ("sector = sector", "says nothing about a fixed effect"),
        (
            "secto = 0",
            r"'secto' in the hypothesis 'secto = 0' cannot be read; did you mean 'sector'",
        ),
        ("cwc(sess) = 0", r"'cwc\(sess\)' in .* did you mean 'cwc\(ses\)'"),
        ("ses = 0", "'ses' in the hypothesis"),
        ("pupils = 0", "the fixed effects are Intercept, gm"),
        ("sector sector = 0", "'sector sector' in the hypothesis"),
        ("sector.x = 0", r"'sector\.x' in"),
        ("sector(2) = 0", r"'sector\(2\)' in"),
        ("True = sector", "'True' in"),
        ("sector * sector = 0", "is not linear in the fixed effects"),
        ("1 / sector = 0", "is not linear"),
        ("sector / 0 = 0", "is not linear"),
        ("sector ** 2 = 0", "is not linear"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        read_hypotheses(text, NAMES)
    assert "\n" not in str(caught.value)


def test_every_method_has_its_covariance_and_df(fit):
    rows = np.eye(4)
    robust = robust_covariance(fit)
    expected = {
        "z": (fit.beta_cov, np.full(4, np.inf)),
        "satterthwaite": (fit.beta_cov, satterthwaite_df(fit, rows)),
        "kenward-roger": (kenward_roger(fit).cov, None),
        "hlm": (fit.beta_cov, hlm_df(fit, rows)),
        "cr0": (robust_covariance(fit, kind="cr0").cov, np.full(4, np.inf)),
        "cr2": (robust.cov, None),
    }
    assert set(expected) == set(METHODS)
    for method, (cov, df) in expected.items():
        inference = infer_fixed(fit, rows, method=method)
        assert inference.cov == pytest.approx(cov, rel=1e-12)
        assert df is None or inference.df.tolist() == pytest.approx(df.tolist(), rel=1e-12)
        assert np.all(inference.df > 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_estimates_follow_from_the_covariance_and_the_df(fit, method):
    table = estimate_contrasts(fit, ["x - 2*w = 1", "x:w"], method=method, level=0.9)
    assert list(table.index) == ["x - 2*w = 1", "x:w = 0"]
    row = np.array([0.0, 1.0, -2.0, 0.0])
    inference = infer_fixed(fit, row, method=method)
    first = table.iloc[0]
    se = np.sqrt(row @ inference.cov @ row)
    assert first["estimate"] == pytest.approx(row @ fit.beta, rel=1e-12)
    assert first["se"] == pytest.approx(se, rel=1e-12)
    assert first["df"] == pytest.approx(inference.df[0], rel=1e-12)
    assert first["statistic"] == pytest.approx((row @ fit.beta - 1.0) / se, rel=1e-12)
    half = stats.t.ppf(0.95, inference.df[0]) * se
    assert first["lower"] == pytest.approx(row @ fit.beta - half, rel=1e-12)
    assert first["upper"] == pytest.approx(row @ fit.beta + half, rel=1e-12)
    p = 2.0 * stats.t.sf(abs(first["statistic"]), inference.df[0])
    assert first["p"] == pytest.approx(p, rel=1e-12)
    assert first["value"] == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_joint_test_of_one_hypothesis_is_its_t_test(fit, method):
    single = estimate_contrasts(fit, "x - w = 0.5", method=method).iloc[0]
    joint = judge_hypotheses(fit, "x - w = 0.5", method=method)
    assert joint.method == method
    assert joint.df == 1
    assert joint.statistic == pytest.approx(single["statistic"] ** 2, rel=1e-9)
    assert joint.ddf == pytest.approx(single["df"], rel=1e-9)
    assert joint.p == pytest.approx(single["p"], rel=1e-7)


def test_hlm_joint_test_takes_the_smallest_df():
    table = simulate_table(3, n_groups=20)
    fit = Model("y ~ x + w + t + (x | g)", table).reml()
    joint = judge_hypotheses(fit, ["t = 0", "w = 0"], method="hlm")
    chi2 = judge_hypotheses(fit, ["t = 0", "w = 0"])
    assert joint.statistic == pytest.approx(chi2.statistic / 2.0, rel=1e-12)
    assert joint.ddf == hlm_df(fit, np.eye(4)).min() == 18
    assert joint.p == pytest.approx(stats.f.sf(joint.statistic, 2, 18), rel=1e-12)


def test_wald_test_is_that_of_the_fit(fit):
    test = wald_test(fit.beta, fit.beta_cov, contrasts=np.eye(4)[1:])
    assert test.statistic == pytest.approx(fit.wald["chi2"], rel=1e-10)
    assert (test.df, test.p) == (3, pytest.approx(fit.wald["p"], rel=1e-9))


@pytest.mark.parametrize("method", METHODS)
def test_contradictions_are_refused_and_repetitions_are_not(fit, method):
    same = judge_hypotheses(fit, ["x = 1", "2*x = 2"], method=method)
    assert same.df == 1
    with pytest.raises(ArgumentError, match="hypotheses contradict each other"):
        judge_hypotheses(fit, ["x = 1", "2*x = 3"], method=method)


def test_unknown_methods_and_levels_are_refused(fit):
    with pytest.raises(ArgumentError, match="method='t' is not known; choose one of z, satter"):
        estimate_contrasts(fit, "x", method="t")
    with pytest.raises(ArgumentError, match="method='t' is not known"):
        judge_hypotheses(fit, "x", method="t")
    with pytest.raises(ArgumentError, match=r"level=95 is not between 0 and 1; write level=0\.95"):
        estimate_contrasts(fit, "x", level=95)


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        (np.eye(3), r"shape \(3, 3\) do not fit 4 fixed effects"),
        ([[1.0, np.nan, 0.0, 0.0]], "not finite"),
        ([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], "contrast 1 is zero"),
    ],
)
def test_contrasts_that_do_not_fit_are_refused(fit, contrasts, message):
    with pytest.raises(ArgumentError, match=message):
        infer_fixed(fit, contrasts)


@pytest.mark.parametrize("method", METHODS)
def test_fitted_values_far_from_a_covariates_zero_keep_their_digits(method):
    table = simulate_table(3, n_groups=20)
    shift = 1e8
    table["x"] = (table["x"] + shift) - shift  # what a double near the shift can hold
    near, far = (
        Model("y ~ x + w + (x | g)", data).reml()
        for data in (table, table.assign(x=table["x"] + shift))
    )
    texts = ["Intercept = 0"], ["Intercept + 1e8*x = 0"]
    one, two = (
        estimate_contrasts(fit, text, method=method)
        for fit, text in zip((near, far), texts, strict=True)
    )
    # Of 1e8 x the estimate keeps eight digits; the standard error does not depend on it.
    assert two["se"].item() == pytest.approx(one["se"].item(), rel=1e-6)
    assert two["df"].item() == pytest.approx(one["df"].item(), rel=1e-5)
    tests = [
        judge_hypotheses(fit, [*text, "w = 0"], method=method)
        for fit, text in zip((near, far), texts, strict=True)
    ]
    assert tests[1].df == tests[0].df == 2
    assert tests[1].statistic == pytest.approx(tests[0].statistic, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_estimates_that_correlate_are_no_repetitions(method):
    """Raw powers: what is tested is the same as with powers of the centred covariate."""
    table = simulate_table(3, n_groups=20)
    table["y"] += 0.1 * table["x"] ** 2
    texts = ["x = 0", "I(x ** 2) = 0", "I(x ** 3) = 0"]
    tests = []
    for centre in (0.0, 130.0):
        data = table.assign(x=table["x"] + centre)
        fit = Model("y ~ x + I(x ** 2) + I(x ** 3) + (1 | g)", data).reml()
        tests.append(judge_hypotheses(fit, texts, method=method))
    assert tests[1].df == 3
    # Given x and its square, the cube's own share of its variation is about 1e-11.
    assert tests[1].statistic == pytest.approx(tests[0].statistic, rel=1e-4)


def test_few_groups_are_no_ground_for_many_robust_hypotheses():
    fit = Model("y ~ x + w + t + (1 | g)", simulate_table(1, n_groups=3, largest=20)).reml()
    with pytest.raises(ArgumentError, match="rank to test 3 hypotheses at once, for want of gr"):
        judge_hypotheses(fit, ["x", "w", "t"], method="cr0")


@pytest.mark.parametrize("text", [1, None, ["x = 0", "w = 0"], b"x = 0"])
def test_a_hypothesis_is_text(fit, text):
    with pytest.raises(ArgumentError, match=r"a hypothesis is a text such as .*; write each in qu"):
        fit.test(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sector = 1e999", "'sector = 1e999' holds a number that is too large"),
        ("sector = " + "9" * 400, r"'sector = 9+\.\.\.' holds a number that is too large"),
        ("sector / 1e-320", "holds a number that is too large"),
        (
            "+".join(["sector"] * 4000),
            "it has 27,999 characters and 3,999 operators, and at most 10,000",
        ),
        (
            "+".join(["sector"] * 400),
            "2,799 characters and 399 operators, .* of a side, 200 are read",
        ),
    ],
)
def test_what_no_double_or_reader_holds_is_refused(text, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        read_hypotheses(text, NAMES)
    assert len(str(caught.value)) < 240


def test_names_that_differ_in_spaces_are_told_apart():
    names = ("f[n y]", "f[ny]", "w")
    read = read_hypotheses(["f[n y] = 0", "f[ny] = 0", "w : w = w"], (*names, "w:w"))
    assert read.contrasts.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 1]]


@pytest.mark.parametrize("level", ["0.95", None, float("nan")])
def test_a_level_is_a_number(fit, level):
    with pytest.raises(ArgumentError, match=r"level=.* is not between 0 and 1; write level=0\.95"):
        fit.fixed_effects(level=level)


def test_backquotes_around_a_name_that_needs_none_are_taken():
    names = ["Intercept", "`Intercept`", "x", "x:w"]
    read = read_hypotheses(["`x` - Intercept = 1", "`Intercept` = 0", "`x:w` = 0"], names)
    expected = [[-1.0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read.contrasts, expected)
