"""The page of the priors: what they are, what the data add to them, how much hangs on them."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.checks.sensitivity import Sensitivity, measure_sensitivity
from bhlm.bayes.draws import Draws
from bhlm.bayes.prior_table import tabulate_fit
from bhlm.layout import count
from bhlm.plots.choice import say
from bhlm.plots.prior_posterior import compare_widths, plot_prior_posterior
from bhlm.plots.sensitivity import draw_sensitivity, list_drawn
from bhlm.reconciliation.findings import list_swayed
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text

if TYPE_CHECKING:
    from bhlm.bayes.draws import Posterior
    from bhlm.design.formula.weights import Weights
    from bhlm.reconciliation.comparison import Comparison

NARROW = 0.1  # share of the prior's width below which the data clearly outweigh the prior


def build_priors(subject: Subject) -> Section | None:
    """Return the section on the priors of the posterior; None if there is none."""
    post = subject.posterior
    if post is None:
        return None
    texts = post.priors.describe(post.moments, structure=post.structure)
    blocks: list[Block] = [
        Text(
            tuple(f"{say(name)} ~ {text}" for name, text in texts.items()),
            heading="The priors",
            listed=True,
        ),
        plot_prior_posterior(post),
        _tabulate_quantiles(post),
    ]
    if post.settings.prior_only:
        blocks.append(
            Text(
                (
                    "These draws are of the prior alone, so there is no posterior whose "
                    "sensitivity to it could be measured: sample with the likelihood.",
                ),
                tone="caution",
            )
        )
    elif (weights := _find_unmeasured(post)) is not None:
        told = f"The sensitivity to the priors is not measured yet with {weights.sentence}."
        blocks.append(Text((told,), heading="What was not measured"))
    else:
        checks = subject.checks
        known = None if checks is None else checks.sensitivity
        found = known or measure_sensitivity(post)
        blocks += [
            _judge(found, subject.both),
            draw_sensitivity(found, default=list_drawn(post)),
            _tabulate_sensitivity(found),
        ]
    return Section("priors", "Priors", tuple(blocks))


def _find_unmeasured(post: "Posterior") -> "Weights | None":
    """Return weights whose likelihood of draws is not that of the sensitivity; None of others."""
    weights = post.moments.weights if isinstance(post, Draws) else None
    return weights if weights is not None and (weights.is_sampling or weights.strata) else None


def _tabulate_quantiles(post: "Posterior") -> Table:
    facts = compare_widths(tabulate_fit(post))
    narrow = int((facts["width"] < NARROW).sum())
    known = int(np.isfinite(facts["width"]).sum())
    narrower = (
        f"{narrow} {'have' if narrow > 1 else 'has'} a posterior interval less than a tenth as "
        "wide: there the data clearly outweigh the prior."
        if narrow
        else "none has a posterior interval less than a tenth as wide."
    )
    reading = (
        f"Of {count(known, 'parameter')} whose prior has an interval, {narrower}"
        if known
        else "No prior here has an interval to compare the posterior's with."
    )
    frame = facts.rename(columns={"width": "posterior_width_share"})
    return Table("prior_quantiles", "Priors and posteriors in numbers", reading, frame)


def _judge(found: Sensitivity, both: "Comparison | None") -> Text:
    """Return what is sensitive to the priors, and what they move far from flat ones."""
    heading = "Does the answer hang on the priors?"
    moved = () if both is None or both.verdict == "not_converged" else list_swayed(both.table)
    text = f"no parameter's sensitivity to the priors reaches {found.threshold:g}."
    if found.ok and not moved:
        return Text((f"No: {text}",), tone="good", heading=heading)
    told = (f"N{text[1:]}",) if found.ok else tuple(f"{each}." for each in found.findings)
    sentences = (*told, *moved)
    return Text(sentences, tone="caution", heading=heading, listed=len(sentences) > 1)


def _tabulate_sensitivity(found: Sensitivity) -> Table:
    table = found.table
    moved = int((table["likelihood"] >= found.threshold).sum())
    swayed = int((table["prior"] >= found.threshold).sum())
    reading = (
        f"Of {count(len(table), 'parameter')}, {moved} {'follows' if moved == 1 else 'follow'} the "
        f"data and {swayed} the priors with a sensitivity of {found.threshold:g} or more per "
        "doubling of their weight."
    )
    return Table("power_scaling", "Power-scaling sensitivity", reading, table, digits=2)
