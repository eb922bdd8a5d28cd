"""Fits as the package marginaleffects takes them; the one file that knows it."""

from functools import cache
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.design.design import Design
from bhlm.design.formula.expressions import column_names
from bhlm.design.formula.terms import list_factors
from bhlm.design.rows import formula_columns
from bhlm.errors import ArgumentError, DataError, miss_package
from bhlm.reml.fixed.contrasts import infer_fixed
from bhlm.reml.maximum import Maximum

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.fits.model import Model

Array = np.ndarray


def adapt_fit(fit: Any, model: "Model | None") -> Any:
    """Return a fit as a model of marginaleffects, which its `slopes`, `predictions`, ... take.

    Predictions are X beta, where the random effects are zero. A column that the formula centres is
    moved within its groups: cwc(x) moves along with x, while gm(x) stays the mean of the rows that
    the model was made from. Standard errors are those of the fit by z, or by `vcov=` a method of
    `fit.fixed_effects`, such as "kenward-roger" or "cr2"; those of a posterior are the covariance
    of its draws. Groups and texts are given as categoricals. Without JAX, marginaleffects takes
    standard errors by finite differences, of which eps=0.1, eps_vcov=0.1 lose no digit here.

    Raises:
        DataError: the model is no longer in use, or was made from moments and has no rows.
        MissingPackageError: marginaleffects is not installed.
    """
    if model is None or not model.has_rows:
        raise DataError(
            "marginaleffects reads the rows, and the model of this fit has none at hand; keep the "
            "model, made from the table, in a variable"
        )
    return define_adapter()(fit, model)


def list_columns(design: Design) -> tuple[list[str], list[str]]:
    """Return the table's columns that the fixed part reads, and the others of the formula."""
    formula = design.formula
    fixed = [factor for term in formula.fixed for factor in term.factors]
    names = [name for part in (*fixed, *formula.offsets) for name in column_names(part)]
    predictors = list(dict.fromkeys(names))
    return predictors, [name for name in formula_columns(formula) if name not in predictors]


def read_rows(model: "Model") -> "tuple[pd.DataFrame, dict[str, dict[str, Any]]]":
    """Return the complete rows of a model, groups and texts as categoricals, and their values.

    Categories are spelled as text; the dictionary has, by column, what each spelling stands for.
    """
    import pandas as pd

    levels = {
        column_names(factor)[0]: model.design.levels[str(factor)]
        for factor in list_factors(model.formula)
        if str(factor) in model.design.levels
    }
    table = model.list_rows()
    meant: dict[str, dict[str, Any]] = {}
    for name, column in table.items():
        name = str(name)
        is_label = name in model.formula.group_columns or name in levels
        if not is_label and pd.api.types.is_numeric_dtype(column):
            continue
        known = levels.get(name) or sorted(column.unique().tolist())
        meant[name] = {str(value): value for value in known}
        spelled = [str(each) for each in column]
        table = table.assign(**{name: pd.Categorical(spelled, categories=list(meant[name]))})
    return table, meant


@cache
def define_adapter() -> Any:
    """Return the subclass of marginaleffects' ModelAbstract; the package is imported here."""
    try:
        from marginaleffects.classes import ModelAbstract, ModelVault
    except ImportError as error:
        raise miss_package("fit.marginaleffects()", "marginaleffects", "effects") from error

    class HierarchicalModel(ModelAbstract):
        """A fit with its rows, for marginaleffects."""

        def __init__(self, fit: Any, model: "Model") -> None:
            table, self._meant = read_rows(model)
            self._fit, self._source = fit, model
            predictors, _ = list_columns(model.design)
            held = nw.from_native(table, eager_only=True)
            # Its own types know the order of the levels, which a pandas table alone has.
            enums = [
                nw.col(name).cast(nw.Enum(list(spelled))) for name, spelled in self._meant.items()
            ]
            vault = ModelVault()
            vault.coef, vault.coefnames = _find_beta(fit), np.array(fit.moments.fixed)
            as_text = held.with_columns(nw.col(name).cast(nw.String) for name in self._meant)
            vault.modeldata = (
                nw.from_native(as_text.to_polars(), eager_only=True)
                .with_columns(*enums)
                .to_native()
            )
            vault.variable_names = [str(model.formula.response), *predictors]
            vault.package = "bhlm"
            super().__init__(fit, vault)

        def validation(self) -> None:
            """Say what each column is: their own reading refuses floats of polars 2."""
            schema = nw.from_native(self.vault.modeldata, eager_only=True).schema
            for name, kind in schema.items():
                self.vault.variables_type[name] = _name_kind(kind)

        def get_exog(self, newdata: Any) -> Array:
            """Return the columns (n, p) of the fixed effects at new rows."""
            table = nw.from_native(newdata, eager_only=True).to_pandas()
            for name, spelled in self._meant.items():
                if name in table.columns:
                    table[name] = [spelled.get(str(each), each) for each in table[name]]
            return self._source.read_fixed(table)

        def get_predict(self, params: Array, newdata: Any) -> Any:
            """Return X beta at the columns that `get_exog` returned."""
            estimate = np.asarray(newdata) @ np.asarray(params)
            found = {"rowid": np.arange(len(estimate), dtype=np.int32), "estimate": estimate}
            return nw.from_dict(found, backend="polars").to_native()

        def get_vcov(self, vcov: Any = True) -> Array | None:
            """Return the covariance (p, p) of the fixed effects."""
            if vcov is False or vcov is None:
                return None
            return _find_covariance(self._fit, "z" if vcov is True else vcov)

        def get_df(self) -> float:
            """Return the df of all tests: they are by z."""
            return np.inf

        def get_autodiff_args(self) -> dict[str, Any]:
            """Say that predictions are linear in the coefficients, so that no step is taken."""
            return {"model_type": "linear", "family": None, "link": None}

    return HierarchicalModel


def _name_kind(kind: Any) -> str:
    """Return what marginaleffects calls a type; a column of 0 and 1 is a number to it as well."""
    if kind.is_numeric():
        return "integer" if kind.is_integer() else "numeric"
    return "boolean" if kind == nw.Boolean else "character"


def _find_beta(fit: Any) -> Array:
    if isinstance(fit, Draws):
        return np.asarray(fit.contents.read("posterior", "beta").mean(axis=(0, 1)))
    return np.asarray(fit.beta)


def _find_covariance(fit: Any, method: Any) -> Array:
    if isinstance(fit, Maximum):
        return infer_fixed(fit, np.eye(len(fit.beta)), method=method).cov
    if method != "z":
        raise ArgumentError(f"vcov={method!r} is for a fit by REML or ML; leave it out")
    beta = fit.contents.read("posterior", "beta")
    return np.asarray(
        np.cov(beta.reshape(-1, beta.shape[-1]).T, ddof=1).reshape(beta.shape[-1], -1)
    )
