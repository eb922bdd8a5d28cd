"""A strict reader of study.toml -> Study: what a simulation study varies, and what it judges.

    title = "Few schools"           # optional
    seed = 1                        # of all random numbers
    replicates = 500                # data sets per condition; may be raised later

    [model]
    fixed = {Intercept = 0.0, x = 0.3, w = 0.3}   # true values; "x:w" is the interaction
    random = ["Intercept", "x"]     # what the fitted model lets vary; default as here
    correlated = true               # default; false fits (1 | group) + (0 + x | group)
    residual_variance = 1.0         # default

    [grid]                          # one value or a list of each; all combinations are run
    groups = [10, 30]
    group_size = [5, 20, [2, 8, 20]]   # a list of sizes is repeated over the groups in turn
    icc = [0.1, 0.3]                # of y at x = 0 and given the fixed effects, 0 <= icc < 1
    slope_variance = 0.1            # default 0
    correlation = [0.0, 0.5]        # of intercept and slope, default 0

    [reml]                          # optional
    df = ["z", "satterthwaite", "kenward-roger"]   # default; also "hlm", "cr0", "cr2"
    variances = ["wald", "profile"]                # default

    [bayes]                         # optional; these are the defaults
    draws = 500                     # kept per chain
    tune = 500
    chains = 2
    # target_accept: left out, it is 0.9, and 0.99 where there are fewer than 30 groups
    maxdepth = 10

    [priors.default]                # each table is one set of priors to sample under;
    [priors.uniform]                # what a set leaves out is the autoscaled default
    sd = "Flat"
    corr = "LKJ(1)"
    sigma = "Flat"

`x` varies within groups, `w` between them, both standard normal (the model is stated in
`bhlm.studies.simulation.conditions`). Data vary as the grid says, also where the fitted model
does not. Prior sets are written as in the gallery, with the keys fixed, sd, corr, sigma. No set
of priors, no sampling. Autoscaled priors are scaled to each data set, as a user's are.
"""

import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bhlm.bayes.draws import Settings
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Prior
from bhlm.bayes.priors.resolve import Priors, read_priors
from bhlm.errors import LIMITS, ArgumentError, BhlmError, is_finite
from bhlm.layout import count, name_some
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.fixed.contrasts import METHODS
from bhlm.studies.simulation.conditions import COEFFICIENTS, EFFECTS, Condition, Truth, cross_grid

DF_METHODS = ("z", "satterthwaite", "kenward-roger")
VARIANCE_METHODS = ("wald", "profile")
# Two chains, so that R-hat compares chains. Of 1000 draws some 500 count as independent, by which
# a posterior mean has a variance 1/500 of the posterior's more: nothing beside the replicates'.
DRAWS, TUNE, CHAINS = 500, 500, 2
# What is simulated at once, and in all: more would ask for more memory or time than there is.
MOST_ROWS, MOST_CONDITIONS, MOST_DATA_SETS = 20_000_000, 10_000, 100_000_000
VERSIONED = ("bhlm", "numba", "numpy", "nutpie", "scipy")


@dataclass(frozen=True, slots=True)
class Study:
    """A simulation study: the true models, how often each is simulated, who estimates it."""

    title: str
    seed: int
    replicates: int  # per condition
    truth: Truth
    conditions: tuple[Condition, ...]
    df_methods: tuple[str, ...]  # of the REML intervals of fixed effects
    variance_methods: tuple[str, ...]  # of the REML intervals of variances and SDs
    priors: tuple[tuple[str, Priors], ...]  # name and priors of each set
    settings: Settings

    @property
    def total(self) -> int:
        """The number of data sets."""
        return self.replicates * len(self.conditions)


def read_study(path: str | Path) -> Study:
    """Return the study that a TOML file states.

    Raises:
        ArgumentError: the file cannot be read, a key is missing or not known, or a value is not
            valid; in one line with the file, the key and the value.
        PriorError: text that is no prior.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(
            f"'{path}' cannot be read ({error.strerror}); give a study's TOML file"
        ) from error
    except RecursionError as error:
        raise ArgumentError(f"{path}: nested too deeply; mend it") from error
    except ValueError as error:  # TOMLDecodeError or UnicodeDecodeError
        raise ArgumentError(f"{path}: not valid TOML ({error}); mend that line") from error
    return parse_study(content, name=str(path))


def parse_study(content: Mapping[str, Any], *, name: str = "study") -> Study:
    """Return the study that a mapping of the file's form states.

    Args:
        content: keys and values as in the file.
        name: what errors call it.

    Raises:
        ArgumentError: a key that is missing or not known, or a value that is not valid.
        PriorError: text that is no prior.
    """
    top = _Table(
        content, name, "",
        ("title", "seed", "replicates", "model", "grid", "reml", "bayes", "priors"),
    )  # fmt: skip
    reml = top.table("reml", ("df", "variances"))
    bayes = top.table("bayes", ("draws", "tune", "chains", "target_accept", "maxdepth"))
    acceptance = None
    if "target_accept" in bayes.content:
        acceptance = bayes.number("target_accept", None, _inside_unit, "between 0 and 1")
    settings = Settings(
        draws=bayes.integer("draws", least=4, default=DRAWS),  # R-hat splits chains in halves
        tune=bayes.integer("tune", least=1, default=TUNE),
        chains=bayes.integer("chains", least=1, default=CHAINS),
        target_accept=acceptance,
        maxdepth=bayes.integer("maxdepth", least=1, default=10),
        cores=1,
    )
    truth = _read_truth(top.table("model", ("fixed", "random", "correlated", "residual_variance")))
    study = Study(
        title=top.text("title", default=Path(name).stem),
        seed=top.integer("seed", least=0),
        replicates=top.integer("replicates", least=2),
        truth=truth,
        conditions=_read_grid(
            top.table("grid", ("groups", "group_size", "icc", "slope_variance", "correlation"))
        ),
        df_methods=reml.choices("df", METHODS, default=DF_METHODS),
        variance_methods=reml.choices("variances", VARIANCE_METHODS, default=VARIANCE_METHODS),
        priors=tuple(
            (each, _read_set(top, each)) for each in top.table("priors", None).content
        ),
        settings=settings,
    )  # fmt: skip
    if study.total > MOST_DATA_SETS:
        raise top.error(
            "replicates", study.replicates,
            f"with {count(len(study.conditions), 'condition')} these are {study.total:,} data "
            f"sets; give at most {MOST_DATA_SETS:,} in all",
        )  # fmt: skip
    return study


def identify_study(study: Study) -> dict[str, Any]:
    """Return what makes a study's replicates what they are: all but title and their number.

    Raises:
        ArgumentError: priors that are PyMC distributions, which have no exact description.
    """
    truth, settings = study.truth, study.settings
    return {
        "study": "simulation",
        "seed": study.seed,
        "fixed": [list(pair) for pair in truth.fixed],
        "random": list(truth.random),
        "correlated": truth.correlated,
        "residual_variance": truth.residual_variance,
        "conditions": [
            [each.groups, list(each.sizes), each.icc, each.slope_variance, each.correlation]
            for each in study.conditions
        ],
        "df": list(study.df_methods),
        "variances": list(study.variance_methods),
        "priors": {name: _identify_prior(priors) for name, priors in study.priors},
        "bayes": {field.name: getattr(settings, field.name) for field in fields(settings)},
        "versions": find_versions(),
    }


def find_versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    return {name: version(name) for name in VERSIONED}


def _identify_prior(prior: Any) -> Any:
    """Return priors as JSON's values, with every digit of their numbers."""
    match prior:
        case None | bool() | str():
            return prior
        case Priors():
            return {field.name: _identify_prior(getattr(prior, field.name))
                    for field in fields(prior)}  # fmt: skip
        case Mapping():
            return {name: _identify_prior(each) for name, each in prior.items()}
        case LKJ():
            return ["LKJ", prior.eta]
        case Prior():
            return [type(prior).__name__, *prior.numbers]
    raise ArgumentError(
        f"prior {prior} has no exact description, so that a study could not be resumed; use one "
        "such as bhlm.Normal"
    )


def _read_truth(table: "_Table") -> Truth:
    fixed = table.table("fixed", EFFECTS)
    if INTERCEPT not in fixed.content:
        raise table.error("fixed", fixed.content, f"give the true value of {INTERCEPT} too")
    random = table.choices("random", COEFFICIENTS, default=COEFFICIENTS)
    if INTERCEPT not in random:
        raise table.error("random", list(random), f"let {INTERCEPT} vary too")
    # In the order of the formula, however the file has them.
    return Truth(
        fixed=tuple(
            (name, fixed.number(name, None, np.isfinite, "that is finite"))
            for name in EFFECTS
            if name in fixed.content
        ),
        random=tuple(name for name in COEFFICIENTS if name in random),
        correlated=table.flag("correlated", default=True),
        residual_variance=table.number("residual_variance", 1.0, _positive, "that is positive"),
    )


def _read_grid(table: "_Table") -> tuple[Condition, ...]:
    groups = table.several("groups")
    for each in groups:
        if not _is_integer(each, 2):
            raise table.error("groups", each, "give integers from 2 on")
    sizes = table.several("group_size")
    lists = [each if isinstance(each, list) else [each] for each in sizes]
    for each in lists:
        if not (each and all(_is_integer(size, 1) for size in each)):
            raise table.error("group_size", each, "give integers from 1 on, or lists of them")

    def read(key: str, default: Any, holds: Callable[[float], Any], what: str) -> list[float]:
        values = table.several(key, default=default)
        for value in values:
            if not (_is_number(value) and holds(value)):
                raise table.error(key, value, f"give numbers {what}")
        return [float(value) for value in values]

    for J in groups:
        for each in lists:
            whole, rest = divmod(J, len(each))
            n = whole * sum(each) + sum(each[:rest])
            if n > MOST_ROWS:
                raise table.error(
                    "groups", J,
                    f"with group_size = {name_some(each)} these are "
                    f"{n:,} rows of one data set; give at most {MOST_ROWS:,}",
                )  # fmt: skip
    icc = read("icc", None, lambda value: 0.0 <= value < 1.0, "from 0 to below 1")
    slopes = read("slope_variance", [0.0], lambda value: value >= 0.0, "from 0 on")
    correlations = read("correlation", [0.0], lambda value: abs(value) <= 1.0, "from -1 to 1")
    conditions = math.prod(map(len, (groups, lists, icc, slopes, correlations)))
    if conditions > MOST_CONDITIONS:
        raise ArgumentError(
            f"{table.name}: the values of [grid] make {conditions:,} conditions; give "
            f"fewer values, for at most {MOST_CONDITIONS:,}"
        )
    return cross_grid(
        groups,
        [tuple(each) for each in lists],
        icc=icc,
        slope_variance=slopes,
        correlation=correlations,
    )


def _read_set(top: "_Table", name: str) -> Priors:
    table = top.table("priors", None).table(name, ("fixed", "sd", "corr", "sigma"))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise table.error(None, name, "name a set of priors by letters, digits, '_', '-' and '.'")
    try:
        return read_priors(table.content) or Priors()
    except BhlmError as error:
        raise type(error)(f"{top.name}: [priors.{name}] {error}") from error


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table whose errors name the file, the key and the value."""

    content: Mapping[str, Any]
    name: str  # of the file
    where: str  # dotted key of this table
    known: Collection[str] | None  # the keys that it may have; None for any

    def __post_init__(self) -> None:
        if self.known is None:
            return
        for key in self.content:
            if key not in self.known:
                place = f"[{self.where}]" if self.where else "the file"
                raise ArgumentError(
                    f"{self.name}: {place} has the unknown key '{key}'; {_suggest(key, self.known)}"
                )

    def error(self, key: str | None, value: object, next_step: str) -> ArgumentError:
        dotted = ".".join(part for part in (self.where, key) if part)
        return ArgumentError(f"{self.name}: {dotted} = {value!r} is not valid; {next_step}")

    def table(self, key: str, known: Collection[str] | None) -> "_Table":
        value = self.content.get(key, {})
        if not isinstance(value, Mapping):
            raise self.error(key, value, "give a table")
        return _Table(value, self.name, ".".join(filter(None, (self.where, key))), known)

    def take(self, key: str, default: Any) -> Any:
        """Return a value; without one, the default, unless that is None."""
        value = self.content.get(key, default)
        if value is None:
            place = f"[{self.where}]" if self.where else "the file"
            raise ArgumentError(f"{self.name}: {place} has no key '{key}'; give one")
        return value

    def text(self, key: str, *, default: str) -> str:
        value = self.take(key, default)
        if not (isinstance(value, str) and value.strip()):
            raise self.error(key, value, "give a text that is not blank")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "give true or false")
        return value

    def integer(self, key: str, *, least: int, default: int | None = None) -> int:
        value = self.take(key, default)
        if not _is_integer(value, least):
            raise self.error(key, value, f"give an integer from {least} on")
        if value > LIMITS[key]:
            raise self.error(key, value, f"give at most {LIMITS[key]:,}")
        return int(value)

    def number(
        self, key: str, default: float | None, holds: Callable[[float], Any], what: str
    ) -> float:
        value = self.take(key, default)
        if not (_is_number(value) and holds(value)):
            raise self.error(key, value, f"give a number {what}")
        return float(value)

    def several(self, key: str, *, default: Any = None) -> list[Any]:
        value = self.take(key, default)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise self.error(key, value, "give at least one value")
        return values

    def choices(
        self, key: str, known: Collection[str], *, default: Collection[str]
    ) -> tuple[str, ...]:
        value = self.take(key, list(default))
        if not isinstance(value, list):
            raise self.error(key, value, f"give a list of {', '.join(known)}")
        for each in value:
            if not isinstance(each, str) or each not in known:
                raise self.error(key, each, _suggest(str(each), known))
        if len(set(value)) < len(value):
            raise self.error(key, value, "name each only once")
        return tuple(value)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and is_finite(value)


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _inside_unit(value: float) -> bool:
    return 0.0 < value < 1.0


def _positive(value: float) -> bool:
    return value > 0.0


def _suggest(word: str, known: Collection[str]) -> str:
    guess = get_close_matches(word, list(known), n=1)
    return f"did you mean '{guess[0]}'?" if guess else f"known are {', '.join(known)}"
