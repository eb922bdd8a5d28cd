"""Printed values against the fit that should reproduce them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bhlm.errors import ArgumentError, GalleryError
from bhlm.layout import agree
from bhlm.likelihood.parameters import RESIDUAL
from bhlm.likelihood.profiled import evaluate
from bhlm.reml.estimate import Estimate
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.optimize import unwhiten_loglik
from bhlm.reml.strata import StrataEstimate
from bhlm.sources.gallery import Published, agrees_with_print, printed_tolerance

Array = np.ndarray

type AnyFamilyEstimate = FamilyEstimate | FamilyLevelsEstimate


@dataclass(frozen=True, slots=True)
class PrintedCheck:
    """One printed value beside the value that is computed."""

    name: str  # the parameter, or loglik, wald, lr_test, n, groups, group_size
    quantity: str  # estimate, se, lower, upper, statistic, p, chi2, df, value, ...
    printed: str
    computed: float
    reproduced: bool  # within the last printed digit, or the source's known tolerance
    exact: bool  # within the last printed digit

    @property
    def relative(self) -> float:
        """The relative difference, computed over printed less one."""
        printed = float(self.printed)
        return self.computed / printed - 1.0 if printed else self.computed


def check_published(
    fit: Estimate | LevelsEstimate | AnyFamilyEstimate | StrataEstimate, published: Published
) -> tuple[PrintedCheck, ...]:
    """Return every printed value beside the fit's.

    Raises:
        ArgumentError: the printed values are of ML and the fit is by REML, or the reverse.
        GalleryError: a printed parameter or factor that the model does not have.
    """
    if published.method not in (None, fit.method):
        raise ArgumentError(
            f"the published values are by {published.method.upper()} and the fit is by "
            f"{fit.method.upper()}, which differ; fit by {published.method}(), or leave published= "
            "out"
        )
    checks: list[PrintedCheck] = []

    def add(name: str, quantity: str, printed: str | None, computed: float) -> None:
        if printed is None:
            return
        tolerance = published.relative_tolerance
        checks.append(
            PrintedCheck(
                name,
                quantity,
                printed,
                float(computed),
                agrees_with_print(computed, printed, relative_tolerance=tolerance),
                agrees_with_print(computed, printed),
            )
        )

    estimates = fit.estimates
    for name, values in published.estimates.items():
        if name not in estimates.index:
            raise GalleryError(
                f"published.estimates has '{name}', which is no parameter of "
                f"'{fit.moments.formula}'; the parameters are {', '.join(estimates.index)}"
            )
        for quantity, printed in values.items():
            add(name, quantity, printed, float(estimates.loc[name, quantity]))
    add("loglik", "value", published.loglik, fit.loglik)
    add("deviance", "value", published.deviance, -2.0 * fit.loglik)
    if isinstance(fit, StrataEstimate):
        if published.iterations or published.wald or published.lr_test:
            raise GalleryError(
                f"published values of '{fit.moments.formula}' with residual variances by stratum "
                "hold iterations, wald or lr_test, which such a fit has not; leave them out"
            )
    else:
        newton = [step.loglik for step in fit.steps if step.phase == "newton"]
        for printed in published.iterations[-1:]:
            add("iterations", "last", printed, newton[-1])
        for test, computed in (("wald", fit.wald), ("lr_test", fit.lr_test)):
            for quantity, printed in (getattr(published, test) or {}).items():
                add(test, quantity, printed, computed[quantity])
    add("n", "value", published.n, fit.moments.n_rows)
    for factor, printed in _list_groups(fit, published).items():
        add("groups", factor, printed, _count_levels(fit, factor))
    if isinstance(fit, Estimate):
        for quantity, printed in (published.group_size or {}).items():
            add("group_size", quantity, printed, fit.moments.group_size[quantity])
    return tuple(checks)


def _list_groups(
    fit: Estimate | LevelsEstimate | AnyFamilyEstimate | StrataEstimate, published: Published
) -> dict[str, str]:
    """Return the printed numbers of groups, by factor; of one factor under "value".

    Raises `GalleryError` where they are not of the fit's factors.
    """
    several = isinstance(fit, LevelsEstimate | FamilyLevelsEstimate)
    if several and published.group_size is not None:
        raise GalleryError(
            "published.group_size is of a single factor, and "
            f"'{fit.moments.formula}' has several; leave it out"
        )
    if published.groups is None:
        return {}
    if isinstance(published.groups, Mapping) != several:
        wanted = "a table with a number for each factor" if several else "one number"
        raise GalleryError(f"published.groups = {published.groups!r} is not {wanted}; give that")
    if isinstance(published.groups, str):
        return {"value": published.groups}
    for factor in published.groups:
        if factor not in fit.moments.groups:
            raise GalleryError(
                f"published.groups has '{factor}', which is no grouping factor of "
                f"'{fit.moments.formula}'; the factors are {', '.join(fit.moments.groups)}"
            )
    return dict(published.groups)


def _count_levels(
    fit: Estimate | LevelsEstimate | AnyFamilyEstimate | StrataEstimate, factor: str
) -> int:
    if isinstance(fit, LevelsEstimate | FamilyLevelsEstimate):
        return fit.moments.groups[factor]
    return fit.moments.n_groups


def describe_published(
    fit: Estimate | LevelsEstimate | AnyFamilyEstimate | StrataEstimate,
    published: Published,
    checks: tuple[PrintedCheck, ...],
) -> str:
    """Return one paragraph on how far the printed values are reproduced, and why not further."""
    inexact = [check for check in checks if not check.exact]
    wrong = [check for check in checks if not check.reproduced]
    source = published.software or published.source
    if not published.comparable:
        return f"The printed values are shown but not judged: {published.note or source}"
    if wrong:
        worst = max(wrong, key=lambda check: abs(check.relative))
        return (
            f"{len(wrong)} of {len(checks)} values printed by {source} "
            f"{agree(len(wrong), 'is', 'are')} not reproduced; the "
            f"furthest is {worst.quantity} of {worst.name}: printed {worst.printed}, computed "
            f"{worst.computed:.7g}."
        )
    if not inexact:
        return f"All {len(checks)} values printed by {source} are reproduced to their last digit."
    worst = max(inexact, key=lambda check: abs(check.relative))
    text = (
        f"All {len(checks)} values printed by {source} are reproduced within "
        f"{published.relative_tolerance:.0e} relative, {len(checks) - len(inexact)} of them to "
        f"their last digit. The furthest is {worst.quantity} of {worst.name}: printed "
        f"{worst.printed}, maximum at {worst.computed:.7g}."
    )
    shortfall = measure_shortfall(fit, published) if isinstance(fit, Estimate) else None
    if shortfall is not None and shortfall > 0.0:
        text += (
            f" At the printed variance components the log-likelihood is {shortfall:.1e} below its "
            f"maximum: {source} stopped before reaching it."
        )
    return text


def measure_shortfall(fit: Estimate, published: Published) -> float | None:
    """Return by how much the printed variance components miss the maximum log-likelihood.

    None where some component is not printed, or where rounding in the last printed digit alone
    could account for the difference.
    """
    names = map(str, (*fit.structure.variances, RESIDUAL))
    printed = [published.estimates.get(name, {}).get("estimate") for name in names]
    if any(text is None for text in printed):
        return None
    texts = [text for text in printed if text is not None]
    values = np.array([float(text) for text in texts])
    exact = np.array([*fit.structure.read(fit.g), fit.sigma2])
    if all(
        abs(value - best) <= printed_tolerance(text)
        for value, best, text in zip(values, exact, texts, strict=True)
    ):
        return None
    g = fit.structure.assemble(values[:-1])
    return fit.loglik - loglik_at(fit, g, float(values[-1]))


def loglik_at(fit: Estimate, g: Array, sigma2: float) -> float:
    """Return the (restricted) log-likelihood at G and sigma^2, profiled over beta alone."""
    white = fit.white
    restricted = fit.method == "reml"
    values, vectors = np.linalg.eigh(np.linalg.solve(white.basis, g) @ np.linalg.inv(white.basis).T)
    lam = vectors * np.sqrt(np.maximum(values, 0.0) / sigma2)
    at = evaluate(
        white.blocks, white.q, np.ascontiguousarray(lam), n=white.n, restricted=restricted
    )
    v = sigma2 / white.scale**2
    return unwhiten_loglik(at.at_variance(v), white, restricted)
