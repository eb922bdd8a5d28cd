"""The levels of a categorical column, in the order in which a design has them."""

import re
from difflib import get_close_matches

import narwhals as nw
import numpy as np

from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import Apply, Expression, Name
from bhlm.design.frames import Frame, collect_frame
from bhlm.design.rows import SHOWN_COLUMNS, Layout
from bhlm.errors import DataError
from bhlm.layout import print_label

# Each level is a column of every group's cross-product; more than this is an identifier.
MAX_LEVELS = 500
# Up to so many numbers or dates as text may well be codes of categories.
FEW = 12
NUMBER = re.compile(r"\s*[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?\s*%?")
DATE = re.compile(r"\s*[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}([ T][0-9:.]*Z?)?\s*")
EXACT = 2.0**53  # up to which every integer is a double


def check_exact(labels: np.ndarray, what: str) -> None:
    """Raise `DataError` where labels are doubles so large that different ones may have merged.

    Beyond 2^53 not every integer is a double.
    """
    if labels.dtype.kind != "f" or labels.dtype.itemsize == 2:  # of halves none is so large
        return
    large = labels[np.abs(labels) >= EXACT]
    if len(large):
        raise DataError(
            f"{what} holds numbers such as {large[0]:.0f} as doubles, which do not tell integers "
            "beyond 2^53 apart, so that labels may have merged; read it as integers (in pandas "
            "with dtype='Int64', where some are missing) or as text"
        )


def find_levels(factor: Expression, rows: Frame, layout: Layout) -> tuple[Level, ...]:
    """Return the levels that occur, the reference first and then in the order of the column.

    That order is the categories' own where the engine keeps one, else numeric or alphabetic.
    """
    safe = layout.categories[str(factor)]
    if isinstance(rows, nw.LazyFrame):
        # unique() of a database is a window over all rows; its GROUP BY streams them.
        series = collect_frame(rows.group_by(safe).agg(nw.len().alias("n")))[safe]
    else:
        series = rows[safe].unique()
    dtype = rows.collect_schema()[safe]
    if isinstance(dtype, (nw.Enum, nw.Categorical)):
        series = series.sort().cast(nw.String)
    levels = series.to_list()
    if isinstance(dtype, nw.Enum):
        order = {str(category): i for i, category in enumerate(dtype.categories)}
        levels.sort(key=lambda level: order[level])
    elif not isinstance(dtype, nw.Categorical):
        try:
            levels.sort()
        except TypeError:  # pandas' objects are text by their first rows
            kinds = sorted({type(level).__name__ for level in levels})
            raise DataError(
                f"the categorical column '{factor}' holds values of several types "
                f"({', '.join(kinds)}), which have no order; give it one type"
            ) from None
    return arrange_levels(factor, levels, is_meant=isinstance(dtype, (nw.Enum, nw.Categorical)))


def arrange_levels(
    factor: Expression, levels: list[Level], *, is_meant: bool = False
) -> tuple[Level, ...]:
    """Return ordered levels with the reference first; raise `DataError` if they cannot serve.

    Text of a column that is not called categorical, neither by C() nor by its type, must not look
    like numbers or dates: each would be a level of its own. `is_meant` says that its type does.
    """
    if isinstance(factor, Name) and not is_meant:
        _check_meant(factor, [level for level in levels if isinstance(level, str)])
    check_exact(np.asarray(levels), f"the categorical column '{factor}'")
    large = [level for level in levels if isinstance(level, int) and level >= 2**63]
    if large:
        raise DataError(
            f"the categorical column '{factor}' holds {large[0]}, and integers beyond 2^63 are not "
            "told apart by every engine; make it a column of text"
        )
    if len(levels) < 2:
        raise DataError(
            f"the categorical column '{factor}' has one level only in the complete rows, "
            f"{levels[0]!r}; remove the term"
        )
    if len(levels) > MAX_LEVELS:
        raise DataError(
            f"the categorical column '{factor}' has {len(levels)} levels, and more than "
            f"{MAX_LEVELS} look like an identifier; remove the term or merge levels"
        )
    reference = factor.option("reference") if isinstance(factor, Apply) else None
    if reference is None:
        return tuple(levels)
    for level in levels:
        if print_label(level) == print_label(reference):
            return (level, *(other for other in levels if other != level))
    close = get_close_matches(str(reference), [str(level) for level in levels], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    shown = ", ".join(print_label(level) for level in levels[:SHOWN_COLUMNS])
    raise DataError(f"'{factor}' has no level {reference!r}; {hint}its levels are: {shown}")


def _check_meant(factor: Name, texts: list[str]) -> None:
    """Raise `DataError` where texts are numbers or dates that were not read as such."""
    numbers = [text for text in texts if NUMBER.fullmatch(text)]
    dates = [text for text in texts if DATE.fullmatch(text)]
    others = [text for text in texts if not NUMBER.fullmatch(text)]
    if 2 * len(numbers) >= len(texts) > 1 and (others or len(texts) > FEW):
        but = f", but for {', '.join(map(repr, others[:3]))}" if others else ""
        raise DataError(
            f"column '{factor.name}' is text, and {len(numbers)} of its {len(texts)} distinct "
            f"texts look like numbers{but}; make it a column of numbers, with what is missing as "
            f"such, or write C({factor}) if each text is a category"
        )
    if 2 * len(dates) >= len(texts) > FEW:
        raise DataError(
            f"column '{factor.name}' is text, and {len(dates)} of its {len(texts)} distinct texts "
            f"look like dates, such as {dates[0]!r}; make it a column of numbers, such as days "
            f"since the first, or write C({factor}) if each date is a category"
        )
