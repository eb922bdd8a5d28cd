"""Prior against posterior: the exact density of each prior with that of the draws over it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import Posterior, turn_draws
from bhlm.bayes.prior_table import tabulate_fit
from bhlm.errors import check_arguments
from bhlm.layout import agree, count, format_digits
from bhlm.plots.choice import choose_parameters, list_parameters, merge_names, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Line, Mark, Panel, Points

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

MOST = 16  # panels
HEIGHT = 260  # pixels of a panel
DRAWN = 128  # points of the kernel estimate
LEVELS = {"prior": -0.12, "posterior": -0.26}  # heights of the intervals, below the densities
LABELS = {"prior": "prior density", "posterior": "posterior density"}
DENSE = 0.5  # share of the prior's peak from which on it expects a value
SIDES = ("lower", "median", "upper")


@check_arguments
def plot_prior_posterior(
    post: Posterior,
    *,
    names: Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of each parameter's prior with its posterior over it.

    The prior's density is exact, the posterior's ArviZ's kernel estimate of the draws. Each is
    divided by its own peak, since a posterior that knows a hundred times more than its prior
    would leave nothing to see of it. Below stand the medians and 95 % intervals. The panel of the
    Intercept is about the expected response at the means of the other columns, where its prior
    stands. Up to 16 parameters are drawn, those whose posterior is widest by its prior's measure.

    The figure's table has one row per parameter and point, `parameter`, `curve` ("prior",
    "posterior"), `x`, `share` of the curve's peak.

    Args:
        post: draws from the posterior.
        names: the parameters to draw, of those that have priors; None for up to 16.
        var_names: the same by ArviZ's name, which takes "beta", "sd|school" and the like too.

    Raises:
        ArgumentError: a name that is no parameter with a prior, or names by both arguments.
    """
    asked = merge_names(names, var_names, post.parameters)
    table = tabulate_fit(post)
    facts = compare_widths(table)
    # Where there is no width of a prior, nothing says that it is weak.
    weight = facts["width"].fillna(np.inf)
    known = [str(name) for name in facts.index]
    chosen, _ = choose_parameters(known, asked, default=known, weight=weight, most=MOST)
    curves, panels = [], []
    for name in chosen:
        found = _scale_densities(post, name, table[table["parameter"] == name])
        curves.append(found)
        panels.append(_draw_panel(name, facts.loc[name], found))
    import pandas as pd

    return Figure(
        name="prior_posterior",
        title="Prior and posterior",
        reading=_read(post, facts, _list_strange(table, facts), drawn=len(chosen)),
        table=pd.concat(curves, ignore_index=True),
        panels=tuple(panels),
        height=len(panels) * HEIGHT + 60,
    )


def compare_widths(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return one row per parameter of a fit's prior table, by parameter.

    Columns: `prior` (as text), `prior_lower`, `prior_median`, `prior_upper`, the same of the
    posterior, and `width`, the posterior's 95 % interval's share of the width of the prior's,
    nan where the prior has none.
    """
    facts = table.drop_duplicates("parameter").set_index("parameter").drop(columns=["x", "density"])
    wide = facts["prior_upper"] - facts["prior_lower"]
    facts["width"] = (facts["posterior_upper"] - facts["posterior_lower"]) / wide
    return facts


def shift_draws(post: Posterior, name: str) -> Array:
    """Return the draws (N,) of a parameter as its prior means it, at the columns' means."""
    return turn_draws(post)[name]


def _scale_densities(post: Posterior, name: str, rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the two densities, each relative to its peak."""
    import pandas as pd
    from arviz_stats.base import array_stats

    draws = shift_draws(post, name)
    draws = draws[np.isfinite(draws)]
    curves = {"prior": (rows["x"].to_numpy(), rows["density"].to_numpy())}
    if len(draws) and np.ptp(draws) > 0.0:
        # The bandwidth of a normal: ArviZ's own follows the noise of the draws.
        at, density, _ = array_stats.kde(draws, bw="silverman", grid_len=DRAWN)
        curves["posterior"] = (at, density)
    parts = []
    for curve, (x, density) in curves.items():
        peak = np.nanmax(density, initial=0.0)
        share = density / peak if peak > 0.0 else density
        parts.append(pd.DataFrame({"parameter": name, "curve": curve, "x": x, "share": share}))
    return pd.concat(parts, ignore_index=True)


def _draw_panel(name: str, facts: "pd.Series[float]", curves: "pd.DataFrame") -> Panel:
    marks: list[Mark] = []
    ends = []
    for curve, rows in curves.groupby("curve", sort=False):
        x, share = rows["x"].to_numpy(), rows["share"].to_numpy()
        label = LABELS[str(curve)]
        text = str(facts["prior"]) if curve == "prior" else "posterior"
        texts = tuple(
            f"{say(name)} = {at:.5g}\n{text}: {value:.3f} of its peak"
            for at, value in zip(x, share, strict=True)
        )
        marks.append(Line(x, share, str(curve), label, texts))
        ends += [x[0], x[-1]]
    low, high = min(ends), max(ends)
    for curve, level in LEVELS.items():
        lower, median, upper = (float(facts[f"{curve}_{side}"]) for side in SIDES)
        if not np.isfinite([lower, median, upper]).all():
            continue
        text = f"{say(name)}\n{curve} median {median:.5g}, 95 % {lower:.5g} to {upper:.5g}"
        # Of a heavy tail only what lies in the panel; the text above has the whole.
        middle = np.array([np.clip(median, low, high)])
        marks.append(
            Points(
                middle, np.array([level]), curve, f"{curve} median and 95 % interval", (text,),
                x_low=np.array([np.clip(lower, low, high)]),
                x_high=np.array([np.clip(upper, low, high)]),
            )
        )  # fmt: skip
    pad = 0.02 * (high - low)
    return Panel(
        Axis(_describe_width(facts), range=(low - pad, high + pad)),
        Axis(
            "share of own peak",
            ticks=((0.0, 0.5, 1.0), ("0", "0.5", "1")),
            range=(-0.4, 1.1),
        ),
        tuple(marks),
        title=title(name),
    )


def _describe_width(facts: "pd.Series[float]") -> str:
    if not np.isfinite(facts["width"]):
        return "the prior has no interval"
    return f"{_percent(float(facts['width']))} of prior's width"


def _percent(share: float) -> str:
    return f"{format_digits(100.0 * share, 2)} %"


def _list_strange(table: "pd.DataFrame", facts: "pd.DataFrame") -> list[str]:
    """Return the parameters whose posterior median is where their prior hardly is.

    An SD near zero lies below the 95 % interval of a half-t, and where its density is highest.
    """
    middle = facts["posterior_median"]
    outside = facts.index[(middle < facts["prior_lower"]) | (middle > facts["prior_upper"])]
    found = []
    for name in outside:
        rows = table[table["parameter"] == name]
        x, density = rows["x"].to_numpy(), rows["density"].to_numpy()
        if np.interp(middle[name], x, density) < DENSE * np.nanmax(density):
            found.append(str(name))
    return found


def _read(post: Posterior, facts: "pd.DataFrame", strange: list[str], *, drawn: int) -> str:
    """Return what the panels say, in one sentence."""
    width = facts["width"].dropna()
    clauses = []
    if post.settings.prior_only:
        clauses.append("these draws are of the prior alone, which the curves should repeat")
    if len(width):
        most, least = str(width.idxmin()), str(width.idxmax())
        text = (
            f"the posterior's 95 % interval has {_percent(width[least])} of the prior's width in "
            f"{say(least)}"
        )
        if len(width) > 1:
            text += (
                f", where the data add least, and {_percent(width[most])} in {say(most)}, "
                "where they add most"
            )
        clauses.append(text)
    bare = len(facts) - len(width)
    if bare:
        clauses.append(
            f"the {'prior' if bare == 1 else 'priors'} of {count(bare, 'parameter')} "
            f"{'has' if bare == 1 else 'have'} no interval, being flat or PyMC's"
        )
    if strange:
        clauses.append(
            f"the posterior median of {list_parameters(strange)} lies outside the prior's "
            "95 % "
            "interval, which data and prior that agree would hardly show"
        )
    if drawn < len(facts):
        clauses.append(
            f"{drawn} of {len(facts)} parameters {agree(drawn, 'is', 'are')} drawn, "
            f"{agree(drawn, 'that', 'those')} to which the data add least"
        )
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."
