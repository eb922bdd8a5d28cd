"""Formula + table -> columns: the same on every engine, R's coding, every refusal."""

import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bhlm.design.design import (
    Design,
    apply_design,
    build_design,
    build_prepared,
    design_arrays,
)
from bhlm.design.formula.terms import parse_formula
from bhlm.errors import BhlmError, DataError, FormulaError

# Engines sum in different orders: a few ulps of the largest value of a column.
ENGINE_TOLERANCE = 1e-12
# Straightforward NumPy, on columns of moderate size.
NUMPY_TOLERANCE = 1e-13
# R printed 17 digits of columns of unit length.
R_TOLERANCE = 1e-14

Rows = dict[str, list[Any]]


def as_duckdb(rows: Rows) -> Any:
    connection = duckdb.connect()
    arrow = pa.table(rows)
    return connection.from_arrow(arrow)


ENGINES: dict[str, Callable[[Rows], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "polars lazy": pl.LazyFrame,
    "pyarrow": pa.table,
    "duckdb": as_duckdb,
}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Callable[[Rows], Any]:
    return ENGINES[request.param]


def take_columns(formula: str, table: Any, *, design: Design | None = None) -> dict[str, Any]:
    """Return every column of a design by name, and the group, sorted by the response."""
    design = design or build_design(formula, table)
    group, X, Z, y = design_arrays(design, table)
    order = np.argsort(y)
    columns: dict[str, Any] = dict(zip(design.random, Z[order].T, strict=True))
    columns |= dict(zip(design.fixed, X[order].T, strict=True))
    return {**columns, design.response: y[order], "group": group[order]}


ROWS: Rows = {
    "y": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "g": ["b", "a", "b", "c", "a", "b", "a", "c"],
    "x": [1.0, 2.0, 4.0, 7.0, 11.0, 16.0, 22.0, 29.0],
    "z": [0.5, -1.0, 2.0, 0.25, 3.0, -2.0, 1.0, 8.0],
    "f": ["a", "b", "c", "a", "b", "c", "a", "b"],
    "h": ["u", "v", "u", "v", "v", "u", "u", "v"],
    "i": [100, -100, 7, 0, 1, 2, 3, 4],
    "b": [True, False, True, True, False, False, True, False],
}


def group_means(values: Any, groups: Any) -> np.ndarray:
    frame = pd.DataFrame({"v": values, "g": groups})
    return frame.groupby("g")["v"].transform("mean").to_numpy()


def standardise(values: Any) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    return (found - found.mean()) / found.std(ddof=1)


# ---------------------------------------------------------------- what a design holds


def test_design_holds_names_in_their_order() -> None:
    design = build_design("y ~ z * f + x + (x | g) + (0 + z | g)", pd.DataFrame(ROWS))
    assert design.group == "g"
    assert design.response == "y"
    assert design.fixed == ("Intercept", "z", "f[b]", "f[c]", "z:f[b]", "z:f[c]", "x")
    assert design.random == ("Intercept", "x", "z")
    assert design.blocks == (("Intercept", "x"), ("z",))
    assert design.columns == ("x", "z", "f[b]", "f[c]", "z:f[b]", "z:f[c]", "y")
    assert design.levels == {"f": ("a", "b", "c")}
    assert design == pickle.loads(pickle.dumps(design))
    with pytest.raises(FrozenInstanceError):
        design.group = "h"  # type: ignore[misc]


def test_parsed_formula_is_accepted() -> None:
    text = "y ~ x + (1 | g)"
    table = pd.DataFrame(ROWS)
    assert build_design(parse_formula(text), table) == build_design(text, table)


def test_applied_design_has_safe_names_and_stays_lazy(engine: Callable[[Rows], Any]) -> None:
    rows = {"w0" if name == "x" else name: values for name, values in ROWS.items()}
    rows["group"] = rows.pop("g")
    table = engine(rows)
    design = build_design("y ~ w0 + I(w0**2) + (w0 | group)", table)
    applied = apply_design(design, table)
    lazy = isinstance(nw.from_native(table), nw.LazyFrame)
    assert isinstance(applied, nw.LazyFrame) == lazy
    schema = applied.collect_schema()
    assert schema.names() == ["group", "w0", "w1", "w2"]
    assert schema.dtypes()[1:] == [nw.Float64()] * 3
    assert design.columns == ("w0", "I(w0**2)", "y")


def test_narwhals_frame_is_accepted() -> None:
    frame = nw.from_native(pl.DataFrame(ROWS))
    assert build_prepared("y ~ x + (1 | g)", frame).n == 8


# ---------------------------------------------------------------- numeric columns


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("cwc(x)", lambda r: r.x - group_means(r.x, r.g)),
        ("gm(x)", lambda r: group_means(r.x, r.g)),
        ("cgm(x)", lambda r: r.x - r.x.mean()),
        ("scale(x)", lambda r: (r.x - r.x.mean()) / r.x.std(ddof=1)),
        ("scale(gm(x))", lambda r: standardise(group_means(r.x, r.g))),
        ("scale(cwc(x))", lambda r: standardise(r.x - group_means(r.x, r.g))),
        ("cwc(log(x))", lambda r: np.log(r.x) - group_means(np.log(r.x), r.g)),
        ("log(gm(x))", lambda r: np.log(group_means(r.x, r.g))),
        ("cwc(x * z)", lambda r: r.x * r.z - group_means(r.x * r.z, r.g)),
        ("gm(I(cwc(x)**2))", lambda r: group_means((r.x - group_means(r.x, r.g)) ** 2, r.g)),
        ("cwc(gm(x))", lambda r: 0.0 * r.x),
        ("gm(cwc(x))", lambda r: 0.0 * r.x),
        ("cgm(gm(x))", lambda r: group_means(r.x, r.g) - group_means(r.x, r.g).mean()),
        ("gm(cgm(x))", lambda r: group_means(r.x, r.g) - r.x.mean()),
        ("cgm(I(cgm(x)**2))", lambda r: (r.x - r.x.mean()) ** 2 - ((r.x - r.x.mean()) ** 2).mean()),
        ("cwc(x):gm(z)", lambda r: (r.x - group_means(r.x, r.g)) * group_means(r.z, r.g)),
        ("I(i**2)", lambda r: r.i.astype(float) ** 2),
        ("I(-i)", lambda r: -r.i.astype(float)),
        ("I((x - 3)/2 + 2*z)", lambda r: (r.x - 3) / 2 + 2 * r.z),
        ("I(x / log(2))", lambda r: r.x / np.log(2)),
        ("I(-2**2 + x)", lambda r: r.x - 4),
        ("I(2**x)", lambda r: 2**r.x),
        ("I(x**-0.5)", lambda r: r.x**-0.5),
        ("exp(z)", lambda r: np.exp(r.z)),
        ("sqrt(x)", lambda r: np.sqrt(r.x)),
        ("abs(z)", lambda r: np.abs(r.z)),
        ("log2(x)", lambda r: np.log2(r.x)),
        ("log10(x)", lambda r: np.log10(r.x)),
        ("log1p(x)", lambda r: np.log1p(r.x)),
        ("cwc(b)", lambda r: r.b - group_means(r.b.astype(float), r.g)),
    ],
)
def test_term_matches_numpy(
    term: str, expected: Callable[[Any], np.ndarray], engine: Callable[[Rows], Any]
) -> None:
    rows = pd.DataFrame(ROWS)
    found = take_columns(f"y ~ {term} + (1 | g)", engine(ROWS))
    (name,) = set(found) - {"Intercept", "y", "group"}
    want = np.asarray(expected(rows), dtype=float)
    scale = max(1.0, np.abs(want).max())
    np.testing.assert_allclose(found[name], want, rtol=0, atol=NUMPY_TOLERANCE * scale)
    assert list(found["group"]) == ROWS["g"]


def test_log1p_keeps_small_values(engine: Callable[[Rows], Any]) -> None:
    rows = {**ROWS, "x": [1e-12, 1e-17, -1e-9, 0.0, 1.0, 1e-5, 1e-3, 1e9]}
    found = take_columns("y ~ log1p(x) + (1 | g)", engine(rows))["log1p(x)"]
    np.testing.assert_allclose(found, np.log1p(rows["x"]), rtol=1e-14)


def test_small_integers_do_not_overflow() -> None:
    for table in (
        pd.DataFrame(ROWS).astype({"i": "int8"}),
        pl.DataFrame(ROWS).with_columns(pl.col("i").cast(pl.Int8)),
    ):
        found = take_columns("y ~ I(i**2) + I(i + i) + i:x + (1 | g)", table)
        assert found["I(i**2)"][0] == 10_000
        assert found["I(i + i)"][1] == -200
        assert found["i:x"][0] == 100


def test_centring_of_a_far_offset_is_exact(engine: Callable[[Rows], Any]) -> None:
    # Offsets that differ by group, so that no constant shift would help.
    offset = [{"a": 1e8, "b": -3e8, "c": 7e8}[g] for g in ROWS["g"]]
    far = [x + o for x, o in zip(ROWS["x"], offset, strict=True)]
    found = take_columns("y ~ cwc(far) + gm(far) + (1 | g)", engine({**ROWS, "far": far}))
    near = np.asarray(ROWS["x"])
    mean = group_means(near, ROWS["g"])
    np.testing.assert_allclose(found["cwc(far)"], near - mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found["gm(far)"], mean + offset, rtol=1e-15)
    for label in "abc":
        assert len(set(found["gm(far)"][found["group"] == label])) == 1


def test_means_of_many_far_values_are_exact(engine: Callable[[Rows], Any]) -> None:
    n = 20_001
    far = 1e8 + np.random.default_rng(7).normal(size=n)
    group = np.arange(n) % 2
    table = engine({"y": list(range(n)), "g": group.tolist(), "far": far.tolist()})
    found = take_columns("y ~ gm(far) + cgm(far) + (1 | g)", table)
    ulp = np.spacing(1e8)
    mean = math.fsum(far[group == 0]) / (group == 0).sum()
    assert abs(found["gm(far)"][0] - mean) <= ulp
    # The column is far - mean, of which only the mean can be wrong.
    shift = math.fsum(found["cgm(far)"]) / n
    assert abs(shift) <= 1e-12


def test_grand_mean_and_polynomial_of_a_far_offset(engine: Callable[[Rows], Any]) -> None:
    far = [x + 1e8 for x in ROWS["x"]]
    formula = "y ~ cgm(far) + poly(far, 3) + (1 | g)"
    found = take_columns(formula, engine({**ROWS, "far": far}))
    near = take_columns("y ~ cgm(x) + poly(x, 3) + (1 | g)", engine(ROWS))
    np.testing.assert_allclose(found["cgm(far)"], near["cgm(x)"], rtol=0, atol=1e-13)
    for k in "123":
        np.testing.assert_allclose(found[f"poly(far, 3){k}"], near[f"poly(x, 3){k}"], atol=1e-14)


# R 4: poly(c(1, 2, 4, 7, 11, 16, 22, 29), 3), printed with 17 digits.
R_POLY = [
    [-0.392952623996687789, 0.389757834207383025, -0.38095122917413954],
    [-0.355528564568431904, 0.266025188427261639, -0.12698374305804655],
    [-0.280680445711919857, 0.047430847549046744, 0.22857073750448353],
    [-0.168408267427151925, -0.208283287063204842, 0.44190342584200226],
    [-0.018712029714127991, -0.414504363363407569, 0.29968163361699007],
    [0.168408267427151981, -0.455748578623448197, -0.19809463917055256],
    [0.392952623996687900, -0.187661179433184527, -0.59428391751165799],
    [0.654921039994479703, 0.562983538299553499, 0.33015773195092107],
]
# attr(poly(x, 3), "coefs"), norm2 without its leading 1.
R_ALPHA = [11.5, 17.214285714285715, 15.785714285714286]
R_NORM2 = [8.0, 714.0, 43189.714285714268, 2180250.0]


def test_polynomial_is_that_of_r(engine: Callable[[Rows], Any]) -> None:
    design = build_design("y ~ poly(x, 3) + (1 | g)", engine(ROWS))
    assert design.fixed == ("Intercept", "poly(x, 3)1", "poly(x, 3)2", "poly(x, 3)3")
    found = take_columns("", engine(ROWS), design=design)
    for k in range(3):
        column = found[f"poly(x, 3){k + 1}"]
        np.testing.assert_allclose(column, np.array(R_POLY)[:, k], rtol=0, atol=R_TOLERANCE)
    shift, *rest = design.constants["poly(x, 3)"]
    np.testing.assert_allclose(rest[0::2], R_NORM2, rtol=1e-14)
    np.testing.assert_allclose(np.array(rest[1::2]) + shift, R_ALPHA, rtol=1e-14)


def test_polynomial_matches_qr() -> None:
    x = np.random.default_rng(3).normal(50, 2, size=200)
    rows = pd.DataFrame({"x": x, "y": np.arange(200.0), "g": np.arange(200) % 7})
    found = take_columns("y ~ poly(x, 5) + (1 | g)", rows)
    q, r = np.linalg.qr(np.vander(x - x.mean(), 6, increasing=True))
    q *= np.sign(np.diag(r))
    for k in range(1, 6):
        np.testing.assert_allclose(found[f"poly(x, 5){k}"], q[:, k], rtol=0, atol=1e-12)


def test_raw_polynomial_is_powers() -> None:
    found = take_columns("y ~ poly(x, 3, raw=True) + (1 | g)", pd.DataFrame(ROWS))
    for k in (1, 2, 3):
        np.testing.assert_allclose(
            found[f"poly(x, 3, raw=True){k}"], np.array(ROWS["x"]) ** k, rtol=1e-15
        )


def test_polynomial_in_an_interaction_and_of_a_transform() -> None:
    formula = "y ~ poly(cwc(x), 2):z + (poly(log(x), 2) | g)"
    design = build_design(formula, pd.DataFrame(ROWS))
    assert design.fixed == ("Intercept", "poly(cwc(x), 2)1:z", "poly(cwc(x), 2)2:z")
    found = take_columns("", pd.DataFrame(ROWS), design=design)
    logs = np.vander(np.log(ROWS["x"]), 3, increasing=True)
    q, r = np.linalg.qr(logs)
    np.testing.assert_allclose(
        found["poly(log(x), 2)2"], q[:, 2] * np.sign(r[2, 2]), rtol=0, atol=1e-13
    )


# ---------------------------------------------------------------- categorical columns

# Column names of R's model.matrix for the same data, in this project's spelling.
R_CODING = [
    ("f", ["Intercept", "f[b]", "f[c]"]),
    ("0 + f", ["f[a]", "f[b]", "f[c]"]),
    ("0 + f + h", ["f[a]", "f[b]", "f[c]", "h[v]"]),
    (
        "f:h",
        ["Intercept", "f[a]:h[u]", "f[b]:h[u]", "f[c]:h[u]", "f[a]:h[v]", "f[b]:h[v]", "f[c]:h[v]"],
    ),
    ("f * h", ["Intercept", "f[b]", "f[c]", "h[v]", "f[b]:h[v]", "f[c]:h[v]"]),
    ("0 + f * h", ["f[a]", "f[b]", "f[c]", "h[v]", "f[b]:h[v]", "f[c]:h[v]"]),
    (
        "0 + f:h",
        ["f[a]:h[u]", "f[b]:h[u]", "f[c]:h[u]", "f[a]:h[v]", "f[b]:h[v]", "f[c]:h[v]"],
    ),
    ("x + x:f", ["Intercept", "x", "x:f[b]", "x:f[c]"]),
    ("x:f", ["Intercept", "x:f[a]", "x:f[b]", "x:f[c]"]),
    ("0 + x:f", ["x:f[a]", "x:f[b]", "x:f[c]"]),
    ("0 + x * f", ["x", "f[a]", "f[b]", "f[c]", "x:f[b]", "x:f[c]"]),
    ("f + f:h", ["Intercept", "f[b]", "f[c]", "f[a]:h[v]", "f[b]:h[v]", "f[c]:h[v]"]),
    ("0 + f:x + h", ["f[a]:x", "f[b]:x", "f[c]:x", "h[u]", "h[v]"]),
    ("f:x + h:x", ["Intercept", "f[a]:x", "f[b]:x", "f[c]:x", "h[v]:x"]),
    ("f:x + x", ["Intercept", "f[b]:x", "f[c]:x", "x"]),
    ("b + x:b", ["Intercept", "b[True]", "x:b[False]", "x:b[True]"]),
    ("C(i):x", ["Intercept", *(f"C(i)[{k}]:x" for k in (-100, 0, 1, 2, 3, 4, 7, 100))]),
    ("C(f, Treatment('c'))", [f'C(f, Treatment("c"))[{k}]' for k in "ab"]),
    ("C(b, Treatment(True))", ["C(b, Treatment(True))[False]"]),
    ("C(i, Treatment(-100))", [f"C(i, Treatment(-100))[{k}]" for k in (0, 1, 2, 3, 4, 7, 100)]),
]


@pytest.mark.parametrize(("right", "expected"), R_CODING, ids=[right for right, _ in R_CODING])
def test_contrasts_follow_r(right: str, expected: list[str]) -> None:
    if "Treatment" in right:
        expected = ["Intercept", *expected]
    design = build_design(f"y ~ {right} + (1 | g)", pd.DataFrame(ROWS))
    assert list(design.fixed) == expected
    # The random part has its own margin check, with the same outcome.
    design = build_design(f"y ~ 1 + ({right} | g)", pd.DataFrame(ROWS))
    assert list(design.random) == expected


def test_indicators_have_the_values_of_r(engine: Callable[[Rows], Any]) -> None:
    found = take_columns("y ~ x * f + b + C(i) + (0 + h | g)", engine(ROWS))
    rows = pd.DataFrame(ROWS)
    x, f = rows["x"], rows["f"]
    expected = {
        "f[b]": f == "b",
        "f[c]": f == "c",
        "x:f[c]": x * (f == "c"),
        "h[u]": rows["h"] == "u",
        "h[v]": rows["h"] == "v",
        "b[True]": rows["b"],
        "C(i)[7]": rows["i"] == 7,
    }
    for name, want in expected.items():
        np.testing.assert_array_equal(found[name], want.astype(float), err_msg=name)


@pytest.mark.parametrize(
    ("random", "columns"),
    [
        ("f", ["Intercept", "f[b]", "f[c]"]),
        ("0 + f", ["f[a]", "f[b]", "f[c]"]),
        ("0 + f + x", ["f[a]", "f[b]", "f[c]", "x"]),
        ("0 + x:f", ["x:f[a]", "x:f[b]", "x:f[c]"]),
        ("C(i)", ["Intercept", "C(i)[1]", "C(i)[2]"]),
        ("poly(x, 2) + b", ["Intercept", "poly(x, 2)1", "poly(x, 2)2", "b[True]"]),
    ],
)
def test_two_bars_make_every_column_independent(random: str, columns: list[str]) -> None:
    rows = pd.DataFrame(ROWS)
    rows["i"] = np.arange(len(rows)) % 3
    design = build_design(f"y ~ 1 + ({random} || g)", rows)
    assert design.blocks == tuple((name,) for name in columns)


def test_separate_terms_spell_out_every_level() -> None:
    design = build_design("y ~ 1 + (1 | g) + (0 + f | g)", pd.DataFrame(ROWS))
    assert design.blocks == (("Intercept",), ("f[a]", "f[b]", "f[c]"))


def test_levels_of_dropped_rows_vanish() -> None:
    rows = pd.DataFrame(ROWS)
    rows["f"] = pd.Categorical(rows["f"], categories=["z", "c", "b", "a"])
    rows.loc[rows["f"] == "b", "x"] = np.nan
    design, _, _, n, dropped, _ = build_prepared("y ~ x + f + (1 | g)", rows)
    assert design.levels == {"f": ("c", "a")}
    assert (n, dropped) == (5, 3)


@pytest.mark.parametrize(
    ("column", "levels"),
    [
        (pd.Categorical(ROWS["f"], categories=["c", "a", "b"]), ("c", "a", "b")),
        (pd.Categorical(ROWS["f"], categories=["c", "a", "b"], ordered=True), ("c", "a", "b")),
        (pd.array(ROWS["f"], dtype="string"), ("a", "b", "c")),
        (pd.Series(ROWS["f"], dtype=object), ("a", "b", "c")),
        (pd.Categorical(ROWS["i"]), ("-100", "0", "1", "2", "3", "4", "7", "100")),
        (pl.Series(ROWS["f"], dtype=pl.Enum(["c", "b", "a"])), ("c", "b", "a")),
        (pl.Series(["c", *ROWS["f"][1:]], dtype=pl.Categorical), ("a", "b", "c")),
        (pa.array(ROWS["f"]).dictionary_encode(), ("a", "b", "c")),
        (np.array(ROWS["b"]), (False, True)),
        (pd.array(ROWS["b"], dtype="boolean"), (False, True)),
    ],
)
def test_order_of_levels(column: Any, levels: tuple[Any, ...]) -> None:
    if isinstance(column, pl.Series):
        table: Any = pl.DataFrame(ROWS).with_columns(column.alias("f"))
    elif isinstance(column, pa.DictionaryArray):
        table = pa.table({**ROWS, "f": column})
    else:
        table = pd.DataFrame(ROWS).assign(f=column)
    design = build_design("y ~ f + (1 | g)", table)
    assert design.levels == {"f": levels}
    found = take_columns("", table, design=design)
    values = np.array([str(value) for value in nw.from_native(table)["f"].to_list()])
    for level in levels[1:]:
        np.testing.assert_array_equal(found[f"f[{level}]"], values == str(level))


def test_duckdb_enum_keeps_its_order() -> None:
    connection = duckdb.connect()
    connection.register("source", pa.table(ROWS))
    relation = connection.sql(
        "select * exclude f, f::enum('c', 'z', 'a', 'b') as f, z::decimal(9, 2) as d from source"
    )
    design = build_design("y ~ f + d + (1 | g)", relation)
    assert design.levels == {"f": ("c", "a", "b")}
    assert list(take_columns("", relation, design=design)["d"]) == ROWS["z"]


def test_numeric_levels_agree_over_dtypes() -> None:
    whole = build_design("y ~ C(k) + (1 | g)", pd.DataFrame({**ROWS, "k": [2, 1, 3, 1] * 2}))
    table = pd.DataFrame({**ROWS, "k": [2.0, 1.0, 3.0, np.nan] * 2})
    assert build_design("y ~ C(k) + (1 | g)", table).fixed == whole.fixed
    halves = pd.DataFrame({**ROWS, "k": [0.5, 1.5] * 4})
    assert build_design("y ~ C(k) + (1 | g)", halves).fixed[1] == "C(k)[1.5]"
    decimals = pl.DataFrame({**ROWS, "k": [Decimal("0.5"), Decimal("1.5")] * 4})
    design = build_design("y ~ C(k) + (1 | g)", decimals)
    assert [type(level) for level in design.levels["C(k)"]] == [float, float]
    found = take_columns("", decimals, design=design)
    np.testing.assert_array_equal(found["C(k)[1.5]"], [0, 1] * 4)


# ---------------------------------------------------------------- missing values and dtypes


def test_missing_rows_are_dropped_before_any_mean() -> None:
    rows = pd.DataFrame(ROWS)
    rows.loc[0, "z"] = np.nan
    rows.loc[1, "g"] = None
    rows.loc[2, "y"] = np.nan
    rows.loc[4, "h"] = None  # a column that the formula does not read
    design, _, _, n, dropped, _ = build_prepared("y ~ gm(x) + cgm(x) + z + (1 | g)", rows)
    assert (n, dropped) == (5, 3)
    found = take_columns("", rows, design=design)
    kept = pd.DataFrame(ROWS).iloc[3:]
    np.testing.assert_allclose(found["gm(x)"], group_means(kept["x"], kept["g"]), rtol=1e-15)
    np.testing.assert_allclose(found["cgm(x)"], kept["x"] - kept["x"].mean(), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "Int16", "int64[pyarrow]"])
def test_pandas_nullable_columns(dtype: str) -> None:
    rows = pd.DataFrame({**ROWS, "k": pd.array([1, None, 3, 4, 5, 6, 7, 8], dtype=dtype)})
    design, _, _, n, dropped, _ = build_prepared("y ~ cwc(k) + log(k) + I(1/k) + (1 | g)", rows)
    assert (n, dropped) == (7, 1)
    found = take_columns("", rows, design=design)
    kept = np.array([1.0, 3, 4, 5, 6, 7, 8])
    groups = [g for i, g in enumerate(ROWS["g"]) if i != 1]
    np.testing.assert_allclose(found["cwc(k)"], kept - group_means(kept, groups), atol=1e-14)
    np.testing.assert_allclose(found["log(k)"], np.log(kept), rtol=1e-15)
    assert found["cwc(k)"].dtype == np.float64


def test_nan_inside_a_nullable_column_is_missing() -> None:
    values = pd.Series(pd.array([0.0, 1, 2, 3, 4, 5, 6, 7], dtype="Float64"))
    rows = pd.DataFrame({**ROWS, "k": values / values})  # 0/0 is NaN, and is not NA
    assert build_prepared("y ~ k + (1 | g)", rows).dropped == 1
    frame = pl.DataFrame({**ROWS, "k": [float("nan"), None, *[1.0, 2.0] * 3]})
    assert build_prepared("y ~ k + (1 | g)", frame).dropped == 2


def test_infinity_in_a_row_that_is_dropped_does_no_harm(engine: Callable[[Rows], Any]) -> None:
    rows = {**ROWS, "x": [float("inf"), *ROWS["x"][1:]], "z": [float("nan"), *ROWS["z"][1:]]}
    found = take_columns("y ~ cwc(x) + cgm(z) + (1 | g)", engine(rows))
    np.testing.assert_allclose(found["cwc(x)"].sum(), 0, atol=1e-14)


def test_pandas_index_does_not_matter() -> None:
    rows = pd.DataFrame(ROWS, index=[3, 3, 1, 1, 0, 0, 7, 7])
    found = take_columns("y ~ cwc(x) * f + poly(z, 2) + (1 | g)", rows)
    expected = take_columns("y ~ cwc(x) * f + poly(z, 2) + (1 | g)", pd.DataFrame(ROWS))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    "group",
    [
        [2, 1, 2, 3, 1, 2, 1, 3],
        [2.5, 1.0, 2.5, 3.0, 1.0, 2.5, 1.0, 3.0],
        [True, False, True, True, False, True, False, False],
        [date(2020, 1, 1 + k) for k in (2, 1, 2, 3, 1, 2, 1, 3)],
    ],
)
def test_group_may_have_any_scalar_type(group: list[Any], engine: Callable[[Rows], Any]) -> None:
    found = take_columns("y ~ gm(x) + (1 | g)", engine({**ROWS, "g": group}))
    np.testing.assert_allclose(found["gm(x)"], group_means(ROWS["x"], group), rtol=1e-14)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["c", "b", "a", "unused"])])
def test_group_may_be_categorical(dtype: Any) -> None:
    frame = pl.DataFrame(ROWS).with_columns(pl.col("g").cast(dtype))
    expected = group_means(ROWS["x"], ROWS["g"])
    rows = pd.DataFrame(ROWS)
    rows["g"] = pd.Categorical(rows["g"], categories=["unused", "c", "b", "a"])
    for table in (frame, frame.lazy(), rows):
        found = take_columns("y ~ gm(x) + (1 | g)", table)
        np.testing.assert_allclose(found["gm(x)"], expected, rtol=1e-14)
        assert list(found["group"]) == ROWS["g"]


def test_boolean_and_decimal_numbers() -> None:
    rows: Rows = {**ROWS, "d": [Decimal(k) / 4 for k in range(8)]}
    for table in (pl.DataFrame(rows), pa.table(rows)):
        found = take_columns("y ~ cwc(d) + I(b * 2) + (1 | g)", table)
        d = np.arange(8) / 4
        np.testing.assert_allclose(found["cwc(d)"], d - group_means(d, ROWS["g"]), atol=1e-15)
        np.testing.assert_array_equal(found["I(b * 2)"], 2.0 * np.array(ROWS["b"]))


# ---------------------------------------------------------------- other rows


def test_design_applies_to_new_rows(engine: Callable[[Rows], Any]) -> None:
    design = build_design("y ~ cgm(x) + poly(x, 2) + f + cwc(z) + (1 | g)", engine(ROWS))
    new = {name: values[:3] for name, values in ROWS.items()}
    new["x"] = [100.0, 2.0, 4.0]
    found = take_columns("", engine(new), design=design)
    np.testing.assert_allclose(found["cgm(x)"], np.array(new["x"]) - 11.5, rtol=1e-15)
    # predict(poly(x, 2), 100)[2] in R for the x of ROWS.
    np.testing.assert_allclose(found["poly(x, 2)2"][1:], np.array(R_POLY)[1:3, 1], atol=1e-14)
    np.testing.assert_array_equal(found["f[c]"], [0, 0, 1])
    # Group means are those of the new rows: the lone row of group a is its own mean.
    np.testing.assert_allclose(found["cwc(z)"], [-0.75, 0, 0.75], atol=1e-15)


def test_apply_refuses_rows_that_do_not_fit(engine: Callable[[Rows], Any]) -> None:
    design = build_design("y ~ log(x) + f + b + (1 | g)", engine(ROWS))
    refused: list[tuple[str, list[Any], list[str]]] = [
        ("f", ["a"] * 7 + ["new"], ["'f' has the level 'new'", "1 such", "a, b, c"]),
        ("x", [0.0] + [1.0] * 7, ["'log(x)' is not finite in 1 of the 8"]),
        ("x", [float("inf")] * 8, ["'x' has 8 infinite values"]),
        ("f", [1] * 8, ["'f' has type Int64", "'a'"]),
        ("x", [None] * 8, ["none of the 8 rows"]),
    ]
    for name, values, pieces in refused:
        if values == [None] * 8:
            values = [float("nan")] * 8
        with pytest.raises(DataError) as caught:
            apply_design(design, engine({**ROWS, name: values}))
        for piece in pieces:
            assert piece in str(caught.value)


def test_unchecked_apply_gives_the_same_columns(engine: Callable[[Rows], Any]) -> None:
    table = engine(ROWS)
    design = build_design("y ~ cwc(x) + f + (x | g)", table)
    checked = design_arrays(design, table)
    unchecked = design_arrays(design, table, check=False)
    order, other = np.argsort(checked[3]), np.argsort(unchecked[3])
    for ours, theirs in zip(checked, unchecked, strict=True):
        np.testing.assert_array_equal(ours[order], theirs[other])


# ---------------------------------------------------------------- refusals

DATA_REFUSED = [
    ("y ~ sess + (1 | g)", {"ses": ROWS["x"]}, ["no column 'sess'", "mean 'ses'", "it has: y, g"]),
    ("y ~ x + (1 | schol)", {"school": ROWS["g"]}, ["no column 'schol'", "mean 'school'"]),
    ("y ~ `a b` + (1 | g)", {}, ["no column 'a b'", "it has"]),
    ("y ~ nope + (1 | g)", {f"c{i}": ROWS["x"] for i in range(30)}, ["c3 and 26 more"]),
    ("y ~ log(f) + (1 | g)", {}, ["'f' has type String", "number in 'log(f)'", "convert"]),
    ("f ~ x + (1 | g)", {}, ["'f' has type String", "convert"]),
    ("y ~ x + (1 | g)", {"x": [float("inf"), 1.0] * 4}, ["'x' has 4 infinite values", "missing"]),
    ("y ~ C(x) + (1 | g)", {"x": [-float("inf"), 1.0] * 4}, ["'C(x)' has 4 infinite values"]),
    ("y ~ log(i) + (1 | g)", {}, ["'log(i)' is not finite in 2 of the 8", "logarithm of 0"]),
    ("y ~ cwc(log(z)) + (1 | g)", {}, ["'log(z)' is not finite in 2 of the 8"]),
    ("y ~ cgm(sqrt(z)) + (1 | g)", {}, ["'sqrt(z)' is not finite in 2 of the 8"]),
    ("y ~ poly(cwc(log(z)), 2) + (1 | g)", {}, ["'log(z)' is not finite in 2 of the 8"]),
    ("y ~ I(x/i) + (1 | g)", {}, ["'I(x/i)' is not finite in 1 of the 8", "division by 0"]),
    ("y ~ I(i/i) + (1 | g)", {}, ["'I(i/i)' is not finite in 1 of the 8"]),
    ("y ~ x:log(i) + (1 | g)", {}, ["'x:log(i)' is not finite in 2 of the 8"]),
    ("y ~ exp(x) + (1 | g)", {"x": [1e3] * 8}, ["'exp(x)' is not finite in 8 of the 8"]),
    ("y ~ x:z + (1 | g)", {"x": [1e200] * 8, "z": [1e200] * 8}, ["'x:z' is not finite in 8"]),
    ("log(y) ~ x + (1 | g)", {}, ["'log(y)' is not finite in 1 of the 8"]),
    ("y ~ x + (1 | g)", {"g": ["a"] * 8}, ["'g' has 1 level in the 8", "at least 2 groups"]),
    ("y ~ f + (1 | g)", {"f": ["a"] * 8}, ["'f' has one level only", "'a'", "remove"]),
    ("y ~ C(k) + (1 | g)", {"k": [5] * 8}, ["'C(k)' has one level only", "5"]),
    ("y ~ C(f, Treatment('aa')) + (1 | g)", {}, ["no level 'aa'", "mean 'a'", "a, b, c"]),
    ("y ~ poly(k, 2) + (1 | g)", {"k": [1.0, 2.0] * 4}, ["'poly(k, 2)'", "2;", "lower the degree"]),
    ("y ~ x + (1 | g)", {"x": [float("nan")] * 8}, ["none of the 8 rows", "x, y and the group"]),
    ("y ~ x + (1 | g)", {"x": [date(2020, 1, 1)] * 8}, ["'x' has type Date", "convert"]),
    ("y ~ C(x) + (1 | g)", {"x": [date(2020, 1, 1)] * 8}, ["'x' has type Date", "in 'C(x)'"]),
    ("y ~ x + (1 | g)", {"g": [[1], [2]] * 4}, ["group column 'g' has type List", "choose"]),
]


@pytest.mark.parametrize(
    ("formula", "changed", "pieces"),
    DATA_REFUSED,
    ids=[f"{formula} {pieces[0]}" for formula, _, pieces in DATA_REFUSED],
)
def test_data_error_names_the_value_and_the_way_out(
    formula: str, changed: Rows, pieces: list[str], engine: Callable[[Rows], Any]
) -> None:
    table = engine({**ROWS, **changed})
    if isinstance(table, pd.DataFrame) and ("List" in str(pieces) or "Date" in str(pieces)):
        table = pl.DataFrame({**ROWS, **changed}).to_pandas(use_pyarrow_extension_array=True)
    with pytest.raises(DataError) as caught:
        build_design(formula, table)
    for piece in pieces:
        assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "pieces"),
    [
        ("y ~ x + y + (1 | g)", ["response 'y'", "term 'y'", "remove"]),
        ("y ~ cwc(y) + (1 | g)", ["response 'y'", "term 'cwc(y)'"]),
        ("y ~ x + (log(y) | g)", ["response 'y'", "term 'log(y)'"]),
        ("I(y - x) ~ I(y - x) + (1 | g)", ["response 'I(y - x)'", "remove"]),
        ("g ~ x + (1 | g)", ["'g' is both the response and the group"]),
        ("y ~ x + (x | g) + (x | g)", ["'Intercept' stands twice", "(1 | g) + (0 + x | g)"]),
        ("y ~ x + (1 | g) + (x | g)", ["'Intercept' stands twice", "(1 | g) + (0 + x | g)"]),
        ("y ~ x + (0 + x | g) + (0 + x | g)", ["'x' stands twice in the random part"]),
        ("y ~ x + (f | g) + (0 + f | g)", ["'f[b]' stands twice in the random part"]),
        ("y ~ I(x/0) + (1 | g)", ["'I(x/0)' is not finite"]),
        ("y ~ I(x + 1/0) + (1 | g)", ["/ of 1.0, 0.0", "division by zero"]),
        ("y ~ I(x + log(0)) + (1 | g)", ["log of 0.0", "change it"]),
        ("y ~ I(x + (-1)**0.5) + (1 | g)", ["** of -1.0, 0.5", "root of a negative"]),
        ("y ~ I(x + exp(1000)) + (1 | g)", ["exp of 1000.0"]),
    ],
)
def test_formula_error_names_the_value_and_the_way_out(formula: str, pieces: list[str]) -> None:
    with pytest.raises((FormulaError, DataError)) as caught:
        build_design(formula, pd.DataFrame(ROWS))
    for piece in pieces:
        assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


def test_change_score_may_be_explained_by_its_own_part() -> None:
    for change in ("I(y - x)", "I(x - y)"):
        assert build_design(f"{change} ~ x + (1 | g)", pd.DataFrame(ROWS)).response == change


def test_identifier_as_a_category_is_refused() -> None:
    table = pd.DataFrame({"y": range(600), "f": [f"id{k}" for k in range(600)], "g": [1, 2] * 300})
    with pytest.raises(DataError, match="'f' has 600 levels, and more than 500 look like"):
        build_design("y ~ f + (1 | g)", table)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"y": [1]}, "dict"),
        ([1, 2], "list"),
        (None, "NoneType"),
        (pd.Series([1.0]), "Series"),
        (np.ones((2, 2)), "ndarray"),
        (pd.DataFrame([[1, 2]], columns=["y", "y"]), "DataFrame"),
    ],
)
def test_not_a_table(table: Any, name: str) -> None:
    with pytest.raises(DataError, match=f"a table of type {name} cannot be read") as caught:
        build_design("y ~ x + (1 | g)", table)
    assert "pass a pandas, polars" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_table(engine: Callable[[Rows], Any]) -> None:
    table = engine(ROWS)
    table = table.limit(0) if hasattr(table, "limit") else table[:0]
    with pytest.raises(DataError, match="none of the 0 rows"):
        build_design("y ~ x + f + (1 | g)", table)


def test_pandas_object_column_is_refused() -> None:
    table = pd.DataFrame({**ROWS, "o": pd.Series([{k} for k in range(8)], dtype=object)})
    with pytest.raises(DataError, match="'o' has type Object and cannot be used as a number"):
        build_design("y ~ o + (1 | g)", table)


# ---------------------------------------------------------------- all engines agree

FORMULA = (
    "y ~ cwc(x) * f + gm(x) + cgm(far) + poly(far, 2) + cwc(far) + I(k**2) + log(abs(x) + 1)"
    " + cwc(gm(x) * x) + b:x + (cwc(far) | g) + (0 + f:x | g)"
)

moderate = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
row = st.fixed_dictionaries(
    {
        "g": st.sampled_from(["b", "a", "c", "ä", "", "d", None]),
        "x": st.one_of(moderate, st.none(), st.just(float("nan"))),
        "far": st.one_of(moderate.map(lambda value: 1e8 + value), st.none()),
        "k": st.one_of(st.integers(-128, 127), st.none()),
        "f": st.sampled_from(["u", "v", "w w", None]),
        "b": st.sampled_from([True, False, None]),
    }
)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=15, phases=[Phase.explicit, Phase.generate])
@given(st.lists(row, min_size=8, max_size=40))
def test_every_engine_gives_the_same_columns(rows: list[dict[str, Any]]) -> None:
    # A few complete rows, so that most tables serve; a distinct response, to sort by.
    fixed = [
        {"g": "a", "x": 1.5, "far": 1e8, "k": 2, "f": "u", "b": True},
        {"g": "b", "x": -2.0, "far": 1e8 + 1, "k": 3, "f": "v", "b": False},
        {"g": "z", "x": 0.25, "far": 1e8 + 3, "k": -4, "f": "w w", "b": True},
    ]
    table: Rows = {name: [r[name] for r in [*rows, *fixed]] for name in fixed[0]}
    table["y"] = [float(k) for k in range(len(rows) + 3)]
    results: dict[str, Any] = {}
    for name, make in ENGINES.items():
        native = make(table)
        if name == "pandas":  # otherwise a gap makes numbers floats, and booleans objects
            native = native.astype({"k": "Int64", "b": "boolean"})
        try:
            design, _, _, *counts = build_prepared(FORMULA, native)
            results[name] = (design, counts, take_columns("", native, design=design))
        except BhlmError as error:
            results[name] = str(error)
    expected = results.pop("polars")
    for name, result in results.items():
        if isinstance(expected, str):
            assert result == expected
            continue
        (design, counts, found), (reference, right, want) = result, expected
        assert design.columns == reference.columns
        assert counts == right
        assert list(found["group"]) == list(want["group"])
        for column in reference.columns:
            scale = max(1.0, np.abs(want[column]).max())
            np.testing.assert_allclose(
                found[column],
                want[column],
                rtol=0,
                atol=ENGINE_TOLERANCE * scale,
                err_msg=f"{column} on {name}",
            )
