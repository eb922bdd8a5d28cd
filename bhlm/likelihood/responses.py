"""The maxima of several responses over one X, from where that of the first one is.

Plausible values have variances near each other, so that Newton's method arrives after a few steps.
What the responses have in common is taken from the first one's whitening; all that each one needs
of the groups is one compiled pass: its whitened column, the search, and the scores of groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.loading import Loaded, load_responses
from bhlm.likelihood.panels import LANES, pack_weighted
from bhlm.likelihood.profiled import Criterion, profile_products
from bhlm.likelihood.scores import Sandwich, fill_groups, lead_back, reflect_lower
from bhlm.likelihood.visit import Descent, descend_panels, hold_variance, take_criterion
from bhlm.likelihood.weighted import weigh_panels
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments
from bhlm.moments.sums import STRETCH

Array = np.ndarray

STEPS = 8
# What rounding may leave of a gradient, in units of 10,000 rows: beyond, no search has arrived.
ARRIVED = 1e-7


class Arrival(NamedTuple):
    """The stationary point that the search of one response came to."""

    white: Whitened
    descent: Descent
    criterion: Criterion
    linear: float  # the criterion without random effects


class Arrivals(NamedTuple):
    """Where the searches of several responses came to."""

    # None where a search did not arrive within a few steps, or the response is constant, or fitted
    # perfectly.
    each: list[Arrival | None]
    # Of all r responses, (r, ...); what did not arrive has no meaning. None if not asked for.
    sandwich: Sandwich | None


def search_beside(
    several: Sequence[Moments],
    structure: Structure,
    white: Whitened,
    *,
    restricted: bool,
    theta: Array,
    scored: bool,
) -> Arrivals:
    """Return for each response where a search from theta (c,) arrives.

    Args:
        several: moments over the columns, rows and weights of `white`, but for the response.
        structure: of the random effects.
        white: the whitened moments of another response.
        restricted: True for REML, False for ML.
        theta: where to start.
        scored: whether the scores of groups are asked for.
    """
    loaded = load_responses(several, structure, white)
    shared = _share(several[0], white)
    # What is the response's own in these is written by `_place`.
    panels, reach, total = pack_weighted(white.blocks, white.q, np.sqrt(shared.groups))
    more, limit = weigh_panels(white.groups), ARRIVED * max(1.0, white.n / 1e4)
    each: list[Arrival | None] = []
    for at, scale in enumerate(loaded.scale.tolist()):
        each.append(None)
        if not loaded.is_sound[at]:
            continue
        blocks = np.empty_like(white.blocks)
        _place(at, loaded, shared, white.q, blocks, panels, total)
        held = np.nan if white.held is None else 1.0 / scale**2
        descent = descend_panels(
            *(panels, reach, total, more, structure.factors, theta),
            *(white.n, restricted, held, STEPS),
        )
        if not np.abs(descent.gradient).max() < limit:
            continue
        own = white.respond(
            blocks, ols=loaded.ols[at], scale=scale, held=None if white.held is None else held
        )
        none = profile_products(0.0, total, own.n, restricted)
        linear = hold_variance(none, own.p, own.n, restricted, held)[0]
        each[at] = Arrival(own, descent, take_criterion(descent, own, restricted), linear)
    sandwich = _score_each(each, loaded, shared, structure, white) if scored else None
    return Arrivals(each, sandwich)


def _score_each(
    each: Sequence[Arrival | None],
    loaded: Loaded,
    shared: "_Shared",
    structure: Structure,
    white: Whitened,
) -> Sandwich:
    """Return the scores and the Hessians of all responses that have arrived."""
    directions = np.ascontiguousarray(structure.directions)
    p, width = white.p, white.p + len(directions) + 1
    scores = np.zeros((len(each), len(white.blocks), width))
    hessians = np.tile(np.eye(width), (len(each), 1, 1))
    phis, vs = np.tile(np.eye(p), (len(each), 1, 1)), np.ones(len(each))
    for at, arrived in enumerate(each):
        if arrived is None:
            continue
        found, vs[at] = arrived.descent, arrived.criterion.sigma2
        hessians[at] = fill_groups(
            *(arrived.white.blocks, shared.size, shared.groups, found.beta, found.lam),
            *(directions, vs[at], scores[at]),
            has_fixed=True,
        )
        phis[at] = found.phi
        reflect_lower(hessians[at])
    hessians[:, :p, :p] = np.linalg.inv(phis) / vs[:, None, None]
    fixed, variances = lead_back(white, structure)
    scale = loaded.scale[:, None, None]
    return Sandwich(scores, hessians, scale * fixed, scale**2 * variances)


class _Shared(NamedTuple):
    """What responses have in common."""

    cross: Array  # (J, k, k) of any response, of which the last row and column are not read
    mass: Array  # (J,) what groups count by
    factor: Array  # (J,) by which sampling weights scale a group's products
    size: Array  # (J,) rows that count
    groups: Array  # (J,) weights, ones for none
    blocks: Array  # (J, w + 1, w + 1) whitened, of any response


def _share(moments: Moments, white: Whitened) -> _Shared:
    """Return what responses have in common, from the moments and the whitening of any."""
    applied, ones = moments.applied, np.ones(len(white.blocks))
    factor, size = (ones, moments.n) if applied is None else (applied.factor, applied.size)
    return _Shared(
        np.ascontiguousarray(moments.cross),
        np.asarray(moments.mass, dtype=np.float64),
        np.asarray(factor, dtype=np.float64),
        np.asarray(size, dtype=np.float64),
        ones if white.groups is None else white.groups,
        white.blocks,
    )


@kernel
def _place(
    at: int,
    loaded: Loaded,
    shared: _Shared,
    q: int,
    blocks: Array,
    panels: Array,
    total: Array,
) -> None:
    """Write the whitened blocks of a response, and what panels and their total have of it.

    Args:
        at: which response.
        loaded: all of them.
        shared: what they have in common.
        q: random coefficients.
        blocks: (J, w + 1, w + 1) to be written.
        panels: (T, q, w + 1, LANES) of which the last column is written.
        total: (p + 1, p + 1) of which the last row and column are written.
    """
    column, last, inner = loaded.columns[at], loaded.last[at], loaded.inner
    n_groups, width, _ = blocks.shape
    k, w = len(column), width - 1
    turned, row, part = np.empty(k), np.empty(width), np.zeros(width - q)
    total[w - q] = 0.0
    for j in range(n_groups):
        # Element by element, which is faster than to copy all groups at once.
        for a in range(w):
            for c in range(w):
                blocks[j, a, c] = shared.blocks[j, a, c]
        turned[:] = 0.0
        row[:] = 0.0
        for b in range(k - 1):
            for a in range(k - 1):
                turned[a] += column[b] * shared.cross[j, b, a]
            turned[k - 1] += column[b] * last[j, b]
        for a in range(k):
            turned[a] += column[k - 1] * last[j, a]
        for a in range(k - 1):
            for c in range(w):
                row[c] += turned[a] * inner[a, c]
        for a in range(k):
            row[w] += turned[a] * column[a]
        mean, factor = loaded.mean[at, j], shared.factor[j]
        share = shared.mass[j] * mean
        for c in range(w):
            row[c] = factor * (row[c] + share * loaded.means[j, c])
        row[w] = factor * (row[w] + share * mean)
        for c in range(width):
            blocks[j, w, c] = blocks[j, c, w] = row[c]
        for i in range(q):
            panels[j // LANES, i, w, j % LANES] = np.sqrt(shared.groups[j]) * row[i]
        for a in range(width - q):
            part[a] += shared.groups[j] * row[q + a]
        if (j + 1) % STRETCH == 0 or j + 1 == n_groups:
            for a in range(width - q):
                total[w - q, a] += part[a]
            part[:] = 0.0
    for a in range(w - q):
        total[a, w - q] = total[w - q, a]
