"""FamilyBayesFit: what `model.sample()` returns of zeros and ones, proportions and counts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bhlm.bayes.family.draws import FamilyDraws
from bhlm.errors import check_arguments
from bhlm.fits.posterior_fit import PosteriorFit

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from bhlm.bayes.checks.loo import Loo
    from bhlm.bayes.quantities import Quantities
    from bhlm.likelihood.replicates import FamilyCheck


@check_arguments
class FamilyPosteriorFit(PosteriorFit):
    """What can be asked of any posterior of a family, on the link scale unless said."""

    __slots__ = ()

    def to_inference_data(self) -> "xr.DataTree":
        """Return the draws as the DataTree that ArviZ's functions take, which is `fit.data`."""
        return self.data

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `bhlm sample` as plain dictionaries; nan and inf become None."""
        from bhlm.reports.family_json import describe_family_posterior

        return describe_family_posterior(cast("Any", self))

    def ratios(self, *, level: float = 0.95) -> "pd.DataFrame":
        """Return odds ratios, hazard ratios (cloglog) or rate ratios: `ratio` (median), `lower`,

        `upper`, and the `probability` that it is above 1.

        Raises:
            ArgumentError: the probit link, or a level outside (0, 1).
        """
        from bhlm.bayes.family.quantities import tabulate_ratios

        return tabulate_ratios(cast("Any", self), level=level)

    def r_squared(self) -> "Quantities":
        """Return draws of R2 on the latent scale, `marginal` and `conditional`.

        Raises:
            ArgumentError: counts, which have no latent scale.
        """
        from bhlm.bayes.family.quantities import derive_r_squared

        return derive_r_squared(cast("Any", self))

    def effects(
        self,
        column: str,
        *,
        by: "str | Sequence[str] | Mapping[str, Any] | None" = None,
        at: "Mapping[str, Any] | None" = None,
        scale: str = "response",
        kind: str | None = None,
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the effect of a column on the probability or rate, or on the link scale.

        Columns `mean, sd, lower, upper` after the moderators' values. On the
        response scale it is the difference that a level or a column of zeros and ones makes, else
        the derivative at the column's mean, "population-averaged" (the default `kind`) or
        "unit-specific"; other columns stand at their means, or where `at` has them.

        Raises:
            ArgumentError: a column or moderator that is not in the model, a value that it cannot
                have, or a scale, kind or level that is not known.
        """
        from bhlm.bayes.family.slopes import describe_slopes

        return describe_slopes(
            cast("Any", self), column, by=by, at=at, scale=scale, kind=kind, level=level
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
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Return the expected probability or rate along a column, or its link.

        One line per value of the moderators, in columns `mean, sd, lower, upper`;
        "population-averaged" (the default `kind`) or "unit-specific", of a group whose effects are
        zero. `bhlm.plots.plot_effects` draws both.

        Raises:
            ArgumentError: as `effects`.
        """
        from bhlm.bayes.family.slopes import describe_lines

        return describe_lines(
            cast("Any", self),
            column,
            by=by,
            at=at,
            values=values,
            scale=scale,
            kind=kind,
            level=level,
        )

    def loo(self) -> "Loo":
        """Return the leave-one-group-out elpd; ArviZ takes it as it is (`arviz.compare`).

        Raises:
            ArgumentError: draws from the prior alone.
        """
        from bhlm.bayes.family.quantities import leave_out_groups

        return leave_out_groups(cast("Any", self))


@check_arguments
class FamilyBayesFit(FamilyPosteriorFit, FamilyDraws):
    """Draws from the posterior, and what can be asked of them, on the link scale unless said."""

    __slots__ = ("_model",)

    def icc(self) -> "Quantities":
        """Return draws of the ICC on the latent scale, and of the median odds ratio."""
        from bhlm.bayes.family.quantities import derive_icc

        return derive_icc(self)

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page about this posterior to an HTML file; its numbers go to a .json beside it.

        Page and .json hold no single row: effects, means and proportions of the groups.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_family

        write_family(self, path, title=title, source=source)

    def check(
        self, *, kind: str = "same groups", draws: int = 400, seed: int | None = None
    ) -> "FamilyCheck":
        """Return each group's proportion or rate beside replicates of it, and the calibration.

        See `bhlm.bayes.family.checks.check_groups`.

        Raises:
            ArgumentError: an unknown kind, a seed that is negative, or too few draws.
        """
        from bhlm.bayes.family.checks import check_groups

        return check_groups(self, kind=kind, draws=draws, seed=seed)
