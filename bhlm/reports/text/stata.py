"""RemlFit -> the printed output of Stata's `xtmixed`, block by block."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bhlm.layout import (
    align_left,
    align_right,
    format_fixed,
    format_g,
    measure_widest,
    show_name,
    wrap,
)
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import RESIDUAL
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.exact_null import FEW_GROUPS, null_of_component
from bhlm.reml.rows import Row

if TYPE_CHECKING:
    from bhlm.reml.estimate import Estimate
    from bhlm.reml.family.estimate import FamilyEstimate
    from bhlm.reml.family.levels import FamilyLevelsEstimate
    from bhlm.reml.levels import LevelsEstimate

WIDTH = 78
LEFT = 48  # columns of the header's left half
NAME = 12  # columns of a coefficient's name
COMPONENT = 28  # columns of a variance component's name

Section = tuple[str, list[tuple[str, str]]]  # title, then (parameter, printed name)


def render_stata(fit: "Estimate") -> str:
    """Return every block of Stata's `xtmixed ..., variance` output, in its order.

    The iteration log holds the fit's own steps. Slopes come before `_cons`, covariances after
    the variances. A name that is longer than Stata's column widens it, so that nothing is
    abbreviated. Standard errors that do not exist are printed as "."; a fit that did not
    converge says so first, a singular one says last which component stands on its boundary.
    """
    estimates = fit.parameter_rows
    lines = []
    if not fit.converged:
        lines += [*wrap(f"FAILED: convergence not achieved; {fit.advice}", WIDTH), ""]
    lines += [
        *log_iterations(fit),
        *_head(fit),
        "",
        *tabulate_coefficients(fit, estimates),
        "",
        *tabulate_components((fit.structure,), estimates),
        *_test_against_linear(fit),
    ]
    if fit.converged and fit.singular:
        lines += ["", *wrap(f"Note: {fit.advice}", WIDTH)]
    return "\n".join(lines)


def _name_coefficient(name: str) -> str:
    return "_cons" if name == INTERCEPT else show_name(name)


def name_likelihood(fit: "Estimate | LevelsEstimate") -> str:
    """Return what Stata calls the likelihood."""
    weights = fit.moments.design.formula.weights
    if weights is not None and weights.is_sampling:
        return "log pseudolikelihood"
    return "log restricted-likelihood" if fit.method == "reml" else "log likelihood"


def log_iterations(fit: "Estimate | LevelsEstimate") -> list[str]:
    """Return the iteration log, which holds the fit's own steps."""
    label = name_likelihood(fit)
    steps = [step for step in fit.steps if step.phase == "newton"]
    return [
        "Performing EM optimization:",
        "",
        "Performing gradient-based optimization:",
        "",
        *(f"Iteration {step.iteration}:   {label} = {format_g(step.loglik, 10)}" for step in steps),
        "",
        "Computing standard errors:",
        "",
    ]


def _head(fit: "Estimate") -> list[str]:
    moments, wald = fit.moments, fit.wald
    size = moments.group_size
    label = name_likelihood(fit)
    rows: list[tuple[str, str, object] | None] = [
        (f"Mixed-effects {fit.method.upper()} regression", "Number of obs", moments.n_rows),
        (f"Group variable: {show_name(moments.group)}", "Number of groups", moments.n_groups),
        None,
        ("", "Obs per group: min", size["min"]),
        ("", "               avg", f"{size['mean']:.1f}"),
        ("", "               max", size["max"]),
        None,
        ("", f"Wald chi2({wald['df']})", format_fixed(wald["chi2"], 2)),
        (
            f"{label.capitalize()} = {format_g(fit.loglik, 10)}",
            "Prob > chi2",
            format_fixed(wald["p"], 4),
        ),
    ]
    left = measure_widest([what + "  " for what, _, _ in filter(None, rows)], least=LEFT)

    def draw(row: tuple[str, str, object] | None) -> str:
        if row is None:
            return ""
        what, name, value = row
        return f"{align_left(what, left)}{name:<18} ={value:>10}"

    return [draw(row) for row in rows]


def tabulate_coefficients(
    fit: "Estimate | LevelsEstimate | FamilyEstimate | FamilyLevelsEstimate",
    estimates: Mapping[str, Row],
) -> list[str]:
    """Return the table of the fixed effects."""
    fixed = sorted(fit.moments.fixed, key=lambda name: name == INTERCEPT)
    response = show_name(fit.moments.response)
    width = measure_widest([response, *map(_name_coefficient, fixed)], least=NAME)
    rule = "-" * (width + 66)
    lines = [
        rule,
        f"{align_right(response, width)} |      Coef.   Std. Err.      z    P>|z|"
        "     [95% Conf. Interval]",
        f"{'-' * (width + 1)}+{'-' * 64}",
    ]
    for name in fixed:
        row = estimates[name]
        lines.append(
            f"{align_right(_name_coefficient(name), width)} |"
            f"{format_g(row.estimate):>11}{format_g(row.se):>11}"
            f"{_format_statistic(row.statistic):>9}{format_fixed(row.p, 3):>8}"
            f"{format_g(row.lower):>13}{format_g(row.upper):>12}"
        )
    return [*lines, rule]


def _format_statistic(value: float) -> str:
    """Return two places, or Stata's general format where they take more than eight columns."""
    text = format_fixed(value, 2)
    return text if len(text) <= 8 else format_g(value, 8)


def tabulate_components(
    structures: Sequence[Structure], estimates: Mapping[str, Row], *, residual: bool = True
) -> list[str]:
    """Return the table of the variance components of every grouping factor and the residual.

    Without `residual` rows have no variance of their own.
    """
    divided = [(each.group, _divide_components(each)) for each in structures]
    sections = [section for _, found in divided for section in found]
    titles = [f"{show_name(group)}: {title}" for group, found in divided for title, _ in found]
    names = [printed for _, rows in sections for _, printed in rows]
    width = measure_widest([*names, *titles], least=COMPONENT)
    rule = "-" * (width + 50)
    ruled = f"{'-' * (width + 1)}+{'-' * 48}"
    heading = align_left("  Random-effects Parameters", width)

    def draw(parameter: str, printed: str) -> str:
        row = estimates[parameter]
        return (
            f"{align_right(printed, width)} |"
            f"{format_g(row.estimate):>11}{format_g(row.se):>11}"
            f"{format_g(row.lower):>14}{format_g(row.upper):>12}"
        )

    lines = [rule, f"{heading} |   Estimate   Std. Err.     [95% Conf. Interval]", ruled]
    for title, (_, rows) in zip(titles, sections, strict=True):
        lines += [f"{align_left(title, width)} |", *(draw(*row) for row in rows), ruled]
    if not residual:
        return [*lines[:-1], rule]
    return [*lines, draw(str(RESIDUAL), str(RESIDUAL)), rule]


def _divide_components(structure: Structure) -> list[Section]:
    """Return one section per block of correlated coefficients, each in Stata's order."""
    random = structure.names
    parameter = dict(zip(structure.labels, map(str, structure.variances), strict=True))
    order = sorted(range(len(random)), key=lambda i: random[i] == INTERCEPT)
    printed = [_name_coefficient(name) for name in random]
    if structure.shares_variance:
        shared = " ".join(printed[i] for i in order)
        rows = [
            (name, f"{'var' if i == j else 'cov'}({shared})") for (i, j), name in parameter.items()
        ]
        return [(structure.title, rows)]
    sections = []
    for title, places in structure.sections:
        block = [i for i in order if i in places]
        pairs = [(i, i) for i in block]
        pairs += [(i, j) for at, i in enumerate(block) for j in block[at + 1 :]]
        rows = [
            (parameter[at], f"var({printed[i]})" if i == j else f"cov({printed[i]},{printed[j]})")
            for i, j in pairs
            if (at := (min(i, j), max(i, j))) in parameter
        ]
        sections.append((title, rows))
    return sections


def _test_against_linear(fit: "Estimate") -> list[str]:
    """Return the LR line; one variance has the mixture of a point at zero and chi2(1).

    With few groups that mixture does not hold: below it stands p by the exact null distribution,
    and under the test of several parameters what gives theirs.
    """
    if fit.weights is not None and (fit.weights.is_sampling or fit.weights.holds_sigma):
        return []
    test = fit.lr_test
    start, chi2 = "LR test vs. linear regression:", format_fixed(test["chi2"], 2)
    if test["df"] == 1:
        p = 0.5 * test["p"] if test["chi2"] > 0.0 else 1.0
        lines = [f"{start} chibar2(01) ={chi2:>9} Prob >= chibar2 = {p:.4f}"]
        groups = fit.moments.n_groups
        if groups <= FEW_GROUPS:
            exact = null_of_component(fit)
            lines.append(
                f"  exact null at {groups} groups:{'':>19} Prob >= LR      = "
                f"{exact.p_value(test['chi2']):.4f}"
            )
        return lines
    name = f"chi2({test['df']}) ="
    return [
        f"{start}{name:>16}{chi2:>9}   Prob > chi2 = {test['p']:.4f}",
        "",
        "Note: LR test is conservative and provided only for reference.",
        *_point_to_bootstrap(fit),
    ]


def _point_to_bootstrap(fit: "Estimate") -> list[str]:
    """Return what gives the p-value that few groups call for."""
    if fit.moments.n_groups > FEW_GROUPS:
        return []
    return [f"      fit.test_variances(...) gives its p at {fit.moments.n_groups} groups."]
