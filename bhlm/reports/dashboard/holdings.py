"""What a page and its .json give away to whoever gets them."""

import numpy as np

from bhlm.layout import list_names
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns
from bhlm.plots.ranks_of_rows import FEWEST
from bhlm.reports.dashboard.blocks import Subject, Text

HEADING = "What this page and its .json hold"


def describe_holdings(subject: Subject, moments: "Moments") -> Text:
    """Return what the page holds of single rows and of groups, in sentences."""
    return Text(list_holdings(subject, moments), heading=HEADING, listed=True)


def _name_factors(moments: "Moments | CellMoments | Patterns | LevelPatterns") -> str:
    if isinstance(moments, Moments | Patterns):
        return f"'{moments.group}'"
    return list_names([f"'{name}'" for name in moments.groups])


def _list_single(moments: "Moments | CellMoments | Patterns | LevelPatterns") -> list[str]:
    """Return a sentence for each factor of which units have one row: a page tells of units."""
    if isinstance(moments, CellMoments | LevelPatterns):
        rows = moments.n if isinstance(moments, CellMoments) else moments.rows
        single = {
            f"of '{name}'": int(np.sum(np.bincount(labels.codes, weights=rows) == 1))
            for name, labels in zip(moments.groups, moments.labels, strict=True)
        }
    else:
        rows = moments.rows if isinstance(moments, Patterns) else moments.n
        number = int(np.sum(rows == 1))
        single = {"group" if number == 1 else "groups": number}
    return [
        f"{number:,} {unit} {'has' if number == 1 else 'have'} one row only: what is said of "
        f"{'it' if number == 1 else 'them'} is said of a single row."
        for unit, number in single.items()
        if number
    ]


def list_holdings(
    subject: Subject, moments: "Moments | CellMoments | Patterns | LevelPatterns"
) -> tuple[str, ...]:
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
    if not no_groups:
        sentences += _list_single(moments)
    named = [label.lower() for label in subject.source if label in ("Data", "Fit", "Command")]
    sentences.append(
        "Of the whole table: formula, names of columns, counts, estimates, tests, priors, versions "
        f"and the system{''.join(f', the {label} as given' for label in named)}; no password."
    )
    return tuple(sentences)
