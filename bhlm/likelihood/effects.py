"""Random effects given the parameters: empirical Bayes (BLUP) and exact posterior draws.

Write G = root root' and lam = root / sigma in the whitened basis. A priori u_j = root v_j with
v_j ~ N(0, I); given y, v_j ~ N(K_j^-1 lam' Z_j'(y_j - X_j beta) / sigma, K_j^-1), with
K_j = I + lam' Z_j'Z_j lam. Source: Raudenbush & Bryk (2002), eq. 3.56-3.59.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.parameters import Parameters, name_apart
from bhlm.likelihood.profiled import factor_group
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.moments.moments import Moments
from bhlm.processes import share_out

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.moments.patterns import Patterns

Array = np.ndarray


@kernel
def _draw(
    blocks: Array, lam: Array, beta: Array, sigma: Array, root: Array, noise: Array, out: Array
) -> None:
    """Write root K^-T/2 (K^-1/2 lam'Z'r / sigma + noise) into `out` (draws, J, q)."""
    n_groups, k, _ = blocks.shape
    q = lam.shape[1]
    p = beta.shape[1]
    half_root = np.empty((q, q))
    half = np.empty((q, k))
    v = np.empty(q)
    for d in range(len(lam)):
        for j in range(n_groups):
            factor_group(blocks[j], q, lam[d], half_root, half)
            for a in range(q):
                value = half[a, k - 1]
                for i in range(p):
                    value -= half[a, q + i] * beta[d, i]
                v[a] = value / sigma[d] + noise[d, j, a]
            for a in range(q - 1, -1, -1):
                for b in range(a + 1, q):
                    v[a] -= half_root[b, a] * v[b]
                v[a] /= half_root[a, a]
            for a in range(q):
                value = 0.0
                for b in range(q):
                    value += root[d, a, b] * v[b]
                out[d, j, a] = value


def draw_effects(white: Whitened, parameters: Parameters, *, rng: np.random.Generator) -> Array:
    """Return one exact draw of u (draws, J, q) for each draw of the parameters.

    Args:
        white: whitened cross-products of the J groups.
        parameters: in as many draws.
        rng: the source of the normal noise.
    """
    shape = (len(parameters.beta), len(white.blocks), white.q)
    return _spread(white, parameters, rng.standard_normal(shape))


def predict_effects(white: Whitened, beta: Array, root: Array, sigma: float) -> tuple[Array, Array]:
    """Return the conditional means (J, q) and covariances (J, q, q) of u given the parameters.

    The means are the empirical-Bayes estimates (BLUPs) when the parameters are estimates. A
    singular G is allowed: a direction that has vanished has effects of exactly zero.
    """
    zero = np.zeros((1, len(white.blocks), white.q))
    once = Parameters(beta[None], root[None], np.array([sigma]))
    means = _spread(white, once, zero)[0]
    _, lam, _ = whiten_parameters(white, beta, root, sigma)
    q = white.q
    k_matrix = np.eye(q) + lam.T @ white.blocks[:, :q, :q] @ lam
    return means, np.asarray(root @ np.linalg.inv(k_matrix) @ root.T)


def regress_groups(
    white: Whitened, full: Array, *, beta: Array, sigma2: float
) -> tuple[Array, Array]:
    """Return the least-squares fit of y_j - X_j beta on Z_j, for the groups that have one.

    That is the coefficients (J', q) and their sampling variances (J', q), the diagonal of
    sigma^2 (Z_j'Z_j)^-1, of the J' groups in `full`.

    Args:
        white: whitened cross-products.
        full: which groups (J,) have a Z_j of full rank.
        beta: fixed effects (p,), in the columns as given.
        sigma2: the residual variance.
    """
    q, turn = white.q, white.basis
    blocks = white.blocks[full]
    gram = np.linalg.inv(blocks[:, :q, :q])
    whitened = np.linalg.solve(white.fixed, (beta - white.ols) / white.scale)
    left = blocks[:, :q, -1] - blocks[:, :q, q:-1] @ whitened
    u = white.scale * np.einsum("ia,jab,jb->ji", turn, gram, left)
    return u, sigma2 * np.einsum("ia,jab,ib->ji", turn, gram, turn)


def _spread(white: Whitened, parameters: Parameters, noise: Array) -> Array:
    whitened_beta, lam, whitened_sigma = whiten_parameters(white, *parameters)
    out = np.empty_like(noise)
    lam, root = np.ascontiguousarray(lam), np.ascontiguousarray(parameters.root)
    beta, sigma = np.ascontiguousarray(whitened_beta), np.ascontiguousarray(whitened_sigma)

    def work(d: slice) -> None:
        _draw(white.blocks, lam[d], beta[d], sigma[d], root[d], noise[d], out[d])

    share_out(work, len(lam), each=len(white.blocks))
    return out


def tabulate_effects(
    moments: "Moments | Patterns", values: Mapping[str, Array], *, group: str | None = None
) -> "pd.DataFrame":
    """Return one row per group and coefficient: label, `coefficient`, and each of `values`.

    Args:
        moments: of the fit.
        values: column -> what it holds (J, q).
        group: what the column of labels is called; None takes the name in the data, followed by
            "of the data" where one of the columns is called so.
    """
    import pandas as pd

    group = moments.group if group is None else group
    (group,) = name_apart([group], table=("coefficient", *values))
    n_groups, q = moments.n_groups, len(moments.random)
    return pd.DataFrame(
        {
            group: np.repeat(moments.groups, q),
            "coefficient": list(moments.random) * n_groups,
        }
        | {name: array.ravel() for name, array in values.items()}
    )
