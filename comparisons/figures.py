"""Committed results -> results/figures/*.svg, and a README.md that shows them with readings.

Reads gallery.csv, speed_reml.csv and speed_bayes.txt, and runs no program: what failed, took too
long or was not installed when they were written has its mark and its words.

    python comparisons/figures.py
    python comparisons/figures.py --results elsewhere --output elsewhere/figures
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from speed_figures import plot_bayes_seconds, plot_reml_seconds, read_speed_bayes
from tables import (
    RESULTS,
    ROUNDING,
    SHORT,
    TEXTS,
    find_scale,
    measure_programs,
    name_program,
)

from bhlm.files import write_text
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Note, Panel, Points
from bhlm.sources.gallery import list_models, printed_tolerance

# Differences below are rounding, and stand on the axis here.
FLOOR = 1e-8
ROW = 27  # pixels of a program's row
SPREAD = 0.56  # of a row, over which its models are spread so that points do not hide each other
LONGEST = 58  # characters beside a row
# What is further from bhlm is named: relative, and in posterior SDs.
LOUD_REML, LOUD_BAYES = 0.01, 0.2
NULL_METHODS = ("complete pooling", "no pooling")
LOOKS = {
    "near": ("first", "within 0.01 of the maximum"),
    "says": ("third", "short of it, and says so"),
    "silent": ("second", "short of it, and says it converged"),
    "null": ("sixth", "null methods"),
    "close": ("first", "a model"),
    "far": ("second", "a model that is further off"),
}


def read_gallery(path: Path) -> pd.DataFrame:
    """Return the rows of gallery.csv, texts that are not there being empty."""
    rows = pd.read_csv(path)
    return rows.assign(
        **{name: rows[name].astype(object).where(rows[name].notna(), "") for name in TEXTS}
    )


def plot_gaps(rows: pd.DataFrame) -> Figure:
    """Return the figure of log-likelihood gaps: each rival's REML fit on each model."""
    measured = measure_programs(rows[rows["method"] == "reml"])
    converged = measured["converged"].astype(str) == "True"
    short = measured["criterion_gap"] > SHORT
    looks = np.where(short, np.where(converged, "silent", "says"), "near")
    looks = np.where(measured["program"].isin(NULL_METHODS), "null", looks)
    # A fit above bhlm's would be the finding: it is drawn by its size, and named.
    measured = measured.assign(value=measured["criterion_gap"], look=looks)
    rivals = measured[~measured["program"].isin([*NULL_METHODS, "bhlm"])]
    silent = rivals[rivals["look"] == "silent"]
    above = measured[measured["criterion_gap"] < -ROUNDING]
    if len(silent):
        worst = silent.loc[silent["criterion_gap"].idxmax()]
        text = (
            f"{count(len(silent), 'fit')} of {len(rivals)} by rivals "
            f"{'ends' if len(silent) == 1 else 'end'} more than {SHORT:g} below bhlm's maximum of "
            "the restricted log-likelihood and "
            f"{'calls itself' if len(silent) == 1 else 'call themselves'} converged, the furthest "
            f"by {name_program(worst['program'], worst['variant'])} on {worst['model']}, "
            f"{worst['criterion_gap']:.3g} below"
        )
    else:
        text = (
            f"No rival that calls itself converged ends more than {SHORT:g} below bhlm's maximum "
            f"of the restricted log-likelihood in {count(len(rivals), 'fit')}"
        )
    text += f"; {count(len(above), 'fit')} lie above it" if len(above) != 1 else (
        f"; {name_program(above.iloc[0]['program'], above.iloc[0]['variant'])} lies above it on "
        f"{above.iloc[0]['model']}"
    )  # fmt: skip
    return Figure(
        name="loglik_gaps",
        title="Restricted log-likelihood below bhlm's, at each program's variances",
        reading=f"{text}; {describe_trouble(measured)}.",
        table=measured,
        panels=(
            draw_strip(
                measured, label="log-likelihood below bhlm's (one function for all)", title="REML",
                loud=SHORT,
            ),
        ),
        height=strip_height(measured) + 60,
    )  # fmt: skip


def plot_estimates(rows: pd.DataFrame) -> Figure:
    """Return the figure of REML estimates: against bhlm's, and against the printed ones."""
    rows = rows[rows["method"] == "reml"]
    measured = measure_programs(rows)
    measured = measured.assign(value=measured["difference"], against="bhlm")
    printed = measure_printed(rows)
    measured, printed = (mark_far(each, LOUD_REML) for each in (measured, printed))
    rivals = measured[~measured["program"].isin([*NULL_METHODS, "bhlm"])]
    rivals = rivals[rivals["value"].notna()]
    ours = printed[(printed["program"] == "bhlm") & printed["value"].notna()]
    worst = ours.loc[ours["value"].idxmax()]
    near = int((rivals["value"] < 1e-3).sum())
    return Figure(
        name="estimates_reml",
        title="REML estimates, the furthest of each model",
        reading=(
            f"In {near} of {len(rivals)} REML fits by rivals every estimate is within 0.1 % of "
            f"bhlm's; bhlm itself is at most {100.0 * worst['value']:.2g} % beyond the rounding "
            f"of {count(len(ours), 'printed table')}, in {worst['where']} of {worst['model']}; "
            f"{describe_trouble(measured)}."
        ),
        table=pd.concat([measured, printed], ignore_index=True),
        panels=(
            draw_strip(
                without(measured, "bhlm"), title="against bhlm", loud=LOUD_REML,
                label="largest relative difference of an estimate",
            ),
            draw_strip(
                printed, title="against the printed values", loud=LOUD_REML,
                label="largest relative difference beyond the print's rounding",
            ),
        ),
        height=strip_height(measured) + strip_height(printed) + 60,
    )  # fmt: skip


def plot_posteriors(rows: pd.DataFrame) -> Figure:
    """Return the figure of posterior means against bhlm's, in posterior SDs."""
    measured = measure_programs(rows[rows["method"] == "bayes"])
    measured = mark_far(measured.assign(value=measured["difference"]), LOUD_BAYES)
    rivals = without(measured, "bhlm")
    there = rivals[rivals["value"].notna()]
    text = "No rival has a posterior to compare"
    if len(there):
        worst = there.loc[there["value"].idxmax()]
        text = (
            f"Under each program's default priors, posterior means by rivals are at most "
            f"{worst['value']:.2g} posterior SDs from bhlm's in {count(len(there), 'run')}, in "
            f"{worst['where']} of {worst['model']} by {worst['program']}"
        )
    return Figure(
        name="estimates_bayes",
        title="Posterior means, the furthest of each model",
        reading=f"{text}; {describe_trouble(rivals)}.",
        table=measured,
        panels=(
            draw_strip(
                rivals, title="against bhlm", loud=LOUD_BAYES, floor=1e-3,
                label="largest difference, posterior SDs (default priors differ)",
            ),
        ),
        height=strip_height(rivals) + 60,
    )  # fmt: skip


def mark_far(measured: pd.DataFrame, loud: float) -> pd.DataFrame:
    """Return the table with how each point looks."""
    looks = np.where(measured["value"] > loud, "far", "close")
    return measured.assign(look=np.where(measured["program"].isin(NULL_METHODS), "null", looks))


def measure_printed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, program and variant: its furthest estimate from the print.

    The difference is what exceeds half a unit of the last printed digit, relative as in
    `tables.find_difference`. Prints of other columns than the gallery's are left out.
    """
    found = []
    for entry in list_models():
        group = rows[rows["model"] == entry.name]
        published = entry.published
        if not len(group) or published is None or not published.comparable:
            continue
        ours = group[group["program"] == "bhlm"].set_index("parameter")
        prints = {
            name: values["estimate"]
            for name, values in published.estimates.items()
            if "estimate" in values and name in ours.index
        }
        for (program, variant), each in group.groupby(["program", "variant"], sort=False):
            theirs = each.set_index("parameter")["estimate"]
            sizes = {}
            for name, text in prints.items():
                scale = 1.0 if name.startswith("corr(") else find_scale(name, ours)
                beyond = abs(theirs.get(name, np.nan) - float(text)) - printed_tolerance(text)
                if np.isfinite(beyond) and scale > 0.0:
                    sizes[name] = max(beyond, 0.0) / scale
            where = max(sizes, key=lambda name: sizes[name]) if sizes else ""
            first = each.iloc[0]
            found.append(
                {
                    "model": entry.name, "program": program, "variant": variant, "where": where,
                    "value": sizes.get(where, np.nan), "against": "print",
                    "status": first["status"], "message": first["message"],
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def without(measured: pd.DataFrame, program: str) -> pd.DataFrame:
    """Return the rows of other programs."""
    return measured[measured["program"] != program]


def draw_strip(
    measured: pd.DataFrame, *, title: str, label: str, loud: float, floor: float = FLOOR
) -> Panel:
    """Return a panel with a row for each program and a point for each model, on a log axis.

    Args:
        measured: columns model, program, variant, status, message, value, look.
        title: of the panel.
        label: of the axis.
        loud: the furthest model is named where it is beyond.
        floor: smaller values, which are rounding, stand here.
    """
    pairs = list(dict.fromkeys(zip(measured["program"], measured["variant"], strict=True)))
    models = list(dict.fromkeys(measured["model"]))
    rank = {pair: at for at, pair in enumerate(pairs)}
    at = np.array([rank[pair] for pair in zip(measured["program"], measured["variant"],
                                              strict=True)], dtype=float)  # fmt: skip
    order = measured["model"].map({name: k for k, name in enumerate(models)}).to_numpy(float)
    y = at + SPREAD * ((order + 0.5) / len(models) - 0.5)
    size = measured["value"].abs().to_numpy(float)
    x = np.maximum(size, floor)
    top = float(np.nanmax([*x, 100.0 * floor]))
    marks: list[Mark] = []
    for key, (role, name) in LOOKS.items():
        chosen = (measured["look"] == key).to_numpy() & np.isfinite(x)
        if chosen.any():
            hover = tuple(f"{row.program}, {row.model}: {row.value:.3g}"
                          for row in measured[chosen].itertuples())  # fmt: skip
            marks.append(Points(x[chosen], y[chosen], role, name, hover, size=7.0, opacity=0.8))
    for pair, row in rank.items():
        part = measured[(at == row)]
        text = describe_row(part, loud)
        values = x[at == row]
        right = float(np.nanmax(values)) if np.isfinite(values).any() else floor
        if (part["status"] != "ok").any():
            right = right if right == floor else 3.0 * right
            marks.append(
                Points(np.array([right]), np.array([float(row)]), "warning", "no result",
                       (f"{name_program(*pair)}: {text}",), size=9.0)
            )  # fmt: skip
        if text:
            marks.append(Note(right, float(row), text))
    decades = np.log10(top / floor)
    step = 1 if decades < 6.0 else 3
    powers = np.arange(round(np.log10(floor)), np.ceil(np.log10(top)) + 1.0, step)
    texts = [f"{'≤ ' if power == powers[0] else ''}{10.0**power:g}" for power in powers]
    return Panel(
        x=Axis(
            label, ticks=(tuple(10.0**powers), tuple(texts)), log=True,
            # The texts beside the points need as much room again.
            range=(floor / 2.0, top * 10.0 ** (0.75 * decades)),
        ),
        y=Axis(
            "", ticks=(tuple(map(float, rank.values())), tuple(name_program(*p) for p in pairs)),
            range=(len(pairs) - 0.4, -0.6),
        ),
        marks=tuple(marks),
        title=title,
    )  # fmt: skip


def describe_row(part: pd.DataFrame, loud: float) -> str:
    """Return what a program's row has to say: its furthest model, what failed or is missing."""
    texts = []
    far = part[part["value"].abs() > loud]
    if len(far) and part["program"].iloc[0] not in NULL_METHODS:
        worst = far.loc[far["value"].abs().idxmax(), "model"]
        texts.append(worst + (f" and {len(far) - 1} more" if len(far) > 1 else ""))
    above = part[(part["value"] < -ROUNDING)]
    if len(above):
        texts.append(f"above bhlm: {', '.join(above['model'])}")
    for status, group in part[part["status"] != "ok"].groupby("status", sort=False):
        which = ", ".join(group["model"]) if len(group) < len(part) else "every model"
        texts.append(f"{status}: {which}")
    lacks = part[(part["status"] == "ok") & part["value"].isna()]
    if len(lacks):
        texts.append(f"no number: {', '.join(lacks['model'])}")
    text = "; ".join(texts)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def describe_trouble(measured: pd.DataFrame) -> str:
    """Return the clause that counts what has no result."""
    trouble = measured[measured["status"] != "ok"]
    if not len(trouble):
        return "every run gave a result"
    counts = trouble.groupby("status", sort=False).size()
    who = dict.fromkeys(
        name_program(row.program, row.variant) for row in trouble.itertuples()
    )  # fmt: skip
    parts = [f"{number} {status}" for status, number in counts.items()]
    return (
        f"{count(len(trouble), 'run')} of {len(measured)} gave no result ({', '.join(parts)}: "
        f"{', '.join(who)})"
    )


def count(number: int, thing: str) -> str:
    """Return a number of things."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def strip_height(measured: pd.DataFrame) -> int:
    """Return the pixels of a panel."""
    return ROW * len(measured.groupby(["program", "variant"])) + 110


def make_figures(results: Path) -> list[Figure]:
    """Return the figures of a folder of results."""
    rows = read_gallery(results / "gallery.csv")
    return [
        plot_gaps(rows),
        plot_estimates(rows),
        plot_posteriors(rows),
        plot_reml_seconds(pd.read_csv(results / "speed_reml.csv")),
        plot_bayes_seconds(read_speed_bayes(results / "speed_bayes.txt"), rows),
    ]


def write_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Write each figure as .svg, and README.md with their readings."""
    import matplotlib

    # Without these, the same figure has another file each time; texts stay texts.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    with matplotlib.rc_context({"svg.hashsalt": "bhlm", "svg.fonttype": "none"}):
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            figure.save(folder / f"{figure.name}.svg")
    lines = ["# Figures of the comparisons", "", "Made by `python comparisons/figures.py`."]
    for figure in figures:
        lines += ["", f"## {figure.title}", "", f"![{figure.title}]({figure.name}.svg)", "",
                  figure.reading]  # fmt: skip
    write_text("\n".join(lines) + "\n", folder / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to read")
    parser.add_argument("--output", type=Path, help="the folder to write; default: figures in it")
    options = parser.parse_args()
    figures = make_figures(options.results)
    write_figures(figures, options.output or options.results / "figures")
    for figure in figures:
        print(f"{figure.name}: {figure.reading}")


if __name__ == "__main__":
    main()
