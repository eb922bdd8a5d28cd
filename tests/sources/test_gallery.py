"""The gallery: what its files say, and every way in which a file can be wrong."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bhlm.errors import ArgumentError, DataError, GalleryError
from bhlm.fits.family_fit import FamilyFit
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.reconciliation.published import check_published
from bhlm.sources.datasets import DATASETS
from bhlm.sources.gallery import (
    Published,
    agrees_with_print,
    find_model,
    list_models,
    load_data,
    printed_tolerance,
    read_model,
)

NAMES = [
    *("body_weight", "dyestuff", "dyestuff2", "ergo_stool", "exam"),
    *("hsb_anova", "hsb_file_meanses", "hsb_intercepts_and_slopes", "hsb_means_as_outcomes"),
    *("hsb_random_coefficient", "orthodont", "oxboys", "rail", "sleepstudy"),
]
# Of several grouping columns.
LEVELS = [
    *("chem97", "egsingle_growth", "egsingle_null", "inst_eval", "pastes", "penicillin"),
    *("productivity", "productivity_slopes", "scots_sec"),
]
# Of zeros and ones and of proportions.
COUNTED = ["cbpp", "contraception", "grade_repetition", "toenail"]
# With weights, known variances, strata or plausible values; of the last nothing is printed.
SURVEY = [
    *("orthodont_varident", "pisa_nz", "school_calendar", "sleepstudy_row_weights"),
    *("sleepstudy_subject_weights", "teacher_expectancy", "teacher_expectancy_contact"),
]
PRINTED = [*NAMES, *LEVELS, *COUNTED, *(name for name in SURVEY if name != "pisa_nz")]
MARKS = {
    "inst_eval": pytest.mark.exhaustive,
    **dict.fromkeys((*COUNTED, *SURVEY), pytest.mark.wide),
}
CHAPTER = [  # Raudenbush & Bryk (2002), chapter 4: those of hsb_reml.json
    "hsb_anova",
    "hsb_intercepts_and_slopes",
    "hsb_means_as_outcomes",
    "hsb_random_coefficient",
]
BY_LME4 = ["body_weight", "dyestuff", "dyestuff2", "ergo_stool", "rail", "sleepstudy"]
OTHER_COLUMNS = ["hsb_means_as_outcomes"]  # printed for the file's rounded school means

# A tolerance is given as one digit, and covers the farthest print by less than this factor.
TOLERANCE_MARGIN = 10.0
# MixedModels prints all digits of a double, and stops so far above the minimum of its deviance.
STOPPED = 1e-11

VALID = """
title = "A title"
citation = "Somebody (2001)"
formula = "y ~ x + (x | g)"
[data]
path = "rows.csv"
"""
PUBLISHED = VALID + '[published]\nsource = "page 1"\n'
ESTIMATES = '[published.estimates]\nIntercept = { estimate = "1.50", se = ".2" }\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@cache
def fit(name: str) -> RemlFit | FamilyFit:
    model = find_model(name)
    stated = Model(model.formula, load_data(model), **model.outcome)
    return stated.reml(method=model.method) if model.is_gaussian else stated.ml()


@cache
def read_lme4_reference() -> dict[str, Any]:
    path = Path(__file__).parents[1] / "reference" / "r" / "lme4_reference.json"
    models: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["models"]
    return models


def test_the_models_of_the_gallery() -> None:
    models = list_models()
    assert [model.name for model in models] == sorted([*NAMES, *LEVELS, *COUNTED, *SURVEY])
    assert {model.method for model in models if model.name in NAMES} == {"reml"}
    assert {model.dataset for model in models} == set(DATASETS)
    assert all(model.published is not None for model in models if model.name in PRINTED)
    assert [model.name for model in models if not model.is_plain] == SURVEY


def test_the_four_models_of_the_chapter(reference: dict[str, Any]) -> None:
    for name in CHAPTER:
        model = find_model(name)
        assert model.formula == reference[model.name]["formula"]
        assert (model.dataset, model.method, model.covariance) == ("hsb", "reml", None)
        assert "Raudenbush" in model.citation
        assert model.path == Path(__file__).parents[2] / "models" / f"{model.name}.toml"


def test_table_4_4_holds_every_printed_value(printed: dict[str, Any]) -> None:
    published = find_model("hsb_random_coefficient").published
    assert published is not None
    assert published.estimates == printed["estimates"]
    for key in ("loglik", "n", "groups", "group_size", "wald", "lr_test"):
        assert getattr(published, key) == printed[key]
    assert list(published.iterations) == printed["iterations"]


@pytest.mark.parametrize("name", CHAPTER)
def test_published_values_are_those_of_the_exact_maximum(
    name: str, reference: dict[str, Any]
) -> None:
    published, exact = find_model(name).published, reference[name]["reml"]
    assert published is not None
    # Wide enough for the rounded meanses, narrow enough to see a mistyped digit before it.
    allowed = published.relative_tolerance if published.comparable else 3e-3
    unprinted = set(exact["estimates"]) - set(published.estimates)
    assert {parameter[:4] for parameter in unprinted} <= {"cov("}  # lme4 prints correlations
    for parameter in set(exact["estimates"]) - unprinted:
        prints = published.estimates[parameter]
        for key in {"estimate", "se", "lower", "upper"} & set(prints):
            if key in exact["estimates"][parameter]:
                value = float(exact["estimates"][parameter][key])
                assert agrees_with_print(value, prints[key], relative_tolerance=allowed), (
                    parameter,
                    key,
                )
    if published.loglik is not None:
        assert agrees_with_print(float(exact["loglik"]), published.loglik)


@pytest.mark.parametrize("name", BY_LME4)
def test_published_values_are_those_of_the_optimum_of_lme4(name: str) -> None:
    model, case = find_model(name), read_lme4_reference()[name]
    published, exact = model.published, case["reml"]
    assert published is not None
    assert model.formula == case["formula"]
    estimates = exact["fixed"] | exact["components"] | exact["scaled_components"]
    assert set(published.estimates) <= set(estimates)
    assert set(exact["fixed"]) <= set(published.estimates)
    for parameter, prints in published.estimates.items():
        pairs = [(estimates[parameter], prints["estimate"])]
        if "se" in prints:
            pairs.append((exact["se"][parameter], prints["se"]))
        for value, text in pairs:
            assert agrees_with_print(
                value, text, relative_tolerance=published.relative_tolerance
            ), (parameter, text)
    if published.loglik is not None:
        assert agrees_with_print(exact["logLik"], published.loglik)
    if published.deviance is not None:
        assert agrees_with_print(-2.0 * exact["logLik"], published.deviance)
    assert (published.n, published.groups) == (str(case["n"]), str(case["groups"]))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=MARKS.get(name, []))
        for name in sorted(set(PRINTED) - set(OTHER_COLUMNS))
    ],
)
def test_published_values_are_reproduced(name: str) -> None:
    published = find_model(name).published
    assert published is not None
    checks = check_published(fit(name), published)
    assert [check for check in checks if not check.reproduced] == []
    if published.deviance is not None:
        deviance = -2.0 * fit(name).loglik
        assert agrees_with_print(deviance, published.deviance, relative_tolerance=STOPPED)
    # No wider a tolerance than the print needs, or it would hide a mistyped digit.
    needed = max((abs(check.relative) for check in checks if not check.exact), default=0.0)
    assert published.relative_tolerance / TOLERANCE_MARGIN <= needed


def test_a_file_states_weights_strata_and_plausible_values(tmp_path: Path) -> None:
    stated = read_model(find_model("pisa_nz").path)
    assert stated.responses == tuple(f"PV{at}MATH" for at in range(1, 6))
    assert stated.weights == {
        "kind": "sampling", "rows": "W_FSTUWT / W_FSCHWT", "groups": "W_FSCHWT", "scaling": "size",
    }  # fmt: skip
    text = VALID + '[weights]\nkind = "sampling"\n[weights.groups]\ng = "w"\n'
    assert read_model(write(tmp_path, text)).weights == {"kind": "sampling", "groups": {"g": "w"}}
    for wrong, told in {
        'kind = "survey"\nrows = "w"': "weights.kind = 'survey' is not valid",
        'rows = "w"': "has no key 'kind'",
        'kind = "frequency"': "name the column of rows or of groups",
        'kind = "frequency"\nrow = "w"': "unknown key 'row'",
    }.items():
        with pytest.raises(GalleryError, match=told):
            read_model(write(tmp_path, f"{VALID}[weights]\n{wrong}\n"))
    with pytest.raises(GalleryError, match="responses = "):
        read_model(write(tmp_path, "responses = [1, 2]\n" + VALID))


def test_groups_are_printed_by_factor() -> None:
    published = find_model("pastes").published
    assert published is not None
    checks = {each.quantity: each for each in check_published(fit("pastes"), published)}
    assert checks["batch:cask"].name == "groups"
    assert (checks["batch:cask"].printed, checks["batch:cask"].computed) == ("30", 30.0)
    with pytest.raises(GalleryError, match=r"'cask', which is no .*factors are batch, batch:cask"):
        check_published(fit("pastes"), replace(published, groups={"cask": "30"}))
    with pytest.raises(GalleryError, match="'30' is not a table with a number for each factor"):
        check_published(fit("pastes"), replace(published, groups="30"))
    with pytest.raises(GalleryError, match=r"published\.group_size is of a single factor"):
        check_published(fit("pastes"), replace(published, group_size={"min": "2"}))
    with pytest.raises(GalleryError, match="is not one number"):
        check_published(
            fit("rail"), replace(published, estimates={}, groups={"Rail": "6"}, method=None)
        )


def test_what_comes_from_other_columns_is_marked() -> None:
    marked = {model.name: model.published.comparable for model in list_models() if model.published}
    assert marked == {name: name not in OTHER_COLUMNS for name in PRINTED}


def test_the_school_means_of_the_file_move_the_intercept_as_the_note_says() -> None:
    note = find_model("hsb_means_as_outcomes").published.note  # type: ignore[union-attr]
    computed, rounded = (
        fit(name).estimates.loc["Intercept", "estimate"]
        for name in ("hsb_means_as_outcomes", "hsb_file_meanses")
    )
    assert f"from {computed:.2f} to {rounded:.2f}" in str(note)


@pytest.mark.parametrize("given", ["hsb_anova", "hsb_anova.toml"])
def test_find_by_name(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model(given).name == "hsb_anova"


def test_find_by_path(tmp_path: Path) -> None:
    path = write(tmp_path, VALID)
    assert find_model(path) == find_model(str(path)) == read_model(path)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("hsb_anva", "did you mean 'hsb_anova'"),
        ("no/such/folder/hsb_anova.toml", "did you mean 'hsb_anova'"),
        ("qqqq", "known are body_weight, cbpp, chem97"),
        ("q" * 300, "known are body_weight, cbpp, chem97"),
    ],
)
def test_find_nothing(given: str, hint: str) -> None:
    with pytest.raises(GalleryError, match=f"'{given}' is neither a model file nor .*{hint}"):
        find_model(given)


def test_data_of_a_shipped_set(hsb: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(load_data(find_model("hsb_anova")), hsb)


def test_data_at_a_path_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "rows.csv").write_text("y,x,g\n1,2,3\n")
    model = read_model(write(tmp_path, VALID))
    assert (model.dataset, model.data_path) == (None, tmp_path / "rows.csv")
    assert load_data(model).to_dict("list") == {"y": [1], "x": [2], "g": [3]}


def test_missing_data_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.csv' does not exist"):
        load_data(read_model(write(tmp_path, VALID)))


def test_all_keys_are_kept(tmp_path: Path) -> None:
    text = (
        'notes = "a note"\nmethod = "ml"\ncovariance = "independent"\n'
        + VALID
        + "[priors]\nlkj = 2\n[priors.sd]\nscale = 1.5\n[published]\n"
        + 'source = "page 1"\nsoftware = "HLM"\nloglik = "-1.5"\ndeviance = "3.0"\n'
        + 'n = "10"\ngroups = "2"\n'
        + 'iterations = ["-2.0", "-1.5"]\ngroup_size = { min = "4", mean = "5.0", max = "6" }\n'
        + 'wald = { chi2 = "2.1", df = "1", p = "0.1" }\nlr_test = { chi2 = "0.3" }\n'
        + 'relative_tolerance = 1e-4\ncomparable = false\nnote = "other centring"\n'
        + ESTIMATES
    )
    model = read_model(write(tmp_path, text))
    assert (model.name, model.method, model.covariance) == ("mine", "ml", "independent")
    assert (model.notes, model.priors) == ("a note", {"lkj": 2, "sd": {"scale": 1.5}})
    assert model.published == Published(
        estimates={"Intercept": {"estimate": "1.50", "se": ".2"}},
        source="page 1",
        software="HLM",
        loglik="-1.5",
        deviance="3.0",
        wald={"chi2": "2.1", "df": "1", "p": "0.1"},
        lr_test={"chi2": "0.3"},
        n="10",
        groups="2",
        group_size={"min": "4", "mean": "5.0", "max": "6"},
        iterations=("-2.0", "-1.5"),
        relative_tolerance=1e-4,
        comparable=False,
        note="other centring",
        method="ml",
    )


def test_prints_of_reml_are_not_set_beside_ml() -> None:
    published = find_model("pastes").published
    assert published is not None
    by_reml = replace(published, method="reml")
    with pytest.raises(ArgumentError, match=r"values are by REML and the fit is by ML.*leave pub"):
        check_published(fit("pastes"), by_reml)


def test_defaults(tmp_path: Path) -> None:
    model = read_model(write(tmp_path, VALID))
    assert (model.method, model.covariance, model.priors) == ("reml", None, None)
    assert (model.notes, model.published) == (None, None)


WRONG = {
    "unknown key": ('titel = "x"\n' + VALID, r"unknown key 'titel'; did you mean 'title'\?"),
    "missing title": (VALID.replace("title", "notes"), "the file has no key 'title'; give it"),
    "missing data": (VALID.split("[data]")[0], "the file has no key 'data'; give it a table"),
    "wrong type": (VALID.replace('"A title"', "7"), "title = 7 is not valid; give a text"),
    "blank": (VALID.replace("A title", " "), "title = ' ' is not valid; give a text that is not"),
    "data a text": (
        VALID.split("[data]")[0] + 'data = "hsb"',
        "data = 'hsb' is not valid; give a ta",
    ),
    "no data": (VALID.replace('path = "rows.csv"', ""), "data = {} is not valid; give either data"),
    "two data": (VALID + 'dataset = "hsb"\n', "is not valid; give either dataset or path"),
    "data set": (
        VALID.replace("path", "dataset").replace("rows.csv", "hbs"),
        r"data.dataset = 'hbs' is not valid; did you mean 'hsb'\?",
    ),
    "data key": (VALID.replace("path", "file"), r"\[data\] has the unknown key 'file'; known are"),
    "method": ('method = "rmle"\n' + VALID, r"method = 'rmle' is not valid; did you mean 'reml'"),
    "priors": ("priors = 3\n" + VALID, "priors = 3 is not valid; give a table"),
    "no source": (VALID + "[published]\n" + ESTIMATES, r"\[published\] has no key 'source'"),
    "no estimates": (PUBLISHED, r"\[published\] has no key 'estimates'; give it a table"),
    "empty estimates": (
        PUBLISHED + "[published.estimates]",
        "published.estimates = {} is not valid",
    ),
    "published key": (PUBLISHED + 'logik = "1"\n' + ESTIMATES, "'logik'; did you mean 'loglik'"),
    "number for print": (
        PUBLISHED + ESTIMATES.replace('"1.50"', "1.50"),
        "published.estimates.Intercept.estimate = 1.5 is not valid; give it as it was printed",
    ),
    "number for loglik": (
        PUBLISHED + "loglik = -3.0\n" + ESTIMATES,
        r'published.loglik = -3.0 is not valid; .*in quotes: "-3.0"',
    ),
    "number for groups": (
        PUBLISHED + "groups = { school = 10 }\n" + ESTIMATES,
        r'published.groups.school = 10 is not valid; .*in quotes: "10"',
    ),
    "number for deviance": (
        PUBLISHED + "deviance = 3.0\n" + ESTIMATES,
        r'published.deviance = 3.0 is not valid; .*in quotes: "3.0"',
    ),
    "words for print": (
        PUBLISHED + ESTIMATES.replace("1.50", "about 1"),
        "Intercept.estimate = 'about 1' is not valid; give a printed number",
    ),
    "estimate key": (
        PUBLISHED + ESTIMATES.replace("se =", "sd ="),
        r"\[published.estimates.Intercept\] has the unknown key 'sd'",
    ),
    "estimate not a table": (
        PUBLISHED + '[published.estimates]\nIntercept = "1.5"\n',
        "published.estimates.Intercept = '1.5' is not valid; give a table",
    ),
    "test key": (
        PUBLISHED + 'wald = { chi = "1" }\n' + ESTIMATES,
        r"\[published.wald\] has the unknown key 'chi'; did you mean 'chi2'",
    ),
    "iterations": (PUBLISHED + 'iterations = "-1"\n' + ESTIMATES, "iterations = '-1' is not valid"),
    "iteration": (
        PUBLISHED + "iterations = [-1.5]\n" + ESTIMATES,
        "iterations = -1.5 is not valid",
    ),
    "tolerance": (
        PUBLISHED + "relative_tolerance = 2.0\n" + ESTIMATES,
        "= 2.0 is not valid; give a",
    ),
    "tolerance text": (
        PUBLISHED + 'relative_tolerance = "1"\n' + ESTIMATES,
        "a number such as 5e-5",
    ),
    "flag": (
        PUBLISHED + 'comparable = "no"\n' + ESTIMATES,
        "comparable = 'no' is not valid; give tr",
    ),
    "no note": (PUBLISHED + "comparable = false\n" + ESTIMATES, "tell in the key note why"),
    "not TOML": ("title = \n", r"not valid TOML \(Invalid value \(at line 1, column 9\)\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file_is_one_line_with_the_file(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(GalleryError, match=message) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match=r"absent\.toml: cannot be read \(No such file"):
        read_model(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GalleryError, match=r"binary\.toml: not valid TOML"):
        read_model(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("292.40", 0.005),
        (".1282584", 5e-8),
        ("-.7496876", 5e-8),
        ("7185", 0.5),
        ("0.0000", 5e-5),
        ("1.2e-3", 5e-5),
        ("1.2E+3", 50.0),
        ("12.", 0.5),
    ],
)
def test_half_a_unit_of_the_last_digit(text: str, tolerance: float) -> None:
    assert printed_tolerance(text) == tolerance


@pytest.mark.parametrize("text", ["", ".", "nan", "inf", "1,000", "1_000", " 1", "<.001", "٣"])
def test_not_a_printed_number(text: str) -> None:
    with pytest.raises(GalleryError, match=f"'{text}' is not a printed number"):
        printed_tolerance(text)


def test_agreement_with_a_print() -> None:
    assert agrees_with_print(2.1931963, "2.193196")
    assert not agrees_with_print(2.1931967, "2.193196")
    assert agrees_with_print(0.693989071, ".6939782", relative_tolerance=5e-5)
    assert not agrees_with_print(0.693989071, ".6939782")
    assert not agrees_with_print(0.7, ".6939782", relative_tolerance=5e-5)
