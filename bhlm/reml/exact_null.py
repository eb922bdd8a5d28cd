"""The exact null distribution of the likelihood ratio of one variance component.

In y = X beta + Z u + e, u ~ N(0, sigma^2 lam I_K), e ~ N(0, sigma^2 I_n), the (restricted)
likelihood ratio of lam = 0 has, at every sample size, the law of

    sup over lam >= 0 of  m log(1 + N(lam) / D(lam)) - sum_s log(1 + lam d_s)
    N(lam) = sum_s lam mu_s / (1 + lam mu_s) w_s^2
    D(lam) = sum_s w_s^2 / (1 + lam mu_s) + chi-square(n - p - K+),

w_s independent standard normal, mu_s the K+ positive eigenvalues of Z'P0 Z, P0 = I - X(X'X)^-1 X'.
REML: m = n - p and d_s = mu_s. ML with the same fixed effects under both hypotheses: m = n and d_s
= xi_s, the eigenvalues of Z'Z. Neither beta nor sigma enters: a simulation of this law is free of
nuisance parameters, and refits nothing.

With the random coefficients of J groups Z'Z is block diagonal; turned to its axes it is diag(a),
and Z'P0 Z = diag(a) - C C' with C (K, p) the rows of Z'X of an orthonormal X. Few groups are
diagonalised. For many the spectrum is counted: by inertia additivity (Haynsworth)

    #{mu_s < x} = #{a_s < x} + negative eigenvalues of I_p - C'(diag(a) - x)^-1 C,

a sum over groups per x, and eigenvalues within 2 % of each other are taken as one of that
multiplicity, whose w^2 add up to one chi-square.
Source: Crainiceanu & Ruppert (2004), JRSS-B 66, 165-185, theorem 1 and section 4; Scheipl, Greven &
Kuechenhoff (2008), Comput. Stat. Data Anal. 52, 3283-3299, for the algorithm.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.whitening import Whitened
from bhlm.reml.estimate import Estimate

Array = np.ndarray

# Up to here the mixture's 5 % point is off by more than a tenth, and refits are cheap.
FEW_GROUPS = 50
DRAWS = 20_000
DENSE = 400  # eigenvalues that are computed one by one; counting is cheaper above
WIDTH = 0.02  # of the bins in which many eigenvalues are counted, relative
BINS = 1000  # at most
EQUAL = 1e-7  # eigenvalues that differ by less, relative, are one: a balanced layout has few
ZERO = 1e-10  # an eigenvalue below this share of the largest is rounding
# The search for lam, in units of 1 / mean mu: beyond 1e6 an F statistic would have to be a million.
NEAREST, FURTHEST, STEPS = 1e-3, 1e6, 80
BLOCK = 2**22  # numbers in memory at a time


class Spectrum(NamedTuple):
    """What the null distribution depends on."""

    mu: Array  # (s,) distinct positive eigenvalues of Z'P0 Z
    times: Array  # (s,) how often each occurs
    xi: Array  # (t,) distinct positive eigenvalues of Z'Z
    xi_times: Array  # (t,)
    free: float  # n - p - sum of times, the dimensions that lie in neither X nor Z
    n: float
    p: int


@dataclass(frozen=True, slots=True)
class NullDraws:
    """Draws of a likelihood ratio under its null hypothesis."""

    chi2: Array  # (draws,) sorted, zeros included
    zero: float  # the share of exact zeros
    seed: int

    def p_value(self, chi2: float) -> float:
        """Return P(chi2* >= chi2), (1 + number) / (1 + draws); of a zero that is 1."""
        if chi2 <= 0.0:
            return 1.0
        above = len(self.chi2) - int(np.searchsorted(self.chi2, chi2, side="left"))
        return (1.0 + above) / (1.0 + len(self.chi2))

    def error(self, chi2: float) -> float:
        """Return the Monte Carlo error of `p_value`."""
        p = self.p_value(chi2)
        return float(np.sqrt(p * (1.0 - p) / len(self.chi2)))


def null_of_component(fit: Estimate, *, draws: int = DRAWS, seed: int = 0) -> NullDraws:
    """Return the exact null distribution of the test that the fit's one variance is zero.

    Raises:
        ArgumentError: a random part with more than one parameter, whose null distribution depends
            on parameters that are not known.
    """
    if len(fit.structure.labels) != 1:
        raise ArgumentError(
            f"the random part of '{fit.moments.formula}' has {len(fit.structure.labels)} "
            "parameters, so that no test of one of them has a null distribution free of the "
            "others; choose null='bootstrap'"
        )
    return simulate_null(
        find_spectrum(fit.white), restricted=fit.method == "reml", draws=draws, seed=seed
    )


def find_spectrum(white: Whitened, *, dense: int = DENSE) -> Spectrum:
    """Return the spectrum of a model whose random coefficients share one variance.

    `white` has the columns Z~ in which that variance multiplies the unit matrix. Up to `dense`
    eigenvalues are computed, more are counted.
    """
    q, p = white.q, white.p
    turned, vectors = np.linalg.eigh(white.blocks[:, :q, :q])
    a = np.maximum(turned, 0.0).ravel()
    c = np.einsum("jba,jbp->jap", vectors, white.blocks[:, :q, q : q + p]).reshape(-1, p)
    floor = ZERO * a.max()
    # X~ is orthonormal but for rounding; what is left of that would move zero eigenvalues.
    gram = white.blocks[:, q : q + p, q : q + p].sum(axis=0)
    c = np.linalg.solve(np.linalg.cholesky(gram), c.T).T
    if len(a) <= dense:
        values = np.linalg.eigvalsh(np.diag(a) - c @ c.T)
        mu, count = _merge_equal(values[values > floor])
        xi, xi_count = _merge_equal(a[a > floor])
    else:
        edges = _place_edges(a, floor)
        mu, count = _merge(edges, count_below(a, c, edges))
        xi, xi_count = _merge(edges, np.searchsorted(np.sort(a), edges).astype(float))
    return Spectrum(mu, count, xi, xi_count, max(white.n - p - count.sum(), 0.0), white.n, p)


def count_below(a: Array, c: Array, x: Array) -> Array:
    """Return the number of eigenvalues of diag(a) - c c' below each x: a (K,), c (K, p), x (s,)."""
    order = np.argsort(a)
    a, c = a[order], c[order]
    below = np.searchsorted(a, x, side="left").astype(float)
    eye = np.eye(c.shape[1])
    for at, value in enumerate(x):
        inner = eye - c.T @ (c / (a - value)[:, None])
        below[at] += int((np.linalg.eigvalsh(inner) < 0.0).sum())
    return below


def simulate_null(
    spectrum: Spectrum, *, restricted: bool, draws: int = DRAWS, seed: int = 0
) -> NullDraws:
    """Return draws of the likelihood ratio under the null hypothesis, the same for a seed.

    The supremum is taken over a grid of log lam and at the vertex of the parabola through the best
    point and its neighbours.
    """
    mu, xi = spectrum.mu, spectrum.xi
    rng = np.random.Generator(np.random.PCG64(seed))
    mean = float(spectrum.times @ mu / spectrum.times.sum())
    logs = np.log(np.geomspace(NEAREST, FURTHEST, STEPS) / mean)
    shrink = 1.0 / (1.0 + np.exp(logs)[:, None] * mu)  # (steps, s)
    dof = spectrum.n - spectrum.p if restricted else spectrum.n
    d, times = (mu, spectrum.times) if restricted else (xi, spectrum.xi_times)
    penalty = np.log1p(np.exp(logs)[:, None] * d) @ times
    out = np.empty(draws)
    size = max(1, BLOCK // max(len(mu), STEPS))
    for start in range(0, draws, size):
        many = min(size, draws - start)
        w2 = 2.0 * rng.standard_gamma(0.5 * spectrum.times, size=(many, len(mu)))
        rest = 2.0 * rng.standard_gamma(0.5 * spectrum.free, size=many)
        total = w2.sum(axis=1) + rest
        heights = dof * (np.log(total[:, None]) - np.log(w2 @ shrink.T + rest[:, None])) - penalty
        at = np.clip(heights.argmax(axis=1), 1, STEPS - 2)
        rows = np.arange(many)
        left, middle, right = (heights[rows, at + i] for i in (-1, 0, 1))
        bend = left - 2.0 * middle + right
        shift = np.where(bend < 0.0, 0.5 * (left - right) / np.where(bend < 0.0, bend, 1.0), 0.0)
        lam = np.exp(logs[at] + np.clip(shift, -1.0, 1.0) * (logs[1] - logs[0]))
        vertex = (
            dof * (np.log(total) - np.log((w2 / (1.0 + lam[:, None] * mu)).sum(axis=1) + rest))
            - np.log1p(lam[:, None] * d) @ times
        )
        out[start : start + many] = np.maximum(np.maximum(vertex, heights.max(axis=1)), 0.0)
    # A slope that falls from lam = 0 on rises again in fewer than one of some thousand draws; the
    # grid starts late enough not to take rounding for a maximum.
    out[out < 1e-10] = 0.0
    return NullDraws(np.sort(out), float((out == 0.0).mean()), seed)


def mass_at_zero(spectrum: Spectrum, *, restricted: bool) -> float:
    """Return the probability that the likelihood falls from lam = 0 on, by Imhof's integral.

    It does where sum_s c_s w_s^2 <= 0, with c_s = mu_s - mean over all m dimensions and, in the
    rest of them, -mean; mean = sum d_s / m. Source: Imhof (1961), Biometrika 48, 419-426, eq. 3.2.
    """
    mu, times = spectrum.mu, spectrum.times
    if restricted:
        mean = float(mu @ times) / (spectrum.n - spectrum.p)
    else:
        mean = float(spectrum.xi @ spectrum.xi_times) / spectrum.n
    weights = np.append(mu - mean, -mean) / mu.max()
    h = np.append(times, spectrum.free)

    def integrand(log_u: float) -> float:
        u = np.exp(log_u)
        angle = 0.5 * h @ np.arctan(weights * u)
        damping = 0.25 * h @ np.log1p((weights * u) ** 2)
        return float(np.sin(angle) * np.exp(-damping))

    from scipy import integrate  # slow to load, and few tests need it

    area, _ = integrate.quad(integrand, -35.0, 35.0, limit=2000, epsabs=1e-10)
    return float(0.5 - area / np.pi)


def _place_edges(a: Array, floor: float) -> Array:
    """Return the edges (s + 1,) of bins that hold every positive eigenvalue, none on an a."""
    low, high = max(floor, float(a[a > floor].min()) * 1e-3), float(a.max()) * 1.0001
    first = float(a[a > floor].min()) * 0.999
    many = int(np.clip(np.ceil(np.log(high / first) / WIDTH), 2, BINS))
    # At most p eigenvalues lie below the smallest a; those bins may be wide.
    edges = np.concatenate([np.geomspace(low, first, 60)[:-1], np.geomspace(first, high, many)])
    taken = np.isin(edges, a)
    return np.where(taken, edges * (1.0 + 1e-9), edges)


def _merge_equal(values: Array) -> tuple[Array, Array]:
    """Return the distinct values and how often each occurs, rounding aside."""
    values = np.sort(values)
    starts = np.append(True, np.diff(values) > EQUAL * values[1:])
    return values[starts], np.diff(np.append(np.flatnonzero(starts), len(values))).astype(float)


def _merge(edges: Array, below: Array) -> tuple[Array, Array]:
    """Return the bins' middles that hold eigenvalues, and how many."""
    count = np.diff(below)
    kept = count > 0
    return np.sqrt(edges[:-1] * edges[1:])[kept], count[kept]
