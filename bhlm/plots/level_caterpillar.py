"""The caterpillar of one of several grouping factors: its units' effects, in order of size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.bayes.level_draws import FactorDraws
from bhlm.errors import ArgumentError, check_arguments, show_value
from bhlm.layout import print_label
from bhlm.likelihood.expected import SCALES, find_middle
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.plots.family_groups import name_response
from bhlm.plots.figure import Figure
from bhlm.plots.groups import Units
from bhlm.plots.ranked_effects import DEVIATION, Level, draw_caterpillar
from bhlm.plots.style import shorten
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.family.level_predictions import expect_units
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.standard_errors import Z95

if TYPE_CHECKING:
    import pandas as pd


type LevelFits = LevelsEstimate | FamilyLevelsEstimate | FactorDraws | Comparison


@check_arguments
def plot_factor(
    fit: LevelFits,
    factor: str,
    *,
    coefficient: str | None = None,
    within: Mapping[str, Any] | None = None,
    scale: str = "link",
) -> Figure:
    """Return the effects of one factor's units with 95 % intervals, a panel per coefficient.

    As `bhlm.plots.plot_caterpillar`: empirical Bayes and its standard error of prediction, the
    posterior and its interval, or both. Of zeros and ones, proportions and counts effects are on
    the link scale, with their SDs given the estimated parameters; with scale="response" it is the
    expected response of each unit where every column has its mean.

    Args:
        fit: a fit of several grouping factors, a posterior, or a reconciliation.
        factor: the factor, such as "school:class".
        coefficient: the random coefficient to draw; None draws all.
        within: the units of one outer unit alone, such as {"school": 1224}: of its grouping
            columns the labels.
        scale: "link" or "response", of a family.

    Raises:
        ArgumentError: a factor, coefficient or column that the fit does not have, a label that no
            unit has, or a scale that is not there.
    """
    effects, level = _find_effects(fit, factor, scale)
    names = tuple(dict.fromkeys(effects["coefficient"]))
    if coefficient is not None:
        if coefficient not in names:
            raise ArgumentError(
                f"coefficient={coefficient!r} does not vary over '{factor}'; choose one of "
                f"{', '.join(names)}"
            )
        names = (coefficient,)
    for column, label in (within or {}).items():
        effects = _select(effects, fit, factor, column, label)
    labels = effects.loc[effects["coefficient"] == names[0], "group"].to_numpy(dtype=object)
    posterior = split_levels(fit).post is not None
    drawn = draw_caterpillar(
        Units(factor, labels), effects, names, posterior=posterior, level=level
    )
    if scale == "link":
        return drawn
    title = f"Expected {names[0]} of each {shorten(factor)}, in order"
    return replace(drawn, title=title, reading=f"Expected {drawn.reading}")


def _find_effects(fit: LevelFits, factor: str, scale: str) -> tuple["pd.DataFrame", Level]:
    """Return what is drawn of each unit, and what the axis has."""
    if scale not in SCALES:
        raise ArgumentError(f"scale={scale!r} is not known; choose one of {', '.join(SCALES)}")
    effects = tabulate_factor(fit, factor)
    given = _find_given(fit)
    if not isinstance(given, FamilyLevelsEstimate | FamilyLevelDraws):
        if scale != "link":
            raise ArgumentError(
                f"scale={scale!r} is for families of zeros and ones, proportions and counts; leave "
                "it out"
            )
        return effects, DEVIATION
    if scale == "link":
        return effects, Level(f"deviation ({given.family.link} scale)", 0.0, "0")
    if not isinstance(fit, FamilyLevelsEstimate):
        raise ArgumentError(
            f"scale={scale!r} is not there yet for the posterior of several grouping factors; "
            "leave it out, or draw the fit by model.ml()"
        )
    typical = fit.family.mean(find_middle(fit.patterns).add_effects(fit.beta[None]))
    level = Level(
        f"expected {name_response(fit)}",
        float(typical[0, 0]),
        f"that of a {factor} without an effect",
    )
    return _expect(fit, factor, effects), level


def _expect(fit: FamilyLevelsEstimate, factor: str, effects: "pd.DataFrame") -> "pd.DataFrame":
    """Return one row per unit with its expected response, under the columns of its effects."""
    units = expect_units(fit, factor)
    q = len(fit.structures[fit.find_factor(factor)].names)
    own = {"u": "estimate", "u_low": "lower", "u_high": "upper", "observed": "observed"}
    return (
        effects.iloc[::q]
        .reset_index(drop=True)
        .assign(
            coefficient=name_response(fit),
            **{name: units[column].to_numpy() for name, column in own.items()},
        )
    )


class Pair(NamedTuple):
    """What a page or a figure of several grouping factors is about."""

    reml: LevelsEstimate | FamilyLevelsEstimate | None
    post: FactorDraws | None
    both: Comparison | None


def split_levels(fit: LevelFits) -> Pair:
    """Return the fit by REML and the posterior that a fit of several factors consists of.

    Raises:
        ArgumentError: the reconciliation is of a single factor.
    """
    if isinstance(fit, LevelsEstimate | FamilyLevelsEstimate):
        return Pair(fit, None, None)
    if isinstance(fit, FactorDraws):
        return Pair(None, fit, None)
    reml, post = fit.reml, fit.post
    if isinstance(reml, LevelsEstimate | FamilyLevelsEstimate) and isinstance(post, FactorDraws):
        return Pair(reml, post, fit)
    raise ArgumentError(
        f"the fits of '{reml.moments.formula}' are of one factor; bhlm.plots.plot_caterpillar "
        "draws it"
    )


def _find_given(fit: LevelFits) -> LevelsEstimate | FamilyLevelsEstimate | FactorDraws:
    reml, post, _ = split_levels(fit)
    given = reml if reml is not None else post
    assert given is not None
    return given


def tabulate_factor(fit: LevelFits, factor: str) -> "pd.DataFrame":
    """Return one row per unit and coefficient of a factor, under column names of its own.

    Columns: `group`, the label, of several columns joined by ":"; `coefficient`, `n`; `u`, its
    standard error of prediction `u_se` (of families, and with sampling weights, the SD given the
    estimates) and 95 % interval `u_low`, `u_high` by empirical Bayes;
    `mean`, `low` and `high` (95 %) of a posterior; nan where there is no such fit; and `label 0`,
    `label 1`, ..., the factor's columns.

    Raises:
        ArgumentError: it is not a factor of the fit.
    """
    import pandas as pd

    reml, post, _ = split_levels(fit)
    moments = _find_given(fit).moments
    names = list(moments.groups)
    if factor not in names:
        raise ArgumentError(
            f"factor={factor!r} is not a grouping factor; choose one of {', '.join(names)}"
        )
    at = names.index(factor)
    labels, coefficients = moments.labels[at], _name_coefficients(fit, at)
    q = len(coefficients)
    counted = moments.rows if isinstance(moments, LevelPatterns) else moments.n
    rows = np.bincount(labels.codes, weights=counted).astype(int)
    columns = {f"label {i}": np.repeat(each, q) for i, each in enumerate(labels.columns)}
    shown = [":".join(map(print_label, each)) for each in zip(*labels.columns, strict=True)]
    unknown = np.full(len(shown) * q, np.nan)
    u, se = unknown, unknown
    if reml is not None:
        table = reml.group_effects(factor)
        u = table["estimate"].to_numpy()
        errors = np.sqrt(table["pev"]) if "pev" in table else table["sd"]
        se = errors.to_numpy()
    drawn = {"mean": unknown, "lower": unknown, "upper": unknown}
    if post is not None:
        effects = post.group_effects(factor)
        drawn = {name: effects[name].to_numpy() for name in drawn}
    return pd.DataFrame(
        {
            "group": np.repeat(np.array(shown, dtype=object), q),
            "coefficient": np.array(list(coefficients) * len(shown), dtype=object),
            "n": np.repeat(rows, q),
            "u": u,
            "u_se": se,
            "u_low": u - Z95 * se,
            "u_high": u + Z95 * se,
            "mean": drawn["mean"],
            "low": drawn["lower"],
            "high": drawn["upper"],
            **columns,
        }
    )


def _name_coefficients(fit: LevelFits, at: int) -> tuple[str, ...]:
    """Return the random coefficients of one factor."""
    given = _find_given(fit)
    parts = given.structure.parts if isinstance(given, FactorDraws) else given.structures
    return tuple(parts[at].names)


def _select(
    effects: "pd.DataFrame",
    fit: LevelFits,
    factor: str,
    column: str,
    label: Any,
) -> "pd.DataFrame":
    """Return the rows of the units that have a label in one grouping column.

    Of a factor that has not the column itself, those that occur with the label.
    """
    moments = _find_given(fit).moments
    names = list(moments.groups)
    own = moments.factors[names.index(factor)].columns
    known = moments.cell_labels
    if column not in known:
        raise ArgumentError(
            f"within={{{column!r}: ...}} names no grouping column; choose one of {', '.join(known)}"
        )
    if column in own:
        kept = effects[effects[f"label {own.index(column)}"] == label]
    else:
        codes = np.unique(moments.codes[names.index(factor)][known[column] == label])
        q = len(_name_coefficients(fit, names.index(factor)))
        kept = effects[np.isin(np.arange(len(effects)) // q, codes)]
    if not len(kept):
        raise ArgumentError(f"{show_value(label)} is not a label of '{column}' in these rows")
    return kept.reset_index(drop=True)
