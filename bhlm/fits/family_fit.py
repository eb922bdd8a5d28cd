"""FamilyFit: what `model.ml()` returns of zeros and ones, proportions and counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bhlm.errors import check_arguments
from bhlm.fits.family_maximum_fit import FamilyMaximumFit
from bhlm.reml.family.estimate import FamilyEstimate

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.likelihood.replicates import FamilyCheck
    from bhlm.reml.variance_tests import VarianceTest


@check_arguments
class FamilyFit(FamilyMaximumFit, FamilyEstimate):
    """The estimates by maximum likelihood, and everything that can be asked of them.

    Standard errors and tests have a `method`: "z" by the observed information, "cr0" and "cr1"
    cluster-robust.
    """

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the model, its estimates, and what to know about them, within a screen."""
        from bhlm.reports.text.family import outline_family

        return outline_family(self)

    def _repr_html_(self) -> str:
        """Return the estimates as a table for notebooks."""
        from bhlm.markup import estimates_html
        from bhlm.reports.notebook import tell_dropped

        return estimates_html(self.estimates, self.moments.formula) + tell_dropped(self.moments)

    def summary(self, *, style: str = "stata") -> str:
        """Return the printed output in the style of "stata" (melogit), "hlm" or "lme4" (glmer).

        Raises:
            ArgumentError: a style that is not known.
        """
        from bhlm.reports.text.family import render_family

        return render_family(self, style=style)

    def test_variances(self, coefficients: str | Sequence[str]) -> "VarianceTest":
        """Return the LR test that the named random coefficients do not vary over groups.

        Raises:
            ArgumentError: a coefficient that is not random.
        """
        from bhlm.reml.family.variances import judge_variances

        return judge_variances(self, coefficients)

    def icc(self) -> "pd.DataFrame":
        """Return the intraclass correlation on the latent scale, and the median odds ratio.

        See `bhlm.reml.family.population.share_variance`.
        """
        from bhlm.reml.family.population import share_variance

        return share_variance(self)

    def check(self, *, kind: str = "same groups", draws: int = 400, seed: int = 0) -> "FamilyCheck":
        """Return each group's proportion or rate beside replicates of it, and the calibration.

        The parameters stand at their estimates; see `bhlm.reml.family.checks.check_groups`.

        Raises:
            ArgumentError: an unknown kind, a seed that is negative, or too few draws.
        """
        from bhlm.reml.family.checks import check_groups

        return check_groups(self, kind=kind, draws=draws, seed=seed)
