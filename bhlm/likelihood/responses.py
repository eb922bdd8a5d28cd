"""The maxima of several responses over one X, from where that of the first one is.

Plausible values have variances near each other, so that Newton's method arrives after a few steps.
What the responses have in common is taken from the first one's whitening; all that each one needs
of the groups is one compiled pass: its whitened column, the search, and the scores of groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bhlm.kernels import kernel
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import pack_panels
from bhlm.likelihood.profiled import Criterion, profile_products
from bhlm.likelihood.scores import Sandwich, find_scores
from bhlm.likelihood.visit import Descent, descend_panels, hold_variance, take_criterion
from bhlm.likelihood.weighted import scale_groups, weigh_panels
from bhlm.likelihood.whitening import Whitened, load_responses
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
    more = weigh_panels(white.groups)
    for at, moments in enumerate(several):
        if not loaded.is_sound[at]:
            yield None
            continue
        scale = float(loaded.scale[at])
        held = None if white.held is None else 1.0 / scale**2
        blocks, panels, reach, total = _place(
            moments.cross,
            moments.mass,
            loaded.means,
            loaded.mean[at],
            loaded.inner,
            loaded.columns[at],
            ones if applied is None else np.asarray(applied.factor, dtype=np.float64),
            white.blocks,
            np.empty(0) if white.groups is None else white.groups,
            q,
        )
        descent = descend_panels(
            *(panels, reach, total, more, structure.factors, theta),
            *(white.n, restricted, np.nan if held is None else held, STEPS),
        )
        if not np.abs(descent.gradient).max() < ARRIVED * max(1.0, white.n / 1e4):
            yield None
            continue
        own = replace(white, blocks=blocks, ols=loaded.ols[at], scale=scale, held=held)
        criterion = take_criterion(descent, own, restricted)
        none = profile_products(0.0, total, own.n, restricted)
        linear = hold_variance(none, own.p, own.n, restricted, np.nan if held is None else held)[0]
        sandwich = None
        if scored:
            sandwich = find_scores(
                *(moments, own, structure),
                beta=descent.beta,
                lam=descent.lam,
                v=criterion.sigma2,
                phi=descent.phi,
            )
        yield Arrival(own, descent, criterion, linear, sandwich)


@kernel
def _place(
    cross: Array,
    mass: Array,
    means: Array,
    mean: Array,
    inner: Array,
    column: Array,
    factor: Array,
    shared: Array,
    groups: Array,
    q: int,
) -> tuple[Array, Array, float, Array]:
    """Return the whitened blocks of a response, and their `Panels`: values, reach and total.

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
        q: random coefficients.
    """
    n_groups, width, _ = shared.shape
    last = width - 1
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
        if (j + 1) % STRETCH == 0 or j + 1 == n_groups:
            total += part
            part[:] = 0.0
    panels, reach = pack_panels(scaled, q)
    return blocks, panels, reach, total
