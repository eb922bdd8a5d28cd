"""A fit of zeros and ones, proportions or counts with several factors, as other programs print."""

import math
from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError
from bhlm.layout import (
    align_left,
    align_right,
    format_fixed,
    format_g,
    list_names,
    measure_widest,
    shorten,
    show_name,
    wrap,
)
from bhlm.reml.family.levels import tell_integration
from bhlm.reml.family.maximum import LABEL
from bhlm.reports.text.family import REGRESSION
from bhlm.reports.text.levels import tabulate_groups
from bhlm.reports.text.lme4 import correlate_fixed, format_r, tabulate_fixed, tabulate_random
from bhlm.reports.text.stata import LEFT, tabulate_coefficients, tabulate_components
from bhlm.reports.text.styles import tabulate_briefly

if TYPE_CHECKING:
    from bhlm.reml.family.levels import FamilyLevelsEstimate

WIDTH = 78


def list_notes(fit: "FamilyLevelsEstimate") -> list[str]:
    """Return the sentences that stand under every summary, the label of the fit first."""
    told = tell_integration(fit)
    notes = [f"{told[0].upper()}{told[1:]}."]
    notes += [f"Note: {show_name(fit.advice)}"] if fit.converged and fit.singular else []
    notes += [f"{fit.patterns.rows_used}."] if fit.patterns.dropped else []
    return notes + ([f"Note: {fit.patterns.note}"] if fit.patterns.note else [])


def outline_family_levels(fit: "FamilyLevelsEstimate") -> str:
    """Return a fit in a few lines: the model, every estimate, and what to know about them."""
    patterns, is_exact = fit.patterns, fit.marginal is not None
    levels = [f"{number} of '{show_name(name)}'" for name, number in patterns.groups.items()]
    lines = [
        f"{show_name(patterns.formula)} by ML{'' if is_exact else f' ({LABEL})'}, "
        f"{fit.family.name} with {fit.family.link} link:",
        f"{patterns.rows_used}; {list_names(levels, most=len(levels))}, "
        f"{'' if is_exact else 'approximate '}log-likelihood {fit.loglik:.8g}",
        *([f"FAILED: {show_name(fit.advice)}"] if not fit.converged else []),
    ]
    lines += tabulate_briefly(fit.estimates)
    for note in list_notes(fit):
        lines += wrap(note, WIDTH)
    return shorten("\n".join(lines), whole="print(...) of its summary()")


def render_family_levels(fit: "FamilyLevelsEstimate", *, style: str = "stata") -> str:
    """Return the printed output in the style of "stata" (melogit) or "lme4" (glmer).

    A fit that did not converge says so first. Under it stands how well the likelihood is known.

    Raises:
        ArgumentError: a style that is not known or that has no such output.
    """
    if style == "hlm":
        raise ArgumentError(
            "style='hlm' is not there for families with several factors, which HLM fits otherwise; "
            "choose stata or lme4"
        )
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is not known; choose one of {', '.join(STYLES)}")
    lines = []
    if not fit.converged:
        lines += [*wrap(f"FAILED: convergence not achieved; {fit.advice}", WIDTH), ""]
    lines += STYLES[style](fit)
    for note in list_notes(fit):
        lines += ["", *wrap(note, WIDTH)]
    return "\n".join(lines)


def _render_stata(fit: "FamilyLevelsEstimate") -> list[str]:
    """Return the blocks of Stata's melogit, meprobit, mecloglog or mepoisson."""
    patterns, wald, test = fit.patterns, fit.wald, fit.lr_test
    estimates, name = fit.parameter_rows, REGRESSION[fit.family.link]
    by_size = sorted(fit.structures, key=lambda each: patterns.groups[each.group])
    loglik = f"Log likelihood = {format_g(fit.loglik, 10)}"
    return [
        *(
            f"Iteration {step.iteration}:   log likelihood = {format_g(step.loglik, 10)}"
            for step in fit.steps
        ),
        "",
        f"{align_left(f'Mixed-effects {name} regression', LEFT)}"
        f"{'Number of obs':<18} ={patterns.n_rows:>10}",
        "",
        *tabulate_groups(patterns.groups, patterns.group_size),
        "",
        f"{align_left(_name_points(fit), LEFT)}"
        f"{f'Wald chi2({wald["df"]})':<18} ={format_fixed(wald['chi2'], 2):>10}",
        f"{align_left(loglik, LEFT)}{'Prob > chi2':<18} ={format_fixed(wald['p'], 4):>10}",
        "",
        *tabulate_coefficients(fit, estimates),
        "",
        *tabulate_components(by_size, estimates, residual=False),
        f"LR test vs. {name} regression:{f'chi2({test["df"]}) =':>14}"
        f"{format_fixed(test['chi2'], 2):>9}   Prob > chi2 = {test['p']:.4f}",
        "",
        "Note: LR test is conservative and provided only for reference.",
    ]


def _name_points(fit: "FamilyLevelsEstimate") -> str:
    if fit.marginal is None:
        return f"Integration: {LABEL}"
    points = " x ".join(f"{count:.0f}" for count in fit.marginal.nodes)
    return f"Integration points = {points} on average"


def _render_lme4(fit: "FamilyLevelsEstimate") -> list[str]:
    """Return the blocks of R's print(summary(glmer(...)))."""
    patterns = fit.patterns
    order = sorted(
        range(len(fit.structures)), key=lambda at: -patterns.groups[fit.structures[at].group]
    )
    structures, gs = [fit.structures[at] for at in order], [fit.gs[at] for at in order]
    groups = "; ".join(
        f"{show_name(each.group)}, {patterns.groups[each.group]}" for each in structures
    )
    name = "poisson" if fit.family.has_exposure else "binomial"
    count, n, deviance = len(fit.beta) + fit.n_components, patterns.n_rows, -2.0 * fit.loglik
    values = [deviance + 2.0 * count, deviance + math.log(n) * count, fit.loglik, deviance]
    heads = ["AIC", "BIC", "logLik", "deviance", "df.resid"]
    cells = [*format_r([round(value, 1) for value in values], 7), f"{n - count}"]
    width = measure_widest([*heads, *cells])
    title = [
        "Generalized linear mixed model fit by maximum likelihood (Laplace",
        "  Approximation) [glmerMod]",
    ]
    if fit.marginal is not None:
        title = [
            "Generalized linear mixed model fit by maximum likelihood (exact",
            "  integration) [glmerMod]",
        ]
    lines = [
        *title,
        f" Family: {name}  ( {fit.family.link} )",
        f"Formula: {show_name(patterns.formula)}",
        "",
        *(" ".join(align_right(text, width) for text in row) for row in (heads, cells)),
        "",
        "Random effects:",
        *tabulate_random(structures, gs, None),
        f"Number of obs: {n}, groups:  {groups}",
        "",
        "Fixed effects:",
        *tabulate_fixed(fit, tests=True),
    ]
    if len(patterns.fixed) > 1:
        lines += ["", "Correlation of Fixed Effects:", *correlate_fixed(fit)]
    return lines


STYLES = {"stata": _render_stata, "lme4": _render_lme4}
