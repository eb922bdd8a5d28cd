"""Standard errors from replicate weights: a refit for each column of weights a survey comes with.

With theta the estimates by the full weights and theta_r those by replicate r,

    Cov = scale sum_r rscales_r (theta_r - theta) (theta_r - theta)'

or about the mean of the theta_r where `mse` is False. What a survey's documentation calls its
method fixes the factors, which have the names of R's survey package:

    BRR        1 / R
    Fay        1 / (R (1 - rho)^2)
    JK1        (R - 1) / R
    JK2        1
    JKn        rscales, (n_h - 1) / n_h of the stratum of each replicate
    bootstrap  1 / (R - 1)

Sources: Wolter (2007), Introduction to Variance Estimation, chapters 3 and 4; Judkins (1990), J.
Official Stat. 6, 223-239, for Fay's; OECD (2014), PISA 2012 Technical Report, chapter 8.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.design.formula.weights import SamplingWeights, Weights
from bhlm.errors import ArgumentError, check_fields
from bhlm.layout import name_some
from bhlm.likelihood.parameters import RESIDUAL, Parameter
from bhlm.reml.estimate import Estimate
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.standard_errors import Z95, log_interval

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

TYPES = ("BRR", "Fay", "JK1", "JK2", "JKn", "bootstrap")


@check_fields
@dataclass(frozen=True, slots=True)
class ReplicateWeights:
    """The replicate weights that a survey comes with, and how they add up to a variance.

    `model.reml(method="ml", errors=ReplicateWeights(...))` takes its standard errors from them.

    Args:
        rows: R columns in the place of the rows' sampling weights, or expressions such as
            "w_fstr1 / w_fschwt"; None keeps the model's.
        groups: R columns in the place of the groups' weights; None keeps the model's. With several
            nested factors a mapping from factor to R columns; factors that it does not name keep
            the model's.
        method: "BRR", "Fay", "JK1", "JK2", "JKn" or "bootstrap", as the survey says.
        rho: of Fay's method, 0.5 in PISA.
        rscales: of JKn, one for each replicate.
        mse: whether deviations are from the full estimates, not from the replicates' mean.
    """

    rows: Sequence[str] | None = None
    groups: Sequence[str] | Mapping[str, Sequence[str]] | None = None
    method: str = "BRR"
    rho: float | None = None
    rscales: Sequence[float] | None = None
    mse: bool = True

    @property
    def count(self) -> int:
        """The number R of replicates.

        Raises:
            ArgumentError: no replicates, or lists of different lengths.
        """
        of_groups = self.groups if isinstance(self.groups, Mapping) else {"": self.groups}
        sizes = {len(each) for each in (self.rows, *of_groups.values()) if each is not None}
        if len(sizes) != 1:
            found = " and ".join(map(str, sorted(sizes))) or "no"
            raise ArgumentError(
                f"rows= and groups= have {found} replicates; give as many of both, or of one of "
                "them"
            )
        return sizes.pop()

    def check(self, meant: Weights | None) -> SamplingWeights:
        """Return a model's weights, which the replicates can replace.

        Raises:
            ArgumentError: they are no sampling weights, or those of other factors.
        """
        if not isinstance(meant, SamplingWeights):
            raise ArgumentError(
                "replicate weights replace sampling weights, which this model has none of; give "
                "weights=bhlm.SamplingWeights(...)"
            )
        _ = self.count
        self.weigh(meant, 0)
        return meant

    def weigh(self, meant: SamplingWeights, r: int) -> SamplingWeights:
        """Return the weights of replicate r, counted from 0, of a model with the weights `meant`.

        Raises:
            ArgumentError: a mapping where the model has one grouping factor, none where it has
                several, or a factor whose weights the model does not have.
        """
        rows = meant.rows if self.rows is None else self.rows[r]
        own = dict(meant.factors)
        if isinstance(self.groups, Mapping):
            if unknown := [name for name in self.groups if name not in own]:
                raise ArgumentError(
                    f"groups= has replicates of {name_some(unknown)}, of which the model has no "
                    "weights; give those of "
                    + (name_some(list(own)) if own else "its one factor, as a list")
                )
            own |= {name: each[r] for name, each in self.groups.items()}
        elif own and self.groups is not None:
            raise ArgumentError(
                f"groups= is a list, and the model has weights of {name_some(list(own))}; give a "
                "mapping from factor to its replicates"
            )
        elif self.groups is not None:
            return SamplingWeights(rows, self.groups[r], meant.scaling)
        return SamplingWeights(rows, own or meant.groups, meant.scaling)

    @property
    def code(self) -> str:
        """The Python expression that makes them."""
        given = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value == each.default:
                continue
            if isinstance(value, Mapping):
                inner = ", ".join(f"{name!r}: {write_list(own)}" for name, own in value.items())
                given.append(f"{each.name}={{{inner}}}")
                continue
            text = repr(value) if isinstance(value, str | float | bool) else write_list(value)
            given.append(f"{each.name}={text}")
        return f"bhlm.ReplicateWeights({', '.join(given)})"

    def plan(self) -> "Scheme":
        """Return how the replicates add up; raises as `plan_replicates` does."""
        return plan_replicates(
            self.method, self.count, rho=self.rho, rscales=self.rscales, mse=self.mse
        )

    @property
    def sentence(self) -> str:
        """What they are, which is what a fit calls its errors."""
        rho = "" if self.rho is None else f", rho {self.rho:g}"
        return f"{self.count} replicate weights ({self.method}{rho})"


def write_list(values: Sequence[str] | Sequence[float]) -> str:
    """Return the Python expression of a list, short where one number in its texts counts up."""
    texts, numbers = [str(each) for each in values], []
    for number in re.finditer(r"\d+", texts[0]) if isinstance(values[0], str) else ():
        first, head, tail = int(number[0]), texts[0][: number.start()], texts[0][number.end() :]
        width = len(number[0]) if number[0].startswith("0") and len(number[0]) > 1 else 0
        if any(mark in head + tail for mark in "{}"):
            continue
        numbers = [f"{head}{at:0{width}d}{tail}" for at in range(first, first + len(texts))]
        if numbers == texts and len(texts) > 1:
            kind = f":0{width}d" if width else ""
            shown = repr(f"{head}{{r{kind}}}{tail}")
            span = f"{first}, {first + len(texts)}" if first else f"{len(texts)}"
            return f"[f{shown} for r in range({span})]"
    if len(set(values)) == 1 and not isinstance(values[0], str):
        return f"[{values[0]!r}] * {len(values)}"
    return repr(list(values))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How replicates add up to a variance."""

    kind: str
    factors: Array  # (R,) by which the squared deviation of each counts
    mse: bool  # whether deviations are from the full estimate, not from the replicates' mean


def plan_replicates(
    kind: str,
    count: int,
    *,
    rho: float | None = None,
    rscales: Sequence[float] | None = None,
    mse: bool = True,
) -> Scheme:
    """Return how `count` replicates of a kind add up.

    Raises:
        ArgumentError: a kind that is not known, Fay's without rho, JKn without rscales, or either
            of these where they mean nothing.
    """
    if kind not in TYPES:
        raise ArgumentError(f"method={kind!r} is not known; choose one of {', '.join(TYPES)}")
    if count < 2:
        raise ArgumentError(
            f"{count} replicate has no variance; give the columns of all replicates"
        )
    if (kind == "Fay") != (rho is not None):
        raise ArgumentError(
            f"method={kind!r} with rho={rho!r}: Fay's replicates, and they alone, have a rho, "
            "which is 0.5 in PISA"
        )
    if rho is not None and not 0.0 <= rho < 1.0:
        raise ArgumentError(f"rho={rho!r} must lie from 0 to below 1")
    if (kind == "JKn") != (rscales is not None):
        raise ArgumentError(
            f"method={kind!r} {'without' if rscales is None else 'with'} rscales: JKn's "
            "replicates, and they alone, have one each, (n_h - 1) / n_h"
        )
    given = np.ones(count) if rscales is None else np.asarray(rscales, dtype=np.float64)
    if given.shape != (count,) or not (given > 0.0).all():
        raise ArgumentError(
            f"rscales has {given.size} numbers for {count} replicates; give a positive one for each"
        )
    scale = {
        "BRR": 1.0 / count,
        "Fay": 1.0 / (count * (1.0 - (rho or 0.0)) ** 2),
        "JK1": (count - 1.0) / count,
        "bootstrap": 1.0 / (count - 1.0),
    }.get(kind, 1.0)
    return Scheme(kind, scale * given, mse)


def combine_replicates(full: Array, replicates: Array, scheme: Scheme) -> Array:
    """Return the covariance (c, c) of estimates (c,) from those of R replicates (R, c)."""
    centre = full if scheme.mse else replicates.mean(axis=0)
    gaps = replicates - centre
    return np.asarray(gaps.T @ (scheme.factors[:, None] * gaps))


def tabulate_replicates[E: Estimate | LevelsEstimate](
    fit: E,
    refit: Callable[[int], E],
    scheme: Scheme,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """Return the estimates with standard errors by replicates, one row per parameter.

    Columns `estimate, se, lower, upper`, 95 % intervals as of other fits: normal for fixed effects
    and covariances, by logarithms for variances and SDs, by Fisher's z for correlations.
    `attrs["replicates"]` has the estimates of each replicate, `attrs["covariance"]` that of all.

    Args:
        fit: by the full weights.
        refit: returns the fit by replicate r, counted from 0.
        scheme: how replicates add up.
        progress: called with (done, replicates).

    Raises:
        ArgumentError: a replicate whose fit has not converged.
    """
    import pandas as pd

    count = len(scheme.factors)
    names = fit.estimates.index
    found = np.empty((count, len(names)))
    for r in range(count):
        again = refit(r)
        if not again.converged:
            raise ArgumentError(
                f"the fit by replicate {r + 1} of {count} has not converged ({again.advice}); look "
                "at its weights"
            )
        found[r] = again.estimates["estimate"].to_numpy()
        if progress is not None:
            progress(r + 1, count)
    full = fit.estimates["estimate"].to_numpy()
    covariance = combine_replicates(full, found, scheme)
    errors = np.sqrt(np.diag(covariance))
    rows = [
        (value, se, *_bound(parameter, value, se))
        for parameter, value, se in zip(fit.parameters, full.tolist(), errors.tolist(), strict=True)
    ]
    table = pd.DataFrame(rows, names, ["estimate", "se", "lower", "upper"])
    table.attrs["method"] = scheme.kind
    table.attrs["replicates"] = pd.DataFrame(found, columns=names)
    table.attrs["covariance"] = pd.DataFrame(covariance, names, names)
    return table


def correct_errors[E: Estimate | LevelsEstimate](
    fit: E, table: "pd.DataFrame", errors: ReplicateWeights
) -> E:
    """Return a fit with the standard errors of `tabulate_replicates` by replicate weights."""
    covariance = table.attrs["covariance"]
    parts = []
    free = [str(each) for part in fit.parts for each in part.structure.variances]
    for names in (fit.moments.fixed, [*free, str(RESIDUAL)]):
        parts.append(covariance.loc[list(names), list(names)].to_numpy())
    return replace(
        fit,
        beta_cov=parts[0],
        variance_cov=parts[1],
        errors=errors.sentence,
        errors_code=errors.code,
    )


def _bound(parameter: Parameter, value: float, se: float) -> tuple[float, float]:
    """Return the 95 % interval on the scale that the parameter's intervals have."""
    if parameter.is_positive:
        lower, upper = log_interval(value, se)
        return lower, upper
    if parameter.is_correlation and abs(value) < 1.0:
        half = Z95 * se / (1.0 - value**2)
        return float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half))
    if parameter.is_correlation:
        return np.nan, np.nan
    return value - Z95 * se, value + Z95 * se
