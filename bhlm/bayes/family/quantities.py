"""What is computed from the draws of a family: ratios, ICC, R2, predictions, LOO by group."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.checks.importance import log_mean, score_units
from bhlm.bayes.checks.loo import (
    Loo,
    assemble,
    check_likelihood,
    khat_threshold,
    relative_efficiency,
)
from bhlm.bayes.family.draws import FamilyDraws, integrate_draws
from bhlm.bayes.family.level_draws import AnyFamilyDraws, FamilyLevelDraws
from bhlm.bayes.quantities import Quantities
from bhlm.errors import ArgumentError
from bhlm.layout import name_some, name_unit
from bhlm.likelihood.averages import (
    average_mean,
    compare_medians,
    explain_latent,
    share_latent,
    share_levels,
    spread_effects,
)
from bhlm.likelihood.expected import check_scale
from bhlm.likelihood.factor_names import join_labels
from bhlm.likelihood.parameters import check_level
from bhlm.moments.groups import check_units, place_new_rows
from bhlm.moments.level_patterns import LevelPatterns

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

HELD = 2**22  # numbers that are worked on at a time
NEW = 6  # separates the seed of new groups' effects from the fit's other streams


def tabulate_ratios(fit: AnyFamilyDraws, *, level: float = 0.95) -> "pd.DataFrame":
    """Return exp of each fixed effect: odds ratios, hazard ratios (cloglog) or rate ratios.

    Columns `ratio`, the posterior median, `lower` and `upper`, equal-tailed, and `probability`,
    that it is above 1. They are unit-specific: of two rows of one group. The mean of a ratio is not
    told, since it need not exist.

    Raises:
        ArgumentError: the probit link, or a level outside (0, 1).
    """
    import pandas as pd

    check_level(level)
    if fit.family.link == "probit":
        raise ArgumentError(
            "effects of the probit link are no log ratios; fit link='logit' for odds ratios"
        )
    beta = fit.flat.beta
    tail = 0.5 - 0.5 * level
    median, lower, upper = np.exp(np.quantile(beta, [0.5, tail, 1.0 - tail], axis=0))
    content = {
        "ratio": median, "lower": lower, "upper": upper, "probability": (beta > 0.0).mean(axis=0),
    }  # fmt: skip
    return pd.DataFrame(content, index=pd.Index(list(fit.moments.fixed), name="parameter"))


def derive_icc(fit: FamilyDraws) -> Quantities:
    """Return draws of `icc` on the latent scale, and of `median_ratio` but for the probit link.

    See `bhlm.likelihood.averages.share_latent`.
    """
    flat = fit.flat
    found = share_latent(fit.moments, fit.family, flat.beta, flat.g)
    draws = {"icc": found.icc.reshape(fit.shape)}
    if fit.family.link != "probit":
        draws["median_ratio"] = found.median_ratio.reshape(fit.shape)
    return Quantities(draws)


def derive_level_icc(fit: FamilyLevelDraws) -> Quantities:
    """Return draws of each factor's `share(factor)`, `icc(factor)` and `median_ratio(factor)`.

    On the latent scale, as `FamilyLevelsFit.icc` has them: the ICC is the correlation of two rows
    that have the unit in common, and with it those that it is nested in. Counts have median ratios
    alone, and the probit link has none.
    """
    structure, g = fit.structure, fit.flat.g
    parts = [
        (part.names, g[:, span, span])
        for part, span in zip(structure.parts, structure.spans, strict=True)
    ]
    shares = share_levels(fit.moments, fit.family, parts)
    found: dict[str, Array] = {}
    if fit.family.link != "log":
        for name, own in zip(fit.factors, shares.variances.T, strict=True):
            found[f"share({name})"] = own / shares.total
        found["share(Residual)"] = fit.family.latent_variance / shares.total
        for name, own in zip(fit.factors, shares.shared.T, strict=True):
            found[f"icc({name})"] = own / shares.total
    if fit.family.link != "probit":
        for name, own in zip(fit.factors, shares.variances.T, strict=True):
            found[f"median_ratio({name})"] = compare_medians(own)
    return Quantities({name: draws.reshape(fit.shape) for name, draws in found.items()})


def derive_r_squared(fit: AnyFamilyDraws) -> Quantities:
    """Return draws of the `marginal` and the `conditional` R2 on the latent scale.

    Raises:
        ArgumentError: counts, which have no latent scale.
    """
    if fit.family.link == "log":
        raise ArgumentError("counts have no latent scale, and no R2 on it; see fit.icc()")
    flat = fit.flat
    g, structure = flat.g, fit.structure
    parts = [
        (part.names, g[:, span, span])
        for part, span in zip(structure.parts, structure.spans, strict=True)
    ]
    marginal, conditional = explain_latent(fit.moments, fit.family, flat.beta, parts)
    return Quantities(
        {"marginal": marginal.reshape(fit.shape), "conditional": conditional.reshape(fit.shape)}
    )


def predict_rows(
    fit: FamilyDraws,
    labels: Array,
    x: Array,
    z: Array,
    offset: Array,
    *,
    kind: str = "conditional",
    scale: str = "response",
    new_groups: str = "error",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return posterior means, SDs and intervals: `estimate, se, lower, upper`, per row of x.

    On the link scale "conditional" is of x beta + z u with the group's draws of u, and "population"
    of x beta. On the response scale, the expected response of one trial or unit of exposure,
    "population" is the mean over all groups there may be. Groups that the fit has not seen have
    effects drawn from N(0, G), the same for every row and run.

    Args:
        fit: the draws.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        offset: (n,).
        kind: "conditional" or "population".
        scale: "response" or "link".
        new_groups: for groups that the fit has not seen, "error" or "population".
        level: of the intervals.

    Raises:
        ArgumentError: an unknown kind or scale, a level outside (0, 1).
        DataError: a group that the fit has not seen, if that is an error.
    """
    at = place_new_rows(fit.moments, labels, kind=kind, new_groups=new_groups)
    return predict_placed(
        fit, at[None], x, [z], offset, kind=kind, scale=scale, new_groups=new_groups, level=level
    )


def predict_placed(
    fit: AnyFamilyDraws,
    codes: Array,
    x: Array,
    z: Sequence[Array],
    offset: Array,
    *,
    kind: str = "conditional",
    scale: str = "response",
    new_groups: str = "error",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return what `predict_rows` does, of F factors.

    Args:
        fit: the draws.
        codes: the unit (F, n) of every factor, -1 for units that the fit has not seen.
        x: fixed columns (n, p).
        z: random columns (n, q_f) by factor.
        offset: (n,).
        kind: "conditional" or "population".
        scale: "response" or "link".
        new_groups: for units that the fit has not seen, "error" or "population".
        level: of the intervals.

    Raises:
        ArgumentError: an unknown kind, scale or choice for new units, a level outside (0, 1).
        DataError: a unit that the fit has not seen, if that is an error.
    """
    import pandas as pd

    check_level(level)
    check_scale(scale)
    if isinstance(fit, FamilyLevelDraws):
        check_units(list(fit.moments.groups), codes, kind=kind, new_groups=new_groups)
    flat, spans = fit.flat, fit.structure.spans
    count, g = len(flat.beta), flat.g
    known: Sequence[Array] | None = None
    if kind == "conditional":
        known = fit.all_effects if isinstance(fit, FamilyLevelDraws) else [fit.list_effects()]
    rng = np.random.default_rng([fit.seed, NEW])
    noise = rng.standard_normal((count, fit.structure.q))
    new = np.einsum("nab,nb->na", flat.root, noise)
    tail = 0.5 - 0.5 * level
    rows = max(1, HELD // count)
    parts = []
    for start in range(0, len(x), rows):
        at = slice(start, start + rows)
        eta = flat.beta @ x[at].T + offset[at]  # (N, rows)
        if known is not None:
            for u, own, columns, span in zip(known, codes, z, spans, strict=True):
                place = own[at]
                effects = np.where((place >= 0)[None, :, None], u[:, place], new[:, None, span])
                eta = eta + np.einsum("nra,ra->nr", effects, columns[at])
        if scale == "response" and known is None:
            whole = np.concatenate([columns[at] for columns in z], axis=1)
            spread = np.array([spread_effects(whole, each) for each in g])
            values = average_mean(fit.family, eta.ravel(), spread.ravel()).reshape(eta.shape)
        else:
            values = fit.family.mean(eta) if scale == "response" else eta
        ends = np.quantile(values, [tail, 1.0 - tail], axis=0)
        parts.append(np.column_stack([values.mean(axis=0), values.std(axis=0, ddof=1), *ends]))
    names = ["estimate", "se", "lower", "upper"]
    return pd.DataFrame(np.concatenate(parts) if parts else np.empty((0, 4)), columns=names)


def leave_out_groups(fit: AnyFamilyDraws) -> Loo:
    """Return the leave-one-group-out elpd, each group's effects integrated out by its nodes.

    Of nested factors groups are the units of the coarsest, with all that is nested in them. `table`
    is indexed by the group, with the columns of `bhlm.bayes.checks.loo.leave_out_groups`; nothing
    is sampled anew, and groups whose k-hat exceeds min(0.7, 1 - 1/log10(draws)) are told. What does
    not depend on the parameters, such as binomial coefficients, is left out.

    Raises:
        ArgumentError: draws from the prior alone, or fewer than two groups.
    """
    import pandas as pd

    check_likelihood(fit)
    patterns = fit.moments
    held = fit.data.get("log_likelihood")
    if held is not None:
        own = held["loglik"].values
        logliks = own.reshape(-1, own.shape[-1])
    elif isinstance(fit, FamilyLevelDraws):
        logliks = fit.integrate().logliks
    else:
        logliks = integrate_draws(fit.integrator(), fit.flat, seed=fit.seed).logliks
    loglik = logliks.T
    if isinstance(patterns, LevelPatterns):
        top = min(range(len(patterns.labels)), key=lambda at: patterns.labels[at].n_levels)
        group, labels = fit.structure.parts[top].group, join_labels(patterns, top)
        codes = patterns.labels[top].codes
        index = pd.Index(labels, name=group)
    else:
        group, labels, codes = patterns.group, patterns.groups, patterns.codes
        index = None  # of a single factor it is that of its labels
    elpd, mcse, khat, _ = score_units(np.ascontiguousarray(loglik), relative_efficiency(fit))
    bad = np.flatnonzero(~(khat <= khat_threshold(fit)))
    failures = []
    if len(bad):
        failures.append(
            f"k-hat is above {khat_threshold(fit):.2f} for "
            f"{name_unit(group, name_some(labels[bad].tolist()))}, so "
            f"{'its' if len(bad) == 1 else 'their'} elpd may be far off; take more draws"
        )
    total, size = (np.bincount(codes, weights=each) for each in (patterns.y, patterns.n))
    rows = (
        np.bincount(codes, weights=patterns.rows)
        if isinstance(patterns, LevelPatterns)
        else patterns.rows
    )
    return assemble(
        fit, "group", elpd, full=log_mean(loglik), mcse=mcse, khat=khat,
        refitted=np.zeros(len(elpd), dtype=bool), labels=labels,
        observed=np.column_stack([rows, size, total]), failures=failures, index=index,
    )  # fmt: skip
