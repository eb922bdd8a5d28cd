"""Four findings on two fits, each with a status and words of its own.

    convergence      whether each fit did what it was asked to
    reconciliation   whether the two answers are the same, or differ for known reasons
    model checks     whether the data look as the model says
    priors           whether the data decide, or the priors

They are independent: answers may agree on a model that does not describe the data, and draws from
a posterior that its prior decides may be perfect. Of fits that failed only the first is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from bhlm.bayes.checks.model_checks import Checks
from bhlm.layout import format_digits, list_names

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.draws import Posterior
    from bhlm.reml.estimate import Estimate
    from bhlm.reml.family.maximum import FamilyMaximum
    from bhlm.reml.levels import LevelsEstimate
    from bhlm.reml.strata import StrataEstimate

# "unknown" is what was not judged, or cannot be.
Status = Literal["holds", "caution", "unknown", "fails"]
SEVERITY: tuple[Status, ...] = ("holds", "caution", "unknown", "fails")

# Of each verdict of a reconciliation.
VERDICTS: dict[str, tuple[Status, str]] = {
    "agree": ("holds", "The two answers agree"),
    "explained": ("holds", "Every gap is explained"),
    "undetermined": ("caution", "Undetermined"),
    "unexplained": ("fails", "Unexplained gap"),
    "not_converged": ("unknown", "Not compared"),
}
# What priors move a mean by, in posterior SDs, from which on it is told.
LARGE = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on one question."""

    topic: str  # "convergence", "reconciliation", "model checks" or "priors"
    status: Status
    label: str  # two to four words, for a badge
    headline: str  # a sentence
    details: tuple[str, ...] = ()  # sentences

    @property
    def holds(self) -> bool:
        """Whether nothing stands against it."""
        return self.status == "holds"


class Findings(NamedTuple):
    """The four findings; None stands for one that has nothing to be about."""

    convergence: Finding
    reconciliation: Finding | None
    model_checks: Finding | None
    priors: Finding | None

    @property
    def told(self) -> tuple[Finding, ...]:
        """Those that are there, in their order."""
        return tuple(each for each in self if each is not None)

    @property
    def worst(self) -> Finding:
        """The first of the gravest; of four that hold, the reconciliation."""
        worst = max(self.told, key=lambda each: SEVERITY.index(each.status))
        if worst.holds and self.reconciliation is not None:
            return self.reconciliation
        return worst


def judge_convergence(
    reml: "Estimate | LevelsEstimate | FamilyMaximum | StrataEstimate | None",
    post: "Posterior | None",
) -> Finding:
    """Return whether the fits that there are did what they were asked to."""
    details = []
    by = "REML" if reml is None else reml.method.upper()
    if reml is not None and reml.advice:
        details.append(f"{by}: {_end(reml.advice)}")
    if post is not None:
        details += [f"Posterior: {_end(failure)}" for failure in post.diagnostics.failures]
    failed = list_failed(reml, post)
    if failed:
        return Finding(
            "convergence", "fails", "Not converged", _describe_failed(failed, by), (*details,)
        )
    if reml is not None and reml.singular:
        headline = (
            f"The {by} fit is singular: a variance or correlation stands on its boundary, where "
            "standard errors do not exist."
        )
        return Finding("convergence", "caution", f"Singular {by} fit", headline, (*details,))
    label = getattr(reml, "label", "")  # of a family: what its likelihood is approximated by
    of = f" of the likelihood by {label}" if label else ""
    passed = [] if reml is None else [f"The {by} fit converged to an interior maximum{of}"]
    if post is not None:
        subject = "the posterior draws" if passed else "The posterior draws"
        passed.append(f"{subject} pass every convergence check ({list_numbers(post)})")
    return Finding("convergence", "holds", "Converged", f"{'; '.join(passed)}.", (*details,))


def list_failed(
    reml: "Estimate | LevelsEstimate | FamilyMaximum | StrataEstimate | None",
    post: "Posterior | None",
) -> tuple[str, ...]:
    """Return which of the fits failed its own diagnostics: "reml", "posterior"."""
    found = {"reml": reml, "posterior": post}
    return tuple(name for name, fit in found.items() if fit is not None and not fit.converged)


def name_failed(failed: Sequence[str], by: str = "REML") -> str:
    """Return a clause on which fits failed."""
    told = {
        "reml": f"the {by} fit did not converge",
        "posterior": "the posterior draws failed their diagnostics",
    }
    return " and ".join(told[each] for each in failed)


def _describe_failed(failed: Sequence[str], by: str) -> str:
    text = name_failed(failed, by)
    its = "either" if len(failed) > 1 else "its estimates" if "reml" in failed else "them"
    return f"{text[0].upper()}{text[1:]}: do not report {its}."


def judge_agreement(verdict: str, conclusion: str, details: Sequence[str]) -> Finding:
    """Return the verdict of a reconciliation as a finding."""
    status, label = VERDICTS[verdict]
    kept = () if verdict == "not_converged" else tuple(details)
    return Finding("reconciliation", status, label, conclusion, kept)


def judge_model(checks: Checks | None, *, failed: Sequence[str] = ()) -> Finding:
    """Return whether the data look as the model says.

    It fails where the PIT is not uniform, or a group is outside of what is predicted of it after
    multiplying by the number of statistics compared, each at p < 0.01; summaries of the groups
    that are outside call for caution, since they are many.

    Args:
        checks: of the posterior; None if they were not made.
        failed: the fits that failed.
    """
    topic = "model checks"
    if failed:
        return Finding(topic, "unknown", "Model not checked", f"Not judged: {name_failed(failed)}.")
    if checks is None:
        told = "Not judged: the checks of the model were left out."
        return Finding(topic, "unknown", "Model not checked", told)
    details = (*map(_open, (*checks.failures, *checks.doubts)), *map(_open, checks.left_out))
    if checks.failures:
        headline = (
            "The data are not as the model says, beyond what chance would do: both answers are "
            "answers to a model that misses something."
        )
        return Finding(topic, "fails", "A model check fails", headline, details)
    if checks.doubts:
        headline = "A summary of the groups lies outside of what the model predicts of it."
        return Finding(topic, "caution", "A model check is in doubt", headline, details)
    if checks.predictive is None or checks.distribution is None:
        headline = "Not all of the model was checked."
        return Finding(topic, "unknown", "Model not checked", headline, details)
    headline = (
        "No group and no summary of the groups lies outside of what the model predicts "
        f"({checks.predictive.draws} replicates). {_open(checks.distribution)}"
    )
    return Finding(topic, "holds", "Model checks pass", headline, details)


def judge_priors(
    checks: Checks | None,
    *,
    failed: Sequence[str] = (),
    improper: bool = False,
    bound: Sequence[str] = (),
    table: "pd.DataFrame | None" = None,
) -> Finding:
    """Return whether the data decide, or the priors.

    Args:
        checks: of the posterior; None if they were not made.
        failed: the fits that failed.
        improper: whether the posterior is, which does not depend on draws.
        bound: a clause on each thing that the default prior alone bounds; nor does that.
        table: how the gaps split, where there are two fits.
    """
    topic = "priors"
    if improper:
        headline = (
            "Under these priors the posterior is improper, so that no number of it means "
            "anything; give priors that bound it, such as the default ones."
        )
        return Finding(topic, "fails", "Improper posterior", headline)
    if bound:
        headline = "The data leave part of the answer to the default prior."
        return Finding(topic, "fails", "The prior decides", headline, tuple(map(_end, bound)))
    if failed:
        return Finding(topic, "unknown", "Priors not judged", f"Not judged: {name_failed(failed)}.")
    moved = [] if table is None else list_swayed(table)
    if checks is None or checks.sensitivity is None:
        told = "Not judged: the sensitivity to the priors was not measured."
        return Finding(topic, "unknown", "Priors not judged", told, (*moved,))
    found = checks.sensitivity
    details = (*(_open(each) for each in found.findings), *moved)
    strong = list(found.table.index[found.table["diagnosis"] == "strong prior"])
    if strong:
        them = "it" if len(strong) == 1 else "them"
        headline = f"The prior decides {list_names(strong)}: the data hardly move {them}."
        return Finding(topic, "caution", "The prior decides", headline, details)
    if details:
        headline = "Part of the answer depends on the priors."
        return Finding(topic, "caution", "The prior has a say", headline, details)
    headline = (
        f"The data decide: no parameter's sensitivity to the priors reaches {found.threshold:g}."
    )
    return Finding(topic, "holds", "The data decide", headline)


def list_swayed(table: "pd.DataFrame") -> list[str]:
    """Return a sentence on the means that the priors move far from those under flat ones."""
    share = (table["prior"] / table["sd"]).abs()
    far = [str(name) for name in table.index[share > LARGE]]
    if not far:
        return []
    return [
        f"Against flat priors, those chosen move the mean of {list_names(far)} by up to "
        f"{format_digits(float(share.max()), 2)} posterior SDs."
    ]


def list_numbers(post: "Posterior") -> str:
    """Return the numbers that the convergence of draws is judged by, in a clause."""
    return post.diagnostics.numbers


def _open(clause: str) -> str:
    """Return a clause as a sentence; names such as slope(x) keep their first letter."""
    is_name = "(" in clause.split(" ")[0]
    return _end(clause if is_name else f"{clause[:1].upper()}{clause[1:]}")


def _end(sentence: str) -> str:
    return sentence if sentence.endswith(".") else f"{sentence}."
