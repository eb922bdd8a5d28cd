"""statsmodels: `smf.mixedlm(...).fit(reml=True)`.

The default tries bfgs, lbfgs and cg in this order; the variants lbfgs and powell are the `method`
that MixedLM.fit documents, a scipy optimiser by name. Source:
https://www.statsmodels.org/stable/generated/statsmodels.regression.mixed_linear_model.MixedLM.fit.html
"""

from contract import Fit, Request, serve


def fit(request: Request) -> Fit:
    """Return the fit of statsmodels."""
    import statsmodels
    import statsmodels.formula.api as smf

    model = smf.mixedlm(
        request.fixed_formula,
        request.table,
        groups=request.table[request.group],
        re_formula=request.random_formula,
    )
    if request.variant == "default":
        found = model.fit(reml=True)
    else:
        found = model.fit(reml=True, method=[request.variant])
    return Fit(
        statsmodels.__version__, found.fe_params, found.bse_fe, found.cov_re, found.scale,
        found.llf, found.converged,
    )  # fmt: skip


if __name__ == "__main__":
    serve("statsmodels", fit)
