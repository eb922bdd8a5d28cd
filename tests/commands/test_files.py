"""Files that people have: other separators, missing codes, Excel, and priors by option."""

import json

import pandas as pd
import pytest
from command_line import check_refusal, run
from simulate import simulate_table

from bhlm import HalfNormal, load, load_moments
from bhlm.commands.shared import read_settings
from bhlm.errors import DataError
from bhlm.sources.open import open_table

FORMULA = "y ~ x + (1 | g)"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return simulate_table(3, n_groups=12, largest=6)[["g", "x", "y"]]


def write(table, path):
    if path.suffix == ".xlsx":
        table.to_excel(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz", "a.tsv.gz", "a.xlsx"])
def test_formats_hold_the_same_rows(table, tmp_path, name):
    found = open_table(write(table, tmp_path / name))
    pd.testing.assert_frame_equal(found, table, check_dtype=False)


def test_labels_of_a_packed_file_keep_their_zeros(tmp_path):
    path = tmp_path / "a.csv.gz"
    pd.DataFrame({"g": ["007", "7", "010"], "y": [1.0, 2.0, 3.0]}).to_csv(path, index=False)
    assert open_table(path)["g"].tolist() == ["007", "7", "010"]


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx"])
def test_codes_of_missing_values_and_a_separator(capsys, table, tmp_path, name):
    coded = table.assign(x=table["x"].round(2), y=table["y"].round(2))
    coded.loc[coded.index[:5], "x"] = -99
    kept = coded.loc[coded.index[5:]]
    if name.endswith("csv"):
        path = tmp_path / name
        coded.to_csv(path, index=False, sep=";")
        more = ("--separator", ";")
    else:
        path, more = write(coded, tmp_path / name), ()
    out = tmp_path / "out.json"
    command = ("reml", "--data", path, "--formula", FORMULA, "--json", out)
    status, _, _ = run(capsys, *command, "--missing", "-99", "--missing", ".", *more)
    assert status == 0
    assert json.loads(out.read_text())["model"]["n"] == len(kept)
    if more:
        check_refusal(run(capsys, *command), "it seems to be separated by ';', so give separator")


def test_moments_are_reduced_from_files_as_people_have_them(capsys, table, tmp_path):
    coded = table.assign(x=table["x"].round(2))
    coded.loc[coded.index[:5], "x"] = -99
    path, whole, alike = (tmp_path / name for name in ("a.csv", "a.moments", "b.moments"))
    coded.to_csv(path, index=False, sep=";")
    how = ("--separator", ";", "--missing", "-99")
    assert run(capsys, "moments", path, "--formula", FORMULA, *how, "-o", whole)[0] == 0
    assert run(capsys, "moments", path, "--like", whole, *how, "-o", alike)[0] == 0
    for written in (whole, alike):
        assert load_moments(written).n_rows == len(coded) - 5


@pytest.mark.parametrize("option", [("--separator", ";"), ("--missing", "-99")])
def test_how_a_file_is_read_is_asked_of_a_file(capsys, option):
    asked = run(capsys, "dashboard", "fit.zarr", "-o", "page.html", *option)
    check_refusal(asked, f"{option[0]} is about the file of --data; give --data too")


def test_what_is_refused(table, tmp_path):
    path = tmp_path / "a.parquet"
    table.to_parquet(path)
    with pytest.raises(DataError, match=r"separator=';' is for .csv, .tsv, .*is none of them"):
        open_table(path, separator=";")
    with pytest.raises(DataError, match="missing= is for files that are read whole"):
        open_table("duckdb:///a.db#t", missing=["-99"])
    masked = open_table(path, missing=[str(table["g"].iloc[0])])
    assert masked["g"].isna().sum() == (table["g"] == table["g"].iloc[0]).sum()


@pytest.mark.slow
def test_priors_by_option_and_a_kept_posterior(capsys, tmp_path):
    priors = tmp_path / "priors.toml"
    priors.write_text('sd = "HalfNormal(3)"\n')
    kept = tmp_path / "fit.zarr"
    counts = ("--draws", 200, "--tune", 200, "--chains", 2)
    status, out, _ = run(
        capsys, "reconcile", "sleepstudy", "--priors", priors, "--save", kept, *counts
    )
    assert status in (0, 1)
    assert "HalfNormal(3)" in out
    assert load(kept).priors.sd[0] == HalfNormal(3)
    assert str(read_settings(None, None, "sd=HalfNormal(4); corr=LKJ(1)")[0].sd) == "HalfNormal(4)"
    refused = run(capsys, "sample", "sleepstudy", "--priors", "nowhere.toml")
    check_refusal(refused, "--priors 'nowhere.toml' cannot be read")
    refused = run(capsys, "sample", "sleepstudy", "--priors", "tau=HalfNormal(4)")
    check_refusal(refused, "priors.tau is not known; the keys are fixed, sd, corr, sigma")
