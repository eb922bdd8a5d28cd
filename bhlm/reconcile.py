"""RemlFit + BayesFit -> Reconciliation: where the two answers differ, by how much, and why.

gap = posterior mean - REML estimate is split exactly:

    shape        flat-prior posterior mean - flat-prior mode: skewness of the posterior, and
                 integrating over the variance components instead of plugging them in
    prior        posterior mean under the chosen priors - under flat ones
    unexplained  flat-prior mode - REML estimate, which is zero if both engines are right

The mode comes from the sampler's density by optimisation (`flat_mode`), the two means from two
runs of the sampler; `monte_carlo` is the standard error that these leave in shape and prior.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bhlm.bayes import BayesFit, parameter_draws
from bhlm.convergence import summarize
from bhlm.covariance import combine
from bhlm.density import build_posterior
from bhlm.errors import ArgumentError
from bhlm.flat_mode import FlatMode, condition_fixed, find_flat_mode
from bhlm.gallery import Published
from bhlm.priors import Priors, bounds_variances, resolve_priors
from bhlm.published import PrintedCheck, check_published, describe_published
from bhlm.reml import RemlFit
from bhlm.sampling import Progress, sample_moments
from bhlm.tables import render_reconciliation

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Verdict = Literal["agree", "explained", "unexplained", "not_converged"]

# A gap that no reader of the posterior would notice, in posterior SDs.
NEGLIGIBLE = 0.1
# What optimisation by numerical derivatives may leave between the two modes, in posterior SDs;
# next to a boundary, where the mode is approached but not attained, it stops further away.
IDENTITY = 1e-3
BOUNDARY_IDENTITY = 2e-2
MONTE_CARLO = 4.0  # standard errors that Monte Carlo noise may reach


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The two answers side by side, the split of each gap, and the verdict."""

    reml: RemlFit
    post: BayesFit
    flat: BayesFit | None  # None where the flat-prior posterior is improper
    table: "pd.DataFrame"  # by parameter; columns as in the JSON's `reconciliation`
    verdict: Verdict
    reasons: tuple[str, ...]  # sentences behind the verdict, and flags
    printed: tuple[PrintedCheck, ...]
    printed_note: str

    def summary(self) -> str:
        """Return the table, the printed values and the verdict as text."""
        return render_reconciliation(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `bhlm reconcile` as plain dictionaries; nan and inf become None."""
        from bhlm.export import describe_reconciliation

        return describe_reconciliation(self)


def reconcile(
    reml: RemlFit,
    post: BayesFit,
    *,
    published: Published | None = None,
    progress: Progress | None = None,
) -> Reconciliation:
    """Return the reconciliation of a REML fit and a posterior of the same model.

    A second, flat-prior run of the sampler is made, with a seed derived from the posterior's.

    Args:
        reml: a fit by REML; ML has no flat-prior counterpart and is refused.
        post: draws from the posterior.
        published: printed values, from the gallery.
        progress: called now and then with the progress of the flat run.

    Raises:
        ArgumentError: the two fits are not of the same model and data, or `reml` is by ML.
    """
    _check_pair(reml, post)
    proper = all(bounds_variances(post.moments, block) for block in post.blocks)
    flat = _sample_flat(post, progress) if proper else None
    mode = _find_mode(post, flat)
    drawn = summarize(flat.draws) if flat else {}
    # E[beta | y] by Rao-Blackwell: the exact conditional means at each draw of the rest.
    exact = _summarize_conditionals(flat) if flat else {}
    table = _split_gaps(reml, post, mode, drawn | exact)
    checks = check_published(reml, published) if published else ()
    note = describe_published(reml, published, checks) if published else ""
    _add_printed(table, published)
    judged = not published or published.comparable
    drift = _check_fixed(drawn, exact)
    verdict, reasons = _judge(reml, post, flat, table, drift, checks if judged else ())
    return Reconciliation(reml, post, flat, table, verdict, reasons, checks, note)


def _check_pair(reml: RemlFit, post: BayesFit) -> None:
    if reml.method != "reml":
        raise ArgumentError(
            f"method={reml.method!r} cannot be reconciled: only the REML estimate is the mode of "
            "a flat-prior posterior; fit with model.reml()"
        )
    if reml.structure.kind in ("exchangeable", "identity"):
        raise ArgumentError(
            f"covariance={reml.structure.kind!r} has no posterior to reconcile with; fit both "
            "sides as 'unstructured' or 'independent'"
        )
    ours, theirs = reml.moments, post.moments
    same = ours is theirs or (
        ours.columns == theirs.columns
        and ours.fixed == theirs.fixed
        and ours.random == theirs.random
        and np.array_equal(ours.mean, theirs.mean)
        and np.array_equal(ours.cross, theirs.cross)
    )
    if not same or reml.structure.labels != combine(post.blocks).labels:
        raise ArgumentError(
            f"the fits differ in model or data ('{ours.formula}' and '{theirs.formula}'); make "
            "both from one Model, with the same covariance"
        )


def _sample_flat(post: BayesFit, progress: Progress | None) -> BayesFit:
    shape = post.data["posterior"]["sigma"].shape
    covariance = None if post.blocks == post.moments.blocks else _name_blocks(post)
    return sample_moments(
        post.moments,
        seed=int(np.random.SeedSequence([post.seed, 1]).generate_state(1)[0]),
        draws=shape[1],
        tune=max(shape[1], 1000),
        chains=shape[0],
        priors=Priors.flat(),
        covariance=covariance,
        progress=progress,
    )


def _name_blocks(post: BayesFit) -> str:
    return "unstructured" if len(post.blocks) == 1 else "independent"


def _find_mode(post: BayesFit, flat: BayesFit | None) -> FlatMode:
    """Return the flat-prior mode, started from draws and not from the REML estimate."""
    sizes = tuple(len(block) for block in post.blocks)
    flat_priors = resolve_priors(Priors.flat(), post.moments, blocks=post.blocks)
    posterior = build_posterior(post.white, flat_priors, sizes)
    if flat is not None:
        x = flat.data["unconstrained_posterior"]["x"].values
        return find_flat_mode(posterior, post.white, x.reshape(-1, x.shape[-1]).mean(axis=0))
    p, q = post.white.p, post.white.q
    start = np.zeros(posterior.dimension)
    start[p : p + q] = np.log(
        post.data["posterior"]["sd"].values.mean(axis=(0, 1)) / posterior.unit
    )
    start[-1] = np.log(post.data["posterior"]["sigma"].values.mean())
    return find_flat_mode(posterior, post.white, start)


def _split_gaps(
    reml: RemlFit, post: BayesFit, mode: FlatMode, flat: Mapping[str, list[float]]
) -> "pd.DataFrame":
    """Return the split of every gap; `flat` summarizes the flat run, empty if there is none."""
    import pandas as pd

    estimates = reml.estimates["estimate"]
    summary = summarize(post.draws)
    mean = {name: row[0] for name, row in summary.items()}
    sd = {name: row[3] for name, row in summary.items()}
    mcse = {name: row[9] for name, row in summary.items()}
    modes = _name_mode(post, mode)
    flat_mean = {name: row[0] for name, row in flat.items()}
    flat_mcse = {name: row[9] for name, row in flat.items()}
    rows = {}
    for name in mean:
        gap = mean[name] - float(estimates[name])
        shape = flat_mean.get(name, np.nan) - modes[name]
        noise = float(np.hypot(mcse[name], flat_mcse.get(name, 0.0)))
        rows[name] = {
            "reml": float(estimates[name]),
            "posterior": mean[name],
            "sd": sd[name],
            "gap": gap,
            "gap_sd": gap / sd[name],
            "shape": shape,
            "prior": mean[name] - flat_mean.get(name, np.nan),
            "monte_carlo": noise,
            "unexplained": modes[name] - float(estimates[name]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "parameter"
    limit = BOUNDARY_IDENTITY if reml.singular else IDENTITY
    table["verdict"] = np.where(
        table["unexplained"].abs() > limit * table["sd"],
        "unexplained",
        np.where(table["gap"].abs() <= NEGLIGIBLE * table["sd"], "agree", "explained"),
    )
    return table


def _name_mode(post: BayesFit, mode: FlatMode) -> dict[str, float]:
    """Return the mode under each parameter's name; on the SD scale, of the transformed mode."""
    sigma = np.sqrt(np.asarray(mode.sigma2))
    named = parameter_draws(post.moments, post.blocks, mode.beta, mode.g, sigma)
    return {name: float(value) for name, value in named.items()}


def _summarize_conditionals(flat: BayesFit) -> dict[str, list[float]]:
    return summarize(dict(zip(flat.moments.fixed, average_conditionals(flat), strict=True)))


def average_conditionals(fit: BayesFit) -> Array:
    """Return E[beta | other parameters, y] at each draw (p, chain, draw), flat or normal priors."""
    x = fit.data["unconstrained_posterior"]["x"].values
    p = fit.white.p
    sizes = tuple(len(block) for block in fit.blocks)
    posterior = build_posterior(fit.white, fit.priors, sizes)
    flat_x = x.reshape(-1, x.shape[-1])
    means = np.stack([condition_fixed(posterior, p, row[p:])[0] for row in flat_x])
    beta = fit.white.ols + fit.white.scale * means @ fit.white.fixed.T
    return np.moveaxis(beta.reshape(*x.shape[:2], p), -1, 0)


def _add_printed(table: "pd.DataFrame", published: Published | None) -> None:
    printed = published.estimates if published else {}
    table.insert(0, "published", [printed.get(name, {}).get("estimate") for name in table.index])


def _judge(
    reml: RemlFit,
    post: BayesFit,
    flat: BayesFit | None,
    table: "pd.DataFrame",
    drift: list[str],
    checks: tuple[PrintedCheck, ...],
) -> tuple[Verdict, tuple[str, ...]]:
    reasons = [f"Posterior: {failure}." for failure in post.diagnostics.failures]
    if flat is None:
        reasons.append(
            f"With {post.moments.n_groups} groups the flat-prior posterior is improper, so shape "
            "and prior cannot be told apart; more groups would be needed."
        )
    else:
        reasons += [f"Flat-prior run: {failure}." for failure in flat.diagnostics.failures]
    if reml.advice:
        reasons.append(f"REML: {reml.advice}.")
    reasons += _flag_boundary(post)
    failed = not (reml.converged and post.converged and (flat is None or flat.converged))
    if failed:
        return "not_converged", tuple(reasons)
    bad = [name for name in table.index if table.loc[name, "verdict"] == "unexplained"]
    if bad:
        worst = max(
            bad, key=lambda name: abs(table.loc[name, "unexplained"] / table.loc[name, "sd"])
        )
        reasons.append(
            f"The mode of the flat-prior posterior and REML differ by "
            f"{table.loc[worst, 'unexplained']:.3g} in {worst} "
            f"({table.loc[worst, 'unexplained'] / table.loc[worst, 'sd']:.2g} posterior SDs), "
            "where theory says they are equal: one of the two engines is wrong here."
        )
    reasons += drift
    wrong = [check for check in checks if not check.reproduced]
    if wrong:
        reasons.append(
            f"{len(wrong)} printed values are not reproduced, first {wrong[0].quantity} of "
            f"{wrong[0].name}: printed {wrong[0].printed}, computed {wrong[0].computed:.7g}."
        )
    if bad or wrong or drift:
        return "unexplained", tuple(reasons)
    return ("agree" if (table["verdict"] == "agree").all() else "explained"), tuple(reasons)


def _check_fixed(drawn: Mapping[str, list[float]], exact: Mapping[str, list[float]]) -> list[str]:
    """Return a sentence if draws of beta do not average to their exact conditional means."""
    found = []
    for name, row in exact.items():
        difference = drawn[name][0] - row[0]
        error = drawn[name][9]
        if abs(difference) > MONTE_CARLO * error:
            found.append(
                f"The draws of {name} average {difference:+.3g} off their exact conditional means, "
                f"{abs(difference) / error:.1f} Monte Carlo errors."
            )
    return found


def _flag_boundary(post: BayesFit) -> list[str]:
    """Return a flag for each SD whose posterior reaches zero, each correlation near +-1."""
    flags = []
    for name, draws in post.draws.items():
        lower, upper = np.quantile(draws, [0.025, 0.975])
        if name.startswith("sd(") and lower < 0.1 * float(draws.mean()):
            flags.append(
                f"The posterior of {name} reaches zero (2.5 % point {lower:.2g}): the data do not "
                "rule out that it vanishes, and its mean depends on the prior."
            )
        if name.startswith("corr(") and max(-lower, upper) > 0.95:
            flags.append(
                f"The posterior of {name} reaches {'+' if upper > -lower else '-'}1 (95 % interval "
                f"{lower:.2f} to {upper:.2f}): the correlation is hardly identified."
            )
    return flags
