"""Plain PyMC: bhlm's own conditional pm.Model, with the random effects explicit, by `pm.sample()`.

The priors are bhlm's defaults, so that only the form of the model differs. `pm.sample` is left at
its defaults, as https://www.pymc.io/projects/docs/en/stable/api/generated/pymc.sample.html has it.
"""

from contract import Draws, Request, serve


def fit(request: Request) -> Draws:
    """Return PyMC's draws."""
    import pymc as pm

    import bhlm

    with bhlm.Model(request.formula, request.table).pymc(form="conditional"):
        data = pm.sample(
            draws=request.draws, tune=request.tune, chains=request.chains,
            random_seed=request.seed, progressbar=False,
        )  # fmt: skip
    drawn = data["posterior"]
    divergences = int(data["sample_stats"]["diverging"].values.sum())
    return Draws(
        pm.__version__, drawn["beta"].values, drawn["G"].values, drawn["sigma"].values ** 2,
        (f"{divergences} divergences",) if divergences else (),
    )  # fmt: skip


if __name__ == "__main__":
    serve("PyMC, conditional model of bhlm", fit)
