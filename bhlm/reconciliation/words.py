"""The reconciliation in words: per parameter, overall, and what to do about it.

A sentence gives a prior no more than what swapping it was computed to move the mean by, says that
a posterior is skewed only of the share that skewness has, and advice to weaken a prior is given
only where the swap closes at least half of the gap that it speaks of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from bhlm.bayes.draws import Posterior
from bhlm.bayes.existence import explain_missing
from bhlm.bayes.importance.draws import KHAT
from bhlm.bayes.importance.pool import Pool
from bhlm.bayes.importance.target import list_priors
from bhlm.layout import format_digits
from bhlm.likelihood.parameters import RESIDUAL_SD, Parameter
from bhlm.reconciliation.evidence import AnyEstimate, Evidence
from bhlm.reconciliation.findings import LARGE
from bhlm.reconciliation.judge import STATISTICS
from bhlm.reconciliation.proper import judge_proper
from bhlm.reconciliation.split import NEGLIGIBLE, is_one
from bhlm.reconciliation.swaps import (
    Share,
    Swapped,
    measure_share,
    reweight_priors,
    swap_priors,
)
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.maximum import FamilyMaximum

if TYPE_CHECKING:
    import pandas as pd

# A share below this many posterior SDs is not worth a clause.
MENTIONED = 0.02
NOISY = 0.05  # Monte Carlo errors, in posterior SDs
# Standard errors that a share must exceed to be spoken of: at least half of it is there then, with
# two and a half to spare.
TOLD = 5.0
ROUNDING = 1e-6  # what sums of shares leave, in posterior SDs
ERRORS = 2.0  # that what advice leaves of a gap is counted with
# Of a gap, what following a piece of advice has to close.
CLOSED = 0.5


def explain_gaps(table: "pd.DataFrame", post: Posterior, evidence: Evidence) -> dict[str, str]:
    """Return one sentence per parameter: how far the answers differ, and why."""
    nouns = name_priors(post)
    withheld = list_withheld(post, evidence)
    return {
        str(each): _explain(each, table.loc[str(each)], evidence, nouns, withheld)
        for each in post.parameters
    }


def withhold_words(table: "pd.DataFrame", why: str) -> dict[str, str]:
    """Return one sentence per parameter where a fit failed: there is no gap to speak of yet.

    `why` is a clause on what failed.
    """
    return {str(name): f"No gap of {name} can be told: {why}." for name in table.index}


def advise_failed(failed: Sequence[str]) -> list[str]:
    """Return what to do where fits failed: "reml", "posterior"."""
    advice = {
        "reml": "Do not report the REML estimates until the optimiser converges.",
        "posterior": (
            "Sample again as each failed check says, with more tuning or other priors, and read "
            "the convergence of the draws before any number of theirs."
        ),
    }
    return [advice[each] for each in failed]


def list_withheld(post: Posterior, evidence: Evidence) -> dict[str, str]:
    """Return why a mean is withheld, by parameter, where one is."""
    found = explain_missing(evidence.flat_indices, label="the posterior under flat priors")
    found |= explain_missing(evidence.indices)
    return {name: found[name] for name in map(str, post.parameters) if name in found}


def name_priors(post: Posterior) -> dict[str, str]:
    """Return what a sentence calls each of the names of `list_priors`."""
    texts = post.priors.describe(post.moments, structure=post.structure)
    fixed = post.moments.fixed
    scale = {"scale": "the scale (flat on SDs and correlations is not flat on covariances)"}
    others = {
        "residual": _name_residual(post, texts),
        "fixed": f"the prior {texts[fixed[0]]} on {fixed[0]}"
        if len(fixed) == 1
        else "the priors of the fixed effects",
    }
    alone = len(post.structure.parts) == 1
    of_sds, of_correlations = {}, {}
    for part in post.structure.parts:
        mark, of = ("", "") if alone else (f"|{part.group}", f" of {part.group}")
        sds = [str(each) for each in part.sds]
        kinds = list(dict.fromkeys(texts[name] for name in sds))
        if len(sds) == 1:
            of_sds[f"sd{mark}"] = f"the prior {kinds[0]} on {sds[0]}"
        else:
            of_sds[f"sd{mark}"] = f"the priors of the SDs{of} ({_list(kinds)})"
        if part.has_correlations:
            text = texts[str(part.correlations)]
            plural = "s" if len(sds) > 2 else ""
            told = f"the prior {text} on the correlation{plural}{of}"
            of_correlations[f"corr{mark}"] = told
    return scale | of_sds | others | of_correlations


def _name_residual(post: Posterior, texts: dict[str, str]) -> str:
    residuals = [str(each) for each in post.parameters if each.is_residual and each.is_sd]
    if len(residuals) < 2:
        return f"the prior {texts.get(str(RESIDUAL_SD), '')} on the residual SD"
    kinds = list(dict.fromkeys(texts[name] for name in residuals))
    return f"the priors of the residual SDs ({_list(kinds)})"


def _explain(
    parameter: Parameter,
    row: "pd.Series[float]",
    evidence: Evidence,
    nouns: dict[str, str],
    withheld: dict[str, str],
) -> str:
    name, gap, verdict = str(parameter), float(row["gap"]), row["verdict"]
    if is_one(name, float(row["reml"]), float(row["posterior"]), evidence):
        return _explain_one(name, float(row["posterior"]), evidence)
    unit = gap / row["gap_sd"] if row["gap_sd"] else float(row["sd"])
    if not evidence.has_mean(name):
        return f"The posterior mean of {name} is withheld: {withheld[name]}."
    if math.isnan(gap):
        return (
            f"The posterior mean of {name} is {row['posterior']:.3g}, and REML has no estimate of "
            "it, so that there is no gap to explain."
        )
    if abs(gap) < MENTIONED * unit:
        text = f"The posterior mean of {name} is within {MENTIONED} posterior SDs of REML"
    else:
        text = (
            f"The posterior mean of {name} is {format_digits(abs(gap), 2)} "
            f"{'above' if gap > 0 else 'below'} REML, {format_digits(abs(gap) / unit, 2)} "
            "posterior SDs"
        )
    clauses = _list_clauses(parameter, row, unit, nouns)
    if math.isnan(row["shape"] + row["prior"]) and abs(gap) > NEGLIGIBLE * unit:
        why = withheld.get(name, "" if evidence.certified else "the draws are not certified")
        told = "how much of it is shape and how much prior cannot be told"
        clauses.append(f"{told} ({why})" if why else told)
    text = f"{text}{': ' if clauses else ''}{', '.join(clauses)}"
    refuted = (
        [key for each, key in evidence.judgement.refuted if each == name]
        if (evidence.judgement)
        else []
    )
    if refuted:
        told = _list([STATISTICS[key] for key in refuted])
        left = row["unexplained"] if abs(row["unexplained"]) > ROUNDING * unit else 0.0
        missed = f"{left:+.2g} unexplained, and " if left else ""
        return f"{text}; {missed}the draws are off in {told}."
    if verdict == "unexplained":
        return f"{text}; {row['unexplained']:+.2g} unexplained."
    return f"{text}." if verdict == "undetermined" else f"{text}; nothing unexplained."


def _explain_one(name: str, mean: float, evidence: Evidence) -> str:
    """Return the sentence on a correlation that is +-1 to rounding by where zero lies."""
    text = (
        f"{name} is {'+' if mean > 0.0 else '-'}1 to rounding in both answers, since zero lies far "
        "from the values of a covariate"
    )
    if not evidence.certified or evidence.judgement is None:
        return f"{text}."
    if name not in evidence.judgement.scores:
        return f"{text}; its draws are not judged."
    refuted = [STATISTICS[key] for each, key in evidence.judgement.refuted if each == name]
    told = f"off in {_list(refuted)}" if refuted else "certified"
    return f"{text}; as it is at the columns' means, its draws are {told}."


def _list_clauses(
    parameter: Parameter, row: "pd.Series[float]", unit: float, nouns: dict[str, str]
) -> list[str]:
    """Return a clause for every share that is worth one and larger than its error.

    What those leave of the gap is told too, so that no sentence gives causes that point the other
    way alone: shares have larger errors than their sum.
    """
    integrating = (
        "because the variance components are integrated over where REML plugs them in"
        if parameter.is_fixed
        else "because the other parameters are integrated over where REML maximises over them"
    )
    shape = {"skewness": "because the posterior is skewed", "integrating": integrating}
    together = "from skewness and integrating, which cancel or cannot be told apart"
    prior = {f"prior_{name}": f"from {noun}" for name, noun in nouns.items()}
    prior["prior_interaction"] = "where priors stand in for one another"
    told = _tell(row, shape, unit) or _tell(row, {"shape": together}, unit)
    told |= _tell(row, prior, unit) or _tell(row, {"prior": "from the priors together"}, unit)
    if "adjustment" in row:
        moved = {"adjustment": "from the adjustment of the draws to the sandwich"}
        told |= _tell(row, moved, unit, errors=0.0)
    told |= _tell(row, {"monte_carlo": "from Monte Carlo noise"}, unit, errors=0.0)
    rest = float(row["gap"] - row["unexplained"]) - sum(float(row[key]) for key in told)
    clauses = list(told.values())
    if math.isfinite(row["shape"] + row["prior"]) and abs(rest) > NEGLIGIBLE * unit:
        clauses.append(_word(rest, "from shares that are too small or too uncertain to be told"))
    return clauses


def _tell(
    row: "pd.Series[float]", causes: dict[str, str], unit: float, *, errors: float = TOLD
) -> dict[str, str]:
    """Return a clause by share, of those that are worth one and exceed so many errors."""
    return {
        key: _word(float(row[key]), cause)
        for key, cause in causes.items()
        if abs(row[key]) >= max(MENTIONED * unit, errors * float(row[f"{key}_se"]))
    }


def _word(size: float, cause: str) -> str:
    return f"{format_digits(abs(size), 2)} {'up' if size > 0 else 'down'} {cause}"


def advise(table: "pd.DataFrame", post: Posterior, evidence: Evidence) -> list[str]:
    """Return what would make the two answers meet, or the posterior firmer."""
    told = [str(each) for each in post.parameters if each.is_sd or each.is_fixed]
    rows = table.loc[[name for name in told if math.isfinite(table.loc[name, "gap_sd"])]]
    advice = _advise_on_priors(rows[rows["gap_sd"].abs() > LARGE], post, evidence)
    skewed = rows[
        (rows["skewness"].abs() > LARGE * rows["sd"])
        & (rows["skewness"] - rows["gap"]).abs().le(CLOSED * rows["gap"].abs())
    ].index
    skewed = [str(name) for name in skewed if _is_skewed(str(name), rows.loc[name], post, evidence)]
    if skewed:
        advice.append(
            f"The posterior of {_list(skewed)} is so skewed that its mean and its mode "
            "are different summaries: report its interval."
        )
    noisy = table.index[table["monte_carlo_se"] > NOISY * table["sd"]]
    if len(noisy):
        advice.append(
            f"Monte Carlo error is above {NOISY} posterior SDs in {noisy[0]}"
            f"{f' and {len(noisy) - 1} more' if len(noisy) > 1 else ''}: take more draws."
        )
    return advice


def _is_skewed(name: str, row: "pd.Series[float]", post: Posterior, evidence: Evidence) -> bool:
    """Return whether the posterior under the chosen priors is skewed too, as that under flat ones.

    Its mean lies as far above or below its mode as is told of, on the same side.
    """
    (parameter,) = (each for each in post.parameters if str(each) == name)
    peak = evidence.find_peak(parameter)
    if peak is None:
        return False
    skewness = (evidence.find_mean(name).value - peak.value) / row["sd"]
    return bool(math.copysign(1.0, row["skewness"]) * skewness > LARGE)


def _advise_on_priors(rows: "pd.DataFrame", post: Posterior, evidence: Evidence) -> list[str]:
    """Return advice on the priors without which a gap would be half as large or less."""
    nouns = name_priors(post)
    known = Swaps(post, evidence, evidence.pool, {}, {})
    cures: dict[tuple[str, ...], list[str]] = {}
    for name, row in rows.iterrows():
        if abs(row["prior"]) > LARGE * row["sd"]:
            cure = _find_cure(str(name), float(row["gap"]), known)
            cures.setdefault(cure, []).append(str(name))
    advice = []
    for cure, names in cures.items():
        if not cure:
            advice += _advise_without_cure(rows.loc[names])
            continue
        moved = f"The priors move {_list(names)} by more than {LARGE} posterior SDs"
        closed = 1.0 - max(
            _measure_rest(name, cure, float(rows.loc[name, "gap"]), known)
            / abs(rows.loc[name, "gap"])
            for name in names
        )
        advice.append(
            f"{moved}, and without {_list([nouns[each] for each in cure])} at least "
            f"{math.floor(100.0 * closed)} % of the gap to REML would be closed: report that "
            "choice, or weaken it."
        )
    return advice


def _advise_without_cure(rows: "pd.DataFrame") -> list[str]:
    """Return advice where dropping no priors is known to close half of a gap."""
    by_scale = rows["prior_scale"].abs() >= CLOSED * rows["prior"].abs()
    causes = (
        (
            by_scale,
            "Report that the priors stand on SDs and correlations, where flat is not flat on "
            "covariances: this moves",
            CLOSED * LARGE,
        ),
        (~by_scale, "Report the priors: they move", LARGE),
    )
    return [
        f"{cause} {_list([str(name) for name in rows.index[chosen]])} by more than {size} "
        "posterior SDs, and dropping priors is not known to close half of the gap to REML."
        for chosen, cause, size in causes
        if chosen.any()
    ]


@dataclass(slots=True)
class Swaps:
    """What the posterior is without several priors together, each set computed once."""

    post: Posterior
    evidence: Evidence
    pool: Pool | None  # which grows where its draws do not do
    found: dict[tuple[str, ...], Swapped | None]  # None where its means are unknown
    existing: dict[tuple[str, ...], bool]  # whether its means exist, and their errors


def _find_cure(name: str, gap: float, known: Swaps) -> tuple[str, ...]:
    """Return the smallest set of priors without which a gap is half as large or less.

    The scale is none of them: nobody can weaken it. Of sets of one size the one that leaves least
    is returned, and nothing where no set is known to close so much beyond its error.
    """
    every = list_priors(known.post.structure)
    known_apart = known.evidence.single_indices
    candidates = [each for each in every if each != "scale" and each in known_apart]
    for size in range(1, len(candidates) + 1):
        left = {}
        for cure in combinations(candidates, size):
            left[cure] = _measure_rest(name, cure, gap, known)
        for cure in sorted(left, key=left.__getitem__):
            if left[cure] <= CLOSED * abs(gap) and (size == 1 or _exists(cure, known)):
                return cure
    return ()


def _measure_rest(name: str, cure: tuple[str, ...], gap: float, known: Swaps) -> float:
    """Return what a joint swap leaves of a gap, at most; inf where that is not known."""
    share, error = _measure(name, cure, known)
    return abs(gap - share) + ERRORS * error


def _measure(name: str, cure: tuple[str, ...], known: Swaps) -> Share:
    """Return what a joint swap moves a mean by, and its error; inf where that is not known.

    Whether the posterior without those priors has means is asked only of sets that matter.
    """
    unknown = Share(0.0, math.inf)
    if len(cure) == 1:
        return known.evidence.measure_prior(name, cure[0]) or unknown
    exact = known.evidence.exact
    if exact is None or known.pool is None:
        return unknown
    if cure not in known.found:
        joint = reweight_priors(known.pool, frozenset(cure))
        if joint is None and _exists(cure, known):
            joint, known.pool = swap_priors(known.pool, frozenset(cure), seed=known.post.seed)
        known.found[cure] = joint if joint is not None and joint.khat <= KHAT else None
    together = known.found[cure]
    return unknown if together is None else measure_share(exact, together, name)


def _exists(cure: tuple[str, ...], known: Swaps) -> bool:
    """Return whether the posterior without those priors is proper, with SDs of finite variance."""
    if cure not in known.existing:
        post = known.post
        found = judge_proper(post, without=cure)
        known.existing[cure] = found.proper and found.sd_index > 2.0
    return known.existing[cure]


def describe_verdict(
    table: "pd.DataFrame", verdict: str, words: dict[str, str], *, certified: bool, bound: bool
) -> str:
    """Return the overall verdict in a sentence or two, with the numbers that carry it.

    Args:
        table: how the gaps split.
        verdict: the overall one.
        words: by parameter, a sentence on its gap.
        certified: whether the draws could be judged.
        bound: whether the default prior alone bounds an SD.
    """
    if verdict == "not_converged":
        return "A fit failed its own diagnostics, so the two answers must not be compared yet."
    known = table["gap_sd"].dropna()
    if not len(known):
        return "No parameter has both a posterior mean and a REML estimate to compare."
    far = str(known.abs().idxmax())
    gap = f"The largest gap is {known[far]:+.2f} posterior SDs, in {far}"
    if verdict == "agree":
        return f"{gap}, below the {NEGLIGIBLE} that a reader of the posterior would notice."
    if verdict == "unexplained":
        return f"{gap}. Part of what was found cannot be accounted for: see the points about it."
    if verdict == "undetermined":
        lost = list(table.index[(table["verdict"] == "undetermined") & table["reml"].notna()])
        told = []
        if not certified:
            told.append("The draws could not be certified")
        elif lost:
            told.append(f"What accounts for the gap cannot be told for {_list(lost)}")
        if bound:
            told.append("The default prior alone bounds part of the answer")
        return f"{gap}. {'. '.join(told)}: see the points about it."
    return f"{gap}. {words[far]}"


def _list(names: Sequence[str]) -> str:
    """Return names as English lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def is_pseudo(reml: AnyEstimate) -> bool:
    """Return whether a fit is by pseudo-maximum likelihood, with sampling weights."""
    return isinstance(reml, Estimate) and reml.weights is not None and reml.weights.is_sampling


def speak_of(reml: AnyEstimate, text: str) -> str:
    """Return a sentence about REML as one about what takes its place, where something does."""
    if isinstance(reml, FamilyMaximum):
        return speak_of_ml(text)
    if is_pseudo(reml):
        told = text.replace("restricted log-likelihood", "log-pseudo-likelihood")
        return told.replace("REML", "pseudo-ML")
    return text


def speak_of_ml(text: str) -> str:
    """Return a sentence about REML as one about maximum likelihood, which takes its place."""
    return text.replace("restricted log-likelihood", "log-likelihood").replace("REML", "ML")
