"""Variance shares: what part of the variance is of the fixed effects, each factor, the residual."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.bayes.quantities import derive_r_squared
from bhlm.errors import ArgumentError, check_arguments
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Bars, Panel
from bhlm.plots.style import SERIES, cut_middle, shorten
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.compare import share_variance
from bhlm.reml.maximum import Maximum

ROW, FRAME = 54, 120  # pixels of a fit, and of axis and legend
MOST = 20  # fits
FIXED, RESIDUAL = "Fixed effects", "Residual"
WORDS = {FIXED: "of the fixed effects", RESIDUAL: "residual"}


@check_arguments
def plot_variance_shares(fits: Any) -> Figure:
    """Return a bar for each fit: the shares of the variance of the fixed part, factors, residual.

    The variance of X beta over the rows, the mean over the rows of z'Gz of each factor, and the
    residual variance, over their sum; the first is the marginal R2 (Nakagawa, Johnson &
    Schielzeth). Of a posterior they are posterior means. The figure's table has `fit`, `part` and
    `share`.

    Args:
        fits: a fit, a reconciliation, a list of fits, or fits by name.

    Raises:
        ArgumentError: no fit, something else among them, or more than 20.
    """
    import pandas as pd

    named = _name_fits(fits)
    shares = {name: _share(fit) for name, fit in named.items()}
    parts = list(dict.fromkeys(part for each in shares.values() for part in each))
    parts.sort(key=lambda part: (part == RESIDUAL, part != FIXED))
    table = pd.DataFrame(
        [[n, part, each[part]] for n, each in shares.items() for part in parts if part in each],
        columns=["fit", "part", "share"],
    )
    at = np.arange(len(named), dtype=float)
    base = np.zeros(len(named))
    marks = []
    for k, part in enumerate(parts):
        length = np.array([each.get(part, 0.0) for each in shares.values()])
        role = "reference" if part == RESIDUAL else SERIES[k % len(SERIES)]
        hover = tuple(
            f"{name}\n{part}: {100 * x:.1f} %" for name, x in zip(shares, length, strict=True)
        )
        marks.append(
            Bars(at, length, base.copy(), role, shorten(part), hover, horizontal=True, width=0.7)
        )
        base += length
    told = [
        ", ".join(f"{100 * x:.0f} % {WORDS.get(part, part)}" for part, x in each.items())
        + (f" in {shorten(name)}" if len(named) > 1 else "")
        for name, each in shares.items()
    ]
    ticks = (tuple(at.tolist()), tuple(cut_middle(name, 34) for name in named))
    return Figure(
        name="variance_shares",
        title="Where the variance lies",
        reading=f"Of the variance are {'; '.join(told[:4])}.",
        table=table,
        panels=(
            Panel(
                Axis("Share of the variance", range=(0.0, 1.0)),
                Axis("", ticks=ticks, range=(len(named) - 0.4, -0.6)),
                tuple(marks),
            ),
        ),
        height=ROW * len(named) + FRAME,
    )


def _name_fits(fits: Any) -> dict[str, Any]:
    if isinstance(fits, Comparison):
        return {"REML": fits.reml, "posterior": fits.post}
    if isinstance(fits, Mapping):
        named = {str(name): fit for name, fit in fits.items()}
    elif isinstance(fits, Sequence) and not isinstance(fits, str):
        named = {f"{k + 1}: {fit_name(fit)}": fit for k, fit in enumerate(fits)}
    else:
        named = {fit_name(fits): fits}
    if not 0 < len(named) <= MOST:
        raise ArgumentError(f"fits= has {len(named)} fits; give 1 to {MOST}")
    return named


def fit_name(fit: Any) -> str:
    """Return the formula of a fit.

    Raises:
        ArgumentError: something that is no fit.
    """
    if not isinstance(fit, Maximum | Draws):
        raise ArgumentError(
            f"a {type(fit).__name__} has no variance to share out; give a fit by REML, ML or Bayes"
        )
    return str(fit.moments.formula)


def _share(fit: Any) -> dict[str, float]:
    fit_name(fit)
    if isinstance(fit, Maximum):
        return share_variance(fit)
    found = derive_r_squared(fit).estimates["mean"]
    marginal, conditional = float(found["marginal"]), float(found["conditional"])
    return {
        FIXED: marginal,
        fit.moments.group: conditional - marginal,
        RESIDUAL: 1.0 - conditional,
    }
