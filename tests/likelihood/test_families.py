"""What a pattern adds to the log-likelihood, against formulas of SciPy and differences."""

import numpy as np
import pytest
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.densities import contribute, normal_tail
from bhlm.likelihood.families import FAMILIES, find_family

pytestmark = pytest.mark.wide

ETA = np.array([-45.0, -12.0, -3.0, -0.7, 0.0, 0.4, 2.0, 5.5])
# Second differences with a step of 1e-3 are good to some 1e-6 of the size.
DIFFERENCES = 1e-5
EVERY = [(name, link) for name, family in FAMILIES.items() for link in family.links]


def log_density(link: str, eta: np.ndarray, n: float, y: float) -> np.ndarray:
    """The same log-likelihood by SciPy."""
    if link == "log":
        return y * eta - n * np.exp(eta)
    if link == "logit":
        return y * special.log_expit(eta) + (n - y) * special.log_expit(-eta)
    if link == "probit":
        return y * special.log_ndtr(eta) + (n - y) * special.log_ndtr(-eta)
    log_p = np.where(eta < -30.0, eta, np.log(-np.expm1(-np.exp(np.maximum(eta, -30.0)))))
    return y * log_p - (n - y) * np.exp(eta)


@pytest.mark.parametrize(("name", "link"), EVERY)
@pytest.mark.parametrize(("n", "y"), [(1.0, 0.0), (1.0, 1.0), (7.0, 3.0), (4.0, 4.0)])
def test_value_and_slopes(name: str, link: str, n: float, y: float) -> None:
    code = find_family(name, link).code
    found = np.array([contribute(code, eta, n, y, np.nan) for eta in ETA])
    np.testing.assert_allclose(found[:, 0], log_density(link, ETA, n, y), rtol=1e-12, atol=1e-14)
    step = 1e-3
    up, down = ([contribute(code, eta + by, n, y, np.nan) for eta in ETA] for by in (step, -step))
    slopes = [(a[0] - b[0]) / (2.0 * step) for a, b in zip(up, down, strict=True)]
    bends = [(b[1] - a[1]) / (2.0 * step) for a, b in zip(up, down, strict=True)]
    np.testing.assert_allclose(found[:, 1], slopes, rtol=DIFFERENCES, atol=DIFFERENCES)
    np.testing.assert_allclose(found[:, 2], bends, rtol=DIFFERENCES, atol=DIFFERENCES)
    assert (found[:, 2] >= 0.0).all()


def test_normal_tail_far_out() -> None:
    x = np.array([-300.0, -40.0, -25.1, -24.9, -8.0, 0.0, 3.0, 9.0, 38.0])
    found = np.array([normal_tail(each) for each in x])
    np.testing.assert_allclose(found[:, 0], special.log_ndtr(x), rtol=1e-13, atol=1e-300)
    ratio = np.exp(-0.5 * x**2 - 0.5 * np.log(2.0 * np.pi) - special.log_ndtr(x))
    np.testing.assert_allclose(found[1:, 1], ratio[1:], rtol=1e-10)


@pytest.mark.parametrize(("name", "link"), EVERY)
def test_mean_and_link(name: str, link: str) -> None:
    family = find_family(name, link)
    eta = np.array([-2.0, -0.3, 0.0, 1.1])
    np.testing.assert_allclose(family.apply_link(family.mean(eta)), eta, atol=1e-12)
    slopes = (family.mean(eta + 1e-5) - family.mean(eta - 1e-5)) / 2e-5
    np.testing.assert_allclose(family.slope(eta), slopes, rtol=1e-8)


@pytest.mark.parametrize(("name", "link"), [("bernouli", None), ("poisson", "logit"), ("", None)])
def test_unknown_names(name: str, link: str | None) -> None:
    with pytest.raises(ArgumentError, match="choose one of"):
        find_family(name, link)
