"""Power-scaling sensitivity: how much the posterior moves when the priors are strengthened.

The prior's density is raised to a power alpha near 1 by reweighting the draws; the sensitivity of a
parameter is the change of its distribution (cumulative Jensen-Shannon distance) per doubling of
alpha. Group effects are integrated out, so that their distribution N(0, G) is part of the
likelihood, as it should be, and only the priors are perturbed.

That distance weighs what happens in a variance's long tail more than the same change of the SD. So
the draws are first replaced by their normal scores, Phi^-1((rank - 3/8) / (N + 1/4)), which a
parameter and its monotone functions share; a normal posterior keeps its number, and the threshold
its meaning.
Source: Kallioinen, Paananen, Buerkner & Vehtari (2024), Statistics and Computing 34:57, section 2;
Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16, 667-718, for scores.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

from bhlm.bayes.draws import Draws, Posterior, flatten_draws
from bhlm.errors import ArgumentError
from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_fixed,
    show_name,
    wrap,
)
from bhlm.likelihood.marginal import sum_logliks
from bhlm.markup import ShownAsText

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Kallioinen et al. (2024): about what moves a normal's mean by 0.3 SD per doubling.
THRESHOLD = 0.05
ALPHAS = (0.99, 1.01)
# Terms of the log prior, and what they are called in a sentence.
TERMS = {"beta": "fixed effects", "sd": "SDs", "lkj": "correlations", "sigma": "residual SD"}
READINGS = {
    "prior-data conflict": "on the data too, which may contradict it",
    "strong prior": "hardly on the data",
}
CORRELATIONS = "lkj|"  # before the name of one of several grouping factors
WIDTH = 80


@dataclass(frozen=True, slots=True, repr=False)
class Sensitivity(ShownAsText):
    """How the posterior of each parameter answers to scaling the prior and the likelihood.

    `table`, by parameter: `prior` and `likelihood`, then the prior's terms one by one (`beta`,
    `sd`, `lkj`, of several factors `lkj|factor`, `sigma`), and `diagnosis`: "ok", "prior-data
    conflict" (the posterior moves with either) or "strong prior" (with the prior alone). nan stands
    where a parameter does not vary.
    """

    table: "pd.DataFrame"
    threshold: float

    @property
    def findings(self) -> tuple[str, ...]:
        """One sentence for the parameters that the same terms of the prior move."""
        terms = list_terms(self.table.columns)
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, row in self.table[self.table["diagnosis"] != "ok"].iterrows():
            moving = [term for term in terms if row[term] >= self.threshold]
            groups.setdefault((row["diagnosis"], *moving), []).append(str(name))
        sentences = []
        for (diagnosis, *moving), names in groups.items():
            rows = self.table.loc[names]
            source = " and ".join(f"of the {say_term(term)}" for term in moving)
            is_strong = diagnosis == "strong prior"
            likelihood = rows["likelihood"].max() if is_strong else rows["likelihood"].min()
            bound = f"at {'most' if is_strong else 'least'} {likelihood:.2f}"
            sentences.append(
                f"{', '.join(map(show_name, names))}: the answer depends on the prior"
                f"{' ' + source if source else ''} (sensitivity up to {rows['prior'].max():.2f}; "
                f"{self.threshold:g} counts) and {READINGS[diagnosis]} "
                f"({bound}); give the reason for that prior, or the answer under another one "
                "beside it"
            )
        return tuple(sentences)

    @property
    def ok(self) -> bool:
        """Whether no parameter's sensitivity to the priors reaches the threshold."""
        return not self.findings

    def summary(self) -> str:
        """Return the table and the findings as text."""
        numbers = self.table.columns[:-1]
        cells = [["", *numbers, "diagnosis"]]
        for name, row in self.table.iterrows():
            shown = [format_fixed(row[column], 3) for column in numbers]
            cells.append([show_name(name), *shown, row["diagnosis"]])
        sides = (align_left, *(align_right,) * len(numbers), align_left)
        lines = align_columns(cells, sides=sides, gap="  ")
        rule = "-" * max(map(len, lines))
        findings = [f"* {sentence}" for sentence in self.findings] or [
            f"No parameter's sensitivity to the priors reaches {self.threshold:g}."
        ]
        return "\n".join(
            [
                "Power-scaling sensitivity (change per doubling of the exponent)",
                rule, lines[0], rule, *lines[1:], rule,
                *(line for text in findings for line in wrap(text, WIDTH, indent=2)),
            ]
        )  # fmt: skip


def list_terms(names: Iterable[str]) -> list[str]:
    """Return those of some names that are terms of the log prior."""
    return [name for name in names if name in TERMS or name.startswith(CORRELATIONS)]


def say_term(name: str) -> str:
    """Return what a term of the prior is called in a sentence."""
    if name in TERMS:
        return TERMS[name]
    return f"correlations by {show_name(name.removeprefix(CORRELATIONS))}"


def measure_sensitivity(fit: Posterior, *, threshold: float = THRESHOLD) -> Sensitivity:
    """Return how much each parameter's posterior depends on the priors.

    A term that is constant, as flat priors are, scales to itself, and its sensitivity is zero.

    Args:
        fit: the posterior.
        threshold: from which on a sensitivity counts.

    Raises:
        ArgumentError: draws from the prior alone, or a threshold that is not positive.
    """
    import pandas as pd

    if fit.settings.prior_only:
        raise ArgumentError(
            "the fit was sampled with prior_only=True, so all that it holds is prior; sample with "
            "the likelihood"
        )
    if not threshold > 0.0:
        raise ArgumentError(f"threshold={threshold!r} is not positive; 0.05 is usual")
    draws = fit.draws
    prior = sum_prior_terms(fit)
    columns = {
        "prior": scale_term(draws, np.sum(list(prior.values()), axis=0)),
        "likelihood": scale_term(draws, total_loglik(fit)),
    }
    columns |= {name: scale_term(draws, term) for name, term in prior.items()}
    table = pd.DataFrame(columns, index=pd.Index(list(draws), name="parameter"))
    by_prior, by_data = table["prior"] >= threshold, table["likelihood"] >= threshold
    table["diagnosis"] = np.where(
        by_prior, np.where(by_data, "prior-data conflict", "strong prior"), "ok"
    )
    return Sensitivity(table=table, threshold=threshold)


def sum_prior_terms(fit: Posterior) -> dict[str, Array]:
    """Return each term of the log prior (chain, draw), summed over its parameters."""
    stored = fit.data["log_prior"].dataset
    held = list_terms(map(str, stored.data_vars))
    terms = {}
    for name in sorted(held, key=lambda term: list(TERMS).index(term.split("|")[0])):
        values = stored[name].values
        terms[name] = values.reshape(*values.shape[:2], -1).sum(axis=2)
    return terms


def total_loglik(fit: Posterior) -> Array:
    """Return the log-likelihood of all rows (chain, draw), with random effects integrated out.

    That of several factors is known but for a constant.
    """
    own = getattr(fit, "sum_logliks", None)  # of a family
    if own is not None:
        return np.asarray(own())
    if not isinstance(fit, Draws):
        from bhlm.bayes.level_draws import LevelDraws, whole_logliks

        assert isinstance(fit, LevelDraws)
        return whole_logliks(fit)
    total = sum_logliks(fit.white, float(fit.moments.n.sum()), flatten_draws(fit))
    return total.reshape(fit.shape)


def scale_term(draws: dict[str, Array], term: Array) -> Array:
    """Return each parameter's sensitivity to a power of exp(term), term (chain, draw).

    It is nan where the draws hardly move, so that nothing can be weighed by it.
    """
    from arviz_stats.base import array_stats

    out = np.zeros(len(draws))
    if np.ptp(term) == 0.0:
        return out
    weights = []
    for alpha in ALPHAS:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Number of tail draws cannot be less than")
            try:
                logs = array_stats.power_scale_lw(term, alpha=alpha, axis=(0, 1))
            except ValueError:  # a tail of equal weights
                return np.full(len(draws), np.nan)
        weight = np.exp(logs - logs.max())
        weights.append(weight / weight.sum())
    for at, values in enumerate(draws.values()):
        # A parameter that does not vary, or a correlation with an SD of zero, has none.
        varies = np.isfinite(values).all() and np.ptp(values) > 0.0
        out[at] = (
            array_stats.power_scale_sense(_score_ranks(values), *weights, *ALPHAS)
            if varies
            else np.nan
        )
    return out


def _score_ranks(values: Array) -> Array:
    """Return the normal scores of draws of any shape; ties share one."""
    ranks = stats.rankdata(values).reshape(values.shape)
    return np.asarray(special.ndtri((ranks - 0.375) / (values.size + 0.25)))
