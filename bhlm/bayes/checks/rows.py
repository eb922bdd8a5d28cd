"""Checks of a posterior against the rows: leave-one-row-out, its PIT, replicated rows.

In group j, r = y - X beta has the covariance sigma^2 H, H = I + Z Psi Z'. Given the other rows of
its group, with the random effects integrated out, row i is normal with

    mean     y_i - [H^-1 r]_i / [H^-1]_ii
    variance sigma^2 / [H^-1]_ii

and, with K = root root' = I + lam' Z'Z lam, a_i = root^-1 lam' z_i and s = root^-1 lam' Z'r,

    [H^-1 r]_i = r_i - a_i's        [H^-1]_ii = 1 - a_i'a_i.

Unlike densities given u, which the row itself has drawn towards it, these vary little between
draws, so that importance sampling seldom fails. Source: Rasmussen & Williams (2006), Gaussian
Processes for Machine Learning, eq. 5.12; Vehtari, Mononen, Tolvanen, Sivula & Winther (2016),
JMLR 17(103), for importance sampling with latent variables integrated out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy.special import ndtr
from scipy.stats import kstest

from bhlm.bayes.checks.importance import log_mean, score_units
from bhlm.bayes.checks.loo import (
    HELD,
    Loo,
    assemble,
    check_likelihood,
    khat_threshold,
    relative_efficiency,
)
from bhlm.bayes.checks.predictive import OUTSIDE, check_seed, thin_draws
from bhlm.bayes.draws import Draws, Posterior, flatten_draws, stream_effects
from bhlm.design.kernels import kernel
from bhlm.layout import align_columns, align_left, align_right, format_fixed, wrap
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.marginal import LOG_2PI
from bhlm.likelihood.parameters import name_group_dimension, name_response
from bhlm.likelihood.profiled import factor_group
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.markup import ShownAsText
from bhlm.moments.cells import CellMoments, CellRows
from bhlm.moments.groups import place_own_rows
from bhlm.moments.moments import INTERCEPT, Moments

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

CHECK = 5  # separates these seeds from the fit's other streams
# Lower tails of the PIT that are shown beside what they should be.
SHARES = (0.005, 0.025, 0.25, 0.5, 0.75, 0.975, 0.995)
WIDTH = 80


@dataclass(frozen=True, slots=True, repr=False)
class RowCheck(ShownAsText):
    """The rows beside their leave-one-out predictive distribution, and replicates of them.

    `loo.table["pit"]` holds each row's probability, given all other rows, of a smaller response
    than it has: uniform if the model describes rows of known groups.
    """

    fit: Posterior
    loo: Loo
    draws: int
    seed: int
    statistic: float  # largest gap between the distribution of the PIT and the uniform
    p: float  # of that gap, by Kolmogorov and Smirnov
    # group (n,), X (n, p), Z (n, q), y (n,); of several factors theirs
    rows: tuple[Array, Array, Array, Array] | CellRows

    @property
    def outside(self) -> tuple[str, ...]:
        """What is not as the model says, in a sentence."""
        if self.p >= OUTSIDE:
            return ()
        pit = self.loo.table["pit"].to_numpy()
        inner = float(np.mean((pit > 0.25) & (pit < 0.75)))
        tails = float(np.mean((pit < 0.025) | (pit > 0.975)))
        return (
            f"the leave-one-out PIT of the rows is not uniform (largest gap {self.statistic:.3f}, "
            f"p = {self.p:.2g}): {100 * inner:.1f} % lie in the middle half and {100 * tails:.1f} "
            "% in the outer 5 %, so rows are not normal about their group as the model says",
        )

    @property
    def ok(self) -> bool:
        """Whether nothing is outside."""
        return not self.outside

    @property
    def data(self) -> "xr.DataTree":
        """posterior_predictive and observed_data of the response (chain, draw, row), for ArviZ.

        Replicates have the group effects of their draw. They are drawn when asked for.
        """
        from arviz_base import from_dict

        picked, shape = thin_draws(self.fit, self.draws)
        y, name = self.rows[3], name_response(self.fit.moments.response)
        replicates = self._replicate(picked)
        return from_dict(
            {
                "posterior_predictive": {name: replicates.reshape(*shape, -1)},
                "observed_data": {name: y},
            },
            coords={"row": self.loo.elpd_i["row"].to_numpy()},
            dims={name: ["row"]},
        )

    def _replicate(self, picked: Array) -> Array:
        """Return replicates (D, n) at some draws."""
        fit = cast("Draws", self.fit)
        labels, x, z, y = cast("tuple[Array, Array, Array, Array]", self.rows)
        at = place_own_rows(fit.moments, labels, y)
        return replicate_rows(fit, at, x, z, picked=picked, seed=self.seed)

    def summary(self) -> str:
        """Return the distribution of the PIT and the verdict as text."""
        pit = self.loo.table["pit"].to_numpy()
        cells = [["PIT below", "share of rows"]]
        cells += [[f"{x:g}", format_fixed(float(np.mean(pit < x)), 4)] for x in SHARES]
        lines = align_columns(cells, sides=(align_left, align_right), gap="  ")
        rule = "-" * max(map(len, lines))
        sentences = [f"* {sentence}" for sentence in self.outside] or [
            f"The PIT is uniform as far as can be seen (largest gap {self.statistic:.3f}, "
            f"p = {self.p:.2f})."
        ]
        return "\n".join(
            [
                f"Leave-one-row-out predictive check: {len(pit)} rows, {self.loo.n_samples} draws",
                rule, lines[0], rule, *lines[1:], rule,
                *(line for text in sentences for line in wrap(text, WIDTH, indent=2)),
            ]
        )  # fmt: skip


def check_rows(
    fit: Draws,
    labels: Array,
    x: Array,
    z: Array,
    y: Array,
    *,
    draws: int = 100,
    seed: int | None = None,
    index: "pd.Index | None" = None,
) -> RowCheck:
    """Return the rows beside their predictive distribution given all other rows.

    Args:
        fit: the posterior.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        y: the response (n,).
        draws: for which `data` replicates the rows.
        seed: of the replicates; None takes the fit's.
        index: what the rows are called (n,); None numbers them.

    Raises:
        ArgumentError: draws from the prior alone, a negative seed, no draws.
        DataError: other rows than those of the fit.
    """
    seed = check_seed(fit, seed)
    picked, _ = thin_draws(fit, draws)
    loo = leave_out_rows(fit, labels, x, z, y, index=index)
    found = kstest(loo.table["pit"], "uniform")
    return RowCheck(
        fit=fit, loo=loo, draws=len(picked), seed=seed, statistic=float(found.statistic),
        p=float(found.pvalue), rows=(labels, x, z, y),
    )  # fmt: skip


def leave_out_rows(
    fit: Draws,
    labels: Array,
    x: Array,
    z: Array,
    y: Array,
    *,
    held: int = HELD,
    index: "pd.Index | None" = None,
) -> Loo:
    """Return the elpd of each row given all others, the rest of its group among them.

    `table` has one row per row, in their order: the row's group; `elpd`, `p`, `mcse` and `khat` as
    for groups; `refitted`, which is never so; `pit`, the probability of a smaller response. A refit
    is a run of the sampler, and the rest of a row's group leaves k-hat large for few of them.

    Args:
        fit: the posterior.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        y: the response (n,).
        held: numbers that are worked on at a time.
        index: what the rows are called (n,); None numbers them.

    Raises:
        ArgumentError: draws from the prior alone.
        DataError: other rows than those of the fit.
    """
    check_likelihood(fit)
    at = place_own_rows(fit.moments, labels, y)
    return score_rows(
        fit, stream_rows(fit, at, x, z, y, held=held), y, groups={fit.moments.group: labels},
        index=index, otherwise=", or leave out their groups, which post.loo() refits",
    )  # fmt: skip


def score_rows(
    fit: Posterior,
    parts: Iterable[tuple[Array, Array, Array]],
    y: Array,
    *,
    groups: Mapping[str, Array],
    index: "pd.Index | None" = None,
    otherwise: str = "",
) -> Loo:
    """Return the elpd of each row given all others, with its PIT.

    Args:
        fit: the posterior.
        parts: what `stream_rows` yields.
        y: the response (n,).
        groups: factor -> each row's label (n,); models with the same first ones may be compared.
        index: what the rows are called (n,); None numbers them.
        otherwise: what else may be done about rows that cannot be trusted.
    """
    import pandas as pd

    if index is None:
        index = pd.RangeIndex(len(y), name="row")
    reff = relative_efficiency(fit)
    elpd, full, mcse, khat, pit = (np.empty(len(y)) for _ in range(5))
    for rows, gap, log_sd in parts:
        loglik = -0.5 * (gap**2 + LOG_2PI) - log_sd
        full[rows] = log_mean(loglik)
        elpd[rows], mcse[rows], khat[rows], log_weights = score_units(loglik, reff)
        pit[rows] = np.sum(np.exp(log_weights) * ndtr(gap), axis=1)
    threshold = khat_threshold(fit)
    bad = np.flatnonzero(~(khat <= threshold))
    failures = []
    if len(bad):
        shown = ", ".join(map(str, index[bad[:5]].tolist()))
        failures.append(
            f"k-hat is above {threshold:.2f} for {len(bad)} of {len(y)} rows ({shown}), whose elpd "
            "may be far off; no row is refitted, for that is a run of the sampler each: look at "
            f"these rows{otherwise}"
        )
    loo = assemble(
        fit, "row", elpd, full=full, mcse=mcse, khat=khat,
        refitted=np.zeros(len(y), dtype=bool), labels=next(iter(groups.values())),
        observed=y[:, None], failures=failures, index=index,
    )  # fmt: skip
    for at, (group, labels) in enumerate(groups.items()):
        columns = (*loo.table.columns, "pit")
        loo.table.insert(at, name_group_dimension(group, taken=columns), labels)
    loo.table["pit"] = np.clip(pit, 0.0, 1.0)
    return loo


def stream_rows(
    fit: Draws,
    at: Array,
    x: Array,
    z: Array,
    y: Array,
    *,
    held: int = HELD,
    picked: Array | None = None,
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield some rows (m,), and at each of N draws (m, N), given the other rows of their group,

    the gap between the response and its mean, in SDs, and the log SD.

    Args:
        fit: the posterior.
        at: where each row's group stands (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        y: the response (n,).
        held: numbers of each that are yielded at a time.
        picked: positions of the N draws among the flattened ones; None takes all.
    """
    white = fit.white
    parameters = flatten_draws(fit) if picked is None else flatten_draws(fit).take(picked)
    beta, lam, sigma = whiten_parameters(white, *parameters)
    beta, lam, sigma = (np.ascontiguousarray(values) for values in (beta, lam, sigma))
    size = max(1, held // len(sigma))
    order = np.argsort(at, kind="stable")
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        w = whiten_rows(white, fit.moments, x[rows], z[rows], y[rows])
        gap, log_sd = np.empty((2, len(sigma), len(rows)))
        fill_rows(white.blocks, at[rows], w, lam, beta, sigma, gap, log_sd)
        yield rows, gap.T, log_sd.T + np.log(white.scale)


def replicate_rows(fit: Draws, at: Array, x: Array, z: Array, *, picked: Array, seed: int) -> Array:
    """Return replicated responses (D, n) at some draws, with the group effects of each draw.

    Args:
        fit: the posterior.
        at: where each row's group stands (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        picked: positions of D draws among the flattened ones.
        seed: of the residuals.
    """
    beta, _, sigma = flatten_draws(fit)
    rng = np.random.default_rng([seed, CHECK])
    out = beta[picked] @ x.T + sigma[picked, None] * rng.standard_normal((len(picked), len(at)))
    for members, u in stream_effects(fit, np.arange(fit.moments.n_groups)):
        rows = np.flatnonzero(np.isin(at, members))
        inside = u[picked][:, np.searchsorted(members, at[rows])]
        out[:, rows] += np.einsum("dib,ib->di", inside, z[rows])
    return out


@kernel
def fill_rows(
    blocks: Array,
    at: Array,
    w: Array,
    lam: Array,
    beta: Array,
    sigma: Array,
    gap: Array,
    log_sd: Array,
) -> None:
    """Write gaps in SDs and log SDs (N, m) of whitened rows w (m, k), sorted by their group."""
    m, k = w.shape
    q = lam.shape[1]
    p = beta.shape[1]
    root = np.empty((q, q))
    half = np.empty((q, k))
    s = np.empty(q)
    a = np.empty(q)
    for d in range(len(lam)):
        log_sigma = np.log(sigma[d])
        group = -1
        for i in range(m):
            if at[i] != group:
                group = at[i]
                factor_group(blocks[group], q, lam[d], root, half)
                for b in range(q):
                    s[b] = half[b, k - 1]
                    for c in range(p):
                        s[b] -= half[b, q + c] * beta[d, c]
            r = w[i, k - 1]
            for c in range(p):
                r -= w[i, q + c] * beta[d, c]
            left = 1.0
            for b in range(q):
                value = 0.0
                for c in range(q):
                    value += lam[d, c, b] * w[i, c]
                for c in range(b):
                    value -= root[b, c] * a[c]
                a[b] = value / root[b, b]
                left -= a[b] * a[b]
                r -= a[b] * s[b]
            gap[d, i] = r / (sigma[d] * np.sqrt(left))
            log_sd[d, i] = log_sigma - 0.5 * np.log(left)


def whiten_rows(
    white: Whitened | WhitenedCells,
    moments: Moments | CellMoments,
    x: Array,
    z: Array,
    y: Array,
) -> Array:
    """Return [Z~ X~ y~] (m, k) of rows, in the columns of the whitened cross-products.

    X and y are taken about the grand means where there is an intercept, which keeps the digits
    that large column means would cost.
    """
    centre, mean_y = np.zeros(white.p), 0.0
    if INTERCEPT in moments.fixed:
        grand = moments.n @ moments.mean / moments.n.sum()
        means = dict(zip(moments.columns, grand.tolist(), strict=True)) | {INTERCEPT: 1.0}
        centre = np.array([means[name] for name in moments.fixed])
        mean_y = float(grand[-1])
    inner, offset = x - centre, centre @ white.fixed
    rounding = 8 * np.finfo(float).eps * (np.abs(centre) @ np.abs(white.fixed))
    left = (y - mean_y) - inner @ white.ols - (centre @ white.ols - mean_y)
    return np.column_stack(
        [
            z @ white.basis,
            inner @ white.fixed + np.where(np.abs(offset) < rounding, 0.0, offset),
            left / white.scale,
        ]
    )
