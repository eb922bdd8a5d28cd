"""The gap between posterior mean and REML estimate, split into what accounts for it.

gap = posterior mean of the draws - REML estimate is the exact sum of

    shape        flat-prior mean - flat-prior mode, which is the sum of
      skewness     flat-prior mean - mode of the flat-prior marginal
      integrating  that mode - the joint mode of (G, sigma^2), the fixed effects' mean there
    prior        mean under the chosen priors - mean under flat ones, which is the sum of
      scale, sd, corr, residual, fixed    what swapping that one for a flat one moves the mean by
      interaction  what single swaps leave: where priors stand in for one another
    adjustment   with sampling weights alone: what moving the draws to the sandwich's covariance
                 does to their mean on this scale
    monte_carlo  mean of the draws - mean under the chosen priors by the independent route, unless
                 the draws are refuted by it
    unexplained  flat-prior mode - REML estimate, which is zero if both engines are right, and
                 what refuted draws miss the mean by beyond their error

A share is nan where it cannot be told: where a mean does not exist or is not certified. A
correlation that is +-1 to rounding in both answers, by where zero lies, has no gap to split.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.convergence import summarize
from bhlm.bayes.draws import Posterior, parameter_draws
from bhlm.bayes.importance.target import PRIORS, list_priors
from bhlm.bayes.rounding import ROUNDING
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameter
from bhlm.reconciliation.evidence import AnyEstimate, Evidence, take_sampled
from bhlm.reconciliation.flat_mode import FlatMode
from bhlm.reconciliation.swaps import Share

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# A gap that no reader of the posterior would notice, in posterior SDs.
NEGLIGIBLE = 0.1
# What optimisation may leave between two modes that are one, in posterior SDs.
IDENTITY = 1e-3


def list_shares(structure: Structure | None = None, *, adjusted: bool = False) -> tuple[str, ...]:
    """Return the columns of the shares; of several factors each prior by factor.

    `adjusted` is of draws that were moved to the sandwich's covariance.
    """
    priors = PRIORS if structure is None else list_priors(structure)
    named = (f"prior_{name}" for name in (*priors, "interaction"))
    moved = ("adjustment",) if adjusted else ()
    last = (*moved, "monte_carlo", "unexplained")
    return ("shape", "skewness", "integrating", "prior", *named, *last)


SHARES = list_shares()  # of a single factor
NAMED = tuple(share for share in SHARES if share.startswith("prior_"))
# 95 % of a normal, in SDs: the unit of a posterior that has no SD.
WIDTH = 2.0 * 1.959963984540054


def split_gaps(reml: AnyEstimate, post: Posterior, evidence: Evidence) -> "pd.DataFrame":
    """Return the split of every gap, one row per parameter.

    Columns `reml, posterior, sd, gap, gap_sd`, the shares and their parts (see the module), the
    standard error of each as `<share>_se`, and `verdict`: "agree", "explained", "undetermined" or
    "unexplained". `posterior`, `sd` and `gap` are nan where the posterior has no such moment.
    """
    import pandas as pd

    adjusted = evidence.adjustment is not None and evidence.adjustment.made
    shares = list_shares(post.structure, adjusted=adjusted)
    columns = (
        *("reml", "posterior", "sd", "gap", "gap_sd"),
        *shares,
        *(f"{share}_se" for share in shares),
    )
    estimates = reml.estimates["estimate"]
    modes = _name_mode(post, evidence.mode)
    draws, sampled = post.draws, take_sampled(post).draws
    rows: dict[str, dict[str, float]] = {}
    verdicts = []
    for parameter in post.parameters:
        name = str(parameter)
        drawn, _, _, sd, low, high, *_, mcse = summarize({name: draws[name]})[name]
        # Without an SD, that of a normal with the same 95 % interval is the unit.
        unit = sd if evidence.indices[name] > 2.0 else (high - low) / WIDTH
        if is_one(name, float(estimates[name]), drawn, evidence):
            known = {"reml": float(estimates[name]), "posterior": drawn, "sd": sd}
            rows[name] = dict.fromkeys(columns, 0.0) | known
            verdicts.append(_judge_one(name, evidence))
            continue
        if adjusted:
            moved, (plain, *_, mcse) = drawn, summarize({name: sampled[name]})[name]
            drawn = plain
        row = _split(
            parameter, evidence, drawn, mcse, float(estimates[name]), modes[name],
            priors=list_priors(post.structure),
        )  # fmt: skip
        if adjusted:
            by = moved - drawn
            row |= {"adjustment": by, "adjustment_se": 0.0}
            row |= {"posterior": row["posterior"] + by, "gap": row["gap"] + by}
        row["sd"] = sd if evidence.indices[name] > 2.0 else math.nan
        row["gap_sd"] = row["gap"] / unit if unit > 0.0 else math.nan
        rows[name] = {column: row.get(column, math.nan) for column in columns}
        verdicts.append(_judge_row(parameter, row, evidence, unit, modes[name]))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))
    table.index.name = "parameter"
    table["verdict"] = verdicts
    return table


def _split(
    parameter: Parameter,
    evidence: Evidence,
    drawn: float,
    mcse: float,
    estimate: float,
    joint: float,
    *,
    priors: tuple[str, ...],
) -> dict[str, float]:
    """Return the row of a parameter, but for its SD; `priors` are those of `list_priors`."""
    name = str(parameter)
    row = dict.fromkeys(list_shares(), math.nan)
    has_mean = evidence.has_mean(name)
    posterior = drawn if has_mean else math.nan
    row |= {"reml": estimate, "posterior": posterior, "gap": posterior - estimate}
    row |= {"monte_carlo_se": mcse}
    row |= _split_shape(parameter, evidence, joint)
    if evidence.certified and has_mean:
        row |= _split_prior(name, evidence, priors=priors)
        row |= _split_rest(name, evidence, drawn, mcse, joint - estimate)
    else:
        row |= {"unexplained": joint - estimate, "unexplained_se": 0.0}
    return row


def _split_shape(parameter: Parameter, evidence: Evidence, joint: float) -> dict[str, float]:
    """Return `shape` and its parts, as far as mean and mode under flat priors are known."""
    mean, peak = evidence.find_flat_mean(str(parameter)), evidence.find_peak(parameter, flat=True)
    row: dict[str, float] = {}
    if peak is not None:
        row |= {"integrating": peak.value - joint, "integrating_se": peak.error}
    if mean is not None:
        row |= {"shape": mean.value - joint, "shape_se": mean.error}
    if mean is not None and peak is not None:
        row["skewness"] = mean.value - peak.value
        row["skewness_se"] = math.hypot(mean.error, peak.error)
    return row


def _split_prior(name: str, evidence: Evidence, *, priors: tuple[str, ...]) -> dict[str, float]:
    """Return `prior` and its parts, as far as the means without those priors are known."""
    total = evidence.measure_prior(name)
    if total is None:
        return {}
    row = {"prior": total.value, "prior_se": total.error}
    parts = [evidence.measure_prior(name, part) or Share(math.nan, math.nan) for part in priors]
    for part, share in zip(priors, parts, strict=True):
        row |= {f"prior_{part}": share.value, f"prior_{part}_se": share.error}
    row["prior_interaction"] = total.value - sum(share.value for share in parts)
    row["prior_interaction_se"] = math.hypot(total.error, *(share.error for share in parts))
    return row


def _split_rest(
    name: str, evidence: Evidence, drawn: float, mcse: float, identity: float
) -> dict[str, float]:
    """Return what Monte Carlo noise accounts for, and what nothing does."""
    judgement, mean = evidence.judgement, evidence.find_mean(name)
    assert judgement is not None
    gap, error = drawn - mean.value, math.hypot(mcse, mean.error)
    noise = gap
    if any(name == refuted for refuted, _ in judgement.refuted):
        most = judgement.limit * error
        noise = min(max(gap, -most), most)
    return {
        "monte_carlo": noise,
        "monte_carlo_se": error,
        "unexplained": identity + gap - noise,
        "unexplained_se": error,
    }


def _judge_row(
    parameter: Parameter, row: dict[str, float], evidence: Evidence, unit: float, joint: float
) -> str:
    name = str(parameter)
    refuted = evidence.judgement.refuted if evidence.judgement else ()
    # Between two points of one likelihood nothing is wrong, however far they lie apart; of the
    # fixed effects the likelihood of (G, sigma^2) says nothing.
    off = abs(joint - row["reml"]) > IDENTITY * unit
    if any(name == each for each, _ in refuted):
        return "unexplained"
    if off and (parameter.is_fixed or evidence.identity.is_broken):
        return "unexplained"
    if not _is_judged(name, evidence) or not math.isfinite(row["gap"]):
        return "undetermined"
    if abs(row["gap"]) <= NEGLIGIBLE * unit:
        return "agree"
    return "explained" if math.isfinite(row["shape"] + row["prior"]) else "undetermined"


def is_one(name: str, estimate: float, mean: float, evidence: Evidence) -> bool:
    """Return whether a correlation is +-1 to rounding in both answers, by where zero lies."""
    return name in evidence.rounded and abs(mean - estimate) <= ROUNDING


def _judge_one(name: str, evidence: Evidence) -> str:
    """Return the verdict on such a correlation, whose draws are judged at the columns' means."""
    if evidence.judgement and any(name == each for each, _ in evidence.judgement.refuted):
        return "unexplained"
    return "agree" if _is_judged(name, evidence) else "undetermined"


def _is_judged(name: str, evidence: Evidence) -> bool:
    """Return whether the draws of a parameter were judged.

    Quadrature judges no correlation that is +-1 to rounding by where zero lies.
    """
    judgement = evidence.judgement
    return evidence.certified and judgement is not None and name in judgement.scores


def _name_mode(post: Posterior, mode: FlatMode) -> dict[str, float]:
    """Return the mode under each parameter's name; on the SD scale, of the transformed mode."""
    sigma = np.sqrt(np.asarray(mode.sigma2))
    named = parameter_draws(post.moments, post.structure, mode.beta, mode.g, sigma)
    return {name: float(value) for name, value in named.items()}
