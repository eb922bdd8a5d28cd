"""The posterior summed over one grid, with the fixed effects integrated out exactly.

The grid stands in t (the SDs of the random coefficients relative to sigma), their correlation r
and log sigma. What needs the groups, E = [X y]'H^-1 [X y] and log|H|, depends on (t, r) alone.
E is diagonalised together with M, the precision of the fixed effects' normal priors, whose mean
is b,

    V' E_XX V = I,   V' M V = diag(w),   z = V' E_Xy,   a = V^-1 b,

after which the integral over the fixed effects is a sum over p terms at any sigma:

    precision  (1 + w sigma^2) / sigma^2        mean  (z + w a sigma^2) / (1 + w sigma^2)
    quadratic  rss / sigma^2 + sum w (z - a)^2 / (1 + w sigma^2)

Source: Lindley & Smith (1972), JRSS B 34, 1-41, for the integral; Trefethen & Weideman (2014),
SIAM Review 56, 385-458, for the exponential convergence of the trapezoidal rule.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np

from bhlm.bayes.density import Density
from bhlm.bayes.priors.families import LOG_2PI, Normal, log_prior
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.quadrature.groups import decompose_groups, sum_effects
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray
ABSENT = 9  # the degree in sigma of a parameter that the model does not have
# Below this log density a node is passed over. Far out in a heavy tail the fourth power of an SD
# makes up for a mass of exp(-300), so that only what underflows is negligible.
NEGLIGIBLE = -700.0


@dataclass(frozen=True, slots=True)
class Integrand:
    """What the kernels read: data, the normal priors of the fixed effects, the other priors."""

    d: Array  # (J, 2) inverse eigenvalues of Z'Z; 1 where there is none
    turn: Array  # (J, 2, 2) Q'B^-1, so that m = turn diag(t) root; 0 where there is none
    fitted: Array  # (J, 2, p + 1) b; 0 where there is none
    within: Array  # (p + 1, p + 1) W
    unit: Array  # (q,) the scale of each t in which its column has a mean square of one
    precision: Array  # (p, p) M, of the fixed effects' priors, in whitened coordinates
    middle: Array  # (p,) b, the priors' mean; any value where they are flat
    codes: Array  # (q + 1,) int64, prior families of the SDs and of sigma
    numbers: Array  # (q + 1, 3) their numbers
    dof: float  # n - p
    scale: float  # s of the whitening
    constant: float  # what does not depend on the grid
    back: Array  # (p, p) s A, so that beta = ols + back beta~
    given: Array  # (2, 2) C^-1: t and r are of the priors' frame, and C^-1 leads to the columns

    def arguments(self) -> tuple[object, ...]:
        """Return the fields in the order in which the kernels take them."""
        return (
            self.d, self.turn, self.fitted, self.within, self.precision, self.middle, self.codes,
            self.numbers, self.dof, self.scale, self.constant,
        )  # fmt: skip


def build_integrand(density: Density, white: Whitened, frame: Frame) -> Integrand:
    """Return the integrand of a posterior whose fixed effects have flat or normal priors."""
    p = white.p
    normal = density.codes[:p] == Normal.code
    mu, sd = np.zeros(p), np.ones(p)
    if normal.any():
        mu[normal], sd[normal] = density.numbers[:p][normal, :2].T
    weight = np.where(normal, 1.0 / np.where(normal, sd, 1.0) ** 2, 0.0)
    gap = np.where(normal, mu - density.offset, 0.0)
    dof = white.n - p
    constant = -0.5 * dof * LOG_2PI
    constant -= float(np.sum(0.5 * LOG_2PI + np.log(sd[normal])))
    constant += white.logdet_fixed - dof * math.log(white.scale)
    d, vectors, fitted, within, logdet = decompose_groups(white.blocks, white.q)
    given = np.eye(2)
    given[: white.q, : white.q] = np.linalg.inv(frame.random)
    inverse_basis = np.zeros((2, 2))
    inverse_basis[: white.q, : white.q] = density.inverse_basis
    return Integrand(
        d=d,
        turn=np.ascontiguousarray(np.swapaxes(vectors, 1, 2) @ inverse_basis),
        fitted=fitted,
        within=within,
        unit=1.0 / np.linalg.norm(density.inverse_basis, axis=0),
        precision=np.ascontiguousarray(density.slope.T * weight @ density.slope),
        middle=np.linalg.solve(density.slope, gap),
        codes=np.ascontiguousarray(density.codes[p:]),
        numbers=np.ascontiguousarray(density.numbers[p:]),
        dof=dof,
        scale=white.scale,
        constant=constant - 0.5 * logdet,
        back=np.ascontiguousarray(white.scale * white.fixed),
        given=given,
    )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def split_fixed(
    e: Array, precision: Array, prior: Array
) -> tuple[float, float, Array, Array, Array, Array]:
    """Return log|E_XX|, rss, w (p,), z (p,), a (p,) and V (p, p) of the module's text."""
    p = len(prior)
    root = np.zeros((p, p))
    inverse = np.zeros((p, p))
    logdet = 0.0
    for a in range(p):
        for b in range(a + 1):
            entry = e[a, b]
            for i in range(b):
                entry -= root[a, i] * root[b, i]
            if a == b:
                # What rounding leaves of a pivot far out in the tails must not turn negative.
                entry = max(entry, 1e-16 * e[a, a])
                root[a, a] = math.sqrt(entry)
                logdet += math.log(entry)
            else:
                root[a, b] = entry / root[b, b]
    for c in range(p):
        for a in range(c, p):
            entry = 1.0 if a == c else 0.0
            for i in range(c, a):
                entry -= root[a, i] * inverse[i, c]
            inverse[a, c] = entry / root[a, a]
    turned = np.zeros((p, p))
    is_flat = True
    for a in range(p):
        for b in range(p):
            if precision[a, b] != 0.0:
                is_flat = False
    if is_flat:
        tilt = np.zeros(p)
        vectors = np.eye(p)
    else:
        for a in range(p):
            for b in range(a + 1):
                value = 0.0
                for i in range(a + 1):
                    for j in range(b + 1):
                        value += inverse[a, i] * precision[i, j] * inverse[b, j]
                turned[a, b] = value
                turned[b, a] = value
        tilt, vectors = np.linalg.eigh(turned)
    v = np.zeros((p, p))
    z = np.zeros(p)
    at = np.zeros(p)
    rss = e[p, p]
    for m in range(p):
        tilt[m] = max(tilt[m], 0.0)
        for i in range(p):
            for a in range(i, p):
                v[i, m] += inverse[a, i] * vectors[a, m]
            z[m] += v[i, m] * e[i, p]
            for j in range(p):
                at[m] += v[i, m] * e[i, j] * prior[j]
        rss -= z[m] * z[m]
    rss = max(rss, 1e-16 * e[p, p])
    return logdet, rss, tilt, z, at, v


@numba.njit(cache=True, nogil=True, error_model="numpy")
def log_height(
    sigma: float, t1: float, t2: float, logdet: float, rss: float, tilt: Array, z: Array,
    at: Array, codes: Array, numbers: Array, dof: float, scale: float,
) -> float:  # fmt: skip
    """Return the log density by (t, r, log sigma) less its constant and the prior of r.

    `logdet` is the sum of log|H_j| and log|E_XX|.
    """
    q = len(codes) - 1
    v2 = (sigma / scale) ** 2
    quadratic = rss / v2
    spread = 0.0
    product = 1.0
    for m in range(len(tilt)):
        inner = 1.0 + tilt[m] * v2
        product *= inner
        if product > 1e100:
            spread += math.log(product)
            product = 1.0
        quadratic += tilt[m] * (z[m] - at[m]) ** 2 / inner
    height = -0.5 * (dof * math.log(v2) + logdet + spread + math.log(product) + quadratic)
    height += log_prior(codes[q], numbers[q], sigma)[0] + (q + 1.0) * math.log(sigma)
    height += log_prior(codes[0], numbers[0], t1 * sigma)[0]
    if q == 2:
        height += log_prior(codes[1], numbers[1], t2 * sigma)[0]
    return height


@numba.njit(cache=True, nogil=True, error_model="numpy")
def height_at(
    t1: float, t2: float, r: float, rest: float, sigma: float,
    d: Array, turn: Array, fitted: Array, within: Array, precision: Array, prior: Array,
    codes: Array, numbers: Array, dof: float, scale: float, constant: float,
) -> tuple[float, float, Array]:  # fmt: skip
    """Return the log density at one point less the prior of r, the sigma that fits, and beta~.

    sigma <= 0 stands for the value that fits, sqrt(rss / dof).
    """
    logdet, e = sum_effects(t1, t2, r, rest, d, turn, fitted, within)
    logdet_x, rss, tilt, z, prior_at, v = split_fixed(e, precision, prior)
    fitting = scale * math.sqrt(rss / dof)
    at = fitting if sigma <= 0.0 else sigma
    height = log_height(
        at, t1, t2, logdet + logdet_x, rss, tilt, z, prior_at, codes, numbers, dof, scale
    )
    v2 = (at / scale) ** 2
    mean = np.zeros(len(z))
    for i in range(len(z)):
        for m in range(len(z)):
            mean[i] += v[i, m] * (z[m] + tilt[m] * prior_at[m] * v2) / (1.0 + tilt[m] * v2)
    return height + constant, fitting, mean


@numba.njit(cache=True, nogil=True, error_model="numpy")
def place_base(t1: float, t2: float, r: float, given: Array, out: Array) -> None:
    """Write G11, G22, G12, 1, sqrt(G11), sqrt(G22), the correlation and 1, all over sigma."""
    g11, g12, g22 = t1 * t1, r * t1 * t2, t2 * t2
    for i in range(2):
        a, b = given[i, 0], given[i, 1]
        out[i] = max(a * a * g11 + 2.0 * a * b * g12 + b * b * g22, 0.0)
        out[4 + i] = math.sqrt(out[i])
    a, b, c, d = given[0, 0], given[0, 1], given[1, 0], given[1, 1]
    out[2] = a * c * g11 + (a * d + b * c) * g12 + b * d * g22
    out[3] = 1.0
    out[6] = r
    if b != 0.0 or c != 0.0:
        both = out[4] * out[5]
        out[6] = min(max(out[2] / both, -1.0), 1.0) if both > 0.0 else 0.0
    out[7] = 1.0


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sum_grid(
    t1: Array, t2: Array, r: Array, rest: Array, log_sigma: Array,
    weight1: Array, weight2: Array, weight3: Array, keep: tuple[Array, Array, Array, Array],
    middle: float, centre: Array, degree: Array, centre_beta: Array, back: Array, given: Array,
    reference: float,
    d: Array, turn: Array, fitted: Array, within: Array, precision: Array, prior: Array,
    codes: Array, numbers: Array, dof: float, scale: float, constant: float,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:  # fmt: skip
    """Return sums over the grid of the features f (1 + 2 p + 2 c) of the density.

    The features are 1, then the deviations of the p fixed effects and c variance parameters
    from their centres, then the squares. Parameter c of the variance components is
    b sigma^degree, with b from `place_base`, as far as the model has them (in the order of
    `degree`, ABSENT for what is left out).

    The nodes are t1 (n1,), t2 (n2,), r and rest = sqrt(1 - r^2) (n3,) and log_sigma (n4,); a
    dimension that the model lacks has one node. `weight1`, `weight2` and `weight3` are the log
    weights of the nodes, with the changes of variable, the prior of r and the weight of log
    sigma in them; `keep` says what the weights of each dimension are multiplied by in the rule
    with half as many nodes, zero where it has none. Deviations are taken from `middle` (of
    sigma), `centre` (8,) and `centre_beta` (p,), whitened; beta = ols + back beta~; `reference`
    is the log density that stands for one. The rest are the fields of `Integrand`.

    Returns:
        The sums of the features by the rule with half the nodes of log sigma,
        by that with half in every dimension, and over all dimensions but the first, the
        second and the third (n1, .), (n2, .), (n3, .); then the mass alone by the nodes of t1
        and log sigma (n1, n4), and of t2 and log sigma (n2, n4).
    """
    p = len(prior)
    n4 = len(log_sigma)
    n_features = 1 + 2 * p + 2 * len(centre)
    half4 = np.zeros(n_features)
    half = np.zeros(n_features)
    margin1 = np.zeros((len(t1), n_features))
    margin2 = np.zeros((len(t2), n_features))
    margin3 = np.zeros((len(r), n_features))
    table1 = np.zeros((len(t1), n4))
    table2 = np.zeros((len(t2), n4))
    sigma = np.exp(log_sigma)
    slip = np.expm1(log_sigma - math.log(middle))
    swing = slip * (2.0 + slip)
    sums = np.empty((2, 5))
    first = np.empty((2, p))
    second = np.empty((2, p, p))
    base = np.empty(len(centre))
    gap = np.empty(p)
    origin = np.empty(p)
    spread = np.empty((p, p))
    feature = np.empty((2, n_features))
    for i1 in range(len(t1)):
        for i2 in range(len(t2)):
            for i3 in range(len(r)):
                logdet, e = sum_effects(t1[i1], t2[i2], r[i3], rest[i3], d, turn, fitted, within)
                logdet_x, rss, tilt, z, prior_at, v = split_fixed(e, precision, prior)
                offset = weight1[i1] + weight2[i2] + weight3[i3] + constant - reference
                for m in range(p):
                    # V^-1 = V' E_XX maps the centre into the basis of V.
                    origin[m] = 0.0
                    for i in range(p):
                        spread[i, m] = 0.0
                        for j in range(p):
                            origin[m] += v[i, m] * e[i, j] * centre_beta[j]
                            spread[i, m] += back[i, j] * v[j, m]
                sums[:] = 0.0
                first[:] = 0.0
                second[:] = 0.0
                for i4 in range(n4):
                    height = offset + log_height(
                        sigma[i4], t1[i1], t2[i2], logdet + logdet_x, rss, tilt, z, prior_at,
                        codes, numbers, dof, scale,
                    )  # fmt: skip
                    if not height > NEGLIGIBLE:
                        continue
                    mass = math.exp(height)
                    table1[i1, i4] += mass
                    table2[i2, i4] += mass
                    v2 = (sigma[i4] / scale) ** 2
                    for m in range(p):
                        gap[m] = (z[m] + tilt[m] * prior_at[m] * v2) / (
                            1.0 + tilt[m] * v2
                        ) - origin[m]
                    for part in range(2 if keep[3][i4] > 0.0 else 1):
                        if part == 1:
                            mass *= keep[3][i4]
                        sums[part, 0] += mass
                        sums[part, 1] += mass * slip[i4]
                        sums[part, 2] += mass * slip[i4] ** 2
                        sums[part, 3] += mass * swing[i4]
                        sums[part, 4] += mass * swing[i4] ** 2
                        for m in range(p):
                            first[part, m] += mass * gap[m]
                            second[part, m, m] += mass * v2 / (1.0 + tilt[m] * v2)
                            for i in range(m + 1):
                                second[part, m, i] += mass * gap[m] * gap[i]
                if not sums[0, 0] > 0.0:
                    continue
                place_base(t1[i1], t2[i2], r[i3], given, base)
                for part in range(2):
                    feature[part] = 0.0
                    feature[part, 0] = sums[part, 0]
                    for i in range(p):
                        for m in range(p):
                            feature[part, 1 + i] += spread[i, m] * first[part, m]
                            inner = spread[i, m] * second[part, m, m]
                            for j in range(m):
                                inner += 2.0 * spread[i, j] * second[part, m, j]
                            feature[part, 1 + p + len(centre) + i] += spread[i, m] * inner
                    for c in range(len(centre)):
                        if degree[c] == ABSENT:
                            continue
                        b = base[c] * middle ** degree[c]
                        away = b - centre[c]
                        one, two = 0.0, 0.0
                        if degree[c] > 0:
                            one = b * sums[part, 2 * degree[c] - 1]
                            two = b * b * sums[part, 2 * degree[c]]
                        feature[part, 1 + p + c] = away * sums[part, 0] + one
                        feature[part, 1 + 2 * p + len(centre) + c] = (
                            away * away * sums[part, 0] + 2.0 * away * one + two
                        )
                margin1[i1] += feature[0]
                margin2[i2] += feature[0]
                margin3[i3] += feature[0]
                half4 += feature[1]
                half += keep[0][i1] * keep[1][i2] * keep[2][i3] * feature[1]
    return half4, half, margin1, margin2, margin3, table1, table2
