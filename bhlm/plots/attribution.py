"""Attribution: the way from the REML estimate to the posterior mean, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import check_arguments
from bhlm.layout import count
from bhlm.plots.choice import choose_parameters, list_parameters, merge_names, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Bars, Mark, Panel, Points, Segments
from bhlm.reconciliation.comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd

MOST = 8  # waterfalls of the default figure
STEP, FRAME = 24, 130  # pixels of a row, and of a panel's title, ticks and the gap below
# A panel is at least so many posterior SDs wide, so that a gap of no weight does not fill it.
NARROWEST = 0.5
ERRORS = 2.0  # standard errors that a whisker reaches to either side
SHARES = {
    "shape": "shape",
    "prior": "prior",
    "adjustment": "adjustment",
    "monte_carlo": "Monte Carlo",
    "unexplained": "unexplained",
}
ROLES = {
    "shape": "third",
    "prior": "fifth",
    "adjustment": "fourth",
    "monte_carlo": "sixth",
    "unexplained": "warning",
    "undivided": "population",
}
WORDS = {
    "shape": "flat-prior mean less flat-prior mode: skewness, and integrating over the other "
    "parameters",
    "prior": "mean under the chosen priors less mean under flat ones",
    "adjustment": "what moving the draws to the sandwich's covariance does to their mean",
    "monte_carlo": "noise of the draws",
    "unexplained": "flat-prior mode less {fit} estimate, and what draws miss beyond their noise",
    "undivided": "parts that cannot be told apart",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way."""

    key: str  # of ROLES
    label: str
    size: float
    error: float  # a standard error; nan if it is not known


@check_arguments
def plot_attribution(
    both: Comparison,
    *,
    names: str | Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of what leads from the REML estimate to the posterior mean.

    Each parameter has a waterfall in its own units: the REML estimate on top, then shape, prior,
    Monte Carlo and what is unexplained, then the posterior mean. Whiskers are 2 standard errors
    of a step to either side. Steps that cannot be told apart are one bar, and its label says so.

    The figure's table has one row per parameter and step: `parameter`, `step`, `start`, `end`,
    `size`, `error` (a standard error), `size_sd` (in posterior SDs); the step "undivided" stands
    for those that cannot be told apart.

    Args:
        both: the reconciliation.
        names: parameters to draw; None for fixed effects, SDs and correlations, up to 8, those
            of the largest gaps.
        var_names: the same by ArviZ's name, which takes "beta" and "sd|school" too.

    Raises:
        ArgumentError: a name that is no parameter.
    """
    names = merge_names(names, var_names, both.post.parameters)
    known = [str(name) for name in both.table.index]
    # A correlation with an SD of zero has no REML estimate, and so no gap.
    weight = both.table["gap_sd"].abs().fillna(0.0)
    default = [str(parameter) for parameter in both.post.parameters if not parameter.is_squared]
    chosen, omitted = choose_parameters(known, names, default=default, weight=weight, most=MOST)
    steps = {name: split_steps(both.table.loc[name]) for name in chosen}
    table = _tabulate(both.table, steps)
    label = both.reml.method.upper()
    panels = tuple(
        _draw_waterfall(name, both.table.loc[name], steps[name], label=label) for name in chosen
    )
    tallest = max(map(len, steps.values())) + 2
    return Figure(
        name="attribution",
        title=f"From the {label} estimate to the posterior mean",
        reading=_read(both.table.loc[chosen], steps, label=label) + omitted + ".",
        table=table,
        panels=panels,
        height=len(panels) * (STEP * tallest + FRAME) + 40,
    )


def split_steps(row: "pd.Series[float]") -> tuple[Step, ...]:
    """Return the steps of a parameter's gap; none if there is no gap.

    Shares that are nan are one step, whose size is what the others leave of the gap.
    """
    if not np.isfinite(row["gap"]):
        return ()
    told = [key for key in SHARES if key in row]
    known = {key: float(row[key]) for key in told if np.isfinite(row[key])}
    lost = [key for key in told if key not in known]
    steps = [Step(key, SHARES[key], known[key], float(row[f"{key}_se"])) for key in known]
    if lost:
        label = f"{' + '.join(SHARES[key] for key in lost)}, undivided"
        rest = float(row["gap"]) - sum(known.values())
        steps.insert(0, Step("undivided", label, rest, np.nan))
    return tuple(steps)


def _tabulate(table: "pd.DataFrame", steps: dict[str, tuple[Step, ...]]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for name, each in steps.items():
        start, sd = float(table.loc[name, "reml"]), float(table.loc[name, "sd"])
        for step in each:
            end = start + step.size
            rows.append((name, step.key, start, end, step.size, step.error, step.size / sd))
            start = end
    columns = ["parameter", "step", "start", "end", "size", "error", "size_sd"]
    return pd.DataFrame(rows, columns=columns)


def _draw_waterfall(
    name: str, row: "pd.Series[float]", steps: tuple[Step, ...], *, label: str
) -> Panel:
    sd, posterior = float(row["sd"]), float(row["posterior"])
    last = float(len(steps) + 1)
    sizes = np.array([step.size for step in steps])
    edges = float(row["reml"]) + np.concatenate([[0.0], np.cumsum(sizes)])
    labels = [label, *(step.label for step in steps), "posterior mean"]
    marks: list[Mark] = []
    if steps:
        levels = np.arange(len(edges), dtype=float)
        marks.append(Segments(edges, levels, edges, levels + 1.0, "reference"))
    else:
        labels[0] = f"{label}: undefined"
    for at, step in enumerate(steps):
        marks += _draw_step(name, step, at=at + 1.0, start=edges[at], sd=sd, label=label)
    marks += [
        Points(
            np.array([value]), np.array([level]), role, size=10.0,
            hover=(f"{say(name)}\n{what}: {value:.6g}",),
        )
        for value, level, role, what in (
            (float(row["reml"]), 0.0, "reml", f"{label} estimate"),
            (posterior, last, "posterior", "posterior mean"),
        )
        if np.isfinite(value)
    ]  # fmt: skip
    gap = f"{_sign(row['gap_sd'])} posterior SDs" if steps else "no gap to split"
    return Panel(
        Axis(gap.replace("-", "\N{MINUS SIGN}"), range=_choose_range(edges, posterior, steps, sd)),
        Axis(
            "",
            ticks=(tuple(np.arange(last + 1.0).tolist()), tuple(labels)),
            range=(last + 0.6, -0.6),
        ),
        tuple(marks),
        title=title(name),
    )


def _draw_step(
    name: str, step: Step, *, at: float, start: float, sd: float, label: str
) -> list[Mark]:
    end = start + step.size
    has_error = np.isfinite(step.error) and step.error > 0.0
    noise = f"\nstandard error {step.error:.2g}" if has_error else ""
    text = (
        f"{say(name)}\n{step.label}: {step.size:+.4g} ({step.size / sd:+.3f} posterior SDs)"
        f"{noise}\n{WORDS[step.key].format(fit=label)}"
    )
    place, size = np.array([at]), np.array([step.size])
    marks: list[Mark] = [
        Bars(place, size, np.array([start]), ROLES[step.key], horizontal=True, width=0.7,
             hover=(text,)),
    ]  # fmt: skip
    if has_error:
        reach = ERRORS * step.error
        marks.append(
            Segments(np.array([end - reach]), place, np.array([end + reach]), place, "population",
                     width=1.5)
        )  # fmt: skip
    return marks


def _choose_range(
    edges: np.ndarray, posterior: float, steps: tuple[Step, ...], sd: float
) -> tuple[float, float]:
    """Return the ends of the axis: room for every step and its whiskers, and no zoom on nothing."""
    reach = ERRORS * np.nan_to_num(np.array([step.error for step in steps]))
    ends = edges[1:]
    every = np.concatenate([edges, ends - reach, ends + reach, [posterior]])
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    pad = max(0.06 * (high - low), 0.5 * (NARROWEST * sd - (high - low)))
    pad = pad if pad > 0.0 else max(abs(high), 1.0)
    return low - pad, high + pad


def _sign(number: float) -> str:
    """Return a number with its sign and two decimals; 0.00 has none."""
    text = f"{number:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def _has(steps: tuple[Step, ...], key: str) -> bool:
    return any(step.key == key for step in steps)


def _read(table: "pd.DataFrame", steps: dict[str, tuple[Step, ...]], *, label: str) -> str:
    """Return what the waterfalls say, without the full stop."""
    gaps = table["gap_sd"].dropna()
    if not len(gaps):
        return f"No parameter drawn has a {label} estimate, so there is no gap to split"
    far = str(gaps.abs().idxmax())
    sd = float(table.loc[far, "sd"])
    parts = ", ".join(f"{_sign(step.size / sd)} {step.label}" for step in steps[far])
    among = f"the largest of {count(len(gaps), 'gap')}" if len(gaps) > 1 else "the gap drawn"
    clauses = [
        f"The posterior mean of {say(far)} is {_sign(gaps[far])} posterior SDs from {label}, "
        f"{among}, made up of {parts}"
    ]
    bad = table.index[table["verdict"] == "unexplained"]
    if len(bad):
        worst = (table.loc[bad, "unexplained"] / table.loc[bad, "sd"]).abs()
        clauses.append(
            f"{count(len(bad), 'gap')} {'is' if len(bad) == 1 else 'are'} not accounted for, by up "
            f"to {worst.max():.2g} posterior SDs ({say(worst.idxmax())})"
        )
    lost = [name for name, each in steps.items() if _has(each, "undivided")]
    if lost:
        clauses.append(
            f"how much is shape and how much prior cannot be told for {list_parameters(lost)}"
        )
    bare = [name for name, each in steps.items() if not each]
    if bare:
        verb = "has" if len(bare) == 1 else "have"
        clauses.append(f"{list_parameters(bare)} {verb} no {label} estimate and so no gap")
    return "; ".join(clauses)
