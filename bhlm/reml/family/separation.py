"""Data in which the fixed effects foretell responses for certain, so that no maximum exists."""

from collections.abc import Callable

import numpy as np

from bhlm.errors import IdentifiabilityError
from bhlm.layout import list_names, show_name
from bhlm.likelihood.crossed_families import WhitenedCross
from bhlm.likelihood.densities import LOG
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns
from bhlm.reml.family.nested_search import NestOptimum
from bhlm.reml.family.search import FamilyOptimum, Linear

Array = np.ndarray
type AnyWhitened = WhitenedPatterns | WhitenedNest | WhitenedCross

# Of a pattern's curvature per trial in the linear model: below it, separation is looked for.
CERTAIN = 1e-4
SEPARATED = 1e-7  # of the linear programme's value per pattern: above, there is a direction
SHARE = 1e-6  # of a column in that direction
FAR = 8.0  # a linear predictor from which separation given the groups is looked for
BENT = 0.1  # a curvature that a likelihood has which falls
FALL = 1e-2  # of the log-likelihood where all effects are larger: below, it has no peak
KNOWN = 1e-6  # of the log-likelihood there


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


def check_given_groups(patterns: Patterns, white: WhitenedPatterns, found: FamilyOptimum) -> None:
    """Raise `IdentifiabilityError` where effects of groups and predictors foretell all responses.

    Where some effects of the groups, together with the fixed ones, have the right sign of the
    linear predictor in every row, larger ones of the same ratios do too, and the likelihood goes
    to its supremum as all effects and their SDs grow. It is looked at over a factor of four.
    """
    spread = np.sqrt(np.einsum("iq,qr,ir->i", white.z, found.lam @ found.lam.T, white.z))
    point = np.concatenate([found.beta, found.theta])
    bend = point @ found.information @ point if found.converged else 0.0
    if not _is_far(white, spread, found.beta, bend=bend):
        return
    integrator = Integrator(white)

    def grow(by: float) -> float:
        at = by * found.beta, by * found.lam
        integrator.refine(*at, tolerance=KNOWN / white.n_groups)
        return integrator.evaluate(*at, derivatives=False).loglik

    _check_growth(patterns, grow, own=found.at.loglik, groups=[patterns.group])


def check_given_levels(patterns: LevelPatterns, white: WhitenedNest, found: NestOptimum) -> None:
    """Raise `IdentifiabilityError` as `check_given_groups`, of nested factors."""
    variances = sum(
        np.einsum("iq,qr,ir->i", z, lam @ lam.T, z)
        for z, lam in zip(white.z, found.lams, strict=True)
    )
    point = np.concatenate([found.beta, found.theta])
    bend = point @ found.information @ point if found.converged else 0.0
    if not _is_far(white, np.sqrt(variances), found.beta, bend=bend):
        return
    integrator = NestIntegrator(white)

    def grow(by: float) -> float:
        at = by * found.beta, [by * lam for lam in found.lams]
        integrator.refine(*at, tolerance=KNOWN / white.counts[0])
        return integrator.evaluate(*at, derivatives=False).loglik

    _check_growth(patterns, grow, own=found.at.loglik, groups=list(patterns.groups))


def _is_far(
    white: WhitenedPatterns | WhitenedNest, spread: Array, beta: Array, *, bend: float
) -> bool:
    """Return whether a maximum may lie at infinity: linear predictors are large, and it is flat.

    `bend` is the curvature of the log-likelihood by the logarithm of the size of all effects.
    """
    if white.family.code == LOG:
        return False
    return bool((np.abs(white.x @ beta) + spread).max() > FAR and not bend > BENT)


def _check_growth(
    patterns: Patterns | LevelPatterns,
    grow: Callable[[float], float],
    *,
    own: float,
    groups: list[str],
) -> None:
    # Where larger ones overflow, as e to large powers does, smaller ones tell.
    if not any(all(grow(by) > own - FALL for by in each) for each in ((2.0, 4.0), (0.5, 0.25))):
        return
    names = list_names([f"'{show_name(name)}'" for name in groups])
    raise IdentifiabilityError(
        f"given the effects of {names}, the predictors foretell every '"
        f"{show_name(patterns.response)}': the log-likelihood is as high, to {FALL:g}, where all "
        "effects and SDs are four times as large, and has no maximum (separation); drop a "
        "predictor, or keep effects finite by priors, model.sample(priors=...)"
    )


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
