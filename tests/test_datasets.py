"""The shipped tables: their bytes, their shape, the join of pupils with schools."""

import hashlib
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pandas as pd
import pytest

from bhlm.datasets import DATASETS, load_hsb
from bhlm.errors import ArgumentError

SHA256 = {
    "hsb_students.csv": "de715b33968fadfcbbfcbead0284689efc754578aceb5cfedd99df16c3b9c4c7",
    "hsb_schools.csv": "5ef8740baacd5a5bd24dbc75eb30c9d20e140b9c5a4747221acc30109dd58c11",
}
PUPIL_COLUMNS = ["school", "minority", "female", "ses", "mathach"]
SCHOOL_COLUMNS = ["school", "size", "sector", "pracad", "disclim", "himinty", "meanses"]
# The README of the data promises this bound for the rounding of meanses.
MEANSES_DEVIATION = 0.0065


@pytest.mark.parametrize("name", SHA256)
def test_shipped_file_is_unchanged(name: str) -> None:
    content = files("bhlm").joinpath("data", name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]


def test_readme_of_the_data_states_the_checksums() -> None:
    readme = files("bhlm").joinpath("data", "README.md").read_text(encoding="utf-8")
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


def test_datasets_by_name() -> None:
    assert set(DATASETS) == {"hsb"}
    assert DATASETS["hsb"]().shape == (7185, 11)


def test_importing_the_module_does_not_import_pandas() -> None:
    code = "import sys, bhlm.datasets; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
