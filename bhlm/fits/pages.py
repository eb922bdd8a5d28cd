"""The page of a fit, as classes of fits offer it: of a single factor, and of several."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from bhlm.errors import check_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from bhlm.fits.model import Model
    from bhlm.plots.figure import Figure


@check_arguments
class GroupPage:
    """Of a fit of a single factor."""

    __slots__ = ()

    def dashboard(
        self,
        path: "str | Path",
        *,
        model: "Model | None" = None,
        title: str | None = None,
        rows: bool = False,
    ) -> None:
        """Write the page about this fit to an HTML file; its numbers go to a .json beside it.

        `model` has the rows, which some figures need; None takes `fit.model`. Page and .json hold
        no single row, unless `rows` is True.

        Raises:
            DataError: a path that cannot be written to, a model of other data, or rows that are
                asked for and not at hand.
        """
        from bhlm.reports.dashboard.subjects import write_fit

        fit = cast("Any", self)
        write_fit(fit, path, model=model or fit.model, title=title, rows=rows)


@check_arguments
class FactorPage:
    """Of a fit of several grouping factors."""

    __slots__ = ()

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page about this fit to an HTML file; its numbers go to a .json beside it.

        Page and .json hold no single row: of every factor the effects of its units.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_levels

        fit = cast("Any", self)
        write_levels(fit, path, title=title, model=fit.model, source=source)

    def plot_effects(
        self,
        factor: str,
        *,
        coefficient: str | None = None,
        within: "Mapping[str, Any] | None" = None,
    ) -> "Figure":
        """Return the caterpillar of one factor; see `bhlm.plots.level_caterpillar.plot_factor`.

        `within` has the units of one outer unit alone, such as {"school": 1224}.

        Raises:
            ArgumentError: a factor, coefficient, column or label that the fit does not have.
        """
        from bhlm.plots.level_caterpillar import plot_factor

        return plot_factor(cast("Any", self), factor, coefficient=coefficient, within=within)
