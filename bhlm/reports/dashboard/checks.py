"""The page of the model checks: prediction, leaving groups out, influence, residuals."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bhlm.bayes.checks.level_pit import check_level_pit
from bhlm.bayes.checks.level_predictive import check_units
from bhlm.bayes.checks.loo import leave_out_groups
from bhlm.bayes.checks.predictive import check_groups
from bhlm.errors import BhlmError
from bhlm.layout import count
from bhlm.plots.figure import Figure
from bhlm.plots.groups import thin_posterior
from bhlm.plots.influence import plot_influence
from bhlm.plots.khat import draw_khat
from bhlm.plots.loo_pit import draw_loo_pit, plot_loo_pit
from bhlm.plots.predictive import draw_predictive
from bhlm.plots.residuals import plot_residuals
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Text
from bhlm.reports.dashboard.groups import describe_thinning

if TYPE_CHECKING:
    from bhlm.bayes.checks.loo import Loo
    from bhlm.bayes.checks.predictive import PredictiveCheck
    from bhlm.bayes.draws import Draws
    from bhlm.design.formula.weights import Weights
    from bhlm.reml.estimate import Estimate

# Groups up to which every one is left out and the model refitted: seconds for 1,000, and the
# cost grows with the square.
INFLUENCE = 1000
# Groups above the threshold of k-hat up to which the posterior is sampled without each.
REFITS = 3
PRIOR_ONLY = "The draws are from the prior alone, which no data can contradict yet."


def build_checks(
    subject: Subject, *, refits: int = REFITS, influence: int = INFLUENCE
) -> Section | None:
    """Return the page of the model checks; None if there is neither a REML fit nor a posterior.

    A block that cannot be computed is replaced by the reason why. Draws from the prior alone have
    nothing to check.

    Args:
        subject: the fits, and the model if its rows are to be checked.
        refits: groups above the threshold of k-hat up to which each is left out by a run of the
            sampler.
        influence: groups up to which each is left out and the model refitted by REML.
    """
    blocks: list[Block] = []
    post, reml = subject.post, subject.reml
    fit = reml if reml is not None else post
    weights = None if fit is None else fit.moments.weights
    if post is not None and post.settings.prior_only:
        blocks.append(Text((PRIOR_ONLY,)))
        post = None
    if weights is not None:
        unknown = weights.is_sampling or bool(weights.strata)
        if post is not None or unknown:
            blocks.append(_tell_unchecked(weights))
        post, reml = None, None if unknown else reml
    if post is not None:
        thin = thin_posterior(post)
        blocks += _try("Posterior predictive check", lambda: _show_predictive(check_groups(thin)))
        blocks += _try("LOO-PIT", lambda: iter([_draw_pit(post, subject)]))
        blocks += _try("Leaving groups out", lambda: _leave_out(thin, refits))
        if thin is not post:
            what = "The predictive check of the groups and leaving them out"
            blocks.append(Text((describe_thinning(post, thin, what),)))
    if reml is not None:
        blocks += _try("Influence", lambda: _influence(reml, influence))
        blocks += _try("Residuals", lambda: _residuals(reml, subject))
    return Section("checks", "Model checks", tuple(blocks)) if blocks else None


def build_level_checks(subject: Subject) -> Section | None:
    """Return the checks of a posterior of several factors; None where there is no posterior."""
    post = subject.level_post
    if post is None:
        return None
    if post.settings.prior_only:
        blocks: list[Block] = [Text((PRIOR_ONLY,))]
    elif post.moments.weights is not None:
        blocks = [_tell_unchecked(post.moments.weights)]
    elif not post.holds_effects:
        sentence = (
            f"{count(sum(post.moments.groups.values()), 'unit')} are so many that their effects "
            "were not drawn with the posterior, and neither units nor rows were checked."
        )
        blocks = [Text((sentence,), heading="What was not checked")]
    else:
        checks = subject.checks
        pit = None if checks is None else checks.pit
        blocks = _try("Posterior predictive check", lambda: _show_predictive(check_units(post)))
        blocks += _try(
            "LOO-PIT",
            lambda: iter([draw_loo_pit(pit or check_level_pit(post), single_rows=subject.rows)]),
        )
    return Section("checks", "Model checks", tuple(blocks))


def _tell_unchecked(weights: "Weights") -> Text:
    """Return what is not checked where rows have weights."""
    if weights.is_sampling:
        sentence = (
            "With sampling weights what is maximised is no likelihood of the rows: neither "
            "replicates of them nor the influence of single groups follows from it."
        )
    else:
        sentence = (
            "The model is not checked by replicates of its rows, nor by leaving groups out: this "
            f"is not there yet with {weights.sentence}."
        )
    return Text((sentence,), heading="What was not checked")


def _try(heading: str, build: Callable[[], Iterator[Block]]) -> list[Block]:
    """Return the blocks, or why they cannot be built."""
    try:
        return list(build())
    except BhlmError as error:
        return [Text((_close(str(error)),), tone="caution", heading=f"{heading}: not shown")]


def _close(sentence: str) -> str:
    # Names of methods are as they are called.
    first = sentence[0] if "(" in sentence.split(" ")[0] else sentence[0].upper()
    return f"{first}{sentence[1:]}."


def _draw_pit(post: "Draws", subject: Subject) -> Figure:
    """Return the figure of the PIT that was checked, or of the one that it takes to show it."""
    if subject.checks is not None and subject.checks.pit is not None:
        return draw_loo_pit(subject.checks.pit, single_rows=subject.rows)
    return plot_loo_pit(post, subject.model, single_rows=subject.rows)


def _show_predictive(check: "PredictiveCheck") -> Iterator[Block]:
    yield draw_predictive(check)
    outside = check.outside
    yield Text(
        tuple(_close(sentence) for sentence in outside)
        or (
            "No statistic of the groups lies outside what the model predicts of them "
            f"({count(check.draws, 'replicate')}, seed {check.seed}).",
        ),
        tone="caution" if outside else "good",
        heading="Posterior predictive check",
        listed=len(outside) > 1,
    )


def _leave_out(post: "Draws", refits: int) -> Iterator[Block]:
    loo = leave_out_groups(post, refit=False)
    bad = int((~(loo.table["khat"] <= loo.good_k)).sum())
    if 0 < bad <= refits and post.converged:
        loo = leave_out_groups(post, refit=True)
    yield draw_khat(post, loo)
    yield Text(
        (_describe_loo(loo, bad), *(_close(failure) for failure in loo.failures)),
        tone="caution" if loo.failures else "plain",
        heading="Leaving groups out",
    )


def _describe_loo(loo: "Loo", bad: int) -> str:
    text = (
        f"The elpd of a new group, summed over {count(loo.n_data_points, 'group')}, is "
        f"{loo.elpd:,.1f} (SE {loo.se:,.1f}), with {loo.p:.1f} effective parameters"
    )
    refitted = int(loo.table["refitted"].sum())
    if refitted:
        text += f"; the posterior was sampled anew without {count(refitted, 'group')}"
    elif bad:
        text += (
            f"; the posterior was not sampled anew without the {count(bad, 'group')} above the "
            f"threshold, which would take a run of the sampler{'' if bad == 1 else ' each'}"
        )
    return text + "."


def _influence(reml: "Estimate", most: int) -> Iterator[Block]:
    groups = reml.moments.n_groups
    if groups > most:
        yield Text(
            (
                f"Influence is not measured here: it refits the model without each of the "
                f"{groups:,} groups.",
            ),
            heading="Influence",
        )
        return
    yield plot_influence(reml)


def _residuals(reml: "Estimate", subject: Subject) -> Iterator[Block]:
    figure = plot_residuals(reml, model=subject.model, single_rows=subject.rows)
    if figure.table is None:  # not an empty picture
        yield Text((figure.reading,), heading=figure.title)
    else:
        yield figure
    if subject.model is None or not subject.model.has_rows:
        yield Text(
            ("The fit comes without its rows, so that no residual of a row can be drawn.",),
            heading="Residuals",
        )
