"""What HLM's output holds beyond the estimates: its tests, and its second, robust table."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.hlm_df import assign_equations, coefficient_df
from bhlm.reml.fixed.robust import robust_covariance
from bhlm.reml.variance_tests import hlm_chi_square
from bhlm.reports.text.hlm import render_hlm

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def print_hlm(fit: Estimate) -> str:
    """Return HLM's output with every table: tests on J - S - 1 df, robust standard errors

    (CR0, on the same df), and the chi-square test of each variance component.
    """
    return render_hlm(
        fit,
        inference=_tabulate(fit, fit.beta_cov),
        robust=_tabulate(fit, robust_covariance(fit, kind="cr0").cov),
        variance_tests=_test_variances(fit),
        equations=assign_equations(fit.moments),
    )


def _test_variances(fit: Estimate) -> "pd.DataFrame | None":
    """Return the chi-square tests; None, which prints as dots, where HLM has none either.

    That is for shared variances, and where too few groups have a Z_j of full rank.
    """
    if fit.structure.kind in ("exchangeable", "identity"):
        return None
    try:
        return hlm_chi_square(fit)
    except ArgumentError:
        return None


def _tabulate(fit: Estimate, cov: Array) -> "pd.DataFrame":
    import pandas as pd

    se, df = np.sqrt(np.diag(cov)), coefficient_df(fit.moments)
    t = fit.beta / se
    return pd.DataFrame(
        {"se": se, "statistic": t, "df": df, "p": 2.0 * stats.t.sf(np.abs(t), df)},
        index=list(fit.moments.fixed),
    )
