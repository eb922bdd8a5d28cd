"""Forest: every parameter on one axis, by each fit and as published, in units that compare."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import count, format_digits
from bhlm.plots.choice import say
from bhlm.plots.figure import Figure
from bhlm.plots.intervals import tabulate_intervals
from bhlm.plots.marks import Axis, Mark, Note, Panel, Points, Rule, Segments
from bhlm.plots.style import cut_middle
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.maximum import Maximum
from bhlm.reml.strata import StrataEstimate
from bhlm.studies.imputations.pooled import Pooled

if TYPE_CHECKING:
    import pandas as pd

MOST = 24  # parameters of the figure
ROW, FRAME = 38, 110  # pixels of a parameter, and of axis and legend
FEWEST = 300  # pixels of the whole figure
LONGEST = 40  # characters of a parameter's name
EDGE = 20.0  # standard errors from zero beyond which a position is told, not drawn
NEAREST = 4.0  # posterior SDs from REML that the axis of both answers has on either side at least
SLACK = 1.2  # of these, up to which an interval that begins before goes on
BESIDE = 1.25  # of the posterior's furthest end, up to which other intervals are drawn
FAR_ROOM = 0.18  # of the axis, for the texts of these positions
ROLES = {
    "REML": "reml",
    "ML": "reml",
    "pooled": "reml",
    "posterior": "posterior",
    "published": "published",
}


@check_arguments
def plot_forest(
    fit: "Comparison | Maximum | FamilyMaximum | Posterior | Pooled | StrataEstimate",
) -> Figure:
    """Return the forest of fixed effects, SDs and correlations with their 95 % intervals.

    Of a reconciliation every parameter stands in posterior SDs from its REML estimate, so that a
    gap of one has the same length everywhere; of one fit in its own standard errors (or posterior
    SDs) from zero, so that what is clear of zero shows. An interval that is undefined is not drawn.

    The figure's table has `parameter`, `source`, `value`, `lower`, `upper` in the parameter's own
    units, `unit`, and `position`, `from`, `to` as drawn.

    Args:
        fit: a reconciliation, one fit by REML, ML or Bayes, or pooled fits.

    Raises:
        ArgumentError: something else.
    """
    if isinstance(fit, Comparison):
        return _draw_both(fit)
    if isinstance(fit, Posterior):
        return _draw_one(fit, "posterior", value="mean", spread="sd")
    if isinstance(fit, Pooled):
        return _draw_one(fit, "pooled")
    if isinstance(fit, Maximum | FamilyMaximum | StrataEstimate):
        return _draw_one(fit, fit.method.upper())
    raise ArgumentError(
        f"a {type(fit).__name__} has no forest; give a fit, or what bhlm.reconcile() returned"
    )


def list_rows(fit: Any) -> list[str]:
    """Return the rows of a fit's table on the scale of SDs, fixed effects first."""
    weights = fit.weights if isinstance(fit, Maximum) else None
    is_held = weights is not None and weights.holds_sigma  # sigma is 1 then, and no estimate
    return [
        str(each)
        for each in fit.parameters
        if not each.is_squared and not (is_held and each.is_residual)
    ]


def _draw_both(both: Comparison) -> Figure:
    names = list_rows(both.post)[:MOST]
    table = tabulate_intervals(both, names)
    posterior = both.post.estimates.loc[names]
    # A posterior without an SD is drawn by a quarter of its interval.
    unit = posterior["sd"].fillna((posterior["upper"] - posterior["lower"]) / 4.0)
    center = both.reml.estimates.loc[names, "estimate"]
    table = _place(table, center=center, unit=unit)
    gap = both.table.loc[names, "gap_sd"].abs()
    label = both.reml.method.upper()
    inside = table[table["source"] == "published"]
    reading = (
        f"Of {count(len(names), 'parameter')} the posterior mean lies at most "
        f"{format_digits(float(gap.max()), 2)} posterior SDs from {label} "
        f"({say(str(gap.idxmax()))})"
        if gap.notna().any()
        else "No gap between the two answers can be told"
    )
    if len(inside):
        reading += f"; {count(len(inside), 'published value')} stand beside them"
    # SDs are never zero.
    free = [str(each) for each in both.post.parameters if not each.is_sd]
    own = table.loc[table["source"] == "posterior", ["position", "from", "to"]].to_numpy()
    furthest = float(np.max(np.abs(own[np.isfinite(own)]), initial=0.0))
    edge = max(NEAREST, BESIDE * furthest)
    return _finish(table, names, f"posterior SDs from {label}", reading, zeros=free, edge=edge)


def _draw_one(fit: Any, source: str, *, value: str = "estimate", spread: str = "se") -> Figure:
    import pandas as pd

    names = list_rows(fit)[:MOST]
    estimates = fit.estimates.loc[names]
    table = pd.DataFrame(
        {
            "parameter": names,
            "source": source,
            "value": estimates[value].to_numpy(),
            "lower": estimates["lower"].to_numpy(),
            "upper": estimates["upper"].to_numpy(),
        }
    )
    zero = pd.Series(0.0, index=names)
    table = _place(table, center=zero, unit=estimates[spread])
    # An interval of an SD is always clear of zero.
    free = {str(each): each for each in fit.parameters if not each.is_sd}
    is_free = table["parameter"].isin(free)
    clear = int((is_free & ((table["lower"] > 0.0) | (table["upper"] < 0.0))).sum())
    level = f"{100 * fit.level:g}" if isinstance(fit, Pooled) else "95"
    correlations = sum(free[name].is_correlation for name in names if name in free)
    some = count(int(is_free.sum()) - correlations, "fixed effect")
    if correlations:
        some += f" and {count(correlations, 'correlation')}"
    reading = f"Of {some} the {level} % interval of {clear or 'none'} is clear of zero"
    unit = "posterior SDs from zero" if source == "posterior" else "standard errors from zero"
    return _finish(table, names, unit, reading, edge=EDGE)


def _place(
    table: "pd.DataFrame", *, center: "pd.Series[float]", unit: "pd.Series[float]"
) -> "pd.DataFrame":
    """Return the table with positions in units from the center, nan where there is no unit."""
    own = unit.where(unit > 0.0).reindex(table["parameter"]).to_numpy()
    at = center.reindex(table["parameter"]).to_numpy()
    placed = {
        new: (table[old].to_numpy() - at) / own
        for old, new in (("value", "position"), ("lower", "from"), ("upper", "to"))
    }
    return table.assign(unit=own, **placed, zero=-at / own)


def _finish(
    table: "pd.DataFrame",
    names: list[str],
    unit: str,
    reading: str,
    *,
    zeros: Sequence[str] = (),
    edge: float | None = None,
) -> Figure:
    """Return the figure of placed estimates, with a mark at the zero of each of `zeros`.

    What lies beyond `edge`, an estimate or the end of an interval, is told there, so that it does
    not press the others together.
    """
    sources = list(dict.fromkeys(table["source"]))
    marks: list[Mark] = [Rule(0.0, "x", "reference")]
    ends = table[["position", "from", "to"]].to_numpy()
    ends = np.append(ends[np.isfinite(ends)], 0.0)
    low, high = float(ends.min()), float(ends.max())
    if edge is not None:
        near = ends[np.abs(ends) <= SLACK * edge]
        low = float(near.min()) if low >= -SLACK * edge else min(-edge, float(near.min()))
        high = float(near.max()) if high <= SLACK * edge else max(edge, float(near.max()))
    room = 0.05 * (high - low) or 0.5
    told: dict[tuple[float, str], Note] = {}  # by the side and the parameter, one of each
    for at, source in enumerate(sources):
        rows = table[table["source"] == source]
        y = np.array([names.index(name) for name in rows["parameter"]], dtype=float)
        y += 0.22 * (at - (len(sources) - 1) / 2.0)
        position, left, right = (rows[name].to_numpy() for name in ("position", "from", "to"))
        known = (low <= position) & (position <= high)
        far = np.isfinite(position) & ~known
        has_ends = known & np.isfinite(left) & np.isfinite(right)
        for k, name in enumerate(rows["parameter"]):
            beyond = [position[k]] if far[k] else [left[k], right[k]] if has_ends[k] else []
            for x in beyond:
                if not low <= x <= high:
                    side = high if x > high else low
                    told.setdefault((side, name), _note_beyond(x, side, float(y[k])))
        role = ROLES[source]
        ends_drawn = (np.clip(each[has_ends], low, high) for each in (left, right))
        left, right = ends_drawn
        marks.append(Segments(left, y[has_ends], right, y[has_ends], role, width=2.5))
        hover = tuple(
            f"{say(row.parameter)}\n{source} {row.value:.6g}"
            + (f", {row.lower:.5g} to {row.upper:.5g}" if np.isfinite(row.lower) else "")
            for row in rows[known].itertuples()
        )
        marks.append(Points(position[known], y[known], role, source, hover=hover, size=9))
    marks += told.values()
    if told:
        reading += "; an arrow tells where an estimate or an interval lies beyond the axis"
    if zeros:
        first = table.drop_duplicates("parameter")
        near = first["zero"].between(low, high) & first["parameter"].isin(zeros)
        near = near.to_numpy()
        y = np.arange(len(first), dtype=float)[near]
        at = first["zero"].to_numpy()[near]
        if len(at):
            marks.append(Segments(at, y - 0.3, at, y + 0.3, "warning", "zero", width=3))
    labels = tuple(cut_middle(name, LONGEST) for name in names)
    places = tuple(map(float, range(len(names))))
    sides = {side for side, _ in told}
    before, behind = (FAR_ROOM * (high - low) if end in sides else room for end in (low, high))
    panel = Panel(
        Axis(unit, range=(low - before, high + behind)),
        Axis("", ticks=(places, labels), range=(len(names) - 0.4, -0.6)),
        tuple(marks),
    )
    return Figure(
        name="forest",
        title="Every parameter on one axis",
        reading=reading + ".",
        table=table.drop(columns="zero"),
        panels=(panel,),
        height=max(FEWEST, ROW * len(names) + FRAME),
    )


def _note_beyond(x: float, side: float, y: float) -> Note:
    """Return a position beyond a side of the axis, with an arrow to it."""
    text = f"{x:.0f} →" if x > side else f"← {x:.0f}".replace("-", "\N{MINUS SIGN}")
    return Note(side, y, text, before=x < side)
