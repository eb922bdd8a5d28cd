"""Counts of 1e3 to 1e12: log-likelihoods of which doubles keep the digits, and those they lose."""

from decimal import Decimal, localcontext

import numpy as np
import pandas as pd
import pytest

from bhlm.fits.model import Model
from bhlm.likelihood.densities import (
    LOG,
    LOGIT,
    RELATIVE,
    add_plainly,
    contribute,
    depart,
    find_heights_exactly,
    find_peaks,
    find_share,
    refer,
)
from bhlm.likelihood.factorials import log_factorials, log_pairs, scale, sum_pairs
from bhlm.moments.patterns import Patterns

pytestmark = pytest.mark.wide

Array = np.ndarray
EPS = np.finfo(np.float64).eps
DIGITS = 60
# Of a sum of two doubles, 106 bits each; sums of some terms lose a few of them.
TWICE = Decimal("1e-28")


def sum_decimally(high: float, low: float) -> Decimal:
    return Decimal(float(high)) + Decimal(float(low))


def log_gamma(x: Decimal) -> Decimal:
    """log x! by Stirling's series, of x of 250 or more."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
    series = 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5) - 1 / (1680 * x**7)
    series += Decimal(1) / (1188 * x**9)
    return x * x.ln() - x + (2 * pi * x).ln() / 2 + series


def value_exactly(link: int, eta: Decimal, n: Decimal, y: Decimal) -> Decimal:
    e = eta.exp()
    if link == LOG:
        return y * eta - n * e
    if link == LOGIT:
        return y * eta - n * (1 + e).ln()
    return y * (1 - (-e).exp()).ln() - (n - y) * e


def test_logarithms_and_factorials_to_thirty_digits() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([10.0 ** rng.uniform(-10, 15, 60), [0.5, 1.0, 2.0, 3.0, 2.0**-0.5]])
    found = log_pairs(x)
    whole = np.floor(10.0 ** rng.uniform(2.5, 15, 40))
    factorials = log_factorials(whole)
    with localcontext() as context:
        context.prec = DIGITS
        for each, *parts in zip(x, *found, strict=True):
            exact = Decimal(float(each)).ln()
            assert abs(sum_decimally(*parts) - exact) <= TWICE * max(abs(exact), 1)
        for each, *parts in zip(whole, *factorials, strict=True):
            assert abs(sum_decimally(*parts) - log_gamma(Decimal(float(each)))) < Decimal("1e-14")


def test_sums_keep_what_cancels() -> None:
    """-log y! and y log y - y of counts up to 1e12 leave -log(2 pi y) / 2."""
    y = np.floor(10.0 ** np.random.default_rng(2).uniform(3, 12, 501))
    whole, rest = sum_pairs(
        scale(log_factorials(y), -1.0), find_heights_exactly(LOG, np.ones_like(y), y)
    )
    exact = -0.5 * np.log(2.0 * np.pi * y) - 1.0 / (12.0 * y) + 1.0 / (360.0 * y**3)
    assert whole + rest == pytest.approx(exact.sum(), abs=1e-11)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("name", ["log", "logit", "cloglog"])
def test_values_relative_to_the_peak_in_sixty_digits(name: str, size: float) -> None:
    """Digits are lost by the slope times the rounding of eta, not by the counts."""
    link = {"log": LOG, "logit": LOGIT, "cloglog": 2}[name]
    rng = np.random.default_rng(int(np.log10(size)))
    with localcontext() as context:
        context.prec = DIGITS
        for _ in range(40):
            n = float(np.floor(size))
            y = n if link == LOG else float(np.floor(n * rng.choice([0.01, 0.3, 0.5, 0.9])))
            n = float(rng.uniform(0.1, 50.0)) if link == LOG else n
            peak = float(find_peaks(link, np.array([n]), np.array([y]))[0])
            eta = peak + rng.choice([3.0 / np.sqrt(y), 0.3]) * rng.normal()
            value, slope, bend = contribute(link + RELATIVE, eta, n, y, peak)
            (high,), (low,) = find_heights_exactly(link, np.array([n]), np.array([y]))
            exact = value_exactly(link, *map(Decimal, (float(eta), n, y)))
            off = float(Decimal(value) - (exact - sum_decimally(high, low)))
            steep = np.hypot(slope, np.sqrt(bend))
            allowed = 2.0 * EPS * (abs(value) + (1.0 + abs(eta) + abs(peak)) * steep)
            assert abs(off) < allowed


@pytest.mark.parametrize("link", range(4))
@pytest.mark.parametrize("at", [-2.0, -0.1, 0.6])
def test_departures_are_differences(link: int, at: float) -> None:
    """Of small counts l(base + d) - l(base), with the same slopes, to both sides and far."""
    for n, y in ((30.0, 7.0), (30.0, 0.0), (1.0, 1.0), (400.0, 390.0)):
        for d in (-4.0, -0.6, -1e-3, 1e-6, 0.2, 0.9):
            found = depart(link, d, n, y, at, find_share(link, at, n))
            there, before = add_plainly(link, at + d, n, y), add_plainly(link, at, n, y)
            size = abs(there[0]) + abs(before[0])
            assert found[0] == pytest.approx(there[0] - before[0], abs=1e-13 * size)
            np.testing.assert_allclose(found[1:], there[1:], rtol=1e-9, atol=1e-9)


def test_small_counts_are_as_they_were() -> None:
    ones = np.ones(1000)
    assert not refer(LOGIT, ones, ones).is_relative
    assert not refer(LOG, ones, 40.0 * ones).is_relative
    assert refer(LOG, ones, 1e5 * ones).is_relative
    mixed = refer(LOG, ones, np.where(np.arange(1000) < 500, 0.0, 1e6))
    assert np.isnan(mixed.peak[:500]).all()
    assert np.isfinite(mixed.peak[500:]).all()


def make_table(size: float, *, over: float = 0.0, seed: int = 1, groups: int = 6) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(groups), 4), np.tile([0.0, 0.5, 1.0, 1.5], groups)
    e = np.round(rng.uniform(0.5, 2.0, len(g)), 2)
    eta = 0.3 * x + 0.4 * rng.normal(size=groups)[g] + over * rng.normal(size=len(g))
    y = rng.poisson(size * e * np.exp(eta))
    n = np.full(len(g), int(size))
    b = rng.binomial(n, 1.0 / (1.0 + np.exp(0.5 - eta)))
    sort = np.tile([0, 1], len(g) // 2)
    return pd.DataFrame({"g": g, "x": x, "e": e, "y": y, "n": n, "b": b, "c": 2 * g + sort})


def integrate_exactly(fit, table: pd.DataFrame) -> Decimal:
    """The log-likelihood at the estimates in sixty digits, by the trapezoidal rule."""
    beta = [Decimal(float(each)) for each in fit.beta]
    root, total = Decimal(float(fit.root[0, 0])), Decimal(0)
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
    for j, (_, rows) in enumerate(table.groupby("g")):
        columns = [[Decimal(float(v)) for v in rows[name]] for name in ("x", "e", "y")]
        eta = [beta[0] + beta[1] * x for x in columns[0]]

        def log_integrand(v: Decimal, eta=eta, columns=columns) -> Decimal:
            # The rows' constants are inside, so that the terms are small.
            terms = -v * v / 2
            for own, e, y in zip(eta, *columns[1:], strict=True):
                mean = e * (own + root * v).exp()
                terms += y * mean.ln() - mean - log_gamma(y)
            return terms

        mean, cov = fit.marginal.mean[j, 0], fit.marginal.cov[j, 0, 0]
        step = Decimal(float(np.sqrt(cov))) / 2
        nodes = [Decimal(float(mean)) + k * step for k in range(-24, 25)]
        logs = [log_integrand(v) for v in nodes]
        top = max(logs)
        total += top + (sum((each - top).exp() for each in logs) * step).ln() - (2 * pi).ln() / 2
    return total


@pytest.mark.parametrize(
    ("size", "over"),
    [
        (1e3, 0.0), (1e6, 0.0), (1e9, 0.0), (1e6, 0.1), (1e9, 0.1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1e5, 0.0), (1e8, 0.1))),
    ],
)  # fmt: skip
def test_log_likelihoods_of_counts_in_sixty_digits(size: float, over: float) -> None:
    """What is off is below the error that is told; without overdispersion 1e-8 is kept."""
    table = make_table(size, over=over)
    fit = Model("y ~ x + (1 | g)", table, family="poisson", exposure="e").ml()
    with localcontext() as context:
        context.prec = DIGITS
        off = float(Decimal(fit.loglik) - integrate_exactly(fit, table))
    assert fit.converged
    assert abs(off) <= fit.error
    assert fit.error < (1e-8 if size * over < 1e6 else 1e-13 * size)
    told = " ".join(fit.summary().split())
    assert ("more than the 1e-08 aimed at" in told) == (fit.error > 1e-8)


@pytest.mark.parametrize("size", [1e4, 1e7, 1e9])
@pytest.mark.parametrize(
    "formula", ["y ~ x + (1 | g)", "y ~ x + (1 | g) + (1 | c)", "y ~ x + (1 | g) + (1 | k)"]
)
def test_exposure_in_other_units_moves_the_intercept_alone(formula: str, size: float) -> None:
    """One factor, nested and crossed."""
    table = make_table(size, groups=8).assign(k=lambda t: (t["x"] * 2).astype(int))
    fits = [
        Model(formula, table.assign(e=table["e"] * units), family="poisson", exposure="e").ml()
        for units in (1.0, 1024.0)
    ]
    errors = [each.error or 1e-9 * size**0.5 for each in fits]
    assert all(each.converged for each in fits)
    assert fits[0].loglik == pytest.approx(fits[1].loglik, abs=sum(errors))
    moved = fits[0].beta - fits[1].beta
    assert moved[0] == pytest.approx(np.log(1024.0), abs=1e-5)
    assert moved[1] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("size", [1e5, 1e9])
def test_failures_in_the_place_of_successes(link: str, size: float) -> None:
    """A symmetric link tells the same of failures; trials of 1e9 keep digits."""
    table = make_table(size)
    fit = Model("b / n ~ x + (1 | g)", table, family="binomial", link=link).ml()
    assert fit.converged
    assert fit.error < (1e-8 if link == "logit" else 1e-7)  # that the rows are drawn by
    if link != "cloglog":
        turned = table.assign(b=table["n"] - table["b"])
        other = Model("b / n ~ x + (1 | g)", turned, family="binomial", link=link).ml()
        assert other.loglik == pytest.approx(fit.loglik, abs=fit.error + other.error)
        np.testing.assert_allclose(other.beta, -fit.beta, atol=1e-6)


def test_rows_of_one_pattern_and_of_many_tell_the_same() -> None:
    """The constant of patterns keeps what rows of 1e9 and their sum leave of it."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(5), 6)
    y = rng.poisson(1e9 * np.exp(0.2 * rng.normal(size=5))[g])
    table = pd.DataFrame({"g": g, "y": y, "x": rng.normal(size=30)})
    one = Model("y ~ 1 + (1 | g)", table, family="poisson")
    patterns = one.moments
    assert isinstance(patterns, Patterns)
    assert patterns.n_patterns == 5
    fit = one.ml()
    # Each group's rows are as good as normal about their mean, with the mean's variance.
    mean = np.array([table["y"][g == j].mean() for j in range(5)])
    rows = -0.5 * np.log(2.0 * np.pi * mean[g]) - (y - mean[g]) ** 2 / (2.0 * mean[g])
    effects = np.log(mean) - fit.beta[0]
    tau2 = fit.g[0, 0]
    about = -0.5 * effects**2 / tau2 - 0.5 * np.log(tau2) - 0.5 * np.log(6.0 * mean)
    assert fit.loglik == pytest.approx(rows.sum() + about.sum(), abs=1e-3)
    assert fit.error < 1e-8


@pytest.mark.parametrize("size", [1e2, 1e5, 1e7])
@pytest.mark.parametrize(
    "formula", ["y ~ 1 + (1 | g)", "y ~ 1 + (1 | g) + (1 | c)", "y ~ 1 + (1 | g) + (1 | k)"]
)
def test_effects_that_are_next_to_nothing_beside_the_counts_are_zero(
    formula: str, size: float
) -> None:
    """Equal counts everywhere, and units of zeros among them in which nothing varies either."""
    for with_zeros in (False, True):
        rng = np.random.default_rng(7)
        g, c = np.repeat(np.arange(6), 4), np.repeat(np.arange(12), 2)
        y = np.full(24, size)
        if with_zeros:
            y[g == 0] = 0.0
        else:
            y += rng.integers(-1, 2, 24)
        table = pd.DataFrame({"g": g, "c": c, "k": np.tile([0, 1, 2, 3], 6), "y": y})
        fit = Model(formula, table, family="poisson").ml()
        gs = [fit.g] if formula.count("|") == 1 else list(fit.gs)
        sds = [float(np.sqrt(each[0, 0])) for each in gs]
        assert fit.converged
        for sd in sds[1:] if with_zeros else sds:
            assert sd == 0.0
            assert fit.singular
