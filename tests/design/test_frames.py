"""Frames of engines that stop before they are done."""

import os
import signal
from threading import Timer

import duckdb
import narwhals as nw
import polars as pl
import pytest

from bhlm.design.frames import collect_frame
from bhlm.errors import DataError


def test_ctrl_c_in_a_database_is_no_fault_of_the_table() -> None:
    # With more threads DuckDB may leave the query to another one, and not look for signals before
    # its end. It is half a minute of work: an interrupt that is not heard fails and does not hang.
    connection = duckdb.connect(config={"threads": 1})
    long = connection.sql("select sum(a.range * b.range) from range(1000000) a, range(3000) b")
    Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        collect_frame(nw.from_native(long).lazy())


def test_what_an_engine_cannot_compute_is_told() -> None:
    wrong = pl.LazyFrame({"a": ["x"]}).select(pl.col("a").cast(pl.Int64))
    with pytest.raises(DataError, match="polars stopped while it read the table"):
        collect_frame(nw.from_native(wrong))
