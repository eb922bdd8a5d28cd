"""The standard errors of one fit by every convention, side by side."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.reml.estimate import Estimate
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.rows import list_fixed, list_variances
from bhlm.reml.sandwich import CONVENTIONS

if TYPE_CHECKING:
    import pandas as pd


def compare_conventions(fit: Estimate | LevelsEstimate) -> "pd.DataFrame":
    """Return the standard errors of every parameter by each convention, beside its estimate.

    One column for each of `bhlm.reml.sandwich.CONVENTIONS`; `attrs["programs"]` names who prints
    them, `attrs["why"]` says how each is computed and why it differs.

    Raises:
        ArgumentError: the fit is by REML, which is no sum over groups.
    """
    import pandas as pd

    structures, gs = zip(*fit.parts, strict=True)
    found = {"estimate": fit.estimates["estimate"].to_numpy()}
    for name in CONVENTIONS:
        errors = fit.sandwich_errors(name)
        rows = [
            *list_fixed(fit.beta, errors.fixed),
            *list_variances(structures, gs, fit.sigma2, errors.variances),
        ]
        found[name] = np.array([row.se for row in rows])
    table = pd.DataFrame(found, fit.estimates.index)
    table.attrs["programs"] = {name: each.programs for name, each in CONVENTIONS.items()}
    table.attrs["why"] = {name: each.sentence for name, each in CONVENTIONS.items()}
    return table
