"""Whether the likelihood tells the variance components apart, by the rank of their information.

With V_j = v (I + Z_j psi Z_j') and P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1, the expected
information of the restricted likelihood is tr(P V_a P V_b) / 2 (Harville 1977, JASA 72, 320-338,
section 5), V_a being the derivative by an element of psi, or by log v. It does not depend on the
response, and its rank is the same at almost every psi: where it is full, an optimum on the boundary
is a maximum like any other, however the likelihood bends there.
"""

import numpy as np

from bhlm.likelihood.covariance import Structure, bound_eigenvalues
from bhlm.moments.sums import sum_blocks

Array = np.ndarray

# Information below this, per group, or correlated with that of other elements to this, is none.
# Not more than that: independent coefficients of 1 and of a year number keep 1e-10.
NO_INFORMATION = 1e-10
REPEATED = 1e-12


def expect_information(
    blocks: Array,
    q: int,
    structure: Structure,
    *,
    n: float,
    restricted: bool,
    psi: Array | None = None,
) -> Array:
    """Return the expected information (m + 1, m + 1) of the elements of psi and log v.

    Args:
        blocks: whitened cross-products (J, k, k) of [Z X y].
        q: the columns of Z.
        structure: of psi, m elements.
        n: rows.
        restricted: whether of the restricted likelihood.
        psi: (q, q) where to take it; None is the unit matrix.
    """
    zz, zx = blocks[:, :q, :q], blocks[:, :q, q:-1]
    xx = sum_blocks(blocks[:, q:-1, q:-1])
    shrunk = np.linalg.inv(np.eye(q) + (zz if psi is None else zz @ psi))
    # Z_j'V_j^-1 Z_j and Z_j'V_j^-1 X_j at v = 1
    inner, outer = shrunk @ zz, shrunk @ zx
    lean = outer if psi is None else psi @ outer
    phi = np.linalg.inv(xx - np.einsum("jqp,jqr->pr", zx, lean))
    directions = structure.directions
    # Of Z_j'P Z_k the block of j = k, and what the fixed effects add between groups.
    taken = outer @ phi @ outer.transpose(0, 2, 1)
    m = len(directions)
    found = np.zeros((m + 1, m + 1))
    turned = np.einsum("aqr,jrs->ajqs", directions, inner)
    found[:m, :m] = np.einsum("ajqs,bjsq->ab", turned, turned)
    trace = np.einsum("ajqq->a", turned)
    if restricted:
        lost = np.einsum("aqr,jrs->ajqs", directions, taken)
        found[:m, :m] -= 2.0 * np.einsum("ajqs,bjsq->ab", turned, lost)
        between = np.einsum("jqp,aqr,jrs->aps", outer, directions, outer) @ phi
        found[:m, :m] += np.einsum("aps,bsp->ab", between, between)
        trace = trace - np.einsum("ajqq->a", lost)
    found[:m, m] = found[m, :m] = trace
    found[m, m] = n - len(xx) if restricted else n
    return 0.5 * found


def find_flat(information: Array, size: Array, *, n_groups: int) -> Array:
    """Return directions (f, m + 1) of no information, in units of `size` (m + 1,); mostly none.

    Where an element has none by itself, or less than none, only such elements are returned.
    """
    scaled = information * (size[:, None] * size)
    own = scaled.diagonal()
    least = NO_INFORMATION * n_groups
    if own.min() < least:
        return np.asarray(np.eye(len(own))[np.abs(own) < least])
    unit = scaled / np.sqrt(own[:, None] * own)
    if bound_eigenvalues(unit) > REPEATED:
        return np.empty((0, len(own)))
    values, vectors = np.linalg.eigh(unit)
    flat = np.abs(values) < REPEATED
    return np.asarray((vectors / np.sqrt(own)[:, None]).T[flat])


def invert_told(matrix: Array, flat: float) -> Array:
    """Return the pseudo-inverse of a symmetric matrix (k, k).

    Eigenvalues below the share `flat` of the largest one's size count as zero.
    """
    if bound_eigenvalues(matrix) > flat * max(matrix.trace(), 0.0):
        return np.linalg.inv(matrix)  # all are told
    return np.linalg.pinv(matrix, rcond=flat, hermitian=True)
