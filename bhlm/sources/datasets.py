"""The data sets that the package ships: High School and Beyond, and those of the gallery."""

from difflib import get_close_matches
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError, check_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    import pyarrow as pa


@check_arguments
def load_hsb(*, level: int | None = None) -> "pd.DataFrame":
    """High School and Beyond, 1982: 7185 pupils in 160 schools, as a pandas DataFrame.

    By default pupils joined with their schools, in the order of the pupils' file, with the
    columns school, minority, female, ses, mathach, size, sector, pracad, disclim, himinty,
    meanses. `level=1` gives the pupils' file alone (7185 rows, 5 columns), `level=2` the
    schools' (160 rows, 7 columns), as Raudenbush & Bryk (2002, chapter 4) use them.

    `school` is an integer label. `meanses` is rounded: it differs from the mean of the
    pupils' ses by up to 0.0065, so `gm(ses)` in a formula is not the same variable.

    Raises ArgumentError if level is not None, 1 or 2.
    """
    if level is None:
        pupils, schools = _read_shipped("hsb_students.csv"), _read_shipped("hsb_schools.csv")
        return pupils.merge(schools, on="school", how="left", validate="many_to_one")
    if level == 1:
        return _read_shipped("hsb_students.csv")
    if level == 2:
        return _read_shipped("hsb_schools.csv")
    raise ArgumentError(
        f"load_hsb has no level {level!r}; give 1 for pupils, 2 for schools, or None for both"
    )


@check_arguments
def load_dataset(name: str) -> "pd.DataFrame":
    """A data set of the gallery by its name, as a new pandas DataFrame.

    The names are those of `DATASETS`, which `[data] dataset` of a gallery file uses too:
    body_weight, dyestuff, dyestuff2, ergo_stool, exam, expectancy, hsb (as `load_hsb()`),
    orthodont, oxboys, rail, sleepstudy; with several grouping columns chem97, egsingle, inst_eval,
    pastes, penicillin, productivity, school_calendar, scots_sec; of zeros and ones and of
    proportions cbpp, contraception, grade_repetition, toenail; with plausible values and sampling
    weights pisa_nz; sleepstudy_weights is sleepstudy with weights of two. What the columns mean,
    where they were measured and by whom they were published stands in bhlm/sources/data/README.md.
    Labels of groups are as in the source: some are text, some are integers.

    Raises ArgumentError if there is no data set of that name.
    """
    if isinstance(name, str) and name in DATASETS:
        return DATASETS[name]()
    close = get_close_matches(str(name), DATASETS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(DATASETS)}"
    raise ArgumentError(f"no data set {name!r} is shipped; {hint}")


def open_dataset(name: str) -> "pa.Table":
    """Return a data set of the gallery as an Arrow table: as `load_dataset` has it, sooner."""
    import pyarrow as pa
    from pyarrow import csv

    def read(file: str) -> pa.Table:
        kinds = csv.ConvertOptions(strings_can_be_null=True)
        with files("bhlm.sources").joinpath("data", file).open("rb") as packed:
            stream = pa.CompressedInputStream(packed, "gzip") if file.endswith(".gz") else packed
            return csv.read_csv(stream, convert_options=kinds)

    if name != "hsb":
        return read(f"{name}.csv" if name in _ONE_FILE else f"{name}.csv.gz")
    pupils, schools = read("hsb_students.csv"), read("hsb_schools.csv")
    # by NumPy: `take` loads pyarrow.compute, `to_numpy` and `pa.array` pandas, which take longer
    known, own = (np.from_dlpack(each["school"].combine_chunks()) for each in (schools, pupils))
    row = np.searchsorted(known, own)
    for name in schools.column_names[1:]:
        column = schools[name].combine_chunks()
        values = pa.py_buffer(np.from_dlpack(column)[row])
        pupils = pupils.append_column(
            name, pa.Array.from_buffers(column.type, len(row), [None, values])
        )
    return pupils


def _read_shipped(name: str) -> "pd.DataFrame":
    import pandas as pd

    packed = "gzip" if name.endswith(".gz") else None
    with files("bhlm.sources").joinpath("data", name).open("rb") as stream:
        return pd.read_csv(stream, compression=packed)


_ONE_FILE = (
    *("body_weight", "dyestuff", "dyestuff2", "ergo_stool", "exam"),
    *("expectancy", "orthodont", "oxboys", "rail", "sleepstudy", "sleepstudy_weights"),
    *("pastes", "penicillin", "productivity", "school_calendar", "scots_sec"),
    *("cbpp", "contraception", "grade_repetition", "toenail"),
)
_PACKED = ("chem97", "egsingle", "inst_eval", "pisa_nz")  # of more than 200 KB as plain text
DATASETS: "dict[str, Callable[[], pd.DataFrame]]" = {
    "hsb": load_hsb,
    **{name: partial(_read_shipped, f"{name}.csv") for name in _ONE_FILE},
    **{name: partial(_read_shipped, f"{name}.csv.gz") for name in _PACKED},
}
