"""Odd TOML files: models of the gallery and studies, with keys, values or characters changed."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bhlm
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.commands.shared import find_data, read_settings
from bhlm.reconciliation.published import check_published
from bhlm.studies.simulation.replicate import check_study
from bhlm.studies.simulation.study import identify_study, read_study
from tests.fuzz.formulas import NOISE, random_formula
from tests.fuzz.outcome import judge
from tests.simulate import simulate_table

LONGEST = 5.0  # seconds of a processor

MODEL: dict[str, Any] = {
    "title": "Yield by batch",
    "citation": "Davies & Goldsmith (1972)",
    "formula": "y ~ x + (x | g)",
    "method": "reml",
    "covariance": "unstructured",
    "notes": "A note.",
    "data": {"path": "t.csv"},
    "priors": {
        "fixed": {"x": "Normal(0, 10)"},
        "sd": "HalfStudentT(3, 2)",
        "corr": "LKJ(2)",
        "sigma": "HalfNormal(3)",
    },
    "published": {
        "source": "Somewhere",
        "software": "R lme4",
        "loglik": "-159.8",
        "deviance": "319.7",
        "n": "30",
        "groups": "6",
        "relative_tolerance": 1e-4,
        "note": "As printed.",
        "comparable": True,
        "iterations": ["-160.1", "-159.8"],
        "group_size": {"min": "1", "mean": "4.5", "max": "9"},
        "wald": {"chi2": "12.3", "df": "1", "p": "0.0005"},
        "lr_test": {"chi2": "3.2", "df": "3", "p": "0.2"},
        "estimates": {
            "Intercept": {"estimate": "3.1", "se": "0.2", "statistic": "15.5", "p": "0.000"},
            "var(Intercept|g)": {"estimate": "2.2", "lower": "1.0", "upper": "4.0"},
            "sd(Residual)": {"estimate": "1.0"},
        },
    },
}
STUDY: dict[str, Any] = {
    "title": "Few groups",
    "seed": 1,
    "replicates": 2,
    "model": {
        "fixed": {"Intercept": 0.0, "x": 0.5},
        "random": ["Intercept", "x"],
        "correlated": True,
        "residual_variance": 1.0,
    },
    "grid": {
        "groups": [10, 20],
        "group_size": [5, [2, 9]],
        "icc": [0.1],
        "slope_variance": [0.05],
        "correlation": [0.0],
    },
    "reml": {"df": ["z", "satterthwaite"], "variances": ["wald"]},
    "bayes": {"draws": 10, "tune": 10, "chains": 1, "target_accept": 0.9, "maxdepth": 5},
    "priors": {"default": {}, "wide": {"sd": "HalfNormal(10)", "corr": "LKJ(1)"}},
}
# As TOML writes them.
VALUES = (
    *("0", "-1", "1", "3", "9223372036854775807", "-9223372036854775808", "10" * 300, "2.5"),
    *("nan", "inf", "-inf", "1e308", "-0.0", "1e999", "true", "false", "1979-05-27", "07:32:00"),
    *("1979-05-27T07:32:00Z", "[]", "[[]]", "[1, 'a', []]", "['x', 'x']", "{}", "{a = 1}", "''"),
    *("' '", "'x'", "'Intercept'", "'1.5'", "'nan'", "'1e999'", "'-'", "'\u00e9\U0001f600'"),
    *("'no/such.csv'", "'t.parquet'", "'.'", "'/dev/null'", "'*.csv'", "'duckdb:///t.db#t'"),
    *('"a\\u0000b"', '"a\\nb"', "'hsb'", "'reml'", "'ml'", "'identity'", "'Normal(0, 0)'"),
    *("'Normal(0, 1e400)'", "'LKJ(-1)'", "'Flat()'", "'HalfNormal(1)'", "'Normal(0, 1)'"),
    *("'Normal(__import__(\"os\"), 1)'", "'LKJ(2)'", f"'{'x' * 5000}'", f"{'[' * 90}{']' * 90}"),
)
KEYS = (
    *("estimate", "se", "x", "Intercept", "var(Residual)", "sd", "dataset", "path", "Title"),
    *("__class__", "corr", "fixed", "estimates", "p", "''", "'a b'", '"\\u0000"', "'var(x|g)'"),
)


def random_settings(rng: np.random.Generator, start: dict[str, Any]) -> bytes:
    """Return a TOML file that is near a right one."""
    content = json.loads(json.dumps(start))
    for _ in range(1 + rng.integers(0, 3)):
        _change(rng, content)
    text = "\n".join(_write(content)) + "\n"
    if rng.random() < 0.25:
        for _ in range(1 + rng.integers(0, 4)):
            at = int(rng.integers(0, len(text) + 1))
            text = text[:at] + str(rng.choice(NOISE)) + text[at + int(rng.integers(0, 4)) :]
    if rng.random() < 0.05:
        text += rng.choice(["\n[data]\n", "a = " + "[" * 5000, "x = {" * 2000, "[a." + "b." * 3000])
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        data = bytes(rng.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\x00"])) + data
    if rng.random() < 0.05:
        data = data[: int(rng.integers(0, len(data)))]
    return data


class _Raw(str):
    """A value that is written as it is."""


def _change(rng: np.random.Generator, content: dict[str, Any]) -> None:
    """Take away, add or replace a key somewhere."""
    table = content
    while inner := [each for each in table.values() if isinstance(each, dict) and each]:
        if rng.random() < 0.3:
            break
        table = inner[int(rng.integers(len(inner)))]
    names = list(table)
    name = str(rng.choice(names)) if names else "x"
    kind = rng.integers(0, 6)
    if kind == 0:
        table.pop(name, None)
    elif kind == 1:
        table[_Raw(rng.choice(KEYS))] = _Raw(rng.choice(VALUES))
    elif kind == 2 and "formula" in content:
        content["formula"] = random_formula(rng)
    elif kind == 3 and name in table:
        table[_Raw(rng.choice(KEYS))] = table.pop(name)
    else:
        table[name] = _Raw(rng.choice(VALUES))


def _write(table: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yield the lines of a table: its values, then the tables in it."""
    keys = {key: key if isinstance(key, _Raw) else json.dumps(key) for key in table}
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{keys[key]} = {value if isinstance(value, _Raw) else _show(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            place = f"{where}.{keys[key]}".lstrip(".")
            yield f"[{place}]"
            yield from _write(value, place)


def _show(value: Any) -> str:
    if isinstance(value, str) and not value.isprintable():
        return "'" + value.replace("'", "").replace("\n", " ").replace("\0", "") + "'"
    return json.dumps(value, ensure_ascii=False)


def use_model(path: Path) -> None:
    """Do all that `bhlm reconcile` does with a file, but draw and compare."""
    entry = bhlm.find_model(path)
    repr(entry)
    model = bhlm.Model(entry.formula, find_data(entry))
    priors, covariance = read_settings(entry, None)
    resolve_priors(priors, model.moments, structure=arrange_prior(model.moments, covariance))
    fit = model.reml(method=entry.method, covariance=covariance)
    fit.summary()
    if entry.published:
        check_published(fit, entry.published)


def use_study(path: Path) -> None:
    """Do all that `bhlm simulate` does with a file, but run it."""
    study = read_study(path)
    if study.total <= 100 and all(sum(each.sizes) < 10**4 for each in study.conditions):
        check_study(study)
    identify_study(study)


def try_settings(numbers: range) -> Iterator[str]:
    """Yield what is wrong with what comes of odd TOML files."""
    with tempfile.TemporaryDirectory() as folder:
        simulate_table(3, n_groups=12, largest=6).to_csv(Path(folder, "t.csv"), index=False)
        path = Path(folder, "odd.toml")
        for start, use in ((STUDY, use_study), (MODEL, use_model)):  # compiles what they need
            path.write_text("\n".join(_write(start)))
            if wrong := judge(lambda use=use: use(path))[1]:
                yield f"right settings: {wrong}"
        for number in numbers:
            rng = np.random.default_rng([3, number])
            start, use = (STUDY, use_study) if number % 4 == 3 else (MODEL, use_model)
            path.write_bytes(random_settings(rng, start))
            wrong = judge(lambda use=use: use(path), longest=LONGEST, strict=True)[1]
            if wrong:
                yield f"settings {number}: {wrong}"
