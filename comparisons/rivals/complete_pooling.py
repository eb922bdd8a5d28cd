"""Complete pooling: ordinary least squares, as if there were no groups."""

import numpy as np
from contract import INTERCEPT, Fit, Request, serve


def fit(request: Request) -> Fit:
    """Return least squares with G = 0; its restricted log-likelihood is the linear model's.

    With R from X = QR: -((n - p)(1 + log(2 pi sigma^2))) / 2 - log|det R|.
    """
    y = request.table[request.response].to_numpy(float)
    x = np.column_stack(
        [
            np.ones(len(y)) if name == INTERCEPT else request.table[name].to_numpy(float)
            for name in request.fixed
        ]
    )
    n, p = x.shape
    q, r = np.linalg.qr(x)
    beta = np.linalg.solve(r, q.T @ y)
    sigma2 = float(np.sum((y - x @ beta) ** 2)) / (n - p)
    inverse = np.linalg.inv(r)
    loglik = -0.5 * (n - p) * (1.0 + np.log(2.0 * np.pi * sigma2))
    loglik -= float(np.sum(np.log(np.abs(np.diag(r)))))
    zero = np.zeros((len(request.random), len(request.random)))
    se = np.sqrt(sigma2 * np.sum(inverse**2, axis=1))
    return Fit(f"numpy {np.__version__}", beta, se, zero, sigma2, loglik, True)


if __name__ == "__main__":
    serve("complete pooling", fit)
