"""Logarithms of numbers and of factorials to twice the digits of doubles, as sums of two doubles.

Of a count of 1e9 the logarithm of its factorial is 2e10, of which a double keeps 4e-6; what a
family adds to its largest likelihood is some 10. Both parts are kept, so that their sums keep what
cancels. Source: Dekker (1971), Numerische Mathematik 18, 224-242, for sums and products; Loader
(2000), Fast and accurate computation of binomial probabilities, for the remainder of Stirling's
formula.
"""

import math
from typing import NamedTuple

import numpy as np

Array = np.ndarray

SPLITTER = 2.0**27 + 1.0
# log 2, and what the double leaves of it.
LOG2 = (0.6931471805599453, 2.3190468138462996e-17)
HALF_LOG_2PI = (0.9189385332046728, -3.8782941580672414e-17)
EXACT_TERMS, TERMS = 7, 18  # of the series of atanh, in pairs of doubles and in all
SMALL = 256.0  # log-factorials below are known to 1e-12 as they are


class Pair(NamedTuple):
    """Numbers (n,) as unevaluated sums of two doubles."""

    high: Array
    low: Array


def add(a: Pair, b: Pair) -> Pair:
    """Return a + b."""
    high = a.high + b.high
    part = high - a.high
    low = (a.high - (high - part)) + (b.high - part) + (a.low + b.low)
    total = high + low
    return Pair(total, low - (total - high))


def multiply(a: Pair, b: Pair) -> Pair:
    """Return a b."""
    high = a.high * b.high
    x, y = SPLITTER * a.high, SPLITTER * b.high
    x1, y1 = x - (x - a.high), y - (y - b.high)
    x2, y2 = a.high - x1, b.high - y1
    low = ((x1 * y1 - high) + x1 * y2 + x2 * y1) + x2 * y2
    low = low + (a.high * b.low + a.low * b.high)
    total = high + low
    return Pair(total, low - (total - high))


def scale(a: Pair, factor: Array | float) -> Pair:
    """Return a times doubles."""
    return multiply(a, Pair(np.asarray(factor, dtype=np.float64), np.asarray(0.0)))


def divide(a: Pair, b: Pair) -> Pair:
    """Return a / b."""
    first = Pair(a.high / b.high, np.zeros_like(a.high))
    left = add(a, scale(multiply(first, b), -1.0))
    return add(first, Pair(left.high / b.high, np.zeros_like(a.high)))


def log_pairs(x: Array) -> Pair:
    """Return log x (n,) of positive doubles, to some 30 digits.

    x = 2^k m with m in [sqrt(1/2), sqrt(2)), and log m = 2 atanh s, s = (m - 1) / (m + 1).
    """
    m, k = np.frexp(np.asarray(x, dtype=np.float64))
    low = m < math.sqrt(0.5)
    m, k = np.where(low, 2.0 * m, m), np.where(low, k - 1, k).astype(np.float64)
    zero = np.zeros_like(m)
    s = divide(Pair(m - 1.0, zero), add(Pair(m, zero), Pair(np.ones_like(m), zero)))
    square = multiply(s, s)
    tail = zero
    for j in range(TERMS - 1, EXACT_TERMS - 1, -1):
        tail = tail * square.high + 1.0 / (2 * j + 1)
    series = Pair(tail, zero)
    for j in range(EXACT_TERMS - 1, -1, -1):
        odd = Pair(np.full_like(m, 2.0 * j + 1.0), zero)
        series = add(multiply(series, square), divide(Pair(np.ones_like(m), zero), odd))
    own = scale(multiply(s, series), 2.0)
    return add(multiply(Pair(k, zero), Pair(np.asarray(LOG2[0]), np.asarray(LOG2[1]))), own)


def log_factorials(x: Array) -> Pair:
    """Return log x! (n,) of whole numbers."""
    from scipy import special

    x = np.asarray(x, dtype=np.float64)
    found = special.gammaln(x + 1.0)
    rest = np.zeros_like(found)
    large = x >= SMALL
    if not large.any():
        return Pair(found, rest)
    # log x! = x log x - x + log(2 pi x) / 2 + 1/(12 x) - 1/(360 x^3) + 1/(1260 x^5) - ...
    own, back = np.unique(x[large], return_inverse=True)
    log = log_pairs(own)
    zero = np.zeros_like(own)
    inverse = 1.0 / own
    square = inverse * inverse
    stirling = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0)))
    parts = add(scale(log, own), Pair(-own, zero))
    parts = add(parts, scale(log, 0.5))
    parts = add(parts, Pair(np.asarray(HALF_LOG_2PI[0]), np.asarray(HALF_LOG_2PI[1])))
    parts = add(parts, Pair(stirling, zero))
    found[large], rest[large] = parts.high[back], parts.low[back]
    return Pair(found, rest)


def sum_pairs(*pairs: Pair) -> tuple[float, float]:
    """Return the sum of all numbers of some pairs, and what the double leaves of it."""
    high = np.concatenate([np.ravel(pair.high) for pair in pairs])
    low = np.concatenate([np.ravel(np.broadcast_to(p.low, np.shape(p.high))) for p in pairs])
    left = Pair(high, low)
    while len(left.high) > 1:
        half = len(left.high) // 2
        summed = add(
            *(Pair(left.high[at], left.low[at]) for at in (slice(half), slice(half, 2 * half)))
        )
        left = Pair(
            *(np.append(own, old[2 * half :]) for own, old in zip(summed, left, strict=True))
        )
    return (float(left.high[0]), float(left.low[0])) if len(left.high) else (0.0, 0.0)
