"""The maxima of several responses over one X, from where that of the first one is.

Plausible values have variances near each other, so that Newton's method arrives after a few steps.
What the responses have in common is taken from the first one's whitening; all that each one needs
of the groups is one compiled pass: its whitened column, the search, and the scores of groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numba
import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import pack_panels
from bhlm.likelihood.profiled import Criterion, profile_products
from bhlm.likelihood.scores import Sandwich, fill_scores, reflect_lower, tie_sandwich
from bhlm.likelihood.visit import Descent, descend_panels, hold_variance, take_criterion
from bhlm.likelihood.weighted import scale_groups, weigh_panels
from bhlm.likelihood.whitening import Whitened, load_responses
from bhlm.moments.moments import Moments

Array = np.ndarray

STEPS = 8
# What rounding may leave of a gradient, in units of 10,000 rows: beyond, no search has arrived.
ARRIVED = 1e-7
TOGETHER = 1024  # groups that are added up in one go, see `bhlm.moments.sums`


class Arrival(NamedTuple):
    """The stationary point that the search of one response came to."""

    white: Whitened
    descent: Descent
    criterion: Criterion
    linear: float  # the criterion without random effects
    sandwich: Sandwich | None


def search_beside(
    several: Sequence[Moments],
    structure: Structure,
    white: Whitened,
    *,
    restricted: bool,
    theta: Array,
    scored: bool,
) -> Iterator[Arrival | None]:
    """Yield for each response where a search from theta (c,) arrives.

    None where it does not within a few steps, or the response is constant, or fitted perfectly.

    Args:
        several: moments over the columns, rows and weights of `white`, but for the response.
        structure: of the random effects.
        white: the whitened moments of another response.
        restricted: True for REML, False for ML.
        theta: where to start.
        scored: whether the scores of groups are asked for.
    """
    loaded = load_responses(several, structure, white)
    applied = several[0].applied
    n_groups, q = len(white.blocks), white.q
    ones = np.ones(n_groups)
    size = np.asarray(several[0].n if applied is None else applied.size, dtype=np.float64)
    directions = np.ascontiguousarray(structure.directions)
    for at, moments in enumerate(several):
        if not loaded.is_sound[at]:
            yield None
            continue
        scale = float(loaded.scale[at])
        held = None if white.held is None else 1.0 / scale**2
        blocks, total, descent, scores, hessian = _search(
            moments.cross,
            moments.mass,
            loaded.means,
            loaded.mean[at],
            loaded.inner,
            loaded.columns[at],
            ones if applied is None else np.asarray(applied.factor, dtype=np.float64),
            white.blocks,
            np.empty(0) if white.groups is None else white.groups,
            weigh_panels(white.groups),
            structure.factors,
            theta,
            white.n,
            restricted,
            np.nan if held is None else held,
            size,
            directions,
            scored,
        )
        if not np.abs(descent.gradient).max() < ARRIVED * max(1.0, white.n / 1e4):
            yield None
            continue
        own = replace(white, blocks=blocks, ols=loaded.ols[at], scale=scale, held=held)
        criterion = take_criterion(descent, own, restricted)
        none = profile_products(0.0, total, own.n, restricted)
        linear = hold_variance(none, own.p, own.n, restricted, np.nan if held is None else held)[0]
        sandwich = tie_sandwich(scores, hessian, own, structure) if scored else None
        assert blocks.shape[1] == q + own.p + 1
        yield Arrival(own, descent, criterion, linear, sandwich)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _search(
    cross: Array,
    mass: Array,
    means: Array,
    mean: Array,
    inner: Array,
    column: Array,
    factor: Array,
    shared: Array,
    groups: Array,
    more: Array,
    factors: Array,
    theta: Array,
    n: float,
    restricted: bool,
    held: float,
    size: Array,
    directions: Array,
    scored: bool,
) -> tuple[Array, Array, Descent, Array, Array]:
    """Return the blocks of a response, their sum of [X y]'[X y], its descent, scores and Hessian.

    Args:
        cross: (J, k, k) of its moments.
        mass: (J,) what groups count by.
        means: (J, w) of the whitened columns that are shared.
        mean: (J,) of its own.
        inner: (k, w) loadings of those.
        column: (k,) of its own.
        factor: (J,) by which sampling weights scale a group's products.
        shared: (J, w + 1, w + 1) of another response.
        groups: (J,) weights, or none.
        more: of the panels, as `weigh_panels`.
        factors: (c, q, q) of the structure.
        theta: (c,) to start at.
        n: rows.
        restricted: True for REML.
        held: the residual variance where it is known, else nan.
        size: (J,) rows that count, for the scores.
        directions: (m, q, q) of the structure.
        scored: whether scores are asked for.
    """
    n_groups, width, _ = shared.shape
    q, last = factors.shape[1], width - 1
    blocks = shared.copy()
    k = cross.shape[1]
    row = np.empty(width)
    for j in range(n_groups):
        row[:] = 0.0
        for a in range(k):
            turned = 0.0
            for b in range(k):
                turned += cross[j, a, b] * column[b]
            row[last] += turned * column[a]
            for c in range(last):
                row[c] += turned * inner[a, c]
        share = mass[j] * mean[j]
        for c in range(last):
            row[c] += share * means[j, c]
        row[last] += share * mean[j]
        for c in range(width):
            blocks[j, last, c] = blocks[j, c, last] = factor[j] * row[c]
    scaled = scale_groups(blocks, q, np.sqrt(groups)) if len(groups) > 0 else blocks
    total = np.zeros((width - q, width - q))
    part = np.zeros((width - q, width - q))
    for j in range(n_groups):
        part += scaled[j, q:, q:]
        if (j + 1) % TOGETHER == 0 or j + 1 == n_groups:
            total += part
            part[:] = 0.0
    panels, reach = pack_panels(scaled, q)
    found = descend_panels(panels, reach, total, more, factors, theta, n, restricted, held, STEPS)
    parameters = width - 1 - q + len(directions) + 1
    hessian = np.zeros((parameters, parameters))
    scores = np.empty((n_groups if scored else 0, parameters))
    if scored:
        p = width - 1 - q
        v = found.rss / (n - p if restricted else n) if np.isnan(held) else held
        weights = groups if len(groups) > 0 else np.ones(n_groups)
        hessian[:p, :p] = np.linalg.inv(found.phi) / v
        fill_scores(
            blocks, size, weights, found.beta, found.lam, directions, v, scores, hessian, True
        )
        reflect_lower(hessian)
    return blocks, total, found, scores, hessian
