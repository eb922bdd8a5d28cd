"""LevelBayesFit: what `model.sample()` returns for several grouping factors."""

from typing import TYPE_CHECKING, Any

from bhlm.bayes.level_draws import LevelDraws
from bhlm.errors import check_arguments
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.levels_fit import NotYetError
from bhlm.fits.origin import Fitted
from bhlm.moments.cells import refuse_factors

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.checks.loo import Loo
    from bhlm.bayes.hypotheses import Hypothesis, Probability, Rope


@check_arguments
class LevelBayesFit(Fitted, LevelDraws):
    """Draws from the posterior, and what can be asked of them so far."""

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def summary(self) -> str:
        """Return the posterior table, the priors and the convergence verdict as text."""
        from bhlm.reports.text.posterior import render_posterior

        return render_posterior(self)

    def _repr_html_(self) -> str:
        """Return the estimates as HTML, under what fails, for notebooks."""
        from bhlm.reports.notebook import show_posterior

        return show_posterior(self)

    def probability(self, text: str) -> "Probability":
        """Return the posterior probability of a statement; see `BayesFit.probability`.

        Raises:
            ArgumentError: an unknown name, text that is no comparison, or an equality.
        """
        from bhlm.bayes.hypotheses import find_probability

        return find_probability(self, text)

    def hypothesis(self, text: str, *, level: float = 0.95) -> "Hypothesis":
        """Return one comparison's left side less its right side: draws, interval and odds.

        Raises:
            ArgumentError: an unknown name, or text that is not one comparison by < or >.
        """
        from bhlm.bayes.hypotheses import weigh_hypothesis

        return weigh_hypothesis(self, text, level=level)

    def rope(self, text: str, low: float, high: float, *, level: float = 0.95) -> "Rope":
        """Return how a parameter's posterior lies to the region [low, high], with a decision.

        Raises:
            ArgumentError: low is not below high, or text that is no quantity.
        """
        from bhlm.bayes.hypotheses import compare_rope

        return compare_rope(self, text, low, high, level=level)

    def loo(self) -> "Loo":
        """Return the leave-one-unit-out elpd by the coarsest of nested factors.

        ArviZ takes it as it is (`arviz.compare`); see `bhlm.bayes.checks.level_loo`.

        Raises:
            ArgumentError: draws from the prior alone, or factors that cross.
        """
        from bhlm.bayes.checks.level_loo import leave_out_units

        return leave_out_units(self)

    def prior_table(self) -> "pd.DataFrame":
        """Return each parameter's prior on a grid, with its quantiles and the posterior's.

        See `bhlm.bayes.prior_table.tabulate_priors` for the columns.
        """
        from bhlm.bayes.prior_table import tabulate_fit

        return tabulate_fit(self)

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit of one factor offers and this one does not yet."""
        if not name.startswith("_") and hasattr(BayesFit, name):
            refusal = refuse_factors(self.moments.design.formula, f"fit.{name}")
            raise NotYetError(*refusal.args)
        raise AttributeError(f"a LevelBayesFit has no '{name}'")
