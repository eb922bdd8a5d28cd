"""StudyResult: the finished replicates of a study, and the tables that are read off them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.markup import ShownAsText
from bhlm.studies.simulation.conditions import true_values
from bhlm.studies.simulation.report import render_study
from bhlm.studies.simulation.study import Study, identify_study
from bhlm.studies.simulation.summary import MEASURES, count_fits, measure, read_estimates

if TYPE_CHECKING:
    import pandas as pd

CONDITION = ("J", "n", "icc", "slope_variance", "correlation")


@dataclass(frozen=True, slots=True, repr=False)
class StudyResult(ShownAsText):
    """A simulation study with its finished replicates."""

    study: Study
    records: tuple[Mapping[str, Any], ...]  # by number; see `replicate.run_replicate`
    ran: int  # how many of them this call ran
    seconds: float  # of this call

    @property
    def table(self) -> "pd.DataFrame":
        """The study's results, a row per condition, estimator, point estimate and parameter.

        Columns `condition` (its number, from 0), `J, n, icc, slope_variance, correlation`,
        `estimator` ("reml" and its df method for fixed effects, "reml" for variances with
        Wald's intervals, "reml profile" with those of the profile likelihood, "bayes" and the set
        of priors), `point` ("estimate", or the posterior's "mean", "median" or
        "mode"), `parameter`, the `MEASURES` of `summary`, and `failures`: the replicates in
        which the fit failed or did not converge. Those with numbers are counted all the same.
        """
        import pandas as pd

        tested = set(self.study.truth.names)
        rows = []
        for at, records in enumerate(self._by_condition()):
            true = true_values(self.study.truth, self.study.conditions[at])
            for found in read_estimates(self.study, records, list(true)):
                for column, name in enumerate(found.parameters):
                    measured = measure(true[name], found.values[:, column], tested=name in tested)
                    rows.append(
                        self._describe(at)
                        | {"estimator": found.estimator, "point": found.point, "parameter": name}
                        | measured
                        | {"failures": int(found.failed.sum())}
                    )
        head = ("condition", *CONDITION, "estimator", "point", "parameter")
        return pd.DataFrame(rows, columns=[*head, *MEASURES, "failures"])

    @property
    def fits(self) -> "pd.DataFrame":
        """How the fits went, a row per condition and fit; see `summary.count_fits`."""
        import pandas as pd

        return pd.DataFrame(
            [
                self._describe(at) | row
                for at, records in enumerate(self._by_condition())
                for row in count_fits(self.study, records)
            ]
        )

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every estimate of every replicate, a row each, with its interval and the true value."""
        import pandas as pd

        parts = []
        C = len(self.study.conditions)
        for at, records in enumerate(self._by_condition()):
            true = true_values(self.study.truth, self.study.conditions[at])
            for found in read_estimates(self.study, records, list(true)):
                R, m, _ = found.values.shape
                numbers = np.array([record["replicate"] for record in records]) // C
                flat = found.values.reshape(-1, 3)
                parts.append(
                    pd.DataFrame(
                        {
                            "condition": at,
                            "replicate": np.repeat(numbers, m),
                            "estimator": found.estimator,
                            "point": found.point,
                            "parameter": list(found.parameters) * R,
                            "true": [true[name] for name in found.parameters] * R,
                            "estimate": flat[:, 0],
                            "lower": flat[:, 1],
                            "upper": flat[:, 2],
                            "failed": np.repeat(found.failed, m),
                        }
                    )
                )
        return pd.concat(parts, ignore_index=True)

    def summary(self) -> str:
        """Return the study, a table per condition, and how the fits went, as text."""
        return render_study(self.study, self.table, self.fits)

    def to_dict(self) -> dict[str, Any]:
        """Return study, results and failures under the names of the JSON; null is no number."""
        return {
            "title": self.study.title,
            "formula": self.study.truth.formula,
            "replicates": self.study.replicates,
            "identity": identify_study(self.study),
            "conditions": [str(condition) for condition in self.study.conditions],
            "results": _list_rows(self.table),
            "fits": _list_rows(self.fits),
            "ran": self.ran,
            "seconds": self.seconds,
        }

    def _by_condition(self) -> list[list[Mapping[str, Any]]]:
        C = len(self.study.conditions)
        found: list[list[Mapping[str, Any]]] = [[] for _ in range(C)]
        for record in self.records:
            found[record["replicate"] % C].append(record)
        return found

    def _describe(self, at: int) -> dict[str, Any]:
        condition = self.study.conditions[at]
        sizes = "/".join(map(str, condition.sizes))
        values = (
            condition.groups, sizes, condition.icc, condition.slope_variance,
            condition.correlation,
        )  # fmt: skip
        return {"condition": at, **dict(zip(CONDITION, values, strict=True))}


def collect_records(
    study: Study, records: Mapping[int, Mapping[str, Any]], *, ran: int, seconds: float
) -> StudyResult:
    """Return the result of finished replicates, in the order of their numbers."""
    ordered = tuple(records[number] for number in sorted(records))
    return StudyResult(study=study, records=ordered, ran=ran, seconds=seconds)


def _list_rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a table's rows with None for what is not finite."""
    return [
        {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]
