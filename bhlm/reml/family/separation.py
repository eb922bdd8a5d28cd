"""Data in which the fixed effects foretell responses for certain, so that no maximum exists."""

import numpy as np

from bhlm.errors import IdentifiabilityError
from bhlm.layout import list_names, show_name
from bhlm.likelihood.crossed_families import WhitenedCross
from bhlm.likelihood.densities import LOG
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns
from bhlm.reml.family.search import Linear

Array = np.ndarray
type AnyWhitened = WhitenedPatterns | WhitenedNest | WhitenedCross

# Of a pattern's curvature per trial in the linear model: below it, separation is looked for.
CERTAIN = 1e-4
SEPARATED = 1e-7  # of the linear programme's value per pattern: above, there is a direction
SHARE = 1e-6  # of a column in that direction


def check_separation(patterns: Patterns, white: WhitenedPatterns, linear: Linear) -> None:
    """Raise `IdentifiabilityError` where no maximum exists, and say in which columns."""
    check_responses(patterns, white)
    if white.family.code != LOG:
        starts = white.starts[:-1]
        successes, trials = np.add.reduceat(white.y, starts), np.add.reduceat(white.n, starts)
        check_groups(successes, trials, group=patterns.group)
    check_fixed(patterns, white, linear)


def check_level_separation(
    patterns: LevelPatterns, white: WhitenedNest | WhitenedCross, linear: Linear
) -> None:
    """Raise `IdentifiabilityError` where no maximum exists, of several factors."""
    check_responses(patterns, white)
    if white.family.code != LOG:
        for group, codes in zip(patterns.groups, patterns.codes, strict=True):
            successes = np.bincount(codes, weights=patterns.y)
            check_groups(successes, np.bincount(codes, weights=patterns.n), group=group)
    check_fixed(patterns, white, linear)


def check_responses(patterns: Patterns | LevelPatterns, white: AnyWhitened) -> None:
    """Raise `IdentifiabilityError` where the response never varies."""
    empty, full = (white.y <= 0.0).all(), (white.y >= white.n).all() and white.family.code != LOG
    if empty or full:
        value = "0" if empty else "all successes"
        raise IdentifiabilityError(
            f"'{show_name(patterns.response)}' is {value} in every row, so there is nothing to "
            "model; choose a response that varies"
        )


def check_fixed(patterns: Patterns | LevelPatterns, white: AnyWhitened, linear: Linear) -> None:
    """Raise `IdentifiabilityError` where fixed effects foretell responses for certain.

    There is a direction d with x_i'd of the sign of (all successes less all failures) in every
    pattern, and zero where there are both: along it the likelihood never falls, whatever the random
    effects. Source: Albert & Anderson (1984), Biometrika 71, 1-10; Konis (2007), chapter 4.
    """
    counts = white.family.code == LOG
    response = show_name(patterns.response)
    full = (white.y >= white.n) & (not counts)
    empty = white.y <= 0.0
    mean = white.family.mean(linear.eta)
    doubt = mean if counts else mean * (1.0 - mean)
    if linear.converged and doubt.min() > CERTAIN:
        return
    found = find_direction(white.x, full, empty)
    if found is None:
        return
    size = np.abs(white.fixed @ found) * np.append([], _spread(patterns))
    names = [
        f"'{show_name(name)}'"
        for name, each in zip(patterns.fixed, size, strict=True)
        if each > SHARE * size.max()
    ]
    what = "a count of 0" if counts else "all successes or none"
    raise IdentifiabilityError(
        f"{list_names(names)} foretell{'s' if len(names) == 1 else ''} {what} of '{response}' for "
        "certain in some rows, so that the likelihood has no maximum (separation); merge levels or "
        "drop the term"
    )


def find_direction(x: Array, full: Array, empty: Array) -> Array | None:
    """Return a direction (p,) that separates patterns with all successes from those with none.

    Args:
        x: (I, p).
        full: (I,) patterns with successes alone.
        empty: (I,) with failures alone, or counts of 0.
    """
    sign = np.where(full, 1.0, np.where(empty, -1.0, 0.0))
    turned = sign[:, None] * x
    one_sided = sign != 0.0
    from scipy.optimize import linprog  # slow to load, and few fits need it

    found = linprog(
        -turned.sum(axis=0) / len(x),
        A_ub=-turned[one_sided],
        b_ub=np.zeros(int(one_sided.sum())),
        A_eq=x[~one_sided] if (~one_sided).any() else None,
        b_eq=np.zeros(int((~one_sided).sum())) if (~one_sided).any() else None,
        bounds=(-1.0, 1.0),
    )
    return np.asarray(found.x) if found.status == 0 and -found.fun > SEPARATED else None


def _spread(patterns: Patterns | LevelPatterns) -> Array:
    """Return the SD (p,) of each fixed column, 1 of the intercept."""
    x = patterns.take(patterns.fixed)
    sd = x.std(axis=0)
    return np.asarray(np.where(sd > 0.0, sd, 1.0))


def check_groups(successes: Array, trials: Array, *, group: str) -> None:
    """Raise `IdentifiabilityError` for groups that tell nothing of their variance.

    Counts always tell.

    Args:
        successes: (J,) of each group.
        trials: (J,)
        group: what the groups are called.
    """
    group = show_name(group)
    if trials.max() <= 1.0:
        raise IdentifiabilityError(
            f"no '{group}' has more than one trial, so its random effects cannot be told from the "
            "link; choose another column for the groups"
        )
    if ((successes == 0.0) | (successes == trials)).all():
        raise IdentifiabilityError(
            f"every '{group}' has successes alone or failures alone, so that the variance of its "
            "effects grows without end; model one value per group by a regression"
        )
