"""Groups of a family: their effects on the link scale, and what is expected of them."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np

from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.family.level_draws import AnyFamilyDraws, FamilyLevelDraws
from bhlm.errors import ArgumentError
from bhlm.likelihood.effects import tabulate_effects
from bhlm.likelihood.expected import find_middle
from bhlm.plots.figure import Figure
from bhlm.plots.ranked_effects import Level, draw_caterpillar
from bhlm.plots.style import shorten
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.standard_errors import Z95

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
type FamilyFits = FamilyEstimate | FamilyDraws | Comparison

type AnyFamilyFits = FamilyMaximum | AnyFamilyDraws | Comparison

HELD = 2**22  # numbers of random effects that are worked on at once


class Pair[F: FamilyMaximum, D: AnyFamilyDraws](NamedTuple):
    """What a page or a figure of a family is about."""

    ml: F | None
    post: D | None

    @property
    def given(self) -> F | D:
        """The fit by maximum likelihood, the posterior where there is none."""
        fit = self.ml if self.ml is not None else self.post
        assert fit is not None
        return fit


type OnePair = Pair[FamilyEstimate, FamilyDraws]
type AnyPair = Pair[FamilyMaximum, FamilyDraws | FamilyLevelDraws]


def is_any_family(fit: object) -> TypeGuard[AnyFamilyFits]:
    """Return whether `is_family` holds, or the fit is one of a family with several factors."""
    own = fit.reml if isinstance(fit, Comparison) else fit
    return is_family(fit) or isinstance(own, FamilyMaximum | FamilyLevelDraws)


def split_any(fit: AnyFamilyFits) -> AnyPair:
    """Return what `split_family` does, of one factor or of several.

    Raises:
        ArgumentError: the reconciliation is of another kind of fits.
    """
    if isinstance(fit, FamilyMaximum):
        return Pair(fit, None)
    if isinstance(fit, FamilyLevelDraws):
        return Pair(None, fit)
    if isinstance(fit, Comparison) and isinstance(fit.post, FamilyLevelDraws):
        assert isinstance(fit.reml, FamilyMaximum)
        return Pair(fit.reml, fit.post)
    return Pair(*split_family(fit))


def is_family(fit: object) -> TypeGuard[FamilyFits]:
    """Return whether a fit, or the fits that were reconciled, are of a family."""
    own = fit.reml if isinstance(fit, Comparison) else fit
    return isinstance(own, FamilyEstimate | FamilyDraws)


def split_family(fit: FamilyFits) -> OnePair:
    """Return the fit by maximum likelihood and the posterior that a fit of a family consists of.

    Raises:
        ArgumentError: the reconciliation is of another kind of fits.
    """
    if isinstance(fit, FamilyEstimate):
        return Pair(fit, None)
    if isinstance(fit, FamilyDraws):
        return Pair(None, fit)
    if isinstance(fit.reml, FamilyEstimate) and isinstance(fit.post, FamilyDraws):
        return Pair(fit.reml, fit.post)
    raise ArgumentError(f"the fits of '{fit.reml.moments.formula}' are not of a family of counts")


def name_response(fit: FamilyMaximum | AnyFamilyDraws) -> str:
    """Return what is expected of a trial or a unit of exposure."""
    return "rate" if fit.family.link == "log" else "probability"


def join_family(pair: OnePair) -> "pd.DataFrame":
    """Return one row per group and random coefficient, on the link scale.

    Columns: `group`, `coefficient`, `n` rows; of maximum likelihood the posterior mean `u` given
    the estimated parameters, its SD `u_se` and `u_low`, `u_high` at 1.96 of it; of the posterior
    `mean`, `low`, `high` (95 %); nan where there is no such fit.
    """
    patterns = pair.given.moments
    shape = (patterns.n_groups, len(patterns.random))
    unknown = np.full(shape, np.nan)
    u, se = unknown, unknown
    if pair.ml is not None:
        u, covs = pair.ml.locate_effects()
        se = np.sqrt(np.maximum(np.einsum("jaa->ja", covs), 0.0))
    drawn = dict.fromkeys(("mean", "low", "high"), unknown)
    if pair.post is not None:
        table = pair.post.group_effects()
        names = {"mean": "mean", "low": "lower", "high": "upper"}
        drawn = {new: table[old].to_numpy().reshape(shape) for new, old in names.items()}
    rows = np.broadcast_to(patterns.rows.astype(int)[:, None], shape)
    own = {"n": rows, "u": u, "u_se": se, "u_low": u - Z95 * se, "u_high": u + Z95 * se}
    return tabulate_effects(patterns, own | drawn, group="group")


def expect_groups(pair: OnePair) -> "pd.DataFrame":
    """Return the expected response of each group where every column has its mean, a row each.

    Columns as of `join_family`, with `coefficient` "probability" or "rate": the response of a trial
    or a unit of exposure at the group's effects, with an interval that is symmetric on the link
    scale and counts the error of the fixed effects as if it were apart from that of u.
    """
    import pandas as pd

    patterns, middle = pair.given.moments, find_middle(pair.given.moments)
    x, z = middle.x[0], middle.z[0]
    unknown = np.full(patterns.n_groups, np.nan)
    own = dict.fromkeys(("u", "u_low", "u_high"), unknown)
    if pair.ml is not None:
        fit = pair.ml
        means, covs = fit.locate_effects()
        eta = middle.add_effects(fit.beta[None])[0] + means @ z
        error = np.sqrt(np.einsum("a,jab,b->j", z, covs, z) + x @ fit.beta_cov @ x)
        ends = (0.0, -Z95, Z95)
        own = {name: fit.family.mean(eta + by * error) for name, by in zip(own, ends, strict=True)}
    drawn = dict.fromkeys(("mean", "low", "high"), unknown)
    if pair.post is not None:
        drawn = _summarize(pair.post, middle.add_effects(pair.post.flat.beta)[:, 0], z)
    content = {
        "group": patterns.groups,
        "coefficient": name_response(pair.given),
        "n": patterns.rows.astype(int),
        "observed": np.add.reduceat(patterns.y, patterns.starts[:-1])
        / np.add.reduceat(patterns.n, patterns.starts[:-1]),
    }
    return pd.DataFrame(content | own | drawn)


def _summarize(post: FamilyDraws, eta: Array, z: Array) -> dict[str, Array]:
    """Return posterior means and 95 % limits (J,) of the groups' responses."""
    u = post.list_effects()
    step = max(1, u.size // HELD)
    values = post.family.mean(eta[::step, None] + u[::step] @ z)
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return {"mean": values.mean(axis=0), "low": low, "high": high}


def draw_groups(fit: FamilyFits, *, coefficient: str | None = None, scale: str = "link") -> Figure:
    """Return the caterpillar of a family's groups, of their effects or expected responses.

    Args:
        fit: by maximum likelihood, a posterior, or the reconciliation of both.
        coefficient: the random coefficient to draw, on the link scale; None draws all.
        scale: "link", of the effects u, or "response", of what is expected of a group where every
            column has its mean.

    Raises:
        ArgumentError: a coefficient that is not random, or of the response; an unknown scale.
    """
    pair = split_family(fit)
    patterns = pair.given.moments
    if scale not in ("link", "response"):
        raise ArgumentError(f"scale={scale!r} is not known; choose one of response, link")
    has_draws = pair.post is not None
    if scale == "response":
        if coefficient is not None:
            raise ArgumentError(
                f"coefficient={coefficient!r} is on the link scale, and a group's response depends "
                "on all of them; leave one of scale= and coefficient= out"
            )
        name = name_response(pair.given)
        level = Level(
            f"expected {name}",
            _expect_typical(pair),
            f"that of a {patterns.group} without an effect",
        )
        drawn = draw_caterpillar(
            patterns, expect_groups(pair), (name,), posterior=has_draws, level=level
        )
        title = f"Expected {name} of each {shorten(patterns.group)}, in order"
        return replace(drawn, title=title, reading=f"Expected {drawn.reading}")
    names = patterns.random
    if coefficient is not None:
        if coefficient not in names:
            raise ArgumentError(
                f"coefficient={coefficient!r} does not vary over '{patterns.group}'; choose one of "
                f"{', '.join(names)}"
            )
        names = (coefficient,)
    level = Level(f"deviation ({pair.given.family.link} scale)", 0.0, "0")
    return draw_caterpillar(patterns, join_family(pair), names, posterior=has_draws, level=level)


def _expect_typical(pair: OnePair) -> float:
    """Return the response of a group whose effects are zero, where every column has its mean."""
    middle, fit = find_middle(pair.given.moments), pair.given
    if isinstance(fit, FamilyEstimate):
        return float(fit.family.mean(middle.add_effects(fit.beta[None]))[0, 0])
    return float(fit.family.mean(middle.add_effects(fit.flat.beta)).mean())
