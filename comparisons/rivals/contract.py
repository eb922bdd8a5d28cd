"""What every Python adapter speaks: a request comes in, one JSON object goes out.

An adapter is a function of a `Request` that returns a `Fit` or `Draws`; `serve` does the rest. It
runs in the rival's own environment, so nothing but numpy and pandas is asked for here.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Array = np.ndarray
INTERCEPT = "Intercept"
# A second call shows what a fit costs without imports and compilation; a slow one is not repeated.
REPEAT_BELOW = 10.0
# Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16, 667-718.
RHAT = 1.01


@dataclass(frozen=True, slots=True)
class Request:
    """One model over plain columns: every rival gets the same ones."""

    table: pd.DataFrame  # response, group, and a column for each coefficient but the intercept
    formula: str  # lme4 syntax
    response: str
    group: str
    fixed: tuple[str, ...]  # (p,) columns of the table, or Intercept
    random: tuple[str, ...]  # (q,)
    blocks: tuple[tuple[str, ...], ...]  # the random coefficients that correlate
    names: dict[str, str]  # plain column -> coefficient in bhlm's words
    grouping: str  # the group column in bhlm's words
    method: str  # reml or bayes
    variant: str  # of the rival, such as its optimiser
    seed: int
    draws: int
    tune: int
    chains: int

    @property
    def fixed_formula(self) -> str:
        """The response on the fixed part."""
        return f"{self.response} ~ {write_terms(self.fixed)}"

    @property
    def random_formula(self) -> str:
        """The random part, of a program that has no independent coefficients.

        Raises:
            NotImplementedError: the model has some.
        """
        if len(self.blocks) > 1:
            raise NotImplementedError("no independent random coefficients")
        return f"~ {write_terms(self.random)}"


@dataclass(frozen=True, slots=True)
class Fit:
    """Point estimates, in the order of the request's coefficients."""

    version: str
    beta: Any  # (p,)
    beta_se: Any  # (p,)
    g: Any  # (q, q)
    sigma2: float
    loglik: float | None  # restricted, with its constants
    converged: bool  # by the program's own account
    errors: dict[str, float] = field(default_factory=dict)  # plain parameter -> standard error
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draws:
    """Draws from a posterior, in the order of the request's coefficients."""

    version: str
    beta: Any  # (chain, draw, p)
    g: Any  # (chain, draw, q, q), nan where the program has no such parameter
    sigma2: Any  # (chain, draw)
    notes: tuple[str, ...] = ()


def write_terms(columns: Sequence[str]) -> str:
    """Return the right side of a formula."""
    head = "1" if INTERCEPT in columns else "0"
    return " + ".join([head, *(name for name in columns if name != INTERCEPT)])


def read_request(text: str) -> Request:
    """Return the request that a JSON text states, with its table read."""
    stated = json.loads(text)
    path = Path(stated.pop("data"))
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, float_precision="round_trip")
    lists = {key: tuple(stated.pop(key)) for key in ("fixed", "random")}
    blocks = tuple(tuple(block) for block in stated.pop("blocks"))
    return Request(table=table, blocks=blocks, **lists, **stated)


def name_parameters(fixed: Sequence[str], blocks: Sequence[Sequence[str]], group: str) -> list[str]:
    """Return bhlm's names in the order of `list_values`."""
    random = [name for block in blocks for name in block]
    pairs = [(a, b) for block in blocks for i, a in enumerate(block) for b in block[i + 1 :]]
    return [
        *fixed,
        *(f"var({name}|{group})" for name in random),
        *(f"cov({a},{b}|{group})" for a, b in pairs),
        "var(Residual)",
        *(f"sd({name}|{group})" for name in random),
        *(f"corr({a},{b}|{group})" for a, b in pairs),
        "sd(Residual)",
    ]


def list_values(request: Request, beta: Array, g: Array, sigma2: Array) -> Array:
    """Return every parameter (..., m) from beta (..., p), G (..., q, q) and sigma^2 (...)."""
    at = {name: i for i, name in enumerate(request.random)}
    pairs = [
        (at[a], at[b])
        for block in request.blocks
        for i, a in enumerate(block)
        for b in block[i + 1 :]
    ]
    variance = np.einsum("...ii->...i", g)
    rows, columns = ([pair[k] for pair in pairs] for k in (0, 1))
    cov = g[..., rows, columns] if pairs else g[..., 0, :0]
    sd = np.sqrt(variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        corr = cov / (sd[..., rows] * sd[..., columns]) if pairs else cov
    residual = np.asarray(sigma2)[..., None]
    return np.concatenate([beta, variance, cov, residual, sd, corr, np.sqrt(residual)], axis=-1)


def name_estimates(request: Request, found: Fit | Draws) -> dict[str, dict[str, float | None]]:
    """Return bhlm's parameter name -> estimate and se; of draws their mean and SD."""
    plain = name_parameters(request.fixed, request.blocks, request.group)
    words = name_parameters(
        [request.names[name] for name in request.fixed],
        [[request.names[name] for name in block] for block in request.blocks],
        request.grouping,
    )
    beta, g = np.asarray(found.beta, float), np.asarray(found.g, float)
    values = list_values(request, beta, g, np.asarray(found.sigma2, float))
    if isinstance(found, Draws):
        flat = values.reshape(-1, values.shape[-1])
        estimate, se = flat.mean(axis=0), flat.std(axis=0, ddof=1)
    else:
        estimate, se = values, np.full(len(values), np.nan)
        se[: len(request.fixed)] = np.asarray(found.beta_se, float)
        for name, error in found.errors.items():
            se[plain.index(name)] = error
    return {
        word: {"estimate": clean(a), "se": clean(b)}
        for word, a, b in zip(words, estimate, se, strict=True)
    }


def clean(value: Any) -> float | None:
    """Return a number that JSON has, None for nan and infinity."""
    return float(value) if value is not None and np.isfinite(value) else None


def split_rhat(values: Array) -> Array:
    """Return the split R-hat (m,) of draws (chain, draw, m); nan for what does not vary."""
    half = values.shape[1] // 2
    halves = np.concatenate([values[:, :half], values[:, half : 2 * half]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((half - 1) / half + between / within)


def judge_draws(request: Request, found: Draws) -> tuple[bool, list[str]]:
    """Return whether every split R-hat is at most 1.01, and a note if one is not."""
    beta, g = np.asarray(found.beta, float), np.asarray(found.g, float)
    values = list_values(request, beta, g, np.asarray(found.sigma2, float))
    worst = float(np.nanmax(split_rhat(values)))
    return worst <= RHAT, [] if worst <= RHAT else [f"R-hat {worst:.3f}"]


def answer(request: Request, fit: Callable[[Request], Fit | Draws]) -> dict[str, Any]:
    """Return the fit as the JSON object of the contract, without the program's name.

    `seconds` goes from the table in memory to estimates with their errors: of a REML fit by the
    second call, of a posterior by the only one, imports and compilation included.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        found = fit(request)
        seconds = time.perf_counter() - start
        if request.method == "reml" and seconds < REPEAT_BELOW:
            start = time.perf_counter()
            found = fit(request)
            seconds = time.perf_counter() - start
    notes = list(found.notes)
    if isinstance(found, Draws):
        converged, loglik = judge_draws(request, found)[0], None
        notes += judge_draws(request, found)[1]
    else:
        converged, loglik = bool(found.converged), clean(found.loglik)
    kept = ("ConvergenceWarning", "UserWarning", "RuntimeWarning", "EstimationWarning")
    for warning in caught:
        text = " ".join(str(warning.message).split())[:300]
        if warning.category.__name__ in kept and text not in notes:
            notes.append(text)
    return {
        "version": found.version, "variant": request.variant, "seconds": seconds,
        "loglik": loglik, "estimates": name_estimates(request, found), "converged": converged,
        "warnings": notes,
    }  # fmt: skip


def serve(program: str, fit: Callable[[Request], Fit | Draws]) -> None:
    """Read a request from the path in the first argument or from stdin; print the answer.

    A package that is not there is answered by the key `missing`, a failure by `error`.
    """
    text = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else sys.stdin.read()
    request = read_request(text)
    said: dict[str, Any]
    try:
        said = answer(request, fit)
    except ModuleNotFoundError as error:
        said = {"variant": request.variant, "missing": str(error.name)}
    except Exception as error:  # whatever a rival raises is its result here
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        said = {"variant": request.variant, "error": message}
    print(json.dumps({"program": program} | said, allow_nan=False))
