"""Folders that are replaced: the old one stays until the new one is whole."""

import os

import pytest

from bhlm.errors import DataError
from bhlm.files import (
    name_previous,
    recover_folder,
    remove_unfinished,
    replace_folder,
)


def fill(folder, name):
    folder.mkdir()
    (folder / name).touch()
    return folder


def list_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
def test_the_new_content_takes_the_place_of_the_old(tmp_path, there):
    target = tmp_path / "here"
    if there:
        fill(target, "old")
    with replace_folder(target) as fresh:
        (fresh / "new").touch()
        assert target.exists() == there
    assert list_below(tmp_path) == ["here", "here/new"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_folder_stays_when_the_block_raises(tmp_path):
    target = fill(tmp_path / "here", "old")

    def fail() -> None:
        with replace_folder(target) as fresh:
            (fresh / "new").touch()
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert list_below(tmp_path) == ["here", "here/old"]


def test_what_a_killed_writer_had_moved_is_put_back(tmp_path):
    target = tmp_path / "here"
    fill(name_previous(target), "old")
    recover_folder(target)
    assert list_below(tmp_path) == ["here", "here/old"]
    fill(name_previous(target), "older")
    recover_folder(target)
    assert list_below(target) == ["old"]
    with replace_folder(target) as fresh:
        assert not name_previous(target).exists()
        (fresh / "new").touch()
    assert list_below(tmp_path) == ["here", "here/new"]


def test_only_leftovers_of_the_target_are_removed(tmp_path):
    names = [".here.ab_12.saving", ".here.b.ab12.saving", ".here.saving", ".xhere.ab12.saving"]
    for name in names:
        fill(tmp_path / name, "part")
    (tmp_path / ".here.file.saving").touch()
    remove_unfinished(tmp_path / "here")
    assert set(os.listdir(tmp_path)) == {*names[1:], ".here.file.saving"}


def test_a_folder_around_that_does_not_exist_is_named(tmp_path):
    with (
        pytest.raises(DataError, match=r"here' \(No such file or directory\); choose a"),
        replace_folder(tmp_path / "away" / "here"),
    ):
        pass
