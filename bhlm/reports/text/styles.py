"""A REML fit in the printed style of another program."""

from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError
from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_digits,
    shorten,
    show_name,
    wrap,
)
from bhlm.reml.fixed.contrasts import tabulate_fixed
from bhlm.reml.fixed.few_groups import list_notes
from bhlm.reports.text.hlm import render_hlm
from bhlm.reports.text.lme4 import render_lme4
from bhlm.reports.text.stata import render_stata

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.reml.estimate import Estimate
    from bhlm.reml.maximum import Maximum

WIDTH = 78
STYLES = {"stata": render_stata, "hlm": render_hlm, "lme4": render_lme4}


DF_LINE = "Approx. d.f. of the fixed effects: J - S - 1, and n - p of those that no group varies."


def render(fit: "Estimate", *, style: str = "stata", df: str | None = None) -> str:
    """Return the printed output of a fit in the style of "stata", "hlm" or "lme4".

    Under it stands what to know of few groups and of a response of 0 and 1. `df` adds the tests by
    another method, as `fit.fixed_effects` has them.

    Raises:
        ArgumentError: a style or a method of df that is not known.
    """
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is not known; choose one of {', '.join(STYLES)}")
    lines = [STYLES[style](fit)]
    if style == "hlm":
        lines += ["", *wrap(DF_LINE, WIDTH)]
    if df is not None:
        lines += ["", *tabulate_tests(fit, df)]
    if fit.moments.dropped:
        lines += ["", *wrap(f"{fit.moments.rows_used}.", WIDTH)]
    for note in list_notes(fit, df=df):
        lines += ["", *wrap(note, WIDTH)]
    return "\n".join(lines)


def tabulate_tests(fit: "Maximum", df: str) -> list[str]:
    """Return the lines of a table of the fixed effects with t tests on df by one method."""
    table = tabulate_fixed(fit, method=df)
    cells: list[tuple[str, ...]] = [
        ("", "Coef.", "Std. Err.", "t", "df", "P>|t|", "[95 % Conf.", "Interval]")
    ]
    for name, row in table.iterrows():
        ends = (format_digits(row[key], 5) for key in ("lower", "upper"))
        numbers = (format_digits(row[key], 5) for key in ("estimate", "se"))
        tests = (f"{row['statistic']:.2f}", f"{row['df']:.1f}", f"{row['p']:.3f}")
        cells.append((show_name(name), *numbers, *tests, *ends))
    sides = (align_left, *(align_right,) * 7)
    return [f"Tests of fixed effects by {df}:", *align_columns(cells, sides=sides, gap="  ")]


def tabulate_briefly(estimates: "pd.DataFrame") -> list[str]:
    """Return every estimate with its interval, and of fixed effects z and p, in aligned lines."""
    cells: list[tuple[str, ...]] = [("", "estimate", "se", "lower", "upper", "z", "p")]
    for name, row in estimates.iterrows():
        numbers = (format_digits(row[key], 5) for key in ("estimate", "se", "lower", "upper"))
        tested = row["p"] == row["p"]
        tests = (f"{row['statistic']:.2f}", f"{row['p']:.3f}") if tested else ("", "")
        cells.append((show_name(name), *numbers, *tests))
    return align_columns(cells, sides=(align_left, *(align_right,) * 6), gap="  ")


def outline(fit: "Estimate") -> str:
    """Return a fit in a few lines: the model, every estimate, and the notes of its summary."""
    moments = fit.moments
    lines = [
        f"{show_name(moments.formula)} by {fit.method.upper()}: {moments.rows_used}; "
        f"{moments.n_groups} of '{show_name(moments.group)}', log-likelihood {fit.loglik:.6g}",
        *([f"FAILED: {show_name(fit.advice)}"] if not fit.converged else []),
    ]
    lines += tabulate_briefly(fit.estimates)
    for note in [*([fit.advice] if fit.converged and fit.singular else []), *list_notes(fit)]:
        lines += wrap(note, WIDTH)
    return shorten("\n".join(lines), whole="print(...) of its summary()")
