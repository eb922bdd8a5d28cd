"""Tests that some random coefficients, or all of them, do not vary over groups.

Dropping r of q coefficients whose covariances with the q - r others number m0 fixes m = m0 + (their
own free variances and covariances) parameters. The likelihood ratio is asymptotically the squared
length of the projection of a normal vector on a cone that contains a subspace of dimension m0, lies
in a half space of dimension m, and so has a p-value between

    1/2 P(chi2_m0 >= x) + 1/2 P(chi2_m0+1 >= x)   and   1/2 P(chi2_m-1 >= x) + 1/2 P(chi2_m >= x),

which meet for a single coefficient (Stram & Lee's case 3). Exact weights depend on the information
and, with few groups, no mixture holds. Two other null distributions do not lean on many groups:

- "exact": one variance that is the whole random part; see `bhlm.reml.exact_null`.
- "bootstrap": data drawn from the fit without the coefficients; see `bhlm.reml.null_bootstrap`.

Source: Silvapulle & Sen (2005), Constrained Statistical Inference, sections 3.5 and 4.8, for the
bounds; Stram & Lee (1994), Biometrics 50, 1171-1177; Self & Liang (1987), JASA 82, 605-610.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.laws import chi_square_tail
from bhlm.reml.estimate import Estimate, fit_moments
from bhlm.reml.exact_null import DRAWS, FEW_GROUPS, null_of_component
from bhlm.reml.maximum import NOTHING, require_plain
from bhlm.reml.null_bootstrap import REPLICATES, Progress, bootstrap_null

if TYPE_CHECKING:
    from bhlm.reml.family.estimate import FamilyEstimate

Array = np.ndarray
Null = Literal["mixture", "exact", "bootstrap"]

NULLS: tuple[Null, ...] = ("mixture", "exact", "bootstrap")
NULL_NAMES = {"exact": "exact null, any number of groups", "bootstrap": "parametric bootstrap"}
LEAST = 100  # replicates
LEAST_PRINTED = 5e-5  # of p-values: a smaller one has no digit in four places


@dataclass(frozen=True, slots=True)
class VarianceTest:
    """A likelihood-ratio test of variance components, by mixtures and by the null asked for.

    `weights` are those of the mixture of chi-squares with `df`; of several coefficients they are
    not known, `weights` is empty, and `p_bounds` holds what any mixture of `df` can give.
    """

    dropped: tuple[str, ...]  # the random coefficients that the null hypothesis leaves out
    chi2: float  # twice the difference of the log-likelihoods
    df: tuple[int, ...]  # of the chi-squares that are mixed; 0 is a point at zero
    weights: tuple[float, ...]
    p_bounds: tuple[float, float]  # by mixtures; equal for one coefficient
    method: str  # "reml" or "ml"
    null: Null  # what `p` rests on
    p: float  # by the mixture with bounds that differ: the larger
    p_error: float  # Monte Carlo error of p; 0 for the mixture
    zero: float  # the null's point mass at zero; nan for bounds that differ
    failures: int  # replicates that did not converge, and are left out
    sample: Array = field(repr=False, compare=False)  # (draws,) of the null, sorted
    over: str = "groups"  # what they do not vary over: "groups" of the only factor, or "'school'"

    @property
    def naive_p(self) -> float:
        """P by the chi-square of the largest df, which is conservative."""
        return float(chi_square_tail(self.chi2, self.df[-1]))

    def __str__(self) -> str:
        """Return the test as three or four lines, the mixture beside the null that was taken."""
        low, high = self.p_bounds
        same = low == high or high < LEAST_PRINTED
        mixed = _print_p(high) if same else f"p between {low:.4f} and {high:.4f}"
        fixed = self.df[-1]
        verb = "does" if len(self.dropped) == 1 else "do"
        lines = [
            f"H0: {', '.join(self.dropped)} {verb} not vary over {self.over} "
            f"({self.method.upper()})",
            f"  chi2 = {self.chi2:.3f}; H0 fixes {fixed} parameter{'s' if fixed > 1 else ''}",
            f"  {'mixture of chi-squares':34} {mixed} (holds for many groups)",
        ]
        if self.null != "mixture":
            lines.append(
                f"  {NULL_NAMES[self.null]:34} {_print_p(self.p)} +- {self.p_error:.4f} "
                f"({len(self.sample)} draws, {100 * self.zero:.0f} % of them zero)"
            )
        if self.failures:
            lines.append(f"  {self.failures} replicates did not converge and are left out")
        return "\n".join(lines)

    __repr__ = __str__


def _print_p(p: float) -> str:
    """Return a p-value with four places, and a bound where they are all zeros."""
    return f"p = {p:.4f}" if p >= LEAST_PRINTED else "p < 0.0001"


def judge_variances(
    fit: Estimate,
    coefficients: str | Sequence[str],
    *,
    null: str = "auto",
    replicates: int | None = None,
    seed: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> VarianceTest:
    """Return the test that random coefficients do not vary over groups, hence do not covary.

    Args:
        fit: the fit of the model with them, by whose method the model without them is fitted.
        coefficients: one or several.
        null: "mixture" of chi-squares, "exact" (one variance, alone), "bootstrap", or "auto": up
            to 50 groups exact where it exists, else the bootstrap; the mixture above.
        replicates: of the bootstrap (1000) or draws of the exact null (20 000).
        seed: of the random numbers.
        processes: threads that refit; 0 is one per processor. p does not depend on it.
        progress: called with (done, replicates) now and then.

    Raises:
        ArgumentError: coefficients that are not random or named twice, a structure that shares
            their variance with others, an unknown null, "exact" with more than one variance, or
            too few replicates.
    """
    require_plain(fit, "a test of variances")
    dropped = check_coefficients(fit, coefficients)
    null = _choose_null(fit, null)
    many = replicates if replicates is not None else (DRAWS if null == "exact" else REPLICATES)
    if many < LEAST:
        raise ArgumentError(
            f"replicates={many} cannot tell a p-value of .01; give at least {LEAST}"
        )
    reduced = fit_without(fit, dropped)
    chi2 = 2.0 * (fit.loglik - (fit.linear_loglik if reduced is None else reduced.loglik))
    result = mix_chi_squares(chi2, count_fixed(fit, dropped), dropped=dropped, method=fit.method)
    if null == "mixture":
        return result
    if null == "exact":
        found, failures = null_of_component(fit, draws=many, seed=seed), 0
    else:
        found, failures = bootstrap_null(
            fit, reduced, dropped,
            replicates=many, seed=seed, processes=processes, progress=progress,
        )  # fmt: skip
    return replace(
        result, null=null, p=found.p_value(result.chi2), p_error=found.error(result.chi2),
        zero=found.zero, failures=failures, sample=found.chi2,
    )  # fmt: skip


def mix_chi_squares(
    chi2: float, fixed: tuple[int, int], *, dropped: tuple[str, ...], method: str = "reml"
) -> VarianceTest:
    """Return the test of `chi2` against mixtures of chi-squares; `fixed` is `count_fixed`'s.

    Two fits of the same maximum differ by rounding; what that leaves of `chi2` is zero.
    """
    chi2 = chi2 if chi2 > NOTHING else 0.0
    first, last = fixed
    bounds = _mix_halves(chi2, first), _mix_halves(chi2, last - 1)
    alone = last - first == 1
    zero = (0.5 if first == 0 else 0.0) if alone else float("nan")
    return VarianceTest(
        dropped=dropped, chi2=chi2, df=tuple(range(first, last + 1)),
        weights=(0.5, 0.5) if alone else (), p_bounds=bounds, method=method, null="mixture",
        p=bounds[1], p_error=0.0, zero=zero, failures=0, sample=np.empty(0),
    )  # fmt: skip


def check_coefficients(
    fit: "Estimate | FamilyEstimate", coefficients: str | Sequence[str]
) -> tuple[str, ...]:
    """Return the coefficients to test, in the order of the model.

    Raises:
        ArgumentError: see `judge_variances`.
    """
    return check_named(fit.structure, coefficients, fit.moments.formula)


def check_named(
    structure: Structure, coefficients: str | Sequence[str], formula: str
) -> tuple[str, ...]:
    """Return the coefficients of a factor to test, in the order of the model."""
    random = structure.names
    asked = [coefficients] if isinstance(coefficients, str) else list(coefficients)
    for name in asked:
        if name not in random:
            raise ArgumentError(
                f"'{name}' is not a random coefficient of '{formula}'; choose among "
                f"{', '.join(random)}"
            )
        if asked.count(name) > 1:
            raise ArgumentError(f"'{name}' is named twice; name each coefficient once")
    if not asked:
        raise ArgumentError(f"no coefficient is named; choose among {', '.join(random)}")
    if structure.shares_variance and len(asked) < len(random):
        raise ArgumentError(
            f"the {structure.kind} structure shares one variance among {', '.join(random)}, so "
            f"{', '.join(asked)} cannot be tested without the others; fit it as unstructured or "
            "independent"
        )
    return tuple(name for name in random if name in asked)


def count_fixed(fit: "Estimate | FamilyEstimate", dropped: Sequence[str]) -> tuple[int, int]:
    """Return how many covariances with kept coefficients, and parameters in all, are fixed."""
    return count_out(fit.structure, dropped)


def count_out(structure: Structure, dropped: Sequence[str]) -> tuple[int, int]:
    """Return what `count_fixed` does, of a factor's structure."""
    out = {i for i, name in enumerate(structure.names) if name in dropped}
    sides = [{i, j} <= out for i, j in structure.labels if {i, j} & out]
    return sides.count(False), len(sides)


def fit_without(fit: Estimate, dropped: Sequence[str]) -> Estimate | None:
    """Return the fit without some random coefficients, by the same method; None without any."""
    moments = fit.moments
    kept = tuple(name for name in moments.random if name not in dropped)
    if not kept:
        return None
    blocks = tuple(
        left for block in moments.blocks if (left := tuple(n for n in block if n not in dropped))
    )
    reduced = moments.with_blocks(blocks)
    return fit_moments(reduced, method=fit.method, covariance=fit.structure.name_override)


def _choose_null(fit: Estimate, null: str) -> Null:
    if null == "auto":
        if fit.moments.n_groups > FEW_GROUPS:
            return "mixture"
        return "exact" if len(fit.structure.labels) == 1 else "bootstrap"
    if null not in NULLS:
        raise ArgumentError(f"null={null!r} is not known; choose one of auto, {', '.join(NULLS)}")
    return null


def _mix_halves(chi2: float, df: int) -> float:
    """Return P(X >= chi2) where X is chi-square with df or df + 1, in halves."""
    tails = [chi_square_tail(chi2, i) if i else float(chi2 <= 0.0) for i in (df, df + 1)]
    return float(0.5 * sum(tails))
