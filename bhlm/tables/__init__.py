"""Results as text: Stata-, HLM- and lme4-style output, the posterior, Markdown, LaTeX, HTML."""

from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError
from bhlm.tables.export import estimates_html, to_html, to_latex, to_markdown
from bhlm.tables.hlm import render_hlm
from bhlm.tables.layout import format_g
from bhlm.tables.lme4 import render_lme4
from bhlm.tables.posterior import render_posterior
from bhlm.tables.reconciliation import render_reconciliation
from bhlm.tables.stata import render_stata

if TYPE_CHECKING:
    from bhlm.reml import RemlFit

__all__ = [
    "estimates_html",
    "format_g",
    "render",
    "render_hlm",
    "render_lme4",
    "render_posterior",
    "render_reconciliation",
    "render_stata",
    "to_html",
    "to_latex",
    "to_markdown",
]

STYLES = {"stata": render_stata, "hlm": render_hlm, "lme4": render_lme4}


def render(fit: "RemlFit", *, style: str = "stata") -> str:
    """Return the printed output of a fit in the style of "stata", "hlm" or "lme4".

    Raises:
        ArgumentError: a style that is not known.
    """
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is not known; choose one of {', '.join(STYLES)}")
    return STYLES[style](fit)
