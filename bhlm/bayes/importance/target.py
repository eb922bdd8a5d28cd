"""The posterior of (G, sigma) with the fixed effects integrated out, as a density to draw from.

A position y holds coordinates of [log t (s), a (c), log sigma]. In each block

    G = sigma^2 A diag(t) R~ diag(t) A',    R~ = C C',    C from partial correlations tanh(a)

where A = F^-1 diag(units) leads from the frame in which the priors stand, so that the density,
which is that of SDs and correlations there, has its ridge at a vanishing SD along one coordinate.
Under flat priors A is B, of the whitened columns. Either way neither an offset nor the unit of a
covariate changes what is drawn. Where all coefficients
share an SD, t is one, and where they share a correlation r too, a places it between its bounds:
(1 + (q - 1) r) / q = 1 / (1 + exp(-2 a)). An SD that may vanish
has an exponential tail to the left in log t; with

    log t = knee + h(y),    h(y) = y - s(-y)^2 / 2,    s(x) = log(1 + exp(x))

its density by y falls as that of a normal there, and well above its knee y is log t but for a
constant.

Fixed effects are integrated out exactly where their priors are normal or flat, so that
q + c + 1 dimensions are left. With residual variances by stratum the logarithms of
sigma_s / sigma_1 stand before log sigma, which is sigma_1's, and where variances are known there is
no log sigma. Nothing here is shared with the sampler but the priors: the
likelihood is summed by the kernel of the profiled likelihood, and the Jacobian is derived anew.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bhlm.bayes.density import AnyWhitened, evaluate_prior, place_fixed
from bhlm.bayes.importance.modes import Modes
from bhlm.bayes.priors.correlations import LKJ, find_law
from bhlm.bayes.priors.families import Flat, Normal, Prior
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.errors import ArgumentError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.level_pattern import pack_nodes
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.likelihood.nested_sums import value_units
from bhlm.likelihood.panels import Panels, build_panels
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns
from bhlm.likelihood.positions import pair_columns, sum_positions
from bhlm.likelihood.weighted_positions import Strata, spread_positions, sum_weighted
from bhlm.likelihood.whitening import Whitened
from bhlm.processes import count_cores

Array = np.ndarray

# What a posterior's prior is made of: the scale on which flat is flat, then each prior that stands
# on it. Without all of them it is flat on beta, G and sigma^2.
PRIORS = ("scale", "sd", "corr", "residual", "fixed")
CHUNK = 32  # positions of several factors that a thread takes at a time
TINY = -300.0  # the logarithm of an SD below which its square would underflow
CLIMB = 30  # steps at most
ACCURATE = 1e-6  # of the log-likelihood of a family, in the middle
GLANCE = 5000  # groups that tell where modes may be
SEARCH = 256  # positions at which the search for modes begins to look
NO_PANELS = Panels(np.empty(0), np.empty(0), 0.0)  # of what is not read from panels


@dataclass(frozen=True, slots=True)
class Target:
    """The posterior of (G, sigma) with the fixed effects integrated out, and what it reads."""

    panels: Panels  # of whitened cross-products
    pairs: Array | None  # `pair_columns` of the panels
    n: float
    structure: Structure  # of the random coefficients
    basis: Array  # (q, q) B
    frame: Array  # (q, q) block-diagonal F: priors stand on the SDs and correlations of F G F'
    priors: ResolvedPriors
    scale: float  # s of the whitening
    ols: Array  # (p,)
    back: Array  # (p, p) s A, so that beta = ols + back beta~
    offset: Array  # (p,) prior coordinates of the fixed effects at beta~ = 0
    slope: Array  # (p, p) prior coordinates = offset + slope beta~
    normal: Array  # (p,) which fixed effects have a normal prior
    exact: bool  # whether all others have flat ones, so that beta is integrated out exactly
    logdet_back: float  # log |s A|
    knee: Array  # (s,) of log t, below which y bends; -inf where y is log t itself
    without: frozenset[str] = frozenset()  # of `list_priors`, those swapped for flat ones
    levels: Nested | Crossed | None = None  # of several factors, in place of the panels
    counted: "Counted | None" = None  # of a family, whose fixed effects are coordinates
    strata: Strata | None = None  # with weights of groups, strata or known variances, for panels
    held: float = 0.0  # the residual SD where it is known; 0 where it is not
    some: "Target | None" = None  # that of some of the groups, where there are many, to look around

    @property
    def dimension(self) -> int:
        """The length of y."""
        return self.n_random + (self.n_sigmas if self.counted is None else len(self.ols))

    @property
    def n_sigmas(self) -> int:
        """The number of residual SDs that are free, of a gaussian response."""
        if self.held > 0.0:
            return 0
        return 1 if self.strata is None else len(self.strata.blocks)

    @property
    def n_random(self) -> int:
        """The number of coordinates of SDs and correlations."""
        parts = self.structure.parts
        return self.n_sds + sum(find_law(part).count(part.sizes) for part in parts)

    @property
    def n_sds(self) -> int:
        """The number s of SDs that are free."""
        return len(self.structure.sds)


class Counted(NamedTuple):
    """The likelihood of a family: beta~ = middle + unit b, with b the last coordinates of y."""

    nodes: Integrator | NestIntegrator
    middle: Array  # (p,)
    unit: Array  # (p,)

    def measure(self, beta: Array, lam: Array) -> Array:
        """Return the log-likelihood (N,) at beta~ (N, p) and lam (N, Q, Q).

        Searches for modes begin where those in the middle are, whatever was evaluated before.
        """
        count = len(lam)
        loglik = np.empty(count)
        beta, lam = np.ascontiguousarray(beta), np.ascontiguousarray(lam)
        nodes = self.nodes
        if isinstance(nodes, NestIntegrator):
            data = pack_nodes(nodes).data

        def fill(first: int) -> None:
            own = nodes.copy() if isinstance(nodes, Integrator) else None
            for at in range(first, min(first + CHUNK, count)):
                if own is None:
                    loglik[at] = value_units(data, lam[at], beta[at])
                    continue
                own.modes[:] = nodes.modes
                loglik[at] = own.evaluate(beta[at], lam[at], derivatives=False, threads=1).loglik

        firsts = range(0, count, CHUNK)
        with ThreadPoolExecutor(min(count_cores(), max(len(firsts), 1))) as pool:
            list(pool.map(fill, firsts))
        return loglik


class Place(NamedTuple):
    """What positions y stand for."""

    lam: Array  # (N, q, q) relative root in the whitened basis, B^-1 A diag(t) C
    g: Array  # (N, q, q)
    sigma: Array  # (N,), of strata (N, S)
    sd: Array  # (N, s) in the priors' frame
    logdet: Array  # (N, F) log |R| summed over the blocks of each factor, in the priors' frame
    jacobian: Array  # (N,) log |d (sd, R, sigma) / d y|
    beta: Array  # (N, p) beta~ of a family; else (N, 0)


class Sums(NamedTuple):
    """What the likelihood reads of the groups at places; it depends on G / sigma^2 alone."""

    logdet: Array  # (N,) sum_j log|H_j|; of a family minus twice the log-likelihood
    products: Array  # (N, p + 1, p + 1) sum_j [X~ y~]'H_j^-1 [X~ y~]


class Conditional(NamedTuple):
    """The fixed effects given (G, sigma): normal, under their normal priors."""

    value: Array  # (N,) log of the likelihood times those priors, integrated over beta; -inf
    # where rounding leaves nothing of it
    mean: Array  # (N, p) of beta~
    root: Array  # (N, p, p) lower root of beta~'s precision
    sums: Sums


class Straight(NamedTuple):
    """Positions with log t itself in place of what bends."""

    x: Array  # (N, d) [log t, a, log sigma]
    log_slope: Array  # (N,) log |dx / dy|


def list_priors(structure: Structure) -> tuple[str, ...]:
    """Return the names of PRIORS for a structure.

    Of several grouping factors SDs and correlations have a prior each: `sd|school`, `corr|school`.
    """
    if len(structure.parts) == 1:
        return PRIORS
    each = (f"{kind}|{part.group}" for kind in ("sd", "corr") for part in structure.parts)
    return ("scale", *each, "residual", "fixed")


def build_target(
    white: AnyWhitened,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    frame: Array | None = None,
    without: frozenset[str] = frozenset(),
) -> Target:
    """Return the posterior of whitened data under resolved priors.

    Args:
        white: whitened cross-products.
        priors: one prior per parameter.
        structure: of the random coefficients.
        frame: F (q, q), block-diagonal, where the priors of SDs and correlations stand on those
            of F G F'; None takes the priors' own.
        without: names of `list_priors` to swap for flat ones.

    Raises:
        ArgumentError: several factors of which one has coefficients that share an SD.
    """
    refuse_shared(structure)
    levels: Nested | Crossed | None = None
    counted: Counted | None = None
    strata: Strata | None = None
    known = None if isinstance(white, WhitenedPatterns | WhitenedNest) else white.held
    held = 0.0 if known is None else math.sqrt(known) * white.scale
    if isinstance(white, WhitenedPatterns | WhitenedNest):
        counted, panels = count_likelihood(white), NO_PANELS
    elif isinstance(white, WhitenedCells):
        levels, panels = white.levels, NO_PANELS
    elif not white.is_plain:
        strata, panels = spread_positions(white), NO_PANELS
    else:
        panels = build_panels(white.blocks, white.q)
    some = None
    if isinstance(white, Whitened) and white.is_plain and len(white.blocks) > 2 * GLANCE:
        step = len(white.blocks) // GLANCE
        part = replace(
            white, blocks=np.ascontiguousarray(white.blocks[::step]), n=white.n / step
        )  # fmt: skip
        some = build_target(part, priors, structure, frame=frame, without=without)
    offset, slope = place_fixed(white, priors)
    normal = np.array([isinstance(prior, Normal) for prior in priors.fixed])
    flat = np.array([isinstance(prior, Flat) and prior.power == 0.0 for prior in priors.fixed])
    return Target(
        panels=panels,
        pairs=None if panels is NO_PANELS else pair_columns(panels),
        n=0.0 if isinstance(white, WhitenedPatterns | WhitenedNest) else white.n,
        structure=structure,
        basis=white.basis,
        frame=priors.frame.random if frame is None else frame,
        priors=priors,
        scale=white.scale,
        ols=white.ols,
        back=white.scale * white.fixed,
        offset=offset,
        slope=slope,
        normal=normal,
        exact=bool(np.all(normal | flat)),
        logdet_back=(
            0.0
            if isinstance(white, WhitenedPatterns | WhitenedNest)
            else white.p * math.log(white.scale) + white.logdet_fixed
        ),
        knee=np.full(len(structure.sds), -np.inf),
        without=without,
        levels=levels,
        counted=counted,
        strata=strata,
        held=held,
        some=some,
    )


def refuse_shared(structure: Structure) -> None:
    """Refuse several factors of which one has coefficients that share an SD.

    Raises:
        ArgumentError: there is one.
    """
    if len(structure.parts) > 1 and structure.shares_variance:
        raise ArgumentError(
            f"covariance={structure.name_override!r} of several grouping factors is sampled, "
            "but not yet certified or reconciled; leave it out, or take 'independent'"
        )


def count_likelihood(white: WhitenedPatterns | WhitenedNest) -> Counted:
    """Return the likelihood of a family, its fixed effects in units of their uncertainty.

    By Newton's steps for beta~ where lam is I / 2; beta~ has a concave likelihood there.
    """
    nodes = Integrator(white) if isinstance(white, WhitenedPatterns) else NestIntegrator(white)
    whole = 0.5 * np.eye(white.q)
    lam: Any = whole if isinstance(white, WhitenedPatterns) else white.split(whole)
    mean = (white.y.sum() + 0.5) / (white.n.sum() + 1.0)
    level = float(white.family.apply_link(np.array(mean))) - white.offset.mean()
    beta = np.linalg.lstsq(white.x, np.full(len(white.x), level))[0]
    found = nodes.evaluate(beta, lam)
    for _ in range(CLIMB):
        score, information = found.score.sum(axis=0)[: white.p], found.information[: white.p]
        step = np.linalg.solve(information[:, : white.p], score)
        if not score @ step > 1e-6:
            break
        share = 1.0
        while (
            not (there := nodes.evaluate(beta + share * step, lam)).loglik > found.loglik
            and share > 1e-6
        ):
            share *= 0.5
        beta, found = beta + share * step, there
    nodes.refine(beta, lam, tolerance=ACCURATE / len(nodes.steps))
    nodes.evaluate(beta, lam, derivatives=False)
    covariance = np.linalg.inv(found.information[: white.p, : white.p])
    return Counted(nodes, beta, 2.0 * np.sqrt(np.diag(covariance)))


def bend(x: Array) -> tuple[Array, Array]:
    """Return h(x) and the log of its derivative, 1 + s(-x) / (1 + exp(x))."""
    s = np.logaddexp(0.0, -x)
    return x - 0.5 * s**2, np.log1p(s * np.exp(-np.logaddexp(0.0, x)))


def unbend(h: Array) -> Array:
    """Return the x at which `bend` gives h, by bisection and Newton's rule."""
    x = np.where(h > 0.0, h, -np.sqrt(np.maximum(-2.0 * h, 0.0)))
    for _ in range(60):
        value, log_slope = bend(x)
        step = np.clip((value - h) * np.exp(-log_slope), -1.0, 1.0)
        x = x - step
        if np.max(np.abs(step), initial=0.0) < 1e-13:
            break
    return np.asarray(x)


def bend_target(target: Target, modes: Modes) -> tuple[Target, Array]:
    """Return the target whose SDs bend where they may vanish, and its modes' positions (M, d).

    With delta the posterior SD of log t by the curvature at the highest mode, the knee stands
    1 / delta - 1.4 below the mode: at it for a half-normal SD (delta = .71), far below it for one
    that the data keep from zero.
    """
    s = target.n_sds
    top = modes.mixture
    half = top.axes[0] * (0.5 * (top.ahead[0] + top.behind[0]))
    delta = np.sqrt(np.sum(half[:s] ** 2, axis=1))
    knee = modes.y[0, :s] - np.maximum(1.0 / delta - 1.4, -0.5)
    places = modes.y.copy()
    # Shifted so that y is still log t where it does not bend.
    places[:, :s] = knee + unbend(modes.y[:, :s] - knee)
    return replace(target, knee=knee), places


def place(target: Target, y: Array) -> Place:
    """Return what positions y (N, d) stand for."""
    x, log_slope = straighten(target, y)
    put = _place_shared if target.structure.shares_variance else _place_own
    if target.counted is not None:
        k = target.n_random
        own = np.column_stack([y[:, :k], np.zeros(len(y))])  # sigma is one
        at = put(target, own, np.maximum(x[:, : target.n_sds], TINY), log_slope)
        return at._replace(beta=target.counted.middle + target.counted.unit * y[:, k:])
    log_t, k = np.maximum(x[:, : target.n_sds], TINY), target.n_random
    if target.held > 0.0:
        y = np.column_stack([y, np.full(len(y), math.log(target.held))])
    at = put(target, y, log_t, y[:, -1] + log_slope)
    if target.n_sigmas < 2:
        return at
    others = y[:, -1:] + y[:, k:-1]
    sigma = np.column_stack([at.sigma, np.exp(others)])
    return at._replace(sigma=sigma, jacobian=at.jacobian + others.sum(axis=1))


def straighten(target: Target, y: Array) -> Straight:
    """Return what positions y (N, d) are where nothing bends."""
    if not np.all(np.isfinite(target.knee)):
        return Straight(y, np.zeros(len(y)))
    bent, log_slope = bend(y[:, : target.n_sds] - target.knee)
    return Straight(
        np.concatenate([target.knee + bent, y[:, target.n_sds :]], axis=1), log_slope.sum(axis=1)
    )


def bend_positions(target: Target, x: Array) -> Array:
    """Return the positions y (N, d) whose `straighten` gives x."""
    if not np.all(np.isfinite(target.knee)):
        return x
    bent = target.knee + unbend(x[:, : target.n_sds] - target.knee)
    return np.concatenate([bent, x[:, target.n_sds :]], axis=1)


def list_tied(structure: Structure) -> list[list[int]]:
    """Return which coordinates of y are of correlations of each SD, as they stand in `place`."""
    s = len(structure.sds)
    if structure.shares_variance:
        return [[s] if structure.has_correlations else []]
    tied: list[list[int]] = [[] for _ in range(s)]
    start, at = 0, s
    for size in structure.sizes:
        for i in range(size):
            for j in range(i):
                tied[start + i].append(at)
                tied[start + j].append(at)
                at += 1
        start += size
    return tied


def _place_shared(target: Target, y: Array, log_t: Array, jacobian: Array) -> Place:
    """Return G = sd^2 ((1 - r) I + r 11') at positions y (N, d).

    With w = (1 + (q - 1) r) / q, its eigenvalues by sd^2 are q w along 1 and q (1 - w) / (q - 1)
    along all else, and dr / da = q / (q - 1) 2 w (1 - w).
    """
    q = len(target.basis)
    sigma, eye = np.exp(y[:, -1]), np.eye(q)
    lam = np.broadcast_to(eye, (len(y), q, q))
    logdet = np.zeros(len(y))
    if target.structure.has_correlations:
        log_w = -np.logaddexp(0.0, -2.0 * y[:, 1]) + math.log(q)
        log_rest = -np.logaddexp(0.0, 2.0 * y[:, 1]) + math.log(q / (q - 1.0))
        jacobian = jacobian + math.log(2.0 / q) + log_w + log_rest
        logdet = log_w + (q - 1.0) * log_rest
        along, across = np.exp(0.5 * log_w), np.exp(0.5 * log_rest)
        mean = np.full((q, q), 1.0 / q)
        lam = across[:, None, None] * (eye - mean) + along[:, None, None] * mean
    lam = np.ascontiguousarray(lam * np.exp(log_t)[:, :, None])
    # The whitened columns are the columns as given but for one scale.
    sd = target.basis[0, 0] * sigma[:, None] * np.exp(log_t)
    own = target.basis @ lam * sigma[:, None, None]
    logdet = np.minimum(logdet, 0.0)[:, None]
    g = own @ np.swapaxes(own, 1, 2)
    none = np.empty((len(y), 0))
    return Place(lam, g, sigma, sd, logdet, jacobian + np.log(sd[:, 0]), none)


def _place_own(target: Target, y: Array, log_t: Array, jacobian: Array) -> Place:
    """Return what positions y (N, d) stand for where every coefficient has its own SD.

    With b the size of m's block, z = tanh(a) in column j of it, and the SDs and correlations
    those of F G F',

        d(sd, R) / dG     = prod_m 1 / (2 sd_m^b)
        dG / dG~          = prod_blocks sigma^(b (b + 1)) |F A|^(b + 1)
        dG~ / d(t, R~)    = prod_m 2 t_m^b
        dR~ / da          = prod (1 - z^2)^((b - 2 - j) / 2 + 1)

    and a factor of t_m and sigma for each logarithm. The last line is LKJ's at eta = 1:
    Lewandowski, Kurowicka & Joe (2009), section 2.
    """
    q = len(target.basis)
    sizes, sigma = target.structure.sizes, np.exp(y[:, -1])
    lam = np.zeros((len(y), q, q))
    jacobian = jacobian + log_t.sum(axis=1)
    # By factor, each of whose blocks adds to it.
    owner = np.repeat(
        np.arange(len(target.structure.parts)),
        [len(part.sizes) for part in target.structure.parts],
    )
    logdet = np.zeros((len(y), len(target.structure.parts)))
    logdet_relative = np.zeros_like(logdet)
    basis = target.basis
    if not all(isinstance(prior, Flat) for prior in target.priors.sd):
        # In the priors' own frame an SD that vanishes does so along one coordinate.
        units = np.linalg.norm(target.frame @ basis, axis=1)
        basis = np.linalg.inv(target.frame) * units
    span = target.frame @ basis
    start, at = 0, q
    for block, size in enumerate(sizes):
        factor = owner[block]
        part = slice(start, start + size)
        for i in range(size):
            log_rest = np.zeros(len(y))
            for j in range(i):
                a = np.abs(y[:, at])
                log_slack = 2.0 * (math.log(2.0) - a - np.log1p(np.exp(-2.0 * a)))  # log(1 - z^2)
                lam[:, start + i, start + j] = np.tanh(y[:, at]) * np.exp(0.5 * log_rest)
                jacobian += (0.5 * (size - 2 - j) + 1.0) * log_slack
                log_rest += log_slack
                at += 1
            lam[:, start + i, start + i] = np.exp(0.5 * log_rest)
            logdet_relative[:, factor] += log_rest
        jacobian += size * log_t[:, part].sum(axis=1) + size * (size + 1) * y[:, -1]
        jacobian += (size + 1) * np.linalg.slogdet(span[part, part])[1]
        logdet[:, factor] += 2.0 * np.linalg.slogdet(span[part, part])[1] + 2.0 * size * y[:, -1]
        start += size
    lam *= np.exp(log_t)[:, :, None]
    root = span @ lam * sigma[:, None, None]
    sd = np.linalg.norm(root, axis=2)
    log_sd = np.log(sd)
    widths = np.repeat(sizes, sizes)
    jacobian -= log_sd @ widths
    moved = log_t - log_sd
    shift = np.stack([moved[:, each].sum(axis=1) for each in target.structure.spans], axis=1)
    logdet += logdet_relative + 2.0 * shift
    own = basis @ lam * sigma[:, None, None]
    g = own @ np.swapaxes(own, 1, 2)
    lam = np.ascontiguousarray(np.linalg.solve(target.basis, basis) @ lam)
    return Place(lam, g, sigma, sd, np.minimum(logdet, 0.0), jacobian, np.empty((len(y), 0)))


def condition_fixed(
    target: Target,
    lam: Array,
    sigma: Array,
    *,
    sums: Sums | None = None,
    beta: Array | None = None,
) -> Conditional:
    """Return the fixed effects given (G, sigma), and the integral over them.

    With r = y~ - X~ beta~ and sigma~ = sigma / s, minus twice the log-likelihood is
    n log(2 pi) + 2 n log sigma + log|H| + r'H^-1 r / sigma~^2; normal priors N(mu, tau) on
    offset + slope beta~ add a quadratic. Under flat priors alone the value is the restricted
    log-likelihood.

    Args:
        target: the posterior.
        lam: roots (N, q, q) of G / sigma^2 in the whitened basis, sigma of strata the first.
        sigma: residual SDs (N,), of strata (N, S).
        sums: over the groups at these roots, where they are known.
        beta: of a family, beta~ (N, p): its fixed effects are given, and not integrated out.
    """
    p = len(target.ols)
    if target.counted is not None:
        assert beta is not None
        return _give_fixed(target, target.counted, lam, beta, sums)
    first = sigma if sigma.ndim == 1 else sigma[:, 0]
    if sums is None:
        sums = Sums(*sum_target(target, lam, sigma))
    logdet, e = sums
    weight = (target.scale / first) ** 2
    prior = np.zeros((p, p))
    pull = np.zeros(p)
    constant = -0.5 * target.n * math.log(2.0 * math.pi) + target.logdet_back
    # Without their priors they are flat, and nothing is added.
    held = target.normal & ("fixed" not in target.without)
    for i in np.flatnonzero(held):
        mu, tau = target.priors.fixed[i].numbers
        gap = mu - target.offset[i]
        prior += np.outer(target.slope[i], target.slope[i]) / tau**2
        pull += target.slope[i] * gap / tau**2
        constant -= 0.5 * math.log(2.0 * math.pi) + math.log(tau) + 0.5 * (gap / tau) ** 2
    precision = weight[:, None, None] * e[:, :p, :p] + prior
    root, known = _take_root(precision)
    right = weight[:, None] * e[:, :p, p] + pull
    half = np.linalg.solve(root, right[..., None])
    mean = np.linalg.solve(np.swapaxes(root, 1, 2), half)[..., 0]
    spent = target.n * np.log(first) if sigma.ndim == 1 else np.log(sigma) @ _count_rows(target)
    value = constant - spent - 0.5 * logdet
    value += 0.5 * np.sum(half[..., 0] ** 2, axis=1) - 0.5 * weight * e[:, p, p]
    value += 0.5 * p * math.log(2.0 * math.pi)
    value -= np.log(np.einsum("nii->ni", root)).sum(axis=1)
    return Conditional(np.where(known, value, -np.inf), mean, root, sums)


def _give_fixed(
    target: Target, counted: Counted, lam: Array, beta: Array, sums: Sums | None
) -> Conditional:
    """Return the log-likelihood of a family times the priors of its fixed effects, as they are."""
    if sums is None:
        sums = Sums(-2.0 * counted.measure(beta, lam), np.empty((len(lam), 0, 0)))
    value = -0.5 * sums.logdet
    if "fixed" not in target.without:
        shown = target.offset + beta @ target.slope.T
        for i, prior in enumerate(target.priors.fixed):
            if not isinstance(prior, Flat):
                value = value + evaluate_prior(prior, shown[:, i])
    none = np.empty((len(lam), 0, 0))
    return Conditional(np.where(np.isfinite(value), value, -np.inf), beta, none, sums)


def _count_rows(target: Target) -> Array:
    """Return the rows (S,) of every stratum."""
    assert target.strata is not None
    return target.strata.rows


def sum_target(target: Target, lam: Array, sigma: Array) -> tuple[Array, Array]:
    """Return log |V| (N,) and [X y]'V^-1 [X y] (N, p + 1, p + 1) at each lam (N, q, q).

    Of sigma, (N,) or (N, S), only the ratios of strata are read.
    """
    levels = target.levels
    if target.strata is not None:
        by_stratum = sigma.reshape(len(lam), -1)
        return sum_weighted(target.strata, lam, (by_stratum[:, :1] / by_stratum) ** 2)
    if levels is None:
        return sum_positions(target.panels, lam, pairs=target.pairs)
    r = len(target.ols) + 1
    logdet, e = np.empty(len(lam)), np.empty((len(lam), r, r))

    def fill(first: int) -> None:
        for at in range(first, min(first + CHUNK, len(lam))):
            each = [np.ascontiguousarray(lam[at, span, span]) for span in target.structure.spans]
            found = levels.eliminate(each)
            logdet[at], e[at] = found.logdet, found.e

    firsts = range(0, len(lam), CHUNK)
    if len(firsts) == 1:
        fill(0)
        return logdet, e
    with ThreadPoolExecutor(min(count_cores(), len(firsts))) as pool:
        list(pool.map(fill, firsts))
    return logdet, e


def _take_root(precision: Array) -> tuple[Array, Array]:
    """Return Cholesky factors (N, p, p) and which matrices have one; others have that of I.

    Where an SD is so large that rounding alone is left of the fixed effects, there is none.
    """
    try:
        return np.linalg.cholesky(precision), np.ones(len(precision), dtype=bool)
    except np.linalg.LinAlgError:
        p = precision.shape[-1]
        known = np.isfinite(precision).all(axis=(1, 2))
        safe = np.where(known[:, None, None], precision, np.eye(p))
        values = np.linalg.eigvalsh(safe)
        known &= values[:, 0] > p * np.finfo(float).eps * values[:, -1]
        return np.linalg.cholesky(np.where(known[:, None, None], safe, np.eye(p))), known


def list_terms(target: Target, at: Place) -> dict[str, Array]:
    """Return the log prior's terms at each place (N,) by their names, swapped ones flat.

    They stand on the SDs, the correlations and sigma, without any Jacobian, improper ones up to a
    constant. A flat prior of some power is a choice of scale: `scale` holds the flat ones, and
    without it they are d(G, sigma^2) / d(sd, R, sigma) but for a constant, sd_m^b for each
    coefficient of a block of b, and sigma. `fixed` is not among them; see `condition_fixed`. Names
    are those of `list_priors`.
    """
    priors, structure = target.priors, target.structure
    zero = np.zeros(len(at.sd))
    log_sd = np.log(at.sd)
    powers = np.array([_read_power(prior) for prior in priors.sd])
    scale = log_sd @ powers
    flat_scale = log_sd @ np.array(target.structure.powers)
    residual = zero
    for prior, sigma in zip(priors.residuals, at.sigma.reshape(len(zero), -1).T, strict=False):
        scale = scale + _read_power(prior) * np.log(sigma)
        flat_scale = flat_scale + np.log(sigma)
        if not isinstance(prior, Flat):
            residual = residual + evaluate_prior(prior, sigma)
    named = {"scale": (scale, flat_scale)}
    before, alone = 0, len(structure.parts) == 1
    for factor, (part, corr) in enumerate(zip(structure.parts, priors.corrs, strict=True)):
        own = slice(before, before + len(part.sds))
        before = own.stop
        sd = [
            evaluate_prior(prior, x)
            for prior, x in zip(priors.sd[own], at.sd.T[own], strict=True)
            if not isinstance(prior, Flat)
        ]
        mark = "" if alone else f"|{part.group}"
        named[f"sd{mark}"] = (np.sum(sd, axis=0) if sd else zero, zero)
        named[f"corr{mark}"] = (
            corr.log_constant(part.sizes) + (corr.eta - 1.0) * at.logdet[:, factor],
            zero + LKJ(1.0).log_constant(part.sizes),
        )
    named["residual"] = (residual, zero)
    return {name: pair[name in target.without] for name, pair in named.items()}


def _read_power(prior: Prior) -> float:
    return prior.power if isinstance(prior, Flat) else 0.0


class Weighed(NamedTuple):
    """The log density at positions, and what they stand for."""

    value: Array  # (N,) -inf where it cannot be computed
    at: Place
    given: Conditional  # the fixed effects there


def log_target(target: Target, y: Array) -> Array:
    """Return the log posterior density (N,) at y (N, d), -inf where it cannot be computed.

    Fixed effects whose priors are neither normal nor flat are integrated out as if they were flat;
    `posterior.read_kernels` puts that right.
    """
    return weigh_positions(target, y).value


def weigh_positions(target: Target, y: Array) -> Weighed:
    """Return what `log_target` does, with what the positions stand for."""
    with np.errstate(all="ignore"):
        at = place(target, y)
        terms = list_terms(target, at)
        given = condition_fixed(target, at.lam, at.sigma, beta=at.beta)
        value = given.value + at.jacobian
        for term in terms.values():
            value = value + term
    return Weighed(np.where(np.isfinite(value), value, -np.inf), at, given)


def spread_starts(target: Target, *, count: int = SEARCH, seed: int = 0) -> Array:
    """Return positions (count, d) that cover where the modes of a target may be.

    SDs from 1/50 to 10 residual SDs per unit of a whitened column, correlations to +-.9, the
    residual SD from 1/10 to 1.3 of that of least squares; the fixed effects of a family within a
    standard error.
    """
    from scipy.stats import qmc  # half a second to load, and draws of NUTS do without

    s, d = target.n_sds, target.dimension
    low = np.full(d, -1.5)
    high = np.full(d, 1.5)
    low[:s], high[:s] = math.log(0.02), math.log(10.0)
    if target.counted is None and target.n_sigmas:
        low[-1] = math.log(0.1 * target.scale)
        high[-1] = math.log(1.3 * target.scale)
    elif target.counted is not None:
        low[target.n_random :], high[target.n_random :] = -0.5, 0.5
    return qmc.scale(qmc.Sobol(d, rng=np.random.default_rng(seed)).random(count), low, high)
