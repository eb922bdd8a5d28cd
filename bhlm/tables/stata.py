"""A fit as Stata's `mixed` prints it."""

import math
from textwrap import fill
from typing import TYPE_CHECKING

from bhlm.parameters import RESIDUAL, variance_names

if TYPE_CHECKING:
    from bhlm.reml import RemlFit

INTERCEPT = "Intercept"
WIDTH = 78
KINDS = {
    "unstructured": "Unstructured",
    "independent": "Independent",
    "exchangeable": "Exchangeable",
    "identity": "Identity",
}


def render_stata(fit: "RemlFit") -> str:
    """Return the output of Stata's `mixed`, every block of it in its order.

    Iteration log, header with group sizes, Wald test, coefficients, variance components with
    standard errors and intervals, test against linear regression. A standard error that does
    not exist prints as a dot, and the advice of the fit follows.
    """
    blocks = []
    if not fit.converged:
        blocks.append(fill(f"NOT CONVERGED: {fit.advice}.", WIDTH))
    blocks += [
        _iteration_log(fit),
        _header(fit),
        _coefficients(fit),
        _variance_components(fit),
    ]
    if fit.converged and fit.singular:
        blocks.append(fill(f"Singular fit: {fit.advice}.", WIDTH))
    return "\n\n".join(blocks)


def format_g(value: float, width: int = 9) -> str:
    """Return a number as Stata's %9.0g does: seven digits, no zero before the point."""
    if math.isnan(value):
        return "."
    size = abs(value)
    if size == 0.0:
        return "0"
    if size >= 10.0 ** (width - 1) or size < 1e-5:
        return f"{value:.{width - 7}e}"
    before = 0 if size < 1.0 else int(math.log10(size)) + 1
    text = f"{value:.{max(width - 2 - before, 0)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("0.", ".", 1) if size < 1.0 and text.lstrip("-").startswith("0.") else text


def _iteration_log(fit: "RemlFit") -> str:
    name = _loglik_name(fit).lower()
    lines = [
        f"Iteration {step.iteration}:   {name} = {step.loglik:.8g}"
        for step in fit.steps
        if step.phase == "newton"
    ]
    return "\n".join(
        [
            "Performing EM optimization: ",
            "",
            "Performing gradient-based optimization: ",
            "",
            *lines,
            "",
            "Computing standard errors:",
        ]
    )


def _loglik_name(fit: "RemlFit") -> str:
    return "Log restricted-likelihood" if fit.method == "reml" else "Log likelihood"


def _header(fit: "RemlFit") -> str:
    moments, size, wald = fit.moments, fit.moments.group_size, fit.wald
    title = f"Mixed-effects {'REML' if fit.method == 'reml' else 'ML'} regression"
    p = "." if math.isnan(wald["p"]) else f"{wald['p']:.4f}"
    chi2 = "." if math.isnan(wald["chi2"]) else f"{wald['chi2']:.2f}"
    rows = [
        (title, "Number of obs", f"{moments.n_rows}"),
        (f"Group variable: {moments.group}", "Number of groups", f"{moments.n_groups}"),
        None,
        ("", "Obs per group: min", f"{size['min']:.0f}"),
        ("", "avg", f"{size['mean']:.1f}"),
        ("", "max", f"{size['max']:.0f}"),
        None,
        ("", f"Wald chi2({wald['df']:.0f})", chi2),
        (f"{_loglik_name(fit)} = {_loglik_text(fit.loglik)}", "Prob > chi2", p),
    ]
    return "\n".join(
        "" if row is None else f"{row[0]:<48}{row[1]:<19}= {row[2]:>9}" for row in rows
    )


def _loglik_text(value: float) -> str:
    """Return a log-likelihood with eight significant digits, as Stata prints it."""
    digits = max(8 - len(str(int(abs(value)))), 0)
    return f"{value:.{digits}f}"


def _coefficients(fit: "RemlFit") -> str:
    table = fit.estimates.loc[list(fit.moments.fixed)]
    order = [name for name in fit.moments.fixed if name != INTERCEPT]
    order += [name for name in fit.moments.fixed if name == INTERCEPT]
    width = max(12, *(len(_label(name)) for name in (*order, fit.moments.response)))
    rule = "-" * (width + 1) + "+" + "-" * 64
    lines = [
        rule.replace("+", "-"),
        f"{fit.moments.response:>{width}} |      Coef.   Std. Err.      z    P>|z|"
        "     [95% Conf. Interval]",
        rule,
    ]
    for name in order:
        row = table.loc[name]
        lines.append(
            f"{_label(name):>{width}} |{format_g(row['estimate']):>11}{format_g(row['se']):>12}"
            f"{row['statistic']:>9.2f}{row['p']:>8.3f}{format_g(row['lower']):>13}"
            f"{format_g(row['upper']):>12}"
        )
    return "\n".join([*lines, rule.replace("+", "-")])


def _variance_components(fit: "RemlFit") -> str:
    moments, labels = fit.moments, fit.structure.labels
    names = variance_names(moments.random, moments.group, labels)
    shared = fit.structure.kind in ("exchangeable", "identity") and len(moments.random) > 1
    printed = {}
    for name, (i, j) in zip(names, labels, strict=True):
        ends = (
            moments.random if shared else [moments.random[k] for k in ((i,) if i == j else (j, i))]
        )
        short = [_label(end) for end in ends]
        if shared:
            short.sort(key=lambda end: end == "_cons")
        printed[name] = f"{'var' if i == j else 'cov'}({','.join(short)})"
    # Slopes come first, the intercept after them, covariances last.
    order = sorted(
        zip(names, labels, strict=True),
        key=lambda pair: (
            pair[1][0] != pair[1][1],
            "_cons" in printed[pair[0]] and pair[1][0] == pair[1][1],
        ),
    )
    title = f"{moments.group}: {KINDS[fit.structure.kind]}"
    width = max(28, len(title), *(len(text) for text in printed.values()))
    rule = "-" * (width + 1) + "+" + "-" * 48
    flat = rule.replace("+", "-")
    lines = [
        flat,
        f"{'  Random-effects Parameters':<{width}} |   Estimate   Std. Err.     [95% Conf. Interval]",
        rule,
        f"{title:<{width}} |",
    ]
    lines += [_component(fit, name, printed[name], width) for name, _ in order]
    lines += [rule, _component(fit, RESIDUAL, RESIDUAL, width), flat, _lr_test(fit)]
    if len(labels) > 1:
        lines += ["", "Note: LR test is conservative and provided only for reference."]
    return "\n".join(lines)


def _component(fit: "RemlFit", name: str, printed: str, width: int) -> str:
    row = fit.estimates.loc[name]
    return (
        f"{printed:>{width}} |{format_g(row['estimate']):>11}{format_g(row['se']):>12}"
        f"{format_g(row['lower']):>14}{format_g(row['upper']):>12}"
    )


def _lr_test(fit: "RemlFit") -> str:
    """Return the test against linear regression; with one variance it is a 50:50 mixture."""
    test = fit.lr_test
    if len(fit.structure.labels) > 1:
        return (
            f"LR test vs. linear regression:       chi2({test['df']:.0f}) = {test['chi2']:>8.2f}   "
            f"Prob > chi2 = {test['p']:.4f}"
        )
    p = 0.5 * test["p"] if test["chi2"] > 0 else 1.0
    return (
        f"LR test vs. linear regression: chibar2(01) = {test['chi2']:>8.2f} "
        f"Prob >= chibar2 = {p:.4f}"
    )


def _label(name: str) -> str:
    return "_cons" if name == INTERCEPT else name
