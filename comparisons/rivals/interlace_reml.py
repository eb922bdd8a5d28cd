"""interlace-lme: `interlace.fit(formula, data, random=[...])`, REML by L-BFGS-B by default.

The variant bobyqa is the optimiser that its docstring calls more robust near boundaries, an extra
of its own. Source: https://heliopais.github.io/interlace/ and the docstring of `interlace.fit`.
"""

import numpy as np
from contract import Fit, Request, serve, write_terms


def fit(request: Request) -> Fit:
    """Return the fit of interlace-lme."""
    from importlib.metadata import version

    import interlace

    if len(request.blocks) > 1:
        raise NotImplementedError("independent random coefficients only as a whole (||)")
    found = interlace.fit(
        request.fixed_formula,
        request.table,
        random=[f"({write_terms(request.random)} | {request.group})"],
        optimizer="lbfgsb" if request.variant == "default" else request.variant,
    )
    # A scalar where there is an intercept alone, else a table.
    g = np.atleast_2d(np.asarray(found.variance_components[request.group], float))
    return Fit(
        version("interlace-lme"), found.fe_params, found.fe_bse, g, found.scale, found.llf,
        found.converged,
    )  # fmt: skip


if __name__ == "__main__":
    serve("interlace-lme", fit)
