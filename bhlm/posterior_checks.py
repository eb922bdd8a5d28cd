"""What a BayesFit is checked by: methods that hand over to the modules that check."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from bhlm.checks.loo import Loo, Progress
    from bhlm.checks.predictive import PredictiveCheck
    from bhlm.checks.sensitivity import Sensitivity
    from bhlm.model import Model


class PosteriorChecks:
    """Base of BayesFit, which is what `self` is."""

    __slots__ = ()

    def check(
        self: Any, *, kind: str = "same groups", draws: int = 400, seed: int | None = None
    ) -> "PredictiveCheck":
        """Return each group's mean, slopes and residual SD beside replicates of them.

        "same groups" keeps the groups' effects, "new groups" draws them from N(0, G); see
        `bhlm.checks.predictive.check_groups`.

        Raises:
            ArgumentError: an unknown kind, a seed that is negative, or too few draws.
        """
        from bhlm.checks.predictive import check_groups

        return check_groups(self, kind=kind, draws=draws, seed=seed)

    def loo(self: Any, *, refit: bool = True, progress: "Progress | None" = None) -> "Loo":
        """Return the leave-one-group-out elpd, by exact refits where k-hat is too large.

        ArviZ takes it as it is (`arviz.compare`); see `bhlm.checks.loo.leave_out_groups`.

        Raises:
            ArgumentError: draws from the prior alone, or fewer than two groups.
        """
        from bhlm.checks.loo import leave_out_groups

        return leave_out_groups(self, refit=refit, progress=progress)

    def sensitivity(self: Any) -> "Sensitivity":
        """Return how far each parameter's posterior depends on the priors, by power-scaling.

        See `bhlm.checks.sensitivity.measure_sensitivity`.

        Raises:
            ArgumentError: draws from the prior alone.
        """
        from bhlm.checks.sensitivity import measure_sensitivity

        return measure_sensitivity(self)

    def dashboard(
        self: Any, path: "str | Path", *, model: "Model | None" = None, title: str | None = None
    ) -> None:
        """Write the page about this posterior to an HTML file; see `bhlm.dashboard.subjects`.

        Its numbers go to a .json beside it. `model` has the rows, which some figures need; None
        takes the model that the fit was made from, if it is still in use.

        Raises:
            DataError: a path that cannot be written to, or a model of other data.
        """
        from bhlm.dashboard.subjects import write_fit

        write_fit(self, path, model=model, title=title)
