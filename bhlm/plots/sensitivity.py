"""Sensitivity: how far each posterior moves when the priors or the data are given more weight."""

from collections.abc import Sequence

import numpy as np

from bhlm.bayes.checks.sensitivity import Sensitivity, list_terms, measure_sensitivity, say_term
from bhlm.bayes.draws import Posterior
from bhlm.errors import check_arguments
from bhlm.layout import agree, count, format_digits
from bhlm.plots.choice import choose_parameters, list_parameters, merge_names, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Note, Panel, Points, Segments

MOST = 30  # parameters
ROW = 30  # pixels
LEAST = 180  # pixels of all rows: a legend of four lines is below them on a telephone
TICK = 0.3  # of a row: half the mark of the threshold
# The priors last, so that they lie on top.
SIDES = {
    "likelihood": ("first", "data given more weight"),
    "prior": ("prior", "priors given more weight"),
}


@check_arguments
def plot_sensitivity(
    post: Posterior,
    *,
    names: Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of each posterior's power-scaling sensitivity, to priors and to data.

    A sensitivity is the change of the posterior (cumulative Jensen-Shannon distance) per doubling
    of the power to which the priors, or the likelihood, are raised. From the threshold on a
    sensitivity counts; it should do so for the likelihood and not for the priors. Up to 30
    parameters are drawn, those that are most sensitive to the priors.

    The numbers are drawn, and not the reweighted densities of ArviZ's `plot_psense_dist`, since
    what is judged is the number; they also exist where the groups' log-likelihoods are too many
    to be held. The figure's table is that of `post.sensitivity()`.

    Source: Kallioinen, Paananen, Buerkner & Vehtari (2024), Statistics and Computing 34:57.

    Args:
        post: draws from the posterior.
        names: the parameters to draw; None for up to 30 fixed effects, SDs and correlations.
        var_names: the same by ArviZ's name, which takes "beta", "sd|school" and the like too.

    Raises:
        ArgumentError: draws from the prior alone, a name that is no parameter, or names by both
            arguments.
    """
    asked = merge_names(names, var_names, post.parameters)
    return draw_sensitivity(measure_sensitivity(post), asked, default=list_drawn(post))


def list_drawn(post: Posterior) -> list[str]:
    """Return fixed effects, SDs and correlations: a variance is as sensitive as its SD."""
    return [str(parameter) for parameter in post.parameters if not parameter.is_squared]


def draw_sensitivity(
    found: Sensitivity,
    names: Sequence[str] | None = None,
    *,
    default: Sequence[str] | None = None,
) -> Figure:
    """Return the figure of sensitivities that are measured already.

    Args:
        found: what was measured.
        names: the parameters to draw, in that order.
        default: those of which up to 30 are drawn where none are named; None is all.
    """
    table, threshold = found.table, found.threshold
    known = [str(name) for name in table.index]
    weight = table["prior"].fillna(-1.0)
    default = known if default is None else default
    chosen, _ = choose_parameters(known, names, default=default, weight=weight, most=MOST)
    left = 0 if names is not None else len(default) - len(chosen)
    shown = table.loc[chosen]
    R = len(chosen)
    at = np.arange(R, dtype=float)
    values = shown[list(SIDES)].to_numpy(float)
    limit = np.full(R, threshold)
    marks: list[Mark] = [
        Segments(
            limit, at - TICK, limit, at + TICK, "population",
            name=f"{threshold:g}, from which it counts", width=2.0,
        )
    ]  # fmt: skip
    is_known = np.isfinite(values).all(axis=1)
    marks.append(
        Segments(values[is_known, 0], at[is_known], values[is_known, 1], at[is_known], "reference")
    )
    is_flagged = (shown["diagnosis"] != "ok").to_numpy()
    for column, (side, (role, label)) in enumerate(SIDES.items()):
        texts = [_describe(found, name) for name in chosen]
        groups = [(role, label, is_known & ~is_flagged), (role, label, is_known & is_flagged)]
        if side == "prior":
            groups[1] = ("warning", f"{label}: counts", is_known & is_flagged)
        for kind, text, members in groups:
            if members.any():
                hover = tuple(np.array(texts, dtype=object)[members])
                marks.append(
                    Points(values[members, column], at[members], kind, text, hover, size=9.0)
                )
    marks += [Note(0.0, at[row], "does not vary") for row in np.flatnonzero(~is_known)]
    highest = max(float(np.nanmax(values, initial=0.0)), threshold)
    return Figure(
        name="sensitivity",
        title="Sensitivity to priors and data",
        reading=_read(found, left=left),
        table=table,
        panels=(
            Panel(
                Axis("change per doubling", range=(-0.03 * highest, 1.08 * highest)),
                Axis(
                    "", ticks=(tuple(at.tolist()), tuple(map(title, chosen))), range=(R - 0.4, -0.6)
                ),
                tuple(marks),
            ),
        ),
        height=max(R * ROW, LEAST) + 140,
    )


def _describe(found: Sensitivity, name: str) -> str:
    row = found.table.loc[name]
    terms = ", ".join(f"{say_term(term)} {row[term]:.3f}" for term in list_terms(row.index))
    return (
        f"{say(name)}: {row['diagnosis']}\npriors {row['prior']:.3f} ({terms})\n"
        f"likelihood {row['likelihood']:.3f}"
    )


def _read(found: Sensitivity, *, left: int) -> str:
    """Return what the figure says, in one sentence, and how many parameters it leaves out."""
    table = found.table.dropna(subset=["prior", "likelihood"])
    if not len(table):
        return "No parameter varies in these draws, so that nothing can be sensitive."
    flagged = list(table.index[table["diagnosis"] != "ok"])
    worst = str(table["prior"].idxmax())
    high = f"{format_digits(table.loc[worst, 'prior'], 2)} ({say(worst)})"
    weak, strong = table["likelihood"].min(), table["likelihood"].max()
    weak, strong = (format_digits(size, 2) for size in (weak, strong))
    data = weak if len(table) == 1 else f"{weak} to {strong}"
    if flagged:
        reached = high if len(flagged) > 1 else format_digits(table.loc[worst, "prior"], 2)
        text = (
            f"The priors sway {len(flagged)} of {count(len(table), 'posterior')}, "
            f"{list_parameters(flagged)}: the sensitivity to them reaches {reached}, and "
            f"{found.threshold:g} counts, beside {data} for the data"
        )
    else:
        text = (
            "No posterior moves much where the priors are given more weight: sensitivity to them "
            f"is at most {high}, below the {found.threshold:g} that counts, beside {data} for the "
            "data"
        )
    if left:
        text += f"; {left} less sensitive {agree(left, 'one is', 'ones are')} not drawn"
    return f"{text}."
