"""Places of results are checked before the work, and what was drawn is not lost."""

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
from command_line import check_refusal, run
from gallery_fits import sample_posterior

from bhlm.commands.main import main
from bhlm.commands.shared import keep_fit, write_all
from bhlm.errors import ArgumentError, DataError
from bhlm.files import check_output
from bhlm.fits.saved import load

MODEL = "dyestuff"

WRONG = {
    "no folder for the numbers": (("sample", MODEL, "--json", "no/out.json"), "'no/out.json'"),
    "a folder for the numbers": (("reml", MODEL, "--json", "there"), "which is a folder"),
    "an unknown ending of a fit": (
        ("sample", MODEL, "--save", "fit.pickle"), "ends in neither .zarr nor .nc",
    ),
    "no folder for a fit": (("sample", MODEL, "--save", "no/fit.nc"), "cannot write 'no/fit.nc'"),
    "a folder that is no fit": (("sample", MODEL, "--save", "there.zarr"), "is not a saved fit"),
    "one file for two": (
        ("sample", MODEL, "--save", "fit.nc", "--json", "fit.nc"), "is where --save keeps the fit",
    ),
    "no page": (("reconcile", MODEL, "--dashboard", "page.pdf"), "is not a page's file"),
    "a page's own numbers": (
        ("reconcile", MODEL, "--dashboard", "p.html", "--json", "p.json"), "keeps its own numbers",
    ),
    "a folder for a page's numbers": (
        ("reconcile", MODEL, "--dashboard", "there.html"), "there.json', which is a folder",
    ),
    "a calibration": (("calibrate", MODEL, "--json", "no/out.json"), "cannot write"),
    "the gallery": (("compare", MODEL, "--json", "no/out.json"), "cannot write"),
    "moments": (("moments", "none.csv", "-o", "no/a.moments"), "cannot write 'no/a.moments'"),
    "a merge": (("merge", "none.moments", "-o", "no/a.moments"), "cannot write 'no/a.moments'"),
    "moments as a table": (("moments", "none.csv", "-o", "a.csv"), "end it in .moments"),
    "a merge as a table": (("merge", "none.moments", "-o", "a.dta"), "end it in .moments"),
    "one file for replicates and numbers": (
        ("calibrate", MODEL, "--file", "a.jsonl", "--json", "a.jsonl"), "is where replicates are",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_place_that_cannot_be_written_is_refused_first(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "there.json", "there.zarr"):
        Path(folder).mkdir()
    Path("there.zarr/mine.txt").touch()
    arguments, expected = WRONG[name]
    before = sorted(tmp_path.rglob("*"))
    check_refusal(run(capsys, *arguments), expected)
    assert sorted(tmp_path.rglob("*")) == before


FORMULA = ("--formula", "y ~ 1 + (1 | g)")
READ = {
    "a table": ("reml", "--data", "rows.csv", *FORMULA, "--json", "rows.csv"),
    "a pattern": ("sample", "--data", "r*.csv", *FORMULA, "--json", "rows.csv"),
    "a link": ("reconcile", "--data", "rows.csv", *FORMULA, "--json", "link.csv"),
    "another name": ("ml", "--data", "rows.csv", *FORMULA, "--json", "twin.json"),
    "a model": ("compare", "model.toml", "--json", "model.toml"),
    "the table of a model": ("reml", "model.toml", "--json", "rows.csv"),
    "a database": ("reml", "--data", "duckdb:///base.db#t", *FORMULA, "--json", "base.db"),
    "priors": ("sample", MODEL, "--priors", "priors.toml", "--json", "priors.toml"),
    "replicates": ("calibrate", "--data", "rows.csv", *FORMULA, "--file", "rows.csv"),
    "a study": ("simulate", "study.toml", "--file", "study.toml"),
    "a design": ("power", "study.toml", "--json", "study.toml"),
    "imputed tables": ("pool", "rows.csv", "rows.csv", *FORMULA, "--json", "rows.csv"),
    "moments": ("reml", "--data", "a.moments", "--json", "a.moments"),
    "moments to be like": ("moments", "rows.csv", "--like", "a.moments", "-o", "a.moments"),
    "a saved fit": ("dashboard", "fit.nc", "-o", "page.html", "--json", "fit.nc"),
}


@pytest.mark.parametrize("name", READ)
def test_what_a_command_reads_is_not_overwritten(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for each in ("base.db", "priors.toml", "study.toml", "a.moments", "fit.nc"):
        Path(each).write_text("kept")
    Path("rows.csv").write_text("y,g\n1,2\n")
    Path("model.toml").write_text(
        'title = "A model"\ncitation = "None"\nformula = "y ~ 1 + (1 | g)"\nmethod = "reml"\n'
        '[data]\npath = "rows.csv"\n'
    )
    Path("link.csv").symlink_to("rows.csv")
    os.link("rows.csv", "twin.json")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    check_refusal(run(capsys, *READ[name]), "is a file that this command reads")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_package_that_is_missing_is_told_first(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    found = run(capsys, "sample", MODEL, "--save", tmp_path / "fit.zarr")
    check_refusal(found, "needs the package zarr; install it with: pip install 'bhlm[zarr]'")


def test_every_result_is_tried_and_the_first_failure_told():
    done = []

    def fail(text):
        raise DataError(text)

    with pytest.raises(DataError, match="first"):
        write_all(lambda: fail("first"), lambda: done.append(1), lambda: fail("second"))
    assert done == [1]


class Unheard(io.StringIO):
    """A pipe whose other end is closed."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("command", ["models", "reml", "ml"])
def test_where_nobody_reads_the_output_files_are_written_and_nothing_is_said(
    command, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "stdout", Unheard())
    which = [] if command == "models" else [MODEL]
    with pytest.raises(SystemExit) as stop:
        main([command, *which, "--json", str(tmp_path / "a.json")])
    monkeypatch.undo()
    assert (stop.value.code, capsys.readouterr().err) == (141, "")
    assert json.loads((tmp_path / "a.json").read_text())


@pytest.mark.wide
def test_a_fit_whose_place_is_lost_is_kept_elsewhere(tmp_path, monkeypatch):
    post = sample_posterior("dyestuff2")
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    with pytest.raises(DataError) as caught:
        keep_fit(post, tmp_path / "gone" / "fit.nc")
    place = str(caught.value).rpartition("the fit was kept at '")[2].rstrip("'")
    assert load(place).seed == post.seed


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        check_output(tmp_path / ("x" * 300))
    with pytest.raises(ArgumentError, match=r"neither \.zarr nor \.nc"):
        run_check(tmp_path / "fit")


def run_check(path: Path) -> None:
    from bhlm.bayes.storage.file import check_place

    check_place(path)
