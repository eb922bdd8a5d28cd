"""What a written file takes the place of, and what it leaves as it was."""

import gc
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bhlm.errors import DataError
from bhlm.files import check_output, replace_file, write_text
from bhlm.plots import Figure
from bhlm.plots.marks import Axis, Panel, Points
from bhlm.plots.style import ROLES
from bhlm.reports.models.layout import Layout, Line
from bhlm.reports.models.table import ModelTable


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    write_text("new", path)
    assert path.read_text() == "new"
    assert mode_of(path) == mode


def test_a_file_that_is_protected_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # which the superuser may anyway
    for write in (partial(write_text, "new"), check_output):
        with pytest.raises(DataError, match=r"a\.txt', which is protected against writing"):
            write(path)
    assert path.read_text() == "old"


def test_a_new_file_has_the_mode_that_new_files_get(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_text("new", tmp_path / "a.txt")
    assert mode_of(tmp_path / "a.txt") == mode_of(tmp_path / "other")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_keeps_its_target(is_there: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a.txt", tmp_path / "link.txt"
    if is_there:
        target.write_text("old")
    middle = tmp_path / "middle.txt"
    middle.symlink_to(target)
    link.symlink_to("middle.txt")
    write_text("new", link)
    assert link.is_symlink()
    assert middle.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("a.txt", "far", "link.txt", "middle.txt"),
    ]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text("much " * 100_000, pipe)
    reader.join(20)
    assert found == ["much " * 100_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_block_that_raises_writes_nothing_to_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with suppress(ZeroDivisionError), replace_file(pipe) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    # A writer that opens the pipe would wait for a reader, and there is none.
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_devices_stay_devices() -> None:
    write_text("new", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(DataError, match=r"cannot write '/dev/full' \(No space left on device\)"):
        write_text("new", "/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_standard_output_that_is_a_file_is_written_to(tmp_path: Path) -> None:
    code = (
        "import sys; from bhlm.files import write_text; print('before', flush=True); "
        "write_text('new\\n', '/dev/stdout'); print('after')"
    )
    with (tmp_path / "out.txt").open("a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, timeout=60)
    assert (tmp_path / "out.txt").read_text() == "before\nnew\nafter\n"


@contextmanager
def without_room() -> Iterator[None]:
    """Files cannot grow beyond a few bytes, as on a full disk; nor can what pytest prints into."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["a.svg", "a.pdf", "a.png", "a.html", "a.tex", "a.docx"])
def test_a_disk_without_room_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    points = Points(np.arange(99.0), np.arange(99.0), next(iter(ROLES)))
    panels = (Panel(Axis("x"), Axis("y"), (points,)),)
    result: Figure | ModelTable = Figure("a", "A", "Read.", None, panels)
    if name in ("a.tex", "a.docx"):
        pytest.importorskip("docx")
        many = tuple(Line(str(each), ("1",)) for each in range(500))
        result = ModelTable((), (), Layout(("y",), ("REML",), (("", many),), ()))
    said = rf"cannot write '.*{name}' \(File too large\)"
    with without_room(), pytest.raises(DataError, match=said):
        result.save(tmp_path / name)
    del result
    gc.collect()
    assert (list(tmp_path.iterdir()), lost) == ([], [])
