"""BayesFit: what `model.sample()` returns."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.bayes.draws import Draws
from bhlm.errors import check_arguments
from bhlm.fits.pages import GroupPage
from bhlm.fits.posterior_fit import PosteriorFit

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.checks.loo import Loo, Progress
    from bhlm.bayes.checks.predictive import PredictiveCheck
    from bhlm.bayes.quantities import Quantities


@check_arguments
class BayesFit(GroupPage, PosteriorFit, Draws):
    """Draws from the posterior, and everything that can be asked of them."""

    __slots__ = ("_model",)

    def check(
        self, *, kind: str = "same groups", draws: int = 400, seed: int | None = None
    ) -> "PredictiveCheck":
        """Return each group's mean, slopes and residual SD beside replicates of them.

        "same groups" keeps the groups' effects, "new groups" draws them from N(0, G); see
        `bhlm.bayes.checks.predictive.check_groups`.

        Raises:
            ArgumentError: an unknown kind, a seed that is negative, or too few draws.
        """
        from bhlm.bayes.checks.predictive import check_groups

        return check_groups(self, kind=kind, draws=draws, seed=seed)

    def loo(self, *, refit: bool = True, progress: "Progress | None" = None) -> "Loo":
        """Return the leave-one-group-out elpd, by exact refits where k-hat is too large.

        ArviZ takes it as it is (`arviz.compare`); see `bhlm.bayes.checks.loo.leave_out_groups`.

        Raises:
            ArgumentError: draws from the prior alone, or fewer than two groups.
        """
        from bhlm.bayes.checks.loo import leave_out_groups

        return leave_out_groups(self, refit=refit, progress=progress)

    def standardized(self) -> "pd.DataFrame":
        """Return the fixed effects in SDs: of all rows, and of the level at which they vary.

        Columns `level` ("within", "between" or "both"), `estimate`, `total` and `by_level` with
        their intervals; a column that varies at both levels has no SD of one. See
        `bhlm.likelihood.standardized`.

        Raises:
            ArgumentError: several grouping factors.
        """
        from bhlm.likelihood.standardized import measure_scales, standardize

        return standardize(self.estimates, measure_scales(self.moments), value="mean")

    def marginaleffects(self) -> Any:
        """Return this fit as the package marginaleffects takes it, by `slopes(...)` and the like.

        Needs the extra `bhlm[effects]`, and the model with its rows in use; see
        `bhlm.fits.marginal_effects.adapt_fit`.

        Raises:
            DataError: no rows at hand.
            MissingPackageError: marginaleffects is not installed.
        """
        from bhlm.fits.marginal_effects import adapt_fit

        return adapt_fit(self, self.model)

    def icc(self) -> "Quantities":
        """Return draws of the intraclass correlation and of the design effect."""
        from bhlm.bayes.quantities import derive_icc

        return derive_icc(self)

    def r_squared(self) -> "Quantities":
        """Return draws of the marginal and the conditional R2 (Nakagawa, Johnson & Schielzeth)."""
        from bhlm.bayes.quantities import derive_r_squared

        return derive_r_squared(self)

    def save_effects(self, path: "str | Path", *, draws: bool = False) -> None:
        """Write every group's random effects to a Parquet file, in memory that does not grow.

        See `bhlm.bayes.effects_file.save_effects` for its columns.
        """
        from bhlm.bayes.effects_file import save_effects

        save_effects(self, path, draws=draws)
