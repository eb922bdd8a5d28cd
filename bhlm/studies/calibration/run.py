"""Simulation-based calibration: does the sampler find parameters that are known?

Each replicate draws parameters from the prior and a response by the model over the same design,
and samples the posterior of that response. If prior, model, density and sampler are right, the
rank of the true value among L independent draws is uniform on 0..L, for every parameter and for
every other function of parameters and data, such as their joint log-likelihood.
Sources: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788; Modrak, Moon, Kim,
Buerkner, Huurre, Faltejskova, Gelman & Vehtari (2023), Bayesian Analysis 20, 461-488.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bhlm.bayes.density import evaluate_priors
from bhlm.bayes.draws import Settings, parameter_draws
from bhlm.bayes.importance.target import build_target
from bhlm.bayes.independent import resample_target
from bhlm.bayes.mixing import measure_bulk
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import (
    Priors,
    ResolvedPriors,
    check_drawable,
    draw_prior,
    resolve_priors,
)
from bhlm.bayes.sampling import (
    choose_acceptance,
    constrain_any,
    sample_density,
    state_density,
)
from bhlm.errors import ArgumentError, PriorError, check_arguments
from bhlm.likelihood.cells import CellBlocks, WhitenedCells, whiten_blocks, whiten_cells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.marginal import sum_logliks
from bhlm.likelihood.parameters import Parameters, list_parameters
from bhlm.likelihood.simulate import Simulator, build_simulator, simulate_whitened
from bhlm.likelihood.weighted_marginal import weigh_logliks
from bhlm.likelihood.whitening import Whitened, whiten, whiten_strata
from bhlm.moments.cells import AnyMoments, CellMoments, refuse_factors
from bhlm.moments.moments import Moments
from bhlm.moments.strata import StratumMoments
from bhlm.processes import count_cores, run_here
from bhlm.studies.calibration.result import Calibration, judge_ranks
from bhlm.studies.replicate_file import append_replicate, open_replicates

if TYPE_CHECKING:
    from bhlm.bayes.native import Evaluate
    from bhlm.fits.model import Model

Array = np.ndarray
type Progress = Callable[[int, int], None]

LOGLIK, LOG_POSTERIOR = "log-likelihood", "log posterior density"


@dataclass(frozen=True, slots=True)
class Study:
    """What every replicate needs, the same for all of them."""

    moments: AnyMoments
    structure: Structure
    priors: ResolvedPriors
    white: Whitened | WhitenedCells  # the design
    # Of the design, into which each replicate puts its own parameters; of several factors by cell.
    simulator: Simulator | CellBlocks
    settings: Settings
    seed: int
    n_draws: int  # L, among which a true value is ranked
    thin: int  # every thin-th draw counts


@check_arguments
def calibrate(
    model: "Model | AnyMoments",
    *,
    seed: int,
    replicates: int = 1000,
    n_draws: int = 99,
    thin: int = 5,
    tune: int = 300,
    priors: Priors | None = None,
    covariance: str | None = None,
    target_accept: float | None = None,
    maxdepth: int = 10,
    level: float = 0.99,
    processes: int | None = None,
    file: str | Path | None = None,
    progress: Progress | None = None,
    evaluate: "Evaluate | None" = None,
    method: str = "nuts",
) -> Calibration:
    """Return the ranks of true values in posteriors of simulated data, and the verdict on them.

    The design (rows per group, Z and X) is the model's, and only moments are simulated, at a
    cost that does not depend on the number of rows. Priors are resolved once: those that the
    parameters are drawn from are those that every replicate is fitted with. A replicate depends
    on the seed and its number alone, not on `processes`, nor on how many there are.

    Args:
        model: the model, or its moments.
        seed: of the random numbers.
        replicates: how many data sets.
        n_draws: L, among how many draws a true value is ranked.
        thin: of how many sampled draws one counts; too few leave them dependent, which looks
            as if the posterior were too narrow.
        tune: warm-up draws, discarded.
        priors: what replaces the autoscaled defaults; they must be proper.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        target_accept: as in `sample_moments`.
        maxdepth: as in `sample_moments`.
        level: probability that calibrated ranks of all quantities stay inside their bands.
        processes: processes, this one among them; None is one per processor.
        file: where finished replicates are kept as they come. A call with the same study goes
            on from there, also with more replicates; a file of another study is refused.
        progress: called with (done, replicates) after every replicate.
        evaluate: the density that the sampler moves on, to be checked; None is bhlm's own. Of
            several grouping factors only that is.
        method: "nuts"; or "independent", see `bhlm.bayes.independent`, which leaves to NUTS the
            replicates whose weights are not good enough.

    Raises:
        ArgumentError: a count that is too small, or a level or acceptance outside (0, 1).
        PriorError: a prior that is improper, or under which data cannot be computed with.
        IdentifiabilityError: the moments cannot identify the model.
        DataError: the file is of another study, or no such file.
    """
    start = time.perf_counter()
    processes = count_cores() if processes is None else processes
    for name, value, least in (
        ("replicates", replicates, 2), ("n_draws", n_draws, 1), ("thin", thin, 1),
        ("tune", tune, 1), ("seed", seed, 0), ("processes", processes, 1),
    ):  # fmt: skip
        if not isinstance(value, int | np.integer) or value < least:
            raise ArgumentError(f"{name}={value!r} is not valid; give an integer from {least} on")
    given = find_moments(model)
    moments = given.whole if isinstance(given, StratumMoments) else given
    if moments.weights is not None and moments.weights.is_sampling:
        raise ArgumentError(
            "a pseudo-posterior under sampling weights is calibrated over samples of a design, not "
            "by its own prior; leave the weights out"
        )
    if isinstance(moments, CellMoments) and evaluate is not None:
        raise refuse_factors(moments.design.formula, "evaluate=")
    if method == "independent" and (
        isinstance(moments, CellMoments) or moments.weights is not None or evaluate is not None
    ):
        raise ArgumentError(
            "method='independent' is calibrated of a single factor, without weights, strata and "
            "evaluate=; leave one of them out"
        )
    n_groups = moments.groups if isinstance(moments, CellMoments) else moments.n_groups
    if target_accept is None:
        fewest = n_groups if isinstance(n_groups, int) else min(n_groups.values())
        target_accept = choose_acceptance(fewest)
    for name, share in (("target_accept", target_accept), ("level", level)):
        if not 0.0 < share < 1.0:
            raise ArgumentError(f"{name}={share!r} must lie between 0 and 1")
    settings = Settings(
        draws=int(n_draws * thin), tune=int(tune), chains=1,
        target_accept=float(target_accept), maxdepth=int(maxdepth), cores=1, method=method,
    )  # fmt: skip
    study = plan_study(
        given, settings, priors=priors, covariance=covariance, seed=int(seed),
        n_draws=int(n_draws), thin=int(thin),
    )  # fmt: skip
    path = None if file is None else Path(file)
    finished = {} if path is None else open_replicates(path, identify_study(study))
    finished = {number: row for number, row in finished.items() if number < replicates}
    missing = [number for number in range(replicates) if number not in finished]
    if progress is not None:
        progress(len(finished), replicates)
    for row in _run(study, missing, min(processes, len(missing)), evaluate):
        finished[row["replicate"]] = row
        if path is not None:
            append_replicate(path, row)
        if progress is not None:
            progress(len(finished), replicates)
    rows = [finished[number] for number in range(replicates)]
    return judge_ranks(
        quantity_names(study),
        np.array([row["ranks"] for row in rows]),
        n_draws=study.n_draws,
        level=level,
        thin=study.thin,
        tune=settings.tune,
        divergences=np.array([row["divergences"] for row in rows]),
        ess=np.array([row["ess"] for row in rows]),
        seed=study.seed,
        formula=moments.formula,
        n_rows=moments.n_rows,
        n_groups=n_groups,
        priors=study.priors.describe(moments, structure=study.structure),
        seconds=time.perf_counter() - start,
        independent=sum(row.get("independent", False) for row in rows),
    )


def find_moments(model: "Model | AnyMoments") -> AnyMoments | StratumMoments:
    """Return the moments of a model, or those that are given."""
    if isinstance(model, Moments | CellMoments):
        return model
    if model.patterns is not None:
        raise ArgumentError(
            f"calibrate() is not there for family='{model.family}', whose posteriors the tests of "
            "bhlm calibrate; give a gaussian model"
        )
    return model.cells or model.strata or model.moments


def plan_study(
    given: AnyMoments | StratumMoments,
    settings: Settings,
    *,
    priors: Priors | None,
    covariance: str | None,
    seed: int,
    n_draws: int,
    thin: int,
) -> Study:
    """Return what every replicate needs.

    Raises:
        PriorError: a prior that is improper.
        ArgumentError: a covariance that has no prior.
        IdentifiabilityError: the moments cannot identify the model.
    """
    strata = given if isinstance(given, StratumMoments) else None
    moments = given.whole if isinstance(given, StratumMoments) else given
    structure = arrange_prior(moments, covariance)
    resolved = resolve_priors(priors, moments, structure=structure)
    check_drawable(resolved, moments, structure)
    rest = (settings, seed, n_draws, thin)
    if isinstance(moments, CellMoments):
        cells = whiten_blocks(moments, structure.parts)
        return Study(
            moments, structure, resolved, whiten_cells(moments, structure.parts), cells, *rest
        )
    white = whiten(moments, structure) if strata is None else whiten_strata(strata, structure)
    simulator = build_simulator(
        white, moments.n, beta=np.zeros(white.p), effects=np.zeros((white.q, white.q)), sigma=1.0
    )
    return Study(moments, structure, resolved, white, simulator, *rest)


def identify_study(study: Study) -> dict[str, Any]:
    """Return what makes a study this one: model, data, priors, seed, settings and versions."""
    moments, settings = study.moments, study.settings
    digest = hashlib.sha256()
    for array in (moments.n, moments.mean, moments.cross):
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    design: list[Any] = [moments.columns, moments.fixed]
    if isinstance(moments, CellMoments):
        digest.update(np.ascontiguousarray(moments.codes, dtype="<i8").tobytes())
        design += [(part.names, part.group) for part in study.structure.parts]
    else:
        design += [moments.random, moments.group]
    frame = study.priors.frame
    priors = [[type(prior).__name__, *prior.numbers] for prior in study.priors.every]
    return {
        "study": "calibration",
        "formula": moments.formula,
        "columns": design,
        "blocks": study.structure.blocks,
        "data": digest.hexdigest(),
        "priors": [
            *priors,
            *(["LKJ", corr.eta] for corr in study.priors.corrs),
            frame.fixed.tolist(),
            frame.random.tolist(),
        ],
        "seed": study.seed,
        "n_draws": study.n_draws,
        "thin": study.thin,
        "tune": settings.tune,
        "target_accept": settings.target_accept,
        "maxdepth": settings.maxdepth,
        **({"method": settings.method} if settings.method == "independent" else {}),
        "versions": {name: version(name) for name in ("bhlm", "numba", "numpy", "nutpie")},
    }


def run_replicate(
    study: Study, number: int, *, evaluate: "Evaluate | None" = None
) -> dict[str, Any]:
    """Return one replicate's ranks, its divergent transitions and its smallest bulk ESS.

    Raises:
        PriorError: the prior gave parameters that double precision cannot compute with.
    """
    rng = np.random.default_rng(np.random.SeedSequence([study.seed, number]))
    true = draw_prior(study.priors, study.structure, rng, 1)
    _, root, sigma = true
    with np.errstate(all="ignore"):
        white = _simulate(study, true, rng)
    if not (np.isfinite(white.blocks).all() and white.scale > 0.0):
        raise PriorError(_explain_overflow(number, root[0], float(np.min(sigma[0]))))
    seed = int(rng.integers(2**31))
    found = _sample_independently(study, white, seed)
    drawn, divergences = _sample(study, white, seed, evaluate) if found is None else (found, 0)
    both = Parameters(*map(np.concatenate, zip(true, drawn, strict=True)))
    with np.errstate(all="ignore"):
        values = np.stack(list(evaluate_quantities(study, white, both).values()))
    if not np.isfinite(values).all():
        raise PriorError(_explain_overflow(number, root[0], float(np.min(sigma[0]))))
    first, sampled = values[:, :1], values[:, 1:]
    ranks = (sampled[:, study.thin - 1 :: study.thin] < first).sum(axis=1)
    ess = measure_bulk(sampled)
    return {
        "replicate": number,
        "ranks": ranks.tolist(),
        "divergences": divergences,
        "independent": found is not None,
        "ess": float(np.nan_to_num(np.min(ess), nan=0.0)),  # nan if a chain did not move
    }


def _simulate(study: Study, true: Parameters, rng: np.random.Generator) -> Whitened | WhitenedCells:
    """Return the study's design with a new response under parameters of one draw."""
    if isinstance(study.simulator, Simulator):
        beta, root, sigma = (each[0] for each in true)
        return simulate_whitened(study.simulator, beta, root, sigma, rng)
    from bhlm.studies.calibration.levels import simulate_cells

    return simulate_cells(cast("WhitenedCells", study.white), study.simulator, true, rng)


def _sample_independently(
    study: Study, white: Whitened | WhitenedCells, seed: int
) -> Parameters | None:
    """Return the parameters in independent draws; None where nobody asked or there are none."""
    if study.settings.method != "independent":
        return None
    target = build_target(white, study.priors, study.structure)
    found = resample_target(target, chains=1, draws=study.settings.draws, seed=seed)
    return None if isinstance(found, str) else found.parameters


def _sample(
    study: Study, white: Whitened | WhitenedCells, seed: int, evaluate: "Evaluate | None"
) -> tuple[Parameters, int]:
    """Return the parameters in the draws of a posterior, and how many transitions diverged."""
    if isinstance(white, WhitenedCells):
        from bhlm.studies.calibration.levels import draw_level_posterior

        return draw_level_posterior(
            cast("CellMoments", study.moments), study.structure, study.priors, white,
            settings=study.settings, seed=seed,
        )  # fmt: skip
    density = state_density(white, study.priors, study.structure)
    x, diverging = sample_density(density, study.settings, seed=seed, evaluate=evaluate)
    return constrain_any(density, white, study.priors.frame, x[0]), int(diverging.sum())


def _explain_overflow(number: int, root: Array, sigma: float) -> str:
    """Return why a replicate could not be computed, and what to do."""
    return (
        f"the priors gave replicate {number} a residual SD of {sigma:.3g} beside group SDs up to "
        f"{np.linalg.norm(root, axis=1).max():.3g}, with which double precision cannot compute; "
        "give less diffuse priors"
    )


def evaluate_quantities(
    study: Study, white: Whitened | WhitenedCells, parameters: Parameters
) -> dict[str, Array]:
    """Return what is ranked, each (draws,): parameters, log-likelihood, log posterior density.

    SDs are left out, because their ranks are those of the variances.

    Args:
        study: the study.
        white: the simulated data.
        parameters: in as many draws.
    """
    beta, _, sigma = parameters
    named = parameter_draws(study.moments, study.structure, beta, parameters.g, sigma)
    every = list_parameters(study.moments.fixed, study.structure, weights=study.moments.weights)
    ranked = {str(each): named[str(each)] for each in every if not each.is_sd}
    if isinstance(white, WhitenedCells):
        from bhlm.bayes.level_draws import marginal_logliks

        loglik = marginal_logliks(white, study.structure, parameters)
    elif white.is_plain:
        loglik = sum_logliks(white, white.n, parameters)
    else:
        loglik = weigh_logliks(cast("Moments", study.moments), white, parameters).sum(axis=1)
    terms = evaluate_priors(study.priors, study.structure, parameters)
    log_prior = sum(term.reshape(len(sigma), -1).sum(axis=1) for term in terms.values())
    return ranked | {LOGLIK: loglik, LOG_POSTERIOR: loglik + log_prior}


def quantity_names(study: Study) -> tuple[str, ...]:
    """Return the names of what `evaluate_quantities` returns."""
    p, q = len(study.moments.fixed), study.structure.q
    n_strata = len(study.priors.strata) + 1
    sigma = np.ones(1) if n_strata == 1 else np.ones((1, n_strata))
    unit = Parameters(np.zeros((1, p)), np.eye(q)[None], sigma)
    return tuple(evaluate_quantities(study, study.white, unit))


def _run(
    study: Study, numbers: Sequence[int], processes: int, evaluate: "Evaluate | None"
) -> Iterator[dict[str, Any]]:
    """Yield each replicate when it is done."""
    if not numbers:
        return iter(())
    refusal = (
        f"the {processes} processes stopped before their work was done; give processes=1, which "
        "needs less memory"
    )
    task = partial(run_replicate, study, evaluate=evaluate)
    return run_here(task, numbers, processes=processes, refusal=refusal)
