"""bhlm by REML: `Model(formula, data).reml()`, as its README shows."""

from contract import Fit, Request, serve


def fit(request: Request) -> Fit:
    """Return bhlm's fit."""
    import bhlm

    found = bhlm.Model(request.formula, request.table).reml()
    table = found.estimates
    return Fit(
        bhlm.__version__, found.beta, table["se"].to_numpy()[: len(found.beta)], found.g,
        found.sigma2, found.loglik, found.converged, table["se"].to_dict(),
        ("singular",) if found.singular else (),
    )  # fmt: skip


if __name__ == "__main__":
    serve("bhlm", fit)
