"""LevelBayesFit: what `model.sample()` returns for several grouping factors."""

from typing import TYPE_CHECKING, Any

from bhlm.bayes.level_draws import LevelDraws
from bhlm.errors import ArgumentError, check_arguments
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.levels_fit import NotYetError
from bhlm.fits.pages import FactorPage
from bhlm.fits.posterior_fit import PosteriorFit
from bhlm.moments.cells import refuse_factors

if TYPE_CHECKING:
    from bhlm.bayes.checks.loo import Loo
    from bhlm.bayes.checks.predictive import PredictiveCheck
    from bhlm.bayes.quantities import Quantities


@check_arguments
class LevelBayesFit(FactorPage, PosteriorFit, LevelDraws):
    """Draws from the posterior, and what can be asked of them so far."""

    __slots__ = ("_model",)

    def check(
        self,
        factor: str | None = None,
        *,
        kind: str = "same groups",
        draws: int = 400,
        seed: int | None = None,
    ) -> "PredictiveCheck":
        """Return mean, slopes and residual SD of a factor's units beside replicates of them.

        None is the factor that all others are nested in, of crossed ones that with the fewest
        units; see `bhlm.bayes.checks.level_predictive.check_units`.

        Raises:
            ArgumentError: it is not a factor; an unknown kind, a negative seed, or too few draws;
                a model with weights.
        """
        self._refuse_weights("check()")
        from bhlm.bayes.checks.level_predictive import check_units

        return check_units(self, factor, kind=kind, draws=draws, seed=seed)

    def loo(self) -> "Loo":
        """Return the leave-one-unit-out elpd by the coarsest of nested factors.

        ArviZ takes it as it is (`arviz.compare`); see `bhlm.bayes.checks.level_loo`.

        Raises:
            ArgumentError: draws from the prior alone, or factors that cross.
        """
        from bhlm.bayes.checks.level_loo import leave_out_units

        return leave_out_units(self)

    def icc(self) -> "Quantities":
        """Return draws of each factor's share of the variance and of its intraclass correlation.

        See `bhlm.bayes.quantities.derive_level_icc`.

        Raises:
            ArgumentError: variances are known, so that rows have no share of their own.
        """
        self._refuse_weights("icc()", known_only=True)
        from bhlm.bayes.quantities import derive_level_icc

        return derive_level_icc(self)

    def r_squared(self) -> "Quantities":
        """Return draws of the marginal and the conditional R2 (Nakagawa, Johnson & Schielzeth).

        Raises:
            ArgumentError: variances are known, so that rows have no share of their own.
        """
        self._refuse_weights("r_squared()", known_only=True)
        from bhlm.bayes.quantities import derive_level_r_squared

        return derive_level_r_squared(self)

    def _refuse_weights(self, what: str, *, known_only: bool = False) -> None:
        weights = self.moments.weights
        if weights is not None and (weights.holds_sigma or not known_only):
            raise ArgumentError(
                f"{what} of several grouping factors is not there with {weights.sentence}; there "
                "are estimates, summary(), group_effects(), loo() and bhlm.reconcile()"
            )

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit of one factor offers and this one does not yet."""
        if not name.startswith("_") and hasattr(BayesFit, name):
            refusal = refuse_factors(self.moments.design.formula, f"fit.{name}")
            raise NotYetError(*refusal.args)
        raise AttributeError(f"a LevelBayesFit has no '{name}'")
