"""FamilyLevelsFit: `model.ml()` of zeros and ones, proportions and counts with several factors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.errors import check_arguments
from bhlm.fits.family_fit import FamilyFit
from bhlm.fits.family_maximum_fit import FamilyMaximumFit
from bhlm.fits.levels_fit import NotYetError
from bhlm.reml.family.levels import FamilyLevelsEstimate

if TYPE_CHECKING:
    from bhlm.likelihood.replicates import FamilyCheck
    from bhlm.plots.figure import Figure
    from bhlm.reml.variance_tests import VarianceTest


@check_arguments
class FamilyLevelsFit(FamilyMaximumFit, FamilyLevelsEstimate):
    """The estimates of a family with several factors, and what can be asked of them.

    Effects of nested factors are integrated, as those of one factor are, and `error` says how well;
    standard errors and tests have a `method`, "z" by the observed information, "cr0" and "cr1"
    robust over the coarsest units. Crossed factors, and nested ones where `nagq` is 1, have
    Laplace's approximation. Its error is not known, and every output says so; `measure_error()` has
    what the log-likelihood at the estimates misses, by importance sampling of the effects.
    """

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the model, its estimates, and what to know about them, within a screen."""
        from bhlm.reports.text.family_levels import outline_family_levels

        return outline_family_levels(self)

    def _repr_html_(self) -> str:
        """Return the estimates as a table for notebooks."""
        from bhlm.markup import estimates_html
        from bhlm.reml.family.maximum import LABEL
        from bhlm.reports.notebook import tell_dropped

        title = self.moments.formula + ("" if self.marginal is not None else f" ({LABEL})")
        return estimates_html(self.estimates, title) + tell_dropped(self.moments)

    def summary(self, *, style: str = "stata") -> str:
        """Return the printed output in the style of "stata" (melogit) or "lme4" (glmer).

        Raises:
            ArgumentError: a style that is not known.
        """
        from bhlm.reports.text.family_levels import render_family_levels

        return render_family_levels(self, style=style)

    def test_variances(
        self, coefficients: str | Sequence[str] | None = None, *, factor: str | None = None
    ) -> "VarianceTest":
        """Return the LR test that the named random coefficients of a factor do not vary.

        Both log-likelihoods are approximate where the fit's is. See
        `bhlm.reml.family.level_variances`.

        Raises:
            ArgumentError: a coefficient that is not random, or that several factors have; a factor
                that is none.
        """
        from bhlm.reml.family.level_variances import judge_level_variances

        return judge_level_variances(self, coefficients, factor=factor)

    def check(
        self,
        factor: str | None = None,
        *,
        kind: str = "same groups",
        draws: int = 400,
        seed: int = 0,
    ) -> "FamilyCheck":
        """Return the proportion or rate of each unit of a factor beside replicates of it.

        And the calibration. None is the factor with the fewest units. The parameters stand at their
        estimates; see `bhlm.reml.family.level_checks.check_units`.

        Raises:
            ArgumentError: it is not a factor, an unknown kind, a negative seed, or too few draws.
        """
        from bhlm.reml.family.level_checks import check_units

        return check_units(self, factor, kind=kind, draws=draws, seed=seed)

    def plot_effects(
        self,
        factor: str,
        *,
        coefficient: str | None = None,
        within: "Mapping[str, Any] | None" = None,
        scale: str = "link",
    ) -> "Figure":
        """Return the caterpillar of one factor; see `bhlm.plots.level_caterpillar.plot_factor`.

        `within` has the units of one outer unit alone, such as {"school": 1224}; with
        scale="response" it is what is expected of each unit where every column has its mean.

        Raises:
            ArgumentError: a factor, coefficient, column, label or scale that is not there.
        """
        from bhlm.plots.level_caterpillar import plot_factor

        return plot_factor(self, factor, coefficient=coefficient, within=within, scale=scale)

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit of one factor offers and this one does not."""
        if not name.startswith("_") and hasattr(FamilyFit, name):
            raise NotYetError(
                f"fit.{name} of a family is not there yet for several grouping factors "
                f"({', '.join(self.moments.groups)}); a model of one column of groups has it"
            )
        raise AttributeError(f"a FamilyLevelsFit has no '{name}'")
