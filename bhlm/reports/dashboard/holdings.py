"""What a page and its .json give away to whoever gets them."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.layout import count, list_names
from bhlm.moments.moments import Moments
from bhlm.plots.ranks_of_rows import FEWEST
from bhlm.reports.dashboard.blocks import Subject, Text

if TYPE_CHECKING:
    from bhlm.moments.cells import CellMoments

HEADING = "What this page and its .json hold"


def describe_holdings(subject: Subject, moments: "Moments") -> Text:
    """Return what the page holds of single rows and of groups, in sentences."""
    return Text(list_holdings(subject, moments), heading=HEADING, listed=True)


def _name_factors(moments: "Moments | CellMoments") -> str:
    if isinstance(moments, Moments):
        return f"'{moments.group}'"
    return list_names([f"'{name}'" for name in moments.groups])


def list_holdings(subject: Subject, moments: "Moments | CellMoments") -> tuple[str, ...]:
    """Return what the page holds of single rows and of groups, a sentence each."""
    has_rows = subject.model is not None and subject.model.has_rows
    if subject.rows:
        rows = (
            "Single rows, as was asked for: of rows of each group the response and a predictor, "
            "under the group's label, and residuals of single rows."
        )
    else:
        rows = "No single row: neither its response, nor a predictor, nor a residual of it"
        rows += (
            f"; residuals and PIT of rows stand as means of {FEWEST} rows or more."
            if has_rows
            else "."
        )
    no_groups = subject.pooled is not None or bool(subject.fits)
    sentences = [
        rows,
        f"No single group of {_name_factors(moments)}: neither its label nor an effect."
        if no_groups
        else f"Of groups of {_name_factors(moments)}: the label, the number of rows, coefficients "
        "and what is computed from them.",
    ]
    single = 0 if no_groups else int(np.sum(moments.n == 1))
    unit = "group" if isinstance(moments, Moments) else "cell"
    if single:
        sentences.append(
            f"{count(single, unit)} {'has' if single == 1 else 'have'} one row only: what is "
            f"said of {'it' if single == 1 else 'them'} is said of a single row."
        )
    named = [label.lower() for label in subject.source if label in ("Data", "Fit", "Command")]
    sentences.append(
        "Of the whole table: formula, names of columns, counts, estimates, tests, priors, versions "
        f"and the system{''.join(f', the {label} as given' for label in named)}; no password."
    )
    return tuple(sentences)
