"""A fit of several grouping factors in the printed style of the HLM program."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_fixed,
    measure_widest,
    show_name,
)
from bhlm.likelihood.cells import describe_pattern
from bhlm.likelihood.covariance import Structure
from bhlm.moments.moments import INTERCEPT
from bhlm.reports.text.hlm import draw_tau, format_exponent, name_random

if TYPE_CHECKING:
    from bhlm.reml.levels import LevelsEstimate

Array = np.ndarray
TESTS = "Tests of fixed effects are by z."


class _Level(NamedTuple):
    """One grouping factor, and what HLM calls what varies over it."""

    structure: Structure
    g: Array  # (q, q)
    number: int  # of the level: 2 of the finest units
    title: str  # tau(pi), tau(beta); of crossed factors tau of NAME
    below: str  # whose coefficients vary, "level-1 coefficient"
    labels: list[str]  # (q,) in the matrices, such as INTRCPT1,P0
    effects: list[str]  # (q,) in the table of components, such as INTRCPT1, R0


def render_hlm_levels(fit: "LevelsEstimate") -> list[str]:
    """Return the blocks of HLM's output, the finest units first.

    The units of nested levels; sigma squared with its standard error; tau of every level, as
    correlations too, and for nested factors its reliabilities; the log-likelihood; fixed effects
    with z tests; variance components of levels 1 and 2 and of each above; deviance. Of two nested
    factors the names are HLM3's: tau(pi), P and R at level 2, tau(beta), B and U at level 3;
    crossed factors and deeper ones go by their own. HLM's chi-square tests are left out.
    Layout: Raudenbush, Bryk, Cheong, Congdon & du Toit (2011), HLM 7, section 4.2.
    """
    levels = _arrange_levels(fit)
    se = format_fixed(float(np.sqrt(fit.variance_cov[-1, -1])), 5)
    nested = describe_pattern(fit.moments) == "nested"
    lines = [
        *(_count_units(fit, levels) if nested else []),
        f"sigma_squared = {fit.sigma2:.5f}",
        "",
        f"Standard error of sigma_squared = {se}",
        "",
    ]
    reliability = fit.reliability if nested else {}
    for level in levels:
        lines += draw_tau(level.labels, level.g, title=level.title)
        if nested:
            lines += _list_reliability(level, reliability[level.structure.group])
    lines += [
        f"The value of the log-likelihood function at iteration {len(fit.steps)} = "
        f"{format_exponent(fit.loglik)}",
        "",
        *rule_table("Final estimation of fixed effects:", _list_fixed(fit)),
        TESTS,
        "",
        *_tabulate_components(fit, levels, nested=nested),
    ]
    count = sum(len(structure.labels) for structure in fit.structures) + 1
    count += len(fit.beta) if fit.method == "ml" else 0
    return [
        *lines,
        "Statistics for the current model",
        "-" * 38,
        f"Deviance                       = {-2.0 * fit.loglik:.6f}",
        f"Number of estimated parameters = {count}",
    ]


def _count_units(fit: "LevelsEstimate", levels: list[_Level]) -> list[str]:
    start = "The maximum number of level-"
    rows = [f"{start}1 units = {fit.moments.n_rows}"]
    for level in levels:
        group = level.structure.group
        rows.append(
            f"{start}{level.number} units = {fit.moments.groups[group]} ({show_name(group)})"
        )
    return [*rows, ""]


def _arrange_levels(fit: "LevelsEstimate") -> list[_Level]:
    """Return the factors from the finest to the coarsest, under HLM's names where it has some."""
    order = sorted(
        range(len(fit.structures)), key=lambda at: -fit.moments.groups[fit.structures[at].group]
    )
    hlm3 = len(order) == 2 and describe_pattern(fit.moments) == "nested"
    levels = []
    for number, at in enumerate(order, start=2):
        structure, group = fit.structures[at], show_name(fit.structures[at].group)
        names = [name_random(name) for name in structure.names]
        slopes = ["" if name == INTERCEPT else " slope" for name in structure.names]
        if not hlm3:
            effects = [f"{group}: {name}" for name in names]
            found = (f"tau of {group}", f"coefficient of {group}", names, effects)
        elif number == 2:
            labels = [f"{name},P{i}" for i, name in enumerate(names)]
            effects = [f"{n}{s}, R{i}" for i, (n, s) in enumerate(zip(names, slopes, strict=True))]
            found = ("tau(pi)", "level-1 coefficient", labels, effects)
        else:
            labels = [f"{name}/INTRCPT2,B{i}0" for i, name in enumerate(names)]
            effects = [f"{name}/INTRCPT2, U{i}0" for i, name in enumerate(names)]
            found = ("tau(beta)", "level-2 coefficient", labels, effects)
        levels.append(_Level(structure, fit.gs[at], number, *found))
    return levels


def _list_reliability(level: _Level, values: dict[str, float]) -> list[str]:
    rows = [
        (f"Random {level.below}", "Reliability estimate"),
        *(
            (label, format_fixed(values[name], 3))
            for label, name in zip(level.labels, level.structure.names, strict=True)
        ),
    ]
    body = [" " + line for line in align_columns(rows, sides=(align_left, align_right), gap="  ")]
    rule = "-" * (measure_widest(body) + 1)
    return [rule, body[0], rule, *body[1:], rule, ""]


def _list_fixed(fit: "LevelsEstimate") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("Fixed Effect", "Coefficient", "Std. Error", "Z-ratio", "P-value")
    ]
    for name, row in fit.estimates.loc[list(fit.moments.fixed)].iterrows():
        numbers = (format_fixed(row[key], 6) for key in ("estimate", "se"))
        tests = (format_fixed(row["statistic"], 3), format_fixed(row["p"], 3))
        rows.append((show_name(name), *numbers, *tests))
    return rows


def _tabulate_components(fit: "LevelsEstimate", levels: list[_Level], *, nested: bool) -> list[str]:
    """Return the variances of levels 1 and 2, and those of each level above, each as a table."""
    heads = ("Random Effect", "Std. Deviation", "Variance Component")
    residual = ("level-1, E", *_show_variance(fit.sigma2))

    def list_rows(level: _Level) -> list[tuple[str, ...]]:
        variances = np.diag(level.g).tolist()
        pairs = zip(level.effects, variances, strict=True)
        return [(label, *_show_variance(variance)) for label, variance in pairs]

    if not nested:
        rows = [row for level in levels for row in list_rows(level)]
        return rule_table("Final estimation of variance components:", [heads, *rows, residual])
    first, *others = levels
    title = "Final estimation of level-1 and level-2 variance components:"
    lines = rule_table(title, [heads, *list_rows(first), residual])
    for level in others:
        title = f"Final estimation of level-{level.number} variance components:"
        lines += rule_table(title, [heads, *list_rows(level)])
    return lines


def _show_variance(variance: float) -> tuple[str, str]:
    return format_fixed(np.sqrt(variance), 5), format_fixed(variance, 5)


def rule_table(title: str, rows: list[tuple[str, ...]]) -> list[str]:
    """Return a table between rules, under its title."""
    sides = (align_left, *(align_right,) * (len(rows[0]) - 1))
    lines = [" " + line for line in align_columns(rows, sides=sides, gap="  ")]
    rule = "-" * (measure_widest(lines) + 1)
    return [title, rule, lines[0], rule, *lines[1:], rule, ""]
