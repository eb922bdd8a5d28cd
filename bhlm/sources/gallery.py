"""The gallery: a strict reader of models/*.toml, one published model per file.

A file states a model (title, citation, formula, data, method, covariance, priors; weights,
known_variance, residual and responses where the data are a survey's), and in [published] what was
printed about it. Printed values are kept as the strings that were printed, since the last digit of
each is its tolerance (`printed_tolerance`).
"""

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from bhlm.errors import GalleryError, check_arguments
from bhlm.secrets import hide_password, is_address
from bhlm.sources.datasets import DATASETS
from bhlm.sources.files import SUFFIXES
from bhlm.sources.open import open_table

METHODS = ("reml", "ml")
ESTIMATE_KEYS = ("estimate", "se", "statistic", "p", "lower", "upper")
TEST_KEYS = ("chi2", "df", "p")
SIZE_KEYS = ("min", "mean", "max")

_MODEL_KEYS = (
    *("title", "citation", "formula", "data", "method", "covariance", "priors", "notes"),
    *("family", "link", "trials", "exposure"),
    *("weights", "known_variance", "residual", "responses"),
    "published",
)
WEIGHT_KINDS = ("precision", "frequency", "sampling")
_WEIGHT_KEYS = ("kind", "rows", "groups", "scaling")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Published:
    """What was printed about a model: every number as the string that was printed.

    `comparable` is False where the print comes from other columns than the formula's (the
    rounded school means of the file, say): its numbers are to be shown, not judged, and
    `note` tells why. `relative_tolerance` allows for a program that stopped short of the
    maximum, besides half a unit of the last printed digit. `method` is the estimator of the
    printed numbers, that of the model: a fit by the other is not set beside them.
    """

    estimates: Mapping[str, Mapping[str, str]]  # parameter -> some of ESTIMATE_KEYS -> print
    source: str  # where it was printed
    software: str | None = None
    loglik: str | None = None
    deviance: str | None = None  # minus twice loglik: lme4's REML criterion
    wald: Mapping[str, str] | None = None  # chi2, df, p
    lr_test: Mapping[str, str] | None = None  # chi2, df, p
    n: str | None = None
    groups: str | Mapping[str, str] | None = None  # with several factors by their name
    group_size: Mapping[str, str] | None = None  # min, mean, max
    iterations: tuple[str, ...] = ()  # the log-likelihoods of the iteration log
    relative_tolerance: float = 0.0
    comparable: bool = True
    note: str | None = None
    method: str | None = None  # "reml" or "ml"; None: not known


@dataclass(frozen=True, slots=True)
class GalleryModel:
    """A published model: the statement of it, where its data are, what was printed."""

    name: str  # the file's name without .toml
    path: Path
    title: str
    citation: str
    formula: str
    dataset: str | None  # a shipped data set, or else
    data_path: Path | None  # a file, already resolved against the folder of the TOML
    method: str  # "reml" or "ml"
    covariance: str | None  # None: as the formula says
    priors: Mapping[str, Any] | None  # None: the default priors
    notes: str | None
    published: Published | None
    family: str = "gaussian"
    link: str | None = None  # None: the family's usual one
    trials: str | None = None  # the column of the trials, where the formula does not name it
    exposure: str | None = None  # the column over which counts were made
    # Of rows and groups: "kind", and some of "rows", "groups" and "scaling".
    weights: Mapping[str, Any] | None = None
    known_variance: str | None = None  # the column of sampling variances that are known
    residual: str | None = None  # the column of strata with residual variances of their own
    responses: tuple[str, ...] = ()  # columns of plausible values; the formula begins with "~"

    @property
    def is_plain(self) -> bool:
        """Whether rows count once, and one response and one residual variance are there."""
        return not (self.weights or self.known_variance or self.residual or self.responses)

    @property
    def is_gaussian(self) -> bool:
        """Whether the response is normal given the effects, so that there is REML."""
        return self.family == "gaussian"

    @property
    def outcome(self) -> dict[str, Any]:
        """The family, the weights and what belongs to them, as `bhlm.Model` takes them."""
        return {
            "family": self.family,
            "link": self.link,
            "trials": self.trials,
            "exposure": self.exposure,
            "weights": self.weights,
            "known_variance": self.known_variance,
            "residual": self.residual,
        }

    def __repr__(self) -> str:
        """Return the name and the formula."""
        return f"GalleryModel({self.name!r}: {self.formula})"


def printed_tolerance(text: str) -> float:
    """Half a unit of the last printed digit: 0.005 for "292.40", 5e-8 for ".1282584".

    Raises GalleryError if text is not a decimal number.
    """
    if _NUMBER.fullmatch(text) is None:
        raise GalleryError(f"'{text}' is not a printed number; give digits such as '2.193196'")
    exponent = Decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)  # it is a letter only for infinities and NaN
    return float(Decimal(5).scaleb(exponent - 1))


def agrees_with_print(value: float, text: str, *, relative_tolerance: float = 0.0) -> bool:
    """Whether value, rounded as text was, may print as text.

    True if |value - text| is at most half a unit of the last printed digit, or at most
    relative_tolerance * |text|.
    """
    printed = float(text)
    allowed = max(printed_tolerance(text), relative_tolerance * abs(printed))
    return abs(value - printed) <= allowed


@check_arguments
def list_models() -> tuple[GalleryModel, ...]:
    """Every model of the gallery, by name. Raises GalleryError if a file is not valid."""
    return tuple(read_model(path) for path in sorted(_find_folder().glob("*.toml")))


@check_arguments
def find_model(name_or_path: str | Path) -> GalleryModel:
    """The gallery model of that name (with or without .toml), or the model file at a path.

    A file that exists at the path comes first. Raises GalleryError if there is neither.
    """
    path = Path(name_or_path)
    if path.suffix.lower() in (*SUFFIXES, ".moments") or is_address(str(name_or_path)):
        raise GalleryError(
            f"'{hide_password(str(name_or_path))}' is a table and not a model of the gallery; give "
            "it as --data with --formula 'y ~ x + (x | g)', or to bhlm.Model"
        )
    if os.path.isfile(path):
        return read_model(path)
    name = path.name.removesuffix(".toml")
    models = {each.stem: each for each in sorted(_find_folder().glob("*.toml"))}
    if path.name == str(name_or_path) and name in models:
        return read_model(models[name])
    raise GalleryError(
        f"'{name_or_path}' is neither a model file nor a model of the gallery; "
        f"{_suggest(name, models)}"
    )


def load_data(model: GalleryModel) -> Any:
    """The table of a gallery model: a shipped data set, or the file that the TOML names.

    Raises DataError if the file cannot be read.
    """
    if model.dataset is not None:
        return DATASETS[model.dataset]()
    return open_table(model.data_path)


def read_model(path: str | Path) -> GalleryModel:
    """The model that a TOML file states.

    Raises GalleryError, in one line with the file, the key and the value, if the file cannot
    be read, a key is missing or not known, a value has the wrong type, or a printed value is
    a number where it should be a string.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GalleryError(
            f"{path}: cannot be read ({error.strerror}); give a TOML file"
        ) from error
    except RecursionError as error:
        raise GalleryError(f"{path}: nested too deeply; mend it") from error
    except ValueError as error:  # TOMLDecodeError or UnicodeDecodeError
        raise GalleryError(f"{path}: not valid TOML ({error}); mend that line") from error
    table = _Table(content, path=path, where="")
    table.check_keys(_MODEL_KEYS)
    dataset, data_path = _read_data(table.take_table("data", required=True))
    priors = table.take_table("priors")
    published = table.take_table("published")
    method = table.take_text("method") or "reml"
    if method not in METHODS:
        raise table.error("method", method, _suggest(method, METHODS))
    return GalleryModel(
        name=path.stem,
        path=path,
        title=table.take_text("title", required=True),
        citation=table.take_text("citation", required=True),
        formula=table.take_text("formula", required=True),
        dataset=dataset,
        data_path=data_path,
        method=method,
        covariance=table.take_text("covariance"),
        priors=None if priors is None else priors.content,
        notes=table.take_text("notes"),
        published=None if published is None else _read_published(published, method),
        family=table.take_text("family") or "gaussian",
        link=table.take_text("link"),
        trials=table.take_text("trials"),
        exposure=table.take_text("exposure"),
        weights=_read_weights(table.take_table("weights")),
        known_variance=table.take_text("known_variance"),
        residual=table.take_text("residual"),
        responses=table.take_texts("responses"),
    )


def _read_weights(table: "_Table | None") -> dict[str, Any] | None:
    """Return what [weights] says; groups may be a table by grouping factor."""
    if table is None:
        return None
    table.check_keys(_WEIGHT_KEYS)
    kind = table.take_text("kind", required=True)
    if kind not in WEIGHT_KINDS:
        raise table.error("kind", kind, _suggest(kind, WEIGHT_KINDS))
    found: dict[str, Any] = {"kind": kind}
    for key in ("rows", "scaling"):
        if (text := table.take_text(key)) is not None:
            found[key] = text
    if isinstance(table.content.get("groups"), dict):
        groups = table.take_table("groups")
        found["groups"] = {name: groups.take_text(name) for name in groups.content}
    elif (text := table.take_text("groups")) is not None:
        found["groups"] = text
    if len(found) < 2:
        raise table.error(None, table.content, "name the column of rows or of groups")
    return found


def _read_data(table: "_Table") -> tuple[str | None, Path | None]:
    table.check_keys(("dataset", "path"))
    if len(table.content) != 1:
        raise table.error(None, table.content, "give either dataset or path")
    dataset, path = table.take_text("dataset"), table.take_text("path")
    if dataset is not None and dataset not in DATASETS:
        raise table.error("dataset", dataset, _suggest(dataset, DATASETS))
    return dataset, None if path is None else table.path.parent / path


def _read_published(table: "_Table", method: str) -> Published:
    # The method is said once, of the model.
    table.check_keys([field.name for field in fields(Published) if field.name != "method"])
    # Of some fits nothing but the log-likelihood was printed.
    estimates = table.take_table("estimates", required="loglik" not in table.content)
    if estimates is not None and not estimates.content:
        raise table.error("estimates", {}, "give the printed values of at least one parameter")
    prints = (
        {}
        if estimates is None
        else {
            parameter: estimates.take_prints(parameter, ESTIMATE_KEYS) or {}
            for parameter in estimates.content
        }
    )
    comparable, note = table.take_flag("comparable", default=True), table.take_text("note")
    if not comparable and note is None:
        raise table.error("comparable", False, "tell in the key note why it is not")
    return Published(
        estimates=prints,
        source=table.take_text("source", required=True),
        software=table.take_text("software"),
        loglik=table.take_print("loglik"),
        deviance=table.take_print("deviance"),
        wald=table.take_prints("wald", TEST_KEYS),
        lr_test=table.take_prints("lr_test", TEST_KEYS),
        n=table.take_print("n"),
        groups=table.take_counts("groups"),
        group_size=table.take_prints("group_size", SIZE_KEYS),
        iterations=table.take_print_list("iterations"),
        relative_tolerance=table.take_tolerance("relative_tolerance"),
        comparable=comparable,
        note=note,
        method=method,
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table with the place that it came from, so that every error can name it."""

    content: dict[str, Any]
    path: Path
    where: str  # dotted key of this table in the file, "" for the file itself

    def error(self, key: str | None, value: object, next_step: str) -> GalleryError:
        dotted = ".".join(part for part in (self.where, key) if part)
        return GalleryError(f"{self.path}: {dotted} = {value!r} is not valid; {next_step}")

    def check_keys(self, known: Collection[str]) -> None:
        for key in self.content:
            if key not in known:
                place = f"[{self.where}]" if self.where else "the file"
                raise GalleryError(
                    f"{self.path}: {place} has the unknown key '{key}'; {_suggest(key, known)}"
                )

    def _take(self, key: str, kind: type, *, what: str, required: bool = False) -> Any:
        if key not in self.content:
            if required:
                place = f"[{self.where}]" if self.where else "the file"
                raise GalleryError(f"{self.path}: {place} has no key '{key}'; give it {what}")
            return None
        value = self.content[key]
        if not isinstance(value, kind):
            raise self.error(key, value, f"give {what}")
        return value

    def take_text(self, key: str, *, required: bool = False) -> Any:
        value = self._take(key, str, what="a text in quotes", required=required)
        if value is not None and not value.strip():
            raise self.error(key, value, "give a text that is not blank")
        return value

    def take_texts(self, key: str) -> tuple[str, ...]:
        values = self._take(key, list, what="a list of texts in quotes") or []
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise self.error(key, values, "give texts in quotes that are not blank")
        return tuple(values)

    def take_table(self, key: str, *, required: bool = False) -> Any:
        value = self._take(key, dict, what="a table", required=required)
        if value is None:
            return None
        return _Table(value, path=self.path, where=f"{self.where}.{key}".lstrip("."))

    def take_flag(self, key: str, *, default: bool) -> bool:
        value = self._take(key, bool, what="true or false")
        return default if value is None else value

    def take_tolerance(self, key: str) -> float:
        value = self._take(key, float, what="a number such as 5e-5")
        if value is not None and not 0 < value < 1:
            raise self.error(key, value, "give a number between 0 and 1, such as 5e-5")
        return 0.0 if value is None else value

    def take_print(self, key: str) -> str | None:
        return None if key not in self.content else self._check_print(key, self.content[key])

    def take_counts(self, key: str) -> str | dict[str, str] | None:
        if not isinstance(self.content.get(key), dict):
            return self.take_print(key)
        table = self.take_table(key)
        return {each: table._check_print(each, value) for each, value in table.content.items()}

    def take_print_list(self, key: str) -> tuple[str, ...]:
        values = self._take(key, list, what="a list of printed numbers in quotes") or []
        return tuple(self._check_print(key, value) for value in values)

    def take_prints(self, key: str, known: Collection[str]) -> dict[str, str] | None:
        table = self.take_table(key)
        if table is None:
            return None
        table.check_keys(known)
        return {each: table._check_print(each, value) for each, value in table.content.items()}

    def _check_print(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.error(key, value, f'give it as it was printed, in quotes: "{value}"')
        if _NUMBER.fullmatch(value) is None:
            raise self.error(key, value, 'give a printed number, such as "2.193196"')
        return value


def _find_folder() -> Path:
    # In a wheel the gallery is inside the package, in a source tree beside it.
    package = Path(str(files("bhlm")))
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def _suggest(word: str, known: Collection[str]) -> str:
    guess = get_close_matches(word, list(known), n=1)
    return f"did you mean '{guess[0]}'?" if guess else f"known are {', '.join(known)}"
