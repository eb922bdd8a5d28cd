"""Reconciliation: what `bhlm.reconcile` returns."""

from dataclasses import fields, replace
from inspect import Signature
from typing import TYPE_CHECKING, Any, overload

from bhlm.bayes.checks.model_checks import Checks, run_checks, run_level_checks
from bhlm.bayes.family.checks import run_family_checks
from bhlm.bayes.family.level_checks import run_family_level_checks
from bhlm.errors import ArgumentError, check_arguments
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.family_bayes_fit import FamilyBayesFit
from bhlm.fits.family_fit import FamilyFit
from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit
from bhlm.fits.family_levels_fit import FamilyLevelsFit
from bhlm.fits.level_bayes_fit import LevelBayesFit
from bhlm.fits.levels_fit import LevelsFit
from bhlm.fits.origin import Fitted
from bhlm.fits.pooled_fit import PooledFit
from bhlm.fits.reml_fit import RemlFit
from bhlm.fits.strata_fit import StrataFit
from bhlm.fits.weighted_bayes_fit import WeightedBayesFit
from bhlm.likelihood.arrange import is_chain
from bhlm.reconciliation.comparison import Comparison, compare
from bhlm.studies.imputations.mixture import Mixture
from bhlm.studies.imputations.reconciled import PooledComparison, compare_pooled

if TYPE_CHECKING:
    from pathlib import Path

    from bhlm.fits.model import Model
    from bhlm.sources.gallery import Published

# Rows up to which they are read once more, for their LOO-PIT: about a second.
ROWS = 1_000_000


@check_arguments
class Reconciliation(Comparison):
    """The two answers side by side, the split of each gap, the verdict, and what to do.

    `findings` tells convergence, reconciliation, model checks and priors apart; `verdict` is that
    of the reconciliation alone.
    """

    __slots__ = ()
    __signature__ = Signature()  # made by `reconcile`

    @classmethod
    def of(cls, value: Comparison) -> "Reconciliation":
        """Return a comparison as the class that users hold."""
        return cls(*(getattr(value, field.name) for field in fields(value)))

    @property
    def model(self) -> "Model | None":
        """The model that the fits were made from; None if it is no longer in use."""
        found = (fit.model for fit in (self.reml, self.post) if isinstance(fit, Fitted))
        return next((model for model in found if model is not None), None)

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def summary(self) -> str:
        """Return the table, the printed values and the verdict as text."""
        from bhlm.reports.text.reconciliation import render_reconciliation

        return render_reconciliation(self)

    def _repr_html_(self) -> str:
        """Return the table under its conclusion as HTML, for notebooks."""
        from bhlm.reports.notebook import show_reconciliation

        return show_reconciliation(self)

    def to_dict(self, *, df: str | None = None) -> dict[str, Any]:
        """Return the JSON of `bhlm reconcile` as plain dictionaries; nan and inf become None.

        `df` adds the tests of the fixed effects by a method of `reml.fixed_effects`.
        """
        from bhlm.reports.comparison_json import describe_reconciliation

        return describe_reconciliation(self, df=df)

    def dashboard(
        self,
        path: "str | Path",
        *,
        model: "Model | None" = None,
        title: str | None = None,
        df: str | None = None,
        rows: bool = False,
    ) -> None:
        """Write the page about both fits to an HTML file; see `bhlm.reports.dashboard.subjects`.

        Its numbers go to a .json beside it. `model` has the rows, which some figures need; None
        takes `reml.model` or `post.model`. `df` adds the tests of the fixed effects by a method of
        `reml.fixed_effects`. Page and .json hold no single row, unless `rows` is True.

        Raises:
            DataError: a path that cannot be written to, a model of other data, or rows that are
                asked for and not at hand.
        """
        from bhlm.reports.dashboard.subjects import write_reconciliation

        write_reconciliation(self, path, model=model or self.model, title=title, df=df, rows=rows)


@check_arguments
class PooledReconciliation(PooledComparison):
    """Pooled fits and the mixture of posteriors side by side, the split of each gap, the verdict.

    `each` holds the reconciliation given one imputation.
    """

    __slots__ = ()
    __signature__ = Signature()  # made by `reconcile`

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def summary(self) -> str:
        """Return the table, the words and the verdict as text."""
        from bhlm.reports.text.pooled_reconciliation import render_pooled

        return render_pooled(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the reconciliation as plain dictionaries; nan and inf become None."""
        from bhlm.reports.comparison_json import describe_pooled_reconciliation

        return describe_pooled_reconciliation(self)

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page of the reconciliation to an HTML file; its numbers go to a .json beside.

        Page and .json hold no single row and no single group.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_pooled

        write_pooled(self, path, title=title, source=source)


@overload
def reconcile(
    reml: PooledFit,
    post: Mixture,
    *,
    published: "Published | None" = None,
    checks: bool = True,
) -> PooledReconciliation: ...


@overload
def reconcile(
    reml: RemlFit | LevelsFit | FamilyFit | FamilyLevelsFit | StrataFit,
    post: BayesFit | LevelBayesFit | FamilyBayesFit | FamilyLevelBayesFit | WeightedBayesFit,
    *,
    published: "Published | None" = None,
    checks: bool = True,
) -> Reconciliation: ...


@check_arguments
def reconcile(
    reml: RemlFit | LevelsFit | FamilyFit | FamilyLevelsFit | StrataFit | PooledFit,
    post: BayesFit
    | LevelBayesFit
    | FamilyBayesFit
    | FamilyLevelBayesFit
    | WeightedBayesFit
    | Mixture,
    *,
    published: "Published | None" = None,
    checks: bool = True,
) -> Reconciliation | PooledReconciliation:
    """Return the reconciliation of a REML fit and a posterior of the same model.

    Args:
        reml: a fit by REML; ML has no flat-prior counterpart and is refused. Of a family, and with
            sampling weights, it is the fit by (pseudo-)ML, whose counterpart is the joint mode of
            the fixed effects and the variances.
        post: draws from the posterior; those of a pseudo-posterior are certified as they were
            sampled, and their adjustment to the sandwich is computed again. Of pooled fits it is
            `pooled.sample()`, the mixture over the imputations.
        published: printed values, from the gallery.
        checks: whether to check the model and its priors too, by `post.check()`,
            `post.sensitivity()` and the LOO-PIT of the rows, where the model that the fits were
            made from is at hand and has no more than a million; of a family by its calibration in
            the place of the PIT.

    Raises:
        ArgumentError: the two fits are not of the same model and data, `reml` is by ML, or the
            draws are from the prior alone.
    """
    if isinstance(reml, PooledFit) or isinstance(post, Mixture):
        if not (isinstance(reml, PooledFit) and isinstance(post, Mixture)):
            raise ArgumentError(
                "pooled fits are reconciled with the mixture of their posteriors; give pooled and "
                "pooled.sample()"
            )
        if published is not None:
            raise ArgumentError("published= is not there for pooled fits; leave it out")
        found = compare_pooled(reml, post)
        return PooledReconciliation(*(getattr(found, each.name) for each in fields(found)))
    if isinstance(reml, FamilyLevelsFit) and reml.marginal is None:
        out = (
            "fit without nagq"
            if is_chain(reml.patterns.codes)
            else "pm.sample() draws from model.pymc(form='conditional')"
        )
        raise ArgumentError(
            f"the likelihood of '{reml.moments.formula}' is Laplace's approximation, whose error "
            f"is not known: no posterior stands beside it; {out}"
        )
    both = Reconciliation.of(compare(reml, post, published=published))
    if not checks or both.verdict == "not_converged":
        return both
    if isinstance(post, WeightedBayesFit):
        weights = post.moments.weights
        assert weights is not None
        if not weights.is_sampling:
            return replace(both, checks=run_checks(post))
        left_out = (
            "the checks of the model and the sensitivity to the priors are not part of a "
            f"reconciliation yet with {weights.sentence}"
        )
        return replace(both, checks=Checks(None, None, None, (left_out,)))
    if isinstance(post, FamilyBayesFit):
        return replace(both, checks=run_family_checks(post))
    if isinstance(post, FamilyLevelBayesFit):
        return replace(both, checks=run_family_level_checks(post))
    model = both.model
    has_rows = model is not None and model.has_rows and post.moments.n_rows <= ROWS
    if not isinstance(post, BayesFit):
        rows = model.cell_rows if model and has_rows else None
        return replace(both, checks=run_level_checks(post, rows))
    return replace(both, checks=run_checks(post, model.rows if model and has_rows else None))
