"""Labels of CSV files: every spelling stays a label of its own, however the file is read."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bhlm
from bhlm.errors import DataError
from bhlm.likelihood.factor_names import join_labels
from bhlm.plots.level_caterpillar import plot_factor
from bhlm.sources.databases import CSV_MISSING
from bhlm.sources.labels import choose_type, survey_spellings

SPELLINGS = st.one_of(
    st.from_regex(r"[ +-]?0{0,2}[0-9]{1,3}(\.[0-9]{0,2})?(e[0-9])?", fullmatch=True),
    st.integers(2**53 - 2, 2**53 + 2).map(str),
    st.integers(2**63 - 2, 2**64 + 2).map(str),
    st.sampled_from(["True", "true", "TRUE", "False", "a", " a", "a ", "A", "é", "1_0", "inf"]),
)
ROUTES: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "memory limit": lambda path: bhlm.open_table(path, memory_limit="100MB", labels=["g"]),
    "read first": lambda path: bhlm.open_table(path, labels=["g"]),
}


def write_rows(path: Path, labels: list[str]) -> Path:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"g": labels, "x": rng.normal(size=len(labels))})
    table.assign(y=rng.normal(size=len(labels))).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("route", ROUTES)
def test_codes_that_differ_in_zeros_stay_apart(route: str, tmp_path: Path) -> None:
    codes = [f"{i:04d}" for i in range(1, 7)] + [str(i) for i in range(1, 7)]
    path = write_rows(tmp_path / "t.csv", codes * 3)
    model = bhlm.Model("y ~ x + (1 | g)", ROUTES[route](path))
    assert model.moments.groups.tolist() == sorted(codes)


@settings(max_examples=3, deadline=None)
@given(st.lists(st.lists(SPELLINGS, min_size=4, max_size=4, unique=True), min_size=9, max_size=9))
def test_no_two_spellings_merge(
    tmp_path_factory: pytest.TempPathFactory, columns: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    names = [f"c{i}" for i in range(len(columns))]
    pd.DataFrame(dict(zip(names, columns, strict=True))).to_csv(path, index=False)
    read = bhlm.open_table(path, labels=names)
    streamed = bhlm.open_table(path, labels=names, memory_limit="100MB").df()
    for name, texts in zip(names, columns, strict=True):
        assert read[name].nunique() == streamed[name].nunique() == len(texts)
        assert read[name].tolist() == streamed[name].tolist()
        assert [str(label) for label in read[name]] == texts or read[name].dtype != "str"


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "10", "-3"], "integer"),
        (["1", "01"], "text"),
        (["01", "02"], "text"),
        (["1.5", "2"], "decimal"),
        (["1.0", "2.0"], "decimal"),
        (["2", "2.0"], "text"),
        (["1.50"], "text"),
        (["-0.0", "0.0"], "text"),
        (["9223372036854775807"], "integer"),
        (["9223372036854775808"], "text"),
        (["0.1234567890123456"], "text"),
        (["true", "false"], "boolean"),
        (["true", "True"], "text"),
    ],
)
def test_numbers_are_those_that_print_as_they_are_spelled(texts: list[str], kind: str) -> None:
    assert choose_type(survey_spellings(texts)) == kind


@pytest.mark.parametrize("limit", [None, "100MB"])
def test_large_ids_with_gaps_keep_their_digits(limit: str | None, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.csv", ["9007199254740992", "9007199254740993", ""] * 3)
    table = bhlm.open_table(path, memory_limit=limit, labels=["g"])
    moments = bhlm.Model("y ~ 1 + (1 | g)", table).moments
    assert moments.groups.tolist() == [9007199254740992, 9007199254740993]
    assert moments.dropped == 3


# Read first, by what knows no formula and so no labels.
READ: dict[str, Callable[[Path], Any]] = {
    "csv": lambda path: bhlm.open_table(path.with_suffix(".csv")),
    "csv in pieces": lambda path: bhlm.open_table(path.with_suffix(".csv"), memory_limit="100MB"),
    "parquet": lambda path: bhlm.open_table(path.with_suffix(".parquet")),
    "feather": lambda path: bhlm.open_table(path.with_suffix(".feather")),
}


@pytest.mark.parametrize("route", READ)
@pytest.mark.parametrize("largest", [2**53 + 8, 2**62, 2**64 - 1, -(2**60)])
def test_large_integers_keep_apart_where_some_are_missing(
    route: str, largest: int, tmp_path: Path
) -> None:
    labels = [None if i % 5 == 4 else largest - i % 8 for i in range(40)]
    dtype = "UInt64" if largest >= 2**63 else "Int64"
    table = pd.DataFrame({"g": pd.array(labels, dtype=dtype), "y": np.arange(40.0) ** 0.5})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    table.to_feather(tmp_path / "t.feather")
    moments = bhlm.Model("y ~ 1 + (1 | g)", READ[route](tmp_path / "t")).moments
    assert [int(label) for label in moments.groups] == sorted(largest - i for i in range(8))
    assert moments.dropped == 8


def test_doubles_in_which_labels_may_have_merged_are_refused() -> None:
    table = pd.DataFrame({"g": [2.0**53, 2.0**53 + 2, 3.0] * 4, "h": [0, 1] * 6})
    table["y"] = np.arange(12.0) ** 0.5
    for formula in ("y ~ 1 + (1 | g)", "y ~ C(g) + (1 | h)", "y ~ 1 + (1 | g) + (1 | h)"):
        with pytest.raises(DataError, match=r"'.*g.*' holds numbers such as 9007199254740992 as d"):
            bhlm.Model(formula, table)


@pytest.mark.parametrize("limit", [None, "100MB"])
def test_a_reader_without_a_formula_keeps_codes_that_would_merge(
    limit: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("code,month,x\n7,01,1\n007,02,2\n8,12,3\n")
    table = bhlm.open_table(path, memory_limit=limit)
    table = table if limit is None else table.df()
    assert table["code"].tolist() == ["7", "007", "8"]
    assert table["month"].tolist() == [1, 2, 12]


@pytest.mark.parametrize("limit", [None, "100MB"])
def test_labels_of_several_files_have_one_type(limit: str | None, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ["1", "2"])
    write_rows(tmp_path / "b.csv", ["1", "01"])
    table = bhlm.open_table(tmp_path / "*.csv", memory_limit=limit, labels=["g"])
    assert bhlm.Model("y ~ 1 + (1 | g)", table).moments.groups.tolist() == ["01", "1", "2"]


def test_levels_of_factors_keep_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(1)
    rows = [f"{i % 5},{['1', '01'][i // 5 % 2]},{rng.normal():.3f}" for i in range(40)]
    path.write_text("g,c,y\n" + "\n".join(rows) + "\n")
    assert bhlm.Model("y ~ C(c) + (1 | g)", str(path)).design.fixed == ("Intercept", "C(c)[1]")


def test_new_rows_of_a_file_take_the_labels_of_the_model(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.csv", ["007", "7", "12"] * 4)
    model = bhlm.Model("y ~ x + (1 | g)", str(path))
    fit = model.reml()
    new = write_rows(tmp_path / "new.csv", ["7", "12"])
    assert len(model.predict(fit, str(new))) == 2
    new = write_rows(tmp_path / "new.csv", ["0012", "12"])
    with pytest.raises(DataError, match="'0012' is not a g of the fit"):
        model.predict(fit, str(new))


def test_a_site_takes_the_labels_of_the_first(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.csv", ["01", "02", "2"] * 3)
    moments = bhlm.Model("y ~ x + (1 | g)", str(first)).moments
    moments = moments.update(str(write_rows(tmp_path / "b.csv", ["3", "4"] * 3)))
    assert moments.groups.tolist() == ["01", "02", "2", "3", "4"]


def test_missing_labels_are_those_of_every_column(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.csv", [*CSV_MISSING, "1", "2", "x"])
    for open_path in ROUTES.values():
        assert bhlm.Model("y ~ 1 + (1 | g)", open_path(path)).moments.dropped == len(CSV_MISSING)


@pytest.mark.parametrize(
    ("name", "limit"), [("t.csv", None), ("t.csv", "100MB"), ("t.tsv", None), ("t.csv.gz", None)]
)
def test_blanks_about_a_number_make_another_label_without_a_formula_too(
    name: str, limit: str | None, tmp_path: Path
) -> None:
    rows = ["x,g,h", "1.5,7, 1", "2.5, 7, 2", "3.5,7 , 3", ".5,8, 1", ""]
    text = "\n".join(rows).replace(",", "\t" if ".tsv" in name else ",").encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    table = bhlm.open_table(path, memory_limit=limit)
    table = table if limit is None else table.df()
    assert table["g"].tolist() == ["7", " 7", "7 ", "8"]
    assert table["h"].tolist() == [1, 2, 3, 1]
    assert table["x"].tolist() == [1.5, 2.5, 3.5, 0.5]


def test_doubles_that_hold_integers_have_the_names_of_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    whole = pd.DataFrame({"g": np.arange(96) // 8, "h": np.arange(96) % 4, "s": np.arange(96) % 2})
    whole["y"] = rng.normal(size=12)[whole["g"]] + rng.normal(size=96)
    gap = pd.DataFrame({"g": [-9], "h": [-9], "s": [-9], "y": [0.0]})
    pd.concat([whole, gap]).to_csv(tmp_path / "t.csv", index=False)
    doubles = bhlm.open_table(tmp_path / "t.csv", missing=["-9"])
    assert doubles["g"].dtype == "float64"
    named = []
    for table in (whole, doubles, doubles.astype("float32")):
        strata = bhlm.Model("y ~ 1 + (1 | g)", table, residual="s").reml()
        levels = bhlm.Model("y ~ C(s) + (1 | g/h)", table)
        joined = join_labels(levels.cells, 1).tolist()
        one = bhlm.plots.plot_caterpillar(bhlm.Model("y ~ 1 + (1 | g)", table).reml())
        assert "(g " in repr(one)
        assert ".0)" not in repr(one)
        assert ".0)" not in repr(plot_factor(levels.reml(), "g:h"))
        named.append((list(strata.estimates.index), levels.design.fixed, joined))
    assert named[0] == named[1] == named[2]


SPELLED = {
    "blanks in front": [" 7", " 8", " 9"],
    "blanks in front of some": ["7", " 7", "8"],
    "zeros in front": ["007", "008", "009"],
    "zeros in front of some": ["7", "007", "8"],
    "numbers": ["7", "8", "9"],
    "names among numbers": ["7", "8", "s9"],
    "beyond 2^53": [str(2**60 + i) for i in range(3)],
}


@pytest.mark.parametrize("kind", SPELLED)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".csv.gz"])
@pytest.mark.parametrize("gap", [False, True])
def test_labels_of_every_kind_of_file_are_as_they_are_spelled(
    kind: str, suffix: str, gap: bool, tmp_path: Path
) -> None:
    labels: list[Any] = SPELLED[kind] * 4
    table = pd.DataFrame({"g": [*labels, None] if gap else labels})
    table["y"] = np.arange(len(table)) ** 0.5
    path = tmp_path / f"t{suffix}"
    if suffix == ".xlsx":
        # A sheet has numbers of its own beside texts that look like them.
        if kind == "names among numbers":
            table["g"] = table["g"].replace({"7": 7}).astype(object)
        table.to_excel(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    moments = bhlm.Model("y ~ 1 + (1 | g)", path).moments
    assert sorted(str(label) for label in moments.groups) == sorted(SPELLED[kind])
    assert moments.dropped == gap
