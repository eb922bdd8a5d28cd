"""What is tested and told of a family's fixed effects: ratios, hypotheses, robust errors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.linear import read_hypotheses
from bhlm.likelihood.parameters import check_level
from bhlm.reml.family import nested
from bhlm.reml.family.estimate import FamilyEstimate, carry_errors
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.family.search import widen

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

METHODS = ("z", "cr0", "cr1")


def find_covariance(fit: FamilyMaximum, method: str) -> Array:
    """Return the covariance (p, p) of the fixed effects by one of `METHODS`.

    "z" is the observed information; "cr0" and "cr1" are cluster-robust, by the groups' scores s_j
    about the inverse information, I^-1 (sum s_j s_j') I^-1, "cr1" times J / (J - 1), as Stata's
    vce(cluster) has it; of nested factors the groups are the coarsest units. Source: White (1982),
    Econometrica 50, 1-25; Stata 18, [P] _robust.

    Raises:
        ArgumentError: a method that is not known, or a robust one where the nodes are fixed.
    """
    p = len(fit.beta)
    return find_joint_covariance(fit, method)[:p, :p]


def find_joint_covariance(fit: FamilyMaximum, method: str) -> Array:
    """Return the covariance (p + m, p + m) of beta and the free elements of all G.

    Raises:
        ArgumentError: as `find_covariance`.
    """
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} is not known; choose one of {', '.join(METHODS)}")
    if method == "z":
        return fit.joint_cov
    if isinstance(fit, FamilyLevelsEstimate):
        if fit.marginal is None:
            raise ArgumentError(
                f"method={method!r} is by the scores of groups, which an approximate likelihood of "
                "several factors has not; take 'z'"
            )
        return nested.robust_covariance(fit, small=method == "cr1")
    assert isinstance(fit, FamilyEstimate)
    return robust_covariance(fit, small=method == "cr1")


def robust_covariance(fit: FamilyEstimate, *, small: bool = False) -> Array:
    """Return the cluster-robust covariance (p + m, p + m) of beta and G's free elements.

    Args:
        fit: the fit.
        small: whether it is multiplied by J / (J - 1).

    Raises:
        ArgumentError: a fit by a fixed number of nodes, whose groups have no scores.
    """
    if fit.nagq is not None:
        raise ArgumentError(
            f"a fit with nagq={fit.nagq} has no scores by group; leave nagq out for robust errors"
        )
    scores = fit.marginal.score @ widen(fit.structure, len(fit.beta))
    inverse = np.linalg.pinv(fit.information, rcond=1e-10, hermitian=True)
    groups = len(scores)
    meat = scores.T @ scores * (groups / (groups - 1.0) if small else 1.0)
    return carry_errors(fit.structure, fit.white, fit.lam, inverse @ meat @ inverse, fit.singular)


def tabulate_fixed(fit: FamilyMaximum, *, method: str, level: float) -> "pd.DataFrame":
    """Return `estimate, se, lower, upper, statistic, df, p` of each fixed effect, by z."""
    import pandas as pd

    check_level(level)
    se = np.sqrt(np.diag(find_covariance(fit, method)))
    names = pd.Index(list(fit.moments.fixed), name="parameter")
    return _tabulate(fit.beta, se, level, names)


def _tabulate(estimate: Array, se: Array, level: float, names: "pd.Index") -> "pd.DataFrame":
    import pandas as pd

    z, half = estimate / se, special.ndtri(0.5 + 0.5 * level) * se
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "lower": estimate - half,
            "upper": estimate + half,
            "statistic": z,
            "df": np.inf,
            "p": 2.0 * special.ndtr(-np.abs(z)),
        },
        index=names,
    )


def estimate_contrasts(
    fit: FamilyMaximum, hypotheses: Sequence[str], *, method: str, level: float
) -> "pd.DataFrame":
    """Return linear combinations of fixed effects, such as "x + 2*z = 0", on the link scale.

    Raises:
        ArgumentError: a hypothesis that cannot be read, or an unknown method.
    """
    import pandas as pd

    check_level(level)
    stated = read_hypotheses(hypotheses, fit.moments.fixed)
    cov = find_covariance(fit, method)
    estimate = stated.contrasts @ fit.beta - stated.values
    se = np.sqrt(np.einsum("ij,jk,ik->i", stated.contrasts, cov, stated.contrasts))
    return _tabulate(estimate, se, level, pd.Index(list(stated.labels), name="hypothesis"))


def judge_hypotheses(
    fit: FamilyMaximum, hypotheses: Sequence[str], *, method: str
) -> dict[str, float]:
    """Return the joint Wald test of hypotheses about fixed effects: chi2, df, p.

    Raises:
        ArgumentError: hypotheses that cannot be read or repeat each other, or an unknown method.
    """
    stated = read_hypotheses(hypotheses, fit.moments.fixed)
    left = stated.contrasts @ fit.beta - stated.values
    cov = stated.contrasts @ find_covariance(fit, method) @ stated.contrasts.T
    if np.linalg.matrix_rank(stated.contrasts) < len(left):
        raise ArgumentError("some hypotheses follow from the others; leave those out")
    chi2 = float(left @ np.linalg.solve(cov, left))
    return {"chi2": chi2, "df": len(left), "p": float(chi_square_tail(chi2, len(left)))}


def tabulate_ratios(fit: FamilyMaximum, *, method: str, level: float) -> "pd.DataFrame":
    """Return exp of each fixed effect with its interval: odds ratios, rate ratios.

    Columns `ratio, se, lower, upper, p`; of the intercept it is the odds, or the rate, where all
    else is zero. `se` is by the delta method, the interval that of the link scale. They are
    unit-specific: of two rows of one group, or of groups with the same effect.

    Raises:
        ArgumentError: a link under which exp(effect) is no ratio, or an unknown method.
    """
    import pandas as pd

    if fit.family.link == "probit":
        raise ArgumentError(
            "effects of the probit link are no log ratios; fit link='logit' for odds ratios, or "
            "ask for fit.population_effects()"
        )
    table = tabulate_fixed(fit, method=method, level=level)
    ratio = np.exp(table["estimate"])
    return pd.DataFrame(
        {
            "ratio": ratio,
            "se": ratio * table["se"],
            "lower": np.exp(table["lower"]),
            "upper": np.exp(table["upper"]),
            "p": table["p"],
        }
    )
