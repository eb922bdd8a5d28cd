"""The sections of a page about fits of zeros and ones, proportions or counts."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.checks.loo import Loo
from bhlm.bayes.family.checks import check_groups as check_draws
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.family.level_draws import AnyFamilyDraws, FamilyLevelDraws
from bhlm.bayes.family.quantities import (
    derive_icc,
    derive_r_squared,
    leave_out_groups,
    tabulate_ratios,
)
from bhlm.bayes.family.slopes import describe_slopes
from bhlm.errors import BhlmError
from bhlm.layout import count, format_digits
from bhlm.likelihood.expected import KINDS
from bhlm.likelihood.replicates import FamilyCheck
from bhlm.likelihood.slopes import list_levels, list_moved
from bhlm.moments.patterns import Patterns
from bhlm.plots.family_check import draw_family_check
from bhlm.plots.family_effects import draw_effects
from bhlm.plots.family_groups import (
    AnyPair,
    FamilyFits,
    OnePair,
    Pair,
    draw_groups,
    expect_groups,
    join_family,
    name_response,
)
from bhlm.plots.forest import plot_forest
from bhlm.plots.khat import draw_khat
from bhlm.plots.style import shorten
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.family.checks import check_groups
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.inference import tabulate_fixed
from bhlm.reml.family.inference import tabulate_ratios as tabulate_estimated
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.family.population import (
    estimate_population,
    explain_variance,
    measure_dispersion,
    share_variance,
)
from bhlm.reml.family.slopes import estimate_slopes
from bhlm.reports.dashboard.blocks import Block, Facts, Section, Subject, Table, Text
from bhlm.reports.dashboard.command_line import write_command
from bhlm.reports.dashboard.holdings import HEADING, list_holdings
from bhlm.reports.dashboard.reproduction import (
    tabulate_family_settings,
    tabulate_priors,
    tabulate_versions,
    write_family_lines,
)
from bhlm.reports.dashboard.verdict import (
    join_ends,
    measure_rows,
    show_outcome,
    tabulate_posterior,
)
from bhlm.reports.text.family import LARGE, SURE, tell_integration

if TYPE_CHECKING:
    import pandas as pd

MOST = 6  # columns whose effects are drawn


def find_pair(subject: Subject) -> OnePair:
    """Return the fits of one factor that a page is about."""
    ml = subject.counted
    post = subject.counted_post
    assert ml is None or isinstance(ml, FamilyEstimate)
    assert post is None or isinstance(post, FamilyDraws)
    return Pair(ml, post)


def find_any_pair(subject: Subject) -> AnyPair:
    """Return the fits that a page is about, of one factor or of several."""
    return Pair(subject.counted, subject.counted_post)


def _find_fits(subject: Subject) -> FamilyFits:
    both = subject.both
    return find_pair(subject).given if both is None else both


def build_family_verdict(subject: Subject) -> Section:
    """Return the findings, the facts, every estimate, and odds or rate ratios."""
    pair, every = find_pair(subject), find_any_pair(subject)
    blocks = show_outcome(subject)
    blocks += [_list_facts(pair), plot_forest(_find_fits(subject))]
    blocks.append(tabulate_both(every, subject.both))
    blocks.append(tabulate_effect_ratios(every))
    blocks.append(Text(_describe_data(pair), heading="What was fitted", listed=True))
    sentences = list_holdings(subject, pair.given.moments)
    blocks.append(Text(sentences, heading=HEADING, listed=True))
    if pair.ml is not None:
        blocks.append(tabulate_ml(pair.ml, tell_integration(pair.ml)))
    if pair.post is not None:
        blocks.append(tabulate_posterior(pair.post))
    return Section("verdict", "Verdict", tuple(blocks))


def _list_facts(pair: OnePair) -> Facts:
    """Return what a reader asks first: of the data, the variance, and the integrals."""
    patterns, fit = pair.given.moments, pair.given
    if isinstance(fit, FamilyEstimate):
        shared = share_variance(fit).iloc[0]
        icc, ratio = float(shared["icc"]), float(shared["median_ratio"])
        shares = {} if fit.family.link == "log" else explain_variance(fit)
    else:
        draws = derive_icc(fit).draws
        icc = float(draws["icc"].mean())
        ratio = float(np.median(draws["median_ratio"])) if "median_ratio" in draws else np.nan
        found = {} if fit.family.link == "log" else derive_r_squared(fit).draws
        shares = {name: float(values.mean()) for name, values in found.items()}
    is_count = fit.family.link == "log"
    items = [
        ("Rows", f"{patterns.n_rows:,}"),
        (f"Groups of {shorten(patterns.group)}", f"{patterns.n_groups:,}"),
        ("Rows dropped", f"{patterns.dropped:,}"),
        ("ICC of two counts" if is_count else "ICC, latent", format_digits(icc, 2)),
    ]
    if np.isfinite(ratio):
        name = fit.family.ratio_name or "Hazard ratio"
        items.append((f"Median {name.lower()}", format_digits(ratio, 3)))
    if shares:
        items.append(("R², marginal", format_digits(shares["marginal"], 2)))
        items.append(("R², conditional", format_digits(shares["conditional"], 2)))
    items.append(("Log-likelihood known to", _tell_error(pair)))
    kind = "maximum likelihood" if isinstance(fit, FamilyEstimate) else "the posterior"
    reading = (
        f"By {kind}. The ICC is "
        + (
            "that of two counts where all columns have their means"
            if is_count
            else "on the latent scale of the link, at the means of the random columns"
        )
        + "; the median ratio is that of two rows which differ in their groups alone."
    )
    return Facts("facts", "In short", reading, tuple(items))


def _tell_error(pair: OnePair) -> str:
    errors = [fit.error for fit in pair if fit is not None]
    if any(each is None for each in errors):
        return "unknown"
    return f"{max(each for each in errors if each is not None):.0e}"


def tabulate_both(pair: AnyPair, both: Comparison | None) -> Table:
    """Return estimates and 95 % intervals of every fit side by side, with p and verdict."""
    import pandas as pd

    given = pair.given
    names = [str(each) for each in given.parameters if not each.is_squared]
    frame = pd.DataFrame(index=pd.Index(names, name="parameter"))
    tables = [fit.estimates.loc[names] for fit in (pair.ml, pair.post) if fit is not None]
    sizes = measure_rows(*tables)
    if pair.ml is not None:
        table = tables[0]
        frame["ML"] = table["estimate"]
        frame["ML 95 % interval"] = join_ends(table, sizes)
    if pair.post is not None:
        table = tables[-1]
        frame["posterior mean"] = table["mean"]
        frame["posterior 95 % interval"] = join_ends(table, sizes)
    tests = ""
    if pair.ml is not None and pair.ml.converged:
        frame["p"] = tabulate_fixed(pair.ml, method="z", level=0.95)["p"].reindex(names)
        tests = " p is by z."
    if both is not None:
        frame["verdict"] = both.table["verdict"].reindex(names)
    clear = "Estimates with their 95 % intervals" if both is None else "Both answers"
    reading = (
        f"{clear} on the {given.family.link} scale, unit-specific: fixed effects first, then SDs "
        f"and correlations.{tests}"
    )
    return Table(
        "estimates", "Estimates", reading, frame, sizes=sizes, sized=("ML", "posterior mean")
    )


def tabulate_effect_ratios(pair: AnyPair) -> Table:
    """Return unit-specific and population-averaged effects as ratios, of probit on its scale."""
    import pandas as pd

    given = pair.given
    patterns, link = given.moments, given.family.link
    frame = pd.DataFrame(index=pd.Index(list(patterns.fixed), name="parameter"))
    has_ratios = link != "probit"
    found: dict[str, tuple[str, pd.Series[float], pd.DataFrame]] = {}
    if pair.ml is not None and has_ratios:
        table = tabulate_estimated(pair.ml, method="z", level=0.95)
        found["ML, unit-specific"] = ("unit-specific 95 % interval", table["ratio"], table)
    if pair.post is not None and has_ratios:
        table = tabulate_ratios(pair.post)
        name = "posterior median, unit-specific"
        found[name] = ("posterior 95 % interval", table["ratio"], table)
    if pair.ml is not None and pair.ml.converged:
        averaged = estimate_population(pair.ml, method="z", level=0.95)
        ends = averaged[["lower", "upper"]]
        found["ML, population-averaged"] = (
            "population-averaged 95 % interval",
            averaged["ratio" if has_ratios else "estimate"],
            np.exp(ends) if has_ratios else ends,
        )
    sizes = measure_rows(*(each for *_, each in found.values())) if found else ()
    for name, (interval, values, each) in found.items():
        frame[name], frame[interval] = values, join_ends(each, sizes)
        if name.startswith("posterior"):
            frame["P(above 1)"] = each["probability"]
    name = (given.family.ratio_name or "Hazard ratio") + "s"
    within = "one group" if isinstance(patterns, Patterns) else "the same units"
    told = (
        f"{name} between rows of {within} (unit-specific)"
        if has_ratios
        else "Effects of the probit link have no ratios; on its scale they are"
    )
    has_averages = "ML, population-averaged" in found
    if has_averages and has_ratios:
        told += ", and between the means of all groups (population-averaged)"
        own, averaged = (
            np.abs(np.log(found[f"ML, {kind}"][1].to_numpy(dtype=np.float64)))
            for kind in ("unit-specific", "population-averaged")
        )
        told += ", nearer to 1" if (averaged < own).all() else ""
    elif has_averages:
        told += " between the means of all groups (population-averaged)"
    elif not has_ratios:
        return Table(
            "ratios", "Population-averaged effects", "A fit by maximum likelihood has them.", frame
        )
    title = name if has_ratios else "Population-averaged effects"
    return Table("ratios", title, f"{told}.", frame, sizes=sizes, sized=tuple(found))


def _describe_data(pair: OnePair) -> tuple[str, ...]:
    given = pair.given
    patterns = given.moments
    size = patterns.group_size
    spread = (
        f"{size['min']} rows each"
        if size["min"] == size["max"]
        else f"{size['min']} to {size['max']} rows each, {size['mean']:.1f} on average"
    )
    sentences = [
        f"Formula: {patterns.formula}, {patterns.family.name} with {patterns.family.link} link.",
        f"Data: {count(patterns.n_rows, 'row')} in {count(patterns.n_groups, 'group')} of "
        f"'{patterns.group}', {spread}, which make {count(patterns.n_patterns, 'pattern')} of "
        "equal columns.",
        "No row was dropped: every column of the formula is complete."
        if not patterns.dropped
        else f"{patterns.rows_used}.",
    ]
    if pair.ml is not None:
        test = pair.ml.lr_test
        sentences.append(
            f"Maximum likelihood, {tell_integration(pair.ml)}: log-likelihood "
            f"{pair.ml.loglik:.9g}; against no random effects chi2({test['df']}) = "
            f"{format_digits(test['chi2'], 4)}, p = {test['p']:.2g}."
        )
    if pair.post is not None:
        sentences.append(tell_run(pair.post))
    return tuple(sentences)


def tell_run(post: AnyFamilyDraws) -> str:
    """Return how a posterior was drawn, and how well its integrals are known, in a sentence."""
    chains, draws = post.shape
    return (
        f"Full Bayes ({count(chains, 'chain')} of {count(draws, 'draw')}, {post.sampler}) on the "
        f"integrals of maximum likelihood, whose error in the log-likelihood is at most "
        f"{post.error:.0e} over all draws."
    )


def tabulate_ml(fit: FamilyMaximum, told: str) -> Table:
    """Return the estimates by maximum likelihood, with how the effects were integrated."""
    wald = fit.wald
    joint = (
        f" Jointly the slopes differ from 0 with chi2({wald['df']}) = {wald['chi2']:.4g}, "
        f"p = {wald['p']:.2g}."
        if wald["df"]
        else ""
    )
    reading = f"{told[0].upper()}{told[1:]}.{joint}"
    table = fit.estimates.dropna(axis=1, how="all")
    return Table("reml_estimates", "ML estimates", reading, table)


def build_family_effects(subject: Subject) -> Section | None:
    """Return the effects on the probability or rate; None of a model of the intercept alone."""
    pair = find_any_pair(subject)
    fits = pair.given if subject.both is None else subject.both
    names = list_moved(pair.given.moments)
    if not names:
        return None
    what = name_response(pair.given)
    blocks: list[Block] = []
    told = []
    table, sizes = _tabulate_effects(pair, names)
    if len(table):
        blocks.append(
            Table(
                "effects",
                f"Effects on the {what}",
                f"What a level or a step from 0 to 1 changes the {what} by, of other columns the "
                f"{what} per unit at their means; all else at its mean. Population-averaged is the "
                "mean over all groups, unit-specific is a group without an effect.",
                table,
                sizes=sizes,
                sized=tuple(name for name in table if "interval" not in name),
            )
        )
    for name in names[:MOST]:
        try:
            figure = draw_effects(fits, name)
        except BhlmError as error:
            told.append(f"{shorten(name)}: {error}.")
            continue
        blocks.append(replace(figure, name=f"effects_{len(blocks)}"))
    if len(names) > MOST:
        told.append(f"Drawn are the first {MOST} of {len(names)} columns.")
    if told:
        blocks.append(Text(tuple(told), heading="Not drawn", listed=True))
    return Section("effects", "Effects", tuple(blocks))


def _tabulate_effects(
    pair: AnyPair, names: tuple[str, ...]
) -> tuple["pd.DataFrame", tuple[float, ...]]:
    """Return a row per column or level, with both kinds of effect by each fit, and their sizes."""
    import pandas as pd

    rows: dict[str, dict[str, tuple[float, pd.DataFrame]]] = {}
    for name in (part for each in names for part in list_levels(pair.given.moments, each)):
        found: dict[str, tuple[float, pd.DataFrame]] = {}
        try:
            for kind in reversed(KINDS):
                if pair.ml is not None:
                    table = estimate_slopes(pair.ml, name, kind=kind).iloc[:1]
                    found[f"ML, {kind}"] = float(table["slope"].iloc[0]), table
                if pair.post is not None:
                    table = describe_slopes(pair.post, name, kind=kind).iloc[:1]
                    found[f"posterior, {kind}"] = float(table["mean"].iloc[0]), table
        except BhlmError:  # such as x beside x^2, which cannot move alone
            continue
        rows[name] = found
    frame = pd.DataFrame(index=pd.Index(list(rows), name="column"))
    if not rows:
        return frame, ()
    columns = list(next(iter(rows.values())))
    ends = {key: pd.concat([found[key][1] for found in rows.values()]) for key in columns}
    sizes = measure_rows(*ends.values())
    for key in columns:
        frame[key] = [found[key][0] for found in rows.values()]
        frame[f"{key.replace(',', '')} 95 % interval"] = join_ends(ends[key], sizes)
    return frame, sizes


def build_family_groups(subject: Subject) -> Section:
    """Return the caterpillars on the scale of the response and of the link, and their table."""
    pair, fits = find_pair(subject), _find_fits(subject)
    response = replace(draw_groups(fits, scale="response"), name="response")
    expected = expect_groups(pair)
    links = join_family(pair)
    first = links["coefficient"] == links["coefficient"].iloc[0]
    name = name_response(pair.given)
    own = {"group": expected["group"], "rows": expected["n"], "observed": expected["observed"]}
    table = expected[["group"]].assign(**own)
    told = {
        label: (columns[0], expected[list(columns[1:])].set_axis(["lower", "upper"], axis=1))
        for label, columns in (
            ("ML", ("u", "u_low", "u_high")), ("posterior", ("mean", "low", "high")),
        )
        if not expected[columns[0]].isna().all()
    }  # fmt: skip
    sizes = measure_rows(*(ends for _, ends in told.values()))
    for label, (column, ends) in told.items():
        table[f"{label} {name}"] = expected[column]
        table[f"{label} 95 % interval"] = join_ends(ends, sizes)
        table[f"{label} effect"] = links.loc[first, column].to_numpy()
    reading = (
        f"The observed {'rate' if name == 'rate' else 'proportion'} of each group, what is "
        f"expected of it where every column has its mean, and its effect on the "
        f"{pair.given.family.link} scale ({shorten(str(links['coefficient'].iloc[0]))})."
    )
    table = table.rename(columns={"group": pair.given.moments.group})
    table = table.loc[:, ~table.columns.duplicated()].set_index(table.columns[0])
    table.index = table.index.map(str)  # labels, also where they are numbers
    blocks: tuple[Block, ...] = (
        response,
        draw_groups(fits),
        Table(
            "group_table",
            "Every group",
            reading,
            table,
            sizes=sizes,
            sized=("observed", *(f"{label} {name}" for label in told)),
        ),
    )
    return Section("groups", "Groups", blocks)


def build_family_checks(subject: Subject) -> Section | None:
    """Return groups and tenths beside replicates, overdispersion, and leaving groups out."""
    pair = find_pair(subject)
    blocks: list[Block] = []
    check = _find_check(subject, pair)
    if check is None:
        blocks.append(
            Text(("The draws are from the prior alone, which no data can contradict yet.",))
        )
    else:
        blocks += [draw_family_check(check), tell_check(check, "Groups and calibration")]
    if pair.ml is not None:
        blocks.append(judge_dispersion(pair.ml))
    if pair.post is not None and not pair.post.settings.prior_only:
        blocks += _leave_out(pair.post)
    return Section("checks", "Model checks", tuple(blocks))


def tell_check(check: FamilyCheck, heading: str) -> Text:
    """Return what is outside of the replicates of a check, or that nothing is."""
    outside = [f"{text[0].upper()}{text[1:]}." for text in check.outside]
    fine = (
        "No group, no summary of the groups and no more tenths than by chance lie outside of what "
        f"the model predicts ({count(check.draws, 'replicate')}, seed {check.seed})."
    )
    return Text(
        tuple(outside) or (fine,),
        tone="caution" if outside else "good",
        heading=heading,
        listed=len(outside) > 1,
    )


def _find_check(subject: Subject, pair: OnePair) -> FamilyCheck | None:
    """Return the check that the findings rest on, or one of the fit by maximum likelihood."""
    made = None if subject.checks is None else subject.checks.predictive
    if isinstance(made, FamilyCheck):
        return made
    if pair.post is None:
        assert pair.ml is not None
        return check_groups(pair.ml)
    return None if pair.post.settings.prior_only else check_draws(pair.post)


def judge_dispersion(fit: FamilyMaximum) -> Text:
    """Return whether the patterns vary more than the family has it."""
    found = measure_dispersion(fit)
    heading = "Overdispersion"
    if not np.isfinite(found["ratio"]):
        told = (
            "Rows of 0 and 1 cannot be overdispersed one by one, and patterns are too small for "
            "Pearson's chi-square to tell."
        )
        return Text((told,), heading=heading)
    is_large = found["ratio"] > LARGE and found["p"] < SURE
    told = (
        f"Pearson's chi-square over the patterns is {found['chi2']:.4g} on {found['df']} df, a "
        f"ratio of {found['ratio']:.2f} (p = {found['p']:.2g})"
    )
    if is_large:
        told += (
            f": more than {fit.family.name} rows explain, so that standard errors are too small; "
            "add a column that explains it, or take robust standard errors (cr1)"
        )
    return Text((f"{told}.",), tone="caution" if is_large else "good", heading=heading)


def _leave_out(post: FamilyDraws) -> list[Block]:
    """Return how each group is predicted by the others."""
    try:
        loo = leave_out_groups(post)
    except BhlmError as error:
        return [_refuse_left_out(error)]
    return [draw_khat(post, loo), _tell_loo(loo)]


def tell_left_out(post: FamilyLevelDraws) -> Text:
    """Return how each unit of the coarsest factor is predicted by the others."""
    try:
        return _tell_loo(leave_out_groups(post))
    except BhlmError as error:
        return _refuse_left_out(error)


def _refuse_left_out(error: BhlmError) -> Text:
    told = f"{str(error)[0].upper()}{str(error)[1:]}."
    return Text((told,), tone="caution", heading="Leaving groups out: not shown")


def _tell_loo(loo: Loo) -> Text:
    sentence = (
        f"The elpd of a new group, summed over {count(loo.n_data_points, 'group')}, is "
        f"{loo.elpd:,.1f} (SE {loo.se:,.1f}), with {loo.p:.1f} effective parameters; it leaves out "
        "what no parameter changes (binomial coefficients, factorials of counts), and compares "
        "models of the same rows alone."
    )
    failures = tuple(f"{text[0].upper()}{text[1:]}." for text in loo.failures)
    return Text(
        (sentence, *failures),
        tone="caution" if failures else "plain",
        heading="Leaving groups out",
    )


def build_family_reproduction(subject: Subject) -> Section:
    """Return settings, versions, the data's hash, the priors, and the lines that run it again."""
    pair = find_any_pair(subject)
    blocks: list[Block] = [tabulate_family_settings(subject)]
    if pair.post is not None:
        blocks.append(tabulate_priors(pair.post))
    blocks.append(tabulate_versions())
    if command := write_command(subject):
        blocks.append(Text((command,), heading="The command", code=True))
    lines, notes = write_family_lines(subject)
    blocks.append(Text(lines, heading="In Python", code=True))
    if notes:
        blocks.append(Text(notes, tone="caution"))
    return Section("reproduction", "Reproduction", tuple(blocks))
