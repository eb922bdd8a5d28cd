"""The maxima of several responses over one X, from where that of the first one is.

Plausible values have variances near each other, so that Newton's method arrives after a few steps.
All that a response needs is one compiled pass: scaling, search, curvature and the scores of groups.
"""

from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import build_panels
from bhlm.likelihood.profiled import Criterion, profile_products, weigh_blocks
from bhlm.likelihood.visit import Descent, descend_panels, hold_variance, take_criterion
from bhlm.likelihood.weighted import weigh_panels
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

STEPS = 8
# What rounding may leave of a gradient, in units of 10,000 rows: beyond, no search has arrived.
ARRIVED = 1e-7


class Arrival(NamedTuple):
    """A stationary point that a search came to."""

    descent: Descent
    criterion: Criterion
    linear: float  # the criterion without random effects


def search_beside(
    white: Whitened, structure: Structure, *, restricted: bool, theta: Array
) -> Arrival | None:
    """Return where a search from theta (c,) arrives; None where it does not within a few steps.

    Args:
        white: the whitened cross-products.
        structure: of the random effects.
        restricted: True for REML, False for ML.
        theta: where to start.
    """
    panels = build_panels(weigh_blocks(white.blocks, white.q, white.groups), white.q)
    held = np.nan if white.held is None else white.held
    found = descend_panels(
        panels.values,
        panels.reach,
        panels.total,
        weigh_panels(white.groups),
        structure.factors,
        theta,
        white.n,
        restricted,
        held,
        STEPS,
    )
    if not np.abs(found.gradient).max() < ARRIVED * max(1.0, white.n / 1e4):
        return None
    criterion = take_criterion(found, white, restricted)
    linear = profile_products(0.0, panels.total, white.n, restricted)
    return Arrival(found, criterion, hold_variance(linear, white.p, white.n, restricted, held)[0])
