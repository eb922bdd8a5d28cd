"""LevelsFit: what `model.reml()` returns for several grouping factors."""

from typing import Any

from bhlm.errors import ArgumentError, check_arguments
from bhlm.fits.maximum_fit import MaximumFit
from bhlm.fits.reml_fit import RemlFit
from bhlm.moments.cells import refuse_factors
from bhlm.reml.levels import LevelsEstimate


class NotYetError(ArgumentError, AttributeError):
    """What a fit of one factor offers and one of several does not: `hasattr` says no."""


@check_arguments
class LevelsFit(MaximumFit, LevelsEstimate):
    """The estimates by REML or ML, and what can be asked of them so far."""

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the model, its estimates, and what to know about them, within a screen."""
        from bhlm.reports.text.levels import outline_levels

        return outline_levels(self)

    def _repr_html_(self) -> str:
        """Return the estimates as a table for notebooks."""
        from bhlm.markup import estimates_html

        return estimates_html(self.estimates, self.moments.formula)

    def summary(self, *, style: str = "stata") -> str:
        """Return the printed output in the style of "stata", "hlm" or "lme4"; tests are by z.

        Raises:
            ArgumentError: a style that is not known.
        """
        from bhlm.reports.text.levels import render_levels

        return render_levels(self, style=style)

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit of one factor offers and this one does not yet."""
        if not name.startswith("_") and hasattr(RemlFit, name):
            refusal = refuse_factors(self.moments.design.formula, f"fit.{name}")
            raise NotYetError(*refusal.args)
        raise AttributeError(f"a LevelsFit has no '{name}'")
