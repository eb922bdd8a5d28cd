"""Estimate -> the printed output of the HLM program."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.layout import (
    MISSING,
    align_columns,
    align_left,
    align_right,
    format_fixed,
    measure_widest,
    show_name,
)
from bhlm.likelihood.laws import student_tail
from bhlm.likelihood.parameters import scale_covariance
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.hlm_df import assign_equations, coefficient_df
from bhlm.reml.fixed.robust import robust_covariance
from bhlm.reml.hlm_chi_square import hlm_chi_square

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def render_hlm(fit: Estimate) -> str:
    """Return the blocks of HLM's output for a two-level model, in their order.

    Sigma squared, tau, tau as correlations, reliabilities, the log-likelihood; fixed effects under
    their level-2 equations with t tests on HLM's degrees of freedom, and again with robust standard
    errors (CR0, on the same df); variance components with their chi-square tests; deviance. A fit
    that did not converge says so first, a singular one last.

    Raises:
        ArgumentError: a fit that tests by z alone, as those with sampling weights do.

    Layout: Raudenbush, Bryk, Cheong, Congdon & du Toit (2011), HLM 7, section 2.5.
    """
    if fit.judged_by_z:
        raise ArgumentError(
            "style='hlm' prints tests that this fit has not, and HLM fits another model with such "
            "weights; ask for 'stata' or 'lme4'"
        )
    lines = [] if fit.converged else [f"FAILED: {show_name(fit.advice)}", ""]
    lines += [
        f"sigma_squared = {fit.sigma2:.5f}",
        "",
        *draw_tau(_label_random(fit, "B"), fit.g),
        *_list_reliability(fit),
    ]
    lines += [
        f"The value of the log-likelihood function at iteration {len(fit.steps)} = "
        f"{format_exponent(fit.loglik)}",
        "",
    ]
    lines += _tabulate_fixed(fit, _test_effects(fit, fit.beta_cov))
    try:
        robust = _test_effects(fit, robust_covariance(fit, kind="cr0").cov)
    except ArgumentError as error:
        lines += [f"Without robust standard errors: {error}", ""]
    else:
        lines += _tabulate_fixed(fit, robust, " (with robust standard errors)")
    lines += _tabulate_components(fit, _test_variances(fit))
    count = len(fit.structure.labels) + 1 + (len(fit.beta) if fit.method == "ml" else 0)
    lines += [
        "Statistics for the current model",
        "-" * 38,
        f"Deviance                       = {-2.0 * fit.loglik:.6f}",
        f"Number of estimated parameters = {count}",
    ]
    if fit.converged and fit.singular:
        lines += ["", f"Note: {show_name(fit.advice)}"]
    return "\n".join(lines)


def _test_effects(fit: Estimate, cov: Array) -> "pd.DataFrame":
    """Return `se`, `statistic`, `df` and `p` of each fixed effect, on J - S - 1 df."""
    import pandas as pd

    se, df = np.sqrt(np.diag(cov)), coefficient_df(fit.moments)
    t = fit.beta / se
    return pd.DataFrame(
        {"se": se, "statistic": t, "df": df, "p": 2.0 * student_tail(np.abs(t), df)},
        index=list(fit.moments.fixed),
    )


def _test_variances(fit: Estimate) -> "pd.DataFrame | None":
    """Return the chi-square tests; None, which prints as dots, where HLM has none either.

    That is for shared variances, and where too few groups have a Z_j of full rank.
    """
    if fit.structure.shares_variance:
        return None
    try:
        return hlm_chi_square(fit)
    except ArgumentError:
        return None


def name_random(name: str) -> str:
    """Return what HLM calls a random coefficient."""
    return "INTRCPT1" if name == INTERCEPT else show_name(name)


def _label_random(fit: Estimate, letter: str) -> list[str]:
    """Return `INTRCPT1,B0` for each random coefficient, numbered in the model's order."""
    return [f"{name_random(name)},{letter}{i}" for i, name in enumerate(fit.moments.random)]


def format_exponent(value: float) -> str:
    """Return a number as HLM prints it, -2.335712E+004."""
    mantissa, exponent = f"{value:.6E}".split("E")
    return f"{mantissa}E{int(exponent):+04d}"


def draw_matrix(labels: Sequence[str], matrix: Array, decimals: int) -> list[str]:
    """Return the rows of a matrix, each behind its label."""
    rows = [
        [label, *(format_fixed(value, decimals) for value in row)]
        for label, row in zip(labels, matrix.tolist(), strict=True)
    ]
    sides = (align_right,) * (len(labels) + 1)
    return [" " + line for line in align_columns(rows, sides=sides, gap="  ")]


def draw_tau(labels: Sequence[str], g: Array, *, title: str = "tau") -> list[str]:
    """Return the matrix of variances (q, q), and that of correlations where there are any."""
    q = len(labels)
    lines = [title, *draw_matrix(labels, g, 5), ""]
    if q == 1:
        return lines
    pairs = [(i, j) for i in range(q) for j in range(q)]
    corr = scale_covariance(g, pairs).reshape(q, q)
    diagonal = np.arange(q)
    corr[diagonal, diagonal] = np.where(np.diag(g) > 0.0, 1.0, np.nan)
    return [*lines, f"{title} (as correlations)", *draw_matrix(labels, corr, 3), ""]


def _list_reliability(fit: Estimate) -> list[str]:
    reliability = fit.reliability
    labels = ["Random level-1 coefficient", *_label_random(fit, "B")]
    values = [format_fixed(reliability[name], 3) for name in fit.moments.random]
    rows = list(zip(labels, ["Reliability estimate", *values], strict=True))
    body = [" " + line for line in align_columns(rows, sides=(align_left, align_right), gap="  ")]
    rule = "-" * (measure_widest(body) + 1)
    return [rule, body[0], rule, *body[1:], rule, ""]


def _tabulate_fixed(fit: Estimate, table: "pd.DataFrame", note: str = "") -> list[str]:
    heads = (
        ("", "", "Standard", "", "Approx.", ""),
        ("Fixed Effect", "Coefficient", "Error", "T-ratio", "d.f.", "P-value"),
    )
    rows: list[tuple[str, ...]] = [*heads]
    titles: dict[int, str] = {}  # the line of `rows` that a title stands before
    for title, members in _order_effects(fit):
        titles[len(rows)] = title
        for at, label in members:
            row = table.loc[fit.moments.fixed[at]]
            rows.append(
                (
                    label,
                    format_fixed(float(fit.beta[at]), 6),
                    format_fixed(row["se"], 6),
                    format_fixed(row["statistic"], 3),
                    _format_df(row["df"]),
                    format_fixed(row["p"], 3),
                )
            )
    sides = (align_left, *(align_right,) * 5)
    lines = [" " + line for line in align_columns(rows, sides=sides, gap="  ")]
    rule = "-" * (measure_widest([*lines, *titles.values()]) + 1)
    body = []
    for at, line in enumerate(lines[2:], start=2):
        body += [titles[at], line] if at in titles else [line]
    return [f"Final estimation of fixed effects{note}:", rule, *lines[:2], rule, *body, rule, ""]


def _order_effects(fit: Estimate) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return titles of equations, each with the fixed effects (index, printed name) under it."""
    fixed, random = fit.moments.fixed, fit.moments.random
    equations = assign_equations(fit.moments)
    grouped = []
    for k, coefficient in enumerate(random):
        inside = [i for i, equation in enumerate(equations) if equation == k]
        # HLM's level-2 intercept is the coefficient's own column; it comes first.
        own = [i for i in inside if fixed[i] == coefficient]
        inside = own + [i for i in inside if fixed[i] != coefficient]
        title = _title_equation(coefficient, k)
        if inside:
            grouped.append((title, _number_effects(fixed, inside, coefficient, k)))
    k = len(random)
    for i in (i for i, equation in enumerate(equations) if equation is None):
        grouped.append((_title_equation(fixed[i], k), [(i, f"   INTRCPT2, G{k}0")]))
        k += 1
    return grouped


def _title_equation(coefficient: str, k: int) -> str:
    slope = "" if coefficient == INTERCEPT else " slope"
    return f" For {name_random(coefficient)}{slope}, B{k}"


def _number_effects(
    fixed: Sequence[str], inside: Sequence[int], coefficient: str, k: int
) -> list[tuple[int, str]]:
    start = 0 if fixed[inside[0]] == coefficient else 1  # an equation without its intercept
    return [
        (i, f"   {'INTRCPT2' if fixed[i] == coefficient else show_name(fixed[i])}, G{k}{at}")
        for at, i in enumerate(inside, start=start)
    ]


def _format_df(value: float) -> str:
    if not np.isfinite(value):
        return MISSING
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"


def _tabulate_components(fit: Estimate, tests: "pd.DataFrame | None") -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("", "Standard", "Variance", "", "", ""),
        ("Random Effect", "Deviation", "Component", "d.f.", "Chi-square", "P-value"),
    ]
    for i, name in enumerate(fit.moments.random):
        slope = "" if name == INTERCEPT else " slope"
        variance = float(fit.g[i, i])
        if tests is None:
            test: tuple[str, ...] = (MISSING,) * 3
        else:
            at = tests.loc[name]
            test = (_format_df(at["df"]), format_fixed(at["chi2"], 5), format_fixed(at["p"], 3))
        rows.append(
            (
                f"{name_random(name)}{slope}, U{i}",
                format_fixed(np.sqrt(variance), 5),
                format_fixed(variance, 5),
                *test,
            )
        )
    residual = (format_fixed(np.sqrt(fit.sigma2), 5), format_fixed(fit.sigma2, 5))
    rows.append(("level-1, R", *residual, "", "", ""))
    sides = (align_left, *(align_right,) * 5)
    lines = [" " + line for line in align_columns(rows, sides=sides, gap="  ")]
    rule = "-" * (measure_widest(lines) + 1)
    title = "Final estimation of variance components:"
    return [title, rule, *lines[:2], rule, *lines[2:], rule, ""]
