"""Files of patterns of several grouping factors: to the last bit, merged, and what they tell."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import check_refusal, run
from scipy import special

import bhlm
from bhlm.errors import ArgumentError, BhlmError, DataError
from bhlm.moments.level_patterns import LevelPatterns

KINDS = {
    "bernoulli": ("hit ~ x + sex + (1 | school/class)", {"family": "bernoulli"}),
    "binomial": ("hits / size ~ x + (1 | class) + (1 | item)", {"family": "binomial"}),
    "poisson": (
        "hits ~ x + (x | school) + (1 | item)",
        {"family": "poisson", "exposure": "size"},
    ),
}
LISTS = ("n", "y", "offset", "values", "rows")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    school, group = np.repeat(np.arange(8), 30), np.repeat(np.arange(24), 10)
    x, size = rng.integers(-1, 2, 240) / 2.0, rng.integers(1, 5, 240)
    eta = 0.5 * x + rng.normal(0.0, 0.6, 8)[school] + rng.normal(0.0, 0.6, 24)[group]
    eta = eta + rng.normal(0.0, 0.5, 10)[np.arange(240) % 10]
    p = special.expit(eta)
    return pd.DataFrame(
        {"school": [f"S{at}" for at in school], "class": group, "item": np.arange(240) % 10,
         "x": x, "sex": rng.choice(["boy", "girl"], 240), "size": size,
         "hit": rng.binomial(1, p), "hits": rng.binomial(size, p)}
    )  # fmt: skip


def reduce_rows(table: pd.DataFrame, kind: str) -> LevelPatterns:
    formula, how = KINDS[kind]
    found = bhlm.reduce_part(formula, table, **how)
    assert isinstance(found, LevelPatterns)
    return found


def check_equal(one: LevelPatterns, two: LevelPatterns) -> None:
    for name in LISTS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.codes, two.codes)
    for ours, theirs in zip(one.labels, two.labels, strict=True):
        for a, b in zip(ours.columns, theirs.columns, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert one.design == two.design
    assert (one.constant, one.dropped, one.missing) == (two.constant, two.dropped, two.missing)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_file_gives_the_fit_of_the_rows(table, tmp_path, kind):
    formula, how = KINDS[kind]
    rows = bhlm.Model(formula, table, **how)
    rows.level_patterns.save(tmp_path / "a.moments")
    held = bhlm.load_moments(tmp_path / "a.moments")
    check_equal(rows.level_patterns, held)
    model = bhlm.Model.from_moments(tmp_path / "a.moments")
    assert model.family == kind
    assert not model.has_rows
    one, two = rows.ml(), model.ml()
    assert one.loglik == two.loglik
    np.testing.assert_array_equal(one.joint_cov, two.joint_cov)
    bhlm.save_moments(held, tmp_path / "b.moments")
    check_equal(held, bhlm.load_moments(tmp_path / "b.moments"))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("split", ["school", "rows"])
def test_parts_merge_into_the_whole(table, kind, split):
    """By whole schools, and by rows, which cut every unit in two."""
    whole = reduce_rows(table, kind)
    is_first = table["school"] < "S3" if split == "school" else np.arange(len(table)) % 2 == 0
    first = reduce_rows(table[is_first], kind)
    second = bhlm.reduce_like(first, table[~is_first])
    merged = bhlm.merge_moments([first, second])
    order = [np.lexsort((*each.values.T, each.y, each.n, *each.codes)) for each in (whole, merged)]
    for name in LISTS:
        ours, theirs = (
            getattr(each, name)[at] for each, at in zip((whole, merged), order, strict=True)
        )
        np.testing.assert_allclose(theirs, ours, rtol=1e-14)
    np.testing.assert_array_equal(whole.codes[:, order[0]], merged.codes[:, order[1]])
    assert merged.constant == pytest.approx(whole.constant, abs=1e-9)
    one, two = (bhlm.Model.from_moments(each).ml() for each in (whole, merged))
    assert two.loglik == pytest.approx(one.loglik, abs=1e-9)


def test_a_part_may_have_one_unit_and_takes_the_others_constants(table):
    formula = "hit ~ cgm(x) + sex + (1 | school/class)"
    first = bhlm.reduce_part(formula, table[table["school"] != "S7"], family="bernoulli")
    second = bhlm.reduce_like(first, table[table["school"] == "S7"].query("sex == 'boy'"))
    assert second.groups == {"school": 1, "school:class": 3}
    assert second.design.constants == first.design.constants
    assert bhlm.merge_moments([first, second]).groups["school"] == 8
    with pytest.raises(DataError, match="other"):
        bhlm.reduce_like(first, table.assign(sex="other"))


def test_parts_that_do_not_merge_are_told_in_one_line(table):
    first = reduce_rows(table[:120], "bernoulli")
    cases = {
        "hold the same patterns": first,
        "differ in": reduce_rows(table[120:], "binomial"),
        "differ in the family": bhlm.reduce_part(
            KINDS["bernoulli"][0], table[120:], family="bernoulli", link="probit"
        ),
        "has no patterns of several factors": bhlm.reduce_part(
            "hit ~ x + (1 | school)", table, family="bernoulli"
        ),
        "labels of 'class' are": reduce_rows(
            table[120:].assign(**{"class": table["class"].astype(str)}), "bernoulli"
        ),
    }
    for message, part in cases.items():
        with pytest.raises(DataError, match=message) as caught:
            bhlm.merge_moments([first, part])
        assert "\n" not in str(caught.value)
    within = "hit ~ cwc(x, school) + (1 | school/class)"
    halves = [
        bhlm.reduce_part(within, table[np.arange(240) % 2 == at], family="bernoulli")
        for at in (0, 1)
    ]
    with pytest.raises(DataError, match="have rows in more than one part"):
        bhlm.merge_moments(halves)


def test_what_patterns_tell_of_rows_is_said(table):
    found = reduce_rows(table, "bernoulli")
    told = " ".join(found.disclosures())
    single = int((found.rows == 1).sum())
    assert f"{single:,} of the {found.n_patterns:,} patterns are single rows" in told
    alike = int(((found.n > 1) & ((found.y == 0) | (found.y == found.n))).sum())
    assert f"in {alike} patterns of more than one trial all outcomes are alike" in told
    assert "the minimum of 3 rows is of units" in " ".join(found.disclosures(min_group_size=3))
    plain = table.drop_duplicates(["school", "class"])
    twice = pd.concat([plain.assign(x=0.0, hit=1), plain.assign(x=0.0, hit=0)])
    few = bhlm.reduce_part("hit ~ 1 + (1 | school/class)", twice, family="bernoulli")
    assert len(few.disclosures()) == 1  # the order


def test_small_units_are_refused(table, tmp_path):
    found = reduce_rows(table, "bernoulli")
    kept, sentence = bhlm.suppress_small_groups(found, 10)
    assert "all 24 units of 'school:class' have at least 10 rows" in sentence
    kept.save(tmp_path / "kept.moments")
    assert bhlm.load_moments(tmp_path / "kept.moments").min_group_size == 10
    with pytest.raises(DataError, match=r"24 of the 24 units of 'school:class' have fewer than 11"):
        found.save(tmp_path / "b.moments", min_group_size=11)
    with pytest.raises(ArgumentError, match="are not dropped after"):
        bhlm.suppress_small_groups(found, 11, action="drop")


def test_a_changed_or_later_file_is_refused(table, tmp_path):
    path = tmp_path / "a.moments"
    reduce_rows(table, "bernoulli").save(path)
    held = pq.read_table(path)
    changed = held.set_column(held.column_names.index("y"), "y", [held["y"].to_numpy() * 0.0])
    pq.write_table(changed, path)
    with pytest.raises(DataError, match="is corrupted"):
        bhlm.load_moments(path)
    metadata = dict(held.schema.metadata)
    for key, text in metadata.items():
        if b'"schema": 5' in text:
            metadata[key] = text.replace(b'"schema": 5', b'"schema": 6')
    pq.write_table(held.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match="version 6 of the layout"):
        bhlm.load_moments(path)
    for size in (10, 500):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(BhlmError):
            bhlm.load_moments(path)


def test_what_files_of_patterns_have_not_is_refused(table, tmp_path):
    formula, _ = KINDS["bernoulli"]
    found = reduce_rows(table, "bernoulli")
    model = bhlm.Model(formula, found)
    fit = model.ml()
    with pytest.raises(DataError, match="hold no single rows"):
        model.predict(fit, table)
    with pytest.raises(ArgumentError, match="were reduced with family='bernoulli'"):
        bhlm.Model(formula, found, family="bernoulli", link="probit")
    with pytest.raises(DataError, match="were reduced for"):
        bhlm.Model("hit ~ x + (1 | school/class)", found)
    fit.dashboard(tmp_path / "page.html")


@pytest.mark.wide
def test_from_two_sites_to_a_page_by_commands(capsys, table, tmp_path):
    formula, how = KINDS["bernoulli"]
    is_first = table["school"] < "S4"
    table[is_first].to_csv(tmp_path / "a.csv", index=False)
    table[~is_first].to_csv(tmp_path / "b.csv", index=False)
    a, b, both = (tmp_path / f"{name}.moments" for name in ("a", "b", "both"))
    asked = ("--formula", formula, "--family", "bernoulli", "--output", a)
    status, out, err = run(capsys, "moments", tmp_path / "a.csv", *asked)
    assert status == 0
    assert "120 rows in 4 of 'school' and 12 of 'school:class'" in out
    assert "single rows" in err
    assert run(capsys, "moments", tmp_path / "b.csv", "--like", a, "--output", b)[0] == 0
    assert run(capsys, "merge", a, b, "--output", both)[0] == 0
    page, twin = tmp_path / "page.html", tmp_path / "out.json"
    status, _, _ = run(capsys, "ml", "--data", both, "--dashboard", page, "--json", twin)
    assert status == 0
    assert page.exists()
    found = json.loads(twin.read_text(encoding="utf-8"))
    whole = bhlm.Model(formula, table, **how).ml()
    assert found["ml"]["loglik"] == pytest.approx(whole.loglik, abs=1e-8)
    short = ("--draws", "60", "--tune", "60", "--chains", "2", "--seed", "1")
    status, out, _ = run(capsys, "sample", "--data", both, *short)
    assert status == 1  # so few draws fail their verdict
    assert "var(Intercept|school:class)" in out
    check_refusal(run(capsys, "reml", "--data", both), "bhlm ml --data")
