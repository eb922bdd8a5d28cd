"""The shipped tables: their bytes, their shape, the join of pupils with schools."""

import hashlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bhlm.errors import ArgumentError
from bhlm.sources.datasets import DATASETS, load_dataset, load_hsb, open_dataset

SHA256 = {
    "hsb_students.csv": "de715b33968fadfcbbfcbead0284689efc754578aceb5cfedd99df16c3b9c4c7",
    "hsb_schools.csv": "5ef8740baacd5a5bd24dbc75eb30c9d20e140b9c5a4747221acc30109dd58c11",
    "body_weight.csv": "38eb7b5b2333749e96fd764cb21f255d04f8e6b94c306f9c4ff6ff71f10f83d3",
    "dyestuff.csv": "4fa4c10f8db617562965d43014e2bb15df244f2cc0a1f83f47b3cd4ac40c17a1",
    "dyestuff2.csv": "89a3b0b90c777b66b45cd1468dfebec3ec4b11928d226f674ec39087fe8db368",
    "ergo_stool.csv": "4ed63e49073ae41d74cd97f7c492b86a279d42eb5e93d15437410894e25ec333",
    "exam.csv": "dcb000c4a50ddfe13d1f19cdd75f2814a7111930b87b5b5cd7e787590675bdb3",
    "expectancy.csv": "afc989ecec906b235176b29f7f3fb82bc88b8d5fedb6f199ad433095249b2c84",
    "orthodont.csv": "910e1475611d26ae3af6d2499a876ff83c7e355491686eb8e3d074b2195c191a",
    "oxboys.csv": "608145372cfc5accdf02d836e795a402e9d0a66221927d5f6d3fb53f6adf0035",
    "rail.csv": "76d59332d92121a2bcd20f8fde0f35c8616c5ab5d2cbffbc84809e909fdd3e9b",
    "school_calendar.csv": "1d5609ff048901d1ca874c475fb7ba707b9c1510d1d343798f2f4489164788f5",
    "sleepstudy.csv": "0a002bec8be2fa9d40dbbf3d5038e614d113a4fd5bf8813f6f4271c3d6294675",
    "sleepstudy_weights.csv": "bf57c1601a31a1fa9e3e7a7079122c2e2df582ab66d5fb62cdb70dec643cff54",
    "pisa_nz.csv.gz": "9fc947e54e2b52ac11271a6af6629d5e664ab36162b5a3da3f83ab6bbcbdc712",
    "cbpp.csv": "1a2c82ed41e8b4168d943848b61eebfe5d8a79af24e534c6551df0c41e1e17ba",
    "contraception.csv": "b0fe77a3057123565e1e3337732fa15eed8a426a0f41494eef91e340cc7d9902",
    "grade_repetition.csv": "ad883e1f5c94ca963de07dc43ecd59e81dab1f3a2acacad3ac370cf0ba62f916",
    "toenail.csv": "453d405aa56c5b6671e736a863b0112a3438b6b345f8a8455a417a2ca6c7f95d",
    "chem97.csv.gz": "c2add1bb8034c8aba423cf4596548037cdc8b71f84f496beccccb5e9f49867b9",
    "egsingle.csv.gz": "29f130b9b833754d59ff9f55f2faf03d0ba39653278489e417324f1106e99cf0",
    "inst_eval.csv.gz": "5618ad23e36f87b937886eda980558183484d0ad5a10872695c0a5abd8c94e39",
    "pastes.csv": "5f155949ee5ab7d08ee733895cabf55964122e930ad2214a1465e71cc5a0d080",
    "penicillin.csv": "9a26c574d34d1b6d5a6fcb31d296ffa65fe0339eea4b77f502d90b7f2b4eca24",
    "productivity.csv": "e392f1812996767bd0e7ed55a9bbd4b68eeb09c601e7cd4bdfee0a1b2142d302",
    "scots_sec.csv": "ca5fb4574c7f2688413a4ac04a78035ba86de6e3649be22bfc826c5f8ed2e844",
}
GAPS = {"pisa_nz": {"ST14Q02", "ST18Q02", "MATHEFF", "OPENPS", "PCGIRLS"}}
# Columns in their order, rows, groups of the last argument: as the sources describe them.
TABLES: dict[str, tuple[list[str], int, str, int]] = {
    "body_weight": (["weight", "Time", "Rat", "Diet"], 176, "Rat", 16),
    "dyestuff": (["Batch", "Yield"], 30, "Batch", 6),
    "dyestuff2": (["Batch", "Yield"], 30, "Batch", 6),
    "ergo_stool": (["effort", "Type", "Subject"], 36, "Subject", 9),
    "exam": (["school", "normexam", "standLRT", "sex", "schgend"], 4059, "school", 65),
    "expectancy": (
        ["study", "author", "year", "weeks", "contact", "effect", "variance"],
        19,
        "study",
        19,
    ),
    "orthodont": (["distance", "age", "Subject", "Sex"], 108, "Subject", 27),
    "oxboys": (["Subject", "age", "height"], 234, "Subject", 26),
    "rail": (["Rail", "travel"], 18, "Rail", 6),
    "school_calendar": (
        ["district", "school", "study", "year", "effect", "variance"],
        56,
        "district",
        11,
    ),
    "sleepstudy": (["Reaction", "Days", "Subject"], 180, "Subject", 18),
    "sleepstudy_weights": (["Reaction", "Days", "Subject", "w"], 180, "Subject", 18),
    "pisa_nz": (
        [
            *("SCHOOLID", "ST04Q01", "ST14Q02", "ST18Q02", "MATHEFF", "OPENPS"),
            *(f"PV{k}MATH" for k in range(1, 6)),
            *("PCGIRLS", "W_FSTUWT", "W_FSCHWT"),
        ],
        4291,
        "SCHOOLID",
        177,
    ),
    "cbpp": (["herd", "incidence", "size", "period"], 56, "herd", 15),
    "contraception": (["district", "use", "livch", "age", "urban"], 1934, "district", 60),
    "grade_repetition": (
        ["school", "repeated", "iq", "ses", "minority", "girl"],
        2287,
        "school",
        131,
    ),
    "toenail": (["patientID", "y", "treatment", "time", "visit"], 1908, "patientID", 294),
    "chem97": (["lea", "school", "score", "gender", "age", "gcsescore"], 31022, "school", 2410),
    "egsingle": (
        [
            *("schoolid", "childid", "year", "grade", "math", "retained"),
            *("female", "black", "hispanic", "size", "lowinc", "mobility"),
        ],
        7230,
        "childid",
        1721,
    ),
    "inst_eval": (["s", "d", "dept", "service", "y"], 73421, "d", 1128),
    "pastes": (["strength", "batch", "cask"], 60, "batch", 10),
    "penicillin": (["diameter", "plate", "sample"], 144, "plate", 24),
    "productivity": (
        ["state", "region", "year", "gsp", "private", "emp", "hwy", "water", "other", "unemp"],
        816,
        "state",
        48,
    ),
    "scots_sec": (
        ["verbal", "attain", "primary", "sex", "social", "second"],
        3435,
        "second",
        19,
    ),
}
FROM_R = Path(__file__).parents[1] / "reference" / "r" / "data"
PUPIL_COLUMNS = ["school", "minority", "female", "ses", "mathach"]
SCHOOL_COLUMNS = ["school", "size", "sector", "pracad", "disclim", "himinty", "meanses"]
# The README of the data promises this bound for the rounding of meanses.
MEANSES_DEVIATION = 0.0065


@pytest.mark.parametrize("name", SHA256)
def test_shipped_file_is_unchanged(name: str) -> None:
    content = files("bhlm.sources").joinpath("data", name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]


def test_no_file_ships_without_a_checksum() -> None:
    shipped = {each.name for each in files("bhlm.sources").joinpath("data").iterdir()}
    assert shipped == {*SHA256, "README.md"}


def test_readme_of_the_data_states_the_checksums() -> None:
    readme = files("bhlm.sources").joinpath("data", "README.md").read_text(encoding="utf-8")
    for name, digest in SHA256.items():
        assert f"{digest}  {name}" in readme


def test_default_is_pupils_joined_with_schools(hsb: pd.DataFrame) -> None:
    assert hsb.shape == (7185, 11)
    assert list(hsb.columns) == PUPIL_COLUMNS + SCHOOL_COLUMNS[1:]
    assert hsb["school"].nunique() == 160
    assert pd.api.types.is_integer_dtype(hsb["school"])
    assert not hsb.isna().any().any()


def test_join_keeps_the_pupils_and_gives_each_its_own_school(hsb: pd.DataFrame) -> None:
    pupils, schools = load_hsb(level=1), load_hsb(level=2).set_index("school")
    pd.testing.assert_frame_equal(hsb[PUPIL_COLUMNS], pupils)
    for column in SCHOOL_COLUMNS[1:]:
        assert (hsb[column].to_numpy() == schools.loc[pupils["school"], column].to_numpy()).all()


def test_levels_are_the_two_files() -> None:
    assert (load_hsb(level=1).shape, list(load_hsb(level=1).columns)) == ((7185, 5), PUPIL_COLUMNS)
    assert (load_hsb(level=2).shape, list(load_hsb(level=2).columns)) == ((160, 7), SCHOOL_COLUMNS)


def test_meanses_of_the_file_is_near_but_not_the_mean(hsb: pd.DataFrame) -> None:
    deviation = (
        hsb.groupby("school")["ses"].mean() - hsb.groupby("school")["meanses"].first()
    ).abs()
    assert 0.006 < deviation.max() < MEANSES_DEVIATION


def test_each_call_returns_a_fresh_table() -> None:
    table = load_hsb()
    table["ses"] = 0.0
    assert load_hsb()["ses"].std() > 0.5


@pytest.mark.parametrize("level", [0, 3, "1", -1])
def test_unknown_level_names_the_value_and_the_way_out(level: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"no level {level!r}; give 1 for pupils"):
        load_hsb(level=level)


def test_datasets_by_name(hsb: pd.DataFrame) -> None:
    assert set(DATASETS) == {"hsb", *TABLES}
    pd.testing.assert_frame_equal(load_dataset("hsb"), hsb)


@pytest.mark.parametrize("name", TABLES)
def test_table_is_as_its_source_describes_it(name: str) -> None:
    columns, rows, group, groups = TABLES[name]
    table = load_dataset(name)
    assert list(table.columns) == columns
    assert len(table) == rows
    assert table[group].nunique() == groups
    gaps = table.columns[table.isna().any()]
    assert set(gaps) == GAPS.get(name, set())


@pytest.mark.parametrize("name", [name for name in TABLES if (FROM_R / f"{name}.csv").exists()])
def test_table_is_the_one_that_r_fitted(name: str) -> None:
    fitted = pd.read_csv(FROM_R / f"{name}.csv")
    pd.testing.assert_frame_equal(load_dataset(name)[list(fitted.columns)], fitted)


def test_each_data_set_is_a_fresh_table() -> None:
    table = load_dataset("rail")
    table["travel"] = 0.0
    assert load_dataset("rail")["travel"].mean() == 66.5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sleepstuddy", "did you mean 'sleepstudy'"),
        ("Rail", "did you mean 'rail'"),
        ("qqqq", "known are hsb, body_weight, dyestuff"),
        ("", "known are hsb"),
        ("../data/rail", "is shipped"),
        (None, "None is shipped"),
        (["rail"], "is shipped"),
    ],
)
def test_unknown_data_set_names_the_value_and_the_way_out(name: Any, hint: str) -> None:
    with pytest.raises(ArgumentError, match=rf"no data set .*{hint}") as caught:
        load_dataset(name)
    assert repr(name) in str(caught.value)


def test_importing_the_module_does_not_import_pandas() -> None:
    code = "import sys, bhlm.sources.datasets; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", DATASETS)
def test_the_arrow_table_of_a_data_set_holds_what_the_dataframe_holds(name):
    frame, table = load_dataset(name), open_dataset(name)
    assert table.column_names == list(frame.columns)
    for column in table.column_names:
        assert table[column].to_pylist() == [
            None if pd.isna(each) else each for each in frame[column].tolist()
        ]
