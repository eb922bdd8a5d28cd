"""Moments files by cell: to the last bit, merged, updated, and what they disclose."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import run
from nasty_table import CELLS_FORMULA, NASTY, as_pandas, assert_same_cells

import bhlm
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.fits.reduced import load_moments, merge_files, reduce_like, reduce_part
from bhlm.moments.cells import CellMoments
from bhlm.moments.either import merge_moments

NESTED = "y ~ x + (1 | school/class)"
CENTRED = "y ~ cwc(x, school) + cgm(x) + (1 | school/class)"
CROSSED = "y ~ x + (1 | school) + (1 | rater)"


def make_rows(n=600, seed=5):
    """Return rows of 12 classes in 6 schools, and 5 raters that cross them."""
    rng = np.random.default_rng(seed)
    school = rng.choice(list("abcdef"), n)
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "school": school,
            "class": rng.integers(1, 3, n),
            "rater": rng.integers(0, 5, n),
        }
    )


def same_bits(one: CellMoments, other: CellMoments) -> bool:
    """Return whether labels that are numbers, n, means and cross-products are the same bytes."""
    pairs = zip(
        (*one.blocks.labels, *one.blocks[1:4]),
        (*other.blocks.labels, *other.blocks[1:4]),
        strict=True,
    )
    return all(a.tobytes() == b.tobytes() for a, b in pairs if a.dtype != object)


@pytest.mark.parametrize("formula", [CELLS_FORMULA, NESTED, CROSSED])
def test_a_file_gives_back_every_bit(formula, tmp_path):
    rows = as_pandas(NASTY) if formula == CELLS_FORMULA else make_rows()
    moments = Model(formula, rows).cells
    moments.save(tmp_path / "a.moments")
    found = load_moments(tmp_path / "a.moments")
    assert isinstance(found, CellMoments)
    assert same_bits(moments, found)
    assert_same_cells(found, moments)
    assert found.design == moments.design
    assert found.cell_labels.keys() == moments.cell_labels.keys()
    for one, other in zip(found.blocks.labels, moments.blocks.labels, strict=True):
        assert one.tolist() == other.tolist()
    assert pq.read_metadata(tmp_path / "a.moments").num_rows == moments.n_cells


def test_a_fit_from_a_file_is_the_fit_from_the_rows(tmp_path):
    model = Model(CROSSED, make_rows())
    model.cells.save(tmp_path / "a.moments")
    again = Model.from_moments(tmp_path / "a.moments")
    assert not again.has_rows
    assert again.reml().loglik == model.reml().loglik
    assert Model(CROSSED, tmp_path / "a.moments").cells.n_rows == 600
    with pytest.raises(DataError, match="were reduced for"):
        Model(NESTED, tmp_path / "a.moments")


@pytest.mark.parametrize("formula", [NESTED, CENTRED, CROSSED])
def test_merged_parts_are_the_whole(formula, tmp_path):
    rows = make_rows()
    first = rows[rows["school"] < "c"]
    second = rows[rows["school"] >= "c"]
    one = reduce_part(formula, first)
    one.save(tmp_path / "one.moments")
    reduce_like(tmp_path / "one.moments", second).save(tmp_path / "two.moments")
    merged = merge_files([tmp_path / "one.moments", tmp_path / "two.moments"])
    whole = reduce_like(one, rows)
    assert merged.groups == whole.groups
    np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(merged.cross, whole.cross, atol=1e-12)
    assert merged.codes.tolist() == whole.codes.tolist()
    updated = one.update(second)
    assert same_bits(updated, merged)
    assert same_bits(one.update(tmp_path / "two.moments"), merged)


def test_cells_that_are_split_over_parts_merge_exactly():
    """Every cell has rows in both parts, which crossed factors cannot help."""
    rows = make_rows()
    parts = [reduce_part(CROSSED, rows[::2]), reduce_part(CROSSED, rows[1::2])]
    merged, whole = merge_moments(parts), Model(CROSSED, rows).cells
    assert merged.n_cells == whole.n_cells == 30
    assert merged.n.tolist() == whole.n.tolist()
    np.testing.assert_allclose(merged.cross, whole.cross, atol=1e-12)


def test_means_within_a_factor_that_is_split_are_refused(tmp_path):
    rows = make_rows()
    one = reduce_part(CENTRED, rows[::2])
    with pytest.raises(DataError, match=r"6 of the groups of 'school' .* rows of a 'school' into"):
        one.update(rows[1::2])
    one.save(tmp_path / "one.moments")
    with pytest.raises(DataError, match="hold the same moments"):
        merge_files([tmp_path / "one.moments"] * 2)
    alone = reduce_part("y ~ x + (1 | school)", rows)
    with pytest.raises(DataError, match="part 1 has moments of a single factor"):
        merge_moments([alone, one])
    alone.save(tmp_path / "alone.moments")
    with pytest.raises(DataError, match="has moments of a single factor"):
        one.update(tmp_path / "alone.moments")
    with pytest.raises(DataError, match="differ in columns"):
        merge_moments([one, reduce_part(NESTED, rows)])


def test_small_cells_are_refused_or_dropped(tmp_path):
    rows = make_rows(200)
    moments = Model(NESTED, rows).cells
    least = int(moments.n.min())
    with pytest.raises(DataError, match=r"of the 12 groups of 'school:class' has fewer than"):
        bhlm.suppress_small_groups(moments, least + 1)
    kept, note = bhlm.suppress_small_groups(moments, least + 1, action="drop")
    assert "was dropped" in note
    assert kept.n.min() > least
    assert kept.n_rows + kept.suppressed == 200
    kept.save(tmp_path / "a.moments")
    assert load_moments(tmp_path / "a.moments").min_group_size == least + 1
    with pytest.raises(DataError, match="has fewer than"):
        moments.save(tmp_path / "b.moments", min_group_size=least + 1)
    assert not (tmp_path / "b.moments").exists()
    with pytest.raises(ArgumentError, match="not a whole number above 0"):
        bhlm.suppress_small_groups(moments, 0)


def test_what_cells_disclose():
    rows = make_rows(200)
    nested = Model(NESTED, rows).cells.disclosures(min_group_size=5)
    assert not any("occur together" in each for each in nested)
    crossed = Model("y ~ x + (1 | class) + (1 | rater) + (1 | x1)", rows.assign(x1=rows.index % 40))
    told = crossed.cells.disclosures()
    assert "cells of 'class', 'rater' and 'x1'" in told[0]
    assert "one row, such as" in told[0]
    assert "which labels of 'class', 'rater' and 'x1' occur together" in told[-1]


def damage(header):
    yield header | {"groupings": ["school"]}, "is corrupted"
    yield header | {"rows": 7}, "is corrupted"
    yield header | {"factors": header["factors"][:1]}, "is corrupted"


def test_files_that_contradict_themselves_are_refused(tmp_path, monkeypatch):
    from bhlm.moments import either

    Model(NESTED, make_rows()).cells.save(tmp_path / "a.moments")
    header, blocks = either.read_blocks(tmp_path / "a.moments")
    for changed, message in damage(header):
        monkeypatch.setattr(either, "read_blocks", lambda path, got=changed: (got, blocks))
        with pytest.raises(DataError, match=message):
            load_moments(tmp_path / "a.moments")


def test_the_commands_reduce_and_merge(tmp_path, capsys):
    rows = make_rows()
    for name, part in (("a", rows[rows["school"] < "c"]), ("b", rows[rows["school"] >= "c"])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    one, two, both = (str(tmp_path / f"{name}.moments") for name in ("one", "two", "both"))
    status, out, err = run(
        capsys, "moments", tmp_path / "a.csv", "--formula", CENTRED, "-o", one,
        "--min-group-size", "10",
    )  # fmt: skip
    assert status == 0
    assert "groups of 'school:class'; no cell has fewer than 10 rows -> " in out
    assert "warning" not in err
    assert run(capsys, "moments", tmp_path / "b.csv", "--like", one, "-o", two)[0] == 0
    status, out, _ = run(capsys, "merge", one, two, "-o", both)
    assert status == 0
    assert "600 rows in 6 of 'school' and 12 of 'school:class': 12 groups of" in out
    status, out, _ = run(capsys, "reml", "--data", both, "--json", tmp_path / "fit.json")
    assert status == 0
    content = json.loads((tmp_path / "fit.json").read_text())
    assert content["model"]["groups"] == {"school": 6, "school:class": 12}
