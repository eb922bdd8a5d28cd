"""What the split of the gaps rests on: the posterior by another route, and without its priors.

The chosen posterior is computed a second time, by importance sampling that shares neither
Jacobian nor likelihood kernel with the sampler, and the draws are judged by it. Priors are then
swapped for flat ones, one by one and all together, where the posterior without them is proper.
"""

from dataclasses import dataclass, field

import numpy as np

from bhlm.bayes.density import build_density
from bhlm.bayes.draws import Draws
from bhlm.bayes.importance import ImportancePosterior, integrate_importance
from bhlm.bayes.importance.draws import KHAT
from bhlm.bayes.importance.target import PRIORS
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.priors.tails import Existence, describe_ray, judge_priors, name_indices
from bhlm.errors import PriorError
from bhlm.reconciliation.flat_mode import FlatMode, find_flat_mode
from bhlm.reconciliation.identity import Identity, compare_heights
from bhlm.reconciliation.judge import Judgement, judge
from bhlm.reconciliation.swaps import Swapped, swap_priors
from bhlm.reml.estimate import Estimate

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the split of the gaps rests on.

    Tail indices are by parameter: a moment of order m exists if m < index.
    """

    mode: FlatMode  # of the posterior under flat priors
    identity: Identity  # of that mode and the REML estimate
    exact: ImportancePosterior | None  # the posterior; None where it is improper or unknown
    judgement: Judgement | None  # of the draws by `exact`
    flat: Swapped | None  # under flat priors; None where improper, unknown or not certified
    single: dict[str, Swapped]  # without one prior each, where that is proper
    indices: dict[str, float]  # under the chosen priors
    flat_indices: dict[str, float]
    single_indices: dict[str, dict[str, float]]
    reasons: tuple[str, ...] = field(default=())  # what could not be computed, and why

    @property
    def certified(self) -> bool:
        """Whether the draws could be judged."""
        return self.judgement is not None and self.judgement.certified

    def has_mean(self, name: str, *, flat: bool = False) -> bool:
        """Return whether a parameter has a posterior mean, under the chosen or flat priors."""
        return (self.flat_indices if flat else self.indices)[name] > 1.0


def gather_evidence(reml: Estimate, post: Draws) -> Evidence:
    """Return what the split of the gaps between two fits of a model rests on."""
    moments, structure, white = post.moments, post.structure, post.white
    flat_priors = resolve_priors(Priors.flat(), moments, structure=structure)
    density = build_density(white, flat_priors, structure)
    mode = find_flat_mode(density, white, structure=structure, start=_take_root(reml))
    existence = judge_priors(white, structure, post.priors)
    flat_existence = judge_priors(white, structure, flat_priors)
    reasons: list[str] = []
    exact, judgement = _compute(post, existence, reasons)
    flat: Swapped | None = None
    single: dict[str, Swapped] = {}
    single_indices: dict[str, dict[str, float]] = {}
    seed = _derive_seed(post, 3)
    if not flat_existence.proper:
        reasons.append(
            "Under flat priors the posterior is improper, so that shape and prior cannot be told "
            f"apart: {describe_ray(flat_existence.slowest, structure)}."
        )
    elif exact is not None and exact.certified:
        flat = swap_priors(exact, frozenset(PRIORS), seed=seed)
        if flat.khat > KHAT:
            reasons.append(
                "The means under flat priors are not certified (Pareto's k of the weights is "
                f"{flat.khat:.2f}, above {KHAT}), so that shape and prior cannot be told apart."
            )
            flat = None
    if exact is not None and exact.certified:
        for name in PRIORS:
            if name == "corr" and not structure.has_correlations:
                continue
            each = judge_priors(white, structure, post.priors, without=(name,))
            single_indices[name] = name_indices(each, moments, structure)
            swapped = swap_priors(exact, frozenset((name,)), seed=seed) if each.proper else None
            if swapped is not None and swapped.khat <= KHAT:
                single[name] = swapped
    return Evidence(
        mode=mode,
        identity=compare_heights(mode, reml),
        exact=exact,
        judgement=judgement,
        flat=flat,
        single=single,
        indices=name_indices(existence, moments, structure),
        flat_indices=name_indices(flat_existence, moments, structure),
        single_indices=single_indices,
        reasons=tuple(reasons),
    )


def _compute(
    post: Draws, existence: Existence, reasons: list[str]
) -> tuple[ImportancePosterior | None, Judgement | None]:
    """Return the posterior by importance sampling and what it says of the draws."""
    if not existence.proper:
        reasons.append(
            f"The posterior is improper: {describe_ray(existence.slowest, post.structure)}."
        )
        return None, None
    try:
        exact = integrate_importance(
            post.moments, post.structure, post.priors, seed=_derive_seed(post, 2), white=post.white
        )
    except PriorError as error:
        reasons.append(f"The draws are not certified: {error}.")
        return None, None
    if not exact.certified:
        reasons.append(
            "The draws are not certified: the independent route to the posterior failed (Pareto's "
            f"k of the importance weights is {exact.khat:.2f}, above {KHAT})."
        )
    return exact, judge(post.draws, exact)


def _derive_seed(post: Draws, stream: int) -> int:
    return int(np.random.SeedSequence([post.seed, stream]).generate_state(1)[0])


def _take_root(reml: Estimate) -> Array:
    """Return a root (q, q) of the relative covariance G / sigma^2 at the REML estimate."""
    values, vectors = np.linalg.eigh(reml.g / reml.sigma2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
