"""FamilyMaximumFit: what can be asked of every fit of a family, of one factor and of several."""

from typing import TYPE_CHECKING

from bhlm.errors import check_arguments
from bhlm.fits.origin import Fitted
from bhlm.reml.family.maximum import FamilyMaximum

if TYPE_CHECKING:
    import pandas as pd


@check_arguments
class FamilyMaximumFit(Fitted, FamilyMaximum):
    """What can be asked of the fixed effects and of the parameters of any fit of a family.

    Standard errors and tests have a `method`: "z" by the observed information, "cr0" and "cr1"
    cluster-robust.
    """

    __slots__ = ()

    def fixed_effects(self, *, method: str = "z", level: float = 0.95) -> "pd.DataFrame":
        """Return the unit-specific effects on the link scale, with intervals and tests by z.

        Columns `estimate, se, lower, upper, statistic, df, p`.

        Raises:
            ArgumentError: an unknown method, or a level outside (0, 1).
        """
        from bhlm.reml.family.inference import tabulate_fixed

        return tabulate_fixed(self, method=method, level=level)

    def ratios(self, *, method: str = "z", level: float = 0.95) -> "pd.DataFrame":
        """Return odds ratios, hazard ratios (cloglog) or rate ratios: `ratio, se, lower, upper, p`.

        Raises:
            ArgumentError: the probit link, an unknown method, or a level outside (0, 1).
        """
        from bhlm.reml.family.inference import tabulate_ratios

        return tabulate_ratios(self, method=method, level=level)

    def contrast(self, *hypotheses: str, method: str = "z", level: float = 0.95) -> "pd.DataFrame":
        """Return linear combinations of fixed effects, such as "x + 2*z = 0".

        Raises:
            ArgumentError: a hypothesis that cannot be read, or an unknown method.
        """
        from bhlm.reml.family.inference import estimate_contrasts

        return estimate_contrasts(self, hypotheses, method=method, level=level)

    def test(self, *hypotheses: str, method: str = "z") -> dict[str, float]:
        """Return the joint Wald test of hypotheses about fixed effects: chi2, df, p.

        Raises:
            ArgumentError: a hypothesis that cannot be read, or an unknown method.
        """
        from bhlm.reml.family.inference import judge_hypotheses

        return judge_hypotheses(self, hypotheses, method=method)

    def r_squared(self) -> dict[str, float]:
        """Return R2 on the latent scale, "marginal" and "conditional".

        Raises:
            ArgumentError: counts, which have no latent scale.
        """
        from bhlm.reml.family.population import explain_variance

        return explain_variance(self)
