"""A design.toml -> the study of its power: how often REML's test of each effect finds it.

[effects]                       # true values, in SDs of y within groups if residual_variance is 1
x = 0.2                         # of x, which varies within groups; standard normal
w = 0.3                         # of w, which varies between them; standard normal
"x:w" = 0.1                     # their interaction

[design]                        # one value or a list of each; all combinations are run
groups = [20, 40, 80]
group_size = [10, 25]
icc = 0.15
slope_variance = 0.0            # default; above 0 the slope of x varies in the fitted model too
correlation = 0.0               # default
residual_variance = 1.0         # default

target = 0.8                    # default, as the others here; these stand above [effects]
replicates = 500
seed = 1
df = "satterthwaite"            # or z, kenward-roger, hlm, cr0, cr2
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError, is_finite
from bhlm.layout import align_columns, align_left, align_right, count, list_names, wrap
from bhlm.moments.moments import INTERCEPT
from bhlm.studies.simulation.conditions import EFFECTS
from bhlm.studies.simulation.result import StudyResult
from bhlm.studies.simulation.study import Study, parse_study

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("title", "target", "replicates", "seed", "df", "effects", "design")
WIDTH = 100
TARGET, REPLICATES, SEED, DF = 0.8, 500, 1, "satterthwaite"
FACTORS = ("J", "n", "icc", "slope_variance", "correlation")


@dataclass(frozen=True, slots=True)
class Design:
    """What is asked of a design: its simulation study, and the power that it should have."""

    study: Study
    target: float


def read_design(path: str | Path) -> Design:
    """Return the design that a TOML file states.

    Raises:
        ArgumentError: the file cannot be read, a key is missing or not known, or a value is not
            valid; in one line with the file, the key and the value.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(
            f"'{path}' cannot be read ({error.strerror}); give a design's TOML file"
        ) from error
    except ValueError as error:  # TOMLDecodeError or UnicodeDecodeError
        raise ArgumentError(f"{path}: not valid TOML ({error}); mend that line") from error
    return state_design(content, name=str(path))


def state_design(content: Mapping[str, Any], *, name: str = "design") -> Design:
    """Return the design that a mapping of the file's form states.

    Raises:
        ArgumentError: as `read_design`.
    """
    for key in content:
        if key not in KEYS:
            raise ArgumentError(f"{name}: '{key}' is no key; known are {', '.join(KEYS)}")
    effects, design = content.get("effects"), content.get("design")
    for key, value in (("effects", effects), ("design", design)):
        if not isinstance(value, Mapping):
            raise ArgumentError(f"{name}: the table [{key}] is missing; see bhlm power --help")
    assert isinstance(effects, Mapping)
    assert isinstance(design, Mapping)
    target = content.get("target", TARGET)
    if isinstance(target, bool) or not is_finite(target) or not 0.0 < target < 1.0:
        raise ArgumentError(f"{name}: target = {target!r} is not valid; give a number in (0, 1)")
    grid = {key: value for key, value in design.items() if key != "residual_variance"}
    variances = grid.get("slope_variance", 0.0)
    varies = np.any(np.asarray(variances, dtype=object) != 0.0) and "x" in effects
    model: dict[str, Any] = {
        "fixed": {INTERCEPT: 0.0, **effects},
        "random": [INTERCEPT, "x"] if varies else [INTERCEPT],
    }
    if "residual_variance" in design:
        model["residual_variance"] = design["residual_variance"]
    study = parse_study(
        {
            "title": content.get("title", Path(name).stem),
            "seed": content.get("seed", SEED),
            "replicates": content.get("replicates", REPLICATES),
            "model": model,
            "grid": grid,
            "reml": {"df": [content.get("df", DF)], "variances": ["wald"]},
        },
        name=name,
    )
    return Design(study, float(target))


def tabulate_power(result: StudyResult) -> "pd.DataFrame":
    """Return a row per condition and effect: the design, `true`, `power`, `lower`, `upper`.

    The interval, of 95 %, is that of the simulation (Clopper & Pearson 1934). Replicates without
    an interval count as those that do not find the effect.
    """
    table = result.table
    table = table[table["parameter"].isin(EFFECTS) & (table["parameter"] != INTERCEPT)]
    n = table["replicates"].to_numpy(float)
    # Of replicates of which none has an interval there is no share.
    rejected = table["reject"].fillna(0.0).to_numpy(float)
    found = np.round(rejected * table["intervals"].to_numpy(float))
    tests = table[["condition", *FACTORS, "parameter", "true"]].reset_index(drop=True)
    lower = np.where(found > 0, stats.beta.ppf(0.025, found, n - found + 1.0), 0.0)
    upper = np.where(found < n, stats.beta.ppf(0.975, found + 1.0, n - found), 1.0)
    return tests.assign(power=found / n, lower=lower, upper=upper)


def render_power(result: StudyResult, design: Design) -> str:
    """Return the power of every condition, and which of them reach what is asked."""
    table = tabulate_power(result)
    effects = list(dict.fromkeys(table["parameter"]))
    study = design.study
    true = ", ".join(f"{name} {value:g}" for name, value in study.truth.fixed)
    head = ["groups", "rows each", "ICC", "slope var.", *effects]
    rows = []
    for _, part in table.groupby("condition", sort=True):
        first = part.iloc[0]
        cells = part.set_index("parameter")
        shown = [
            f"{100 * cells.loc[name, 'power']:.0f} % "
            f"({100 * cells.loc[name, 'lower']:.0f}-{100 * cells.loc[name, 'upper']:.0f})"
            for name in effects
        ]
        shares = (f"{first[key]:g}" for key in ("icc", "slope_variance"))
        rows.append([str(first["J"]), str(first["n"]), *shares, *shown])
    lines = [
        f"Power: {study.title}",
        f"{study.truth.formula}; {study.replicates} data sets of each design, seed {study.seed}",
        f"true effects: {true}; residual variance {study.truth.residual_variance:g}; tests by "
        f"{study.df_methods[0]} at 5 %, in brackets the simulation's 95 % interval",
        "",
        *align_columns(
            [head, *rows], sides=[align_left, *[align_right] * (len(head) - 1)], gap="  "
        ),
        "",
    ]
    for name in effects:
        own = table[table["parameter"] == name]
        if not own["true"].iloc[0]:
            lines += wrap(f"{name} is 0, so that its column is the size of the test.", WIDTH)
            continue
        enough = own[own["power"] >= design.target].sort_values(["J", "n"], kind="stable")
        if len(enough):
            told = [f"{row.J} groups of {row.n}" for row in enough.itertuples()]
            text = f"{name}: {100 * design.target:g} % are reached by {list_names(told, most=4)}."
        else:
            best = own.loc[own["power"].idxmax()]
            text = (
                f"{name}: no design reaches {100 * design.target:g} %; the best, {best['J']} "
                f"groups of {best['n']}, has {100 * best['power']:.0f} %."
            )
        lines += wrap(text, WIDTH)
    tests = result.table[result.table["parameter"].isin(effects)]
    without = int((tests["replicates"] - tests["intervals"]).sum())
    if without:
        lines += wrap(
            f"{count(without, 'test')} of {int(tests['replicates'].sum()):,} could not be made, "
            "for want of a fit or an interval, and count as those that do not find the effect.",
            WIDTH,
        )
    return "\n".join(lines)
