"""Fixtures that every test module may use: the data, the reference values, the printed ones."""

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The matrices here are small: threads of BLAS would only get in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
import pytest
from postgres_server import serve_postgres

from bhlm.sources.datasets import load_hsb

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def hsb() -> pd.DataFrame:
    """Pupils joined with schools. Copy it before changing it: all tests share it."""
    return load_hsb()


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """REML and ML answers of the four models of chapter 4, as 16-digit strings, by model name."""
    return json.loads((REFERENCE / "hsb_reml.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def printed() -> dict[str, Any]:
    """Every value that Stata printed for Table 4.4, as the strings that it printed."""
    return tomllib.loads((REFERENCE / "stata_table_4_4.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the tests."""
    with serve_postgres() as url:
        yield url
