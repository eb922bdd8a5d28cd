"""FamilyBayesFit: what `model.sample()` returns of zeros and ones, proportions and counts."""

from typing import TYPE_CHECKING, Any

from bhlm.bayes.family.draws import FamilyDraws
from bhlm.errors import check_arguments
from bhlm.fits.posterior_fit import PosteriorFit

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from bhlm.bayes.checks.loo import Loo
    from bhlm.bayes.family.checks import FamilyCheck
    from bhlm.bayes.quantities import Quantities


@check_arguments
class FamilyBayesFit(PosteriorFit, FamilyDraws):
    """Draws from the posterior, and what can be asked of them, on the link scale unless said."""

    __slots__ = ("_model",)

    def to_inference_data(self) -> "xr.DataTree":
        """Return the draws as the DataTree that ArviZ's functions take, which is `fit.data`."""
        return self.data

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `bhlm sample` as plain dictionaries; nan and inf become None."""
        from bhlm.reports.json import describe_family_posterior

        return describe_family_posterior(self)

    def ratios(self, *, level: float = 0.95) -> "pd.DataFrame":
        """Return odds ratios, hazard ratios (cloglog) or rate ratios: `ratio` (median), `lower`,

        `upper`, and the `probability` that it is above 1.

        Raises:
            ArgumentError: the probit link, or a level outside (0, 1).
        """
        from bhlm.bayes.family.quantities import tabulate_ratios

        return tabulate_ratios(self, level=level)

    def icc(self) -> "Quantities":
        """Return draws of the ICC on the latent scale, and of the median odds ratio."""
        from bhlm.bayes.family.quantities import derive_icc

        return derive_icc(self)

    def r_squared(self) -> "Quantities":
        """Return draws of R2 on the latent scale, `marginal` and `conditional`.

        Raises:
            ArgumentError: counts, which have no latent scale.
        """
        from bhlm.bayes.family.quantities import derive_r_squared

        return derive_r_squared(self)

    def check(
        self, *, kind: str = "same groups", draws: int = 400, seed: int | None = None
    ) -> "FamilyCheck":
        """Return each group's proportion or rate beside replicates of it, and the calibration.

        See `bhlm.bayes.family.checks.check_groups`.

        Raises:
            ArgumentError: an unknown kind, a seed that is negative, or too few draws.
        """
        from bhlm.bayes.family.checks import check_groups

        return check_groups(self, kind=kind, draws=draws, seed=seed)

    def loo(self) -> "Loo":
        """Return the leave-one-group-out elpd; ArviZ takes it as it is (`arviz.compare`).

        Raises:
            ArgumentError: draws from the prior alone.
        """
        from bhlm.bayes.family.quantities import leave_out_groups

        return leave_out_groups(self)
