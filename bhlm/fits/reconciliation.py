"""Reconciliation: what `bhlm.reconcile` returns."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.reml_fit import RemlFit
from bhlm.reconciliation.comparison import Comparison, compare

if TYPE_CHECKING:
    from pathlib import Path

    from bhlm.fits.model import Model
    from bhlm.sources.gallery import Published


class Reconciliation(Comparison):
    """The two answers side by side, the split of each gap, the verdict, and what to do."""

    __slots__ = ()

    @classmethod
    def of(cls, value: Comparison) -> "Reconciliation":
        """Return a comparison as the class that users hold."""
        return cls(*(getattr(value, field.name) for field in fields(value)))

    @property
    def model(self) -> "Model | None":
        """The model that the fits were made from; None if it is no longer in use."""
        found = (fit.model for fit in (self.reml, self.post) if isinstance(fit, RemlFit | BayesFit))
        return next((model for model in found if model is not None), None)

    def summary(self) -> str:
        """Return the table, the printed values and the verdict as text."""
        from bhlm.reports.text.reconciliation import render_reconciliation

        return render_reconciliation(self)

    def _repr_html_(self) -> str:
        """Return the table under its conclusion as HTML, for notebooks."""
        from bhlm.reports.notebook import show_reconciliation

        return show_reconciliation(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `bhlm reconcile` as plain dictionaries; nan and inf become None."""
        from bhlm.reports.json import describe_reconciliation

        return describe_reconciliation(self)

    def dashboard(
        self, path: "str | Path", *, model: "Model | None" = None, title: str | None = None
    ) -> None:
        """Write the page about both fits to an HTML file; see `bhlm.reports.dashboard.subjects`.

        Its numbers go to a .json beside it. `model` has the rows, which some figures need; None
        takes `reml.model` or `post.model`.

        Raises:
            DataError: a path that cannot be written to, or a model of other data.
        """
        from bhlm.reports.dashboard.subjects import write_reconciliation

        write_reconciliation(self, path, model=model or self.model, title=title)


def reconcile(
    reml: RemlFit,
    post: BayesFit,
    *,
    published: "Published | None" = None,
) -> Reconciliation:
    """Return the reconciliation of a REML fit and a posterior of the same model.

    Args:
        reml: a fit by REML; ML has no flat-prior counterpart and is refused.
        post: draws from the posterior.
        published: printed values, from the gallery.

    Raises:
        ArgumentError: the two fits are not of the same model and data, `reml` is by ML, or the
            draws are from the prior alone.
    """
    return Reconciliation.of(compare(reml, post, published=published))
