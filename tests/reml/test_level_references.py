"""Every value of the reference files of several grouping factors against our REML and ML."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bhlm.fits.model import Model
from bhlm.sources.datasets import load_dataset
from bhlm.sources.gallery import agrees_with_print, find_model

FOLDER = Path(__file__).parents[1] / "reference" / "levels"
# lme4 prints six decimals of its log-likelihood, and stops a little below the maximum.
LOGLIK = 6e-7
# Where lme4 stops the log-likelihood has ten digits, and estimates have four to six.
STOPPED = 3e-4  # InstEval's var(dept), which is 4e-4 of its standard error
# MixedModels prints all digits of a double, and stops so far above the minimum of its deviance.
DEVIANCE = 1e-8
JULIA = 2e-5

FORMULAS = {
    "productivity": "gsp ~ private + emp + hwy + water + other + unemp + (1 | region/state)",
    "variance_components": "math ~ 1 + (1 | schoolid/childid)",
    "growth": "math ~ year + (year | schoolid/childid)",
    "penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "pastes": "strength ~ 1 + (1 | batch/cask)",
    "insteval": "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
    "insteval_interaction": "y ~ service * C(dept) + (1 | s) + (1 | d)",
}
DATA = {
    "variance_components": "egsingle",
    "growth": "egsingle",
    "insteval": "inst_eval",
    "insteval_interaction": "inst_eval",
}
# What the files call a factor or a coefficient.
NAMES = {
    "childid": "schoolid:childid",
    "state": "region:state",
    "cask": "batch:cask",
    "service1": "service",
}


@cache
def read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def load(name: str) -> pd.DataFrame:
    if name != "productivity":
        return load_dataset(DATA.get(name, name))
    raw = pd.read_csv(FOLDER / "produc.csv")
    logs = raw[["hwy", "water", "gsp", "emp"]].apply(np.log)
    rest = {"private": np.log(raw["pc"]), "other": np.log(raw["util"])}
    return raw[["state", "region", "unemp"]].join(logs).assign(**rest)


@cache
def fit(name: str, method: str) -> Any:
    found = Model(FORMULAS[name], load(name)).reml(method=method)
    assert found.converged
    return found


def find_value(found: Any, key: str) -> float:
    """Return what a reference file calls loglik, se(NAME), var(NAME|FACTOR), cov(FACTOR), ..."""
    kind, _, rest = key.partition("(")
    if not rest:
        column = "se" if key == "se" else "estimate"
        return float(
            found.estimates.loc["Intercept" if key == "se" else NAMES.get(key, key), column]
        )
    inside = rest.removesuffix(")")
    if kind == "se":
        return float(found.estimates.loc[inside, "se"])
    if kind == "cov":
        return float(
            found.estimates.loc[f"cov(Intercept,year|{NAMES.get(inside, inside)})", "estimate"]
        )
    coefficient, _, factor = inside.rpartition("|")
    if factor == "Residual":
        return float(found.estimates.loc[f"{kind}(Residual)", "estimate"])
    factor = NAMES.get(factor, factor)
    # The samples of Pastes are casks of batches, those of Penicillin samples.
    factor = factor if factor in found.moments.groups else "batch:cask"
    return float(found.estimates.loc[f"{kind}({coefficient or 'Intercept'}|{factor})", "estimate"])


def list_computed() -> list[Any]:
    """Return every block under [computed] as (file, name of the fit, method, key of the block)."""
    cases = []
    for file in ("productivity", "egsingle", "crossed"):
        for key in read(file)["computed"]:
            name, _, method = key.rpartition("_")
            large = [pytest.mark.exhaustive] if name.startswith("insteval") else []
            cases.append(
                pytest.param(file, name or file, method, key, marks=large, id=f"{file} {key}")
            )
    return cases


@pytest.mark.parametrize(("file", "name", "method", "key"), list_computed())
def test_computed_values(file: str, name: str, method: str, key: str) -> None:
    found, rows = fit(name, method), dict(read(file)["computed"][key])
    loglik = rows.pop("loglik")
    assert found.loglik == pytest.approx(loglik, abs=LOGLIK)
    rows.pop("formula", None)
    assert rows
    for each, value in rows.items():
        assert find_value(found, each) == pytest.approx(value, rel=STOPPED), each


def list_julia() -> list[Any]:
    blocks = read("crossed")["published"]
    return [
        pytest.param(key, marks=[pytest.mark.exhaustive] if key.startswith("insteval") else [])
        for key in blocks
        if key.endswith("_ml")
    ]


@pytest.mark.parametrize("key", list_julia())
def test_mixedmodels(key: str) -> None:
    found, rows = fit(key.removesuffix("_ml"), "ml"), dict(read("crossed")["published"][key])
    rows.pop("formula")
    objective = float(rows.pop("objective"))
    assert -2.0 * found.loglik == pytest.approx(objective, abs=DEVIANCE)
    for each, printed in rows.items():
        assert find_value(found, each) == pytest.approx(float(printed), rel=JULIA), each


def test_stata_three_levels() -> None:
    """The printed values but the sum of variances stand in the gallery, and are compared there."""
    printed = read("productivity")["published"]["estimates"]
    found = Model(FORMULAS["productivity"], load_dataset("productivity")).reml(method="ml")
    both = printed["var(Intercept|region)+var(Intercept|state)"]
    total = sum(float(g[0, 0]) for g in found.gs)
    spread = np.sqrt(found.variance_cov[:2, :2].sum())
    assert agrees_with_print(total, both["estimate"])
    assert agrees_with_print(float(spread), both["se"])
    region = printed["var(Intercept|region)"]
    row = found.estimates.loc["var(Intercept|region)"]
    # Stata prints it as a covariance, with a symmetric interval.
    half = 1.959964 * row["se"]
    assert agrees_with_print(row["estimate"] - half, region["lower"])
    assert agrees_with_print(row["estimate"] + half, region["upper"])


def test_stata_egsingle() -> None:
    printed = read("egsingle")["published"]["variance_components_ml"]
    found = fit("variance_components", "ml")
    row = found.estimates.loc["Intercept"]
    assert agrees_with_print(found.loglik, printed["loglik"])
    assert agrees_with_print(row["estimate"], printed["Intercept"])
    assert agrees_with_print(row["statistic"], printed["z"])
    # Two units of the last digit: lme4 has .07796371979.
    assert row["se"] == pytest.approx(float(printed["se(Intercept)"]), abs=2e-7)


# What a file says that is no value of a fit: texts on sources, and other people's seconds.
NOT_ASKED = {"title", "formula", "method", "where", "note", "source", "seconds_mixedmodels_2018"}
# The sum of two variances has an estimate and a standard error; these are in a test of their own.
SUMMED = "var(Intercept|region)+var(Intercept|state)"


def list_leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every value that a fit can be asked for."""
    if not isinstance(value, dict):
        return [path]
    kept = {key: each for key, each in value.items() if key not in NOT_ASKED}
    return [leaf for key, each in kept.items() for leaf in list_leaves(each, (*path, key))]


def test_no_value_of_the_files_is_left_out() -> None:
    """Each stands in a block that a test above walks whole, or in the gallery under its name."""
    slopes = find_model("productivity_slopes").published
    gallery = find_model("productivity").published
    assert slopes is not None
    assert gallery is not None
    walked = {case.id for case in list_computed()}
    julia = {case.values[0] for case in list_julia()}
    for file in ("productivity", "egsingle", "crossed"):
        for path in list_leaves(read(file)):
            match path:
                case ("computed", key, _):
                    assert f"{file} {key}" in walked
                case ("data", "n"):
                    assert str(read(file)["data"]["n"]) == str(len(load(SIZES[file])))
                case ("data", "groups", name):
                    found = fit(*FITS[file]).moments.groups
                    assert found[NAMES.get(name, name)] == read(file)["data"]["groups"][name]
                case ("published", key, _) if file == "crossed":
                    assert key in julia
                case ("published", "variance_components_ml", key):
                    assert key in {"loglik", "Intercept", "se(Intercept)", "z"}
                case ("published", "loglik"):
                    assert gallery.loglik == read(file)["published"]["loglik"]
                case ("published", "example5", "loglik"):
                    assert slopes.loglik == read(file)["published"]["example5"]["loglik"]
                case ("published", "example5", name, column):
                    own = slopes.estimates[NAMES_OF_SLOPES.get(name, name)]
                    printed = read(file)["published"]["example5"][name][column]
                    assert own[column] == printed
                case ("published", "estimates", name, column):
                    printed = read(file)["published"]["estimates"][name][column]
                    if name != SUMMED and (name, column) not in SYMMETRIC:
                        assert gallery.estimates[name][column] == printed
                case _:
                    raise AssertionError(f"{file}: no test asks for {'.'.join(path)}")


SIZES = {"productivity": "productivity", "egsingle": "growth"}
FITS = {"productivity": ("productivity", "ml"), "egsingle": ("growth", "ml")}
NAMES_OF_SLOPES = {"var(Intercept|state)": "var(Intercept|region:state)"}
SYMMETRIC = {("var(Intercept|region)", "lower"), ("var(Intercept|region)", "upper")}
