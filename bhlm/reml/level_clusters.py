"""Clusters of rows that several factors leave independent of each other, with their products.

Where one factor holds all others (schools, of classes and of pupils that may cross them), rows of
different levels of it are independent, and each of its levels is a cluster. Crossed factors leave
no such clusters.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from bhlm.errors import ArgumentError
from bhlm.layout import list_names
from bhlm.likelihood.nested import is_nested
from bhlm.likelihood.whitening import Whole, whiten_columns
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import pool
from bhlm.reml.level_algebra import evaluate_fit
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import require_unweighted

Array = np.ndarray


class Cluster(NamedTuple):
    """The whitened cross-products of [Z X e] of one cluster, at a fit's estimates."""

    plain: Array  # (d + p + 1, d + p + 1), d all effects of the cluster
    lam: Array  # (d, d) their relative covariance factor
    size: Array  # (d + p,) root mean squares of the columns over all rows


def find_top(moments: CellMoments) -> int | None:
    """Return the factor that all others are nested in; None if there is none."""
    codes = moments.codes
    for at in np.argsort([int(each.max()) for each in codes]).tolist():
        if all(is_nested(each, codes[at]) for each in codes):
            return int(at)
    return None


def list_clusters(fit: LevelsEstimate) -> list[Cluster]:
    """Return the cross-products of every cluster.

    Raises:
        ArgumentError: no factor holds all others.
    """
    require_unweighted(fit, "a robust method")
    moments = fit.moments
    top = find_top(moments)
    if top is None:
        names = list_names(list(moments.groups), most=9)
        raise ArgumentError(
            f"cluster-robust standard errors need rows that are independent between clusters, and "
            f"no factor of {names} holds all others, so that rows of different levels are "
            "correlated; take method='satterthwaite' or 'kenward-roger'"
        )
    columns = whiten_columns(moments, fit.structures, whole=Whole(*pool(moments)))
    sizes = [structure.q for structure in fit.structures]
    starts = np.cumsum([0, *sizes])
    k = columns.blocks.shape[1]
    turn = np.eye(k)
    turn[starts[-1] : -1, -1] = -evaluate_fit(fit).at.beta
    blocks = turn.T @ columns.blocks @ turn
    scale = np.sqrt(np.einsum("caa->a", blocks) / columns.n)
    codes = moments.codes
    order = np.argsort(codes[top], kind="stable")
    edges = np.searchsorted(codes[top][order], np.arange(moments.labels[top].n_levels + 1))
    return [
        _gather(blocks[at], codes[:, at], fit.lams, scale)
        for at in (order[one:other] for one, other in pairwise(edges))
    ]


def _gather(blocks: Array, codes: Array, lams: tuple[Array, ...], scale: Array) -> Cluster:
    """Return a cluster from the products (C, k, k) of its cells and their levels (F, C)."""
    k, own, places, lam, size = blocks.shape[1], 0, [], [], []
    start = 0
    for each, root in zip(codes, lams, strict=True):
        q = len(root)
        levels, local = np.unique(each, return_inverse=True)
        places.append(own + local[:, None] * q + np.arange(q))
        lam += [root] * len(levels)
        size.append(np.tile(scale[start : start + q], len(levels)))
        own, start = own + q * len(levels), start + q
    rest = np.arange(k - start)
    at = np.concatenate([*places, np.broadcast_to(own + rest, (len(blocks), len(rest)))], axis=1)
    plain = np.zeros((own + len(rest), own + len(rest)))
    np.add.at(plain, (at[:, :, None], at[:, None, :]), blocks)
    return Cluster(plain, block_diag(*lam), np.concatenate([*size, scale[start:-1]]))
