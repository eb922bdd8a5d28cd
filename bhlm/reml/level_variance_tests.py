"""Tests that random coefficients of one of several factors do not vary over its units.

As in `variance_tests`: the mixture of chi-squares holds for many units, and the bootstrap, which
draws from the fit without the coefficients and refits both models, for any. The other factors keep
their variances. An exact null exists for one variance that is the whole random part only.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import block_diag

from bhlm.errors import ArgumentError
from bhlm.layout import show_name
from bhlm.likelihood.cells import CellBlocks, WhitenedCells, whiten_blocks
from bhlm.likelihood.covariance import Structure, combine
from bhlm.likelihood.simulate_cells import CellSimulator, build_cell_simulator
from bhlm.likelihood.whitening import Whole, whiten_columns
from bhlm.moments.moments import pool
from bhlm.processes import count_cores
from bhlm.reml.exact_null import FEW_GROUPS, NullDraws
from bhlm.reml.level_search import LevelsOptimum, maximize_levels
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import require_unweighted
from bhlm.reml.null_bootstrap import REPLICATES, SETTLED
from bhlm.reml.optimize import unwhiten_loglik
from bhlm.reml.variance_tests import (
    LEAST,
    VarianceTest,
    check_named,
    count_out,
    mix_chi_squares,
)

if TYPE_CHECKING:
    from bhlm.reml.family.levels import FamilyLevelsEstimate

Array = np.ndarray
type Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Rivals:
    """What a replicate of the likelihood ratio needs."""

    simulator: CellSimulator  # draws from the null, in the columns of the full model
    white: WhitenedCells
    structures: tuple[Structure, ...]
    reduced: tuple[Structure, ...]
    factors: tuple[int, ...]  # of the reduced model
    loadings: Array  # (k, k_reduced) reduced columns = full columns @ loadings
    restricted: bool


def judge_level_variances(
    fit: LevelsEstimate,
    coefficients: str | Sequence[str] | None = None,
    *,
    factor: str | None = None,
    null: str = "auto",
    replicates: int | None = None,
    seed: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> VarianceTest:
    """Return the test that random coefficients of a factor do not vary, hence do not covary.

    Args:
        fit: the fit of the model with them, by whose method the model without them is fitted.
        coefficients: one or several; None is all of the factor.
        factor: whose; None where one factor alone has the coefficients.
        null: "mixture" of chi-squares, "bootstrap", or "auto": the bootstrap up to 50 units.
        replicates: of the bootstrap; None is 1000.
        seed: of the random numbers.
        processes: threads that refit; 0 is one per processor. p does not depend on it.
        progress: called with (done, replicates) now and then.

    Raises:
        ArgumentError: coefficients that are not random or that several factors have, an unknown
            factor or null, or too few replicates.
    """
    require_unweighted(fit, "a test of variances")
    at = find_tested(fit, coefficients, factor)
    structure = fit.structures[at]
    asked = structure.names if coefficients is None else coefficients
    dropped = check_named(structure, asked, fit.moments.formula)
    many = REPLICATES if replicates is None else replicates
    if null == "auto":
        null = "mixture" if fit.white.levels.counts[at] > FEW_GROUPS else "bootstrap"
    if null not in ("mixture", "bootstrap"):
        raise ArgumentError(
            f"null={null!r} is not known for several factors; choose one of auto, mixture, "
            "bootstrap"
        )
    if many < LEAST:
        raise ArgumentError(
            f"replicates={many} cannot tell a p-value of .01; give at least {LEAST}"
        )
    rivals, less = _reduce(fit, at, dropped)
    restricted = fit.method == "reml"
    below = unwhiten_loglik(less.criterion.at.value, fit.white, restricted)
    result = mix_chi_squares(
        2.0 * (fit.loglik - below), count_out(structure, dropped), dropped=dropped,
        method=fit.method,
    )  # fmt: skip
    result = replace(result, over=f"'{show_name(structure.group)}'")
    if null == "mixture":
        return result
    out = np.empty(many)
    children = np.random.SeedSequence(seed).spawn(many)
    with ThreadPoolExecutor(processes or count_cores()) as pool:
        for i, value in enumerate(pool.map(lambda child: _replicate(rivals, child), children)):
            out[i] = value
            if progress is not None:
                progress(i + 1, many)
    kept = np.sort(out[~np.isnan(out)])
    found = NullDraws(kept, float((kept == 0.0).mean()), seed)
    return replace(
        result, null="bootstrap", p=found.p_value(result.chi2), p_error=found.error(result.chi2),
        zero=found.zero, failures=many - len(kept), sample=found.chi2,
    )  # fmt: skip


def find_tested(
    fit: "LevelsEstimate | FamilyLevelsEstimate",
    coefficients: str | Sequence[str] | None,
    factor: str | None,
) -> int:
    """Return the place of the factor that is named, or that alone has the coefficients.

    Raises:
        ArgumentError: there is none, or several have them.
    """
    if factor is not None:
        return fit.find_factor(factor)
    names = list(fit.moments.groups)
    if coefficients is None:
        raise ArgumentError(
            f"neither a coefficient nor a factor is named; give factor={names[0]!r}"
        )
    asked = {coefficients} if isinstance(coefficients, str) else set(coefficients)
    having = [i for i, each in enumerate(fit.structures) if asked <= set(each.names)]
    if len(having) == 1:
        return having[0]
    shown = ", ".join(sorted(asked))
    if having:
        raise ArgumentError(
            f"'{shown}' varies over {' and '.join(names[i] for i in having)}; say over which by "
            f"factor={names[having[0]]!r}"
        )
    raise ArgumentError(
        f"'{shown}' is not random in any one factor of '{fit.moments.formula}'; its coefficients "
        f"are {', '.join(str(each) for structure in fit.structures for each in structure.sds)}"
    )


def _reduce(fit: LevelsEstimate, at: int, dropped: Sequence[str]) -> tuple[_Rivals, LevelsOptimum]:
    """Return what replicates need, and the fit without the coefficients."""
    structures, factors = [], []
    for i, structure in enumerate(fit.structures):
        if i != at:
            structures.append(structure)
            factors.append(i)
            continue
        terms = tuple(
            left
            for term in structure.terms
            if (left := tuple(name for name in term if name not in dropped))
        )
        if terms:
            kind = structure.name_override
            structures.append(combine(terms, group=structure.group, covariance=kind))
            factors.append(i)
    cells = whiten_blocks(fit.moments, fit.structures)
    bases = whiten_columns(fit.moments, structures, whole=Whole(*pool(fit.moments))).bases
    turns = []
    for structure, basis, i in zip(structures, bases, factors, strict=True):
        keep = [fit.structures[i].names.index(name) for name in structure.names]
        turns.append(np.linalg.inv(fit.white.bases[i])[:, keep] @ basis)
    loadings = _place(fit, factors, turns)
    sizes = [structure.q for structure in structures]
    white = replace(fit.white, levels=cells.turn(factors, loadings, sizes).arrange())
    restricted = fit.method == "reml"
    less = maximize_levels(white, tuple(structures), restricted=restricted)
    sigma = float(np.sqrt(less.criterion.at.sigma2))
    effects = [np.zeros((q, 1)) for q in cells.sizes]
    for i, turn, lam in zip(factors, turns, less.lams, strict=True):
        effects[i] = sigma * turn @ lam
    simulator = build_cell_simulator(
        cells, beta=less.criterion.at.beta, effects=effects, sigma=sigma
    )
    rivals = _Rivals(
        simulator,
        fit.white,
        fit.structures,
        tuple(structures),
        tuple(factors),
        loadings,
        restricted,
    )
    return rivals, less


def _place(fit: LevelsEstimate, factors: Sequence[int], turns: Sequence[Array]) -> Array:
    """Return the columns (k, k') of the reduced model in those of the full one."""
    sizes = [structure.q for structure in fit.structures]
    own = dict(zip(factors, turns, strict=True))
    blocks = [own.get(i, np.zeros((q, 0))) for i, q in enumerate(sizes)]
    return np.asarray(block_diag(*blocks, np.eye(fit.white.p + 1)))


def _replicate(rivals: _Rivals, seed: np.random.SeedSequence) -> float:
    """Return twice the difference of log-likelihoods of one replicate; nan if a fit failed."""
    drawn = rivals.simulator.draw(np.random.Generator(np.random.PCG64(seed)))
    cells: CellBlocks = replace(rivals.simulator.cells, blocks=drawn)
    full = replace(rivals.white, levels=cells.arrange())
    sizes = [structure.q for structure in rivals.reduced]
    less = replace(full, levels=cells.turn(rivals.factors, rivals.loadings, sizes).arrange())
    more = maximize_levels(full, rivals.structures, restricted=rivals.restricted)
    null = maximize_levels(less, rivals.reduced, restricted=rivals.restricted)
    if not (more.converged and null.converged):
        return float("nan")
    chi2 = null.criterion.at.value - more.criterion.at.value
    # The larger model holds the smaller: a search that ended above it missed the boundary.
    return chi2 if chi2 > SETTLED else 0.0
