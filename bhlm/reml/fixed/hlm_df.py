"""HLM's degrees of freedom: which level-2 equation a fixed effect stands in, and J - S - 1.

A fixed column belongs to the equation of a random coefficient if it is that coefficient's
column times something constant within every group: x_ij = w_j z_ij. So what is constant
within groups belongs to the intercept's equation, cwc(ses) and gm(ses):cwc(ses) to that of
cwc(ses). The numbers decide, not the names; where several random columns would do, the one of
the same name comes first, then the first. S counts the columns of an equation other than its
own intercept (z itself). A column in no equation is a level-1 effect that does not vary over
groups, with n - p degrees of freedom.
Source: Raudenbush & Bryk (2002), section 3 ("Hypothesis testing"); Raudenbush, Bryk, Cheong,
Congdon & du Toit (2011), HLM 7, chapter 2.
"""

import numpy as np

from bhlm.likelihood.laws import f_tail
from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.moments import INTERCEPT, Moments
from bhlm.reml.fixed.method import Method, infer_plainly
from bhlm.reml.fixed.wald import JointTest, check_contrasts, decorrelate
from bhlm.reml.group_algebra import expect_one
from bhlm.reml.maximum import Maximum

Array = np.ndarray

# x and w z differ by less than this share of their size: what squared sums of products keep.
PROPORTIONAL = 1e-9


def assign_equations(moments: Moments) -> tuple[int | None, ...]:
    """Return the random coefficient (its index) in whose equation each fixed column stands.

    None stands for a level-1 effect that does not vary over groups.
    """
    order = range(len(moments.random))
    equations: list[int | None] = []
    for name in moments.fixed:
        if name in moments.random:
            equations.append(moments.random.index(name))
            continue
        fits = [i for i in order if _is_multiple(moments, name, moments.random[i])]
        equations.append(fits[0] if fits else None)
    return tuple(equations)


def coefficient_df(moments: Moments) -> Array:
    """Return HLM's degrees of freedom (p,) of each fixed effect.

    J - S - 1 in the equation of a random coefficient with S predictors (J - S where the
    equation has no intercept of its own), n - p outside of them.
    """
    equations = assign_equations(moments)
    outside = moments.n_rows - len(moments.fixed)
    return np.array(
        [
            outside if equation is None else moments.n_groups - equations.count(equation)
            for equation in equations
        ],
        dtype=np.float64,
    )


def hlm_df(fit: Maximum, contrasts: Array) -> Array:
    """Return the degrees of freedom (c,) of each row of `contrasts` (c, p).

    A combination of several fixed effects has the smallest df among them.

    Raises:
        ArgumentError: the contrasts do not fit the fixed effects; several grouping factors.
    """
    one = expect_one(fit, "method='hlm', J - S - 1 of the groups' equations,")
    matrix = check_contrasts(contrasts, len(fit.beta))
    df = coefficient_df(one.moments)
    return np.where(matrix != 0.0, df, np.inf).min(axis=1)


def _is_multiple(moments: Moments, x: str, z: str) -> bool:
    """Return whether x_ij = w_j z_ij in every group, from means and centred products."""
    mean_x, within_x, _ = _describe(moments, x, x)
    mean_z, within_z, _ = _describe(moments, z, z)
    _, _, both = _describe(moments, x, z)
    varies = within_z > ROUNDING * moments.mass * mean_z**2
    w = np.where(varies, both, mean_x) / np.where(varies, within_z, np.where(mean_z, mean_z, 1.0))
    size = within_x + moments.mass * mean_x**2
    left = np.maximum(within_x - w * both, 0.0)
    gap = moments.mass * (mean_x - w * mean_z) ** 2
    within_fits = left <= PROPORTIONAL * within_x + ROUNDING * size
    # w is a ratio of sums, and mean_z may be large beside what z varies within a group.
    mean_fits = gap <= PROPORTIONAL * (size + w**2 * moments.mass * mean_z**2)
    return bool(np.all(within_fits & mean_fits))


def _describe(moments: Moments, x: str, z: str) -> tuple[Array, Array, Array]:
    """Return x's means (J,), its centred squares (J,) and the centred products of x and z."""
    place = {name: i for i, name in enumerate(moments.columns)}
    none = np.zeros(moments.n_groups)
    if x == INTERCEPT:
        return np.ones(moments.n_groups), none, none
    i = place[x]
    both = none if z == INTERCEPT else moments.cross[:, i, place[z]]
    return moments.mean[:, i], moments.cross[:, i, i], both


def hlm_test(fit: Maximum, contrasts: Array, values: Array) -> JointTest:
    """Return the F test that contrasts beta = values, on the smallest df among them.

    Raises:
        ArgumentError: the contrasts contradict each other or do not fit the fixed effects.
    """
    plain = infer_plainly(fit, hlm_df(fit, contrasts))
    _, scores, variances = decorrelate(
        fit.beta, plain.inner, contrasts, values, loadings=plain.loadings
    )
    statistic, ddf = float((scores**2 / variances).mean()), float(plain.df.min())
    p = float(f_tail(statistic, len(scores), ddf))
    return JointTest(statistic, len(scores), ddf, p, "hlm")


HLM = Method("hlm", lambda fit, contrasts: infer_plainly(fit, hlm_df(fit, contrasts)), hlm_test)
