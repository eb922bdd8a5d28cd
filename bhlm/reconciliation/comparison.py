"""Estimate + Draws -> Comparison: where the two answers differ, by how much, and why.

How a gap is split stands in `split`, what it rests on in `evidence`, the words for it in `words`.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bhlm.bayes.checks.model_checks import Checks
from bhlm.bayes.draws import Draws, Posterior
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.importance.draws import KHAT
from bhlm.bayes.importance.kernels import TAIL
from bhlm.bayes.level_draws import FactorDraws
from bhlm.bayes.priors.correlations import has_prior
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.errors import ArgumentError, check_arguments, check_fields
from bhlm.layout import agree, count, list_names
from bhlm.likelihood.parameters import Parameter, name_apart
from bhlm.moments.cells import CellMoments, refuse_factors
from bhlm.moments.either import Reduced
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns
from bhlm.moments.same_rows import is_alike
from bhlm.reconciliation.curves import tabulate_curves
from bhlm.reconciliation.evidence import AnyEstimate, Evidence, gather_evidence
from bhlm.reconciliation.findings import (
    Findings,
    judge_agreement,
    judge_convergence,
    judge_model,
    judge_priors,
    list_failed,
    name_failed,
)
from bhlm.reconciliation.joint import describe_joint, find_joint
from bhlm.reconciliation.judge import STATISTICS, Judgement
from bhlm.reconciliation.published import PrintedCheck, check_published, describe_published
from bhlm.reconciliation.recheck import find_contradictions, rejudge_draws
from bhlm.reconciliation.split import NEGLIGIBLE, split_gaps
from bhlm.reconciliation.words import (
    advise,
    advise_failed,
    describe_verdict,
    explain_gaps,
    is_pseudo,
    list_withheld,
    name_priors,
    speak_of,
    withhold_words,
)
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import require_likelihood
from bhlm.reml.strata import StrataEstimate
from bhlm.sources.gallery import Published

if TYPE_CHECKING:
    import pandas as pd


# The width of a 95 % interval from which on a correlation is called hardly identified: half of all.
WIDE = 1.0
AT_MEANS = "judged at the columns' means"
# Of a posterior mean, below which the 2.5 % point of an SD counts as zero; and beyond which that of
# a correlation counts as one.
NEAR_ZERO, NEAR_ONE = 0.1, 0.95

Verdict = Literal["agree", "explained", "undetermined", "unexplained", "not_converged"]


@check_fields
@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """The two answers side by side, the split of each gap, the verdict, and the four findings."""

    reml: AnyEstimate
    post: Posterior
    evidence: Evidence  # what the split rests on
    table: "pd.DataFrame"  # by parameter; columns as in the JSON's `reconciliation`
    verdict: Verdict
    reasons: tuple[str, ...]  # sentences behind the verdict, and flags
    advice: tuple[str, ...]  # sentences on what to do
    words: dict[str, str]  # by parameter, a sentence on its gap
    withheld: dict[str, str]  # by parameter, why a mean is withheld, where one is
    conclusion: str  # the verdict in a sentence
    printed: tuple[PrintedCheck, ...]
    printed_note: str
    checks: Checks | None = None  # of the model and its priors; None if they were not made

    def __repr__(self) -> str:
        """Return the verdict, what carries it, and the four findings, a line each."""
        lines = [f"{type(self).__name__} of '{self.reml.moments.formula}': {self.verdict}"]
        for each in self.findings.told:
            lines.append(f"  {each.topic:<14}  {each.status:<7}  {each.label}")
        return "\n".join(lines)

    @property
    def findings(self) -> Findings:
        """What was found on convergence, reconciliation, model checks and priors."""
        failed = list_failed(self.reml, self.post)
        convergence = judge_convergence(self.reml, self.post)
        rest = [reason for reason in self.reasons if reason not in convergence.details]
        return Findings(
            convergence=convergence,
            reconciliation=judge_agreement(self.verdict, self.conclusion, rest),
            model_checks=judge_model(self.checks, failed=failed),
            priors=judge_priors(
                self.checks,
                failed=failed,
                improper=max(self.evidence.indices.values()) <= 0.0,
                bound=self.post.diagnostics.prior_bound,
                table=self.table,
            ),
        )

    def split_pair(self, what: str) -> tuple[Estimate, Draws]:
        """Return the two fits, of a single factor, for what several have not yet.

        Raises:
            ArgumentError: several grouping factors, or residual variances by stratum; `what` is
                refused.
        """
        reml, post = self.reml, self.post
        if isinstance(reml, Estimate) and isinstance(post, Draws):
            return reml, post
        if isinstance(reml, StrataEstimate):
            raise ArgumentError(
                f"{what} is not there yet with residual='{reml.strata.column}'; there are "
                "summary(), dashboard(), group_effects() and to_dict()"
            )
        raise refuse_factors(reml.moments.design.formula, what)

    @property
    def route(self) -> str:
        """How the means that the split rests on were found, in a sentence."""
        if self.verdict == "not_converged":
            failed = name_failed(list_failed(self.reml, self.post))
            return f"The draws are not certified, and no gap is split: {failed}."
        exact, judgement = self.evidence.exact, self.evidence.judgement
        by_grid = self.evidence.quadrature
        if judgement is not None and judgement.certified and by_grid is not None:
            return (
                "Means by quadrature, since the weights of importance sampling fail, accurate to "
                f"{by_grid.chosen.accuracy:.1g} posterior SDs; the draws are judged by it in mean "
                "and SD, and in the 95 % interval of SDs, variances and correlations that priors "
                f"stand on themselves{_list_unjudged(judgement, by='the interval')}"
                f"{_list_rounded(self.evidence, 'not judged')}: a shift of "
                f"{judgement.resolution:.2g} posterior SDs would be seen. "
                f"{describe_joint(self.evidence)}"
            )
        if exact is None or judgement is None or not judgement.certified:
            return "The draws are not certified: see the points."
        adjusted = self.evidence.adjustment is not None
        told = ", as they were before the adjustment to the sandwich," if adjusted else ""
        shares = "neither likelihood kernel nor Jacobian"
        if isinstance(self.reml, FamilyMaximum):
            shares = "the integrals over the random effects, and no Jacobian,"
        return (
            f"Means by importance sampling, {len(exact.draws.y)} draws of which "
            f"{exact.draws.ess:.0f} are effective (k-hat {exact.khat:.2f}); it shares {shares} "
            f"with the sampler, and judges the draws{told} in mean, SD and "
            f"95 % interval of every parameter{_list_unjudged(judgement, by='rank')}"
            f"{_list_rounded(self.evidence, AT_MEANS)}: a shift of "
            f"{judgement.resolution:.2g} posterior SDs would be seen. "
            f"{describe_joint(self.evidence)}"
        )

    def group_effects(self) -> "pd.DataFrame":
        """Return empirical-Bayes and posterior effects, one row per group and coefficient.

        Columns: the group's label, `coefficient`; `eb` and `eb_sd`, the BLUP and its conditional
        SD at the REML estimates; `mean`, `sd`, `lower`, `upper` of the posterior (95 %); `gap`,
        mean - eb; `widening`, sd / eb_sd: what the uncertainty of the parameters adds to the
        width, which the conditional SD leaves out. It is nan where eb_sd is 0. Of several grouping
        factors `factor` and `level` take the place of the group's label.
        """
        eb = self.reml.group_effects()
        assert isinstance(self.post, Draws | FactorDraws | FamilyDraws)
        posterior = self.post.group_effects()
        table = eb.rename(columns={"estimate": "eb", "sd": "eb_sd"})
        table = table.drop(columns="pev", errors="ignore")
        own = ("eb", "eb_sd", "mean", "sd", "lower", "upper", "gap", "widening")
        if not isinstance(self.reml, LevelsEstimate | FamilyLevelsEstimate):
            (group,) = name_apart([self.reml.moments.group], table=("coefficient", *own))
            table.columns = [group, *table.columns[1:]]
        for column in ("mean", "sd", "lower", "upper"):
            table[column] = posterior[column]
        table["gap"] = table["mean"] - table["eb"]
        table["widening"] = table["sd"] / table["eb_sd"].where(table["eb_sd"] > 0.0)
        return table

    @check_arguments
    def curves(self, *, points: int = 61) -> "pd.DataFrame":
        """Return profile likelihood, prior and posterior density over one grid per parameter.

        For each SD, variance and correlation; see `bhlm.reconciliation.curves.tabulate_curves`.

        Raises:
            ArgumentError: fewer than two points; several grouping factors, residual variances by
                stratum, or sampling weights, whose pseudo-likelihood has no profile.
        """
        exact = self.evidence.weighted
        what = "both.curves(), which needs the profile likelihood,"
        reml, post = self.split_pair(what)
        require_likelihood(reml, what)
        return tabulate_curves(reml, post, exact, points=points)


def compare(
    reml: AnyEstimate,
    post: Posterior,
    *,
    published: Published | None = None,
    limit: float = KHAT,
) -> Comparison:
    """Return the reconciliation of a REML fit and a posterior of the same model.

    Args:
        reml: a fit by REML; ML has no flat-prior counterpart and is refused, but of families and
            with sampling weights, where it is that of the joint mode.
        post: draws from the posterior.
        published: printed values, from the gallery.
        limit: of Pareto's k, above which importance weights are not believed.

    Raises:
        ArgumentError: the two fits are not of the same model and data, `reml` is by ML, or the
            draws are from the prior alone.
    """
    _check_pair(reml, post)
    post = rejudge_draws(post)
    evidence = gather_evidence(reml, post, limit=limit)
    table = split_gaps(reml, post, evidence)
    checks = check_published(reml, published) if published else ()
    note = describe_published(reml, published, checks) if published else ""
    printed = published.estimates if published else {}
    table.insert(0, "published", [printed.get(name, {}).get("estimate") for name in table.index])
    judged = not published or published.comparable
    verdict, reasons = _judge(reml, post, evidence, table, checks if judged else ())
    if verdict == "not_converged":
        failed = list_failed(reml, post)
        table["verdict"] = verdict
        words = withhold_words(table, name_failed(failed))
        advice = advise_failed(failed)
    else:
        words = explain_gaps(table, post, evidence)
        advice = advise(table, post, evidence)
    conclusion = describe_verdict(
        table, verdict, words,
        certified=evidence.certified, bound=bool(post.diagnostics.prior_bound),
    )  # fmt: skip
    reasons = tuple(speak_of(reml, text) for text in reasons)
    advice = [speak_of(reml, text) for text in advice]
    words = {name: speak_of(reml, text) for name, text in words.items()}
    conclusion = speak_of(reml, conclusion)
    return Comparison(
        reml=reml, post=post, evidence=evidence, table=table, verdict=verdict, reasons=reasons,
        advice=tuple(advice), words=words, withheld=list_withheld(post, evidence),
        conclusion=conclusion, printed=checks, printed_note=note,
    )  # fmt: skip


def _check_pair(reml: AnyEstimate, post: Posterior) -> None:
    is_counted = isinstance(reml, FamilyEstimate | FamilyLevelsEstimate)
    if is_counted != isinstance(post.moments, Patterns | LevelPatterns):
        raise ArgumentError(
            f"the fits differ in their families ('{reml.moments.formula}' and "
            f"'{post.moments.formula}'); make both from one Model"
        )
    if isinstance(reml, FamilyEstimate | FamilyLevelsEstimate) and reml.nagq is not None:
        raise ArgumentError(
            f"nagq={reml.nagq} cannot be reconciled: the posterior rests on integrals that are "
            "exact; fit with model.ml()"
        )
    if not is_counted and reml.method != "reml" and not is_pseudo(reml):
        raise ArgumentError(
            f"method={reml.method!r} cannot be reconciled: only the REML estimate is the mode of "
            "a flat-prior posterior; fit with model.reml()"
        )
    if post.settings.prior_only:
        raise ArgumentError(
            "the posterior was sampled with prior_only=True, so there is nothing to reconcile; "
            "sample with the likelihood"
        )
    structures = (
        reml.structures
        if isinstance(reml, LevelsEstimate | FamilyLevelsEstimate)
        else (reml.structure,)
    )
    wrong = [each.kind for each in structures if not has_prior(each)]
    if wrong:
        raise ArgumentError(
            f"covariance={wrong[0]!r} has no posterior to reconcile with; fit both "
            "sides with a structure that sample() takes"
        )
    ours, theirs = reml.moments, post.moments
    same = ours is theirs or (
        ours.columns == theirs.columns
        and ours.fixed == theirs.fixed
        and is_same(ours, theirs)
        and _list_codes(ours) == _list_codes(theirs)
    )
    free = [(each.group, each.names, each.labels) for each in structures]
    others = [(each.group, each.names, each.labels) for each in post.structure.parts]
    if not same or free != others:
        raise ArgumentError(
            f"the fits differ in model or data ('{ours.formula}' and '{theirs.formula}'); make "
            "both from one Model, with the same covariance"
        )


def is_same(ours: Reduced, theirs: Reduced) -> bool:
    """Return whether two reductions hold the same data, perhaps in another order of the rows."""
    if isinstance(ours, Patterns) or isinstance(theirs, Patterns):
        return (
            isinstance(ours, Patterns)
            and isinstance(theirs, Patterns)
            and (ours.family.name, ours.family.link) == (theirs.family.name, theirs.family.link)
            and all(
                np.array_equal(getattr(ours, name), getattr(theirs, name))
                for name in ("starts", "n", "y", "offset", "values")
            )
        )
    if isinstance(ours, LevelPatterns) or isinstance(theirs, LevelPatterns):
        return (
            isinstance(ours, LevelPatterns)
            and isinstance(theirs, LevelPatterns)
            and (ours.family.name, ours.family.link) == (theirs.family.name, theirs.family.link)
            and all(
                np.array_equal(getattr(ours, name), getattr(theirs, name))
                for name in ("n", "y", "offset", "values", "rows")
            )
        )
    return np.array_equal(ours.n, theirs.n) and is_alike(
        (ours.mean, ours.cross), (theirs.mean, theirs.cross), n=float(np.sum(ours.n))
    )


def _list_codes(moments: Reduced) -> list[list[int]]:
    """Return the level of every factor that each cell belongs to; of one factor nothing."""
    return moments.codes.tolist() if isinstance(moments, CellMoments | LevelPatterns) else []


def _judge(
    reml: AnyEstimate,
    post: Posterior,
    evidence: Evidence,
    table: "pd.DataFrame",
    checks: tuple[PrintedCheck, ...],
) -> tuple[Verdict, tuple[str, ...]]:
    reasons = [f"Posterior: {failure}." for failure in post.diagnostics.failures]
    reasons += evidence.reasons
    if reml.advice:
        reasons.append(f"REML: {reml.advice}.")
    if not (reml.converged and post.converged):
        return "not_converged", tuple(reasons)
    reasons += [f"Priors: {sentence}." for sentence in post.diagnostics.prior_bound]
    reasons += _flag_boundary(post, table, evidence)
    bad = table[table["verdict"] == "unexplained"]
    found = find_contradictions(post) + _describe_refuted(evidence) + find_joint(post, evidence)
    if evidence.adjustment is not None and evidence.adjustment.made:
        found += [evidence.adjustment.sentence] if evidence.adjustment.sentence else []
    if evidence.identity.sentence:
        reasons.append(evidence.identity.sentence)
    if len(bad) and not (found or evidence.identity.is_broken):
        reasons.append(_describe_unexplained(bad))
    wrong = [check for check in checks if not check.reproduced]
    if wrong:
        found.append(
            f"{count(len(wrong), 'printed value')} {agree(len(wrong), 'is', 'are')} not "
            f"reproduced, first {wrong[0].quantity} of "
            f"{wrong[0].name}: printed {wrong[0].printed}, computed {wrong[0].computed:.7g}."
        )
    reasons += found
    if len(bad) or found or evidence.identity.is_broken:
        return "unexplained", tuple(reasons)
    verdicts = table["verdict"][table["reml"].notna()]
    lost = list(verdicts.index[verdicts == "undetermined"])
    if lost or post.diagnostics.prior_bound or not evidence.certified:
        return "undetermined", tuple(reasons)
    return ("agree" if (verdicts == "agree").all() else "explained"), tuple(reasons)


def _describe_refuted(evidence: Evidence) -> list[str]:
    """Return a sentence on what the draws miss, by the worst of it; none if they are certified."""
    judgement = evidence.judgement
    if judgement is None or not judgement.refuted:
        return []
    name, statistic = judgement.refuted[0]
    more = len({each for each, _ in judgement.refuted}) - 1
    others = (
        f", and {more} more parameters are off"
        if more > 1
        else (", and one more parameter is off" if more else "")
    )
    return [
        f"The draws are not those of the posterior: the {STATISTICS[statistic]} of {name} is "
        f"{abs(judgement.scores[name][statistic].z):.1f} standard errors off by the independent "
        f"route (limit {judgement.limit:.1f}){others}."
    ]


def _list_unjudged(judgement: Judgement, *, by: str) -> str:
    """Return a clause on the parameters whose tails are too heavy for mean or SD to be judged."""
    heavy = [
        name
        for name, row in judgement.scores.items()
        if not all(math.isfinite(row[key].z) for key in ("mean", "sd"))
    ]
    if not heavy:
        return ""
    return f" ({list_names(heavy)} by {by} alone, whose tails are too heavy for mean or SD)"


def _list_rounded(evidence: Evidence, told: str) -> str:
    """Return a clause on what was done with correlations that are +-1 to rounding."""
    if not evidence.rounded:
        return ""
    are = agree(len(evidence.rounded), "is", "are")
    return f" ({list_names(evidence.rounded)} {are} {told})"


def _describe_unexplained(bad: "pd.DataFrame") -> str:
    """Return which fixed effect REML has elsewhere than the mode under flat priors."""
    worst = (bad["unexplained"] / bad["sd"]).abs().idxmax()
    row = bad.loc[worst]
    return (
        f"{row['unexplained']:+.3g} in {worst} ({row['unexplained'] / row['sd']:+.2g} posterior "
        "SDs) is accounted for by nothing: given the variances the fixed effects of REML should be "
        "those of the mode under flat priors."
    )


def _flag_boundary(post: Posterior, table: "pd.DataFrame", evidence: Evidence) -> list[str]:
    """Return a flag for each SD whose posterior reaches zero, each correlation that reaches +-1.

    That the data do not rule it out is said only where the posterior reaches as far without the
    priors of the SDs, or of the correlations; that a mean depends on the priors only where swapping
    them was computed to move it.
    """
    nouns, flags = name_priors(post), []
    for name, draws in zip(post.parameters, post.draws.values(), strict=True):
        lower, upper = np.quantile(draws, [0.025, 0.975])
        mean = float(draws.mean())
        if name.is_sd and lower < NEAR_ZERO * mean:
            share = table.loc[str(name), "prior"] / table.loc[str(name), "sd"]
            clause = f", and the priors move its mean by {share:+.2g} posterior SDs"
            clause = clause if abs(share) > NEGLIGIBLE else ""
            part = _name_part("sd", name, post)
            free = evidence.find_points(str(name), part)
            told = f"The posterior of {name} reaches zero (2.5 % point {lower:.2g})"
            if free is None:
                flags.append(f"{told}: under these priors it is not ruled out that it vanishes.")
            elif free.lower < NEAR_ZERO * mean:
                flags.append(f"{told}: the data do not rule out that it vanishes{clause}.")
            else:
                flags.append(
                    f"{told} by {nouns[part]}: without, that point is {free.lower:.2g}{clause}."
                )
        reaches = name.is_correlation and max(-lower, upper) > NEAR_ONE
        if reaches and (upper - lower > WIDE or _reaches_one(post, name, draws)):
            sign = 1.0 if upper > -lower else -1.0
            one = f"{'+' if sign > 0.0 else '-'}1"
            part = _name_part("corr", name, post)
            free = evidence.find_points(str(name), part)
            told = (
                f"The posterior of {name} reaches {one} (95 % interval {lower:.2f} to {upper:.2f})"
            )
            if upper - lower > WIDE:
                flags.append(f"{told}: the correlation is hardly identified.")
            elif free is None:
                flags.append(f"{told}: under these priors it is not ruled out that it is {one}.")
            elif (free.upper if sign > 0.0 else -free.lower) > NEAR_ONE:
                flags.append(f"{told}: the data do not rule out that it is {one}.")
            else:
                flags.append(
                    f"{told} by {nouns[part]}: without, it is {free.lower:.2f} to {free.upper:.2f}."
                )
    return flags


def _reaches_one(post: Posterior, name: Parameter, draws: np.ndarray) -> bool:
    """Return whether a correlation reaches +-1 wherever the zeros of the covariates are put.

    Far from the columns' means a correlation is nearly +-1 by where zero lies, whatever the data
    say. At the means the correlations of a block have an eigenvalue of at most 1 - |r|, so that
    there nothing more is asked.
    """
    frame = stand_at_means(post.moments, post.structure)
    (span,) = (
        span
        for part, span in zip(post.structure.parts, post.structure.spans, strict=True)
        if part.group == name.group
    )
    root = frame.random[span, span] @ post.flat.root[:, span, span]
    sd = np.linalg.norm(root, axis=-1)
    scaled = np.divide(root, sd[:, :, None], out=np.zeros_like(root), where=sd[:, :, None] > 0.0)
    least = np.linalg.svd(scaled, compute_uv=False)[:, -1] ** 2
    both = (np.abs(draws.ravel()) > NEAR_ONE) & (least < 1.0 - NEAR_ONE)
    return bool(np.mean(both) > TAIL)


def _name_part(kind: str, parameter: Parameter, post: Posterior) -> str:
    """Return the name, of `list_priors`, of the prior of an SD or a correlation."""
    return kind if len(post.structure.parts) == 1 else f"{kind}|{parameter.group}"
