"""bhlm by NUTS on the marginal posterior: `Model(formula, data).sample()` with default priors."""

from contract import Draws, Request, serve


def fit(request: Request) -> Draws:
    """Return bhlm's draws."""
    import bhlm

    found = bhlm.Model(request.formula, request.table).sample(
        seed=request.seed, draws=request.draws, tune=request.tune, chains=request.chains
    )
    drawn = found.data["posterior"]
    return Draws(
        bhlm.__version__, drawn["beta"].values, drawn["G"].values, drawn["sigma"].values ** 2,
        tuple(found.diagnostics.failures),
    )  # fmt: skip


if __name__ == "__main__":
    serve("bhlm", fit)
