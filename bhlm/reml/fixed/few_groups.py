"""What a normal test of a fixed effect hides where there are few groups.

z takes the variance components as known. The t statistic with Satterthwaite's degrees of freedom
does not; below about 30 of them the two give p-values that differ where it matters (at t = 2.04,
p = .041 by z and .050 on 30 df). Source: Giesbrecht & Burns (1985), Biometrics 41, 477-486;
Kuznetsova, Brockhoff & Christensen (2017), J. Stat. Softw. 82(13), section 2; Luke (2017), Behavior
Research Methods 49, 1494-1502, for the error rates of z at few groups.
On a singular fit Satterthwaite's df are nearly those of least squares (3 groups gave a predictor of
groups 26): there the smaller of his and HLM's J - S - 1, which belongs to one factor, is taken.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.layout import agree, list_names, show_name
from bhlm.likelihood.laws import student_tail
from bhlm.moments.moments import Moments
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.hlm_df import coefficient_df
from bhlm.reml.fixed.satterthwaite import satterthwaite_df
from bhlm.reml.maximum import Maximum
from bhlm.reml.sandwich import CONVENTIONS, tell_errors

if TYPE_CHECKING:
    from bhlm.moments.cells import CellMoments
    from bhlm.reml.levels import LevelsEstimate

Array = np.ndarray

FEW = 30.0  # degrees of freedom from which on z will do
ALPHA = 0.05
BINARY = 1e-9  # of a row: what sums of squares about the mean keep


@dataclass(frozen=True, slots=True)
class FewGroups:
    """The fixed effects' tests by z and by t."""

    names: tuple[str, ...]  # (p,)
    statistic: Array  # (p,)
    df: Array  # (p,) by `method`; nan where the fit has none
    p_z: Array  # (p,)
    p_t: Array  # (p,)
    groups: dict[str, int]  # by factor, how many there are
    method: str  # "Satterthwaite", or on singular fits of one factor "the smaller of ..."

    @property
    def worst(self) -> int | None:
        """The fixed effect with the fewest df, among those below 30; None if there is none.

        The intercept is tested by nobody; it is named only where nothing else is below 30.
        """
        few = [i for i in range(len(self.df)) if not self.df[i] >= FEW]
        few = [i for i in few if self.names[i] != "Intercept"] or few
        return min(few, key=lambda i: (np.nan_to_num(self.df[i]), i), default=None)

    @property
    def changed(self) -> tuple[str, ...]:
        """The fixed effects whose p is below .05 by z and not by t."""
        crossed = (self.p_z < ALPHA) & ~(self.p_t < ALPHA)
        return tuple(name for name, each in zip(self.names, crossed, strict=True) if each)


def compare_tests(fit: Maximum) -> FewGroups:
    """Return the test of each fixed effect by z and by t with Satterthwaite's df."""
    moments = fit.moments
    if isinstance(moments, Moments):
        groups = {moments.group: moments.n_groups}
    else:
        groups = dict(moments.groups)
    with np.errstate(all="ignore"):
        statistic = fit.beta / np.sqrt(np.diag(fit.beta_cov))
        df, method = satterthwaite_df(fit, np.eye(len(fit.beta))), "Satterthwaite"
        if fit.singular and isinstance(moments, Moments):
            df = np.fmin(df, coefficient_df(moments))
            method = "the smaller of Satterthwaite's and J - S - 1, as the fit is singular"
        p_t = 2.0 * student_tail(np.abs(statistic), df)
    return FewGroups(
        names=tuple(moments.fixed),
        statistic=statistic,
        df=df,
        p_z=2.0 * special.ndtr(-np.abs(statistic)),
        p_t=p_t,
        groups=groups,
        method=method,
    )


def note_few_groups(fit: Maximum, *, advise: bool = True) -> str:
    """Return the sentence that every summary ends with where a fixed effect has few df, or "".

    With `advise` it ends with where the t tests are.
    """
    if fit.judged_by_z or not fit.converged:
        return ""
    return describe_few_groups(compare_tests(fit), advise=advise)


def note_binary(fit: Maximum) -> str:
    """Return the sentence about a response of zeros and ones, or "".

    Moments tell: sum y^2 = sum y in every group or cell. Other families have a single factor.
    """
    moments = fit.moments
    total = moments.mass * moments.mean[:, -1]
    squares = moments.cross[:, -1, -1] + total * moments.mean[:, -1]
    if np.any(np.abs(squares - total) > BINARY * np.maximum(moments.mass, 1.0)):
        return ""
    one = isinstance(moments, Moments)
    return (
        f"{show_name(moments.response)} is 0 or 1: effects are differences of probabilities, and "
        "the residual variance, which a normal model holds constant, is not; "
        f"family='bernoulli'{'' if one else ', for a single grouping factor,'} does not assume that"
    )


def note_weights(fit: Estimate) -> list[str]:
    """Return what the weights are, how much they leave, and whose standard errors these are."""
    weights = tell_weights(fit.moments)
    notes = [weights] if weights else []
    if fit.errors != "model":
        notes.append(
            f"Standard errors by {tell_errors(fit.errors)}; fit.compare_conventions() has those of "
            "other programs"
        )
    return notes


def tell_weights(moments: "Moments | CellMoments") -> str:
    """Return what the weights are, and how much they leave of rows and groups; "" without."""
    weights = moments.weights
    if weights is None:
        return ""
    sentence = f"{weights.sentence[0].upper()}{weights.sentence[1:]}"
    if weights.is_sampling and not isinstance(moments, Moments):
        size = moments.effective_size
        units = [
            f"{size['units'][name]:.4g} of {count:,} units of {name}"
            for name, count in moments.groups.items()
        ]
        sentence += (
            f"; effective sample size {size['rows']:.5g} of {moments.n_rows} rows, "
            f"{list_names(units, most=len(units))}"
        )
    elif weights.is_sampling:
        assert isinstance(moments, Moments)
        size = moments.effective_size
        sentence += (
            f"; effective sample size {size['rows']:.5g} of {moments.n_rows} rows and "
            f"{size['groups']:.4g} of {moments.n_groups} groups"
        )
    return show_name(sentence)


def list_notes(fit: Estimate, *, df: str | None = None) -> list[str]:
    """Return the sentences under every summary: weights, few groups, a response of 0 and 1.

    `df` is the method by which tests stand above them; None and "z" leave those by t to be had.
    """
    few = note_few_groups(fit, advise=df in (None, "z"))
    return [note for note in (*note_weights(fit), few, note_binary(fit)) if note]


def list_level_notes(fit: "LevelsEstimate", *, df: str | None = None) -> list[str]:
    """Return the sentences of `list_notes` of several factors, and what to know of their labels."""
    moments = fit.moments
    notes = []
    if weights := tell_weights(moments):
        notes.append(f"{weights}.")
    if fit.errors != "model":
        notes.append(
            f"Standard errors by the scores of the coarsest units ({fit.errors})."
            if fit.errors in CONVENTIONS
            else f"Standard errors by {fit.errors}."
        )
    notes += [note_few_groups(fit, advise=df in (None, "z")), note_binary(fit)]
    return [note for note in (*notes, f"Note: {moments.note}" if moments.note else "") if note]


def describe_few_groups(found: FewGroups, *, advise: bool = True) -> str:
    """Return the sentence about tests by z where a fixed effect has fewer than 30 df, or "".

    It names the fixed effect with the fewest, its df, and its p by z and by t; further effects that
    z calls significant at .05 and t does not; and, with `advise`, where the t tests are.
    """
    worst = found.worst
    if worst is None:
        return ""
    name = show_name(found.names[worst])
    df, p_z, p_t = found.df[worst], found.p_z[worst], found.p_t[worst]
    if np.isnan(df):
        about = f"the degrees of freedom of {name} cannot be estimated"
    else:
        about = (
            f"{name} has {df:.1f} degrees of freedom ({found.method}): p = {_format_p(p_z)} by z, "
            f"{_format_p(p_t)} by t"
        )
    others = [show_name(each) for each in found.changed if each != found.names[worst]]
    more = ""
    if others:
        verb = agree(len(others), "is", "are")
        more = f"; {', '.join(others)} {verb} below .05 by z and not by t"
    by_groups = found.method != "Satterthwaite"
    argument, option = ('method="hlm"', "hlm") if by_groups else ("", "satterthwaite")
    units = ", ".join(f"{number} of '{show_name(name)}'" for name, number in found.groups.items())
    told = f"Few groups ({units}): {about}{more}"
    if not advise:
        return told
    return f"{told}. fit.fixed_effects({argument}), or --df {option}, gives every test by t"


def _format_p(p: float) -> str:
    """Return a p-value with three places, and two digits where they are all zeros."""
    return f"{p:.3f}" if p >= 5e-4 else f"{p:.1e}"
