"""Values that JSON can hold, and their file."""

import json

import numpy as np
import pytest

from bhlm.errors import DataError
from bhlm.files import make_plain, write_json


def test_numbers_become_those_that_json_can_hold():
    value = {"a": np.float64(1.5), "b": [np.nan, np.inf, np.int64(3)], "c": np.bool_(True)}
    assert make_plain(value) == {"a": 1.5, "b": [None, None, 3], "c": True}


def test_arrays_become_lists_of_numbers():
    value = {1: np.array([[1.0, np.nan], [-np.inf, 2.0]]), "n": (np.arange(2), np.array(3))}
    assert make_plain(value) == {"1": [[1.0, None], [None, 2.0]], "n": [[0, 1], 3]}
    kept = json.loads(json.dumps(make_plain(value, finite=False)))
    np.testing.assert_array_equal(kept["1"], value[1])


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="choose a folder that exists"):
        write_json({}, tmp_path / "no" / "out.json")


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.json"
    write_json({"old": 1}, path)
    with pytest.raises(TypeError):
        write_json({"new": object()}, path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
