"""Files of patterns: the same fit as from rows, parts that merge, and what they tell."""

import json
from dataclasses import fields, replace

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import check_refusal, run

import bhlm
from bhlm.errors import ArgumentError, BhlmError, DataError
from bhlm.fits.model import Model
from bhlm.moments.patterns import Patterns

# Exposures and constants are sums, which parts and engines take in another order.
ROUNDING = 1e-12
KINDS = {
    "bernoulli": ("y ~ x + f + (1 | g)", {"family": "bernoulli"}),
    "probit": ("y ~ x + f + (x | g)", {"family": "bernoulli", "link": "probit"}),
    "binomial": ("s / size ~ x + offset(o) + (1 | g)", {"family": "binomial", "link": "cloglog"}),
    "trials": ("s ~ cgm(x) + (1 | g)", {"family": "binomial", "trials": "size"}),
    "poisson": ("c ~ x + C(k) + (1 | g)", {"family": "poisson", "exposure": "t"}),
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 600
    made = pd.DataFrame(
        {
            "g": np.sort(rng.integers(0, 15, n)),
            "x": rng.integers(0, 3, n) * 0.5,
            "f": rng.choice(["a", "b"], n),
            "k": rng.integers(1, 4, n),
            "size": rng.integers(1, 6, n),
            "t": rng.choice([1.0, 2.0, 4.0], n),
            "o": rng.choice([-0.5, 0.0, 0.25], n),
        }
    )
    eta = 0.6 * made["x"] - 0.4 + rng.normal(0.0, 0.7, 15)[made["g"]]
    mean = 1.0 / (1.0 + np.exp(-eta))
    return made.assign(
        y=rng.binomial(1, mean), s=rng.binomial(made["size"], mean), c=rng.poisson(np.exp(eta))
    )


def assert_identical(one: Patterns, other: Patterns) -> None:
    """Equal to the last bit, the types of labels included."""
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, np.ndarray):
            assert first.dtype == second.dtype, field.name
            assert first.tolist() == second.tolist(), field.name
        else:
            assert first == second, field.name


def assert_same(one: Patterns, other: Patterns) -> None:
    """Equal in whatever order patterns come, but for rounding."""

    def sort(found: Patterns) -> np.ndarray:
        rows = np.column_stack([found.codes, found.values, found.offset, found.n, found.y])
        return rows[np.lexsort(rows.T[::-1])]

    assert one.groups.tolist() == other.groups.tolist()
    np.testing.assert_allclose(sort(one), sort(other), rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_array_equal(one.rows, other.rows)
    assert one.constant == pytest.approx(other.constant, rel=ROUNDING)
    assert (one.dropped, one.missing) == (other.dropped, other.missing)
    # Engines add up means in an order of their own.
    assert replace(one.design, constants={}) == replace(other.design, constants={})
    for call, constants in one.design.constants.items():
        assert other.design.constants[call] == pytest.approx(constants, rel=ROUNDING, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_fit_of_the_rows(table, tmp_path, kind):
    formula, how = KINDS[kind]
    model = Model(formula, table, **how)
    path = tmp_path / "x.moments"
    model.moments.save(path)
    found = bhlm.load_moments(path)
    assert_identical(found, model.patterns)
    own = found.formula  # with the column of trials, or the exposure, in it
    for again in (Model.from_moments(path), Model(own, path), Model(formula, path, **how)):
        assert not again.has_rows
        one, other = model.ml(), again.ml()
        assert one.loglik == other.loglik
        pd.testing.assert_frame_equal(one.estimates, other.estimates, check_exact=True)
        assert repr(again).startswith(f"Model({again.formula.text!r}, {how['family']}")


@pytest.mark.parametrize("labels", ["text", "dates", "floats"])
def test_labels_keep_their_type(table, tmp_path, labels):
    made = {
        "text": table["g"].map("school {}".format),
        "dates": pd.Timestamp("2020-01-01") + pd.to_timedelta(table["g"], unit="D"),
        "floats": table["g"] / 4.0,
    }
    model = Model("y ~ x + (1 | g)", table.assign(g=made[labels]), family="bernoulli")
    model.patterns.save(tmp_path / "x.moments")
    assert_identical(bhlm.load_moments(tmp_path / "x.moments"), model.patterns)


def as_files(table: pd.DataFrame, folder) -> dict[str, object]:
    connection = duckdb.connect()
    connection.register("rows", table)
    table.to_csv(folder / "t.csv", index=False)
    table.to_parquet(folder / "t.parquet")
    return {
        "polars": pl.from_pandas(table),
        "lazy": pl.from_pandas(table).lazy(),
        "duckdb": connection.table("rows"),
        "arrow": pa.table(table),
        "csv": folder / "t.csv",
        "parquet": str(folder / "t.parquet"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_writes_the_same_patterns(table, tmp_path, kind):
    formula, how = KINDS[kind]
    first = Model(formula, table, **how).patterns
    for name, data in as_files(table, tmp_path).items():
        path = tmp_path / f"{name}.moments"
        Model(formula, data, **how).patterns.save(path)
        assert_same(bhlm.load_moments(path), first)


@pytest.mark.parametrize("split", ["by group", "across groups"])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_merge_into_the_whole(table, tmp_path, kind, split):
    formula, how = KINDS[kind]
    within = table["g"] < 7 if split == "by group" else table.index % 3 == 0
    parts = [table[within], table[~within]]
    # The first part's mean of x is everybody's constant.
    first = bhlm.reduce_part(formula, parts[0], **how)
    first.save(tmp_path / "a.moments")
    bhlm.reduce_like(tmp_path / "a.moments", parts[1]).save(tmp_path / "b.moments")
    merged = bhlm.merge_files([tmp_path / "a.moments", tmp_path / "b.moments"])
    assert_same(merged, bhlm.reduce_like(first, table))
    whole = Model(formula, table, **how).ml()
    found = Model.from_moments(merged).ml()
    assert found.loglik == pytest.approx(whole.loglik, abs=1e-9)
    shared = [name for name in whole.estimates.index if name != "Intercept"]
    np.testing.assert_allclose(
        found.estimates.loc[shared, "estimate"], whole.estimates.loc[shared, "estimate"], rtol=1e-6
    )


def test_a_part_may_be_a_single_group(table):
    parts = [bhlm.reduce_part("y ~ x + (1 | g)", table[table["g"] == 0], family="bernoulli")]
    parts += [bhlm.reduce_like(parts[0], table[table["g"] == g]) for g in range(1, 15)]
    assert_same(
        bhlm.merge_moments(parts), Model("y ~ x + (1 | g)", table, family="bernoulli").patterns
    )


def reduce(table: pd.DataFrame, formula: str = "y ~ x + (1 | g)", **how) -> Patterns:
    return bhlm.reduce_part(formula, table, **({"family": "bernoulli"} | how))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: [reduce(t), reduce(t.iloc[::-1])], "hold the same patterns"),
        (lambda t: [reduce(t[:9]), reduce(t[9:], link="probit")], "differ in the family"),
        (
            lambda t: [
                reduce(t[:9], "y / size ~ x + (1 | g)", family="binomial"),
                reduce(t[9:], "y / k ~ x + (1 | g)", family="binomial"),
            ],
            "differ in the trials",
        ),
        (
            lambda t: [reduce(t[:9]), reduce(t[9:], "y ~ x + offset(o) + (1 | g)")],
            "differ in offsets: part 2 has o and part 1 has none",
        ),
        (lambda t: [reduce(t[:9]), reduce(t[9:], "y ~ o + (1 | g)")], "differ in columns"),
        (
            lambda t: [
                reduce(t[:9], "y ~ cgm(x) + (1 | g)"),
                reduce(t[9:], "y ~ cgm(x) + (1 | g)"),
            ],
            "differ in constants",
        ),
        (
            lambda t: [
                reduce(t[::2], "y ~ cwc(x) + (1 | g)"),
                reduce(t[1::2], "y ~ cwc(x) + (1 | g)"),
            ],
            "rest on each part's own group means",
        ),
        (lambda t: [reduce(t[:9]), reduce(t[9:].assign(g=t["g"].map(str)))], "labels of 'g' are"),
        (
            lambda t: [reduce(t[:9]), bhlm.reduce_part("y ~ x + (1 | g)", t[9:])],
            "others have patterns of a family",
        ),
        (lambda t: [], "at least one part"),
    ],
)
def test_parts_that_do_not_merge_are_told_in_one_line(table, make, message):
    table = table.assign(k=1, size=1)
    with pytest.raises(BhlmError, match=message) as caught:
        bhlm.merge_moments(make(table))
    assert "\n" not in str(caught.value)


def test_unknown_levels_and_values_of_a_part_are_refused(table):
    first = reduce(table, "y ~ f + (1 | g)")
    with pytest.raises(DataError, match="the level 'c', which the design does not know"):
        bhlm.reduce_like(first, table.assign(f="c"))
    with pytest.raises(DataError, match="recode 1 to 0 and 2 to 1"):
        bhlm.reduce_like(first, table.assign(y=table["y"] + 1))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: Model("y ~ f + (1 | g)", p), "reduced for 'y ~ x"),
        (lambda p: Model("y ~ x + (1 | g)", p, family="poisson"), "family='bernoulli'"),
        (
            lambda p: Model("y ~ x + (1 | g)", p, family="bernoulli", link="probit"),
            "link='logit', not",
        ),
        (lambda p: Model("y ~ x + (1 | g)", p, weights="w"), "without weights"),
        (lambda p: Model.from_moments(p).reml(), "restricted maximum likelihood"),
        (lambda p: Model.from_moments(p).rows(), "has no rows"),
        (lambda p: bhlm.calibrate(Model.from_moments(p), seed=1), "calibrate"),
    ],
)
def test_what_patterns_cannot_serve_is_told(table, tmp_path, ask, message):
    path = tmp_path / "x.moments"
    reduce(table).save(path)
    with pytest.raises(BhlmError, match=message):
        ask(path)


def test_predictions_need_the_table(table, tmp_path):
    reduce(table).save(tmp_path / "x.moments")
    model = Model.from_moments(tmp_path / "x.moments")
    with pytest.raises(DataError, match="hold no single rows"):
        model.predict(model.ml(), table)


def test_moments_of_a_family_are_told_from_its_patterns(table, tmp_path):
    gaussian = bhlm.reduce_part("y ~ x + (1 | g)", table)
    with pytest.raises(ArgumentError, match="bhlm moments --family bernoulli"):
        Model("y ~ x + (1 | g)", gaussian, family="bernoulli")
    from bhlm.moments.moments import load_moments

    reduce(table).save(tmp_path / "x.moments")
    with pytest.raises(DataError, match="has patterns of family='bernoulli'"):
        load_moments(tmp_path / "x.moments")


SAID = {
    "continuous": (lambda t: t.assign(x=np.arange(len(t)) / 7.0), "600 of the 600 patterns are"),
    "own rows": (
        lambda t: t.assign(x=np.arange(len(t)) / 7.0),
        "15 of the 15 groups of 'g' have as many patterns as rows",
    ),
    "alike": (lambda t: t.assign(y=(t["x"] > 0.5).astype(int)), "all outcomes are alike"),
    "order": (lambda t: t, "in which the table gave out their rows"),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_patterns_tell_of_rows_is_said(table, kind):
    change, said = SAID[kind]
    told = reduce(change(table)).disclosures()
    assert any(said in sentence for sentence in told), told


def test_what_is_not_told_is_not_said(table):
    """Large patterns of both outcomes, one to a group, tell of no single row."""
    assert reduce(table, "y ~ (1 | g)").disclosures() == ()


def test_single_rows_are_counted(table):
    found = reduce(table.assign(x=np.where(table.index == 5, 9.0, 0.0)))
    (sentence,) = [each for each in found.disclosures() if "single row" in each]
    assert "1 of the 16 patterns is single rows" in sentence or "1 of the 16 patterns" in sentence


def test_small_groups_are_refused_or_dropped(table, tmp_path):
    small = table.drop(table.index[table["g"] == 3][4:])
    found = reduce(small)
    with pytest.raises(DataError, match="1 of the 15 groups of 'g' has fewer than 10 rows"):
        found.save(tmp_path / "x.moments", min_group_size=10)
    kept, note = bhlm.suppress_small_groups(found, 10, action="drop")
    assert "was dropped" in note
    assert (kept.n_groups, kept.suppressed, kept.min_group_size) == (14, 4, 10)
    kept.save(tmp_path / "x.moments")
    again = bhlm.load_moments(tmp_path / "x.moments")
    assert_identical(again, kept)
    whole = Model("y ~ x + (1 | g)", small[small["g"] != 3], family="bernoulli").ml()
    assert Model.from_moments(again).ml().loglik == whole.loglik
    counts = reduce(small, "s / size ~ x + (1 | g)", family="binomial")
    with pytest.raises(DataError, match="hold a constant of all rows"):
        bhlm.suppress_small_groups(counts, 10, action="drop")


@pytest.mark.parametrize("k", [2, 100])
def test_a_minimum_counts_patterns_below_it(table, k):
    told = reduce(table).disclosures(min_group_size=k)
    few = int((reduce(table).n < k).sum())
    assert any(f"{few:,} of the" in each for each in told) == (few > 0)


def spoil(path, change) -> None:
    """Write a file anew with other arrays or another description, under its old checksum."""
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def put(table: pa.Table, name: str, values: list) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


def describe(table: pa.Table, **change) -> pa.Table:
    held = dict(table.schema.metadata)
    header = json.loads(held[b"bhlm.moments"]) | change
    return table.replace_schema_metadata(held | {b"bhlm.moments": json.dumps(header).encode()})


@pytest.mark.parametrize(
    "change",
    [
        lambda t: put(t, "y", [[0.0] * len(each) for each in t["y"].to_pylist()]),
        lambda t: put(t, "rows", [99] * len(t)),
        lambda t: put(t, "values", [each[:-1] for each in t["values"].to_pylist()]),
        lambda t: t.slice(0, 3),
        lambda t: t.drop_columns(["n"]),
        lambda t: describe(t, link="cauchit"),
        lambda t: describe(t, family="gamma"),
        lambda t: describe(t, constant=1.0),
        lambda t: describe(t, patterns=3),
        lambda t: describe(t, schema=2),
    ],
)
def test_a_changed_file_is_refused(table, tmp_path, change):
    path = tmp_path / "x.moments"
    reduce(table).save(path)
    spoil(path, change)
    with pytest.raises(DataError, match="is corrupted"):
        bhlm.load_moments(path)


def test_a_later_layout_is_refused(table, tmp_path):
    path = tmp_path / "x.moments"
    reduce(table).save(path)
    spoil(path, lambda t: describe(t, schema=9))
    with pytest.raises(DataError, match="upgrade bhlm"):
        bhlm.load_moments(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, y=p.n + 1.0), "more successes than trials"),
        (lambda p: replace(p, n=p.n + 1.0), "trials that are not those of its rows"),
        (lambda p: replace(p, values=p.values + np.nan), "numbers that are not finite"),
        (lambda p: replace(p, offset=p.offset + 1e3), "offsets that doubles cannot"),
        (lambda p: replace(p, rows=p.rows * 0.0), "fewer rows than patterns"),
        (lambda p: replace(p, groups=p.groups[::-1]), "not in their order"),
        (lambda p: replace(p, groups=p.groups * 0), "a group twice"),
    ],
)
def test_patterns_that_contradict_themselves_are_not_written(table, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        change(reduce(table)).save(tmp_path / "x.moments")
    assert not (tmp_path / "x.moments").exists()


@pytest.mark.wide
def test_from_two_sites_to_a_fit_by_commands(capsys, table, tmp_path):
    table[table["g"] < 7].to_csv(tmp_path / "a.csv", index=False)
    table[table["g"] >= 7].to_csv(tmp_path / "b.csv", index=False)
    table.to_csv(tmp_path / "all.csv", index=False)
    a, b, c = (tmp_path / f"{name}.moments" for name in "abc")
    how = ["--formula", "s ~ x + (1 | g)", "--family", "binomial", "--trials", "size"]
    status, out, err = run(capsys, "moments", tmp_path / "a.csv", *how, "-o", a)
    assert status == 0
    assert "in 7 groups of 'g', " in out
    assert f" patterns -> {a}" in out
    assert "warning: the patterns of a group stand in the order" in err
    assert run(capsys, "moments", tmp_path / "b.csv", "--like", a, "-o", b)[0] == 0
    assert run(capsys, "merge", a, b, "-o", c)[0] == 0
    found = tmp_path / "found.json", tmp_path / "wanted.json"
    assert run(capsys, "ml", "--data", c, "--json", found[0])[0] == 0
    assert run(capsys, "ml", "--data", tmp_path / "all.csv", *how, "--json", found[1])[0] == 0
    one, other = (json.loads(each.read_text())["ml"] for each in found)
    assert one["loglik"] == pytest.approx(other["loglik"], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reml", "--data", "FILE"], "bhlm ml --data"),
        (["ml", "--data", "FILE", "--family", "poisson"], "says itself what it was reduced for"),
        (["moments", "TABLE", "--like", "FILE", "--family", "poisson"], "holds the family"),
        (["merge", "FILE", "FILE"], "hold the same patterns"),
    ],
)
def test_commands_refuse_in_one_line(capsys, table, tmp_path, arguments, message):
    path = tmp_path / "x.moments"
    reduce(table).save(path)
    table.to_csv(tmp_path / "t.csv", index=False)
    named = {"FILE": path, "TABLE": tmp_path / "t.csv"}
    check_refusal(run(capsys, *(named.get(each, each) for each in arguments)), message)
