"""RemlFit: what `model.reml()` returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.errors import check_arguments
from bhlm.fits.origin import Fitted
from bhlm.reml.estimate import Estimate

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from bhlm.fits.model import Model
    from bhlm.likelihood.johnson_neyman import JohnsonNeyman
    from bhlm.reml.bootstrap import Bootstrap
    from bhlm.reml.fixed.wald import JointTest
    from bhlm.reml.variance_tests import VarianceTest


@check_arguments
class RemlFit(Fitted, Estimate):
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

    def fixed_effects(
        self, *, method: str = "satterthwaite", level: float = 0.95
    ) -> "pd.DataFrame":
        """Return the fixed effects with standard errors, intervals and tests by one method.

        Columns `estimate, se, lower, upper, statistic, df, p`; `attrs["df"]` names the method.
        Methods: "z", "satterthwaite" (the default), "kenward-roger", "hlm" (J - S - 1), "cr0" and
        "cr2" (cluster-robust).

        Raises:
            ArgumentError: an unknown method, or a level outside (0, 1).
        """
        from bhlm.reml.fixed.contrasts import tabulate_fixed

        return tabulate_fixed(self, method=method, level=level)

    def contrast(
        self, *hypotheses: str, method: str = "satterthwaite", level: float = 0.95
    ) -> "pd.DataFrame":
        """Return linear combinations of fixed effects, such as "sector + 2*gm(ses) = 0".

        Raises:
            ArgumentError: a hypothesis that cannot be read, or an unknown method.
        """
        from bhlm.reml.fixed.contrasts import estimate_contrasts

        return estimate_contrasts(self, hypotheses, method=method, level=level)

    def test(self, *hypotheses: str, method: str = "satterthwaite") -> "JointTest":
        """Return the joint test of hypotheses about fixed effects, such as "sector = 0".

        Raises:
            ArgumentError: a hypothesis that cannot be read, hypotheses that contradict each
                other, or an unknown method.
        """
        from bhlm.reml.fixed.contrasts import judge_hypotheses

        return judge_hypotheses(self, hypotheses, method=method)

    def effects(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        method: str = "satterthwaite",
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the slope of a column at values of its moderators.

        Columns `slope, se, lower, upper, statistic, df, p` after the moderators' values. `by`
        names moderators ("sector"), or gives their values ({"gm(ses)": [-1, 0, 1]}); `at` holds
        others, which else stand at their means. Moving cwc(x) leaves gm(x) where it is; see
        `bhlm.likelihood.slopes.state_slopes`.

        Raises:
            ArgumentError: a column or moderator that is not in the model or does not interact, a
                value that it cannot have, an unknown method, or a level outside (0, 1).
        """
        from bhlm.reml.fixed.slopes import estimate_slopes

        return estimate_slopes(self, column, by=by, at=at, method=method, level=level)

    def compare_effects(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any]",
        at: "Mapping[str, Any] | None" = None,
        method: str = "satterthwaite",
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the difference of each pair of the slopes of `effects`.

        The later less the earlier; columns `estimate, se, lower, upper, statistic, df, p`.

        Raises:
            ArgumentError: as `effects`, or fewer than two slopes.
        """
        from bhlm.reml.fixed.slopes import compare_slopes

        return compare_slopes(self, column, by=by, at=at, method=method, level=level)

    def effect_lines(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        values: "Sequence[float] | None" = None,
        method: str = "satterthwaite",
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the expected response along a column where the random effects are zero.

        One line per value of the moderators, in columns `estimate, se, lower, upper, df`; arguments
        as of `effects`, and `values` along the column.

        Raises:
            ArgumentError: as `effects`, but that moderators need not interact.
        """
        from bhlm.reml.fixed.slopes import estimate_lines

        return estimate_lines(self, column, by=by, at=at, values=values, method=method, level=level)

    def johnson_neyman(
        self,
        column: str,
        *,
        by: str,
        at: "Mapping[str, Any] | None" = None,
        method: str = "satterthwaite",
        level: float = 0.95,
    ) -> "JohnsonNeyman":
        """Return for which values of a continuous moderator a slope's interval excludes zero.

        `bounds`, `regions` and a sentence; see `bhlm.reml.fixed.slopes.find_bounds`.

        Raises:
            ArgumentError: as `effects`, or a moderator that has levels or does not vary.
        """
        from bhlm.reml.fixed.slopes import find_bounds

        return find_bounds(self, column, by=by, at=at, method=method, level=level)

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

    def profile(
        self, *, level: float = 0.95, parameters: Sequence[str] | None = None
    ) -> "pd.DataFrame":
        """Return profile-likelihood intervals of the parameters; None is all of them.

        Raises:
            ArgumentError: a level outside (0, 1), or a parameter that has no profile.
        """
        from bhlm.reml.profile.intervals import profile_intervals

        return profile_intervals(self, level=level, parameters=parameters)

    def bootstrap(
        self,
        *,
        replicates: int = 1000,
        seed: int = 0,
        processes: int = 1,
        progress: "Callable[[int, int], None] | None" = None,
    ) -> "Bootstrap":
        """Return a parametric bootstrap of every parameter; see `bhlm.reml.bootstrap`.

        In a terminal a bar shows the progress, unless `progress` takes (done, total) instead.

        Raises:
            ArgumentError: too few replicates, or a negative number of processes or seed.
        """
        from bhlm.progress import show_progress
        from bhlm.reml.bootstrap import bootstrap

        with show_progress("bootstrap") as bar:
            return bootstrap(
                self,
                replicates=replicates,
                seed=seed,
                processes=processes,
                progress=progress or bar,
            )

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

    def dashboard(
        self,
        path: "str | Path",
        *,
        model: "Model | None" = None,
        title: str | None = None,
        rows: bool = False,
    ) -> None:
        """Write the page about this fit to an HTML file; see `bhlm.reports.dashboard.subjects`.

        Its numbers go to a .json beside it. `model` has the rows, which some figures need; None
        takes `fit.model`. Page and .json hold no single row, unless `rows` is True.

        Raises:
            DataError: a path that cannot be written to, a model of other data, or rows that are
                asked for and not at hand.
        """
        from bhlm.reports.dashboard.subjects import write_fit

        write_fit(self, path, model=model or self.model, title=title, rows=rows)
