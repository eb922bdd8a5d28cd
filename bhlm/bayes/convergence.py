"""The convergence verdict: what a set of draws must satisfy before anyone reads it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.bayes.marginal_mode import find_mode
from bhlm.bayes.mixing import Known, measure, measure_mean
from bhlm.bayes.twin_chains import describe_twins, find_twins
from bhlm.errors import DataError, check_arguments
from bhlm.layout import count, format_fixed

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray
type Bounds = Mapping[str, tuple[float, float]]

# Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16, 667-718.
RHAT = 1.01
ESS = 400.0
# Betancourt (2016), arXiv:1604.00695.
BFMI = 0.3


class Certificate(NamedTuple):
    """What independent draws were resampled from, and what they are worth."""

    khat: float  # Pareto's k of the weights
    effective: float  # independent draws that those of (G, sigma) are worth
    distinct: int  # draws of (G, sigma) that are no copies of others
    evaluations: int  # of the density, in all

    @property
    def sentence(self) -> str:
        """The numbers in a clause."""
        return (
            f"k-hat {format_fixed(self.khat, 2)}, {self.distinct:,} distinct draws worth "
            f"{self.effective:,.0f} independent ones"
        )


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Whether the draws can be trusted, the numbers behind it, and what fails."""

    ok: bool
    max_rhat: float
    min_ess_bulk: float
    min_ess_tail: float
    min_bfmi: float
    divergences: int
    max_treedepth: int  # draws that hit the tree-depth limit
    failures: tuple[str, ...]  # one sentence each: what, which parameter, the next step
    # What the default prior alone bounds, a sentence each: no failure of the draws, whose `ok` it
    # leaves as it is.
    prior_bound: tuple[str, ...] = ()
    # Of independent draws, None of those of NUTS.
    certificate: "Certificate | None" = None

    def add_failure(self, sentence: str) -> "Diagnostics":
        """Return the verdict that fails for one more reason."""
        return replace(self, ok=False, failures=(*self.failures, sentence))

    def to_dict(self) -> dict[str, float | int | bool | list[str] | None]:
        """Return the fields under the names of the JSON.

        Independent draws have `khat`, `effective`, `distinct` and `evaluations`, and what only a
        trajectory can have is None: E-BFMI, divergences and the tree-depth limit.
        """
        moved = self.certificate is None
        return {
            "ok": self.ok,
            "max_rhat": self.max_rhat,
            "min_ess_bulk": self.min_ess_bulk,
            "min_ess_tail": self.min_ess_tail,
            "min_bfmi": self.min_bfmi if moved else None,
            "divergences": self.divergences if moved else None,
            "max_treedepth": self.max_treedepth if moved else None,
            "failures": list(self.failures),
            "prior_bound": list(self.prior_bound),
            **({} if self.certificate is None else self.certificate._asdict()),
        }

    @property
    def numbers(self) -> str:
        """What the verdict rests on, in a clause."""
        both = (
            f"largest R-hat {format_fixed(self.max_rhat, 4)}, smallest bulk ESS "
            f"{format_fixed(self.min_ess_bulk, 0)}, smallest tail ESS "
            f"{format_fixed(self.min_ess_tail, 0)}"
        )
        if self.certificate is not None:
            return f"{self.certificate.sentence}, {both}"
        return (
            f"{both}, smallest E-BFMI {format_fixed(self.min_bfmi, 2)}, "
            f"{count(self.divergences, 'divergence')}, {self.max_treedepth} at the tree-depth limit"
        )


class Summary(NamedTuple):
    """What is told of the draws of one parameter, in the order of the columns of tables."""

    mean: float
    median: float
    mode: float  # of the marginal density, by ArviZ's kernel estimate
    sd: float
    lower: float  # of the equal-tailed 95 % interval
    upper: float
    ess_bulk: float
    ess_tail: float
    rhat: float
    mcse_mean: float


def diagnose(
    draws: Mapping[str, Array],
    *,
    energy: Array,
    diverging: Array,
    treedepth: Array,
    known: Known | None = None,
) -> Diagnostics:
    """Return the verdict on draws of the parameters, each (chain, draw).

    It holds when rank-normalised split R-hat <= 1.01 and bulk and tail ESS >= 400 for every
    parameter that varies, no transition diverged, none hit the tree-depth limit, and the
    energy's E-BFMI is at least 0.3 in every chain, and no two chains are one (see
    `bhlm.bayes.twin_chains`). A value that cannot be computed fails.

    Args:
        draws: parameter name -> (chain, draw).
        energy: Hamiltonian energy (chain, draw).
        diverging: whether each transition diverged (chain, draw).
        treedepth: whether each transition hit the tree-depth limit (chain, draw).
        known: what was measured of these draws.
    """
    from arviz_stats.base import array_stats

    found = _diagnose_values(draws, known, longer="run longer (tune, draws)")
    names, stack = list(draws), np.stack(list(draws.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        bfmi = np.atleast_1d(array_stats.bfmi(energy, chain_axis=0, draw_axis=1))
    failures = list(found.failures)
    if not np.all(bfmi >= BFMI):
        failures.append(
            f"E-BFMI is {np.min(bfmi):.2f} in a chain, below {BFMI}; tune longer or give the "
            "SDs a tighter prior"
        )
    n_diverging, n_deep = int(diverging.sum()), int(treedepth.sum())
    if n_diverging:
        failures.append(
            f"{n_diverging} of {diverging.size} transitions diverged, "
            f"{_locate(names, stack, diverging)}, so part of the posterior was not reached; raise "
            "target_accept or give the SDs a tighter prior"
        )
    if n_deep:
        failures.append(
            f"{n_deep} of {treedepth.size} transitions hit the tree-depth limit, "
            f"{_locate(names, stack, treedepth)}; raise maxdepth or rescale the columns"
        )
    return replace(
        found,
        ok=not failures,
        min_bfmi=float(np.min(bfmi)),
        divergences=n_diverging,
        max_treedepth=n_deep,
        failures=tuple(failures),
    )


def diagnose_independent(
    draws: Mapping[str, Array], certificate: Certificate, known: Known | None = None
) -> Diagnostics:
    """Return the verdict on independent draws of the parameters, each (chain, draw).

    It holds when k-hat, which is what tells whether the proposal reached the posterior, was at most
    0.7 (else there are no draws), and when R-hat and ESS are as of `diagnose`: they are of the
    draws as they stand, of which copies are autocorrelated. There are no transitions.
    """
    found = _diagnose_values(draws, known, longer="take more draws")
    return replace(found, certificate=certificate)


def measure_draws(draws: Mapping[str, Array]) -> Known:
    """Return what is measured of the parameters' draws (chain, draw), and the draws."""
    stack = np.stack(list(draws.values()))
    return Known(stack, measure(stack))


def diagnose_run(
    draws: Mapping[str, Array],
    stats: Mapping[str, Array],
    certificate: Certificate | None,
    known: Known | None = None,
) -> Diagnostics:
    """Return the verdict on draws with a sampler's statistics, or on independent ones.

    `known` is what `measure_draws` returned of these draws.
    """
    if certificate is not None:
        return diagnose_independent(draws, certificate, known)
    return diagnose(
        draws,
        energy=stats["energy"],
        diverging=stats["diverging"],
        treedepth=stats["reached_max_treedepth"],
        known=known,
    )


def _diagnose_values(
    draws: Mapping[str, Array], known: Known | None, *, longer: str
) -> Diagnostics:
    """Return the verdict by R-hat and ESS alone; `longer` is the advice where R-hat fails."""
    names = list(draws)
    rhat, bulk, tail = measure(np.stack([draws[name] for name in names]), known)
    failures = (
        *describe_twins(find_twins(draws)),
        *_failing(names, "R-hat", rhat, rhat - RHAT, f"above {RHAT}", longer),
        *_failing(names, "bulk ESS", bulk, ESS - bulk, f"below {ESS:.0f}", "take more draws"),
        *_failing(names, "tail ESS", tail, ESS - tail, f"below {ESS:.0f}", "take more draws"),
    )
    return Diagnostics(
        ok=not failures,
        max_rhat=float(np.max(rhat)),
        min_ess_bulk=float(np.min(bulk)),
        min_ess_tail=float(np.min(tail)),
        min_bfmi=math.nan,
        divergences=0,
        max_treedepth=0,
        failures=failures,
    )


@check_arguments
def diagnose_data(data: "xr.DataTree", *, var_names: Sequence[str] | None = None) -> Diagnostics:
    """Return the verdict on the draws of any model that an ArviZ DataTree holds.

    Args:
        data: with the groups `posterior` and `sample_stats`; energy and divergences must be in
            the latter, and the tree-depth flag under PyMC's or nutpie's name.
        var_names: the variables to judge; None takes all of the posterior.

    Raises:
        DataError: a group, a variable or a statistic is missing.
    """
    for name in ("posterior", "sample_stats"):
        if name not in data.children:
            raise DataError(
                f"the data has no group '{name}', which the verdict rests on; give the DataTree "
                "of a sampler such as pm.sample"
            )
    posterior, stats = data["posterior"].dataset, data["sample_stats"].dataset
    for name in var_names or ():
        if name not in posterior:
            raise DataError(
                f"'{name}' is no variable of the posterior; it has {', '.join(posterior.data_vars)}"
            )
    depth = "reached_max_treedepth" if "reached_max_treedepth" in stats else "maxdepth_reached"
    for name in ("energy", "diverging", depth):
        if name not in stats:
            raise DataError(
                f"sample_stats has no '{name}', without which nobody knows whether the sampler "
                "reached the whole posterior; keep it when sampling"
            )
    draws = {}
    for name in var_names or posterior.data_vars:
        values = posterior[name].transpose("chain", "draw", ...)
        flat = values.values.reshape(*values.shape[:2], -1)
        labels = [""] if values.ndim == 2 else [str(list(i)) for i in np.ndindex(values.shape[2:])]
        for at, label in enumerate(labels):
            # Constants, such as the diagonal of a correlation matrix, have no diagnostics.
            if np.ptp(flat[..., at]) > 0.0:
                draws[f"{name}{label}"] = flat[..., at]
    return diagnose(
        draws,
        energy=stats["energy"].values,
        diverging=stats["diverging"].values,
        treedepth=stats[depth].values,
    )


def _locate(names: list[str], stack: Array, flagged: Array) -> str:
    """Return where the flagged transitions lie: the parameter that they are furthest off in."""
    flat = stack.reshape(len(names), -1)
    mean, sd = flat.mean(axis=1), flat.std(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.nan_to_num((flat[:, flagged.ravel()].mean(axis=1) - mean) / sd)
    worst = int(np.argmax(np.abs(away)))
    return f"{'mostly ' if abs(away[worst]) > 1.0 else ''}where {names[worst]} is " + (
        "small" if away[worst] < 0 else "large"
    )


def _failing(
    names: list[str], what: str, values: Array, excess: Array, limit: str, advice: str
) -> list[str]:
    """Return a sentence that names the worst parameter and how many fail; none if all hold.

    `excess` is how far each value is on the wrong side of its limit; nan is furthest.
    """
    excess = np.where(np.isnan(excess), np.inf, excess)
    bad = np.flatnonzero(excess > 0.0)
    if not len(bad):
        return []
    worst = bad[np.argmax(excess[bad])]
    more = f" (and of {len(bad) - 1} more)" if len(bad) > 1 else ""
    shown = [f"{values[worst]:.{digits}g}" for digits in range(4, 17)]
    # Not as its own limit, which 1.01 rounded from 1.010001 would be.
    value = next((each for each in shown if each != limit.partition(" ")[2]), shown[-1])
    return [f"{what} of {names[worst]}{more} is {value}, {limit}; {advice}"]


def summarize(
    draws: Mapping[str, Array], *, bounds: Bounds | None = None, known: Known | None = None
) -> dict[str, Summary]:
    """Return the summary of each parameter.

    Args:
        draws: parameter name -> (chain, draw).
        bounds: parameter name -> (lower, upper), of those that have bounds: the mode may be one.
        known: what was measured of these draws, or of others.
    """
    names = list(draws)
    stack = np.stack([draws[name] for name in names])
    measured = measure(stack, known)
    limits = [(bounds or {}).get(name, (-np.inf, np.inf)) for name in names]
    flat = stack.reshape(len(names), -1)
    sd = flat.std(axis=1, ddof=1)
    lower, median, upper = np.quantile(flat, [0.025, 0.5, 0.975], axis=1)
    columns = {
        "mean": flat.mean(axis=1),
        "median": median,
        "mode": np.array(
            [
                find_mode(row, lower=low, upper=high, ess=float(ess))
                for row, (low, high), ess in zip(flat, limits, measured.ess_bulk, strict=True)
            ]
        ),
        "sd": sd,
        "lower": lower,
        "upper": upper,
        "mcse_mean": sd / np.sqrt(measure_mean(stack)),
        **measured._asdict(),
    }
    table = np.column_stack([columns[name] for name in Summary._fields])
    return {name: Summary(*row) for name, row in zip(names, table.tolist(), strict=True)}


def tabulate_summaries(
    draws: Mapping[str, Array],
    *,
    index: str,
    bounds: Bounds | None = None,
    known: Known | None = None,
) -> "pd.DataFrame":
    """Return the summaries as a table, one row per parameter.

    Args:
        draws: parameter name -> (chain, draw).
        index: the name of the index.
        bounds: parameter name -> (lower, upper), of those that have bounds.
        known: what was measured of these draws, or of others.
    """
    import pandas as pd

    rows = summarize(draws, bounds=bounds, known=known)
    return pd.DataFrame(
        list(rows.values()), pd.Index(list(rows), name=index), list(Summary._fields)
    )
