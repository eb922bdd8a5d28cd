"""No pooling: a regression for each group, its coefficients regressed on what groups differ in.

Each group's y is regressed on D_j, the random columns and those fixed ones that vary beyond them
within groups, which gives b_j = D_j^+ y_j with expectation W_j beta, W_j = D_j^+ X_j. Least squares
of all b_j on all W_j gives beta; without predictors of the groups it is the plain average of b_j.
The covariance of b_j about W_j beta stands for G, sampling error included, and the pooled
residual variance for sigma^2. This is "slopes as outcomes", Burstein, Linn & Capell (1978),
Journal of Educational Statistics 3, 347-383; groups whose D_j has not full rank are left out.
"""

import numpy as np
from contract import INTERCEPT, Fit, Request, serve

Array = np.ndarray
# Share of a column's own size below which what is left of it within groups is rounding.
TINY = 1e-8


def fit(request: Request) -> Fit:
    """Return the two steps; nan for coefficients that the groups left in do not identify.

    Raises:
        ValueError: no group has a regression of its own.
    """
    y, groups = request.table[request.response].to_numpy(float), request.table[request.group]
    columns = {
        name: np.ones(len(y)) if name == INTERCEPT else request.table[name].to_numpy(float)
        for name in (*request.random, *request.fixed)
    }
    x = np.column_stack([columns[name] for name in request.fixed])
    z = np.column_stack([columns[name] for name in request.random])
    members = list(groups.groupby(groups).indices.values())
    within = list(request.random)
    for name in request.fixed:
        if name not in within and varies_beyond(columns[name], z, members):
            within.append(name)
    d = np.column_stack([columns[name] for name in within])
    full = [rows for rows in members if np.linalg.matrix_rank(d[rows]) == d.shape[1]]
    if not full:
        raise ValueError("no group has a regression of its own")
    inverses = [np.linalg.pinv(d[rows]) for rows in full]
    b = np.stack([inverse @ y[rows] for inverse, rows in zip(inverses, full, strict=True)])
    w = np.stack([inverse @ x[rows] for inverse, rows in zip(inverses, full, strict=True)])
    beta, se, known = regress(w, b)
    residual = sum(
        float(np.sum((y[rows] - d[rows] @ each) ** 2)) for rows, each in zip(full, b, strict=True)
    )
    df = sum(len(rows) for rows in full) - b.size
    off = (b - w @ np.where(known, beta, 0.0))[:, : z.shape[1]] if known.all() else None
    g = off.T @ off / (len(full) - 1) if off is not None and len(full) > 1 else np.nan * z.T @ z
    notes = [] if len(full) == len(members) else [f"{len(full)} of {len(members)} groups serve"]
    if df <= 0:
        notes.append("no residual degrees of freedom")
    if not known.all():
        notes.append("some fixed effects are not identified")
    return Fit(
        f"numpy {np.__version__}", beta, se, g, residual / df if df > 0 else np.nan, None, True,
        notes=tuple(notes),
    )  # fmt: skip


def varies_beyond(column: Array, z: Array, members: list[Array]) -> bool:
    """Return whether, in some group, a column is not a combination of the random ones."""
    for rows in members:
        left = column[rows] - z[rows] @ np.linalg.lstsq(z[rows], column[rows], rcond=None)[0]
        if np.max(np.abs(left)) > TINY * max(float(np.max(np.abs(column[rows]))), TINY):
            return True
    return False


def regress(w: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return coefficients, errors clustered by group, and which are identified, each (p,).

    Args:
        w: (J, k, p).
        b: (J, k).
    """
    p = w.shape[2]
    rows, outcome = w.reshape(-1, p), b.ravel()
    scale = np.maximum(np.sqrt(np.sum(rows**2, axis=0)), TINY)
    inverse = np.linalg.pinv(rows / scale)
    resolved = inverse @ (rows / scale)
    known = np.abs(np.diag(resolved) - 1.0) < TINY
    beta = inverse @ outcome / scale
    off = (outcome - rows @ beta).reshape(b.shape)
    scores = np.einsum("pjk,jk->jp", inverse.reshape(p, *b.shape), off) / scale
    se = np.sqrt(np.sum(scores**2, axis=0) * len(b) / max(len(b) - 1, 1))
    return np.where(known, beta, np.nan), np.where(known, se, np.nan), known


if __name__ == "__main__":
    serve("no pooling", fit)
