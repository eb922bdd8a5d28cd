"""PosteriorFit: what posteriors of a single factor and of several offer alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.bayes.draws import Posterior
from bhlm.errors import check_arguments
from bhlm.fits.origin import Fitted

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.checks.sensitivity import Sensitivity
    from bhlm.bayes.hypotheses import Hypothesis, Probability, Rope
    from bhlm.likelihood.johnson_neyman import JohnsonNeyman


@check_arguments
class PosteriorFit(Fitted, Posterior):
    """What can be asked of any posterior."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def summary(self) -> str:
        """Return the posterior table, the priors and the convergence verdict as text."""
        from bhlm.reports.text.posterior import render_posterior

        return render_posterior(self)

    def _repr_html_(self) -> str:
        """Return the estimates as HTML, under what fails, for notebooks."""
        from bhlm.reports.notebook import show_posterior

        return show_posterior(self)

    def save(self, path: str | Path) -> None:
        """Write everything to a folder `*.zarr` or a file `*.nc`; `bhlm.load` gives it back.

        Needs the extra of that format, `bhlm[zarr]` or `bhlm[netcdf]`. See
        `bhlm.bayes.storage.file.save`.
        """
        from bhlm.bayes.storage.file import save

        save(self, path)

    def sensitivity(self) -> "Sensitivity":
        """Return how far each parameter's posterior depends on the priors, by power-scaling.

        See `bhlm.bayes.checks.sensitivity.measure_sensitivity`.

        Raises:
            ArgumentError: draws from the prior alone.
        """
        from bhlm.bayes.checks.sensitivity import measure_sensitivity

        return measure_sensitivity(self)

    def probability(self, text: str) -> "Probability":
        """Return the posterior probability of a statement, with its Monte Carlo error.

        A statement compares expressions of the parameters under the names of the tables:
        "cwc(ses) > 2", "2*a - b > 0.5 and sd(Intercept|school) > 3", "0 < a < 1".

        Raises:
            ArgumentError: an unknown name, text that is no comparison, or an equality.
        """
        from bhlm.bayes.hypotheses import find_probability

        return find_probability(self, text)

    def hypothesis(self, text: str, *, level: float = 0.95) -> "Hypothesis":
        """Return one comparison's left side less its right side: draws, interval and odds.

        Raises:
            ArgumentError: an unknown name, or text that is not one comparison by < or >.
        """
        from bhlm.bayes.hypotheses import weigh_hypothesis

        return weigh_hypothesis(self, text, level=level)

    def rope(self, text: str, low: float, high: float, *, level: float = 0.95) -> "Rope":
        """Return how a parameter's posterior lies to the region [low, high], with a decision.

        Raises:
            ArgumentError: low is not below high, or text that is no quantity.
        """
        from bhlm.bayes.hypotheses import compare_rope

        return compare_rope(self, text, low, high, level=level)

    def effects(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the slope of a column at values of its moderators.

        Columns `mean, sd, lower, upper` after the moderators' values. `by` names moderators
        ("sector"), or gives their values ({"gm(ses)": [-1, 0, 1]}); `at` holds others, which else
        stand at their means. Moving cwc(x) leaves gm(x) where it is; see
        `bhlm.likelihood.slopes.state_slopes`.

        Raises:
            ArgumentError: a column or moderator that is not in the model or does not interact, a
                value that it cannot have, or a level outside (0, 1).
        """
        from bhlm.bayes.slopes import describe_slopes

        return describe_slopes(self, column, by=by, at=at, level=level)

    def compare_effects(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any]",
        at: "Mapping[str, Any] | None" = None,
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the difference of each pair of the slopes of `effects`.

        The later less the earlier; columns `mean, sd, lower, upper`, and the `probability`
        that it is above zero.

        Raises:
            ArgumentError: as `effects`, or fewer than two slopes.
        """
        from bhlm.bayes.slopes import contrast_slopes

        return contrast_slopes(self, column, by=by, at=at, level=level)

    def average_effects(
        self, column: str, *, by: str | None = None, level: float = 0.95
    ) -> "pd.DataFrame":
        """Return the slope of a column averaged over the rows, all or those of each value of `by`.

        The marginal effect, where `effects` has the conditional one at values of the moderators.
        `by` is constant in groups and has few values. Columns as of `effects`.

        Raises:
            ArgumentError: a column that is not in the model, a `by` that does not split the groups,
                or a product of more columns than moments know the mean of.
        """
        from bhlm.bayes.slopes import average_draws

        return average_draws(self, column, by=by, level=level)

    def effect_lines(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        values: "Sequence[float] | None" = None,
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the expected response along a column where the random effects are zero.

        One line per value of the moderators, in columns `mean, sd, lower, upper`; arguments as of
        `effects`, and `values` along the column.

        Raises:
            ArgumentError: as `effects`, but that moderators need not interact.
        """
        from bhlm.bayes.slopes import describe_lines

        return describe_lines(self, column, by=by, at=at, values=values, level=level)

    def johnson_neyman(
        self,
        column: str,
        *,
        by: str,
        at: "Mapping[str, Any] | None" = None,
        level: float = 0.95,
    ) -> "JohnsonNeyman":
        """Return for which values of a continuous moderator a slope's interval excludes zero.

        `bounds`, `regions` and a sentence; see `bhlm.bayes.slopes.locate_bounds`.

        Raises:
            ArgumentError: as `effects`, or a moderator that has levels or does not vary.
        """
        from bhlm.bayes.slopes import locate_bounds

        return locate_bounds(self, column, by=by, at=at, level=level)

    def prior_table(self) -> "pd.DataFrame":
        """Return each parameter's prior on a grid, with its quantiles and the posterior's.

        See `bhlm.bayes.prior_table.tabulate_priors` for the columns.
        """
        from bhlm.bayes.prior_table import tabulate_fit

        return tabulate_fit(self)
