"""MaximumFit: what fits by REML and ML of a single factor and of several offer alike."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.errors import check_arguments
from bhlm.fits.origin import Fitted
from bhlm.reml.maximum import Maximum

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.likelihood.johnson_neyman import JohnsonNeyman
    from bhlm.reml.bootstrap import Bootstrap
    from bhlm.reml.fixed.wald import JointTest


@check_arguments
class MaximumFit(Fitted, Maximum):
    """What can be asked of the fixed effects and of the parameters of any fit."""

    __slots__ = ()

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

    def average_effects(
        self,
        column: str,
        *,
        by: str | None = None,
        method: str = "satterthwaite",
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the slope of a column averaged over the rows, all or those of each value of `by`.

        The marginal effect, where `effects` has the conditional one at values of the moderators.
        `by` is constant in groups and has few values. Columns as of `effects`.

        Raises:
            ArgumentError: a column that is not in the model, a `by` that does not split the groups,
                or a product of more columns than moments know the mean of.
        """
        from bhlm.reml.fixed.slopes import average_slopes

        return average_slopes(self, column, by=by, method=method, level=level)

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

    def r_squared(self) -> dict[str, float]:
        """Return R2 of Nakagawa, Johnson & Schielzeth, "marginal" and "conditional".

        See `bhlm.reml.compare.r_squared`.
        """
        from bhlm.reml.compare import r_squared

        return r_squared(self)

    def standardized(self, *, method: str = "satterthwaite", level: float = 0.95) -> "pd.DataFrame":
        """Return the fixed effects in SDs: of all rows, and of the level at which they vary.

        Columns `level` ("within", "between" or "both"), `estimate`, `total` and `by_level` with
        their intervals; a column that varies at both levels has no SD of one. See
        `bhlm.likelihood.standardized`.

        Raises:
            ArgumentError: several grouping factors, an unknown method, or a level outside (0, 1).
        """
        from bhlm.likelihood.standardized import measure_scales, standardize

        scales = measure_scales(self.moments)
        table = self.fixed_effects(method=method, level=level)
        return standardize(table, scales, value="estimate")

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
