"""All groups at one set of parameters, or at many, without Python between: for samplers."""

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.lattice import SCORE, Integrated, Rows, integrate

Array = np.ndarray


@kernel
def move_rows(rows: Rows, beta: Array, lam: Array) -> Rows:
    """Return the patterns at beta~ (p,) and lam (q, q), of those at zero, whose eta is the offset.

    Args:
        rows: the patterns at zero.
        beta: whitened fixed effects.
        lam: whitened covariance factor.
    """
    count, q = rows.z.shape
    eta, a = rows.eta.copy(), np.zeros((count, q))
    for i in range(count):
        for k in range(len(beta)):
            eta[i] += rows.x[i, k] * beta[k]
        for d in range(q):
            for e in range(q):
                a[i, e] += rows.z[i, d] * lam[d, e]
    return Rows(
        rows.link,
        rows.starts,
        rows.n,
        rows.y,
        rows.peak,
        rows.x,
        rows.z,
        rows.sign,
        rows.slack,
        eta,
        a,
    )


@kernel
def allocate(groups: int, q: int, m: int) -> Integrated:
    """Return arrays for what `integrate` writes; `m` is 0 where no score is wanted."""
    return Integrated(
        np.zeros(groups), np.zeros((groups, q)), np.zeros((groups, q, q)), np.zeros((groups, m)),
        np.zeros(groups), np.zeros((groups, q)),
    )  # fmt: skip


@light_kernel
def sum_groups(rows: Rows, modes: Array, steps: Array, score: Array) -> float:
    """Return the log-likelihood of all groups, and write its score (m,) by beta and lam.

    `modes` (J, q), where the search for each begins, stay as they are.
    """
    groups, q = modes.shape
    m = len(score)
    out = allocate(groups, q, m)
    none, wanted = np.zeros((0, 1 + q)), np.int64(SCORE)
    integrate(rows, modes.copy(), steps, np.arange(groups), wanted, out, np.zeros((m, m)), none)
    total = 0.0
    for k in range(m):
        score[k] = 0.0
    for j in range(groups):
        total += out.loglik[j]
        for k in range(m):
            score[k] += out.score[j, k]
    return total


@light_kernel
def draw_groups(
    rows: Rows,
    beta: Array,
    lam: Array,
    modes: Array,
    steps: Array,
    noise: Array,
    logliks: Array,
    draws: Array,
    errors: Array,
) -> None:
    """Write each group's log-likelihood, and a draw of its v, at N sets of parameters.

    Args:
        rows: the patterns at zero.
        beta: (N, p) whitened.
        lam: (N, q, q) whitened.
        modes: (J, q) where the first search begins; each later one begins where the last ended.
        steps: (J,) posterior SDs between nodes.
        noise: (N, J, 1 + q) uniform numbers.
        logliks: (N, J) that are written, by lattices at the modes.
        draws: (N, J, q) that are written, by lattices that are moved.
        errors: (N,) that are written: the sum over groups of what the two lattices differ by.
    """
    count, groups, q = draws.shape
    every, none, nothing = np.arange(groups), np.zeros((0, 1 + q)), np.zeros((0, 0))
    modes = modes.copy()
    zero = np.int64(0)  # a literal one would compile the kernel again
    for t in range(count):
        here = move_rows(rows, beta[t], lam[t])
        out = allocate(groups, q, zero)
        integrate(here, modes, steps, every, zero, out, nothing, none)
        for j in range(groups):
            logliks[t, j] = out.loglik[j]
        integrate(here, modes, steps, every, zero, out, nothing, noise[t])
        errors[t] = 0.0
        for j in range(groups):
            errors[t] += abs(out.loglik[j] - logliks[t, j])
            for d in range(q):
                draws[t, j, d] = out.draw[j, d]
