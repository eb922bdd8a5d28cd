"""Whether the mode under flat priors is the REML estimate, by their log-likelihoods."""

from dataclasses import dataclass
from typing import Literal

from bhlm.reconciliation.flat_mode import FlatMode
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.strata import StrataEstimate

# In log-likelihood: what rounding and a gradient that has been stopped at leave, per 1e4 of it.
SAME_HEIGHT = 1e-6

Finding = Literal["same", "search_short", "reml_short", "likelihoods", "density"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What comparing the two optima found."""

    finding: Finding
    sentence: str  # empty if all is well

    @property
    def is_broken(self) -> bool:
        """Whether one of the two engines is at fault."""
        return self.finding not in ("same", "search_short")


def compare_heights(
    mode: FlatMode, reml: Estimate | LevelsEstimate | FamilyMaximum | StrataEstimate
) -> Identity:
    """Return whether the mode is the REML estimate and, if not, which side is at fault.

    The restricted log-likelihood is computed at both points by the sampler's kernel, so that a
    search that stops short is told from an estimate that is no maximum; and at the REML estimate
    by both kernels.
    """
    slack = SAME_HEIGHT * max(1.0, abs(reml.loglik) / 1e4)
    if not mode.flatness <= slack:
        return Identity(
            "density",
            "The sampler's density under flat priors is not the likelihood times the Jacobian: the "
            f"remainder varies by {mode.flatness:.2g}, so that what it is drawn from is not the "
            "posterior that was asked for.",
        )
    if not abs(mode.start_loglik - reml.loglik) <= slack:
        return Identity(
            "likelihoods",
            f"At the REML estimate the restricted log-likelihood is {mode.start_loglik:.9g} by the "
            f"sampler's kernel and {reml.loglik:.9g} by REML's own account: the estimate is not "
            "the one that was fitted, or one of the two kernels is wrong.",
        )
    if mode.shortfall > slack:
        return Identity(
            "reml_short",
            "REML stopped short of the maximum: the restricted log-likelihood is "
            f"{mode.shortfall:.2g} higher at the mode under flat priors, so that the REML estimate "
            "is no optimum.",
        )
    if mode.own_loglik < mode.start_loglik - slack:
        return Identity(
            "search_short",
            "The search for the mode under flat priors stopped short: from starts of its own it "
            f"ended {mode.start_loglik - mode.own_loglik:.2g} below REML in log-likelihood, and "
            "found nothing higher from the REML estimate, which is the mode.",
        )
    return Identity("same", "")
