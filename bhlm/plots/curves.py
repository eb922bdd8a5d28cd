"""Curves: profile likelihood, prior and posterior density of each variance parameter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline

from bhlm.errors import check_arguments
from bhlm.likelihood.parameters import map_names
from bhlm.plots.choice import choose_parameters, merge_names, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Line, Mark, Panel, Points
from bhlm.reconciliation.comparison import Comparison
from bhlm.reconciliation.curves import find_density
from bhlm.reml.profile.intervals import build_profile

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

MOST = 12  # panels of the default figure
HEIGHT = 250  # pixels of a panel
# Each point of a profile is a fit, whose cost grows with the number of groups.
POINTS, FEW_POINTS, MANY_GROUPS = 21, 11, 2000
FINE, NEAR = 81, 41  # points that are drawn, over the panel and about each peak
SEEN, FEWEST = 0.01, 5  # a profile needs so many points above that share of its peak
VANISHING = 1e-250  # share of the peak below which a curve has no logarithm worth using
ROUNDING = 1e-9
CURVES = {
    "profile": ("profile", "REML profile likelihood"),
    "prior": ("prior", "prior density"),
    "posterior": ("posterior", "posterior density"),
}


@check_arguments
def plot_curves(
    both: Comparison,
    *,
    names: str | Sequence[str] | None = None,
    points: int | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of profile likelihood, prior and posterior density, overlaid.

    Each curve is divided by its own highest value in the panel. The posterior is likelihood times
    prior, so that on this scale a level prior leaves the likelihood's shape as it is, and a prior
    that rises or falls pulls; the profile and the likelihood that is integrated over the other
    parameters are not quite the same, which is the share called shape. Marked are the REML
    estimate and the posterior mean.

    Between the points at which they are computed, profile and prior are interpolated on the log
    scale. The figure's table has the columns `parameter`, `x`, and relative to their peaks
    `profile`, `prior`, `posterior`.

    Args:
        both: the reconciliation.
        names: SDs, variances and correlations to draw; None for SDs and correlations, up to 12,
            those of the largest gaps.
        points: at which each curve is computed; None for 21, or 11 with more than 2000 groups.
        var_names: the same by ArviZ's name, which takes "beta" and "sd|school" too.

    Raises:
        ArgumentError: a name that has no curves, or fewer than two points.
    """
    names = merge_names(names, var_names, both.post.parameters)
    import pandas as pd

    if points is None:
        _, post = both.split_pair("both.curves()")
        points = POINTS if post.moments.n_groups <= MANY_GROUPS else FEW_POINTS
    found = both.curves(points=points)
    known = list(dict.fromkeys(found["parameter"]))
    weight = both.table["gap_sd"].abs().fillna(0.0)
    every = map_names(both.post.parameters)
    default = [name for name in known if not every[name].is_squared]
    chosen, omitted = choose_parameters(known, names, default=default, weight=weight, most=MOST)
    curves = {name: scale_curves(both, found[found["parameter"] == name]) for name in chosen}
    panels = tuple(_draw_panel(name, both, curves[name]) for name in chosen)
    return Figure(
        name="curves",
        title="Profile likelihood, prior and posterior",
        reading=_read(both, curves) + omitted + ".",
        table=pd.concat(curves.values(), ignore_index=True),
        panels=panels,
        height=len(panels) * HEIGHT + 60,
    )


def scale_curves(both: Comparison, rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the curves of one parameter on a finer grid, each relative to its highest value.

    Args:
        both: the reconciliation.
        rows: of `both.curves()`, those of the parameter.
    """
    import pandas as pd

    name = str(rows["parameter"].iloc[0])
    x = rows["x"].to_numpy(float)
    estimate, se = both.reml.estimates.loc[name, ["estimate", "se"]]
    at, density = _find_density(both, name)
    middle = (float(both.table.loc[name, "posterior"]), float(both.table.loc[name, "sd"]))
    # Where prior and likelihood are far apart, each curve is narrow in the span of all.
    fine = np.unique(
        np.concatenate(
            [
                np.linspace(x[0], x[-1], FINE),
                *(_lay_around(centre, sd, x) for centre, sd in ((estimate, se), middle)),
            ]
        )
    )
    nodes, profile = x, rows["profile"].to_numpy(float)
    if (profile > SEEN).sum() < FEWEST:
        extra = np.setdiff1d(_lay_around(estimate, se, x, points=FEW_POINTS), x)
        if len(extra):
            sd = _unsquare(both, name)
            rise = build_profile(both.split_pair("both.curves()")[0], sd).rise
            held = np.sqrt(extra) if sd != name else extra
            more = np.exp([-0.5 * rise(float(value)) for value in held])
            order = np.argsort(np.concatenate([x, extra]))
            nodes = np.concatenate([x, extra])[order]
            profile = np.concatenate([profile, more])[order]
    curves = {
        "profile": refine_curve(nodes, profile, fine),
        "prior": refine_curve(x, rows["prior"].to_numpy(float), fine),
        "posterior": np.interp(fine, at, density, left=np.nan, right=np.nan),
    }
    scaled = {}
    for key, drawn in curves.items():
        peak = np.nanmax(drawn, initial=0.0)
        scaled[key] = drawn / peak if peak > 0.0 else drawn
    return pd.DataFrame({"parameter": name, "x": fine, **scaled})


def refine_curve(x: Array, y: Array, fine: Array) -> Array:
    """Return a positive curve (f,) at finer points, by a cubic spline on the log scale.

    There the log-density of a normal is met exactly. Beyond the first and the last point at which
    the curve is known it is nan; next to a point where it vanishes it is interpolated linearly.

    Args:
        x: points (m,), increasing.
        y: the curve (m,); nan where it is not known.
        fine: points (f,) wanted.
    """
    is_known = np.isfinite(y)
    if is_known.sum() < 2:
        return np.full(len(fine), np.nan)
    line = np.interp(fine, x[is_known], y[is_known], left=np.nan, right=np.nan)
    is_high = is_known & (y > VANISHING * np.nanmax(y))
    if is_high.sum() < 4:
        return line
    logs = CubicSpline(x[is_high], np.log(y[is_high]), extrapolate=False)(fine)
    inner = np.interp(fine, x, is_high.astype(float)) > 1.0 - ROUNDING
    return np.where(inner & np.isfinite(logs), np.exp(logs), line)


def _lay_around(centre: float, sd: float, x: Array, *, points: int = NEAR) -> Array:
    """Return points over 4 SDs about a centre, as far as they lie within the grid x."""
    if not (np.isfinite(centre) and np.isfinite(sd)):
        return np.empty(0)
    found = centre + 4.0 * sd * np.linspace(-1.0, 1.0, points)
    return found[(found >= x[0]) & (found <= x[-1])]


def _find_density(both: Comparison, name: str) -> tuple[Array, Array]:
    """Return points and posterior density, by importance sampling or else by the draws."""
    _, post = both.split_pair("both.curves()")
    parameter = map_names(post.parameters)[name]
    return find_density(parameter, post, both.evidence.weighted)


def _unsquare(both: Comparison, name: str) -> str:
    """Return the SD's name for a variance's."""
    return str(map_names(both.post.parameters)[name].scaled)


def _draw_panel(name: str, both: Comparison, curves: "pd.DataFrame") -> Panel:
    x = curves["x"].to_numpy()
    marks: list[Mark] = []
    for key, (role, label) in CURVES.items():
        y = curves[key].to_numpy()
        texts = tuple(
            f"{say(name)} = {at:.5g}\n{label}: {value:.3f} of its peak"
            for at, value in zip(x, y, strict=True)
        )
        marks.append(Line(x, y, role, label, texts, width=2.5 if key == "posterior" else 2.0))
    row = both.table.loc[name]
    for key, role, label, curve in (
        ("reml", "reml", "REML estimate", "profile"),
        ("posterior", "posterior", "posterior mean", "posterior"),
    ):
        value = float(row[key])
        if np.isfinite(value):
            height = float(np.interp(value, x, np.nan_to_num(curves[curve].to_numpy())))
            text = f"{say(name)}\n{label}: {value:.6g}"
            marks.append(
                Points(np.array([value]), np.array([height]), role, label, (text,), size=10.0)
            )
    room = 0.03 * float(np.ptp(x))
    return Panel(
        Axis("", range=(float(x.min()) - room, float(x.max()) + room)),
        Axis("share of own peak", range=(-0.03, 1.1)),
        tuple(marks),
        title=title(name),
    )


def _read(both: Comparison, curves: dict[str, "pd.DataFrame"]) -> str:
    """Return what the curves say, without the full stop."""
    limits = both.post.estimates
    shifts, tilts = {}, {}
    for name, rows in curves.items():
        x = rows["x"].to_numpy()
        if rows[["profile", "posterior"]].notna().any().all():
            peaks = {key: x[int(np.nanargmax(rows[key]))] for key in ("profile", "posterior")}
            shifts[name] = (peaks["posterior"] - peaks["profile"]) / both.table.loc[name, "sd"]
        inside = (x >= limits.loc[name, "lower"]) & (x <= limits.loc[name, "upper"])
        prior = rows["prior"].to_numpy()[inside]
        prior = prior[prior > 0.0]
        if len(prior):
            tilts[name] = float(prior.max() / prior.min())
    clauses = []
    if shifts:
        far = max(shifts, key=lambda name: abs(shifts[name]))
        lead = "furthest" if len(shifts) > 1 else "placed"
        clauses.append(
            f"The posterior's peak is {lead} from the profile's in {say(far)}, by "
            f"{shifts[far]:+.2f} posterior SDs"
        )
    if tilts:
        steep = max(tilts, key=tilts.__getitem__)
        most = " at most" if len(tilts) > 1 else ""
        clauses.append(
            f"over the posterior's 95 % interval the prior changes{most} by a factor of "
            f"{tilts[steep]:.3g} ({say(steep)}), where 1 would leave the likelihood as it is"
        )
    text = "; ".join(clauses) or "No curve is known here"
    return text[0].upper() + text[1:]
