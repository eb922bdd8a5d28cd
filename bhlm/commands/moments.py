"""moments and merge: tables reduced, and put together without their rows."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bhlm.commands.options import (
    DataArgument,
    Exposure,
    FamilyName,
    FormulaText,
    GroupWeights,
    KnownVariance,
    Link,
    MemoryLimit,
    Missing,
    Output,
    Parts,
    Quiet,
    Scaling,
    Separator,
    Trials,
    WeightColumn,
    WeightsAre,
    app,
)
from bhlm.errors import ArgumentError
from bhlm.layout import count, show_name
from bhlm.progress import VOICE

if TYPE_CHECKING:
    from bhlm.moments.either import Saved


@app.command("moments")
def moments_command(
    data: DataArgument,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    family: FamilyName = None,
    link: Link = None,
    trials: Trials = None,
    exposure: Exposure = None,
    weights: WeightColumn = None,
    group_weights: GroupWeights = None,
    weights_are: WeightsAre = None,
    scaling: Scaling = None,
    known_variance: KnownVariance = None,
    output: Output = Path("model.moments"),
    like: Annotated[
        Path | None, typer.Option(help="A moments file whose constants and levels to use.")
    ] = None,
    min_group_size: Annotated[
        int | None, typer.Option(help="Release no group with fewer rows than this.")
    ] = None,
    drop_small: Annotated[
        bool, typer.Option("--drop-small", help="Drop small groups instead of refusing.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Reduce a table to its moments, of a family to its patterns: all that a fit needs."""
    from bhlm.commands.shared import check_outputs, choose_weights, tell_doubts
    from bhlm.design.formula.terms import add_counts, parse_formula
    from bhlm.design.formula.weights import read_weights
    from bhlm.design.rows import open_rows
    from bhlm.fits.reduced import load_moments, reduce_like, reduce_part
    from bhlm.moments.either import open_alike, suppress_small_groups
    from bhlm.moments.file import check_place

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(data, like, file=output)
    check_place(output)
    how: dict[str, Any] = {
        "memory_limit": memory_limit,
        "separator": separator,
        "missing": missing or (),
    }
    meant = read_weights(
        choose_weights(weights, group_weights, weights_are, scaling), known_variance
    )
    if meant is not None and like is not None:
        raise ArgumentError(
            f"'{like}' holds which weights its moments were reduced with; leave the options of "
            "weights out"
        )
    counts: dict[str, Any] = {"link": link, "trials": trials, "exposure": exposure}
    if like is not None and any(each is not None for each in (family, *counts.values())):
        raise ArgumentError(
            f"'{like}' holds the family that it was reduced for; leave --family and the like out"
        )
    VOICE.say("reducing the data")
    if formula is not None and like is None:
        asked = add_counts(parse_formula(formula), trials=trials, exposure=exposure)
        table = open_rows(asked, data, **how)
        moments = reduce_part(formula, table, weights=meant, family=family or "gaussian", **counts)
        tell_doubts(moments)
    elif like is not None and formula is None:
        reference = load_moments(like)
        table = open_alike(reference, data, **how)
        moments = reduce_like(reference, table)
    else:
        raise ArgumentError(
            "give either --formula 'y ~ x + (x | g)' or --like FILE.moments, which has a formula"
        )
    if min_group_size is not None:
        action = "drop" if drop_small else "refuse"
        moments, note = suppress_small_groups(moments, min_group_size, action=action)
        print(f"{note}.")
    moments.save(output, min_group_size=min_group_size)
    _print_moments(moments, output)
    _warn(moments, min_group_size)
    return 0


@app.command("merge")
def merge_command(
    parts: Parts, output: Output = Path("merged.moments"), quiet: Quiet = False
) -> int:
    """Merge moments files of disjoint rows, as those of sites that may not share rows.

    Where every part promises a smallest group, the merged file promises the smallest of these.
    """
    from bhlm.fits.reduced import merge_files
    from bhlm.moments.file import check_place

    VOICE.quiet = quiet or VOICE.quiet
    check_place(output)
    moments = merge_files(parts)
    moments.save(output)
    _print_moments(moments, output)
    _warn(moments, None)
    return 0


def _print_moments(moments: "Saved", path: Path) -> None:
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.patterns import Patterns

    promised = moments.min_group_size
    if isinstance(moments, CellMoments):
        size, unit = f"{moments.size}: {moments.n_cells} {moments.cells_are}", "cell"
    elif isinstance(moments, LevelPatterns):
        size, unit = f"{moments.size}, {moments.n_patterns} patterns", "unit"
    else:
        size = f"{moments.n_rows} rows in {moments.n_groups} groups of '{moments.group}'"
        size += f", {moments.n_patterns} patterns" if isinstance(moments, Patterns) else ""
        unit = "group"
    promise = "" if promised is None else f"; no {unit} has fewer than {count(promised, 'row')}"
    left = f" ({moments.rows_used})" if moments.dropped else ""
    print(show_name(f"{moments.formula}: {size}{left}{promise} -> {path}"))


def _warn(moments: "Saved", min_group_size: int | None) -> None:
    """Say what a file tells of single rows."""
    for sentence in moments.disclosures(min_group_size=min_group_size):
        print(f"bhlm: warning: {show_name(sentence)}", file=sys.stderr)
