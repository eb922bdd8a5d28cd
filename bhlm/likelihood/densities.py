"""What a pattern of rows adds to the log-likelihood, and its slopes, as compiled functions.

A pattern holds n trials or exposure, and y successes or events. Given the linear predictor eta its
log-likelihood l(eta) is concave. That of large counts is a small difference of large numbers: of
y = 1e9 events y eta - n exp(eta) is about 2e10, of which a double keeps 4e-6. So where the counts
of some data are large, it is taken relative to the largest that it can be, at the `peak` where the
expected response is y. Differences l(base + d) - l(base) have forms that keep their digits: of the
log link y d - n exp(base) expm1(d). Source: Loader (2000), Fast and accurate computation of
binomial probabilities.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.factorials import SMALL, Pair, add, log_pairs, scale, sum_pairs

Array = np.ndarray

LOGIT, PROBIT, CLOGLOG, LOG = range(4)
RELATIVE = 4  # is added to a link's code where log-likelihoods are relative to their peaks
CODES = {"logit": LOGIT, "probit": PROBIT, "cloglog": CLOGLOG, "log": LOG}
ROOT2 = math.sqrt(2.0)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# Below this, Phi is computed from the ratio's asymptotic series: erfc has no digits left at -38.
FAR = -25.0
# Log-likelihoods at the peak above this in size are left out, where those of all such patterns
# together would cost more digits than this: of the log-likelihood, a tenth of what is promised.
WORTH, COST = 1e3, 1e-9
FEW = 4.0  # SDs: nodes beyond weigh little
# Gauss-Legendre nodes and weights on (0, 1): exp(-t) is integrated to all digits.
NODES = 0.5 + 0.5 * np.polynomial.legendre.leggauss(8)[0]
WEIGHTS = 0.5 * np.polynomial.legendre.leggauss(8)[1]


@kernel
def normal_tail(x: float) -> tuple[float, float]:
    """Return log Phi(x) and the inverse Mills ratio phi(x) / Phi(x)."""
    if x > FAR:
        tail = 0.5 * math.erfc(-x / ROOT2)
        value = math.log1p(-0.5 * math.erfc(x / ROOT2)) if x > 0.0 else math.log(tail)
        return value, math.exp(-0.5 * x * x - HALF_LOG_2PI) / tail
    # Phi(x) = phi(x) / |x| (1 - 1/x^2 + 3/x^4 - ...); Abramowitz & Stegun (1964), 26.2.12.
    s = 1.0 / (x * x)
    series = 1.0 - s * (1.0 - 3.0 * s * (1.0 - 5.0 * s * (1.0 - 7.0 * s * (1.0 - 9.0 * s))))
    return -0.5 * x * x - HALF_LOG_2PI + math.log(series / -x), -x / series


@kernel
def add_plainly(link: int, eta: float, n: float, y: float) -> tuple[float, float, float]:
    """Return what `contribute` does, not relative to the peak."""
    if link == LOGIT:
        e = math.exp(-abs(eta))
        if eta >= 0.0:
            value, mu = y * eta - n * (eta + math.log1p(e)), 1.0 / (1.0 + e)
        else:
            value, mu = y * eta - n * math.log1p(e), e / (1.0 + e)
        return value, y - n * mu, n * e / ((1.0 + e) * (1.0 + e))
    if link == LOG:
        mu = n * math.exp(eta)
        return y * eta - mu, y - mu, mu
    value = slope = bend = 0.0
    if link == PROBIT:
        if y > 0.0:
            log_p, ratio = normal_tail(eta)
            value += y * log_p
            slope += y * ratio
            bend += y * ratio * (ratio + eta)
        if y < n:
            log_p, ratio = normal_tail(-eta)
            value += (n - y) * log_p
            slope -= (n - y) * ratio
            bend += (n - y) * ratio * (ratio - eta)
        return value, slope, bend
    e = math.exp(eta)
    if y > 0.0:
        # mu = 1 - exp(-e); d log mu / d eta = e / expm1(e) = ratio.
        missed = -math.expm1(-e)
        ratio = e / math.expm1(e) if e < 700.0 else 0.0
        if e < 1e-9:
            value += y * (eta - 0.5 * e)
            bend += y * 0.5 * e
            ratio = 1.0 - 0.5 * e
        else:
            value += y * math.log(missed)
            bend += y * ratio * (e / missed - 1.0)
        slope += y * ratio
    if y < n:
        value -= (n - y) * e
        slope -= (n - y) * e
        bend += (n - y) * e
    return value, slope, bend


@kernel
def find_share(link: int, eta: float, n: float) -> float:
    """Return what `depart` needs of a linear predictor that it departs from.

    Of the log link that is n exp(eta), of cloglog exp(eta), else the probability of the rarer
    outcome, Phi(-|eta|) or that of the logistic distribution.
    """
    if link == LOGIT:
        e = math.exp(-abs(eta))
        return e / (1.0 + e)
    if link == PROBIT:
        return 0.5 * math.erfc(abs(eta) / ROOT2)
    return n * math.exp(eta) if link == LOG else math.exp(eta)


@kernel
def depart(
    link: int, d: float, n: float, y: float, base: float, share: float
) -> tuple[float, float, float]:
    """Return l(base + d) - l(base) of a pattern, its slope and minus its second derivative.

    Nothing cancels but what does in y d and n d times the slope of the mean, so that digits are
    lost by d times the counts, not by the counts. `share` is what `find_share` says of the base.
    """
    if link == LOG:
        grown = math.expm1(d)
        return y * d - share * grown, y - share - share * grown, share * (1.0 + grown)
    eta = base + d
    top, slope, bend = add_plainly(link, eta, n, y)
    if link == CLOGLOG:
        more, p, rest = share * math.expm1(d), -math.expm1(-share), math.exp(-share)
        excess = -rest / p * math.expm1(-more)  # mu / p - 1
        if excess > -0.5:
            value = y * math.log1p(excess) - (n - y) * more
        else:
            before, _, _ = add_plainly(link, base, n, y)
            return top - before, slope, bend
        if excess < 0.5:
            slope = (y - n * p - n * p * excess) * (share + more) / (p * (1.0 + excess))
        return value, slope, bend
    # In terms of the outcome that is the rarer at the base.
    is_turned = base > 0.0
    if is_turned:
        base, d, y, slope = -base, -d, n - y, -slope
    p = share
    if link == LOGIT:
        grown = math.expm1(d)
        fade = 1.0 / (1.0 + p * grown)
        value = y * d - n * math.log1p(p * grown)
        slope = y - n * p - n * p * (1.0 - p) * grown * fade
    else:
        more = p
        if abs(d) * max(1.0, abs(base)) < 1.0:
            # Phi(base + d) - p, the integral of the density from the base on.
            more = 0.0
            for k in range(len(NODES)):
                t = NODES[k] * d
                more += WEIGHTS[k] * math.exp(-t * (base + 0.5 * t))
            more *= d * math.exp(-0.5 * base * base - HALF_LOG_2PI)
        if abs(more) < 0.5 * p:
            mu, missed = p + more, 1.0 - p - more
            value = y * math.log1p(more / p) + (n - y) * math.log1p(-more / (1.0 - p))
            density = math.exp(-0.5 * eta * eta - HALF_LOG_2PI)
            slope = (y - n * p - n * more) * density / (mu * missed)
        else:
            value = top
            if y > 0.0:
                value -= y * math.log(p)
            if y < n:
                value -= (n - y) * math.log1p(-p)
    return value, -slope if is_turned else slope, bend


@kernel
def contribute(
    link: int, eta: float, n: float, y: float, peak: float
) -> tuple[float, float, float]:
    """Return the log-likelihood of a pattern at eta, its slope and minus its second derivative.

    Without what does not depend on eta. Of links with `RELATIVE` it is that less the one at the
    peak, but where the peak is nan, as of patterns that are small.
    """
    if link >= RELATIVE:
        if not math.isnan(peak):
            own = link - RELATIVE
            return depart(own, eta - peak, n, y, peak, find_share(own, peak, n))
        return add_plainly(link - RELATIVE, eta, n, y)
    return add_plainly(link, eta, n, y)


@kernel
def sum_patterns(
    link: int, eta: Array, n: Array, y: Array, peak: Array, slope: Array, bend: Array
) -> float:
    """Return the log-likelihood of patterns (I,) at eta (I,), and write its derivatives.

    `link` and `peak` (I,) are those of a `Reference`.
    """
    total = 0.0
    for i in range(len(eta)):
        value, slope[i], bend[i] = contribute(link, eta[i], n[i], y[i], peak[i])
        total += value
    return total


class Reference(NamedTuple):
    """What the log-likelihoods of some patterns are relative to."""

    link: int  # as the kernels know it, with `RELATIVE` if any has a peak
    peak: Array  # (I,) eta where the expected response is y; nan of those that are not relative
    heights: Array  # (I,) the log-likelihoods there, zero of those that are not relative
    total: tuple[float, float]  # their sum, and what the double leaves of it

    @property
    def is_relative(self) -> bool:
        """Whether any has a peak."""
        return self.link >= RELATIVE

    def join(self, constant: tuple[float, float]) -> float:
        """Return the heights and another such constant as one number, of which nothing cancels."""
        return math.fsum([*self.total, *constant])


def refer(link: int, n: Array, y: Array) -> Reference:
    """Return what the log-likelihoods of patterns are best taken relative to.

    Args:
        link: its code.
        n: trials or exposure (I,).
        y: successes or events (I,).
    """
    peak, heights = np.full(len(n), np.nan), np.zeros(len(n))
    nothing = Reference(link, peak, heights, (0.0, 0.0))
    large = y >= SMALL if link == LOG else (y > 0.0) & (y < n) & (n >= SMALL)
    large &= n > 0.0
    if not large.any():
        return nothing
    at = np.flatnonzero(large)
    size = np.abs(find_heights(link, n[at], y[at]))
    at = at[size > WORTH]
    if not np.finfo(np.float64).eps * size[size > WORTH].sum() > COST:
        return nothing
    peak[at] = find_peaks(link, n[at], y[at])
    own = find_heights_exactly(link, n[at], y[at])
    heights[at] = own.high
    return Reference(link + RELATIVE, peak, heights, sum_pairs(own))


def find_peaks(link: int, n: Array, y: Array) -> Array:
    """Return eta (I,) where the expected response is y, 0 < y, and y < n of trials."""
    from scipy import special

    if link == LOG:
        return np.asarray(np.log(y / n))
    if link == LOGIT:
        return np.asarray(np.log(y / (n - y)))
    if link == CLOGLOG:
        small = np.log1p(-np.minimum(y / n, 0.5))
        return np.asarray(np.log(-np.where(2.0 * y > n, np.log((n - y) / n), small)))
    low = special.ndtri(np.minimum(y, n - y) / n)
    return np.asarray(np.where(2.0 * y > n, -low, low))


def find_heights(link: int, n: Array, y: Array) -> Array:
    """Return log-likelihoods (I,) at the peaks, as well as doubles can."""
    if link == LOG:
        return np.asarray(y * (np.log(y / n) - 1.0))
    return np.asarray(y * np.log(y / n) + (n - y) * np.log((n - y) / n))


def find_heights_exactly(link: int, n: Array, y: Array) -> Pair:
    """Return log-likelihoods (I,) at the peaks, to twice the digits."""
    head = scale(log_pairs(y), y)
    if link == LOG:
        tail = scale(log_pairs(n), -y)
        return add(add(head, tail), Pair(-y, np.zeros_like(y)))
    other = scale(log_pairs(n - y), n - y)
    return add(add(head, other), scale(log_pairs(n), -n))


def measure_rounding(
    reference: Reference, eta: Array, n: Array, y: Array, starts: Array, *, between: bool = False
) -> Array:
    """Return what rounding costs the log-likelihood of each group (J,) at most, but for chance.

    Of M patterns it is eps / 2 sqrt(M) times the sum of the sizes of what is added and cancels: of
    those relative to a peak the value and eta times the slope, else y eta and n times what belongs
    to it too. Slopes are those at a posterior SD from eta of the pattern alone.

    Args:
        reference: of the patterns.
        eta: linear predictors (I,), at the mode of the random effects.
        n: trials or exposure (I,).
        y: successes or events (I,).
        starts: (J + 1,) where each group's patterns begin.
        between: what it costs differences between nodes, which depart from the mode.
    """
    size = np.empty(len(eta))
    between &= reference.is_relative
    _measure_sizes(reference.link, eta, n, y, reference.peak, between, size)
    sums = np.add.reduceat(size, starts[:-1])
    return np.asarray(0.5 * np.finfo(np.float64).eps * np.sqrt(np.diff(starts)) * sums)


@kernel
def _measure_sizes(
    link: int, eta: Array, n: Array, y: Array, peak: Array, between: bool, size: Array
) -> None:
    """Write the sizes (I,) of which `measure_rounding` tells."""
    for i in range(len(eta)):
        value, slope, bend = contribute(link, eta[i], n[i], y[i], peak[i])
        if between:
            # What is lost of y d and of n times the change of the mean, some SDs d away.
            own = math.sqrt(bend)
            size[i] = FEW * (own + abs(slope) / max(own, 1.0))
            continue
        steep = math.sqrt(slope * slope + bend)
        size[i] = abs(value) + (1.0 + abs(eta[i])) * steep
        if link >= RELATIVE and not math.isnan(peak[i]):
            size[i] += abs(peak[i]) * steep
        else:
            size[i] += y[i] * abs(eta[i])
