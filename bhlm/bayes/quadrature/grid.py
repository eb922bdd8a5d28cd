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
from typing import NamedTuple

import numpy as np

from bhlm.bayes.density import Density
from bhlm.bayes.priors.families import LOG_2PI, Normal, log_prior
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.quadrature.groups import decompose_groups, sum_effects
from bhlm.design.kernels import kernel
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray
ABSENT = 9  # the degree in sigma of a parameter that the model does not have
# Below this log density a node is passed over. Far out in a heavy tail the fourth power of an SD
# makes up for a mass of exp(-300), so that only what underflows is negligible.
NEGLIGIBLE = -700.0


class Terms(NamedTuple):
    """What the kernels read: data, the normal priors of the fixed effects, the other priors."""

    d: Array  # (J, 2) inverse eigenvalues of Z'Z; 1 where there is none
    turn: Array  # (J, 2, 2) Q'B^-1, so that m = turn diag(t) root; 0 where there is none
    fitted: Array  # (J, 2, p + 1) b; 0 where there is none
    within: Array  # (p + 1, p + 1) W
    precision: Array  # (p, p) M, of the fixed effects' priors, in whitened coordinates
    middle: Array  # (p,) b, the priors' mean; any value where they are flat
    codes: Array  # (q + 1,) int64, prior families of the SDs and of sigma
    numbers: Array  # (q + 1, 3) their numbers
    dof: float  # n - p
    scale: float  # s of the whitening
    constant: float  # what does not depend on the grid


class Fixed(NamedTuple):
    """The integral over the fixed effects at one (t, r), of the module's text."""

    logdet: float  # of E_XX
    rss: float
    tilt: Array  # (p,) w
    z: Array  # (p,)
    at: Array  # (p,) a
    v: Array  # (p, p) V


class Nodes(NamedTuple):
    """The nodes of a grid and what each weighs; a dimension that the model lacks has one node."""

    t1: Array  # (n1,)
    t2: Array  # (n2,)
    r: Array  # (n3,)
    rest: Array  # (n3,) sqrt(1 - r^2)
    log_sigma: Array  # (n4,)
    # Log weights, with the changes of variable, the prior of r and the weight of log sigma.
    weight1: Array  # (n1,)
    weight2: Array  # (n2,)
    weight3: Array  # (n3,)
    # What the weights are multiplied by in the rule with half as many nodes; 0 where it has none.
    keep1: Array  # (n1,)
    keep2: Array  # (n2,)
    keep3: Array  # (n3,)
    keep4: Array  # (n4,)


class Origin(NamedTuple):
    """Where deviations are taken from, and how whitened coordinates lead back to the columns."""

    sigma: float
    components: Array  # (8,) of `place_base` times sigma^degree
    degree: Array  # (8,) in sigma; ABSENT for what the model does not have
    beta: Array  # (p,) whitened
    back: Array  # (p, p) s A, so that beta = ols + back beta~
    given: Array  # (2, 2) C^-1: t and r are of the priors' frame, and C^-1 leads to the columns
    reference: float  # the log density that stands for one


@dataclass(frozen=True, slots=True)
class Integrand:
    """A posterior whose fixed effects can be integrated out."""

    terms: Terms
    unit: Array  # (q,) the scale of each t in which its column has a mean square of one
    back: Array  # (p, p) of `Origin`
    given: Array  # (2, 2) of `Origin`

    @property
    def scale(self) -> float:
        """The unit s of the whitening."""
        return self.terms.scale


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
    terms = Terms(
        d=d,
        turn=np.ascontiguousarray(np.swapaxes(vectors, 1, 2) @ inverse_basis),
        fitted=fitted,
        within=within,
        precision=np.ascontiguousarray(density.slope.T * weight @ density.slope),
        middle=np.linalg.solve(density.slope, gap),
        codes=np.ascontiguousarray(density.codes[p:]),
        numbers=np.ascontiguousarray(density.numbers[p:]),
        dof=float(dof),
        scale=float(white.scale),
        constant=float(constant - 0.5 * logdet),
    )
    return Integrand(
        terms=terms,
        unit=1.0 / np.linalg.norm(density.inverse_basis, axis=0),
        back=np.ascontiguousarray(white.scale * white.fixed),
        given=given,
    )


@kernel
def split_fixed(e: Array, precision: Array, prior: Array) -> Fixed:
    """Return the integral over the fixed effects of E (p + 1, p + 1)."""
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
    return Fixed(logdet, rss, tilt, z, at, v)


@kernel
def log_scale(sigma: float, terms: Terms) -> float:
    """Return the part of the log density that is sigma's alone."""
    q = len(terms.codes) - 1
    value = (q + 1.0) * math.log(sigma) - terms.dof * math.log(sigma / terms.scale)
    return float(value + log_prior(terms.codes[q], terms.numbers[q], sigma)[0])


@kernel
def log_fit(v2: float, logdet: float, fixed: Fixed) -> float:
    """Return the part of the log density that the data have a say in, at v2 = (sigma / s)^2.

    `logdet` is the sum of log|H_j| and log|E_XX|.
    """
    tilt, z, at = fixed.tilt, fixed.z, fixed.at
    quadratic = fixed.rss / v2
    spread = 0.0
    product = 1.0
    for m in range(len(tilt)):
        inner = 1.0 + tilt[m] * v2
        product *= inner
        if product > 1e100:
            spread += math.log(product)
            product = 1.0
        quadratic += tilt[m] * (z[m] - at[m]) ** 2 / inner
    return -0.5 * (logdet + spread + math.log(product) + quadratic)


@kernel
def log_height(
    sigma: float, t1: float, t2: float, logdet: float, fixed: Fixed, terms: Terms
) -> float:
    """Return the log density by (t, r, log sigma) less its constant and the prior of r.

    `logdet` is the sum of log|H_j| and log|E_XX|.
    """
    codes, numbers = terms.codes, terms.numbers
    height = log_fit((sigma / terms.scale) ** 2, logdet, fixed) + log_scale(sigma, terms)
    height += log_prior(codes[0], numbers[0], t1 * sigma)[0]
    if len(codes) == 3:
        height += log_prior(codes[1], numbers[1], t2 * sigma)[0]
    return height


@kernel
def height_at(
    t1: float, t2: float, r: float, rest: float, sigma: float, terms: Terms
) -> tuple[float, float, Array]:
    """Return the log density at one point less the prior of r, the sigma that fits, and beta~.

    sigma <= 0 stands for the value that fits, sqrt(rss / dof).
    """
    logdet, e = sum_effects(t1, t2, r, rest, terms.d, terms.turn, terms.fitted, terms.within)
    fixed = split_fixed(e, terms.precision, terms.middle)
    fitting = terms.scale * math.sqrt(fixed.rss / terms.dof)
    at = fitting if sigma <= 0.0 else sigma
    height = log_height(at, t1, t2, logdet + fixed.logdet, fixed, terms)
    v2 = (at / terms.scale) ** 2
    tilt, z, prior_at, v = fixed.tilt, fixed.z, fixed.at, fixed.v
    mean = np.zeros(len(z))
    for i in range(len(z)):
        for m in range(len(z)):
            mean[i] += v[i, m] * (z[m] + tilt[m] * prior_at[m] * v2) / (1.0 + tilt[m] * v2)
    return height + terms.constant, fitting, mean


@kernel
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


@kernel
def sum_grid(
    nodes: Nodes, origin: Origin, terms: Terms
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Return sums over the grid of the features f (1 + 2 p + 2 c) of the density.

    The features are 1, then the deviations of the p fixed effects and c variance parameters
    from their centres, then the squares. Parameter c of the variance components is
    b sigma^degree, with b from `place_base`, as far as the model has them (in the order of
    `degree`, ABSENT for what is left out).

    Returns:
        The sums of the features by the rule with half the nodes of log sigma,
        by that with half in every dimension, and over all dimensions but the first, the
        second and the third (n1, .), (n2, .), (n3, .); then the mass alone by the nodes of t1
        and log sigma (n1, n4), and of t2 and log sigma (n2, n4).
    """
    t1, t2, r, rest, log_sigma = nodes.t1, nodes.t2, nodes.r, nodes.rest, nodes.log_sigma
    keep = (nodes.keep1, nodes.keep2, nodes.keep3, nodes.keep4)
    middle, centre, degree = origin.sigma, origin.components, origin.degree
    back, scale = origin.back, terms.scale
    p = len(terms.middle)
    n4 = len(log_sigma)
    double = keep[3].max()  # one factor for all that are kept: the rule is trapezoidal
    n_features = 1 + 2 * p + 2 * len(centre)
    half4 = np.zeros(n_features)
    half = np.zeros(n_features)
    margin1 = np.zeros((len(t1), n_features))
    margin2 = np.zeros((len(t2), n_features))
    margin3 = np.zeros((len(r), n_features))
    table1 = np.zeros((len(t1), n4))
    table2 = np.zeros((len(t2), n4))
    sigma = np.exp(log_sigma)
    v2 = (sigma / scale) ** 2
    # What depends on two of the four dimensions is computed once.
    prior1 = np.empty((len(t1), n4))
    prior2 = np.zeros((len(t2), n4))
    for i4 in range(n4):
        alone = log_scale(sigma[i4], terms)
        for i1 in range(len(t1)):
            own = log_prior(terms.codes[0], terms.numbers[0], t1[i1] * sigma[i4])[0]
            prior1[i1, i4] = alone + own
        if len(terms.codes) == 3:
            for i2 in range(len(t2)):
                prior2[i2, i4] = log_prior(terms.codes[1], terms.numbers[1], t2[i2] * sigma[i4])[0]
    slip = np.expm1(log_sigma - math.log(middle))
    swing = slip * (2.0 + slip)
    sums = np.empty((2, 5))
    first = np.empty((2, p))
    second = np.empty((2, p, p))
    base = np.empty(len(centre))
    gap = np.empty(p)
    start = np.empty(p)
    spread = np.empty((p, p))
    feature = np.empty((2, n_features))
    for i1 in range(len(t1)):
        for i2 in range(len(t2)):
            for i3 in range(len(r)):
                logdet, e = sum_effects(
                    t1[i1], t2[i2], r[i3], rest[i3],
                    terms.d, terms.turn, terms.fitted, terms.within,
                )  # fmt: skip
                fixed = split_fixed(e, terms.precision, terms.middle)
                tilt, z, prior_at, v = fixed.tilt, fixed.z, fixed.at, fixed.v
                offset = nodes.weight1[i1] + nodes.weight2[i2] + nodes.weight3[i3]
                offset = offset + terms.constant - origin.reference
                for m in range(p):
                    # V^-1 = V' E_XX maps the centre into the basis of V.
                    start[m] = 0.0
                    for i in range(p):
                        spread[i, m] = 0.0
                        for j in range(p):
                            start[m] += v[i, m] * e[i, j] * origin.beta[j]
                            spread[i, m] += back[i, j] * v[j, m]
                sums[:] = 0.0
                first[:] = 0.0
                second[:] = 0.0
                for i4 in range(n4):
                    height = offset + prior1[i1, i4] + prior2[i2, i4]
                    height += log_fit(v2[i4], logdet + fixed.logdet, fixed)
                    if not height > NEGLIGIBLE:
                        continue
                    mass = math.exp(height)
                    table1[i1, i4] += mass
                    table2[i2, i4] += mass
                    part = 1 if keep[3][i4] > 0.0 else 0
                    sums[part, 0] += mass
                    sums[part, 1] += mass * slip[i4]
                    sums[part, 2] += mass * slip[i4] ** 2
                    sums[part, 3] += mass * swing[i4]
                    sums[part, 4] += mass * swing[i4] ** 2
                    for m in range(p):
                        inner = 1.0 / (1.0 + tilt[m] * v2[i4])
                        gap[m] = (z[m] + tilt[m] * prior_at[m] * v2[i4]) * inner - start[m]
                        first[part, m] += mass * gap[m]
                        second[part, m, m] += mass * v2[i4] * inner
                        for i in range(m + 1):
                            second[part, m, i] += mass * gap[m] * gap[i]
                # All nodes, and those of the rule with half as many.
                for m in range(5):
                    sums[0, m] += sums[1, m]
                    sums[1, m] *= double
                for m in range(p):
                    first[0, m] += first[1, m]
                    first[1, m] *= double
                    for i in range(m + 1):
                        second[0, m, i] += second[1, m, i]
                        second[1, m, i] *= double
                if not sums[0, 0] > 0.0:
                    continue
                place_base(t1[i1], t2[i2], r[i3], origin.given, base)
                for part in range(2):
                    feature[part, :] = 0.0
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
                kept = keep[0][i1] * keep[1][i2] * keep[2][i3]
                for i in range(n_features):
                    margin1[i1, i] += feature[0, i]
                    margin2[i2, i] += feature[0, i]
                    margin3[i3, i] += feature[0, i]
                    half4[i] += feature[1, i]
                    half[i] += kept * feature[1, i]
    return half4, half, margin1, margin2, margin3, table1, table2
