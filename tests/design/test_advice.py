"""What a message says to those who come from another program, or misspell a name."""

import numpy as np
import pandas as pd
import pytest

import bhlm

TABLE = pd.DataFrame(
    {
        "y": np.arange(60.0) % 7,
        "race": np.tile([1, 2, 3], 20),
        "study-hours": np.arange(60.0) % 11,
        "ses": np.arange(60.0) % 13,
        "Class Size": np.arange(60.0) % 5,
        "g": np.repeat(range(10), 6),
    }
)

ADVICE = {
    "y ~ i.race + (1 | g)": "did you mean C(race)?",
    "y ~ c.ses + (1 | g)": "did you mean 'ses'?",
    "y ~ SES + (1 | g)": "did you mean 'ses'?",
    "y ~ ses + (1 | G)": "did you mean 'g'?",
    "y ~ ses + study-hours + (1 | g)": "write the column 'study-hours' in backquotes, as `study-",
    "y ~ Class Size + (1 | g)": "a column called 'Class Size' in backquotes",
    "y ~ factor(race) + (1 | g)": "did you mean C?",
    "y ~ race##ses + (1 | g)": "write a:b for a#b, and a*b for a##b",
}


@pytest.mark.parametrize("formula", ADVICE)
def test_a_refused_formula_says_what_to_write(formula):
    with pytest.raises(bhlm.BhlmError) as caught:
        bhlm.Model(formula, TABLE)
    assert ADVICE[formula] in str(caught.value)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_another_separator_is_named(mark, tmp_path):
    path = tmp_path / "rows.csv"
    TABLE.to_csv(path, sep=mark, index=False)
    with pytest.raises(bhlm.BhlmError) as caught:
        bhlm.Model("y ~ ses + (1 | g)", path)
    assert f"it seems to be separated by {mark!r}, so give separator={mark!r}" in str(caught.value)
    with pytest.raises(bhlm.BhlmError) as caught:
        bhlm.Model("y ~ ses + (1 | g)", pd.read_csv(path))
    assert f"so its separator is {mark!r}: read it by pandas.read_csv" in str(caught.value)


def test_a_table_in_the_place_of_a_model_is_told_where_it_goes():
    with pytest.raises(bhlm.BhlmError, match=r"'my\.csv' is a table .*; give it as --data with"):
        bhlm.find_model("my.csv")


def test_a_column_to_centre_is_found_without_regard_to_case():
    with pytest.raises(bhlm.BhlmError, match="did you mean 'ses'"):
        bhlm.center_grand(TABLE, "SES")
