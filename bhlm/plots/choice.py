"""Which parameters a figure draws, and what its reading says of those that it leaves out."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError
from bhlm.layout import list_names
from bhlm.plots.style import shorten

if TYPE_CHECKING:
    import pandas as pd

HEAD, TAIL = 20, 12  # characters of a panel's title: more would not fit a phone


def choose_parameters(
    known: Sequence[str],
    names: Sequence[str] | None,
    *,
    default: Sequence[str],
    weight: "pd.Series[float]",
    most: int,
) -> tuple[list[str], str]:
    """Return the parameters that a figure draws, and the clause on those that it leaves out.

    Args:
        known: the parameters that could be drawn, in the order of the tables.
        names: those asked for, drawn in that order; None for the default.
        default: those drawn when none are named.
        weight: by parameter; where the default has too many, those of the largest are drawn.
        most: parameters that the default draws.

    Raises:
        ArgumentError: a name that is not known, or an empty list.
    """
    if names is None:
        heavy = weight.loc[list(default)].sort_values(ascending=False, kind="stable").index[:most]
        chosen = [name for name in default if name in set(heavy)]
        left = len(default) - len(chosen)
        return chosen, f" ({left} more are left out; choose them by names=)" if left else ""
    return check_asked("names", names, known, absent="the figure has not"), ""


def check_asked(what: str, asked: Sequence[str], known: Sequence[str], *, absent: str) -> list[str]:
    """Return the names that were asked for, each once.

    Args:
        what: the argument that has them.
        asked: one name or several.
        known: what may be asked for.
        absent: who lacks a name that is not known, such as "the figure has not".

    Raises:
        ArgumentError: a name that is not known, or an empty list.
    """
    asked = [asked] if isinstance(asked, str) else list(asked)
    for name in asked:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            raise ArgumentError(f"{what} has '{shorten(name)}', which {absent}; {hint}")
    if not asked:
        raise ArgumentError(f"{what}=[] leaves nothing to draw; known are {', '.join(known)}")
    return list(dict.fromkeys(asked))


def say(name: str) -> str:
    """Return a parameter's name as a sentence or a hover text has it."""
    return shorten(name)


def title(name: str) -> str:
    """Return a parameter's name as a panel's title; a cut is in its middle, as its ends differ."""
    line = shorten(name, len(name))
    return line if len(line) <= HEAD + TAIL + 1 else f"{line[:HEAD]}…{line[-TAIL:]}"


def list_parameters(names: Sequence[str]) -> str:
    """Return parameters as a list in a sentence, the first few of them."""
    return list_names([say(name) for name in names])
