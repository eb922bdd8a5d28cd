"""A REML fit in the printed style of another program."""

from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError
from bhlm.reports.text.hlm import render_hlm
from bhlm.reports.text.lme4 import render_lme4
from bhlm.reports.text.stata import render_stata

if TYPE_CHECKING:
    from bhlm.reml.estimate import Estimate

STYLES = {"stata": render_stata, "hlm": render_hlm, "lme4": render_lme4}


def render(fit: "Estimate", *, style: str = "stata") -> str:
    """Return the printed output of a fit in the style of "stata", "hlm" or "lme4".

    Raises:
        ArgumentError: a style that is not known.
    """
    if style not in STYLES:
        raise ArgumentError(f"style={style!r} is not known; choose one of {', '.join(STYLES)}")
    return STYLES[style](fit)
