"""The names of the parameters, and moves between the variance, SD and correlation scale."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.layout import print_label

if TYPE_CHECKING:
    from bhlm.design.formula.weights import Weights
    from bhlm.likelihood.covariance import Structure
    from bhlm.moments.moments import Moments

Array = np.ndarray
Kind = Literal["fixed", "sd", "corr", "var", "cov"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a model; `str` gives its public name, which nothing parses back."""

    kind: Kind
    row: str  # the coefficient, or "Residual"
    column: str = ""  # the other coefficient of a covariance or correlation
    group: str = ""  # the grouping factor; empty for fixed effects and the residual
    stratum: str = ""  # of residuals whose variance differs, such as "sex=F"

    def __str__(self) -> str:
        """Return the name in every table, file and plot."""
        if self.is_fixed:
            return self.row
        pair = f"{self.row},{self.column}" if self.column else self.row
        of = self.group or self.stratum
        return f"{self.kind}({pair}|{of})" if of else f"{self.kind}({pair})"

    @property
    def is_fixed(self) -> bool:
        """Whether it is a fixed effect."""
        return self.kind == "fixed"

    @property
    def is_residual(self) -> bool:
        """Whether it is the SD or variance of the residuals."""
        return not (self.is_fixed or self.group)

    @property
    def is_sd(self) -> bool:
        """Whether it is an SD."""
        return self.kind == "sd"

    @property
    def is_variance(self) -> bool:
        """Whether it is a variance."""
        return self.kind == "var"

    @property
    def is_positive(self) -> bool:
        """Whether it is a variance or an SD, which has the bound 0."""
        return self.kind in ("var", "sd")

    @property
    def bounds(self) -> tuple[float, float]:
        """The values between which it lies, whatever the covariance structure."""
        if self.is_positive:
            return 0.0, float("inf")
        return (-1.0, 1.0) if self.is_correlation else (-float("inf"), float("inf"))

    @property
    def is_correlation(self) -> bool:
        """Whether it is a correlation."""
        return self.kind == "corr"

    @property
    def is_covariance(self) -> bool:
        """Whether it is a covariance."""
        return self.kind == "cov"

    @property
    def is_squared(self) -> bool:
        """Whether it stands on the variance scale, which the SD scale shows as well."""
        return self.kind in ("var", "cov")

    @property
    def scaled(self) -> "Parameter":
        """The same on the scale of SDs and correlations."""
        kinds: dict[Kind, Kind] = {"var": "sd", "cov": "corr"}
        return replace(self, kind=kinds.get(self.kind, self.kind))

    @property
    def squared(self) -> "Parameter":
        """The same on the scale of variances and covariances."""
        kinds: dict[Kind, Kind] = {"sd": "var", "corr": "cov"}
        return replace(self, kind=kinds.get(self.kind, self.kind))


class Parameters(NamedTuple):
    """Values of all parameters of a model, in N draws; estimates are one draw."""

    beta: Array  # (N, p) fixed effects, in the columns as given
    root: Array  # (N, q, q) lower square roots of G
    sigma: Array  # (N,) residual SDs; (N, S) of S strata

    @property
    def g(self) -> Array:
        """The covariances of the random coefficients (N, q, q)."""
        return np.asarray(self.root @ self.root.swapaxes(1, 2))

    def take(self, at: "slice | Array") -> "Parameters":
        """Return some of the draws."""
        return Parameters(self.beta[at], self.root[at], self.sigma[at])


RESIDUAL = Parameter("var", "Residual")
RESIDUAL_SD = RESIDUAL.scaled


def list_parameters(
    fixed: Sequence[str],
    *structures: "Structure",
    residual: bool = True,
    weights: "Weights | None" = None,
) -> tuple[Parameter, ...]:
    """Return every parameter in the order of the tables.

    Fixed effects, then variances and covariances, then SDs and correlations; each factor after
    the other. Without `residual` rows have no variance of their own, nor where `weights` hold it;
    by strata there is one for each.
    """
    effects = (Parameter("fixed", name) for name in fixed)
    variances = (each for structure in structures for each in structure.variances)
    scaled = (each for structure in structures for each in structure.scaled)
    own = list_residuals(weights) if residual else ()
    return (*effects, *variances, *own, *scaled, *(each.scaled for each in own))


def list_residuals(weights: "Weights | None") -> tuple[Parameter, ...]:
    """Return the residual variances: one, one of each stratum, or none where they are known."""
    if weights is None or not (weights.holds_sigma or weights.strata):
        return (RESIDUAL,)
    return tuple(replace(RESIDUAL, stratum=name) for name in weights.strata)


def bound_parameters(parameters: Iterable[Parameter]) -> dict[str, tuple[float, float]]:
    """Return the bounds of the parameters by their names."""
    return {str(parameter): parameter.bounds for parameter in parameters}


def map_names(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    """Return the parameters by their names."""
    return {str(parameter): parameter for parameter in parameters}


# What draws, and models of PyMC, call their dimensions and variables.
OWN_NAMES = (
    *("chain", "draw", "fixed", "coefficient", "coefficient_bis", "dimension", "row", "sample"),
    *("beta", "beta_at_means", "sd", "corr", "cov", "G", "chol", "scale", "sigma", "u", "z", "x"),
    *("loglik", "lkj", ".", "..", "zarr.json"),
)


def name_group_dimension(group: str, *, taken: Sequence[str]) -> str:
    """Return the name of the groups' dimension: the column's, unless draws use it otherwise.

    A name that no path can hold has no place in a DataTree, nor in a file of one.
    """
    return "group" if _clashes(group, taken) else group


def name_strata(moments: "Moments") -> tuple[str, tuple[str, ...]]:
    """Return the name of the strata's dimension, and their levels."""
    weights = moments.weights
    assert weights is not None
    column = str(weights.rows)
    taken = (moments.group, moments.response)
    return ("stratum" if _clashes(column, taken) else column), tuple(
        map(print_label, weights.levels)
    )


def name_response(response: str, *, taken: Sequence[str] = ()) -> str:
    """Return the name of the response among variables of draws, under the same rule."""
    return "response" if _clashes(response, taken) else response


def _clashes(name: str, taken: Sequence[str]) -> bool:
    # Blocks of random coefficients number their variables.
    own = name in (*OWN_NAMES, *taken) or re.fullmatch(r"(corr|chol|scale)_\w+", name)
    return bool(own) or "/" in name


def scale_covariance(g: Array, labels: Sequence[tuple[int, int]]) -> Array:
    """Return SDs and correlations (..., m) that stand at `labels` of G (..., q, q)."""
    sd = np.sqrt(np.einsum("...ii->...i", g))
    columns = []
    for i, j in labels:
        if i == j:
            columns.append(sd[..., i])
        else:
            both = sd[..., i] * sd[..., j]
            with np.errstate(invalid="ignore", divide="ignore"):
                columns.append(np.minimum(np.maximum(g[..., i, j] / both, -1.0), 1.0))
    return np.stack(columns, axis=-1)


def name_apart(names: Sequence[str], *, table: Sequence[str]) -> list[str]:
    """Return names of the data as columns of a table, none of them called as another column is.

    Args:
        names: the group and the coefficients that have columns in the table.
        table: the table's own columns.
    """
    seen = set(table)
    apart = []
    for name in names:
        while name in seen:
            name += " of the data"
        seen.add(name)
        apart.append(name)
    return apart


def check_level(level: float) -> None:
    """Raise `ArgumentError` unless 0 < level < 1."""
    if not (isinstance(level, int | float | np.number) and 0.0 < level < 1.0):
        raise ArgumentError(f"level={level!r} is not between 0 and 1; write level=0.95 for 95 %")
