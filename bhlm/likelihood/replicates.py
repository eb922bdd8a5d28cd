"""Replicates of a family's rows: proportions or rates by group beside them, and calibration."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.layout import format_digits, name_some, wrap
from bhlm.likelihood.families import Family
from bhlm.likelihood.parameters import name_apart
from bhlm.markup import ShownAsText
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

SAME, NEW = KINDS = ("same groups", "new groups")
OUTSIDE = 0.01  # a two-sided tail probability below this is outside
LEAST = 200  # draws; with fewer no Monte Carlo p-value is below OUTSIDE
BINS = 10
WIDTH = 80


@dataclass(frozen=True, slots=True, repr=False)
class FamilyCheck(ShownAsText):
    """Observed proportions or rates beside their posterior predictive distribution.

    `groups` has a row per group: `observed`, `predicted` (mean of the replicates), `lower`, `upper`
    (95 %), `p` = P(replicate >= observed), half of ties counted, and `p_adjusted`, two-sided and
    multiplied by the number of groups. `calibration` has a row per tenth of the trials (exposure)
    in the order of what is predicted: `n`, and the first four. `overall` has the mean and the SD
    over groups.
    """

    kind: str
    draws: int
    seed: int
    group: str
    is_rate: bool
    groups: "pd.DataFrame"
    calibration: "pd.DataFrame"
    overall: "pd.DataFrame"

    @property
    def far_groups(self) -> tuple[str, ...]:
        """A clause on the groups that are outside after multiplying by their number, if any."""
        far = self.groups[self.groups["p_adjusted"] < OUTSIDE]
        if not len(far):
            return ()
        return (
            f"the {self.what} of {self.group} {name_some(far.iloc[:, 0].tolist())} is outside: "
            f"two-sided p < {OUTSIDE} after multiplying by the {len(self.groups)} groups",
        )

    @property
    def far_summaries(self) -> tuple[str, ...]:
        """A clause on what of all groups together the model does not predict, for each."""
        sentences = []
        for name, row in self.overall.iterrows():
            if min(row["p"], 1.0 - row["p"]) * 2.0 < OUTSIDE:
                side = "above" if row["observed"] > row["predicted"] else "below"
                sentences.append(
                    f"the {name} over groups of the {self.what} is "
                    f"{format_digits(row['observed'], 4)}, "
                    f"{side} what the model predicts: {format_digits(row['predicted'], 4)}, 95 % "
                    f"{format_digits(row['lower'], 4)} to {format_digits(row['upper'], 4)}"
                )
        beyond = self.count_beyond()
        # Of ten intervals of 95 % one misses now and then, three do not.
        if beyond >= 3:
            sentences.append(
                f"the calibration is off: in {beyond} of {len(self.calibration)} tenths the "
                f"observed {self.what} lies outside of its 95 % interval"
            )
        return tuple(sentences)

    def count_beyond(self) -> int:
        """Return in how many tenths the observed proportion lies outside of its interval."""
        rows = self.calibration
        return int(((rows["observed"] < rows["lower"]) | (rows["observed"] > rows["upper"])).sum())

    @property
    def what(self) -> str:
        """What a group is compared by."""
        return "rate" if self.is_rate else "proportion"

    @property
    def reading(self) -> str:
        """The calibration, in a clause."""
        return (
            f"the observed {self.what} lies within the 95 % interval of replicates in "
            f"{len(self.calibration) - self.count_beyond()} of {len(self.calibration)} tenths"
        )

    @property
    def outside(self) -> tuple[str, ...]:
        """One sentence for what the model does not predict."""
        return self.far_summaries + self.far_groups

    @property
    def ok(self) -> bool:
        """Whether nothing is outside."""
        return not self.outside

    def summary(self) -> str:
        """Return the calibration and what is outside, as text."""
        what = "rates" if self.is_rate else "proportions"
        shown = self.calibration.to_string(float_format=lambda x: format_digits(x, 4))
        lines = [f"Observed and predicted {what} by tenth ({self.kind}, {self.draws} draws)"]
        lines += [*shown.splitlines(), "", "Over groups"]
        lines += self.overall.to_string(float_format=lambda x: format_digits(x, 4)).splitlines()
        found = self.outside or ("nothing is outside of what the model predicts",)
        return "\n".join([*lines, "", *(line for text in found for line in wrap(text, WIDTH))])


def check_seed(kind: str, draws: int, seed: int | None) -> None:
    """Refuse what no check can be made of.

    Raises:
        ArgumentError: an unknown kind, a seed that is negative, or too few draws.
    """
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    if seed is not None and seed < 0:
        raise ArgumentError(f"seed={seed} is not a seed; give an integer of 0 or more")
    if not draws >= LEAST:
        raise ArgumentError(f"draws={draws} is too few for a p-value; give {LEAST} or more")


def compare_groups(
    patterns: Patterns,
    family: Family,
    *,
    beta: Array,
    effects: Array,
    kind: str,
    seed: int,
    rng: np.random.Generator,
) -> FamilyCheck:
    """Return each group's proportion or rate beside replicates of it, and the calibration.

    Args:
        patterns: the reduced table.
        family: with its link.
        beta: fixed effects (N, p), each of which is replicated once.
        effects: u (N, J, q) of the same draws.
        kind: whose groups the effects are, "same groups" or "new groups".
        seed: told of the replicates.
        rng: the source of the random numbers.
    """
    x, z = patterns.take(patterns.fixed), patterns.take(patterns.random)
    codes = patterns.codes
    replicated = replicate(
        patterns.n,
        family,
        (
            patterns.offset + x @ own + np.sum(z * effects[row][codes], axis=1)
            for row, own in enumerate(beta)
        ),
        draws=len(beta),
        rng=rng,
    )
    return judge_units(
        patterns, family, replicated, group=patterns.group, groups=patterns.groups, codes=codes,
        kind=kind, seed=seed,
    )  # fmt: skip


class Replicated(NamedTuple):
    """Replicates of every pattern's response."""

    expected: Array  # (I,) of one trial: the mean over draws, or what else tenths go by
    drawn: Array  # (N, I) successes, or events


def replicate(
    n: Array, family: Family, etas: Iterable[Array], *, draws: int, rng: np.random.Generator
) -> Replicated:
    """Return responses of patterns with so many trials (I,), one for each linear predictor."""
    replicates, expected = np.empty((draws, len(n))), np.zeros(len(n))
    for row, eta in enumerate(etas):
        mean = family.mean(eta)
        expected += mean / draws
        replicates[row] = family.draw(mean, n, rng=rng)
    return Replicated(expected, replicates)


def judge_units(
    patterns: AnyPatterns,
    family: Family,
    replicated: Replicated,
    *,
    group: str,
    groups: Array,
    codes: Array,
    kind: str,
    seed: int,
) -> FamilyCheck:
    """Return each unit's proportion or rate beside replicates of it, and the calibration.

    Args:
        patterns: the reduced table.
        family: with its link.
        replicated: its replicates.
        group: what the units are called.
        groups: their labels (J,).
        codes: the unit (I,) of every pattern.
        kind: whose units the effects were, one of `KINDS`.
        seed: told of the replicates.
    """
    import pandas as pd

    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(groups)))
    size = np.bincount(codes, weights=patterns.n)
    own = np.bincount(codes, weights=patterns.y) / size
    drawn = np.add.reduceat(replicated.drawn[:, order], starts, axis=1) / size
    (label,) = name_apart(
        [group],
        table=("observed", "predicted", "lower", "upper", "p", "p_adjusted"),
    )
    table = pd.DataFrame({label: groups} | _compare(own, drawn))
    two = np.minimum(table["p"], 1.0 - table["p"]) * 2.0
    table["p_adjusted"] = np.minimum(two * len(table), 1.0)
    over = _compare(
        np.array([own.mean(), own.std(ddof=1)]),
        np.column_stack([drawn.mean(axis=1), drawn.std(axis=1, ddof=1)]),
    )
    return FamilyCheck(
        kind=kind, draws=len(replicated.drawn), seed=seed, group=group,
        is_rate=family.link == "log", groups=table,
        calibration=_calibrate(patterns.n, patterns.y, *replicated),
        overall=pd.DataFrame(over, index=["mean", "SD"]),
    )  # fmt: skip


def _compare(own: Array, drawn: Array) -> dict[str, Array]:
    """Return `observed, predicted, lower, upper, p` of statistics (m,) and replicates (N, m)."""
    lower, upper = np.quantile(drawn, [0.025, 0.975], axis=0)
    above = (drawn > own).mean(axis=0) + 0.5 * (drawn == own).mean(axis=0)
    return {
        "observed": own,
        "predicted": drawn.mean(axis=0),
        "lower": lower,
        "upper": upper,
        "p": above,
    }


def _calibrate(n: Array, y: Array, expected: Array, replicates: Array) -> "pd.DataFrame":
    """Return what `FamilyCheck.calibration` holds of patterns (I,)."""
    import pandas as pd

    order = np.argsort(expected, kind="stable")
    place = np.cumsum(n[order]) - 0.5 * n[order]
    bins = np.minimum((BINS * place / n.sum()).astype(int), BINS - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    size = np.add.reduceat(n[order], starts)
    own = np.add.reduceat(y[order], starts) / size
    drawn = np.add.reduceat(replicates[:, order], starts, axis=1) / size
    content = {"n": size} | _compare(own, drawn)
    del content["p"]
    return pd.DataFrame(content, index=pd.Index(bins[starts] + 1, name="tenth"))
