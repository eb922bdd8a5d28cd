"""What a BayesFit is asked beyond its tables: methods that hand over to the modules that answer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from bhlm.posterior_hypotheses import Hypothesis, Probability, Rope
    from bhlm.quantities import Quantities


class PosteriorQueries:
    """Base of BayesFit, which is what `self` is."""

    __slots__ = ()

    def _repr_html_(self: Any) -> str:
        """Return the estimates as HTML, under what fails, for notebooks."""
        from bhlm.tables.notebook import show_posterior

        return show_posterior(self)

    def probability(self: Any, text: str) -> "Probability":
        """Return the posterior probability of a statement, with its Monte Carlo error.

        A statement compares expressions of the parameters under the names of the tables:
        "cwc(ses) > 2", "2*a - b > 0.5 and sd(Intercept|school) > 3", "0 < a < 1".

        Raises:
            ArgumentError: an unknown name, text that is no comparison, or an equality.
        """
        from bhlm.posterior_hypotheses import find_probability

        return find_probability(self, text)

    def hypothesis(self: Any, text: str, *, level: float = 0.95) -> "Hypothesis":
        """Return one comparison's left side less its right side: draws, interval and odds.

        Raises:
            ArgumentError: an unknown name, or text that is not one comparison by < or >.
        """
        from bhlm.posterior_hypotheses import weigh_hypothesis

        return weigh_hypothesis(self, text, level=level)

    def rope(self: Any, text: str, low: float, high: float, *, level: float = 0.95) -> "Rope":
        """Return how a parameter's posterior lies to the region [low, high], with a decision.

        Raises:
            ArgumentError: low is not below high, or text that is no quantity.
        """
        from bhlm.posterior_hypotheses import compare_rope

        return compare_rope(self, text, low, high, level=level)

    def icc(self: Any) -> "Quantities":
        """Return draws of the intraclass correlation and of the design effect."""
        from bhlm.quantities import derive_icc

        return derive_icc(self)

    def r_squared(self: Any) -> "Quantities":
        """Return draws of the marginal and the conditional R2 (Nakagawa, Johnson & Schielzeth)."""
        from bhlm.quantities import derive_r_squared

        return derive_r_squared(self)

    def save_effects(self: Any, path: "str | Path", *, draws: bool = False) -> None:
        """Write every group's random effects to a Parquet file, in memory that does not grow.

        See `bhlm.effects_file.save_effects` for its columns.
        """
        from bhlm.effects_file import save_effects

        save_effects(self, path, draws=draws)

    def prior_table(self: Any) -> "pd.DataFrame":
        """Return each parameter's prior on a grid, with its quantiles and the posterior's.

        See `bhlm.prior_table.tabulate_priors` for the columns.
        """
        from bhlm.prior_table import tabulate_fit

        return tabulate_fit(self)
