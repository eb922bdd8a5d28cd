"""The standard errors of one fit by every convention, as text."""

from typing import TYPE_CHECKING

from bhlm.layout import align_columns, align_left, align_right, format_digits, show_name, wrap

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 78


def render_conventions(table: "pd.DataFrame") -> str:
    """Return the table of `compare_conventions` under the programs' names, and why they differ."""
    programs, why = table.attrs["programs"], table.attrs["why"]
    cells: list[tuple[str, ...]] = [
        ("", "", *programs.values()),
        ("", "estimate", *(f"{name} se" for name in programs)),
    ]
    for name, row in table.iterrows():
        numbers = (format_digits(row[key], 5) for key in ("estimate", *programs))
        cells.append((show_name(name), *numbers))
    sides = (align_left, *(align_right,) * (len(programs) + 1))
    lines = ["Standard errors as programs print them:", ""]
    lines += align_columns(cells, sides=sides, gap="  ")
    for name, sentence in why.items():
        lines += ["", *wrap(f"{name} ({programs[name]}): {sentence}.", WIDTH)]
    return "\n".join(lines)
