"""mixedlm-rs: `mixedlm_rs.mixedlm(...).fit()`, REML by default, as the quick start of its README.

Source: https://pypi.org/project/mixedlm-rs/
"""

from contract import Fit, Request, serve


def fit(request: Request) -> Fit:
    """Return the fit of mixedlm-rs."""
    import mixedlm_rs

    found = mixedlm_rs.mixedlm(
        request.fixed_formula,
        request.table,
        groups=request.group,
        re_formula=request.random_formula,
    ).fit()
    return Fit(
        mixedlm_rs.__version__, found.fe_params, found.bse_fe, found.cov_re, found.scale,
        found.llf, found.converged, notes=("singular",) if found.singular else (),
    )  # fmt: skip


if __name__ == "__main__":
    serve("mixedlm-rs", fit)
