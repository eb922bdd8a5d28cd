"""Where a page and its twin in JSON stand."""

import json
import os
from pathlib import Path

from bhlm.errors import DataError
from bhlm.files import check_output

TWIN = {"title", "model", "outcome", "source", "sections"}  # keys of every page's .json


def name_twin(path: Path) -> Path:
    """Return where the numbers of a page stand."""
    return path.with_suffix(".json")


def check_path(path: str | Path) -> Path:
    """Return the path of a page that can be written.

    Raises:
        DataError: another ending than .html or .htm; a folder that does not exist or cannot be
            written to; a folder in the file's place; a .json beside it that no page wrote.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"'{path}' is not a page's file; end it in .html")
    check_output(path)
    twin = name_twin(path)
    if os.path.isdir(twin):
        raise DataError(
            f"cannot write the numbers of '{path}' to '{twin}', which is a folder; choose another "
            f"name than '{path.name}'"
        )
    if os.path.lexists(twin) and not _is_twin(twin):
        raise DataError(
            f"cannot write the numbers of '{path}' to '{twin}', which is there and was written by "
            f"no page; choose another name than '{path.name}', or move that file"
        )
    return path


def _is_twin(path: Path) -> bool:
    """Return whether a file holds the numbers of a page, which the next page may replace."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= TWIN
