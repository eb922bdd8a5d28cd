"""Results -> the dictionaries of the JSON."""

from typing import TYPE_CHECKING, Any

from bhlm.design.formula.weights import has_shares
from bhlm.files import make_plain
from bhlm.likelihood.cells import describe_pattern
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import Moments
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.contrasts import tabulate_fixed
from bhlm.reml.fixed.few_groups import compare_tests, list_level_notes, list_notes
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum
from bhlm.reml.strata import StrataEstimate, check_tests

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.draws import Posterior
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.pooled import Pooled

ESTIMATE_KEYS = ("estimate", "se", "lower", "upper")


def describe_model(moments: Moments) -> dict[str, Any]:
    """Return formula, n, groups, group sizes, dropped rows and the columns that cost them."""
    return {
        "formula": moments.formula,
        "n": moments.n_rows,
        "groups": moments.n_groups,
        "group": moments.group,
        "group_size": moments.group_size,
        "dropped_rows": moments.dropped,
        "missing": dict(moments.missing),
    } | describe_weights(moments)


def describe_weights(moments: Moments | CellMoments) -> dict[str, Any]:
    """Return what the weights are and the effective sizes; nothing where there are none."""
    if moments.weights is None:
        return {}
    return {"weights": moments.weights.describe() | {"effective_size": moments.effective_size}}


def describe_reml(fit: Estimate, *, df: str | None = None) -> dict[str, Any]:
    """Return the REML or ML fit under the keys of the JSON.

    `df` adds `fixed_effects`, their tests by a method of `bhlm.reml.fixed.contrasts`.
    """
    table = fit.estimates
    content = {
        "method": fit.method,
        "loglik": fit.loglik,
        "converged": fit.converged,
        "singular": fit.singular,
        "advice": fit.advice,
        "estimates": {
            name: {key: float(table.loc[name, key]) for key in ESTIMATE_KEYS}
            for name in table.index
        },
        "wald": fit.wald,
        "lr_test": fit.lr_test,
        "reliability": fit.reliability,
        "df_method": "z",  # of `estimates` and `wald`
        "errors": fit.errors,
        "few_groups": describe_few_df(fit),
        "notes": list_notes(fit),
    }
    return content | _describe_tests(fit, df)


def _describe_tests(fit: Maximum, df: str | None) -> dict[str, Any]:
    """Return the tests of the fixed effects by a method; nothing where there is none."""
    if df is None:
        return {}
    tests = make_plain(tabulate_fixed(fit, method=df).to_dict("index"))
    return {"fixed_effects": {"df_method": df, "tests": tests}}


def describe_strata(fit: StrataEstimate, *, df: str | None = None) -> dict[str, Any]:
    """Return a fit with a residual variance for each stratum under the keys of the JSON.

    `df` adds the tests of the fixed effects, which are by "z" alone.
    """
    check_tests(fit.strata.column, df)
    table = fit.estimates
    content = {
        "method": fit.method,
        "loglik": fit.loglik,
        "converged": fit.converged,
        "singular": fit.singular,
        "advice": fit.advice,
        "estimates": {
            name: {key: float(table.loc[name, key]) for key in ESTIMATE_KEYS}
            for name in table.index
        },
        "residual_variances": {str(k): v for k, v in fit.residual_variances.items()},
        "homogeneity": fit.test_homogeneity(),
    }
    return content | _describe_tests(fit.at, df)


def describe_conventions(table: "pd.DataFrame") -> dict[str, Any]:
    """Return the table of `compare_conventions`: each convention's programs, reason and errors."""
    return {
        name: {
            "programs": programs,
            "why": table.attrs["why"][name],
            "se": make_plain(table[name].to_dict()),
        }
        for name, programs in table.attrs["programs"].items()
    }


def describe_pooled(pooled: "Pooled") -> dict[str, Any]:
    """Return pooled fits under the keys of the JSON; `fits` has the estimates of each."""
    fits = pooled.fits
    return make_plain(
        {
            "model": describe_model(fits[0].moments),
            "responses": list(pooled.responses),
            "m": pooled.m,
            "method": fits[0].method,
            "df_method": pooled.df,
            "level": pooled.level,
            "estimates": pooled.estimates.to_dict("index"),
            "fixed_effects": {
                "names": list(fits[0].moments.fixed),
                "within": pooled.within,
                "between": pooled.between,
                "total": pooled.total,
                "complete_df": pooled.complete_df,
            },
            "notes": list(pooled.notes),
            "fits": [
                {
                    "response": fit.moments.response,
                    "n": fit.moments.n_rows,
                    "groups": fit.moments.n_groups,
                    "loglik": fit.loglik,
                    "singular": fit.singular,
                    "estimates": fit.estimates["estimate"].to_dict(),
                }
                for fit in fits
            ],
        }
    )


def describe_mixture(mixture: "Mixture") -> dict[str, Any]:
    """Return the posterior given all imputations, and whether the draws given each pass."""
    return make_plain(
        {
            "converged": mixture.converged,
            "failures": [list(fit.diagnostics.failures) for fit in mixture.fits],
            "adjustment": None
            if mixture.fits[0].adjustment is None
            else mixture.fits[0].adjustment.sentence,
            "estimates": mixture.estimates.to_dict("index"),
        }
    )


def describe_cells(moments: CellMoments) -> dict[str, Any]:
    """Return what `describe_model` does, with levels and sizes by grouping factor."""
    return {
        "formula": moments.formula,
        "n": moments.n_rows,
        "groups": moments.groups,
        "pattern": describe_pattern(moments),
        "group_size": moments.group_size,
        "dropped_rows": moments.dropped,
        "missing": dict(moments.missing),
        "note": moments.note,
    } | describe_weights(moments)


def describe_levels(fit: LevelsEstimate, *, df: str | None = None) -> dict[str, Any]:
    """Return the REML or ML fit of several grouping factors under the keys of the JSON.

    `df` adds `fixed_effects`, as in `describe_reml`.
    """
    table = fit.estimates
    content: dict[str, Any] = make_plain(
        {
            "method": fit.method,
            "loglik": fit.loglik,
            "converged": fit.converged,
            "singular": fit.singular,
            "advice": fit.advice,
            "estimates": table[list(ESTIMATE_KEYS)].to_dict("index"),
            "wald": fit.wald,
            "lr_test": fit.lr_test,
            **({"icc": fit.icc().to_dict("index")} if has_shares(fit.weights) else {}),
            "df_method": "z",
            "few_groups": describe_few_df(fit),
            "notes": list_level_notes(fit),
        }
    )
    return content | _describe_tests(fit, df)


def describe_few_df(fit: Maximum) -> dict[str, Any]:
    """Return each fixed effect's df, and its p by z and by t, where one has fewer than 30 df."""
    if fit.judged_by_z or not fit.converged:
        return {}
    found = compare_tests(fit)
    if found.worst is None:
        return {}
    rows = zip(found.names, found.df, found.p_z, found.p_t, strict=True)
    tests = {n: make_plain({"df": d, "p_z": z, "p_t": t}) for n, d, z, t in rows}
    return {"df_method": found.method, "tests": tests}


def describe_posterior(fit: "Posterior") -> dict[str, Any]:
    """Return the posterior under the keys of the JSON."""
    chains, draws = fit.shape
    return {
        "diagnostics": fit.diagnostics.to_dict() | {"seconds": fit.seconds},
        "estimates": {
            str(name): row for name, row in fit.estimates.to_dict(orient="index").items()
        },
        "withheld": fit.withheld,
        "priors": fit.priors.describe(fit.moments, structure=fit.structure),
        "sampler": fit.sampler,
        "seed": fit.seed,
        "chains": chains,
        "draws": draws,
    } | _describe_adjustment(fit)


def _describe_adjustment(fit: "Posterior") -> dict[str, Any]:
    """Return what was done to draws under sampling weights; nothing elsewhere."""
    from bhlm.bayes.draws import Draws  # xarray and ArviZ, which no REML fit waits for

    adjustment = fit.adjustment if isinstance(fit, Draws) else None
    if adjustment is None:
        return {}
    return {
        "adjustment": {
            "adjusted": not adjustment.failure,
            "sentence": adjustment.sentence,
            "inflation": adjustment.inflation.tolist(),
        }
    }
