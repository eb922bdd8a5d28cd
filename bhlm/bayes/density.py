"""The posterior density on the unconstrained scale, value and gradient, compiled once.

A position x holds [beta~ (p), scales (s), correlations (c), log sigma]. beta~ are the whitened
fixed effects. An SD whose prior is finite at zero is |unit x|, with x on the whole line: the
likelihood is analytic through zero, where x changes sign (and the correlations with it), so
that an SD near zero has no tail of small log SDs to be lost in. An SD whose prior vanishes at
zero is unit exp(x). What the coordinates of correlations are says the structure's law.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.bayes.priors.correlations import correlate, find_law, pull_correlations
from bhlm.bayes.priors.families import LOG_2, Flat, Prior, PyMCPrior, log_prior
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.design.kernels import kernel, light_kernel
from bhlm.errors import ArgumentError, PriorError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.marginal import marginal_panels
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.panels import LANES, Panels, build_panels
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray
type AnyWhitened = Whitened | WhitenedCells | WhitenedPatterns | WhitenedNest


class Density(NamedTuple):
    """All that the density kernel reads: data, priors and the map between scales."""

    panels: Array  # (T, q, k, LANES) cross-products, see `bhlm.likelihood.panels`
    total: Array  # (p + 1, p + 1)
    reach: float  # the largest trace of a group's Z'Z
    n: float
    scale: float  # s of the whitening
    inverse_basis: Array  # (q, q) B^-1 C^-1, C the frame of the priors
    offset: Array  # (p,) prior coordinates of the fixed effects at beta~ = 0
    slope: Array  # (p, p) prior coordinates = offset + slope beta~
    unit: Array  # (s,) scale of each free SD's coordinate
    signed: Array  # (s,) whether an SD's coordinate is signed (else logarithmic)
    owners: Array  # (q,) int64, which of the free SDs each coefficient has
    law: int  # how the prior stands on correlations, see `bhlm.bayes.priors.correlations`
    angles: int  # c, coordinates of correlations
    sizes: Array  # (b,) int64, sizes of the blocks of random coefficients
    codes: Array  # (p + s + 1,) int64, prior families of fixed effects, SDs and sigma
    numbers: Array  # (p + s + 1, m) their numbers
    eta: float  # of the LKJ prior
    use_likelihood: bool  # False is the prior alone

    @property
    def dimension(self) -> int:
        """The length of x."""
        return len(self.codes) + self.angles


def build_density(
    white: "AnyWhitened",
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
    priors_only: bool = False,
) -> Density:
    """Return the posterior density of whitened data under resolved priors.

    Of several grouping factors, and of families, it holds the priors and the maps, and no data;
    see `bhlm.bayes.level_density` and `bhlm.bayes.family.density`. Without a residual SD its
    coordinate is there with a flat prior, and is to be held at zero.

    Args:
        white: whitened cross-products.
        priors: one prior per parameter.
        structure: of the random coefficients.
        use_likelihood: False leaves the prior alone.
        priors_only: whether priors and maps are all that is wanted, the data being elsewhere.

    Raises:
        PriorError: a prior without a density that the kernel knows.
        ArgumentError: weights of groups, known variances or strata, which it knows nothing of.
    """
    if isinstance(white, Whitened) and not (white.is_plain or priors_only):
        raise ArgumentError(
            "sampling weights, known variances and strata are not there yet by this route; "
            "model.sample() takes them"
        )
    every = (*priors.every, Flat()) if priors.held else priors.every
    for prior in every:
        if prior.code < 0:
            raise PriorError(
                f"{prior} has no density that is compiled here; use one such as bhlm.Normal, or "
                "sample()"
            )
    # Two at least: the quadrature reads a mean and an SD, of which flat priors have none.
    numbers = np.zeros((len(every), max(2, *(len(prior.numbers) for prior in every))))
    for row, prior in enumerate(every):
        numbers[row, : len(prior.numbers)] = prior.numbers
    offset, slope = place_fixed(white, priors)
    laws = [find_law(part) for part in structure.parts]
    first = np.unique(structure.owners, return_index=True)[1]
    inverse_basis = np.linalg.inv(white.basis)
    if not priors.frame.is_given[1]:
        inverse_basis = np.linalg.solve(priors.frame.random.T, inverse_basis.T).T
    if not isinstance(white, Whitened):  # which have no use for panels
        p, q = white.p, white.q
        panels = Panels(np.zeros((0, q, q + p + 1, LANES)), np.zeros((p + 1, p + 1)), 0.0)
    else:
        panels = build_panels(white.blocks, white.q)
    return Density(
        panels=panels.values,
        total=panels.total,
        reach=panels.reach,
        n=0.0 if isinstance(white, WhitenedPatterns | WhitenedNest) else white.n,
        scale=white.scale,
        inverse_basis=np.ascontiguousarray(inverse_basis),
        offset=offset,
        slope=slope,
        unit=(white.scale / np.linalg.norm(inverse_basis, axis=0))[first],
        signed=np.array([prior.finite_at_zero for prior in priors.sd]),
        owners=np.array(structure.owners, dtype=np.int64),
        law=laws[0].code,
        angles=sum(law.count(part.sizes) for law, part in zip(laws, structure.parts, strict=True)),
        sizes=np.array(structure.sizes, dtype=np.int64),
        codes=np.array([prior.code for prior in every], dtype=np.int64),
        numbers=numbers,
        eta=float(priors.corr.eta),
        use_likelihood=use_likelihood,
    )


def place_fixed(white: "AnyWhitened", priors: ResolvedPriors) -> tuple[Array, Array]:
    """Return offset (p,) and slope (p, p): priors stand on offset + slope beta~."""
    frame = priors.frame.fixed
    return frame @ white.ols, np.ascontiguousarray(white.scale * frame @ white.fixed)


@kernel
def _log_priors(code: int, numbers: Array, x: Array) -> Array:
    out = np.empty(len(x))
    for i in range(len(x)):
        out[i] = log_prior(code, numbers, x[i])[0]
    return out


@kernel
def scale_coordinates(x: Array, unit: Array, signed: Array) -> Array:
    """Return the SDs (s,) at coordinates x (s,), with the sign of the coordinate if signed."""
    sd = np.empty(len(x))
    for m in range(len(x)):
        sd[m] = unit[m] * (x[m] if signed[m] else math.exp(x[m]))
    return sd


@kernel
def root_correlations(law: int, x: Array, sizes: Array, out: Array) -> None:
    """Write the lower roots (q, q) of the correlations at coordinates x (c,) into `out`."""
    correlate(law, x, sizes, out)


@kernel
def root_draws(law: int, x: Array, sizes: Array, out: Array) -> None:
    """Write the lower roots (N, q, q) of the correlations at coordinates x (N, c) into `out`."""
    for i in range(len(x)):
        correlate(law, x[i], sizes, out[i])


@light_kernel
def log_density(x: Array, density: Density) -> tuple[float, Array]:
    """Return the log posterior density at x, Jacobian included, and its gradient (d,).

    The density is that of x: priors stand on the fixed effects, SDs, correlations and sigma,
    and log-transformed parameters bring their Jacobian.
    """
    unit, signed = density.unit, density.signed
    p = density.offset.shape[0]
    q = density.inverse_basis.shape[0]
    s = unit.shape[0]
    d = x.shape[0]
    gradient = np.zeros(d)
    beta = x[:p]
    scales = scale_coordinates(x[p : p + s], unit, signed)
    angles = x[p + s : d - 1]
    sigma = math.exp(x[d - 1])
    factor = np.empty((q, q))
    correlate(density.law, angles, density.sizes, factor)
    logp = 0.0
    dfactor = np.zeros((q, q))
    if density.use_likelihood:
        lam = relate_root(density, scales, factor, sigma)
        loglik, dlam, dbeta, dlog = marginal_panels(
            density.panels, density.total, density.reach, density.n, lam, beta,
            sigma / density.scale,
        )  # fmt: skip
        logp += loglik - density.n * math.log(density.scale)
        for i in range(p):
            gradient[i] += dbeta[i]
        gradient[d - 1] += dlog
        pull_root(density, scales, factor, sigma, lam, dlam, dfactor, gradient)
    logp = add_priors(density, x, scales, sigma, logp, gradient)
    logp += pull_correlations(
        density.law, angles, density.sizes, density.eta, dfactor, gradient[p + s : d - 1]
    )
    return logp, gradient


@kernel
def relate_root(density: Density, scales: Array, factor: Array, sigma: float) -> Array:
    """Return lam (q, q), the whitened root of G / sigma^2, of SDs (s,) and roots of correlations.

    Args:
        density: with the map to whitened columns.
        scales: SDs (s,), with a sign where their coordinate has one.
        factor: lower roots of the correlations (q, q).
        sigma: the residual SD.
    """
    q = len(factor)
    lam = np.zeros((q, q))
    for i in range(q):
        for j in range(q):
            for m in range(q):
                sd = scales[density.owners[m]]
                lam[i, j] += density.inverse_basis[i, m] * sd * factor[m, j] / sigma
    return lam


@kernel
def pull_root(
    density: Density,
    scales: Array,
    factor: Array,
    sigma: float,
    lam: Array,
    dlam: Array,
    dfactor: Array,
    gradient: Array,
) -> None:
    """Add to `gradient` (d,) by SDs and log sigma what `dlam` (q, q) is by lam.

    That by the roots of the correlations goes to `dfactor` (q, q); see `relate_root`.
    """
    p, q, d = len(density.offset), len(lam), len(gradient)
    for m in range(q):
        own = density.owners[m]
        sd = scales[own]
        for j in range(q):
            pulled = 0.0
            for i in range(q):
                pulled += density.inverse_basis[i, m] * dlam[i, j]
            pulled /= sigma
            dfactor[m, j] = pulled * sd
            step = density.unit[own] if density.signed[own] else sd
            gradient[p + own] += pulled * factor[m, j] * step
    for i in range(q):
        for j in range(q):
            gradient[d - 1] -= dlam[i, j] * lam[i, j]


@kernel
def add_priors(
    density: Density, x: Array, scales: Array, sigma: float, logp: float, gradient: Array
) -> float:
    """Return logp plus the priors of fixed effects, SDs and sigma; add their slopes to `gradient`.

    Args:
        density: with the priors.
        x: the position (d,).
        scales: SDs (s,), with a sign where their coordinate has one.
        sigma: the residual SD.
        logp: what they are added to.
        gradient: by x (d,).
    """
    offset, slope, codes, numbers = density.offset, density.slope, density.codes, density.numbers
    unit, signed = density.unit, density.signed
    p, s, d = len(offset), len(unit), len(x)
    beta = x[:p]
    for i in range(p):
        value = offset[i]
        for m in range(p):
            value += slope[i, m] * beta[m]
        term, derivative = log_prior(codes[i], numbers[i], value)
        logp += term
        for m in range(p):
            gradient[m] += derivative * slope[i, m]
    for m in range(s):
        term, derivative = log_prior(codes[p + m], numbers[p + m], abs(scales[m]))
        if signed[m]:
            # Half of the density of |sd| on either side of zero.
            logp += term + math.log(unit[m]) - LOG_2
            gradient[p + m] += (derivative if scales[m] >= 0.0 else -derivative) * unit[m]
        else:
            logp += term + math.log(scales[m])
            gradient[p + m] += derivative * scales[m] + 1.0
    term, derivative = log_prior(codes[p + s], numbers[p + s], sigma)
    logp += term + x[d - 1]
    gradient[d - 1] += derivative * sigma + 1.0
    return logp


def constrain(
    density: Density, white: Whitened | WhitenedPatterns, frame: Frame, x: Array
) -> Parameters:
    """Return the parameters at N positions x (N, d), priors standing in a frame."""
    p, q, s = white.p, white.q, len(density.unit)
    beta = white.ols + white.scale * x[:, :p] @ white.fixed.T
    root = np.empty((len(x), q, q))
    root_draws(density.law, np.ascontiguousarray(x[:, p + s : -1]), density.sizes, root)
    sd = density.unit * np.where(density.signed, x[:, p : p + s], np.exp(x[:, p : p + s]))
    root *= sd[:, density.owners, None]
    return Parameters(beta, frame.unturn_root(root), np.exp(x[:, -1]))


def evaluate_priors(
    priors: ResolvedPriors, structure: Structure, parameters: Parameters
) -> dict[str, Array]:
    """Return the prior's terms at each draw, on the scale on which each prior stands.

    `beta` (draws, p); `sd` (draws, q), zero where a coefficient has the SD of an earlier one;
    `sigma` (draws,), of strata (draws, S), and none where sigma is known; `lkj` (draws,) where
    some coefficients are correlated, of several grouping factors `lkj|factor`. There is no Jacobian
    in them: they are what a change of priors changes.

    Args:
        priors: one prior per parameter.
        structure: of the random coefficients.
        parameters: in as many draws.
    """
    beta, root, sigma = parameters
    sd = priors.frame.measure_sd(root)
    first = np.unique(structure.owners, return_index=True)[1]
    own = np.zeros_like(sd)
    own[:, first] = _evaluate_columns(priors.sd, sd[:, first])
    terms = {
        "beta": _evaluate_columns(priors.fixed, priors.frame.turn_fixed(beta)),
        "sd": own,
    }
    if not priors.held:
        each = _evaluate_columns(priors.residuals, sigma.reshape(len(sigma), -1))
        terms["sigma"] = each if sigma.ndim > 1 else each[:, 0]
    parts = zip(structure.parts, structure.spans, priors.corrs, strict=True)
    for part, span, corr in parts:
        if part.has_correlations:
            name = "lkj" if structure is part else f"lkj|{part.group}"
            # C has a determinant of one, so that |C G C'| = |G|.
            own, own_sd = root[:, span, span], sd[:, span]
            terms[name] = find_law(part).log_density(corr.eta, part.sizes, own, own_sd)
    return terms


def evaluate_prior(prior: Prior, x: Array) -> Array:
    """Return the log density of a prior at x (m,), improper ones up to a constant."""
    if isinstance(prior, PyMCPrior):
        from bhlm.bayes.pymc_model import log_prior_values

        return log_prior_values(prior, x)
    return np.asarray(_log_priors(prior.code, np.array(prior.numbers), np.ascontiguousarray(x)))


def _evaluate_columns(priors: tuple[Prior, ...], values: Array) -> Array:
    columns = zip(priors, values.T, strict=True)
    return np.stack([evaluate_prior(prior, column) for prior, column in columns], axis=1)
