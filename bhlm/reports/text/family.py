"""A fit of zeros and ones, proportions or counts in the printed style of another program."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.layout import (
    align_left,
    align_right,
    format_fixed,
    format_g,
    measure_widest,
    shorten,
    show_name,
    wrap,
)
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.family.inference import tabulate_fixed as tabulate_tests
from bhlm.reml.family.inference import tabulate_ratios
from bhlm.reml.family.population import estimate_population, measure_dispersion, share_variance
from bhlm.reml.family.search import tell_error
from bhlm.reports.text.hlm import draw_tau, format_exponent, name_random
from bhlm.reports.text.hlm_levels import rule_table
from bhlm.reports.text.lme4 import correlate_fixed, format_r, tabulate_fixed, tabulate_random
from bhlm.reports.text.stata import LEFT, tabulate_coefficients, tabulate_components
from bhlm.reports.text.styles import tabulate_briefly

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.reml.family.estimate import FamilyEstimate

WIDTH = 78
# A ratio of Pearson's chi-square to its df above this, and a p below, is told.
LARGE, SURE = 1.2, 1e-3
REGRESSION = {
    "logit": "logistic",
    "probit": "probit",
    "cloglog": "complementary log-log",
    "log": "Poisson",
}
EQUATION = {
    "logit": "log[P/(1-P)]",
    "probit": "Phi^-1[P]",
    "cloglog": "log[-log(1-P)]",
    "log": "log[L]",
}


class HeadLine(NamedTuple):
    """A line of Stata's head: what stands on the left, and a number with its label."""

    text: str
    label: str
    value: object


def tell_integration(fit: "FamilyEstimate") -> str:
    """Return how the random effects were integrated, and how well the likelihood is known."""
    if fit.error is None:
        if fit.nagq == 1:
            return "Laplace's approximation, of unknown error"
        return f"adaptive Gauss-Hermite quadrature, {fit.nagq} nodes, of unknown error"
    each = fit.nodes / fit.patterns.n_groups
    return f"{tell_error(fit.error, fit.white)} ({each:.0f} nodes per group on average)"


def list_notes(fit: "FamilyEstimate") -> list[str]:
    """Return the sentences that stand under every summary."""
    notes = [f"Note: {fit.advice}"] if fit.converged and fit.singular else []
    notes += [f"{fit.patterns.rows_used}."] if fit.patterns.dropped else []
    found = measure_dispersion(fit)
    if found["ratio"] > LARGE and found["p"] < SURE:
        times = f"{found['ratio']:.2f} times its {found['df']} df (p = {found['p']:.1g})"
        notes.append(
            f"Note: overdispersed: Pearson's chi-square is {times}, which {fit.family.name} rows "
            "do not explain, so that standard errors are too small; add a column that explains "
            "it, or see fit.fixed_effects(method='cr1')"
        )
    return notes


def outline_family(fit: "FamilyEstimate") -> str:
    """Return a fit in a few lines: the model, every estimate, and what to know about them."""
    patterns = fit.patterns
    lines = [
        f"{show_name(patterns.formula)} by ML, {fit.family.name} with {fit.family.link} link: "
        f"{patterns.rows_used}; {patterns.n_groups} of '{show_name(patterns.group)}', "
        f"log-likelihood {fit.loglik:.8g}",
        tell_integration(fit),
        *([f"FAILED: {show_name(fit.advice)}"] if not fit.converged else []),
    ]
    lines += tabulate_briefly(fit.estimates)
    for note in list_notes(fit):
        lines += wrap(note, WIDTH)
    return shorten("\n".join(lines), whole="print(...) of its summary()")


def render_family(fit: "FamilyEstimate", *, style: str = "stata") -> str:
    """Return the printed output in the style of "stata", "hlm" or "lme4".

    A fit that did not converge says so first, a singular one last. Under it stands how well the
    likelihood is known, and what tells of overdispersion.

    Raises:
        ArgumentError: a style that is not known.
    """
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is not known; choose one of {', '.join(STYLES)}")
    lines = []
    if not fit.converged:
        lines += [*wrap(f"FAILED: convergence not achieved; {fit.advice}", WIDTH), ""]
    lines += STYLES[style](fit)
    told = tell_integration(fit)
    for note in [f"{told[0].upper()}{told[1:]}.", *list_notes(fit)]:
        lines += ["", *wrap(note, WIDTH)]
    return "\n".join(lines)


def _render_stata(fit: "FamilyEstimate") -> list[str]:
    """Return the blocks of Stata's melogit, meprobit, mecloglog or mepoisson.

    Layout: Stata 12 Longitudinal-Data/Panel-Data Reference Manual, xtmelogit, whose tables are
    those of xtmixed.
    """
    patterns, wald, size = fit.patterns, fit.wald, fit.patterns.group_size
    name = REGRESSION[fit.family.link]
    rows: list[HeadLine | None] = [
        HeadLine(f"Mixed-effects {name} regression", "Number of obs", patterns.n_rows),
        HeadLine(
            f"Group variable: {show_name(patterns.group)}", "Number of groups", patterns.n_groups
        ),
        None,
        HeadLine("", "Obs per group: min", size["min"]),
        HeadLine("", "               avg", f"{size['mean']:.1f}"),
        HeadLine("", "               max", size["max"]),
        None,
        HeadLine(_name_points(fit), f"Wald chi2({wald['df']})", format_fixed(wald["chi2"], 2)),
        HeadLine(
            f"Log likelihood = {format_g(fit.loglik, 10)}",
            "Prob > chi2",
            format_fixed(wald["p"], 4),
        ),
    ]
    left = measure_widest([row.text + "  " for row in rows if row is not None], least=LEFT)
    lines = [
        f"Iteration {step.iteration}:   log likelihood = {format_g(step.loglik, 10)}"
        for step in fit.steps
    ]
    lines.append("")
    for row in rows:
        told = (
            "" if row is None else f"{align_left(row.text, left)}{row.label:<18} ={row.value:>10}"
        )
        lines.append(told)
    estimates, test = fit.parameter_rows, fit.lr_test
    lines += ["", *tabulate_coefficients(fit, estimates), ""]
    lines += tabulate_components((fit.structure,), estimates, residual=False)
    start, chi2 = f"LR test vs. {name} regression:", format_fixed(test["chi2"], 2)
    if test["df"] == 1:
        return [*lines, f"{start} chibar2(01) ={chi2:>9} Prob>=chibar2 = {test['p']:.4f}"]
    label = f"chi2({test['df']}) ="
    lines.append(f"{start}{label:>14}{chi2:>9}   Prob > chi2 = {test['p']:.4f}")
    return [*lines, "", "Note: LR test is conservative and provided only for reference."]


def _name_points(fit: "FamilyEstimate") -> str:
    if fit.nagq == 1:
        return "Integration: Laplace"
    points = fit.nagq or max(1, round((fit.nodes / fit.patterns.n_groups) ** (1 / fit.structure.q)))
    return f"Integration points = {points:>3}" + ("" if fit.nagq else " on average")


def _render_lme4(fit: "FamilyEstimate") -> list[str]:
    """Return the blocks of R's print(summary(glmer(...)))."""
    patterns = fit.patterns
    way = "exact integration"
    if fit.nagq is not None:
        way = f"Adaptive Gauss-Hermite Quadrature, nAGQ = {fit.nagq}"
        way = "Laplace Approximation" if fit.nagq == 1 else way
    head = f"Generalized linear mixed model fit by maximum likelihood ({way}) [glmerMod]"
    name = "poisson" if fit.family.has_exposure else "binomial"
    lines = wrap(head, WIDTH)
    lines = [lines[0], *("  " + line for line in lines[1:])]
    lines += [f" Family: {name}  ( {fit.family.link} )", f"Formula: {show_name(patterns.formula)}"]
    count, n = len(fit.beta) + len(fit.structure.labels), patterns.n_rows
    deviance = -2.0 * fit.loglik
    values = [deviance + 2.0 * count, deviance + math.log(n) * count, fit.loglik, deviance]
    heads = ["AIC", "BIC", "logLik", "deviance", "df.resid"]
    cells = [*format_r([round(value, 1) for value in values], 7), f"{n - count}"]
    width = measure_widest([*heads, *cells])
    lines += ["", *(" ".join(align_right(text, width) for text in row) for row in (heads, cells))]
    lines += ["", "Random effects:", *tabulate_random((fit.structure,), (fit.g,), None)]
    lines += [
        f"Number of obs: {n}, groups:  {show_name(patterns.group)}, {patterns.n_groups}",
        "",
        "Fixed effects:",
        *tabulate_fixed(fit, tests=True),
    ]
    if len(patterns.fixed) > 1:
        lines += ["", "Correlation of Fixed Effects:", *correlate_fixed(fit)]
    return lines


def _render_hlm(fit: "FamilyEstimate") -> list[str]:
    """Return the blocks of HLM's output for HGLM, in their order.

    The unit-specific model with odds ratios, again with robust standard errors, then the
    population-average model alike, and the variance components. Layout: Raudenbush, Bryk, Cheong,
    Congdon & du Toit (2011), HLM 7, chapter 7.
    """
    labels = [f"{name_random(name)},B{i}" for i, name in enumerate(fit.patterns.random)]
    lines = [
        f"Level-1 model: {EQUATION[fit.family.link]} = eta",
        "",
        *draw_tau(labels, fit.g),
        f"The value of the log-likelihood function at iteration {len(fit.steps)} = "
        f"{format_exponent(fit.loglik)}",
        "",
    ]
    robust = ["z"] if fit.nagq is not None else ["z", "cr0"]
    for kind in ("Unit-specific", "Population-average"):
        for method in robust:
            if kind == "Unit-specific":
                table = tabulate_tests(fit, method=method, level=0.95)
                ratios = None
                if fit.family.link != "probit":
                    ratios = tabulate_ratios(fit, method=method, level=0.95)
            else:
                table = estimate_population(fit, method=method, level=0.95)
                ratios = _find_ratios(table)
            errors = "" if method == "z" else ", robust standard errors"
            title = f"Final estimation of fixed effects ({kind} model{errors})"
            lines += rule_table(title, _list_effects(table))
            if ratios is not None:
                name = fit.family.ratio_name or "Hazard ratio"
                lines += rule_table(f"{name}s ({kind} model{errors})", _list_ratios(ratios, name))
    rows: list[tuple[str, ...]] = [("Random Effect", "Standard Deviation", "Variance Component")]
    for i, name in enumerate(fit.patterns.random):
        variance = float(fit.g[i, i])
        rows.append(
            (name_random(name), format_fixed(np.sqrt(variance), 5), format_fixed(variance, 5))
        )
    lines += rule_table("Final estimation of variance components", rows)
    shared = share_variance(fit).loc[fit.patterns.group]
    lines += [
        f"Intraclass correlation{'' if fit.family.has_exposure else ' on the latent scale'} = "
        f"{shared['icc']:.5f}",
        f"Deviance                       = {-2.0 * fit.loglik:.6f}",
        f"Number of estimated parameters = {len(fit.beta) + len(fit.structure.labels)}",
        "",
        "Tests are by z.",
    ]
    return lines


def _find_ratios(table: "pd.DataFrame") -> "pd.DataFrame | None":
    if "ratio" not in table:
        return None
    return table[["ratio"]].assign(lower=np.exp(table["lower"]), upper=np.exp(table["upper"]))


def _list_effects(table: "pd.DataFrame") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("Fixed Effect", "Coefficient", "Standard Error", "z-ratio", "p-value")
    ]
    for name, row in table.iterrows():
        numbers = (format_fixed(row[key], 6) for key in ("estimate", "se"))
        tests = (format_fixed(row["statistic"], 3), format_fixed(row["p"], 3))
        rows.append((_name_effect(str(name)), *numbers, *tests))
    return rows


def _list_ratios(table: "pd.DataFrame", name: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("Fixed Effect", name, "95% Confidence Interval")]
    for effect, row in table.iterrows():
        ends = f"({format_fixed(row['lower'], 3)},{format_fixed(row['upper'], 3)})"
        rows.append((_name_effect(str(effect)), format_fixed(row["ratio"], 6), ends))
    return rows


def _name_effect(name: str) -> str:
    return "INTRCPT" if name == INTERCEPT else show_name(name)


STYLES = {"stata": _render_stata, "hlm": _render_hlm, "lme4": _render_lme4}
