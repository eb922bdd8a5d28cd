"""RemlFit: what `model.reml()` returns."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bhlm.errors import check_arguments
from bhlm.fits.maximum_fit import MaximumFit
from bhlm.fits.pages import GroupPage
from bhlm.reml.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.reml.heterogeneity import Heterogeneity
    from bhlm.reml.variance_tests import VarianceTest


@check_arguments
class RemlFit(GroupPage, MaximumFit, Estimate):
    """The estimates by REML or ML, and everything that can be asked of them."""

    __slots__ = ("_model",)

    def __repr__(self) -> str:
        """Return the model, its estimates, and what to know about them, within a screen."""
        from bhlm.reports.text.styles import outline

        return outline(self)

    def _repr_html_(self) -> str:
        """Return the estimates as a table for notebooks."""
        from bhlm.markup import estimates_html
        from bhlm.reports.notebook import tell_dropped

        table = estimates_html(self.estimates, self.moments.formula)
        return table + tell_dropped(self.moments)

    def summary(self, *, style: str = "stata", df: str | None = None) -> str:
        """Return the printed output in the style of "stata", "hlm" or "lme4".

        Tests of fixed effects are by z in "stata", on J - S - 1 df in "hlm", and left out in
        "lme4"; a line says so. `df` adds those by a method of `fixed_effects`. Where a fixed
        effect has fewer than 30 df, a note gives the p-value that this changes.

        Raises:
            ArgumentError: a style or a method that is not known.
        """
        from bhlm.reports.text.styles import render

        return render(self, style=style, df=df)

    def test_variances(
        self,
        coefficients: str | Sequence[str] | None = None,
        *,
        null: str = "auto",
        replicates: int | None = None,
        seed: int = 0,
        processes: int = 1,
        progress: "Callable[[int, int], None] | None" = None,
    ) -> "pd.DataFrame | VarianceTest":
        """Return the LR test that the named random coefficients do not vary over groups.

        None returns HLM's chi-square test of each variance instead. The result shows the mixture
        of chi-squares, which holds for many groups, beside the null that was asked for: "exact"
        for a variance that is the whole random part (Crainiceanu & Ruppert 2004), "bootstrap"
        for any, "mixture" alone, or "auto", which up to 50 groups takes exact where it exists,
        else the bootstrap; see `bhlm.reml.variance_tests.judge_variances`.

        Raises:
            ArgumentError: a coefficient that is not random, or a fit that cannot be tested so.
        """
        from bhlm.progress import show_progress
        from bhlm.reml.hlm_chi_square import hlm_chi_square
        from bhlm.reml.variance_tests import judge_variances

        if coefficients is None:
            return hlm_chi_square(self)
        with show_progress("refits under H0") as bar:
            return judge_variances(
                self,
                coefficients,
                null=null,
                replicates=replicates,
                seed=seed,
                processes=processes,
                progress=progress or bar,
            )

    def test_homogeneity(self, *, least_df: int = 10) -> dict[str, float]:
        """Return HLM's test that all groups have one residual variance: chi2, df, p.

        Over groups with at least `least_df` residual degrees of freedom of their own; see
        `bhlm.reml.residuals.judge_homogeneity`.

        Raises:
            ArgumentError: fewer than two such groups, or one without any residual.
        """
        from bhlm.reml.residuals import judge_homogeneity

        return judge_homogeneity(self, least_df=least_df)

    def icc(self) -> float:
        """Return the share of the variance that lies between groups, at the means of Z.

        See `bhlm.reml.compare.intraclass_correlation`.
        """
        from bhlm.reml.compare import intraclass_correlation

        return intraclass_correlation(self)

    def design_effect(self) -> float:
        """Return 1 + (mean group size - 1) x ICC (Kish 1965)."""
        from bhlm.reml.compare import design_effect

        return design_effect(self)

    def compare_conventions(self) -> "pd.DataFrame":
        """Return the standard errors by the conventions of several programs, side by side.

        `attrs["why"]` says in words how each is computed and why it differs; see
        `bhlm.reml.conventions.compare_conventions`.

        Raises:
            ArgumentError: the fit is by REML.
        """
        from bhlm.reml.conventions import compare_conventions

        return compare_conventions(self)

    def heterogeneity(self, *, level: float = 0.95) -> "Heterogeneity":
        """Return Q, I^2, H^2 and the prediction interval of a fit with known variances.

        See `bhlm.reml.heterogeneity.Heterogeneity`.

        Raises:
            ArgumentError: a fit without known variances, or a level outside (0, 1).
        """
        from bhlm.reml.heterogeneity import measure_heterogeneity

        return measure_heterogeneity(self, level=level)

    def studies(self, *, level: float = 0.95) -> "pd.DataFrame":
        """Return a row per study of a meta-analysis: observed, fitted and empirical Bayes.

        See `bhlm.reml.heterogeneity.tabulate_studies`.

        Raises:
            ArgumentError: a fit without known variances, with several rows in a group or a random
                slope, or a level outside (0, 1).
        """
        from bhlm.reml.heterogeneity import tabulate_studies

        return tabulate_studies(self, level=level)

    def coefficients(self) -> "pd.DataFrame":
        """Return each group's least-squares and empirical-Bayes coefficients.

        With errors, reliabilities and shrinkage; see `bhlm.reml.groups.describe_groups`.
        """
        from bhlm.reml.groups import describe_groups

        return describe_groups(self)

    def group_residuals(self) -> "pd.DataFrame":
        """Return level-2 residuals with distances; see `bhlm.reml.residuals.group_residuals`."""
        from bhlm.reml.residuals import group_residuals

        return group_residuals(self)

    def influence(self) -> "pd.DataFrame":
        """Return what deleting each group changes; see `bhlm.reml.influence.measure_influence`."""
        from bhlm.reml.influence import measure_influence

        return measure_influence(self)
