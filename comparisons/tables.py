"""results/gallery.csv -> results/gallery.md: one table per model, and one over all of them.

python comparisons/tables.py            # writes gallery.md anew from the committed CSV
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results"
# A program that calls itself converged this far below the maximum is said to have done so.
SHORT = 0.01
TEXTS = ("program", "variant", "version", "parameter", "status", "message")
# A log-likelihood is known to about this much: its last digits are rounding.
ROUNDING = 1e-7

HEAD = """# Every rival on every model of the gallery

Made by `python comparisons/tables.py` from `gallery.csv`, which `python comparisons/run.py` writes;
machine, limits and full answers are in `gallery.json`. Each run is timed once, beside whatever else
the machine does: `speed_reml.py` and `speed_bayes.py` are what measures speed.

**REML.** *Log-likelihood below bhlm*: `own` takes the value that the program prints, which may
have other constants; `at its variances` takes the program's variances and covariances and
evaluates the restricted log-likelihood there by one function, for every program the same. *Largest
difference* is that of an estimate from bhlm's, over the fixed effects, variances and
covariances: relative to the estimate, or to its standard error if that is larger (fixed effects),
to the estimate (variances; to the residual variance where bhlm's is zero), to the product of the
two SDs (covariances). *Seconds* are those of a second call in one process, from the dataframe to
standard errors.

**Posterior.** 4 chains of 1000 + 1000, each program on its own default priors, so that means differ
by more than Monte Carlo error. *Largest difference* is that of a posterior mean from bhlm's, in
bhlm's posterior SDs, over fixed effects, SDs and correlations. *Seconds* are of the only call,
with imports and compilation.
"""


def render_tables(rows: pd.DataFrame) -> str:
    """Return Markdown of the tidy rows that `run.py` writes."""
    # A column that is empty throughout comes back from the CSV as numbers.
    texts = {name: rows[name].astype(object).where(rows[name].notna(), "") for name in TEXTS}
    rows = rows.assign(**texts)
    parts = [HEAD]
    for method, title in (("reml", "REML"), ("bayes", "Posterior")):
        measured = measure_programs(rows[rows["method"] == method])
        if not len(measured):
            continue
        parts.append(f"## {title}: all models\n\n{render_overview(measured, method)}\n")
        for model, group in measured.groupby("model", sort=False):
            parts.append(f"## {title}: {model}\n\n{render_model(group, method)}\n")
    return "\n".join(parts)


def measure_programs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, program and variant, with its largest difference from bhlm."""
    found = []
    for model, group in rows.groupby("model", sort=False):
        ours = group[group["program"] == "bhlm"].set_index("parameter")
        for (program, variant), each in group.groupby(["program", "variant"], sort=False):
            first = each.iloc[0]
            size, where = find_difference(each.set_index("parameter"), ours, first["method"])
            found.append(
                {
                    "model": model, "program": program, "variant": variant,
                    "difference": size, "where": where,
                    **{key: first[key] for key in (
                        "version", "loglik_gap", "criterion_gap", "seconds", "converged",
                        "status", "message",
                    )},
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def find_difference(theirs: pd.DataFrame, ours: pd.DataFrame, method: str) -> tuple[float, str]:
    """Return the largest scaled difference of an estimate from bhlm's, and its parameter.

    nan and "" where there is nothing to compare.
    """
    sizes = {}
    for name in theirs.index.intersection(ours.index):
        kind = name.split("(")[0]
        if kind in (("sd", "corr") if method == "reml" else ("var", "cov")) and name.endswith(")"):
            continue
        scale = ours.loc[name, "se"] if method == "bayes" else find_scale(name, ours)
        size = abs(theirs.loc[name, "estimate"] - ours.loc[name, "estimate"])
        if np.isfinite(size) and scale > 0.0:
            sizes[name] = size / scale
    if not sizes:
        return float("nan"), ""
    worst = max(sizes, key=lambda name: sizes[name])
    return float(sizes[worst]), worst


def find_scale(name: str, ours: pd.DataFrame) -> float:
    """Return what a difference in a REML estimate is relative to."""
    estimate, se = abs(ours.loc[name, "estimate"]), ours.loc[name, "se"]
    if name.startswith("var("):
        return float(estimate or ours.loc["var(Residual)", "estimate"])
    if name.startswith("cov("):
        # The correlation, where it is defined, gives the product without parsing the names.
        corr = ours.loc[name.replace("cov(", "corr(", 1), "estimate"]
        return float(estimate / abs(corr)) if corr else float("nan")
    return float(max(estimate, se))


def render_overview(measured: pd.DataFrame, method: str) -> str:
    """Return the table over all models, one row per program and variant."""
    gap = ["worst gap at its variances", "in"] if method == "reml" else []
    unit = "worst difference" if method == "reml" else "worst difference, SDs"
    lines = start_table(["program", "version", "fits", *gap, unit, "in", "median seconds"])
    for (program, variant), group in measured.groupby(["program", "variant"], sort=False):
        fits = group[group["status"] == "ok"]
        cells = [name_program(program, variant), name_version(fits)]
        cells.append(f"{len(fits)} of {len(group)}")
        if method == "reml":
            cells += name_worst(fits, "criterion_gap", format_gap)
        cells += name_worst(fits, "difference", format_difference)
        cells.append(format_seconds(fits["seconds"].median()) if len(fits) else "")
        lines.append(join_cells(cells))
    return "\n".join(lines)


def render_model(group: pd.DataFrame, method: str) -> str:
    """Return the table of one model, one row per program and variant."""
    gaps = ["below bhlm, own", "below bhlm, at its variances"] if method == "reml" else []
    unit = "largest difference" if method == "reml" else "largest difference, SDs"
    lines = start_table(["program", "version", *gaps, unit, "in", "seconds", "note"])
    for _, row in group.iterrows():
        cells = [name_program(row["program"], row["variant"]), row["version"]]
        if method == "reml":
            cells += [format_gap(row["loglik_gap"]), format_gap(row["criterion_gap"])]
        is_reference = row["program"] == "bhlm"
        cells += ["", ""] if is_reference else [format_difference(row["difference"]), row["where"]]
        cells += [format_seconds(row["seconds"]), describe_row(row, method)]
        lines.append(join_cells(cells))
    return "\n".join(lines)


def name_program(program: str, variant: str) -> str:
    """Return a program with its variant, unless that is the default."""
    return program if variant == "default" else f"{program} ({variant})"


def name_version(fits: pd.DataFrame) -> str:
    """Return the version of the fits; several are joined."""
    return ", ".join(dict.fromkeys(str(version) for version in fits["version"]))


def name_worst(fits: pd.DataFrame, column: str, show: Callable[[float], str]) -> list[str]:
    """Return the largest value of a column, and the model it belongs to."""
    values = fits[column].astype(float)
    if is_reference(fits, column) or not values.notna().any():
        return ["", ""]
    at = values.idxmax()
    return [show(values[at]), "" if values[at] < ROUNDING else fits.loc[at, "model"]]


def is_reference(fits: pd.DataFrame, column: str) -> bool:
    """Whether these are the fits that differences are taken from."""
    return column == "difference" and bool((fits["program"] == "bhlm").all())


def describe_row(row: pd.Series, method: str) -> str:
    """Return what there is to say about a run."""
    message = str(row["message"]).split("; ")[0]
    if row["status"] != "ok":
        return f"{row['status']}: {message}"[:160]
    converged = str(row["converged"]) == "True"
    # Of draws the R-hat is in the message, and is not the program's own account.
    said = ["says it did not converge"] if method == "reml" and not converged else []
    if converged and row["criterion_gap"] > SHORT and "pooling" not in row["program"]:
        said.append("says it converged")
    if message:
        said.append(message)
    return "; ".join(said)[:160]


def format_gap(gap: float) -> str:
    """Return a log-likelihood difference, 0 where it is rounding."""
    if not np.isfinite(gap):
        return ""
    if abs(gap) < ROUNDING:
        return "0"
    return f"{gap:.2f}" if abs(gap) >= SHORT else f"{gap:.0e}"


def format_difference(size: float) -> str:
    """Return a relative difference in two digits."""
    return f"{size:.1e}" if np.isfinite(size) else ""


def format_seconds(seconds: float) -> str:
    """Return seconds in two or three digits."""
    return f"{seconds:.3g}" if np.isfinite(seconds) else ""


def start_table(heads: list[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [join_cells(heads), "|" + " --- |" * len(heads)]


def join_cells(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    (RESULTS / "gallery.md").write_text(render_tables(pd.read_csv(RESULTS / "gallery.csv")))


if __name__ == "__main__":
    main()
