"""StrataFit: what `model.reml()` returns where the residual variance differs by stratum."""

from typing import TYPE_CHECKING, Any

from bhlm.errors import check_arguments
from bhlm.fits.levels_fit import NotYetError
from bhlm.fits.origin import Fitted
from bhlm.fits.pages import GroupPage
from bhlm.fits.reml_fit import RemlFit
from bhlm.reml.strata import StrataEstimate

if TYPE_CHECKING:
    import pandas as pd


@check_arguments
class StrataFit(GroupPage, Fitted, StrataEstimate):
    """The estimates by REML or ML, and what can be asked of them so far."""

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def fixed_effects(self, *, method: str = "z", level: float = 0.95) -> "pd.DataFrame":
        """Return the fixed effects with standard errors, intervals and tests by z.

        Columns `estimate, se, lower, upper, statistic, df, p`.

        Raises:
            ArgumentError: another method, or a level outside (0, 1).
        """
        from bhlm.reml.fixed.contrasts import tabulate_fixed
        from bhlm.reml.strata import check_tests

        check_tests(self.strata.column, method)
        return tabulate_fixed(self.at, method=method, level=level)

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit with one residual variance offers and this one does not yet."""
        if not name.startswith("_") and hasattr(RemlFit, name):
            raise NotYetError(
                f"fit.{name} is not there yet with residual='{self.strata.column}'; there are "
                "estimates, fixed_effects(), loglik, residual_variances, test_homogeneity(), "
                "group_effects(), summary() and dashboard()"
            )
        raise AttributeError(f"a StrataFit has no '{name}'")
