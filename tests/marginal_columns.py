"""The marginal log-likelihood in the columns as given, on which tests take differences."""

import numpy as np

from bhlm.likelihood.marginal import marginal_loglik
from bhlm.likelihood.whitening import Whitened, whiten_parameters

Array = np.ndarray


def evaluate_marginal(
    white: Whitened, total: Array, beta: Array, root: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the log-likelihood and its gradients by beta (p,), root (q, q) and sigma.

    Arguments and gradients are those of the columns as given; root is any square root of G.
    """
    whitened_beta, lam, whitened_sigma = whiten_parameters(white, beta, root, sigma)
    value, dlam, dbeta, dlog = marginal_loglik(
        white.blocks,
        total,
        white.n,
        np.ascontiguousarray(lam),
        np.ascontiguousarray(whitened_beta),
        float(whitened_sigma),
    )
    gradient_beta = np.linalg.solve(white.fixed.T, dbeta) / white.scale
    gradient_root = np.linalg.solve(white.basis.T, dlam) / sigma
    gradient_sigma = (dlog - float(np.sum(dlam * lam))) / sigma
    return (
        float(value) - white.n * float(np.log(white.scale)),
        gradient_beta,
        gradient_root,
        gradient_sigma,
    )
