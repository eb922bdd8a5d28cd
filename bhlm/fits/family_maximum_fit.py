"""FamilyMaximumFit: what can be asked of every fit of a family, of one factor and of several."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.errors import check_arguments
from bhlm.fits.origin import Fitted
from bhlm.reml.family.maximum import FamilyMaximum

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from bhlm.reml.bootstrap import Bootstrap


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

    def population_effects(self, *, method: str = "z", level: float = 0.95) -> "pd.DataFrame":
        """Return the population-averaged effects: of the means over all units.

        Columns `estimate, se, lower, upper, statistic, p`, and `ratio` but for probit; see
        `bhlm.reml.family.population.estimate_population`.

        Raises:
            ArgumentError: an unknown method, or a level outside (0, 1).
        """
        from bhlm.reml.family.population import estimate_population

        return estimate_population(self, method=method, level=level)

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

    def effects(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        scale: str = "response",
        kind: str | None = None,
        method: str = "z",
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the effect of a column on the probability or rate, or on the link scale.

        Columns `slope, se, lower, upper, statistic, p` after the moderators' values. On the
        response scale it is the difference that a level or a column of zeros and ones makes, else
        the derivative at the column's mean, "population-averaged" (the default `kind`) or
        "unit-specific"; other columns stand at their means, or where `at` has them.

        Raises:
            ArgumentError: a column or moderator that is not in the model, a value that it cannot
                have, or a scale, kind, method or level that is not known.
        """
        from bhlm.reml.family.slopes import estimate_slopes

        return estimate_slopes(
            self, column, by=by, at=at, scale=scale, kind=kind, method=method, level=level
        )

    def effect_lines(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        values: "Sequence[float] | None" = None,
        scale: str = "response",
        kind: str | None = None,
        method: str = "z",
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the expected probability or rate along a column, or its link.

        One line per value of the moderators, in columns `estimate, se, lower, upper`;
        "population-averaged" (the default `kind`) or "unit-specific", of units whose effects are
        zero. `bhlm.plots.plot_effects` draws both.

        Raises:
            ArgumentError: as `effects`.
        """
        from bhlm.reml.family.slopes import estimate_lines

        return estimate_lines(
            self,
            column,
            by=by,
            at=at,
            values=values,
            scale=scale,
            kind=kind,
            method=method,
            level=level,
        )

    def profile(
        self, *, level: float = 0.95, parameters: Sequence[str] | None = None
    ) -> "pd.DataFrame":
        """Return profile-likelihood intervals; None is every parameter that has one.

        Of Laplace's approximation they are those of the approximation.

        Raises:
            ArgumentError: a level outside (0, 1), or a parameter that has no profile.
        """
        from bhlm.reml.family.profile import profile_intervals

        return profile_intervals(self, level=level, parameters=parameters)

    def bootstrap(
        self,
        *,
        replicates: int = 1000,
        seed: int = 0,
        progress: "Callable[[int, int], None] | None" = None,
    ) -> "Bootstrap":
        """Return a parametric bootstrap of every parameter; see `bhlm.reml.family.bootstrap`.

        Raises:
            ArgumentError: too few replicates, or a negative seed.
        """
        from bhlm.progress import show_progress
        from bhlm.reml.family.bootstrap import bootstrap

        with show_progress("bootstrap") as bar:
            return bootstrap(self, replicates=replicates, seed=seed, progress=progress or bar)

    def r_squared(self) -> dict[str, float]:
        """Return R2 on the latent scale, "marginal" and "conditional".

        Raises:
            ArgumentError: counts, which have no latent scale.
        """
        from bhlm.reml.family.population import explain_variance

        return explain_variance(self)

    def dispersion(self) -> dict[str, float]:
        """Return Pearson's chi-square and its ratio to the df, which overdispersion makes large.

        See `bhlm.reml.family.population.measure_dispersion`.
        """
        from bhlm.reml.family.population import measure_dispersion

        return measure_dispersion(self)

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page about this fit to an HTML file; its numbers go to a .json beside it.

        Page and .json hold no single row: effects, means and proportions of the groups, or of every
        factor's units.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_family

        write_family(self, path, title=title, source=source)
