"""A planted password shows in nothing that is written, printed or logged."""

import json
import logging
import traceback
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import run
from postgres_server import load_postgres, needs

import bhlm
from bhlm.bayes.storage.file import check_place
from bhlm.errors import BhlmError, DataError
from bhlm.files import check_output, replace_folder, write_text
from bhlm.plots import Figure
from bhlm.reports.dashboard.paths import check_path
from bhlm.reports.dashboard.subjects import write_fit
from bhlm.reports.models.layout import Layout
from bhlm.reports.models.table import ModelTable
from bhlm.secrets import hide_from, hide_password, hide_passwords, is_readable, split_table
from bhlm.studies.replicate_file import open_replicates
from bhlm.studies.simulation.study import read_study

FORMULA = "y ~ x + (1 | g)"
# Nothing listens at port 1. The password stands in a word or in two, and each must be hidden.
SPELLINGS = [
    "postgresql://me:Pl4nted@127.0.0.1:1/db#t",
    "POSTGRESQL://me:Pl4nted@127.0.0.1:1/db#t",
    "Postgres://me:Pl4nted@127.0.0.1:1/db#t",
    " postgresql://me:Pl4nted@127.0.0.1:1/db#t ",
    "postgresql://me:Pl4nted@W0rd@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted/W0rd@127.0.0.1:1/db#t",
    "postgresql://me:1234/Pl4nted@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted#W0rd@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted#W0rd@127.0.0.1:1/db",
    "postgresql://me:Pl4nted?W0rd@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted:W0rd@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted W0rd@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted'W0rd@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted%@127.0.0.1:1/db#t",
    "postgresql://me:%50l4nted@127.0.0.1:1/db#t",
    "postgresql://:Pl4nted@127.0.0.1:1/db#t",
    "postgresql://me:Pl4nted@[::1]:1/db#t",
    "postgresql://me:Pl4nted@::1:1/db#t",
    "postgresql://me:Pl4nted@127.0.0.1:1,[::1]:1/db#t",
    "postgresql://me:Pl4nted@/db?host=/nowhere&port=1#t",
    "postgresql://me:Pl4nted:127.0.0.1:1/db#t",
    "postgresql:/me:Pl4nted@127.0.0.1:1/db#t",
    "postgresql:me:Pl4nted@127.0.0.1:1/db#t",
    "postgresql//me:Pl4nted@127.0.0.1:1/db#t",
    "postgresql:///me:Pl4nted@127.0.0.1:1/db#t",
    "//me:Pl4nted@127.0.0.1:1/db#t",
    "me:Pl4nted@127.0.0.1:1/db#t",
    "postgresql://127.0.0.1:1/db?user=me&password=Pl4nted#t",
    "postgresql://127.0.0.1:1/db?user=me&PASSWORD=Pl4nted#t",
    "postgresql://127.0.0.1:1/db?user=me&pasword=Pl4nted#t",
    "postgresql://127.0.0.1:1/db?sslmode=require&sslpassword=Pl4nted#t",
    "host=127.0.0.1 port=1 user=me password=Pl4nted dbname=db#t",
    "host=127.0.0.1 port=1 password = 'Pl4nted W0rd' dbname=db#t",
    "postgresql+psycopg://me:Pl4nted@127.0.0.1:1/db#t",
    "jdbc:postgresql://127.0.0.1:1/db?user=me&password=Pl4nted#t",
    "mysql://me:Pl4nted@127.0.0.1:1/db#t",
    "https://me:Pl4nted@127.0.0.1:1/t.csv",
    "s3://bucket/t.parquet?secret_key=Pl4nted",
    "sqlite:///x?key=Pl4nted#t",
    "az:/container/t.parquet?sig=Pl4nted",
    "duckdb:///me:Pl4nted@127.0.0.1/f.db#t",
    "duckdb:///absent.db?password=Pl4nted#t",
    "postgresql://me@127.0.0.1:1/db#t?password=Pl4nted",
]
PLANTED = ("Pl4nted", "50l4nted", "W0rd")


def assert_hidden(text: str) -> None:
    assert not [word for word in PLANTED if word in text], text


def list_chain(error: BaseException | None) -> list[BaseException]:
    """The error with all that led to it, shown by a traceback or not."""
    if error is None:
        return []
    return [error, *list_chain(error.__cause__), *list_chain(error.__context__)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_error_shows_a_password(spelling: str, caplog: pytest.LogCaptureFixture) -> None:
    needs("ibis", "psycopg")
    caplog.set_level(logging.DEBUG)
    calls = [
        bhlm.open_table,
        lambda url: bhlm.Model(FORMULA, url),
        lambda url: bhlm.open_table(url, memory_limit="1GB"),
        bhlm.load,
        bhlm.load_moments,
        bhlm.find_model,
    ]
    for call in calls:
        with pytest.raises(BhlmError) as caught:
            call(spelling)
        assert "\n" not in str(caught.value)
        for error in list_chain(caught.value):
            assert_hidden(f"{error} {error!r} {error.args} {error.__dict__}")
        assert_hidden("".join(traceback.format_exception(caught.value)))
    assert_hidden(caplog.text)


@pytest.mark.parametrize("spelling", [each for each in SPELLINGS if "/" in each])
def test_no_error_of_a_place_to_write_to_shows_a_password(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = [
        lambda place: write_text("", place),
        lambda place: check_output(Path(place)),
        lambda place: check_place(f"{place}.nc"),
        lambda place: check_path(f"{place}.html"),
        Figure("name", "title", "reading", None).save,
        ModelTable((), (), Layout((), (), (), ())).save,
        lambda place: replace_folder(Path(place)).__enter__(),
        lambda place: open_replicates(Path(place), {}),
        lambda place: read_study(Path(place)),
    ]
    for call in calls:
        with pytest.raises(BhlmError) as caught:
            call(spelling)
        for error in list_chain(caught.value):
            assert_hidden(f"{error} {error!r} {error.args} {getattr(error, 'filename', '')}")
        assert_hidden("".join(traceback.format_exception(caught.value)))


def fail_in_steps(address: str) -> None:
    try:
        try:
            raise OSError(2, "No such file", address, None, address.encode())
        except OSError as error:
            raise RuntimeError(f"in '{address}'", 3) from error
    except RuntimeError as error:
        raise DataError("cannot write") from error


def test_what_led_to_an_error_keeps_no_secret() -> None:
    with pytest.raises(DataError) as caught:
        fail_in_steps(SPELLINGS[0].removesuffix("127.0.0.1:1/db#t") + "h/db")
    shown = "".join(traceback.format_exception(caught.value))
    assert_hidden(shown)
    assert "No such file: 'postgresql://me:***@h/db' -> 'postgresql://me:***@h/db'" in shown
    assert "RuntimeError: (\"in 'postgresql://me:***@h/db'\", 3)" in shown


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(each, marks=pytest.mark.slow if at % 4 else ())
        for at, each in enumerate(SPELLINGS)
    ],
)
def test_the_command_line_shows_no_password(
    spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("ibis", "psycopg")
    for arguments in (
        ["reml", "--data", spelling, "--formula", FORMULA],
        ["reml", f"--data={spelling}", "--formula", FORMULA, "--memory-limit", "1GB"],
        ["moments", spelling, "--formula", FORMULA],
        ["reconcile", spelling],  # a model's place
        ["reml", "hsb_random_coefficient", spelling],  # nobody's place
        ["dashboard", f"{spelling}.nc", "-o", "page.html"],
        ["merge", spelling],
    ):
        status, out, err = run(capsys, *arguments)
        assert status == 2
        assert err.count("\n") == 1
        assert_hidden(out + err)


@pytest.mark.slow
def test_what_a_run_writes_prints_and_logs_holds_no_password(
    postgres: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "numba")  # its account of every compilation takes minutes
    monkeypatch.chdir(tmp_path)
    values = [(g, i % 5, (g * 7 + i * 3) % 11 + 0.5 * i) for g in range(8) for i in range(9)]
    g, x, y = map(list, zip(*values, strict=True))
    load_postgres(postgres, "public.planted", pa.table({"g": g, "x": x, "y": map(float, y)}))
    # The server asks for no password, and takes the one that comes.
    url = postgres.replace("postgres@", "postgres:Pl4nted@") + "#planted"
    counts = ["--draws", 60, "--tune", 60, "--chains", 2]
    common = ["--data", url, "--formula", FORMULA]
    printed = []
    for arguments in (
        ["reconcile", *common, *counts, "--dashboard", "page.html", "--json", "both.json"],
        ["sample", *common, *counts, "--save", "fit.nc", "--json", "fit.json"],
        ["dashboard", "fit.nc", "--data", url, "-o", "saved.html"],
        ["moments", url, "--formula", FORMULA, "-o", "x.moments"],
    ):
        status, out, err = run(capsys, *arguments)
        assert status in (0, 1), err
        printed += [out, err]
    model = bhlm.Model(FORMULA, url)
    write_fit(model.reml(), "reml.html", source={"Data": url, "Note": f"from {url}"})
    assert_hidden("".join(printed) + caplog.text + repr(model) + repr(model.reml()))
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [
        *("both.json", "fit.json", "fit.nc", "page.html", "page.json", "reml.html", "reml.json"),
        *("saved.html", "saved.json", "x.moments"),
    ]
    for path in tmp_path.iterdir():
        assert b"Pl4nted" not in path.read_bytes(), path.name
    source = json.loads(Path("page.json").read_text(encoding="utf-8"))["source"]
    assert "postgresql://postgres:***@/postgres?host=" in source["Data"]
    assert "reconcile --data 'postgresql://postgres:***@" in source["Command"]
    assert b"Pl4nted" not in Path("fit.nc").read_bytes()


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("pupils.csv", "pupils.csv"),
        ("a@b/wave:2.csv", "a@b/wave:2.csv"),
        ("duckdb:////home/a@b/f.db#s.t", "duckdb:////home/a@b/f.db#s.t"),
        ("postgresql://me@h:5432/db?sslmode=require#t",) * 2,
        ("postgresql://me:pw@h/db?user=u&password=pw&x=pw#t",
         "postgresql://me:***@h/db?user=u&password=***&x=***#t"),
        ("postgresql://me:***@h/db#t", "postgresql://me:***@h/db#t"),
        ("postgresql://me:a@b@h/db#t", "postgresql://***"),
        ("https:/h/f.csv?X-Amz-Signature=pw", "https:/h/f.csv?***"),
        ("what?.csv", "what?.csv"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_source(source: str, shown: str) -> None:
    assert hide_password(source) == shown
    assert hide_password(shown) == shown
    assert hide_passwords(f"cannot read '{source}' there") == f"cannot read '{shown}' there"


def test_a_sentence_without_a_secret_stays() -> None:
    for text in (
        "'y ~ a:b + I(x - 1) + (1 | g)' has no column 'a@b'; did you mean 'password'? x = 3",
        "give a path, duckdb:///file.db#table or postgresql://user@host/database#table",
    ):
        assert hide_passwords(text) == text


def test_a_server_that_repeats_the_password_is_not_repeated() -> None:
    url = "postgresql://me:p%40ssw0rd@h/db?options=secret1#t"
    assert hide_from("no 'p@ssw0rd', 'p%40ssw0rd' or secret1", url) == "no '***', '***' or ***"
    assert hide_from("invalid port x", "postgresql://me:x@h/db") == "***"
    assert hide_from("connection refused", url) == "connection refused"


def test_an_address_that_cannot_be_read_says_how_to_write_it() -> None:
    assert not is_readable("postgresql://me:a@b@h/db")
    for url in ("postgresql://me:a@b@h/db#t", "host=h password=ab dbname=d"):
        with pytest.raises(DataError, match=r"@ is %40.*PGPASSWORD or ~/\.pgpass"):
            bhlm.open_table(url)


def test_the_table_of_an_address_is_not_a_part_of_the_password() -> None:
    assert split_table("postgresql://me:a#b@h/db#s.t") == ("postgresql://me:a#b@h/db", "s.t")
    assert split_table("postgresql://me:a#b@h/db") == ("postgresql://me:a#b@h/db", "")
    assert split_table("duckdb:///a#b.db#t") == ("duckdb:///a#b.db", "t")
