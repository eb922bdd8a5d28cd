"""The command that fits anew what a page of a fit made in Python is about."""

import shlex
from typing import TYPE_CHECKING, Any

from bhlm.bayes.independent import LARGE
from bhlm.bayes.sampling import LONG_STEPS, MANY_GROUPS, choose_acceptance
from bhlm.reml.sandwich import CONVENTIONS
from bhlm.reports.dashboard.blocks import Subject
from bhlm.reports.dashboard.choices import count_groups, find_default, is_moved, state_formula

if TYPE_CHECKING:
    from bhlm.bayes.draws import Posterior
    from bhlm.design.formula.weights import Weights
    from bhlm.studies.imputations.pooled import Pooled

DEPTH = 10  # of the trees, where nobody asks for more
LEVEL = 0.95


class UnsaidError(Exception):
    """The command line has no option for what was asked of a fit."""


def write_command(subject: Subject) -> str:
    """Return the command that was typed, or one that fits the same; "" where there is none.

    FILE stands for the table. Priors, samplers and standard errors that have no option of a
    command leave nothing to type.
    """
    typed = subject.source.get("Command")
    if typed:
        return typed
    try:
        if subject.pooled is not None:
            words = _state_pooled(subject, subject.pooled)
        else:
            words = _state_fit(subject)
    except UnsaidError:
        return ""
    return shlex.join([*words, "--dashboard", "report.html"])


def _state_fit(subject: Subject) -> list[str]:
    fit, post = subject.estimate, subject.posterior
    verb = "reconcile" if subject.both is not None else "sample" if fit is None else "reml"
    if verb == "reml" and subject.is_counted:
        verb = "ml"
    held: Any = fit if fit is not None else post
    words = ["bhlm", verb, "--data", "FILE"]
    if subject.is_counted:
        family = held.moments.family
        words += ["--formula", str(held.moments.design.formula)]
        words += ["--family", family.name, "--link", family.link]
        nodes = getattr(fit, "nagq", None)
        if nodes is not None and verb != "ml":
            raise UnsaidError
        words += [] if nodes is None else ["--nagq", str(nodes)]
    else:
        weights = held.moments.weights
        words += ["--formula", held.moments.formula, *_state_weights(weights)]
        words += [] if fit is None else _state_estimate(fit, weights, verb)
    words += _state_covariance(held)
    return words if post is None else [*words, *_state_run(post)]


def _state_estimate(fit: Any, weights: "Weights | None", verb: str) -> list[str]:
    """Return the options of the likelihood and of the standard errors."""
    is_sampling = weights is not None and weights.is_sampling
    usual = "full" if is_sampling else "model"
    errors = getattr(fit, "errors", "model")  # fits with strata have those of the model alone
    if verb == "reconcile":
        if fit.method != ("ml" if is_sampling else "reml") or errors != usual:
            raise UnsaidError
        return []
    words = ["--method", "ml"] if fit.method == "ml" else []
    if errors == usual:
        return words
    if errors not in CONVENTIONS:  # but replicate weights
        raise UnsaidError
    return [*words, "--errors", errors]


def _state_covariance(fit: Any) -> list[str]:
    structures = getattr(fit, "structures", None) or (fit.structure,)
    chosen = [each.name_override for each in structures if each.name_override is not None]
    if not chosen:
        return []
    if len(structures) > 1:
        raise UnsaidError
    return ["--covariance", chosen[0]]


def _state_weights(weights: "Weights | None") -> list[str]:
    """Return the options of weights, known variances or strata."""
    if weights is None:
        return []
    rows = [] if weights.rows is None else [weights.rows]
    if weights.strata:
        return ["--residual", *rows]
    if weights.holds_sigma:
        return ["--known-variance", *rows]
    words = ["--weights", *rows] if rows else []
    if not weights.is_sampling:
        return [*words, "--weights-are", weights.kind] if weights.counts_rows else words
    groups = weights.groups
    if weights.factors:
        groups = "; ".join(f"{name}={text}" for name, text in weights.factors)
    words += [] if groups is None else ["--group-weights", groups]
    words += [] if weights.scaling == "none" else ["--scaling", weights.scaling]
    return words if groups or weights.scaling != "none" else [*words, "--weights-are", "sampling"]


def _state_run(post: "Posterior") -> list[str]:
    """Return the options of the draws."""
    run = post.settings
    groups = getattr(post.moments, "groups", None)
    fewest = min(groups.values()) if isinstance(groups, dict) else count_groups(post)
    if is_moved(post) or any(chosen != usual for chosen, usual in find_default(post)):
        raise UnsaidError
    usual = {choose_acceptance(fewest)} | ({LONG_STEPS} if fewest >= MANY_GROUPS else set())
    if run.target_accept not in usual or run.maxdepth != DEPTH or run.prior_only:
        raise UnsaidError
    words = ["--seed", str(post.seed), "--draws", str(run.draws), "--tune", str(run.tune)]
    words += ["--chains", str(run.chains)]
    if post.diagnostics.certificate is not None:
        words += ["--method", "independent"]
    elif count_groups(post) >= LARGE:
        words += ["--method", "nuts"]
    adjustment = getattr(post, "adjustment", None)
    is_left = adjustment is not None and adjustment.failure == "adjust=False"
    return [*words, "--no-adjust"] if is_left else words


def _state_pooled(subject: Subject, pooled: "Pooled") -> list[str]:
    if subject.mixture is not None or pooled.level != LEVEL:
        raise UnsaidError
    fit = pooled.fits[0]
    weights = fit.moments.weights
    is_one = len(pooled.responses) > 1  # table, with several plausible values
    files = ["FILE"] if is_one else [f"FILE_{at}" for at in range(1, pooled.m + 1)]
    words = ["bhlm", "pool", *files, "--formula", state_formula(pooled), *_state_weights(weights)]
    words += _state_estimate(fit, weights, "pool")
    return [*words, *_state_covariance(fit), "--df", pooled.df]
