"""Numbers and names -> text of a given width, for every style of table."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from textwrap import wrap as wrap_words

from rich.cells import cell_len

from bhlm.errors import ArgumentError

MISSING = "."
UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories that break a line or hide text
JOINERS = "\u200c\u200d"  # of letters, in Persian and Hindi words
NARROWEST = 8  # below this width Stata's format has no room for an exponent

SCREEN = 30  # lines of what is shown unasked
WIDEST = 160  # characters of a line of it


def format_g(value: float, width: int = 9) -> str:
    """Return a number as Stata's %`width`.0g prints it; "." for one that is not finite.

    At most width - 2 digits, no zero before the point, none at the end. Numbers from
    10^(width - 2) on, or below 1e-5, have an exponent and keep their zeros: 1.00e+07.

    Raises:
        ArgumentError: a width below 8.
    """
    if width < NARROWEST:
        raise ArgumentError(f"width={width!r} is too narrow for a number; give at least 8")
    if not math.isfinite(value):
        return MISSING
    size, sign = abs(value), "-" if value < 0 else ""
    if size == 0.0:
        return "0"
    digits = width - 2
    exponent = int(f"{size:.{digits - 1}e}".split("e")[1])  # after rounding: .99999999 is 1
    if -5 <= exponent < digits:
        decimals = digits - 1 - max(exponent, -1)
        text = f"{size:.{decimals}f}"
        return sign + (text.rstrip("0").rstrip(".") if decimals else text).removeprefix("0")
    text = f"{size:.{width - 7}e}"
    if len(text) > width - 1:  # an exponent of three digits
        text = f"{size:.{width - 8}e}"
    return sign + text


def format_fixed(value: float, decimals: int) -> str:
    """Return a number with `decimals` places; "." for one that is not finite."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else MISSING


def format_digits(value: float, digits: int) -> str:
    """Return a number with `digits` significant digits, integers whole; "." if not finite."""
    if not math.isfinite(value):
        return MISSING
    if value == 0.0:
        return "0"
    exponent = int(f"{abs(value):.{digits - 1}e}".split("e")[1])
    if -5 <= exponent < 9:
        return f"{value:.{max(digits - 1 - exponent, 0)}f}"
    return f"{value:.{digits - 1}e}"


def print_label(label: object) -> str:
    """Return a label or level as text; 2.0 as 2, so that engines agree.

    Some make doubles of integers of which one is missing, and some files hold nothing but doubles.
    """
    if isinstance(label, Real) and not isinstance(label, Integral) and float(label).is_integer():
        return str(int(float(label)))
    return str(label)


def format_percent(share: float, decimals: int = 0) -> str:
    """Return a share as a per cent, such as "79 %"."""
    return f"{100.0 * share:.{decimals}f} %"


def show_name(name: object) -> str:
    """Return a name for one line of text: what breaks or hides it is written as an escape."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in UNSHOWN and char not in JOINERS
        else char
        for char in print_label(name)
    )


def name_unit(group: str, label: str) -> str:
    """Return a group for a sentence: "school 8367"; a label that says what it is stands alone.

    Of groups "clinic" that are labelled "clinic no. 7" nobody would write "clinic clinic no. 7".
    """
    says = label.lower().startswith(group.lower()) and not label[len(group) :][:1].isalnum()
    return label if says and len(label) > len(group) else f"{group} {label}"


def wrap(text: str, width: int, *, indent: int = 0) -> list[str]:
    """Return the lines of a sentence, broken at spaces only, so that no name is cut."""
    return wrap_words(
        show_name(text),
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 parameter", "1,200 parameters"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def agree(number: int, one: str, many: str) -> str:
    """Return the verb that a number takes: "has" of 1, "have" of others."""
    return one if number == 1 else many


def list_names(names: Sequence[str], *, most: int = 3) -> str:
    """Return names as a list in a sentence: "a", "a and b", "a, b, c and 4 more"."""
    texts = list(names[:most])
    if len(names) > most:
        texts.append(f"{len(names) - most} more")
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def name_some(labels: Sequence[object], *, most: int = 5) -> str:
    """Return labels for a sentence, the first few by name: "a, b, c, d, e and 4 more"."""
    names = ", ".join(show_name(label) for label in labels[:most])
    return names + (f" and {len(labels) - most} more" if len(labels) > most else "")


def shorten(text: str, *, whole: str, most: int = SCREEN) -> str:
    """Return lines of text that fit on a screen: where there are more, the middle is left out.

    Args:
        text: the lines.
        whole: what shows all of them, such as "print(fit.summary())".
        most: lines that are shown.
    """
    lines = text.split("\n")
    if len(lines) > most:
        last = most // 3
        left = len(lines) - most + 1
        note = f"... {left} lines are left out here; {whole} shows them"
        lines = [*lines[: most - last - 1], note, *lines[-last:]]
    return "\n".join(line if len(line) <= WIDEST else f"{line[: WIDEST - 1]}…" for line in lines)


def align_left(text: str, width: int) -> str:
    """Return text filled with spaces on its right; a wide character takes two columns."""
    return text + " " * (width - cell_len(text))


def align_right(text: str, width: int) -> str:
    """Return text filled with spaces on its left; a wide character takes two columns."""
    return " " * (width - cell_len(text)) + text


def measure_widest(texts: Sequence[str], *, least: int = 0) -> int:
    """Return the columns that the widest text takes, `least` or more."""
    return max([least, *map(cell_len, texts)])


def align_columns(
    rows: Sequence[Sequence[str]],
    *,
    sides: Sequence[Callable[[str, int], str]],
    gap: str = " ",
) -> list[str]:
    """Return one line per row, each column as wide as its widest cell; no spaces at the end.

    Args:
        rows: cells, the same number in every row.
        sides: `align_left` or `align_right`, one per column.
        gap: what stands between two columns.
    """
    widths = [measure_widest(column) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
