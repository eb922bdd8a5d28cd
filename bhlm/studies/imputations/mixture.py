"""The posterior given several imputations, or plausible values: the mixture of theirs.

Averaged over what is not observed, p(theta | observed) is the mean over imputations of
p(theta | imputation), so that as many draws from each, together, are draws from it. Source: Gelman
et al. (2013), Bayesian Data Analysis, section 18.2; Zhou & Reiter (2010), The American Statistician
64, 159-163.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Draws, Settings
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import sample_moments
from bhlm.layout import format_digits, list_names, show_name, wrap
from bhlm.studies.imputations.pooled import Pooled

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Mixture:
    """Posteriors of one model given m imputations, with as many draws from each."""

    fits: tuple[Draws, ...]  # m
    pooled: Pooled  # the fits by REML or ML that they stand beside
    seed: int | None = None  # from which each one's was made
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def draws(self) -> dict[str, Array]:
        """Every parameter's draws (m chains, draw), one imputation's chains after the other's."""
        each = [fit.draws for fit in self.fits]
        return {name: np.concatenate([own[name] for own in each]) for name in each[0]}

    @property
    def converged(self) -> bool:
        """Whether the draws of every imputation pass their verdict."""
        return all(fit.converged for fit in self.fits)

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `mean, median, sd, lower, upper`, with equal-tailed 95 % intervals.

        `within` and `between` are the SDs within imputations and of their means, whose squares add
        up to that of `sd`; `fmi` is the share of `between`. `ess_bulk` is the sum over imputations
        and `rhat` the largest of one: chains of different imputations need not agree.
        """
        import pandas as pd

        if "estimates" not in self._kept:
            tables = [fit.estimates for fit in self.fits]
            rows = {}
            for name, values in self.draws.items():
                by_fit = values.reshape(len(self.fits), -1)
                within = float(by_fit.var(axis=1).mean())
                between = float(by_fit.mean(axis=1).var())
                lower, median, upper = np.quantile(values, [0.025, 0.5, 0.975])
                rows[name] = {
                    "mean": float(values.mean()),
                    "median": float(median),
                    "sd": float(np.sqrt(within + between)),
                    "lower": float(lower),
                    "upper": float(upper),
                    "within": float(np.sqrt(within)),
                    "between": float(np.sqrt(between)),
                    "fmi": between / (within + between) if within + between > 0.0 else 0.0,
                    "ess_bulk": float(sum(table.loc[name, "ess_bulk"] for table in tables)),
                    "rhat": float(max(table.loc[name, "rhat"] for table in tables)),
                }
            table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")
            # A mean that some imputation's posterior does not have the mixture does not have.
            for column in ("mean", "sd"):
                lost = np.any([each[column].isna() for each in tables], axis=0)
                table.loc[lost, [column, *(("within", "between", "fmi"))]] = np.nan
            self._kept["estimates"] = table
        kept: pd.DataFrame = self._kept["estimates"]
        return kept.copy()

    def compare(self) -> "pd.DataFrame":
        """Return the pooled estimates beside the mixture, one row per parameter.

        Columns `pooled, se, mean, sd, gap` (mean less pooled) and `gap_sd`, in SDs of the mixture;
        `pooled_fmi` and `fmi`. `pooled_fmi` is Rubin's, of infinitely many imputations by the
        finite ones at hand, and larger.
        """
        import pandas as pd

        ours, theirs = self.estimates, self.pooled.estimates
        names = [name for name in ours.index if name in theirs.index]
        gap = ours.loc[names, "mean"] - theirs.loc[names, "estimate"]
        return pd.DataFrame(
            {
                "pooled": theirs.loc[names, "estimate"],
                "se": theirs.loc[names, "se"],
                "mean": ours.loc[names, "mean"],
                "sd": ours.loc[names, "sd"],
                "gap": gap,
                "gap_sd": gap / ours.loc[names, "sd"],
                "pooled_fmi": theirs.loc[names, "fmi"],
                "fmi": ours.loc[names, "fmi"],
            }
        ).rename_axis("parameter")

    def summary(self) -> str:
        """Return what was sampled, every estimate, and which imputations failed, as text."""
        first = self.fits[0]
        chains, draws = first.shape
        lines = wrap(
            f"Posterior of {show_name(first.moments.formula)} given {len(self.fits)} imputations, "
            f"mixed: {chains} chains x {draws} draws of each",
            WIDTH,
        )
        weights, adjustment = first.moments.weights, first.adjustment
        if weights is not None:
            told = show_name(weights.sentence)
            told += f"; {adjustment.sentence}" if adjustment is not None else ""
            lines += wrap(told, WIDTH, indent=2)
        failed = [
            f"imputation {at} ({fit.diagnostics.failures[0]})"
            for at, fit in enumerate(self.fits, 1)
            if not fit.converged
        ]
        if failed:
            lines += wrap(f"FAILED: the draws of {list_names(failed)} do not pass", WIDTH, indent=2)
        table = self.estimates.to_string(float_format=lambda value: format_digits(value, 5))
        return "\n".join([*lines, table])


def sample_pooled(
    pooled: Pooled,
    *,
    seed: int,
    settings: Settings | None = None,
    priors: Priors | None = None,
    progress: Callable[[Sequence[Any]], None] | None = None,
    adjust: bool = True,
) -> Mixture:
    """Return the mixture of the posteriors of the fits that were pooled.

    Default priors are scaled to each imputation's own response.

    Args:
        pooled: the fits, of which the moments are taken.
        seed: makes the run repeatable; each imputation has a stream of its own.
        settings: how long to run, and how; None takes the defaults.
        priors: what replaces the autoscaled defaults.
        progress: called now and then with nutpie's progress of every chain.
        adjust: whether draws under sampling weights get the sandwich's covariance.
    """
    fits = [
        sample_moments(
            fit.moments,
            seed=int(np.random.SeedSequence([seed, at]).generate_state(1)[0]),
            settings=settings,
            priors=priors,
            covariance=fit.structure.name_override,
            progress=progress,
            adjust=adjust,
        )
        for at, fit in enumerate(pooled.fits)
    ]
    return Mixture(tuple(fits), pooled, seed)
