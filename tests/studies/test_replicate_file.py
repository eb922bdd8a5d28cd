"""The file of finished replicates: resumable after a kill, closed to other studies."""

import json

import pytest

from bhlm.errors import DataError
from bhlm.studies.replicate_file import append_replicate, encode_line, open_replicates

IDENTITY = {
    "study": "calibration",
    "seed": 1,
    "priors": [["Normal", 0.1, 2.0]],
    "blocks": (("a",),),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replicates.jsonl"


def write_two(path):
    assert open_replicates(path, IDENTITY) == {}
    for number in (4, 0):
        append_replicate(path, {"replicate": number, "ranks": [number, 7]})


def test_what_is_written_is_read(path):
    write_two(path)
    found = open_replicates(path, IDENTITY)
    assert found == {n: {"replicate": n, "ranks": [n, 7]} for n in (4, 0)}
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("kept", [1, 5, -1])
def test_a_half_written_line_is_dropped(path, kept):
    write_two(path)
    whole = path.read_bytes()
    line = encode_line({"replicate": 2, "ranks": [2, 7]})
    path.write_bytes(whole + line[:kept])
    assert sorted(open_replicates(path, IDENTITY)) == [0, 4]
    assert path.read_bytes() == whole
    append_replicate(path, {"replicate": 2, "ranks": [2, 7]})
    assert sorted(open_replicates(path, IDENTITY)) == [0, 2, 4]


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_half_written_header_is_written_anew(path, kept):
    path.write_bytes(encode_line(IDENTITY)[:kept])
    assert open_replicates(path, IDENTITY) == {}
    assert path.read_bytes() == encode_line(IDENTITY)


def test_a_number_counts_once(path):
    write_two(path)
    append_replicate(path, {"replicate": 4, "ranks": [9, 9]})
    assert open_replicates(path, IDENTITY)[4]["ranks"] == [4, 7]


def test_another_study_is_refused_with_the_reason(path):
    write_two(path)
    before = path.read_bytes()
    for other, reason in (
        (IDENTITY | {"seed": 2}, "its seed is 1, here it is 2"),
        (IDENTITY | {"priors": [["Normal", 0.2, 2.0]]}, "its priors"),
        (IDENTITY | {"more": 1}, "its more is None"),
        ({key: IDENTITY[key] for key in ("study", "seed", "priors")}, "its blocks"),
    ):
        with pytest.raises(DataError, match=reason):
            open_replicates(path, other)
    assert path.read_bytes() == before


OTHER_FILES = [
    b"a,b\n1,2\n",
    b"no newline",
    b'{"study": "other"}\n',
    b"[1]\n",
    b"\x00\xff\n",
    b"\n",
]


@pytest.mark.parametrize("content", OTHER_FILES)
def test_a_file_of_something_else_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a file of calibration replicates"):
        open_replicates(path, IDENTITY)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"rubbish", b"[1]", b'{"ranks": [1]}', b'{"replicate": "a"}'])
def test_a_spoiled_line_is_named(path, line):
    write_two(path)
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError, match="line 4 of"):
        open_replicates(path, IDENTITY)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "nowhere" / "file", tmp_path):
        with pytest.raises(DataError, match="cannot hold replicates"):
            open_replicates(path, IDENTITY)


def test_a_disk_that_is_full_is_named(tmp_path):
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"full' cannot take more replicates \(No space left"):
        append_replicate(path, {"replicate": 1})


def test_numbers_come_back_as_they_were():
    numbers = [0.1, 1e-300, 2.0**60, 1.0 / 3.0]
    assert json.loads(encode_line({"n": numbers}))["n"] == numbers
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_line({"n": float("nan")})
