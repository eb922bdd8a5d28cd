"""Which parameters a figure draws, and what its reading says of those that it leaves out."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError
from bhlm.layout import agree, list_names
from bhlm.likelihood.parameters import Parameter
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
        more = f" ({left} more {agree(left, 'is', 'are')} left out)"
        return chosen, more if left else ""
    return check_asked("names", names, known, absent="the figure has not"), ""


def merge_names(
    names: str | Sequence[str] | None,
    var_names: str | Sequence[str] | None,
    parameters: Sequence[Parameter],
) -> list[str] | None:
    """Return the parameters that `names` or, in ArviZ's words, `var_names` ask for.

    A variable of `post.data` stands for its parameters: "beta" for all fixed effects, "sigma",
    "sd|school", "corr|school", "cov|school".

    Raises:
        ArgumentError: both are given.
    """
    if names is not None and var_names is not None:
        raise ArgumentError("names= and var_names= are the same; give one of them")
    asked = var_names if names is None else names
    if asked is None:
        return None
    variables: dict[str, list[str]] = {}
    for parameter in parameters:
        variables.setdefault(name_variable(parameter), []).append(str(parameter))
    return [
        each
        for name in ([asked] if isinstance(asked, str) else asked)
        for each in variables.get(name, [name])
    ]


def name_variable(parameter: Parameter) -> str:
    """Return the variable of `post.data` that holds a parameter."""
    if parameter.is_fixed:
        return "beta"
    if parameter.is_residual:
        return "sigma" if parameter.is_sd else "sigma2"
    kind = "cov" if parameter.is_variance else parameter.kind
    return f"{kind}|{parameter.group}"


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
