"""Tables from dataframes and files, and every way in which a file can fail."""

import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyreadstat
import pytest

from bhlm.errors import DataError, MissingPackageError
from bhlm.fits.model import Model
from bhlm.sources import files
from bhlm.sources.open import open_table

TABLE = pd.DataFrame({"school": [1, 1, 2], "ses": [0.5, -0.25, 1.0], "name": ["x", "y", "z"]})

WRITERS: dict[str, Callable[[Path], Any]] = {
    ".csv": lambda path: TABLE.to_csv(path, index=False),
    ".parquet": TABLE.to_parquet,
    ".feather": TABLE.to_feather,
    ".dta": lambda path: TABLE.to_stata(path, write_index=False),
    ".sav": lambda path: pyreadstat.write_sav(TABLE, path),
}
SUFFIXES = pytest.mark.parametrize("suffix", WRITERS)
LIMITS = pytest.mark.parametrize("limit", [None, "100MB"], ids=["whole", "in pieces"])


@SUFFIXES
@pytest.mark.parametrize("as_path", [str, Path])
def test_every_format_is_read_back(
    suffix: str, as_path: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / f"my table{suffix}"
    WRITERS[suffix](path)
    pd.testing.assert_frame_equal(open_table(as_path(path)), TABLE, check_dtype=False)


def test_suffix_in_capitals(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "TABLE.CSV", index=False)
    assert open_table(tmp_path / "TABLE.CSV").shape == (3, 3)


def test_labelled_values_come_as_numbers(tmp_path: Path) -> None:
    labels = {"school": {1: "one", 2: "two"}}
    TABLE.to_stata(tmp_path / "t.dta", write_index=False, value_labels=labels)
    pyreadstat.write_sav(TABLE, tmp_path / "t.sav", variable_value_labels=labels)
    for name in ("t.dta", "t.sav"):
        assert open_table(tmp_path / name)["school"].tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    "table",
    [TABLE, pl.DataFrame({"a": [1]}), pl.LazyFrame({"a": [1]}), pa.table({"a": [1]})],
    ids=lambda table: type(table).__name__,
)
def test_dataframes_pass_through_untouched(table: Any) -> None:
    assert open_table(table) is table


def test_a_duckdb_relation_passes_through() -> None:
    relation = duckdb.sql("select 1 as a")
    assert open_table(relation) is relation


@pytest.mark.parametrize("thing", [[1, 2], {"a": [1]}, None, 3.5])
def test_what_is_not_a_table(thing: object) -> None:
    with pytest.raises(DataError, match=f"a {type(thing).__name__} is not a table; give a data"):
        open_table(thing)


@SUFFIXES
def test_missing_file(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"absent\{suffix}' does not exist; give the path"):
        open_table(tmp_path / f"absent{suffix}")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv' is a folder"):
        open_table(tmp_path / "folder.csv")


@SUFFIXES
def test_empty_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"t{suffix}").touch()
    with pytest.raises(DataError, match=rf"t\{suffix}' is empty; give a"):
        open_table(tmp_path / f"t{suffix}")


@SUFFIXES
@LIMITS
def test_a_file_that_may_not_be_read_says_so(suffix, limit, tmp_path, monkeypatch):
    path = tmp_path / f"t{suffix}"
    WRITERS[suffix](path)
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # which the superuser may anyway
    with pytest.raises(DataError, match=r"cannot be read \(no permission\)"):
        open_table(path, memory_limit=limit)


def test_header_without_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"t\.csv' has no rows"):
        open_table(tmp_path / "t.csv")


BROKEN = {
    "ragged": b"a,b\n1,2\n1,2,3\n",
    "blank": b"\n  \n",
    "binary": bytes(range(256)) * 4,
    "short": b"PAR1",
}


@SUFFIXES
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_one_clear_line(suffix: str, kind: str, tmp_path: Path) -> None:
    if (suffix, kind) == (".csv", "short"):
        kind = "ragged"  # four letters are a valid csv header
    (tmp_path / f"t{suffix}").write_bytes(BROKEN[kind])
    said = rf"t\{suffix}' (cannot be read as \{suffix} \(|has 3 fields in line 3)"
    with pytest.raises(DataError, match=said) as caught:
        open_table(tmp_path / f"t{suffix}")
    assert "\n" not in str(caught.value)


@SUFFIXES
def test_cut_off_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    WRITERS[suffix](path)
    content = path.read_bytes()
    # A csv that is cut off is still a csv, so there the break is an open quote.
    path.write_bytes(b'a,b\n"1,2\n' if suffix == ".csv" else content[: len(content) // 2])
    said = rf"cannot be read as \{suffix}|a quotation mark from line 2 on"
    with pytest.raises(DataError, match=said):
        open_table(path)


# Each was raised by a reader on a good file with a few changed bytes.
@pytest.mark.parametrize(
    "error",
    [
        KeyError("type code 64"),
        IndexError("offset"),
        TypeError("data type 'unYcode'"),
        NotImplementedError("65-bit integers"),
        MemoryError("malloc of 2 PB"),
        struct.error("unpack"),
        EOFError(),
        OSError("no magic bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_reader_stumbles_on_is_a_data_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(path: Path) -> pd.DataFrame:
        raise error

    monkeypatch.setitem(files._READERS, ".csv", stumble)
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"t\.csv' cannot be read as \.csv \(") as caught:
        open_table(tmp_path / "t.csv")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("name", ["t.xls", "t.json.gz", "t"])
def test_unknown_suffix_lists_the_known(name: str) -> None:
    suffix = "".join(Path(name).suffixes)
    with pytest.raises(
        DataError,
        match=rf"'{name}' has the suffix '{suffix}', which has no reader; "
        r"give a \.csv, \.tsv, \.csv\.gz, \.tsv\.gz, \.xlsx,"
        r" \.parquet, \.feather, \.dta, \.sav or \.sas7bdat file",
    ):
        open_table(name)


@pytest.mark.parametrize(
    ("suffix", "package", "extra"),
    [
        (".sav", "pyreadstat", "spss"),
    ],
)
def test_missing_reader_names_the_extra(
    suffix: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"t{suffix}"
    WRITERS[suffix](path)
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError,
        match=rf"needs the package {package}; install it with: pip install 'bhlm\[{extra}\]'",
    ):
        open_table(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["a[12]", "a?", "a*"])
def test_a_name_is_no_pattern_where_the_file_is_there(name, suffix, tmp_path):
    """With a memory limit, as without: DuckDB would read the files that match it."""
    for each, value in ((name, 1.0), ("a1", 2.0), ("ab", 3.0)):
        table = pd.DataFrame({"x": [value, value]})
        path = tmp_path / f"{each}{suffix}"
        table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    asked = tmp_path / f"{name}{suffix}"
    assert open_table(asked)["x"].tolist() == [1.0, 1.0]
    assert open_table(asked, memory_limit="500MB").df()["x"].tolist() == [1.0, 1.0]


def test_text_in_another_encoding_is_told_in_one_line(tmp_path, caplog):
    path = tmp_path / "t.dta"
    pd.DataFrame({"f": ["\u00e9", "b"]}).to_stata(path, write_index=False, version=118)
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9\x00"))
    assert open_table(path)["f"].tolist() == ["\u00e9", "b"]
    assert [record.getMessage() for record in caplog.records] == [
        f"'{path}' holds text that is not UTF-8, as its format has it; it is read as Latin-1"
    ]


def test_what_duckdb_writes_beside_memory_is_private(tmp_path):
    pytest.importorskip("duckdb")
    pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(tmp_path / "t.parquet")
    code = (
        "import bhlm, os, sys, tempfile\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "table = bhlm.open_table(os.path.join(sys.argv[1], 't.parquet'), memory_limit='100MB')\n"
        "(name,) = [n for n in os.listdir(sys.argv[1]) if n.startswith('bhlm-duckdb-')]\n"
        "print(oct(os.stat(os.path.join(sys.argv[1], name)).st_mode))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0o40700\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]  # and nothing stays


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_feather_file_does_not_end_the_process(tmp_path, seed):
    path = tmp_path / "t.feather"
    pd.DataFrame({"x": [float(i) for i in range(80)], "s": ["abc"] * 80}).to_feather(path)
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    try:
        table = open_table(path)
    except DataError as error:
        assert "t.feather' cannot be read as .feather" in str(error)
        assert "\n" not in str(error)
    else:
        assert isinstance(table, pd.DataFrame)


ROWS = [f"{i}.5,{i % 3},{i * i}" for i in range(9)]
# What is wrong with the rows of a text file, and what is said of it.
WRONG = {
    "a field more": ([f"{row},9" for row in ROWS], "4 fields in line 2 and 3 names in its header"),
    "a separator more": ([f"{row}," for row in ROWS], "4 fields in line 2 and 3 names"),
    "one longer": ([*ROWS, "1,2,3,4,5", *ROWS], "5 fields in line 11 and 3 names"),
    "an open quotation": ([*ROWS, '1,2,"3', *ROWS], "a quotation mark from line 11 on"),
    "semicolons": ([row.replace(",", ";") for row in ROWS], "separated by ';'"),
    "another encoding": ([*ROWS, "1,2,ä"], "is not UTF-8 text"),
}


def write_text(path, rows, *, header="y,g,x", encoding="utf-8"):
    path.write_text("\n".join([header, *rows, ""]), encoding=encoding)


@LIMITS
@pytest.mark.parametrize("kind", WRONG)
def test_rows_that_do_not_fit_the_header_are_refused_on_every_route(tmp_path, kind, limit):
    path = tmp_path / "rows.csv"
    rows, said = WRONG[kind]
    header = "y;g;x" if kind == "semicolons" else "y,g,x"
    write_text(path, rows, header=header, encoding="latin-1" if "encoding" in kind else "utf-8")
    with pytest.raises(DataError, match=said) as refused:
        open_table(path, memory_limit=limit)
    assert "\n" not in str(refused.value)


def test_decimal_commas_between_semicolons_name_the_separator(tmp_path):
    path = tmp_path / "rows.csv"
    write_text(path, ["1,5;2;0,5"] * 3, header="y;g;x")
    with pytest.raises(DataError, match="separated by ';'"):
        open_table(path)


# What is odd but right: a header, its rows, and the columns that are read.
ODD = {
    "rows lack fields at their ends": ("y,g,x", ["1.5,a,2", "2.5,b", "3.5,c,4"], [2, None, 4]),
    "such rows beside broken lines": ("y,g,x", ["1.5,a,2", "2.5,b", '3.5,"c\nd",4'], [2, None, 4]),
    "later rows end in separators": ("y,g,x", ["1.5,a,2", "2.5,b,3,", "3.5,c,4,,"], [2, 3, 4]),
    "blanks about numbers": ("y,g,x", ["1.5,a, 2", "2.5,b,3 ", "3.5,c, 4\t"], [2, 3, 4]),
    "blanks in the header": ("y,g, x", ["1.5,a,2", "2.5,b,3"], [2, 3]),
    "a column without a name": ("y,g,", ["1.5,a,2", "2.5,b,3"], [2, 3]),
    "a name twice": ("y,g,y", ["1.5,a,2", "2.5,b,3"], [2, 3]),
    "single quotation marks": ("y,g,x", ["1.5,'a',2", "2.5,a,3"], [2, 3]),
    "quotation marks in late rows": (
        "y,g,x", [*["1.5,a,2"] * 30_000, '2.5,"a",3', '2.5,"a, ""b""",3'],
        [*[2] * 30_000, 3, 3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_text_is_read_alike_whole_and_in_pieces(tmp_path, kind):
    path = tmp_path / "rows.csv"
    header, rows, x = ODD[kind]
    write_text(path, rows, header=header)
    whole, pieces = open_table(path), open_table(path, memory_limit="100MB").df()
    pd.testing.assert_frame_equal(whole, pieces, check_dtype=False)
    assert whole.iloc[:, 2].astype(object).where(whole.iloc[:, 2].notna(), None).tolist() == x


def test_names_that_differ_in_case_are_read_in_pieces_too(tmp_path):
    path = tmp_path / "rows.csv"
    write_text(path, ["1.5,7,2"], header="y,X,x")
    assert open_table(path, memory_limit="100MB").df().values.tolist() == [[1.5, 7, 2]]


def test_a_separator_more_in_header_and_rows_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("y,g,\n1.5,2,\n2.5,3,\n")
    assert open_table(path)["y"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_that_is_not_utf_8_says_how_to_save_it(tmp_path, encoding):
    path = tmp_path / "rows.csv"
    path.write_bytes("größe,g\n1,2\n".encode(encoding))
    with pytest.raises(DataError, match=r"is not UTF-8 text .* save it as UTF-8"):
        open_table(path)


@pytest.mark.parametrize("value", ["1,346.56", "1.346,56", "12 cm"])
def test_text_where_numbers_belong_is_shown(tmp_path, value):
    path = tmp_path / "rows.csv"
    path.write_text("y,g\n" + f'"{value}",1\n"{value}",2\n' * 3)
    with pytest.raises(DataError, match=f"column 'y' has type String, such as '{value}', and"):
        Model("y ~ 1 + (1 | g)", path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx", "semicolon", "bar"])
def test_labels_with_zeros_in_front_stay_apart_in_every_kind_of_text(tmp_path, kind):
    table = pd.DataFrame({"y": [1.0, 2.5, 3.0], "g": ["007", "7", "12"]})
    mark = {"tsv": "\t", "semicolon": ";", "bar": "|"}.get(kind, ",")
    path = tmp_path / f"rows.{kind if kind in ('tsv', 'xlsx') else 'csv'}"
    if kind == "xlsx":
        table.to_excel(path, index=False)
    else:
        table.to_csv(path, index=False, sep=mark)
    found = open_table(path, separator=mark) if kind in ("semicolon", "bar") else open_table(path)
    assert found["g"].tolist() == ["007", "7", "12"]
    assert found["y"].tolist() == [1.0, 2.5, 3.0]


def test_numbers_that_a_sheet_holds_as_text_are_numbers(tmp_path):
    path = tmp_path / "rows.xlsx"
    pd.DataFrame({"y": ["1.5", 2, None], "g": [1, 2, 3], "t": ["a", 2, "b"]}).to_excel(
        path, index=False
    )
    found = open_table(path)
    assert found["y"].tolist()[:2] == [1.5, 2.0]
    assert found["g"].dtype == "int64"
