"""The figures of seconds: speed_reml.csv, speed_bayes.txt, and the posteriors of gallery.csv."""

from pathlib import Path

import numpy as np
import pandas as pd

from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Note, Panel, Points
from bhlm.plots.style import SERIES, shorten

LONGEST = 34  # characters of a reason
ROW = 34  # pixels
WIDE = 40.0  # the axis goes on so many times beyond the largest value, for the texts beside it
NUMBERS = ("first", "second", "ess_bulk", "ess_tail", "rate", "ratio")
# Where the columns of speed_bayes.txt begin and end, as speed_bayes.py prints them.
COLUMNS = ((0, 20), (21, 30), (31, 39), (40, 49), (50, 59), (60, 69), (70, 78), (79, 87))


def read_speed_bayes(path: Path) -> pd.DataFrame:
    """Return a row per program of the first table: numbers, or a note that says why none."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("program "))
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        program, version, *texts = (line[first:last].strip() for first, last in COLUMNS)
        try:
            values = [float(text) if text else np.nan for text in texts]
        except ValueError:  # the line is the program and why it has no numbers
            rows.append({"program": program, "note": line[21:].strip()})
            continue
        row = {"program": program, "version": version, "note": ""}
        rows.append(row | dict(zip(NUMBERS, values, strict=True)))
    return pd.DataFrame(rows, columns=["program", "version", *NUMBERS, "note"])


def plot_reml_seconds(table: pd.DataFrame) -> Figure:
    """Return the figure of seconds of a REML fit, a panel for each size of data."""
    seconds = table["seconds"]
    panels = tuple(
        draw_rows(
            part["program"], part["seconds"], part["note"].fillna("no seconds"), title=name,
            span=(float(seconds.min()), float(seconds.max())),
            label="seconds, from dataframe to standard errors",
        )
        for name, part in table.groupby("data", sort=False)
    )  # fmt: skip
    parts = []
    for name, part in table.groupby("data", sort=False):
        ours = part.loc[part["program"] == "bhlm", "seconds"].iloc[0]
        theirs = part[(part["program"] != "bhlm") & part["seconds"].notna()]
        if not len(theirs):
            parts.append(f"{name}: no rival has a time beside bhlm's {ours:.2g} s")
            continue
        ratios = theirs["seconds"] / ours
        span = f"{ratios.min():.3g}"
        if len(theirs) > 1:
            span += f" to {ratios.max():.3g}"
        rivals = f"{len(theirs)} rival{'' if len(theirs) == 1 else 's'}"
        parts.append(f"{name}: {ours:.2g} s by bhlm, {span} times that by {rivals}")
    absent = int(seconds.isna().sum())
    return Figure(
        name="seconds_reml",
        title="Seconds of a REML fit with standard errors",
        reading=f"{'; '.join(parts)}; {absent} of {len(table)} runs have no time.",
        table=table,
        panels=panels,
        columns=2,
        height=(ROW * table["program"].nunique() + 110) * -(-len(panels) // 2),
    )


def plot_bayes_seconds(speed: pd.DataFrame, gallery: pd.DataFrame) -> Figure:
    """Return the figure of seconds of a posterior, and of effective draws per second.

    Args:
        speed: of `read_speed_bayes`.
        gallery: rows of gallery.csv, of which the posteriors are taken.
    """
    reason = speed["note"].where(speed["note"] != "", "not measured")
    panels = [
        draw_rows(
            speed["program"], speed[column], reason, title=title, label=label,
            span=(float(speed[column].min()), float(speed[column].max())),
        )
        for column, title, label in (
            ("first", "High School and Beyond, first call", "seconds, imports and compilation too"),
            ("second", "High School and Beyond, second call", "seconds"),
            ("rate", "High School and Beyond, last call", "effective draws per second"),
        )
    ]  # fmt: skip
    runs = gallery[gallery["method"] == "bayes"].drop_duplicates(["model", "program", "variant"])
    panels.append(draw_models(runs))
    rate = speed.dropna(subset=["rate"]).set_index("program")["rate"]
    rivals = rate.drop("bhlm")
    ratio = rate["bhlm"] / rivals
    trouble = runs[runs["status"] != "ok"]
    failed = ", ".join(
        f"{row.program} on {row.model}: {row.status}" for row in trouble.itertuples()
    )
    unmeasured = speed.loc[speed["rate"].isna(), "program"]
    return Figure(
        name="seconds_bayes",
        title="Seconds of a posterior of 4 chains of 1000 + 1000",
        reading=(
            f"On High School and Beyond bhlm gives {rate['bhlm']:.0f} effective draws per second, "
            f"{ratio.min():.0f} to {ratio.max():.0f} times what {len(rivals)} rivals give"
            + (f"; without numbers there: {', '.join(unmeasured)}" if len(unmeasured) else "")
            + (f"; in the gallery, {failed}" if failed else "; no run of the gallery failed")
            + "."
        ),
        table=pd.concat([speed, runs], ignore_index=True),
        panels=tuple(panels),
        columns=2,
        height=2 * (ROW * max(len(speed), runs["program"].nunique()) + 110),
    )


def draw_rows(
    programs: pd.Series, values: pd.Series, notes: pd.Series, *, title: str, label: str,
    span: tuple[float, float],
) -> Panel:  # fmt: skip
    """Return a panel with a row for each program: its value in words beside, or why none."""
    x, y = values.to_numpy(float), np.arange(len(values), dtype=float)
    there = np.isfinite(x)
    low, high = span
    marks: list[Mark] = [
        Points(x[there], y[there], "first", "measured", size=10.0),
        Points(np.full((~there).sum(), low), y[~there], "warning", "no result", size=10.0),
    ]
    for value, at, note in zip(x, y, notes, strict=True):
        text = f"{value:.2g}" if value < 100.0 else f"{value:.0f}"
        is_there = bool(np.isfinite(value))
        marks.append(
            Note(value if is_there else low, at, text if is_there else shorten(note, LONGEST))
        )
    return Panel(
        x=log_axis(label, low, high), y=list_axis(programs.tolist()), marks=tuple(marks),
        title=title,
    )  # fmt: skip


def draw_models(runs: pd.DataFrame) -> Panel:
    """Return a panel with a row for each program and a point for each model of the gallery."""
    programs = list(dict.fromkeys(runs["program"]))
    models = list(dict.fromkeys(runs["model"]))
    at = runs["program"].map({name: k for k, name in enumerate(programs)}).to_numpy(float)
    # Beside each other, for two models may take the same time.
    at = at + 0.2 * (runs["model"].map(models.index).to_numpy(float) - (len(models) - 1) / 2)
    x = runs["seconds"].to_numpy(float)
    low, high = float(np.nanmin(x)), float(np.nanmax(x))
    marks: list[Mark] = []
    for role, model in zip(SERIES[1:], models, strict=False):
        chosen = (runs["model"] == model).to_numpy() & np.isfinite(x)
        marks.append(Points(x[chosen], at[chosen], role, model, size=9.0))
    for row, program in enumerate(programs):
        part = runs[(runs["program"] == program) & (runs["status"] != "ok")]
        if not len(part):
            continue
        beside = runs.loc[runs["program"] == program, "seconds"].max()
        place = 1.6 * beside if np.isfinite(beside) else low
        text = "; ".join(f"{each.model}: {each.status}" for each in part.itertuples())
        marks.append(Points(np.array([place]), np.array([float(row)]), "warning", "no result",
                            size=10.0))  # fmt: skip
        marks.append(Note(place, float(row), shorten(text, LONGEST)))
    return Panel(
        x=log_axis("seconds, imports and compilation too", low, high),
        y=list_axis([shorten(name, 22) for name in programs]),
        marks=tuple(marks),
        title="models of the gallery",
    )


def log_axis(label: str, low: float, high: float) -> Axis:
    """Return a log axis with room for texts beside the points."""
    ticks = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1.0)
    texts = tuple(f"{value:g}" for value in ticks)
    return Axis(
        label, ticks=(tuple(ticks), texts), log=True, range=(low / 2.0, WIDE * high)
    )  # fmt: skip


def list_axis(names: list[str]) -> Axis:
    """Return the vertical axis of rows, the first on top."""
    ticks = tuple(float(at) for at in range(len(names)))
    return Axis("", ticks=(ticks, tuple(names)), range=(len(names) - 0.4, -0.6))
