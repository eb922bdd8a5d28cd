"""A fit of several grouping factors in the printed style of another program."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bhlm.design.formula.weights import has_shares
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
from bhlm.likelihood.cells import describe_pattern
from bhlm.reml.fixed.few_groups import list_level_notes
from bhlm.reports.text.hlm_levels import render_hlm_levels
from bhlm.reports.text.lme4 import (
    correlate_fixed,
    criterion_lines,
    tabulate_fixed,
    tabulate_random,
)
from bhlm.reports.text.stata import (
    LEFT,
    log_iterations,
    name_likelihood,
    tabulate_coefficients,
    tabulate_components,
)
from bhlm.reports.text.styles import tabulate_briefly, tabulate_tests

if TYPE_CHECKING:
    from bhlm.reml.levels import LevelsEstimate

WIDTH = 78


def render_levels(fit: "LevelsEstimate", *, style: str = "stata", df: str | None = None) -> str:
    """Return the printed output in the style of "stata", "hlm" or "lme4".

    A fit that did not converge says so first, a singular one last. Under it stands what to know of
    the labels. `df` adds the tests by another method, as `fit.fixed_effects` has them.

    Raises:
        ArgumentError: a style that is not known, or a method that is not or that the fit has not.
    """
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is not known; choose one of {', '.join(STYLES)}")
    lines = []
    if not fit.converged:
        lines += [*wrap(f"FAILED: convergence not achieved; {fit.advice}", WIDTH), ""]
    lines += STYLES[style](fit)
    if df is not None:
        lines += ["", *tabulate_tests(fit, df)]
    for note in _list_notes(fit, df):
        lines += ["", *wrap(note, WIDTH)]
    return "\n".join(lines)


def outline_levels(fit: "LevelsEstimate") -> str:
    """Return a fit in a few lines: the model, every estimate, and the notes of its summary."""
    moments = fit.moments
    levels = [f"{number} of '{show_name(name)}'" for name, number in moments.groups.items()]
    lines = [
        f"{show_name(moments.formula)} by {fit.method.upper()}: {moments.rows_used}; "
        f"{list_names(levels, most=len(levels))}, {describe_pattern(moments)}, "
        f"log-likelihood {fit.loglik:.6g}",
        *([f"FAILED: {show_name(fit.advice)}"] if not fit.converged else []),
    ]
    lines += tabulate_briefly(fit.estimates)
    for note in _list_notes(fit):
        lines += wrap(note, WIDTH)
    return shorten("\n".join(lines), whole="print(...) of its summary()")


def _list_notes(fit: "LevelsEstimate", df: str | None = None) -> list[str]:
    """Return the sentences that stand under every summary."""
    notes = [f"Note: {fit.advice}"] if fit.converged and fit.singular else []
    notes += [f"{fit.moments.rows_used}."] if fit.moments.dropped else []
    return [*notes, *list_level_notes(fit, df=df)]


def _render_stata(fit: "LevelsEstimate") -> list[str]:
    """Return the blocks of Stata's `mixed` for several levels, coarsest factor first."""
    estimates, wald = fit.parameter_rows, fit.wald
    label = name_likelihood(fit).capitalize()
    loglik = f"{label} = {format_g(fit.loglik, 10)}"
    chi2 = format_fixed(wald["chi2"], 2)
    by_size = sorted(fit.structures, key=lambda each: fit.moments.groups[each.group])
    return [
        *log_iterations(fit),
        f"{align_left(f'Mixed-effects {fit.method.upper()} regression', LEFT)}"
        f"{'Number of obs':<18} ={fit.moments.n_rows:>10}",
        "",
        *tabulate_groups(fit.moments.groups, fit.moments.group_size),
        "",
        f"{'':{LEFT}}{f'Wald chi2({wald["df"]})':<18} ={chi2:>10}",
        f"{align_left(loglik, LEFT)}{'Prob > chi2':<18} ={format_fixed(wald['p'], 4):>10}",
        "",
        *tabulate_coefficients(fit, estimates),
        "",
        *tabulate_components(by_size, estimates),
        *_test_against_linear(fit),
    ]


def _test_against_linear(fit: "LevelsEstimate") -> list[str]:
    """Return the LR line, which pseudo-likelihoods and known variances have not."""
    if not has_shares(fit.weights):
        return []
    test = fit.lr_test
    return [
        f"LR test vs. linear regression:{f'chi2({test["df"]}) =':>16}"
        f"{format_fixed(test['chi2'], 2):>9}   Prob > chi2 = {test['p']:.4f}",
        "",
        "Note: LR test is conservative and provided only for reference.",
    ]


def tabulate_groups(
    groups: Mapping[str, int], sizes: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return the table of levels, and rows per level, of every factor."""
    order = sorted(groups, key=lambda name: groups[name])
    names = [show_name(name) for name in order]
    width = measure_widest(names, least=15)
    rule = "-" * (width + 44)
    lines = [
        rule,
        f"{'':{width}} |   No. of       Observations per Group",
        f"{align_right('Group Variable', width)} |   Groups    Minimum    Average    Maximum",
        f"{'-' * (width + 1)}+{'-' * 42}",
    ]
    for name, shown in zip(order, names, strict=True):
        size = sizes[name]
        lines.append(
            f"{align_right(shown, width)} |{groups[name]:>9}{size['min']:>11}"
            f"{size['mean']:>11.1f}{size['max']:>11}"
        )
    return [*lines, rule]


def _render_lme4(fit: "LevelsEstimate") -> list[str]:
    """Return the blocks of lme4's summary, the factor with the most levels first."""
    moments = fit.moments
    order = sorted(
        range(len(fit.structures)), key=lambda at: -moments.groups[fit.structures[at].group]
    )
    structures, gs = [fit.structures[at] for at in order], [fit.gs[at] for at in order]
    method = "REML" if fit.method == "reml" else "maximum likelihood "
    components = sum(len(structure.labels) for structure in structures)
    groups = "; ".join(
        f"{show_name(each.group)}, {moments.groups[each.group]}" for each in structures
    )
    lines = [
        f"Linear mixed model fit by {method} ['lmerMod']",
        f"Formula: {show_name(moments.formula)}",
        "",
        *criterion_lines(fit, components),
        "",
        "Random effects:",
        *tabulate_random(structures, gs, fit.sigma2),
        f"Number of obs: {moments.n_rows}, groups:  {groups}",
        "",
        "Fixed effects:",
        *tabulate_fixed(fit),
    ]
    if len(moments.fixed) > 1:
        lines += ["", "Correlation of Fixed Effects:", *correlate_fixed(fit)]
    return lines


STYLES = {"stata": _render_stata, "hlm": render_hlm_levels, "lme4": _render_lme4}
