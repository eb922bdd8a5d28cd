"""WeightedBayesFit: what `model.sample()` returns with weights, strata or known variances."""

from typing import Any

from bhlm.bayes.draws import Draws
from bhlm.errors import check_arguments
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.levels_fit import NotYetError
from bhlm.fits.pages import GroupPage
from bhlm.fits.posterior_fit import PosteriorFit


@check_arguments
class WeightedBayesFit(GroupPage, PosteriorFit, Draws):
    """Draws from the posterior, or the adjusted pseudo-posterior, and what can be asked of them."""

    __slots__ = ("_model",)

    def sensitivity(self) -> Any:
        """Refuse what needs a log-likelihood of every group with one residual variance."""
        return self.__getattr__("sensitivity")

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit of unweighted rows offers and this one does not yet."""
        if not name.startswith("_") and hasattr(BayesFit, name):
            weights = self.moments.weights
            assert weights is not None
            raise NotYetError(
                f"fit.{name} is not there yet with {weights.sentence}; there are estimates, draws, "
                "data, summary(), group_effects(), probability(), hypothesis(), rope(), effects(), "
                "prior_table(), dashboard() and save()"
            )
        raise AttributeError(f"a WeightedBayesFit has no '{name}'")
