"""Probabilities, hypotheses and regions of practical equivalence, against known posteriors."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from simulate import simulate_table

from bhlm.bayes.hypotheses import compare_rope, find_probability, weigh_hypothesis
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model

SHAPE = (4, 2500)
# 10^4 independent draws: four standard errors of a share, and of a mean in units of the SD.
SHARE = 4 * 0.5 / np.sqrt(10_000)
MEAN = 4 / np.sqrt(10_000)
# The narrowest interval that holds 95 % of 10^4 normal draws wanders by about this, in SDs.
HDI = 0.15


def make_fit(**draws):
    """Return what stands for a fit with those draws."""
    return SimpleNamespace(draws=draws, structure=SimpleNamespace(parts=()))


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(3)
    return make_fit(a=rng.normal(1.0, 2.0, SHAPE), b=rng.normal(0.0, 1.0, SHAPE))


@pytest.fixture(scope="module")
def post():
    return Model("y ~ x + (x | g)", simulate_table(3, n_groups=12)).sample(seed=1, draws=500)


def test_probabilities_of_normal_draws(normal):
    assert float(find_probability(normal, "a > 2")) == pytest.approx(stats.norm.sf(0.5), abs=SHARE)
    assert float(find_probability(normal, "a - b > 0")) == pytest.approx(
        stats.norm.cdf(1 / np.sqrt(5)), abs=SHARE
    )
    both = find_probability(normal, "a > 2 and b < 0")
    assert float(both) == pytest.approx(0.5 * stats.norm.sf(0.5), abs=SHARE)


def test_monte_carlo_error_of_independent_and_of_dependent_draws(normal):
    found = find_probability(normal, "a > 2")
    independent = np.sqrt(found.value * (1 - found.value) / found.draws)
    assert found.mcse == pytest.approx(independent, rel=0.1)
    # Every draw ten times: as many as a tenth are worth something.
    repeated = make_fit(a=np.repeat(normal.draws["a"][:, :250], 10, axis=1))
    found = find_probability(repeated, "a > 2")
    effective = np.sqrt(found.value * (1 - found.value) / (found.draws / 10))
    assert found.mcse == pytest.approx(effective, rel=0.3)


def test_a_share_of_none_or_all_is_printed_as_a_bound(normal):
    found = find_probability(normal, "a > 99")
    assert (found.value, found.mcse) == (0.0, 1e-4)
    assert repr(found) == "P(a > 99) < 1/10000 (true in none of 10000 draws)"
    assert f"{found}" == repr(found)
    assert f"{found:.2f}" == "0.00"
    found = find_probability(normal, "a < 99")
    assert repr(found) == "P(a < 99) > 1 - 1/10000 (true in all of 10000 draws)"
    above = np.sort(normal.draws["a"].ravel())[-2:].mean()
    for text in (f"a > {above:.17g}", f"a <= {above:.17g}"):
        shown = repr(find_probability(normal, text))
        assert ") = 0.00010 (MCSE" in shown or ") = 0.99990 (MCSE" in shown


def test_probability_of_a_fit_is_the_share_of_its_draws(post):
    draws = post.draws
    found = post.probability("x > 1.5 and sd(Intercept|g) > 1")
    expected = np.mean((draws["x"] > 1.5) & (draws["sd(Intercept|g)"] > 1))
    assert 0.1 < expected < 0.9
    assert float(found) == expected
    assert found.draws == 2000
    swapped = post.probability("corr(x,Intercept|g) > 0")
    assert float(swapped) == np.mean(draws["corr(Intercept,x|g)"] > 0)
    assert swapped.text == "corr(Intercept,x|g) > 0"
    with pytest.raises(ArgumentError, match=r"did you mean 'sd\(x\|g\)'"):
        post.probability("sd(xx|g) > 2")


def test_hypothesis_is_the_posterior_of_the_difference(normal, post):
    found = weigh_hypothesis(normal, "a - 1 > b", level=0.9)
    sd = np.sqrt(5.0)
    assert found.mean == pytest.approx(0.0, abs=MEAN * sd)
    assert found.sd == pytest.approx(sd, rel=MEAN)
    assert found.upper == pytest.approx(stats.norm.ppf(0.95) * sd, rel=0.05)
    assert found.lower == pytest.approx(np.quantile(found.draws, 0.05))
    p = found.probability.value
    assert found.evidence_ratio == p / (1 - p)
    assert "a - 1 > b" in repr(found)
    assert "90 % interval" in repr(found)
    certain = post.hypothesis("sd(Residual) > 0")
    assert certain.evidence_ratio == np.inf
    assert "evidence ratio above 1999" in repr(certain)
    assert "evidence ratio below 1/1999" in repr(post.hypothesis("sd(Residual) < 0"))


def test_hypothesis_takes_one_comparison(normal):
    with pytest.raises(ArgumentError, match=r"'a > 1 and b > 1' is more than one comparison"):
        weigh_hypothesis(normal, "a > 1 and b > 1")
    with pytest.raises(ArgumentError, match="level=95 is not between 0 and 1"):
        weigh_hypothesis(normal, "a > 1", level=95)


def test_rope_of_normal_draws(normal):
    found = compare_rope(normal, "a", 0.0, 2.0)
    inside = stats.norm.cdf(0.5) - stats.norm.cdf(-0.5)
    assert float(found.share) == pytest.approx(inside, abs=SHARE)
    assert found.share_of_hdi == pytest.approx(inside / 0.95, abs=SHARE)
    assert found.hdi == pytest.approx((1 - 2 * 1.96, 1 + 2 * 1.96), abs=2 * HDI)
    assert "of the 95 % HDI" in repr(found)
    narrow = compare_rope(normal, "a", 0.0, 2.0, level=0.5)
    half = 2.0 * stats.norm.ppf(0.75)
    assert narrow.hdi == pytest.approx((1 - half, 1 + half), abs=4 * HDI)


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (-6.0, 8.0, "accept"),
        (-np.inf, 8.0, "accept"),
        (6.0, 9.0, "reject"),
        (-9.0, -4.0, "reject"),
        (0.0, 2.0, "undecided"),
        (4.0, 9.0, "undecided"),
    ],
)
def test_decisions_follow_from_the_interval(normal, low, high, decision):
    found = compare_rope(normal, "a", low, high)
    assert found.decision == decision
    assert f"\n  {decision}: " in repr(found)


def test_hdi_of_a_skewed_posterior_is_the_narrowest():
    draws = np.random.default_rng(1).exponential(size=SHAPE)
    found = compare_rope(make_fit(a=draws), "a", 0.0, 1.0)
    assert found.hdi[0] < 0.01
    assert found.hdi[1] == pytest.approx(-np.log(0.05), rel=0.05)


def test_what_is_no_region_is_refused(normal, post):
    for low, high in ((1.0, 1.0), (2.0, 1.0), (np.nan, 1.0)):
        with pytest.raises(ArgumentError, match=f"low={low!r} is not below high={high!r}; give"):
            compare_rope(normal, "a", low, high)
    with pytest.raises(ArgumentError, match="low='0' is not a number"):
        compare_rope(normal, "a", "0", 1.0)
    with pytest.raises(ArgumentError, match="level=0 is not between"):
        compare_rope(normal, "a", 0.0, 1.0, level=0)
    with pytest.raises(ArgumentError, match="'x > 1' is a comparison, not a quantity"):
        post.rope("x > 1", 0.0, 1.0)
    with pytest.raises(ArgumentError, match=r"^'xx' cannot be read; did you mean 'x'"):
        post.rope("xx", 0.0, 1.0)


@pytest.mark.parametrize("number", ["1" * 400, "1e999", "-1e999"])
def test_a_number_that_no_double_holds_is_refused(normal, number):
    with pytest.raises(ArgumentError, match="holds a number that is too large; write a smaller"):
        find_probability(normal, f"a > {number}")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("not " * 1000 + "a > 0", "4,005 characters and 1,000 operators"),
        ("a*" * 1000 + "a > 0", "2,005 characters and 1,000 operators"),
        ("(" * 300 + "a" + ")" * 300 + " > 0", "605 characters and 300 operators"),
        (" and ".join(["a > 0"] * 2000), "19,995 characters"),
    ],
)
def test_texts_too_long_or_deep_to_read_are_refused(normal, text, count):
    with pytest.raises(ArgumentError, match=r"at most 10,000 and, of a side, 200") as caught:
        find_probability(normal, text)
    assert count in str(caught.value)
    assert len(str(caught.value)) < 400
