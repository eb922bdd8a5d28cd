"""The posterior by deterministic quadrature, for one or two random coefficients.

The fixed effects are integrated out exactly (normal or flat priors); what remains, the SDs of
the random coefficients relative to sigma, their correlation and log sigma, has two to four
dimensions. There the trapezoidal rule, on axes along which the integrand is analytic and
decays fast, converges exponentially. The answer is certified by what it changes when the nodes
are doubled and by what lies beyond the ends of the grid, both in posterior SDs.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.density import build_density
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.families import Flat, Normal
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.bayes.quadrature.axes import (
    Axis,
    interpolate,
    locate,
    log_stretch,
    map_nodes,
    weigh_nodes,
)
from bhlm.bayes.quadrature.grid import ABSENT, build_integrand
from bhlm.bayes.quadrature.refine import Summed, choose_degrees, refine_grid
from bhlm.bayes.quadrature.start import find_start
from bhlm.errors import ArgumentError, PriorError, check_arguments
from bhlm.layout import shorten, show_name
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import RESIDUAL_SD, Parameter, list_parameters
from bhlm.likelihood.whitening import whiten
from bhlm.moments.moments import Moments

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Nodes of the relative SDs and the correlation: each is a pass over the groups, which takes
# some microseconds for a hundred of them.
BUDGET = 2_000_000
# Sums of a million doubles are no more accurate than this.
FINEST = 1e-10
PLOTTED = 201  # points of a marginal density
EDGE = 5e-4  # posterior probability left out at either end of them


@dataclass(frozen=True, slots=True)
class QuadraturePosterior:
    """Posterior means and SDs without Monte Carlo error, and how accurate they are."""

    moments: Moments
    structure: Structure
    priors: ResolvedPriors
    mean: dict[str, float]  # by parameter, in the order of the tables
    sd: dict[str, float]
    error: dict[str, float]  # of mean and SD, in posterior SDs: change by doubling, and tails
    log_marginal: float  # log p(y); nan where a prior is improper
    # Points (m,) and density (m,) of SDs, variances and the correlation, not of covariances, nor
    # of what the priors stand on at the means and the columns have at zero.
    densities: dict[str, tuple[Array, Array]]
    accuracy: float  # the largest error
    tolerance: float
    converged: bool  # whether accuracy <= tolerance
    note: str  # what is wrong if not, else empty
    stopped: str  # by what, if not: "tail" (too heavy to certify) or "budget", else empty
    nodes: tuple[int, ...]  # of t1, t2, r and log sigma; 1 for what the model lacks
    seconds: float

    def __repr__(self) -> str:
        """Return how accurate the moments are, and the moments, within a screen."""
        state = f"FAILED: {self.note}" if self.note else f"tolerance {self.tolerance:g}"
        head = (
            f"Posterior of {show_name(self.moments.formula)} by quadrature: accurate to "
            f"{self.accuracy:.2g} posterior SDs, {state}"
        )
        table = self.estimates.to_string(float_format="{:.6g}".format)
        return shorten(f"{head}\n{table}", whole="its table of estimates")

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `mean, sd, error`, the error being in posterior SDs."""
        import pandas as pd

        table = pd.DataFrame({"mean": self.mean, "sd": self.sd, "error": self.error})
        table.index.name = "parameter"
        return table


@check_arguments
def integrate_posterior(
    moments: Moments,
    *,
    priors: Priors | None = None,
    covariance: str | None = None,
    tolerance: float = 1e-6,
    budget: int = BUDGET,
    cores: int | None = None,
) -> QuadraturePosterior:
    """Return posterior means, SDs, marginal densities and log p(y) by quadrature.

    Where the budget ends or a moment does not exist before the tolerance is reached, the
    result has converged=False and its note says why.

    Args:
        moments: the reduced table, with one or two random coefficients.
        priors: what replaces the autoscaled defaults; fixed effects take Normal or Flat.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        tolerance: the largest error of a mean or SD, in posterior SDs.
        budget: the most nodes of the relative SDs and the correlation.
        cores: threads that share the work, without a change of the answer; None takes all.

    Raises:
        ArgumentError: more than two random coefficients, or a bad tolerance or budget.
        PriorError: a fixed effect's prior that is neither normal nor flat.
        IdentifiabilityError: the moments cannot identify the model.
    """
    structure = arrange_prior(moments, covariance)
    resolved = resolve_priors(priors, moments, structure=structure)
    return integrate_resolved(
        moments, structure, resolved, tolerance=tolerance, budget=budget, cores=cores
    )


def integrate_resolved(
    moments: Moments,
    structure: Structure,
    resolved: ResolvedPriors,
    *,
    tolerance: float = 1e-6,
    budget: int = BUDGET,
    cores: int | None = None,
) -> QuadraturePosterior:
    """Return what `integrate_posterior` does, for structure and priors of a fit as they are.

    Raises:
        ArgumentError: more than two random coefficients, or a bad tolerance or budget.
        PriorError: a fixed effect's prior that is neither normal nor flat, or a prior that is a
            PyMC distribution.
        IdentifiabilityError: the moments cannot identify the model.
    """
    _check_arguments(moments, tolerance, budget, cores)
    _check_priors(moments, resolved)
    if structure.shares_variance:
        raise ArgumentError(
            f"covariance={structure.kind!r}, in which coefficients share an SD, is not integrated "
            "by quadrature; use sample()"
        )
    start = time.perf_counter()
    white = whiten(moments, structure)
    integrand = build_integrand(build_density(white, resolved, structure), white, resolved.frame)
    degree = choose_degrees(structure.sizes)
    axes, centre = find_start(integrand, resolved, structure.sizes)
    found = refine_grid(
        integrand, axes, centre, degree,
        smooth=[i for i, prior in enumerate(resolved.sd) if prior.smooth_at_zero],
        tolerance=tolerance, budget=int(budget), cores=cores,
    )  # fmt: skip
    mean = found.mean + np.concatenate([white.ols, np.zeros(len(degree))])
    keep = np.concatenate([np.full(white.p, True), degree != ABSENT])
    names = [str(parameter) for parameter in list_parameters(moments.fixed, structure)]

    def by_name(values: Array) -> dict[str, float]:
        return dict(zip(names, values[keep].tolist(), strict=True))

    error = by_name(found.error)
    every = (*resolved.fixed, *resolved.sd, resolved.sigma)
    is_proper = all(prior.proper for prior in every)
    accuracy = max(error.values())
    return QuadraturePosterior(
        moments=moments,
        structure=structure,
        priors=resolved,
        mean=by_name(mean),
        sd=by_name(found.sd),
        error=error,
        log_marginal=found.log_mass if is_proper else float("nan"),
        densities=_draw_densities(structure, found, resolved.frame),
        accuracy=accuracy,
        tolerance=tolerance,
        converged=not found.note,
        stopped=found.note,
        note=_explain(found, error, tolerance, budget),
        nodes=tuple(axis.size for axis in found.axes),
        seconds=time.perf_counter() - start,
    )


def _check_arguments(moments: Moments, tolerance: float, budget: int, cores: int | None) -> None:
    if not FINEST <= tolerance < 1.0:
        raise ArgumentError(
            f"tolerance={tolerance!r} cannot be certified; give one from {FINEST:g} to 1, in "
            "posterior SDs"
        )
    if not (isinstance(budget, int | np.integer) and budget > 0):
        raise ArgumentError(f"budget={budget!r} is not a count; give a positive integer of nodes")
    if cores is not None and not (isinstance(cores, int | np.integer) and cores > 0):
        raise ArgumentError(f"cores={cores!r} is not a count; give a positive integer or None")
    if len(moments.random) > 2:
        raise ArgumentError(
            f"{len(moments.random)} random coefficients ({', '.join(moments.random)}) are too "
            "many for quadrature, which takes 1 or 2; use sample()"
        )


def _check_priors(moments: Moments, priors: ResolvedPriors) -> None:
    for prior in (*priors.sd, priors.sigma):
        if prior.code < 0:
            raise PriorError(
                f"{prior} has no density that quadrature can read; use one such as bhlm.Normal, or "
                "sample()"
            )
    for name, prior in zip(moments.fixed, priors.fixed, strict=True):
        if isinstance(prior, Normal) or (isinstance(prior, Flat) and prior.power == 0.0):
            continue
        raise PriorError(
            f"{prior} of the fixed effect '{name}' cannot be integrated out exactly; give it "
            "Normal or Flat(), or use sample()"
        )


def _explain(found: Summed, error: dict[str, float], tolerance: float, budget: int) -> str:
    """Return one sentence on what keeps the error above the tolerance, empty if nothing does."""
    worst = max(error, key=error.__getitem__)
    if found.note == "tail":
        return (
            f"The tails of {worst} are too heavy for its mean or SD to be certified (error "
            f"{error[worst]:.1g} SDs): it may not exist, or the posterior be improper; tighter "
            "priors or more groups would help."
        )
    if found.note == "budget":
        return (
            f"{budget} nodes do not suffice for a tolerance of {tolerance:g}: {worst} is accurate "
            f"to {error[worst]:.1g} SDs; give a larger budget, or centre the random slope's "
            "covariate if the correlation is near 1 or -1."
        )
    return ""


def _draw_densities(
    structure: Structure, found: Summed, frame: Frame
) -> dict[str, tuple[Array, Array]]:
    """Return points and marginal density of SDs, variances and the correlation."""
    first, second, turn, last = found.axes
    densities: dict[str, tuple[Array, Array]] = {}
    kept = np.all(np.linalg.inv(frame.random) == np.eye(len(structure.sds)), axis=1)
    axes = zip(structure.sds, kept, (first, second), found.sums.tables, strict=False)
    for sd, is_kept, axis, table in axes:
        if is_kept:
            densities |= _pair_scales(sd, *_draw_product(axis, last, table))
    if turn.kind == "corr" and kept.all():
        (name,) = (str(parameter) for parameter in structure.scaled if parameter.is_correlation)
        densities[name] = _draw_correlation(turn, found.sums.margins[2][:, 0])
    mass = found.sums.tables[0].sum(axis=0)
    sigma = map_nodes(last, last.y)
    points = _spread(sigma, mass)
    density = interpolate(last, mass / (mass.sum() * last.step), locate(last, points)) / points
    return densities | _pair_scales(RESIDUAL_SD, points, np.maximum(density, 0.0))


def _pair_scales(sd: Parameter, points: Array, density: Array) -> dict[str, tuple[Array, Array]]:
    """Return the density of an SD and that of its square."""
    squared = (points**2, density / (2.0 * points))
    return {str(sd): (points, density), str(sd.squared): squared}


def _draw_product(axis: Axis, last: Axis, table: Array) -> tuple[Array, Array]:
    """Return points and density of an SD, t sigma, from the mass by t and log sigma (n, n4).

    With the joint density g of y and log sigma, the density at sd is the integral over log
    sigma of g(y(sd / sigma), log sigma) dy/dt / sigma.
    """
    t, sigma = map_nodes(axis, axis.y), map_nodes(last, last.y)
    points = _spread(np.outer(t, sigma).ravel(), table.ravel())
    joint = table / table.sum() / weigh_nodes(axis)[:, None]
    density = np.zeros(len(points))
    for column, at in zip(joint.T, sigma, strict=True):
        y = locate(axis, points / at)
        density += interpolate(axis, column, y) * np.exp(-log_stretch(axis, y)) / at
    return points, np.maximum(density, 0.0)


def _draw_correlation(axis: Axis, mass: Array) -> tuple[Array, Array]:
    """Return points and density of the correlation, from the mass by its nodes."""
    points = np.linspace(-1.0, 1.0, PLOTTED + 2)[1:-1]
    y = locate(axis, points)
    stretch = (1.0 - points**2) * np.cosh(y)
    density = interpolate(axis, mass / (mass.sum() * axis.step), y) / stretch
    return points, np.maximum(density, 0.0)


def _spread(values: Array, mass: Array) -> Array:
    """Return equally spaced points between the outer quantiles of the mass, above zero."""
    order = np.argsort(values)
    share = np.cumsum(mass[order]) / mass.sum()
    low = values[order][np.searchsorted(share, EDGE)]
    high = values[order][min(int(np.searchsorted(share, 1.0 - EDGE)), len(values) - 1)]
    if low < 0.05 * high:
        return np.linspace(0.0, high, PLOTTED + 1)[1:]
    return np.linspace(low, high, PLOTTED)
