"""PooledFit: what `pool` and `fit_imputations` return."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bhlm.design.formula.terms import parse_formula
from bhlm.errors import ArgumentError, BhlmError, check_arguments
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.moments.cells import refuse_factors
from bhlm.studies.imputations.pooled import Pooled, pool_fits

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.reml.fixed.wald import JointTest


@check_arguments
class PooledFit(Pooled):
    """Fits of one model pooled by Rubin's rules, and everything that can be asked of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def _repr_html_(self) -> str:
        """Return the pooled estimates as a table for notebooks, with the notes under it."""
        from bhlm.reports.text.pooled import show_pooled

        return show_pooled(self)

    def summary(self) -> str:
        """Return the model, every pooled estimate, and what to know about them."""
        from bhlm.reports.text.pooled import summarize_pooled

        return summarize_pooled(self)

    def contrast(self, *hypotheses: str, level: float = 0.95) -> "pd.DataFrame":
        """Return pooled linear combinations of fixed effects, such as "sector + 2*gm(ses) = 0".

        Raises:
            ArgumentError: a hypothesis that cannot be read, or a level outside (0, 1).
        """
        from bhlm.studies.imputations.joint import pool_contrasts

        return pool_contrasts(self, hypotheses, level=level)

    def test(self, *hypotheses: str, rule: str = "D1") -> "JointTest":
        """Return the joint test of hypotheses about fixed effects by "D1" or "D2".

        See `bhlm.studies.imputations.joint.judge_pooled`.

        Raises:
            ArgumentError: an unknown rule, or hypotheses that cannot be read or contradict each
                other.
        """
        from bhlm.studies.imputations.joint import judge_pooled

        return judge_pooled(self, hypotheses, rule=rule)

    def to_dict(self) -> dict[str, Any]:
        """Return the pooled fit under the names of the JSON."""
        from bhlm.reports.json import describe_pooled

        return describe_pooled(self)


@check_arguments
def pool(fits: "Sequence[RemlFit]", *, df: str = "satterthwaite", level: float = 0.95) -> PooledFit:
    """Return fits of one model to several imputations, or plausible values, pooled.

    Args:
        fits: what `model.reml()` returned for each imputation: the same columns, the same method.
        df: "satterthwaite", "kenward-roger", "hlm", "cr0", "cr2" or "z": how each fit judges its
            fixed effects. Pooled degrees of freedom are Barnard & Rubin's (1999) from the
            complete-data ones by that method; "z" has none, and gives Rubin's of 1987.
        level: of the intervals.

    Raises:
        ArgumentError: fewer than two fits, fits of different models, one that has not converged,
            an unknown method, or a level outside (0, 1).
    """
    if isinstance(fits, Pooled | RemlFit):
        raise ArgumentError(
            f"fits is one {type(fits).__name__}; give a list of fits, one per imputation"
        )
    found = pool_fits(fits, df=df, level=level)
    return PooledFit(**{field.name: getattr(found, field.name) for field in fields(found)})


@check_arguments
def fit_imputations(
    formula: str,
    data: Any,
    *,
    responses: Sequence[str] | None = None,
    method: str = "reml",
    covariance: str | None = None,
    df: str = "satterthwaite",
    level: float = 0.95,
) -> PooledFit:
    """Return the fits of one model to imputed tables, or to plausible values, pooled.

    Args:
        formula: the model, such as "y ~ x + (x | g)"; with `responses` it begins with "~".
        data: a list of tables, one per imputation, each as `Model` takes them; with `responses`
            one table.
        responses: the columns that hold the plausible values, such as ["pv1math", "pv2math"].
        method: "reml" or "ml".
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        df: of the fixed effects, as in `pool`.
        level: of the intervals.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: a table cannot serve the formula.
        ArgumentError: fewer than two tables or responses, or what `pool` refuses.
    """
    fits = []
    for what, text, table in _list_models(formula, data, responses):
        try:
            stated = parse_formula(text)
            if stated.has_levels:
                raise refuse_factors(stated, "pooling")
            fits.append(Model(text, table).reml(method=method, covariance=covariance))
        except BhlmError as error:
            raise type(error)(f"{what}: {error}") from error
    return pool(fits, df=df, level=level)


def _list_models(
    formula: str, data: Any, responses: Sequence[str] | None
) -> list[tuple[str, str, Any]]:
    """Return for each fit what messages call it, its formula and its table."""
    from bhlm.design.formula.expressions import Name

    if responses is None:
        if not isinstance(data, list | tuple):
            raise ArgumentError(
                f"data is one {type(data).__name__}; give a list of tables, one per imputation, or "
                "name the columns with plausible values by responses=[...]"
            )
        return [(f"table {at}", formula, table) for at, table in enumerate(data, 1)]
    if not formula.lstrip().startswith("~"):
        raise ArgumentError(
            f"formula={formula!r} has a response beside responses=[...]; begin it with '~'"
        )
    twice = [name for at, name in enumerate(responses) if name in responses[:at]]
    if twice:
        raise ArgumentError(f"responses holds '{twice[0]}' twice; name each plausible value once")
    return [(f"response '{name}'", f"{Name(name)} {formula.lstrip()}", data) for name in responses]
