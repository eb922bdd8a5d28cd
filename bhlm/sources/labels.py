"""Spellings of labels in a text file -> their type, under which no two of them merge.

A label is read as a number only where the number is spelled in the one way in which it is printed:
7, but not 007, +7, 7e0 or " 7". So 0007 and 7 stay two schools, and 0007 keeps its zeros.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

# Patterns in what Python's re and DuckDB's RE2 have in common.
INTEGER = "0|-?[1-9][0-9]{0,18}"
# Up to 15 digits, which a double gives back as they were.
DECIMAL = "-?(0|[1-9][0-9]*)[.]([0-9]*[1-9]|0)"
DIGITS = 15
TRUTHS = ("True", "False"), ("true", "false"), ("TRUE", "FALSE")
SMALLEST, LARGEST = -(2**63), 2**63 - 1
# A number with zeros or blanks in front, or blanks behind, where a field of a text file may begin
# or end, whatever separates fields.
PADDED = re.compile(
    rb"(?:^|[^0-9A-Za-z.+-])[+-]?0[0-9]|"
    rb"[^0-9A-Za-z.+ -] +[+-]?[.]?[0-9]|[0-9.] +(?:[^0-9A-Za-z ]|$)"
)
PADDED_FIELD = "^[+-]?0[0-9]|^\\s|\\s$"  # the same of a field alone
# A number of so many digits that it may lie beyond 2^53.
WIDE = re.compile(rb"(?:^|[^0-9A-Za-z.+-])[+-]?[0-9]{16}")
DIGITS_ALONE = "[+-]?[0-9]+"


class Spellings(NamedTuple):
    """What is to be known of the spellings of a column, to choose its type."""

    integers: bool  # each is an integer of 64 bits
    numbers: bool  # each is an integer or a decimal of at most 15 digits
    whole: bool  # some is an integer without a decimal point
    pointed: bool  # some ends in .0
    truths: bool  # each is a truth value, all in one style


def choose_type(found: Spellings) -> str:
    """Return "integer", "decimal", "boolean" or "text"."""
    if found.integers:
        return "integer"
    # 2 and 2.0 would be one number.
    if found.numbers and not (found.whole and found.pointed):
        return "decimal"
    return "boolean" if found.truths else "text"


def survey_spellings(texts: Collection[str]) -> Spellings:
    """Return what `choose_type` needs to know of distinct texts."""
    is_whole = [re.fullmatch(INTEGER, text) is not None for text in texts]
    numbers = all(
        (whole or (re.fullmatch(DECIMAL, text) and text != "-0.0"))
        and sum(map(str.isdigit, text)) <= DIGITS
        for text, whole in zip(texts, is_whole, strict=True)
    )
    return Spellings(
        integers=all(is_whole) and all(SMALLEST <= int(text) <= LARGEST for text in texts),
        numbers=numbers,
        whole=any(is_whole),
        pointed=any(text.endswith(".0") for text in texts),
        truths=any(set(texts) <= set(style) for style in TRUTHS),
    )


def settle_labels(column: "pd.Series[str]") -> "pd.Series":
    """Return a column that was read as text in the type of its labels."""
    import pandas as pd

    codes, texts = pd.factorize(column)
    kind = choose_type(survey_spellings(texts.tolist())) if len(texts) else "text"
    if kind == "text":
        return column
    read = {
        "integer": lambda: pd.array([int(text) for text in texts], dtype="Int64"),
        "decimal": lambda: pd.array([float(text) for text in texts], dtype="Float64"),
        "boolean": lambda: pd.array([text.lower() == "true" for text in texts], dtype="boolean"),
    }[kind]()
    taken = read.take(codes, allow_fill=True)
    plain = {"integer": "int64", "decimal": "float64", "boolean": "bool"}[kind]
    if not taken.isna().any():
        taken = taken.to_numpy(plain)
    elif kind == "decimal":
        taken = taken.to_numpy("float64", na_value=float("nan"))
    return pd.Series(taken, index=column.index, name=column.name)


def holds_integers(column: "pd.Series[str]") -> bool:
    """Return whether a column of text holds integers alone."""
    texts = column.dropna().unique()
    return len(texts) > 0 and all(re.fullmatch(DIGITS_ALONE, text) for text in texts)


def settle_integers(column: "pd.Series[str]") -> "pd.Series":
    """Return a column of integers that was read as text in the type that holds them all.

    Beyond 64 bits that is text.
    """
    import pandas as pd

    codes, texts = pd.factorize(column)
    numbers = [int(text) for text in texts]
    if (
        min(numbers) < SMALLEST
        or max(numbers) >= 2**64
        or (min(numbers) < 0 <= LARGEST < max(numbers))
    ):
        return column
    dtype = "Int64" if max(numbers) <= LARGEST else "UInt64"
    taken = pd.array(numbers, dtype=dtype).take(codes, allow_fill=True)
    whole = taken if taken.isna().any() else taken.to_numpy(dtype.lower())
    return pd.Series(whole, index=column.index, name=column.name)


def merges_spellings(column: "pd.Series[str]") -> bool:
    """Return whether a column of text, read as numbers, would make one of two spellings."""
    import pandas as pd

    texts = pd.Series(column.dropna().unique())
    numbers = pd.to_numeric(texts, errors="coerce")
    return bool(numbers.notna().all() and numbers.duplicated().any())
