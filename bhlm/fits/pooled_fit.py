"""PooledFit: what `pool` and `fit_imputations` return."""

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.design.formula.parse import Binary, Leaf, parse_tree
from bhlm.design.formula.terms import parse_formula
from bhlm.design.formula.weights import Weights, read_weights
from bhlm.design.rows import open_rows
from bhlm.errors import ArgumentError, BhlmError, check_arguments
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.moments.cells import refuse_factors
from bhlm.moments.file import is_moments_path
from bhlm.moments.identifiers import doubt_columns
from bhlm.moments.moments import Moments
from bhlm.moments.responses import reduce_responses
from bhlm.reml.estimate import fit_responses
from bhlm.studies.imputations.mixture import Mixture
from bhlm.studies.imputations.pooled import Pooled, pool_fits

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.priors.resolve import Priors
    from bhlm.reml.fixed.wald import JointTest
    from bhlm.studies.replicate_weights import ReplicateWeights

LOGGER = logging.getLogger("bhlm")


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

    def sample(
        self,
        *,
        seed: int | None = None,
        draws: int = 1000,
        tune: int | None = None,
        chains: int = 4,
        priors: "Priors | None" = None,
        cores: int | None = None,
        adjust: bool = True,
    ) -> "MixtureFit":
        """Return the posterior given all imputations: the mixture of those given each.

        `compare()` sets the pooled estimates beside it, `dashboard()` writes its page; see
        `bhlm.studies.imputations.mixture.Mixture`.

        Args:
            seed: makes the run repeatable; None draws one.
            draws: kept draws per chain, of each imputation.
            tune: warm-up draws per chain, discarded; None as in `Model.sample`.
            chains: independent chains, of each imputation.
            priors: what replaces the defaults, which are scaled to each imputation.
            cores: chains that run side by side; None leaves it to nutpie.
            adjust: whether draws under sampling weights get the sandwich's covariance, as in
                `Model.sample`; without it they are not certified.

        Raises:
            ArgumentError: a count that is not positive.
            PriorError: priors that do not fit the model.
        """
        import numpy as np

        from bhlm.bayes.draws import Settings
        from bhlm.studies.imputations.mixture import sample_pooled

        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed < 0:
            raise ArgumentError(f"seed={seed} is not a seed; give an integer of 0 or more")
        settings = Settings(draws=draws, tune=tune, chains=chains, cores=cores)
        found = sample_pooled(self, seed=seed, settings=settings, priors=priors, adjust=adjust)
        return MixtureFit(found.fits, found.pooled, found.seed)

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page about the pooled fits to an HTML file; its numbers go to a .json beside.

        Page and .json hold no single row and no single group.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_pooled

        write_pooled(self, path, title=title, source=source)

    def to_dict(self) -> dict[str, Any]:
        """Return the pooled fit under the names of the JSON."""
        from bhlm.reports.json import describe_pooled

        return describe_pooled(self)


@check_arguments
class MixtureFit(Mixture):
    """The posterior given all imputations: the mixture of those given each, and its page."""

    __slots__ = ()
    __signature__ = Signature()  # made by `PooledFit.sample`

    def __repr__(self) -> str:
        """Return the summary, within a screen."""
        from bhlm.layout import shorten

        return shorten(self.summary(), whole="print(...) of its summary()")

    def dashboard(
        self, path: "str | Path", *, title: str | None = None, source: dict[str, str] | None = None
    ) -> None:
        """Write the page about the mixture and the pooled fits to an HTML file, a .json beside.

        Page and .json hold no single row and no single group.

        Raises:
            DataError: a path that cannot be written to.
        """
        from bhlm.reports.dashboard.subjects import write_pooled

        write_pooled(self, path, title=title, source=source)

    def save(self, path: "str | Path") -> None:
        """Write the posterior of each imputation; `bhlm.load` of the same path gives all back.

        "post.nc" stands for `post.1.nc`, `post.2.nc` and so on, which `post.nc.mixture` puts
        together; likewise .zarr. See `bhlm.studies.imputations.storage`.

        Raises:
            ArgumentError: another ending, a posterior of its own at that path, or standard errors
                by replicate weights.
            DataError: a place that cannot be written to.
        """
        from bhlm.studies.imputations.storage import save_mixture

        save_mixture(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the mixture and the pooled fits under the names of the JSON."""
        from bhlm.reports.json import describe_mixture, describe_pooled

        return {**describe_pooled(self.pooled), "posterior": describe_mixture(self)}


@check_arguments
def pool(fits: "Sequence[RemlFit]", *, df: str | None = None, level: float = 0.95) -> PooledFit:
    """Return fits of one model to several imputations, or plausible values, pooled.

    Args:
        fits: what `model.reml()` returned for each imputation: the same columns, the same method.
        df: "satterthwaite", "kenward-roger", "hlm", "cr0", "cr2" or "z": how each fit judges its
            fixed effects. Pooled degrees of freedom are Barnard & Rubin's (1999) from the
            complete-data ones by that method; "z" has none, and gives Rubin's of 1987. None is
            "satterthwaite", and "z" of fits that test by z alone, as with sampling weights.
        level: of the intervals.

    Raises:
        ArgumentError: fewer than two fits, fits of different models, one that has not converged,
            an unknown method, or a level outside (0, 1).
    """
    if isinstance(fits, Pooled | RemlFit):
        raise ArgumentError(
            f"fits is one {type(fits).__name__}; give a list of fits, one per imputation"
        )
    by_z = any(isinstance(fit, RemlFit) and fit.judged_by_z for fit in fits)
    return hold_pooled(pool_fits(fits, df=df or ("z" if by_z else "satterthwaite"), level=level))


def hold_pooled(found: Pooled) -> PooledFit:
    """Return pooled fits as the class that users hold, and so each of them."""
    held = {field.name: getattr(found, field.name) for field in fields(found)}
    each = [fit if isinstance(fit, RemlFit) else RemlFit.of(fit) for fit in found.fits]
    return PooledFit(**(held | {"fits": tuple(each)}))


@check_arguments
def fit_imputations(
    formula: str,
    data: Any,
    *,
    responses: Sequence[str] | None = None,
    method: str = "reml",
    covariance: str | None = None,
    weights: "str | Weights | None" = None,
    errors: "str | ReplicateWeights | None" = None,
    df: str | None = None,
    level: float = 0.95,
) -> PooledFit:
    """Return the fits of one model to imputed tables, or to plausible values, pooled.

    Plausible values are columns of one table, which is read once for all of them.

    Args:
        formula: the model, such as "y ~ x + (x | g)"; with `responses` it begins with "~", and
            "pv1math + pv2math ~ x + (x | g)" names them itself.
        data: a list of tables, one per imputation, each as `Model` takes them; with `responses`
            one table.
        responses: the columns that hold the plausible values, such as ["pv1math", "pv2math"].
        method: "reml" or "ml".
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        weights: of rows and groups, as `Model` takes them.
        errors: how each fit's standard errors are computed, as in `Model.reml`; by replicate
            weights they are those of each response, and Rubin's rules add what lies between.
        df: of the fixed effects, as in `pool`.
        level: of the intervals.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: a table cannot serve the formula.
        ArgumentError: fewer than two tables or responses, or what `pool` refuses.
    """
    if responses is None:
        formula, responses = split_responses(formula)
    models = _list_models(formula, data, responses)
    choice: dict[str, Any] = {"method": method, "covariance": covariance, "errors": errors}
    beside: list[Moments] | None = None
    if responses is not None and (errors is None or isinstance(errors, str)):
        beside = _reduce_once([text for _, text, _ in models], data, weights)
    together = None if beside is None else fit_responses(beside, **choice)
    for sentence in () if beside is None else doubt_columns(beside[0]):
        LOGGER.warning("%s", sentence)
    fits: list[RemlFit] = []
    for what, text, table in models:
        try:
            if together is not None:
                fits.append(RemlFit.of(next(together)))
                continue
            stated = parse_formula(text)
            if stated.has_levels:
                raise refuse_factors(stated, "pooling")
            fits.append(Model(text, table, weights=weights).reml(**choice))
        except BhlmError as error:
            raise type(error)(f"{what}: {error}") from error
    return pool(fits, df=df, level=level)


def split_responses(formula: str) -> tuple[str, Sequence[str] | None]:
    """Return a formula whose left side is a sum of columns without it, and these columns."""
    left, tilde, right = formula.partition("~")
    if "+" not in left or not tilde or "~" in right:
        return formula, None
    node, names = parse_tree(f"{left}~ 1")[0], []
    while isinstance(node, Binary) and node.sign == "+":
        names.append(node.right)
        node = node.left
    leaves = [each for each in (node, *reversed(names)) if isinstance(each, Leaf)]
    if len(leaves) <= len(names) or not all(each.is_column for each in leaves):
        return formula, None
    return f"~{right}", [str(each.token.value) for each in leaves]


def _reduce_once(texts: Sequence[str], data: Any, weights: Any) -> list[Moments] | None:
    """Return the moments of all responses from one pass over a table.

    None where each needs a pass of its own, or has an error to tell.
    """
    if is_moments_path(data) or isinstance(data, Moments) or len(texts) < 2:
        return None
    meant = read_weights(weights)
    try:
        formulas = [replace(parse_formula(text), weights=meant) for text in texts]
        if formulas[0].has_levels:
            return None
        table = open_rows(formulas[0], data) if isinstance(data, str | Path) else data
        return reduce_responses(formulas, table)
    except BhlmError:
        return None


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
