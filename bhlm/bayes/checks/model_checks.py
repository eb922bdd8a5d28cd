"""What a reconciliation asks of the model and of its priors, beside asking whether fits agree."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bhlm.bayes.checks.loo_pit import LooPit, Rows, check_pit
from bhlm.bayes.checks.predictive import OUTSIDE, PredictiveCheck, check_groups
from bhlm.bayes.checks.sensitivity import Sensitivity, measure_sensitivity
from bhlm.bayes.draws import Draws
from bhlm.errors import DataError
from bhlm.layout import count
from bhlm.likelihood.replicates import FamilyCheck

if TYPE_CHECKING:
    from bhlm.bayes.level_draws import LevelDraws
    from bhlm.moments.cells import CellRows

# Groups up to which all is checked: a second or two. `fit.check()`, `model.check_rows(fit)` and
# `fit.sensitivity()` have no such limit.
GROUPS = 5000
# Log-likelihoods of groups up to which the sensitivity rests on all draws, and draws it needs.
LOGLIKS = 2_000_000
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Checks:
    """Model checks of a posterior, and how far it hangs on its priors."""

    predictive: PredictiveCheck | FamilyCheck | None  # of "same groups"; without the replicates
    pit: LooPit | None  # families have the calibration of their check in its place
    sensitivity: Sensitivity | None
    left_out: tuple[str, ...] = ()  # what was not computed and why, a sentence each

    @property
    def distribution(self) -> str | None:
        """How the responses are distributed beside what is predicted; None if not checked."""
        if isinstance(self.predictive, FamilyCheck):
            return self.predictive.reading
        return None if self.pit is None else self.pit.reading

    @property
    def failures(self) -> tuple[str, ...]:
        """What the model does not describe beyond what chance does, a clause each.

        Groups count after multiplying by the number of statistics compared, the PIT by its test.
        """
        found = [] if self.pit is None or self.pit.ok else [self.pit.reading]
        if self.predictive is not None:
            found += self.predictive.far_groups
        return tuple(found)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What lies outside of prediction, but of so many summaries that some would by chance."""
        if self.predictive is None or not self.predictive.far_summaries:
            return ()
        number = len(self.predictive.overall)
        by_chance = f"of {number} summaries {OUTSIDE * number:.2g} would be outside by chance alone"
        return (*self.predictive.far_summaries, by_chance)


def run_checks(post: Draws, rows: Callable[[], Rows] | None = None) -> Checks:
    """Return the model checks of a posterior and its sensitivity to the priors.

    Args:
        post: the posterior.
        rows: returns labels (n,), X (n, p), Z (n, q) and y (n,); None checks the groups alone.

    Raises:
        ArgumentError: draws from the prior alone, or fewer than the predictive check needs.
    """
    groups = post.moments.n_groups
    if groups > GROUPS:
        told = (
            f"Neither the model nor the sensitivity to its priors was checked, since there are "
            f"{count(groups, 'group')}: post.check(), model.check_rows(post) and "
            "post.sensitivity() do it"
        )
        return Checks(None, None, None, (told,))
    weights = post.moments.weights
    if weights is not None:
        told = (
            "The model was not checked by replicates of its rows, which are not there yet with "
            f"{weights.sentence}"
        )
        if weights.strata:
            more = f"Nor was the sensitivity to the priors measured with {weights.sentence}"
            return Checks(None, None, None, (told, more))
        return Checks(None, None, measure_sensitivity(_thin(post)), (told,))
    pit: LooPit | None = None
    left_out: tuple[str, ...] = ()
    try:
        pit = check_pit(post, rows)
    except DataError as error:
        left_out = (f"The PIT of the rows was not computed: {error}",)
    return Checks(
        predictive=replace(check_groups(post), data=None),
        pit=pit,
        sensitivity=measure_sensitivity(_thin(post)),
        left_out=left_out,
    )


def run_level_checks(post: "LevelDraws", rows: "Callable[[], CellRows] | None" = None) -> Checks:
    """Return the checks of a posterior of several grouping factors, and its sensitivity.

    The units are those of the factor that all others are nested in, of crossed ones of that with
    the fewest.

    Args:
        post: the posterior.
        rows: returns the rows that it was fitted to; None checks the units alone.

    Raises:
        ArgumentError: draws from the prior alone, or fewer than the predictive check needs.
    """
    from bhlm.bayes.checks.level_pit import check_level_pit
    from bhlm.bayes.checks.level_predictive import check_units

    left_out: list[str] = []
    predictive, pit = None, None
    if post.moments.weights is not None:
        left_out = [
            "The model was not checked by replicates of its rows, which are not there yet with "
            f"{post.moments.weights.sentence}"
        ]
    elif post.holds_effects:
        predictive = replace(check_units(post), data=None)
        try:
            pit = check_level_pit(post, rows)
        except DataError as error:
            left_out.append(f"The PIT of the rows was not computed: {error}")
    else:
        left_out.append(
            "Neither units nor rows were checked, since the effects of so many units were not "
            "drawn with the posterior: post.check() and model.check_rows(post) do it"
        )
    return Checks(predictive, pit, measure_sensitivity(post), tuple(left_out))


def _thin(post: Draws) -> Draws:
    """Return the fit with as few draws as its groups call for."""
    chains, length = post.shape
    draws = chains * length
    step = min(-(-draws * post.moments.n_groups // LOGLIKS), draws // DRAWS)
    if step < 2:
        return post
    return post.with_data(post.data.isel(draw=slice(None, None, step), missing_dims="ignore"))
