"""FamilyLevelBayesFit: what `model.sample()` returns of a family with nested factors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.errors import check_arguments
from bhlm.fits.family_bayes_fit import FamilyPosteriorFit

if TYPE_CHECKING:
    from bhlm.bayes.quantities import Quantities
    from bhlm.likelihood.replicates import FamilyCheck
    from bhlm.plots.figure import Figure


@check_arguments
class FamilyLevelBayesFit(FamilyPosteriorFit, FamilyLevelDraws):
    """Draws from the posterior of a family with nested factors, and what can be asked of them."""

    __slots__ = ("_model",)

    def icc(self) -> "Quantities":
        """Return draws of each factor's share and ICC on the latent scale, and median odds ratio.

        See `bhlm.bayes.family.quantities.derive_level_icc`.
        """
        from bhlm.bayes.family.quantities import derive_level_icc

        return derive_level_icc(self)

    def check(
        self,
        factor: str | None = None,
        *,
        kind: str = "same groups",
        draws: int = 400,
        seed: int | None = None,
    ) -> "FamilyCheck":
        """Return the proportion or rate of each unit of a factor beside replicates of it.

        And the calibration. None is the factor with the fewest units; see
        `bhlm.bayes.family.level_checks.check_units`.

        Raises:
            ArgumentError: it is not a factor, an unknown kind, a negative seed, or too few draws.
        """
        from bhlm.bayes.family.level_checks import check_units

        return check_units(self, factor, kind=kind, draws=draws, seed=seed)

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page about this posterior to an HTML file; its numbers go to a .json beside it.

        Page and .json hold no single row: of every factor the effects of its units.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_family

        write_family(self, path, title=title, source=source)

    def plot_effects(
        self,
        factor: str,
        *,
        coefficient: str | None = None,
        within: "Mapping[str, Any] | None" = None,
    ) -> "Figure":
        """Return the caterpillar of one factor on the link scale.

        `within` has the units of one outer unit alone, such as {"school": 1224}; see
        `bhlm.plots.level_caterpillar.plot_factor`.

        Raises:
            ArgumentError: a factor, coefficient, column or label that the fit does not have.
        """
        from bhlm.plots.level_caterpillar import plot_factor

        return plot_factor(self, factor, coefficient=coefficient, within=within)
