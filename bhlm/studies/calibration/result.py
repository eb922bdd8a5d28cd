"""Ranks of true values among posterior draws -> Calibration: what fails, and in which way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import check_fields
from bhlm.layout import list_names
from bhlm.markup import ShownAsText
from bhlm.studies.uniformity import count_below, grid_points, simultaneous_band, uniformity_p

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Standard errors from which on a shift or a spread of the ranks is named as what is wrong.
NAMED = 3.0
# Share of replicates with divergent or dependent draws from which on it is said first.
MANY = 0.05


@check_fields
@dataclass(frozen=True, slots=True, repr=False)
class Calibration(ShownAsText):
    """Ranks of known parameters in the posteriors of data simulated from them."""

    quantities: tuple[str, ...]  # (m,) what was ranked
    ranks: Array  # (replicates, m) integers in 0..n_draws
    n_draws: int  # L
    p: Array  # (m,) probability of such a deviation from uniform ranks, over the whole range
    deviation: Array  # (m,) largest difference of the ranks' ECDF from the uniform, signed
    level: float  # of the bands, over all quantities together
    failures: tuple[str, ...]  # one sentence each: which quantity, which way
    notes: tuple[str, ...]  # replicates whose draws are doubtful; they are counted all the same
    divergences: Array  # (replicates,) divergent transitions
    ess: Array  # (replicates,) smallest bulk ESS of any quantity, before thinning
    thin: int
    tune: int
    seed: int
    formula: str
    n_rows: int
    n_groups: int | dict[str, int]  # of several factors by factor
    priors: dict[str, str]
    seconds: float  # of this call
    independent: int = 0  # replicates whose draws are independent, and not those of NUTS

    @property
    def ok(self) -> bool:
        """Whether the ranks of all quantities lie inside their simultaneous bands."""
        return not self.failures

    @property
    def threshold(self) -> float:
        """The p-value at which a quantity leaves its band: (1 - level) / m, by Bonferroni."""
        return (1.0 - self.level) / len(self.quantities)

    @property
    def rank_table(self) -> "pd.DataFrame":
        """The ranks, one row per replicate and one column per quantity."""
        import pandas as pd

        index = pd.RangeIndex(len(self.ranks), name="replicate")
        return pd.DataFrame(self.ranks, index=index, columns=list(self.quantities))

    @property
    def estimates(self) -> "pd.DataFrame":
        """Each quantity's `mean_rank` (0.5 if calibrated), `deviation`, `p` and `inside`."""
        import pandas as pd

        return pd.DataFrame(
            {
                "mean_rank": _scale_ranks(self.ranks, self.n_draws).mean(axis=0),
                "deviation": self.deviation,
                "p": self.p,
                "inside": self.p > self.threshold,
            },
            index=pd.Index(self.quantities, name="quantity"),
        )

    def ecdf(self) -> "pd.DataFrame":
        """Return the ECDF differences of all quantities and their band, to be drawn.

        Indexed by `z`, the expected share of ranks below a point; columns `lower` and `upper`
        hold the band that each quantity must stay in, the others each quantity's ECDF - z.
        """
        import pandas as pd

        z = grid_points(self.n_draws)
        n = len(self.ranks)
        low, high = simultaneous_band(n, self.n_draws, 1.0 - self.threshold)
        counts = np.column_stack([count_below(column, self.n_draws) for column in self.ranks.T])
        table = np.column_stack([low, high, counts]) / n - z[:, None]
        columns = ["lower", "upper", *self.quantities]
        return pd.DataFrame(table, index=pd.Index(z, name="z"), columns=columns)

    @property
    def _groups(self) -> str:
        if isinstance(self.n_groups, int):
            return f"{self.n_groups} groups"
        levels = [f"{number} of {name!r}" for name, number in self.n_groups.items()]
        return list_names(levels, most=len(levels))

    def summary(self) -> str:
        """Return the study, its table and the verdict as text."""
        width = max(map(len, self.quantities))
        lines = [
            f"Simulation-based calibration of {self.formula}",
            f"{self.n_rows} rows in {self._groups}, simulated {len(self.ranks)} times; "
            f"ranks among {self.n_draws} draws",
            f"thinned from {self.n_draws * self.thin} after {self.tune} of warm-up; "
            f"seed {self.seed}",
            *(
                [f"drawn independently in {self.independent} of them, without warm-up"]
                if self.independent
                else []
            ),
            "",
            "Priors",
            *(f"  {name:<{width}}  {text}" for name, text in self.priors.items()),
            "",
            f"{'quantity':<{width + 2}}{'mean rank':>10}{'deviation':>11}{'p':>9}",
        ]
        for row in self.estimates.itertuples():
            lines.append(
                f"{row.Index:<{width + 2}}{row.mean_rank:>10.3f}{row.deviation:>+11.4f}"
                f"{row.p:>9.2g}" + ("" if row.inside else "  outside")
            )
        bands = f"the {100 * self.level:g} % simultaneous bands (p > {self.threshold:.2g} each)"
        lines += ["", *self.notes]
        if self.ok:
            lines.append(f"Calibrated: the ranks of all quantities lie inside {bands}.")
        else:
            lines += [f"NOT CALIBRATED: ranks leave {bands}.", *self.failures]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict under the names of the JSON."""
        return {
            "model": {"formula": self.formula, "n": self.n_rows, "groups": self.n_groups},
            "priors": dict(self.priors),
            "replicates": len(self.ranks),
            "n_draws": self.n_draws,
            "thin": self.thin,
            "tune": self.tune,
            "seed": self.seed,
            "level": self.level,
            "threshold": self.threshold,
            "ok": self.ok,
            "quantities": {
                row.Index: {
                    "mean_rank": float(row.mean_rank),
                    "deviation": float(row.deviation),
                    "p": float(row.p),
                    "inside": bool(row.inside),
                }
                for row in self.estimates.itertuples()
            },
            "failures": list(self.failures),
            "notes": list(self.notes),
            "divergent_replicates": int((self.divergences > 0).sum()),
            "independent_replicates": self.independent,
            "seconds": self.seconds,
        }


def judge_ranks(
    quantities: Sequence[str],
    ranks: Array,
    *,
    n_draws: int,
    level: float,
    divergences: Array,
    ess: Array,
    **about: Any,
) -> Calibration:
    """Return the verdict on ranks (replicates, m) of m quantities.

    A quantity fails when its ranks would deviate so much from uniform with a probability of at
    most (1 - level) / m: with Bonferroni's bound over quantities, a calibrated study passes
    with a probability of at least `level`, however the quantities depend on each other.

    Args:
        quantities: their names.
        ranks: integers in 0..n_draws.
        n_draws: how many draws each true value was ranked among.
        level: of the bands.
        divergences: divergent transitions (replicates,).
        ess: smallest bulk ESS (replicates,), before thinning.
        about: the remaining fields of `Calibration`.
    """
    z = grid_points(n_draws)
    p, deviation, failures = [], [], []
    for name, column in zip(quantities, ranks.T, strict=True):
        difference = count_below(column, n_draws) / len(column) - z
        deviation.append(float(difference[np.argmax(np.abs(difference))]))
        p.append(uniformity_p(column, n_draws))
        if p[-1] <= (1.0 - level) / len(quantities):
            failures.append(f"{name}: {describe_ranks(column, n_draws)} (p = {p[-1]:.2g})")
    return Calibration(
        quantities=tuple(quantities), ranks=ranks, n_draws=n_draws, p=np.array(p),
        deviation=np.array(deviation), level=level, failures=tuple(failures),
        notes=_take_notes(divergences, ess, n_draws), divergences=divergences, ess=ess, **about,
    )  # fmt: skip


def describe_ranks(ranks: Array, n_draws: int) -> str:
    """Return how ranks (N,) deviate from uniform: shifted, or spread, and what that means."""
    u = _scale_ranks(ranks, n_draws)
    cells = n_draws + 1.0
    # Mean and variance of scaled uniform ranks, and the sampling variance of their squares.
    variance = (1.0 - cells**-2) / 12.0
    fourth = (3.0 - 10.0 * cells**-2 + 7.0 * cells**-4) / 240.0
    shift = (u.mean() - 0.5) / np.sqrt(variance / len(u))
    excess = np.mean((u - 0.5) ** 2) - variance
    # Ranks 0 and 1 have squares that do not vary.
    spread = excess / np.sqrt((fourth - variance**2) / len(u)) if n_draws > 1 else 0.0
    if max(abs(shift), abs(spread)) < NAMED:
        return "ranks are not uniform, without a clear shift or spread; look at ecdf()"
    if abs(shift) >= abs(spread):
        ranked, biased = ("high", "low") if shift > 0 else ("low", "high")
        return f"true values rank too {ranked} (mean {u.mean():.3f}), so the posterior is {biased}"
    if spread > 0:
        return "true values fall into the tails too often, so the posterior is too narrow"
    return "true values fall into the middle too often, so the posterior is too wide"


def _scale_ranks(ranks: Array, n_draws: int) -> Array:
    """Return ranks in 0..n_draws as numbers between 0 and 1, at the middle of their cells."""
    return (ranks + 0.5) / (n_draws + 1.0)


def _take_notes(divergences: Array, ess: Array, n_draws: int) -> tuple[str, ...]:
    """Return sentences on the replicates whose draws are doubtful."""
    n = len(ess)
    divergent = int((divergences > 0).sum())
    dependent = int((~(ess >= n_draws)).sum())
    notes = []
    if divergent:
        advice = "; raise target_accept" if divergent > MANY * n else ""
        notes.append(
            f"{divergent} of {n} replicates had divergent transitions, {divergences.sum()} in "
            f"all; they are counted like the others{advice}."
        )
    if dependent:
        advice = "; raise thin" if dependent > MANY * n else ""
        notes.append(
            f"{dependent} of {n} replicates had a bulk ESS below the {n_draws} draws that true "
            f"values are ranked among; they are counted like the others{advice}."
        )
    return tuple(notes)
