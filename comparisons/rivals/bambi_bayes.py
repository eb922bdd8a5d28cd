"""Bambi: `bambi.Model(formula, data).fit()` with its default priors.

Group-specific effects of one factor have no correlation in Bambi, so that it samples the smaller
model without it where there are several. Source: https://bambinos.github.io/bambi/
"""

import numpy as np
from contract import INTERCEPT, Draws, Request, serve


def fit(request: Request) -> Draws:
    """Return Bambi's draws."""
    import bambi

    data = bambi.Model(request.formula, request.table).fit(
        draws=request.draws, tune=request.tune, chains=request.chains,
        random_seed=request.seed, progressbar=False,
    )  # fmt: skip
    drawn = data["posterior"]
    beta = np.stack([drawn[name].values for name in request.fixed], axis=-1)
    g = np.full((*beta.shape[:2], len(request.random), len(request.random)), np.nan)
    for k, name in enumerate(request.random):
        term = "1" if name == INTERCEPT else name
        g[..., k, k] = drawn[f"{term}|{request.group}_sigma"].values ** 2
    notes = ("no correlations in the model",) if max(map(len, request.blocks)) > 1 else ()
    divergences = int(data["sample_stats"]["diverging"].values.sum())
    if divergences:
        notes = (*notes, f"{divergences} divergences")
    return Draws(bambi.__version__, beta, g, drawn["sigma"].values ** 2, notes)


if __name__ == "__main__":
    serve("Bambi", fit)
