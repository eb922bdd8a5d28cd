"""Files of moments and of patterns, whichever they are: loaded, merged, and made of parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bhlm.design.formula.terms import add_counts, parse_formula
from bhlm.design.formula.weights import Weights, read_weights
from bhlm.design.rows import open_rows
from bhlm.errors import ArgumentError, check_arguments
from bhlm.likelihood.families import find_family
from bhlm.moments import either
from bhlm.moments.either import Saved, merge_moments, reduce_alike
from bhlm.moments.level_pattern_parts import load_level_patterns
from bhlm.moments.level_patterns import reduce_level_patterns
from bhlm.moments.pattern_file import read_header
from bhlm.moments.pattern_parts import load_patterns
from bhlm.moments.patterns import reduce_patterns
from bhlm.sources.watch import unchanged


@check_arguments
def load_moments(path: str | Path) -> Saved:
    """Return the moments of a file that `save` wrote, equal to the last bit.

    Those of several grouping factors are a `CellMoments`, and of a family other than the gaussian
    `Patterns` or, of several factors, `LevelPatterns`, which `bhlm.Model` takes as it takes
    moments.

    Raises:
        DataError: no such file; not a moments file; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    header = read_header(path)
    if "family" in header and "groupings" in header:
        return load_level_patterns(path, find=find_family)
    if "family" in header:
        return load_patterns(path, find=find_family)
    return either.load_moments(path)


@check_arguments
def merge_files(paths: Sequence[str | Path]) -> Saved:
    """Return the moments of the union of the rows behind several files.

    The files must hold disjoint rows, as those of different sites do. Every site but the first
    reduces its rows by `reduce_like` with the first one's file, so that all have the constants
    of cgm() and poly() and the levels of factors in common.

    Raises:
        DataError: a file that cannot be loaded, two files with the same content, or parts that
            do not merge; see `merge_moments`.
    """
    parts, names = [load_moments(path) for path in paths], [f"'{path}'" for path in paths]
    return merge_moments(parts, names=names)


@check_arguments
def reduce_part(
    formula: str,
    table: Any,
    *,
    weights: "str | Weights | None" = None,
    known_variance: str | None = None,
    family: str = "gaussian",
    link: str | None = None,
    trials: str | None = None,
    exposure: str | None = None,
) -> Saved:
    """Return the moments of a table that may be one part of many, even a single group.

    The constants of cgm() and poly() and the levels of factors are those of this part; the other
    parts take them over with `reduce_like`. The part that goes first must have every level; where
    no site has all of them, build the design from a made-up table that does
    (`bhlm.design.design.build_design`), and let every site compute its moments under it
    (`bhlm.moments.moments.compute_moments`).

    Args:
        formula: the model.
        table: any dataframe that narwhals accepts, or the path of a file.
        weights: of rows and groups, of a single grouping factor, as `bhlm.Model` takes them.
        known_variance: the column of sampling variances that are known, row by row.
        family: as of `bhlm.Model`, which the link, trials and exposure are of; the result of
            others than the gaussian is `Patterns`, of several factors `LevelPatterns`.
        link: of the family.
        trials: the column of the trials.
        exposure: the column over which counts were made.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
        ArgumentError: weights of several grouping factors or of a family, which parts have not yet;
            a family that is not known.
    """
    counts = {"link": link, "trials": trials, "exposure": exposure}
    meant = read_weights(weights, known_variance)
    if family == "gaussian":
        for name, value in counts.items():
            if value is not None:
                raise ArgumentError(
                    f"{name}={value!r} is for the families of zeros and ones and of counts; give "
                    "family='bernoulli', 'binomial' or 'poisson' too"
                )
        return either.reduce_part(formula, table, weights=meant)
    found = find_family(family, link)
    if meant is not None:
        raise ArgumentError(
            f"weights are not there yet with family={family!r} ({meant.sentence}); leave them out"
        )
    asked = add_counts(parse_formula(formula), trials=trials, exposure=exposure)
    opened = open_rows(asked, table)
    if asked.has_levels:
        return reduce_level_patterns(asked, opened, family=found, is_part=True)
    with unchanged(opened):
        return reduce_patterns(asked, opened, family=found, is_part=True)


@check_arguments
def reduce_like(reference: Saved | str | Path, table: Any) -> Saved:
    """Return the moments of a table under the constants and levels of other moments.

    Moments that are computed so merge with those of the reference. Centring on the reference's
    grand means instead of one's own moves the intercept, and changes no fit otherwise.

    Args:
        reference: moments or patterns, or the path of a file of either.
        table: any dataframe that narwhals accepts, or the path of a file.

    Raises:
        DataError: the reference cannot be read, or the table has levels or types that it does not
            know.
    """
    known = load_moments(reference) if isinstance(reference, str | Path) else reference
    return reduce_alike(known, table)
