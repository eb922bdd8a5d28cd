"""The caterpillar: every group's effects with their intervals, in order of size."""

from bhlm.bayes.family.draws import FamilyDraws
from bhlm.errors import ArgumentError, check_arguments
from bhlm.plots.family_groups import FamilyFits, draw_groups, is_family
from bhlm.plots.figure import Figure
from bhlm.plots.groups import Fit, join_effects, split_fit
from bhlm.plots.ranked_effects import draw_caterpillar
from bhlm.reml.family.estimate import FamilyEstimate


@check_arguments
def plot_caterpillar(
    fit: Fit | FamilyFits, *, coefficient: str | None = None, scale: str = "link"
) -> Figure:
    """Return each group's effects with 95 % intervals, one panel per coefficient, in order.

    An effect is the deviation u of a group's coefficient from what the fixed effects expect. REML
    gives empirical Bayes and its standard error of prediction, which knows that the fixed effects
    are estimated, but takes the variances as known; the posterior its mean and equal-tailed
    interval; a reconciliation both. Of more than 200 groups the 20 lowest, the 20 highest and
    every k-th of the others are drawn, each at its rank among all.

    Of zeros and ones, proportions and counts effects are on the link scale, empirical Bayes being
    the mean and the SD of u given the estimated parameters; with scale="response" it is the
    expected response of each group where every column has its mean.

    Source: Henderson (1975), Biometrics 31, 423-447.

    Args:
        fit: a RemlFit, a BayesFit or a Reconciliation, or those of a family.
        coefficient: the random coefficient to draw; None draws all.
        scale: "link" or "response", of a family.

    Raises:
        ArgumentError: a coefficient that is not random in the model, or a scale that is not there.
    """
    if is_family(fit):
        return draw_groups(fit, coefficient=coefficient, scale=scale)
    if scale != "link":
        raise ArgumentError(
            f"scale={scale!r} is for families of zeros and ones, proportions and counts; leave it "
            "out"
        )
    assert not isinstance(fit, FamilyEstimate | FamilyDraws)
    reml, post = split_fit(fit)
    given = reml if reml is not None else post
    assert given is not None
    names = given.moments.random
    if coefficient is not None:
        if coefficient not in names:
            raise ArgumentError(
                f"coefficient={coefficient!r} does not vary over '{given.moments.group}'; choose "
                f"one of {', '.join(names)}"
            )
        names = (coefficient,)
    effects = join_effects(reml, post)
    return draw_caterpillar(given.moments, effects, names, posterior=post is not None)
