"""Leave-one-group-out predictive density of a posterior, by which models are compared.

A group's log-likelihood has its random effects integrated out exactly, so leaving the group out
asks how well a group that was never seen is predicted. Weights proportional to 1 / p(y_j | theta),
Pareto-smoothed, turn the draws into draws of the posterior without group j; where their shape
k-hat says that they cannot be trusted, the posterior without the group is sampled anew.
Source: Vehtari, Gelman & Gabry (2017), Statistics and Computing 27, 1413-1432; Vehtari, Simpson,
Gelman, Yao & Gabry (2024), JMLR 25(72), for k-hat.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from arviz_stats import ELPDDataLOO

from bhlm.bayes.checks.group_refit import predict_left_out
from bhlm.bayes.checks.importance import log_mean, score_units
from bhlm.bayes.draws import Draws, Posterior, flatten_draws
from bhlm.bayes.mixing import measure_mean
from bhlm.errors import ArgumentError, DataError, check_arguments
from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_fixed,
    name_some,
    name_unit,
    show_name,
    wrap,
)
from bhlm.likelihood.marginal import group_logliks
from bhlm.likelihood.parameters import name_group_dimension
from bhlm.markup import ShownAsText
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
type Progress = Callable[[int, int], None]
WEIGHTS = ("stacking", "bb-pseudo-bma", "pseudo-bma")  # of `compare_posteriors`

# Log-likelihoods that are in memory at a time (64 MB).
HELD = 2**23
# Shares of groups' moments that differ by less are one table, reduced in another order.
SAME = 1e-8
# Above it the weights' variance does not exist, and a refit is better where it is cheap: as long as
# groups x draws of all of them, warm-up included, stay below.
DOUBTFUL = 0.5
CHEAP = 2_000_000
WIDTH = 80


@dataclass(kw_only=True, repr=False, eq=False)
class Loo(ShownAsText, ELPDDataLOO):
    """Leave-one-out elpd, as ArviZ's functions take it, with its pointwise table.

    The base class is ArviZ's, which is neither frozen nor slotted. `elpd`, `se` and `p` (the
    effective number of parameters) are totals; `elpd_i` and `pareto_k` are the columns of `table`
    as xarray, but with a k-hat of 0 where the posterior was sampled anew.
    """

    unit: str  # "group" or "row"
    table: "pd.DataFrame"  # one row per unit: elpd, p, mcse, khat, refitted
    response: str
    labels: Array  # (m,) of the groups, or of each row's group
    observed: Array  # (m, c) what tells whether two models describe one table
    failures: tuple[str, ...]  # one sentence each: what cannot be trusted, and the next step

    @property
    def trusted(self) -> bool:
        """Whether no failure stands in the way of the numbers."""
        return not self.failures

    def summary(self) -> str:
        """Return the totals, the k-hats and the verdict as text."""
        khat = self.table["khat"].to_numpy()
        cells = [
            ["", "Estimate", "SE"],
            ["elpd", format_fixed(self.elpd, 2), format_fixed(self.se, 2)],
            ["p (effective)", format_fixed(self.p, 2), ""],
            ["-2 elpd", format_fixed(-2.0 * self.elpd, 2), format_fixed(2.0 * self.se, 2)],
        ]
        mcse = float(np.sqrt(np.sum(self.table["mcse"] ** 2)))
        lines = align_columns(cells, sides=(align_left, align_right, align_right), gap="   ")
        rule = "-" * max(map(len, lines))
        bad = int(np.sum(~(khat <= self.good_k)))
        refitted = int(self.table["refitted"].sum())
        return "\n".join(
            [
                f"Leave-one-{self.unit}-out: {self.n_data_points} {self.unit}s, "
                f"{self.n_samples} draws",
                rule, lines[0], rule, *lines[1:], rule,
                *wrap(
                    f"Pareto k-hat: largest {format_fixed(float(np.max(khat)), 2)}; {bad} above "
                    f"{self.good_k:.2f}; {refitted} with an exact refit. Monte Carlo "
                    f"error of elpd: {format_fixed(mcse, 2)}.",
                    WIDTH,
                ),
                *(line for text in self.failures for line in wrap(f"* {text}", WIDTH, indent=2)),
            ]
        )  # fmt: skip


def leave_out_groups(
    fit: Draws,
    *,
    refit: bool = True,
    threshold: float | None = None,
    progress: Progress | None = None,
    held: int = HELD,
) -> Loo:
    """Return the elpd of each group given the others.

    `table` is indexed by the group, with columns `elpd`, `p`, `mcse` (the Monte Carlo error of
    elpd), `khat` and `refitted`. k-hat is that of the importance weights, also where it led to a
    refit: then elpd_j is the log mean of the likelihood of group j over the posterior of the other
    groups under the same priors; see `bhlm.bayes.checks.group_refit` for a group far from them.

    Args:
        fit: the posterior.
        refit: sample anew without each group whose k-hat exceeds the threshold, and above 0.5
            without as many as is cheap, the worst first.
        threshold: of k-hat; None is min(0.7, 1 - 1/log10(draws)).
        progress: called with (done, refits) after each refit.
        held: log-likelihoods that are worked on at a time.

    Raises:
        ArgumentError: draws from the prior alone, or fewer than two groups.
    """
    moments = fit.moments
    check_likelihood(fit)
    if moments.n_groups < 2:
        raise ArgumentError(
            f"the fit has one '{moments.group}', and without it nothing is left; leaving groups "
            "out needs at least 2"
        )
    reff = relative_efficiency(fit)
    elpd, full, khat, mcse = (np.empty(moments.n_groups) for _ in range(4))
    for part, loglik in _stream_logliks(fit, held):
        full[part] = log_mean(loglik)
        elpd[part], mcse[part], khat[part], _ = score_units(loglik, reff)
    refitted = np.zeros(moments.n_groups, dtype=bool)
    failures = []
    threshold = khat_threshold(fit) if threshold is None else threshold
    bad = np.flatnonzero(~(khat <= threshold))
    settings = fit.settings
    cost = moments.n_groups * settings.chains * (settings.draws + (settings.tune or 0))
    chosen = bad[:0]
    if refit:
        chosen = choose_refits(khat, threshold=threshold, affordable=CHEAP // cost)
    for done, j in enumerate(chosen, start=1):
        left_out = predict_left_out(fit, int(j))
        elpd[j], mcse[j], refitted[j] = left_out.elpd, left_out.mcse, True
        if left_out.failure:
            label = show_name(moments.groups[j])
            failures.append(f"leaving out {moments.group} {label}: {left_out.failure}")
        if progress is not None:
            progress(done, len(chosen))
    if len(bad) and not refit:
        failures.append(
            f"k-hat is above {threshold:.2f} for "
            f"{name_unit(moments.group, name_some(moments.groups[bad].tolist()))}, so "
            f"{'its' if len(bad) == 1 else 'their'} elpd may be far off, unless the posterior is "
            f"sampled anew without {'it' if len(bad) == 1 else 'each'} (refit)"
        )
    return assemble(
        fit, "group", elpd, full=full, mcse=mcse, khat=khat, refitted=refitted,
        labels=moments.groups, observed=_fingerprint(moments), failures=failures,
    )  # fmt: skip


def choose_refits(khat: Array, *, threshold: float, affordable: int) -> Array:
    """Return the units (r,) to refit, worst first: all above the threshold, more if affordable.

    Args:
        khat: (m,).
        threshold: above which importance sampling is not trusted at all.
        affordable: how many refits are, of units with k-hat above 1/2.
    """
    order = np.argsort(-np.nan_to_num(khat, nan=np.inf), kind="stable")
    must, may = (int(np.sum(~(khat <= limit))) for limit in (threshold, DOUBTFUL))
    return order[: max(must, min(may, affordable))]


def assemble(
    fit: Posterior,
    unit: str,
    elpd: Array,
    *,
    full: Array,
    mcse: Array,
    khat: Array,
    refitted: Array,
    labels: Array,
    observed: Array,
    failures: list[str],
    index: "pd.Index | None" = None,
) -> Loo:
    """Return the Loo of m units.

    Args:
        fit: the posterior.
        unit: "group" or "row".
        elpd: log predictive densities (m,) given the other units.
        full: the same (m,) given all units.
        mcse: Monte Carlo errors of elpd (m,).
        khat: of the importance weights (m,).
        refitted: whether a refit took their place (m,).
        labels: of the groups (m,), for rows each one's.
        observed: what identifies the data (m, c).
        failures: what cannot be trusted.
        index: what rows are called (m,); groups have their labels.
    """
    import pandas as pd
    import xarray as xr

    if not fit.converged:
        failures = ["the draws of the posterior failed the convergence verdict", *failures]
    dimension = unit
    if index is None:
        assert isinstance(fit.moments, Moments | Patterns)
        dimension = name_group_dimension(fit.moments.group, taken=())
        index = pd.Index(labels, name=dimension)
    table = pd.DataFrame(
        {"elpd": elpd, "p": full - elpd, "mcse": mcse, "khat": khat, "refitted": refitted},
        index=index,
    )
    # Rows of which the index has several levels are numbered.
    flat = range(len(index)) if isinstance(index, pd.MultiIndex) else index
    coords = {dimension: np.asarray(flat)}
    good_k = khat_threshold(fit)
    shown = np.where(refitted, 0.0, khat)
    return Loo(
        elpd=float(elpd.sum()),
        se=float(np.sqrt(len(elpd) * np.var(elpd, ddof=1))),
        p=float(np.sum(full - elpd)),
        n_samples=int(np.prod(fit.shape)),
        n_data_points=len(elpd),
        scale="log",
        warning=bool(np.any(~(shown <= good_k))),
        good_k=good_k,
        elpd_i=xr.DataArray(elpd, dims=(dimension,), coords=coords, name="elpd"),
        pareto_k=xr.DataArray(shown, dims=(dimension,), coords=coords, name="khat"),
        unit=unit,
        table=table,
        response=fit.moments.response,
        labels=labels,
        observed=observed,
        failures=tuple(failures),
    )


@check_arguments
def compare_posteriors(
    fits: Mapping[str, Any], *, by: str = "group", method: str = "stacking"
) -> "pd.DataFrame":
    """Return ArviZ's comparison of models by leave-one-out elpd, one row per model, best first.

    Columns: `rank`, `elpd_diff` from the best and its standard error `dse`, `p_worse`,
    `diag_diff` and `diag_elpd` (what to beware of), `p`, `elpd`, `se` and `weight`.

    Args:
        fits: model name -> BayesFit or its `loo()`; by="row", what `model.loo_rows(fit)` returns.
        by: "group" asks how a new group is predicted, "row" how a new row of a known group is.
        method: of the weights: "stacking", "bb-pseudo-bma" or "pseudo-bma".

    Raises:
        ArgumentError: fewer than two models, or by rows of fits, which have none.
        DataError: the models do not describe the same response of the same rows.
    """
    from arviz_stats import compare

    if by not in ("group", "row"):
        raise ArgumentError(f"by={by!r} is not known; choose 'group' or 'row'")
    if method not in WEIGHTS:
        raise ArgumentError(f"method={method!r} is not known; choose one of {', '.join(WEIGHTS)}")
    if len(fits) < 2:
        raise ArgumentError(f"{len(fits)} models cannot be compared; give at least two")
    scores = {name: _score(name, fit, by) for name, fit in fits.items()}
    (first, reference), *others = scores.items()
    for name, score in others:
        _check_same(first, reference, name, score)
    return compare(scores, method=method, round_to="none")


def _score(name: str, fit: Any, by: str) -> Loo:
    if isinstance(fit, Loo) and fit.unit == by:
        return fit
    if isinstance(fit, Draws) and by == "group":
        return leave_out_groups(fit)
    given = f"leave-one-{fit.unit}-out" if isinstance(fit, Loo) else type(fit).__name__
    wanted = "model.loo_rows(fit)" if by == "row" else "a BayesFit or fit.loo()"
    raise ArgumentError(f"'{name}' is {given}, which has no elpd by {by}; give {wanted}")


def _check_same(first: str, one: Loo, second: str, other: Loo) -> None:
    """Refuse models of different data."""
    pair = f"'{first}' and '{second}'"
    if one.response != other.response:
        raise DataError(
            f"{pair} have different responses, '{one.response}' and '{other.response}', whose "
            "densities cannot be compared; model the same response"
        )
    if not np.array_equal(one.labels, other.labels):
        raise DataError(
            f"{pair} describe different {one.unit}s ({len(one.labels)} and {len(other.labels)}); "
            "fit both to the same rows, without those that miss a value of either"
        )
    scale = np.max(np.abs(one.observed), axis=0)
    gap = np.abs(one.observed - other.observed) / np.where(scale > 0.0, scale, 1.0)
    differs = np.flatnonzero(np.any(gap > SAME, axis=1))
    if len(differs):
        where = f"row {differs[0]}" if one.unit == "row" else f"group {one.labels[differs[0]]!s}"
        raise DataError(
            f"{pair} have different values of '{one.response}' in {where}; fit both to the same "
            "rows, without those that miss a value of either"
        )


def _fingerprint(moments: Moments) -> Array:
    """Return rows, mean and sum of squares of the response by group (J, 3)."""
    return np.column_stack([moments.n, moments.mean[:, -1], moments.cross[:, -1, -1]])


def check_likelihood(fit: Posterior) -> None:
    """Refuse draws that do not know the data.

    Raises:
        ArgumentError: draws from the prior alone.
    """
    if fit.settings.prior_only:
        raise ArgumentError(
            "the fit was sampled with prior_only=True and has not seen the response; sample with "
            "the likelihood"
        )


def khat_threshold(fit: Posterior) -> float:
    """Return min(0.7, 1 - 1/log10(draws)), above which importance sampling is not trusted."""
    return float(min(0.7, 1.0 - 1.0 / np.log10(np.prod(fit.shape))))


def relative_efficiency(fit: Posterior) -> float:
    """Return the mean effective sample size of the parameters, per draw; 1 for one chain."""
    stack = np.stack(list(fit.draws.values()))
    if stack.shape[1] == 1:
        return 1.0
    return float(np.nanmean(measure_mean(stack))) / stack[0].size


def _stream_logliks(fit: Draws, held: int) -> Iterator[tuple[slice, Array]]:
    """Yield some groups and their log-likelihoods (m, N) at all N draws."""
    parameters = flatten_draws(fit)
    size = max(1, held // len(parameters.sigma))
    for start in range(0, fit.moments.n_groups, size):
        part = slice(start, start + size)
        white = replace(fit.white, blocks=fit.white.blocks[part])
        yield part, group_logliks(white, fit.moments.n[part], parameters).T
