"""LevelsFit: what `model.reml()` returns for several grouping factors."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.errors import ArgumentError, check_arguments
from bhlm.fits.maximum_fit import MaximumFit
from bhlm.fits.pages import FactorPage
from bhlm.fits.reml_fit import RemlFit
from bhlm.moments.cells import refuse_factors
from bhlm.reml.levels import LevelsEstimate

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.reml.level_heterogeneity import LevelHeterogeneity
    from bhlm.reml.variance_tests import VarianceTest


# What the fit of one factor has, under the name that has it for each factor.
PLURAL = {"g": "gs", "structure": "structures", "coefficients": "group_effects(factor)"}


class NotYetError(ArgumentError, AttributeError):
    """What a fit of one factor offers and one of several does not: `hasattr` says no."""


@check_arguments
class LevelsFit(FactorPage, MaximumFit, LevelsEstimate):
    """The estimates by REML or ML, and what can be asked of them so far."""

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the model, its estimates, and what to know about them, within a screen."""
        from bhlm.reports.text.levels import outline_levels

        return outline_levels(self)

    def _repr_html_(self) -> str:
        """Return the estimates as a table for notebooks."""
        from bhlm.markup import estimates_html
        from bhlm.reports.notebook import tell_dropped

        return estimates_html(self.estimates, self.moments.formula) + tell_dropped(self.moments)

    def summary(self, *, style: str = "stata", df: str | None = None) -> str:
        """Return the printed output in the style of "stata", "hlm" or "lme4".

        Tests of fixed effects are by z, and left out in "lme4"; `df` adds those by a method of
        `fixed_effects`.

        Raises:
            ArgumentError: a style or a method that is not known.
        """
        from bhlm.reports.text.levels import render_levels

        return render_levels(self, style=style, df=df)

    def test_variances(
        self,
        coefficients: str | Sequence[str] | None = None,
        *,
        factor: str | None = None,
        null: str = "auto",
        replicates: int | None = None,
        seed: int = 0,
        processes: int = 1,
        progress: "Callable[[int, int], None] | None" = None,
    ) -> "VarianceTest":
        """Return the LR test that the named random coefficients of a factor do not vary.

        Mixtures of chi-squares, or a parametric bootstrap of both models; see
        `bhlm.reml.level_variance_tests.judge_level_variances`.

        Raises:
            ArgumentError: a coefficient that is not random, or that several factors have.
        """
        from bhlm.progress import show_progress
        from bhlm.reml.level_variance_tests import judge_level_variances

        with show_progress("refits under H0") as bar:
            return judge_level_variances(
                self,
                coefficients,
                factor=factor,
                null=null,
                replicates=replicates,
                seed=seed,
                processes=processes,
                progress=progress or bar,
            )

    def compare_conventions(self) -> "pd.DataFrame":
        """Return standard errors with sampling weights as four groups of programs print them.

        By the scores of the units of the coarsest factor; `attrs["why"]` says why they differ. See
        `bhlm.reml.conventions.compare_conventions`.

        Raises:
            ArgumentError: a fit without sampling weights.
        """
        from bhlm.reml.conventions import compare_conventions

        return compare_conventions(self)

    def influence(self, factor: str | None = None) -> "pd.DataFrame":
        """Return what deleting each unit of a factor changes; None is that with the fewest.

        See `bhlm.reml.level_influence.measure_level_influence`.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        from bhlm.reml.level_influence import measure_level_influence

        return measure_level_influence(self, factor)

    def group_residuals(self, factor: str | None = None) -> "pd.DataFrame":
        """Return the residuals of a factor's units; None is that with the fewest.

        See `bhlm.reml.level_residuals.unit_residuals`.

        Raises:
            ArgumentError: it is not a factor of the model; a fit with weights.
        """
        from bhlm.reml.level_residuals import unit_residuals

        return unit_residuals(self, factor)

    def heterogeneity(self, *, level: float = 0.95) -> "LevelHeterogeneity":
        """Return Q, I^2 of each factor and the prediction interval of a fit with known variances.

        See `bhlm.reml.level_heterogeneity.LevelHeterogeneity`.

        Raises:
            ArgumentError: a fit without known variances, or a level outside (0, 1).
        """
        from bhlm.reml.level_heterogeneity import measure_level_heterogeneity

        return measure_level_heterogeneity(self, level=level)

    def design_effect(self, factor: str | None = None) -> float:
        """Return 1 + (mean size of a factor's units - 1) x its ICC; None is that with the fewest.

        See `bhlm.reml.compare.level_design_effect`.

        Raises:
            ArgumentError: it is not a factor of the model; a fit with weights.
        """
        from bhlm.reml.compare import level_design_effect

        return level_design_effect(self, factor)

    def __getattr__(self, name: str) -> Any:
        """Refuse what the fit of one factor offers and this one does not yet."""
        if name in PLURAL:
            count = len(self.moments.groups)
            raise NotYetError(
                f"fit.{name} is that of a single grouping factor, and '{self.moments.formula}' has "
                f"{count}; fit.{PLURAL[name]} has it for each"
            )
        if not name.startswith("_") and hasattr(RemlFit, name):
            refusal = refuse_factors(self.moments.design.formula, f"fit.{name}")
            raise NotYetError(*refusal.args)
        raise AttributeError(f"a LevelsFit has no '{name}'")
