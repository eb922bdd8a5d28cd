"""Studies and models so small that a test can run them, here or in a process of their own."""

import numpy as np
import pandas as pd

from bhlm.bayes.priors.families import Gamma, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.studies.simulation.study import Study, parse_study


def small_study(replicates: int = 3) -> Study:
    return parse_study(
        {
            "seed": 5,
            "replicates": replicates,
            "model": {"fixed": {"Intercept": 0.0, "x": 0.4}},
            "grid": {"groups": [6, 8], "group_size": 4, "icc": 0.3, "slope_variance": 0.2},
            "bayes": {"draws": 40, "tune": 40},
            "reml": {"variances": ["wald"]},
            "priors": {"default": {}, "half": {"sd": "HalfNormal(1)"}},
        }
    )


def small_model(n_groups: int = 3, rows: int = 3, random: str = "1") -> Model:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(n_groups), rows)
    x, y = rng.normal(size=(2, n_groups * rows))
    return Model(f"y ~ 1 + ({random} | g)", pd.DataFrame({"g": group, "x": x, "y": y}))


# The residual SD is large beside the group SDs, so that the posterior of a group SD is nearly
# its prior, and a wrong prior shows in few replicates. Gamma(2, .) has a logarithmic coordinate.
VAGUE = Priors(fixed=Normal(0, 1), sd=Gamma(2, 2), sigma=HalfNormal(5))
FAST = {"seed": 1, "n_draws": 19, "thin": 10, "tune": 200, "priors": VAGUE, "processes": 1}
