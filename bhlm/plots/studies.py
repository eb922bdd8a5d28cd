"""The forest of a meta-analysis: each study as observed and as the model has it, and the mean."""

import numpy as np

from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import format_digits
from bhlm.plots.figure import Figure
from bhlm.plots.groups import name_groups
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule, Segments
from bhlm.plots.style import shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.heterogeneity import measure_heterogeneity, tabulate_studies

MOST = 100  # studies
ROW, FRAME = 26, 110  # pixels of a study, and of axis and legend
SIZES = (4.0, 12.0)  # pixels, of the smallest and the largest weight
LONGEST = 34  # characters of a study's name


@check_arguments
def plot_studies(reml: Estimate, *, level: float = 0.95) -> Figure:
    """Return the forest plot of a meta-analysis, a line per study, in order of their effects.

    Each study has its observed effect with its interval, its symbol the larger the more it weighs,
    and its empirical-Bayes effect. Without moderators, the mean over studies stands below with its
    interval, and the interval in which the effects of new studies lie. The figure's table is
    that of `fit.studies()`, in the order of the figure.

    Args:
        reml: a fit with known variances and one row per study.
        level: of the intervals.

    Raises:
        ArgumentError: a fit without known variances, with several rows in a group or a random
            slope; more than 100 studies; or a level outside (0, 1).
    """
    table = tabulate_studies(reml, level=level)
    if len(table) > MOST:
        raise ArgumentError(
            f"{len(table):,} studies are more than a page has lines for; draw the effects by "
            "plot_caterpillar"
        )
    table = table.sort_values("estimate", kind="stable")
    at = np.arange(len(table), dtype=float)
    share = np.sqrt(table["weight"].to_numpy() / table["weight"].max())
    kind = f"{100 * level:g} % interval"
    low, high = table["lower"].to_numpy(), table["upper"].to_numpy()
    marks: list[Mark] = [
        Rule(0.0, "x", "reference"),
        Segments(low, at, high, at, "reml", width=1.5),
    ]
    labels = [shorten(name, LONGEST) for name in name_groups(table.index)]
    cuts = np.linspace(0.0, 1.0, 5)
    for k in range(4):  # symbols have one size in a trace
        mine = (share > cuts[k]) & (share <= cuts[k + 1])
        size = SIZES[0] + (SIZES[1] - SIZES[0]) * float(cuts[k + 1])
        if mine.any():
            part = table[mine]
            hover = tuple(
                f"{label}\n{e:.4g}, {a:.4g} to {b:.4g}\nweight {w:.1f} %"
                for label, e, a, b, w in zip(
                    np.array(labels)[mine], part["estimate"], part["lower"], part["upper"],
                    part["weight"], strict=True,
                )
            )  # fmt: skip
            marks.append(
                Points(
                    part["estimate"].to_numpy(), at[mine], "reml", f"As observed, {kind}",
                    hover=hover, size=size,
                )
            )  # fmt: skip
    marks.append(Points(table["eb"].to_numpy(), at, "posterior", "Empirical Bayes", size=5.0))
    found = measure_heterogeneity(reml, level=level)
    ticks = [*labels]
    places = at.tolist()
    reading = (
        f"Of {len(table)} studies the {kind} of the observed effect is clear of "
        f"0 in {int(((table['lower'] > 0) | (table['upper'] < 0)).sum()) or 'none'}"
    )
    if np.isfinite(found.lower):
        row = reml.estimates.iloc[0]
        mean, se = float(row["estimate"]), float(row["se"])
        half = (found.upper - found.lower) / 2.0
        z = half / float(np.hypot(se, np.sqrt(found.tau2)))
        bottom = float(len(table)) + 0.6
        marks += [
            Segments(
                np.array([found.lower]), np.array([bottom]), np.array([found.upper]),
                np.array([bottom]), "population", "Effects of new studies", width=1.5,
            ),
            Points(
                np.array([mean]), np.array([bottom]), "fourth", f"Mean of studies, {kind}",
                x_low=np.array([mean - z * se]), x_high=np.array([mean + z * se]), size=11.0,
            ),
        ]  # fmt: skip
        ticks.append("Mean")
        places.append(bottom)
        reading += (
            f"; their mean is {format_digits(mean, 3)} ({format_digits(mean - z * se, 3)} to "
            f"{format_digits(mean + z * se, 3)}), and {100 * level:g} % of new studies lie between "
            f"{format_digits(found.lower, 3)} and {format_digits(found.upper, 3)}"
        )
    if np.isfinite(found.i2):
        reading += f"; I² = {found.i2:.0f} %"
    ends = np.concatenate([low, high, [0.0]])
    room = 0.04 * float(np.ptp(ends))
    return Figure(
        name="studies",
        title=f"Effects by {shorten(reml.moments.group)}",
        reading=reading + ".",
        table=table,
        panels=(
            Panel(
                Axis(
                    reml.moments.response,
                    range=(float(ends.min()) - room, float(ends.max()) + room),
                ),
                Axis("", ticks=(tuple(places), tuple(ticks)), range=(max(places) + 0.8, -0.8)),
                tuple(marks),
            ),
        ),
        height=max(300, ROW * len(ticks) + FRAME),
    )
