"""RemlFit -> the output of R's print(summary(lmer(...)))."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.layout import align_columns, align_left, align_right, measure_widest, show_name
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import scale_covariance
from bhlm.moments.moments import INTERCEPT

if TYPE_CHECKING:
    from bhlm.reml.estimate import Estimate
    from bhlm.reml.family.estimate import FamilyEstimate
    from bhlm.reml.family.levels import FamilyLevelsEstimate
    from bhlm.reml.levels import LevelsEstimate

DIGITS = 4  # getOption("digits") - 3
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."))
SIGNIF = "Signif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1"


def render_lme4(fit: "Estimate") -> str:
    """Return the blocks of lme4's summary: title, criterion, both tables, correlations.

    lme4 also names the data and prints quantiles of the scaled residuals; a fit has only the
    moments, so these are left out. Names are never abbreviated. A fit that did not converge says so
    first, a singular one last.
    """
    moments = fit.moments
    lines = []
    if not fit.converged:
        lines += [f"FAILED: {show_name(fit.advice)}", ""]
    method = "REML" if fit.method == "reml" else "maximum likelihood "
    lines.append(f"Linear mixed model fit by {method} ['lmerMod']")
    lines.append(f"Formula: {show_name(moments.formula)}")
    lines += ["", *criterion_lines(fit, len(fit.structure.labels))]
    lines += ["", "Random effects:"]
    lines += tabulate_random((fit.structure,), (fit.g,), fit.sigma2)
    lines += [
        f"Number of obs: {moments.n_rows}, groups:  {show_name(moments.group)}, {moments.n_groups}",
        "",
        "Fixed effects:",
        *tabulate_fixed(fit),
    ]
    if len(moments.fixed) > 1:
        lines += ["", "Correlation of Fixed Effects:", *correlate_fixed(fit)]
    if fit.converged and fit.singular:
        lines += ["", f"boundary (singular) fit: {show_name(fit.advice)}"]
    return "\n".join(lines)


def format_r(values: Sequence[float], digits: int = DIGITS) -> list[str]:
    """Return numbers as R's format(x, digits=): as many places as the neediest of them needs.

    Each needs the places that show `digits` significant digits, without zeros at the end. All
    are filled to one width; scientific notation is used where it is narrower.
    """
    finite = [value for value in values if math.isfinite(value)]
    needs = [_count_places(value, digits) for value in finite]
    places = max([0, *(digits_needed - 1 - exponent for digits_needed, exponent in needs)])
    mantissa = max([0, *(digits_needed - 1 for digits_needed, _ in needs)])
    fixed = [f"{value:.{places}f}" for value in finite]
    scientific = [f"{value:.{mantissa}e}" for value in finite]
    if max(map(len, fixed), default=0) > max(map(len, scientific), default=0):
        fixed = scientific
    texts = iter(fixed)
    cells = [next(texts) if math.isfinite(value) else _name_odd(value) for value in values]
    width = max(map(len, cells), default=0)
    return [cell.rjust(width) for cell in cells]


def _count_places(value: float, digits: int) -> tuple[int, int]:
    """Return the significant digits that are left without zeros at the end, and the exponent."""
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    return max(len(mantissa.replace(".", "").rstrip("0")), 1), int(exponent)


def _name_odd(value: float) -> str:
    return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")


def _name(name: str) -> str:
    return "(Intercept)" if name == INTERCEPT else show_name(name)


def criterion_lines(fit: "Estimate | LevelsEstimate", components: int) -> list[str]:
    """Return the REML criterion, or information criteria with the m free elements of G."""
    deviance = -2.0 * fit.loglik
    if fit.method == "reml":
        return [f"REML criterion at convergence: {round(deviance, 1):.7g}"]
    n, count = fit.moments.n_rows, len(fit.beta) + components + 1
    values = {
        "AIC": deviance + 2.0 * count,
        "BIC": deviance + math.log(n) * count,
        "logLik": fit.loglik,
        "deviance": deviance,
    }
    heads = [*values, "df.resid"]
    cells = [*format_r([round(value, 1) for value in values.values()], 7), f"{n - count}"]
    width = measure_widest([*heads, *cells])
    return [" ".join(align_right(text, width) for text in row) for row in (heads, cells)]


def tabulate_random(
    structures: Sequence[Structure], gs: Sequence[np.ndarray], sigma2: float | None
) -> list[str]:
    """Return Groups, Name, Variance, Std.Dev., Corr; a further random term is `group.1`.

    With None for `sigma2` rows have no variance of their own.
    """
    blocks = [
        (show_name(structure.group) + (f".{at}" if at else ""), structure.names, g, block)
        for structure, g in zip(structures, gs, strict=True)
        for at, block in enumerate(structure.places)
    ]
    variances = [float(g[i, i]) for _, _, g, block in blocks for i in block]
    variances += [] if sigma2 is None else [sigma2]
    columns = [format_r(variances), format_r(np.sqrt(variances).tolist())]
    wide = max(len(block) for *_, block in blocks) - 1  # columns of correlations
    rows = [["Groups", "Name", "Variance", "Std.Dev.", "Corr"][: 5 if wide else 4]]
    rows[0] += [""] * (wide - 1)
    at = 0
    for title, names, g, block in blocks:
        corr = _correlate_block(g, block)
        for place, i in enumerate(block):
            name = title if place == 0 else ""
            cells = [name, _name(names[i]), columns[0][at], columns[1][at], *corr[place]]
            rows.append(cells + [""] * (4 + wide - len(cells)))
            at += 1
    if sigma2 is not None:
        rows.append(["Residual", "", columns[0][at], columns[1][at], *[""] * wide])
    sides = (align_left,) * len(rows[0])
    return [" " + line for line in align_columns(rows, sides=sides)]


def _correlate_block(g: np.ndarray, block: Sequence[int]) -> list[list[str]]:
    """Return each coefficient's correlations with those before it, all of one width."""
    pairs = [(i, j) for place, i in enumerate(block) for j in block[:place]]
    if not pairs:
        return [[] for _ in block]
    texts = [_format_corr(value, 2) for value in scale_covariance(g, pairs).tolist()]
    width = measure_widest(texts)
    cells = iter([align_right(text, width) for text in texts])
    return [[next(cells) for _ in range(place)] for place in range(len(block))]


def _format_corr(value: float, places: int) -> str:
    """Return a correlation; one that rounds to zero has no sign, as in R."""
    return f"{round(value, places) + 0.0:.{places}f}" if math.isfinite(value) else "NaN"


def tabulate_fixed(
    fit: "Estimate | LevelsEstimate | FamilyEstimate | FamilyLevelsEstimate", *, tests: bool = False
) -> list[str]:
    """Return R's coefficient matrix: places by the smallest number, as printCoefmat does.

    With `tests` these are by z, with p-values and stars.
    """
    se = np.sqrt(np.diag(fit.beta_cov))
    both = np.concatenate([fit.beta, se])
    sizes = np.abs(both[np.isfinite(both) & (both != 0.0)])
    least = 1 + math.floor(math.log10(sizes.min())) if len(sizes) else 0
    places = max(1, DIGITS - least)
    cells = format_r(np.round(both, places).tolist())
    statistic = fit.beta / se
    t = format_r(np.round(statistic, 3).tolist())
    p = len(fit.beta)
    names = [_name(name) for name in fit.moments.fixed]
    rows = [("", "Estimate", "Std. Error", "t value")]
    rows += list(zip(names, cells[:p], cells[p:], t, strict=True))
    sides = (align_left, align_right, align_right, align_right)
    if not tests:
        return align_columns(rows, sides=sides)
    values = (2.0 * special.ndtr(-np.abs(statistic))).tolist()
    last = [("Pr(>|z|)", ""), *zip(_format_p(values), map(_star, values), strict=True)]
    wide = [(*row, *more) for row, more in zip(rows, last, strict=True)]
    wide[0] = ("", "Estimate", "Std. Error", "z value", "Pr(>|z|)", "")
    lines = align_columns(wide, sides=(*sides, align_right, align_left))
    return [*lines, "---", SIGNIF] if any(map(_star, values)) else lines


def _format_p(values: Sequence[float]) -> list[str]:
    """Return p-values as R's format.pval with three digits."""
    tiny = 2.2e-16
    fixed = [value for value in values if value >= 1e-4]
    small = [value for value in values if tiny <= value < 1e-4]
    shown = iter(format_r(fixed, 3)) if fixed else iter(())
    others = iter([f"{value:.2e}" for value in small])
    cells = []
    for value in values:
        if not math.isfinite(value):
            cells.append("NaN")
        elif value < tiny:
            cells.append("< 2e-16")
        else:
            cells.append(next(others) if value < 1e-4 else next(shown).strip())
    return cells


def _star(p: float) -> str:
    """Return R's stars of a p-value."""
    return next((star for bound, star in STARS if p <= bound), "")


def correlate_fixed(
    fit: "Estimate | LevelsEstimate | FamilyEstimate | FamilyLevelsEstimate",
) -> list[str]:
    """Return the lower triangle of the correlations of the fixed effects."""
    names = [_name(name) for name in fit.moments.fixed]
    se = np.sqrt(np.diag(fit.beta_cov))
    corr = fit.beta_cov / np.outer(se, se)
    texts = [[_format_corr(value, 3) for value in row] for row in corr.tolist()]
    width = max(len(text) for row in texts for text in row)
    rows = [["", *names[:-1]]]
    for i in range(1, len(names)):
        cells = [align_right(text, width) for text in texts[i][:i]]
        rows.append([names[i], *cells, *[""] * (len(names) - 1 - i)])
    return align_columns(rows, sides=(align_left,) * len(names))
