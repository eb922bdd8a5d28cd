"""Several responses over one X, such as plausible values: moments of all of them in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, build_prepared, check_outcomes, check_roles
from bhlm.design.formula.coding import Column, Part
from bhlm.design.formula.expressions import Name
from bhlm.design.formula.terms import Formula, Term
from bhlm.design.kernels import kernel
from bhlm.design.plain import Plain, choose_reader, read_plain
from bhlm.design.rows import read_table
from bhlm.moments.memory import gather_rows, reduce_plain
from bhlm.moments.moments import Moments, reduce_table

Array = np.ndarray


def reduce_responses(formulas: Sequence[Formula], table: Any) -> list[Moments] | None:
    """Return the moments of formulas that differ in their response, a column, from one pass.

    The other responses go along as columns of the first one's cross-products, from which the rows
    and columns of each model are taken. None where some response is missing in rows of its own,
    so that the models have other rows, or is no number: there is a pass for each then.

    Raises:
        FormulaError: the formulas cannot be read.
        DataError: the table cannot serve them.
    """
    check_roles(formulas[0])
    check_outcomes(formulas[0], [formula.response for formula in formulas[1:]])
    if (found := _reduce_plainly(formulas, table)) is not None:
        return found
    first, others = formulas[0], [formula.response for formula in formulas[1:]]
    extra = tuple(Term((response,)) for response in others)
    whole = reduce_table(replace(first, fixed=(*first.fixed, *extra)), table)
    names = {str(formula.response) for formula in formulas}
    if names & {str(Name(name)) for name, _ in whole.missing}:
        return None
    design = Design.assemble(first, whole.design.levels, whole.design.constants)
    designs = [_respond(design, formula) for formula in formulas]
    if any(each.columns[-1] not in whole.columns for each in designs):
        return None  # a factor stands for its levels; the fit of its own says that it is no number
    return _take(whole, whole.columns, designs)


def _reduce_plainly(formulas: Sequence[Formula], table: Any) -> list[Moments] | None:
    """Return what `reduce_responses` does of a table in memory without gaps; else None.

    The responses' arrays are added up as they are, beside the columns of the first model.
    """
    take = choose_reader(table)
    if take is None:
        return None
    values: dict[str, Array] = {}
    for formula in formulas[1:]:  # the first one's is read with its model
        if not isinstance(formula.response, Name):
            return None
        found = take(table, formula.response.name)
        if found is None:
            return None
        values[formula.response.name] = found
    first = formulas[0]
    plain = read_plain(first, table)
    missing: Mapping[str, int] = {}
    if plain is None:
        prepared = build_prepared(first, read_table(table, first))
        if prepared.dropped or not isinstance(prepared.rows, nw.DataFrame):
            return None
        missing = prepared.missing
        plain = gather_rows(prepared.design, prepared.rows, prepared.layout)
    design = plain.design
    beside = [formula.response for formula in formulas[1:]]
    extra = [Column(str(each), (Part(each, str(each)),)) for each in beside]
    rows = replace(plain.rows, columns={**plain.rows.columns, **values})
    reduced = reduce_plain(Plain(design, (*plain.columns, *extra), plain.groups, rows))
    is_finite = np.isfinite(reduced.mean).all() and np.isfinite(reduced.cross).all()
    if len(reduced.groups) < 2 or not is_finite or reduced.groups.dtype.kind == "f":
        return None  # what is the matter is told by a pass of its own
    columns = (*design.columns[:-1], *map(str, beside), design.columns[-1])
    whole = Moments(
        *reduced[:4],
        design=design,
        dropped=0,
        missing=tuple(missing.items()),
        weighting=reduced.weighting,
    )
    return _take(whole, columns, [_respond(design, formula) for formula in formulas])


def _respond(design: Design, formula: Formula) -> Design:
    """Return the design of a formula that differs from the design's in its response."""
    return replace(design, formula=formula, columns=(*design.columns[:-1], str(formula.response)))


def _take(whole: Moments, columns: tuple[str, ...], designs: Sequence[Design]) -> list[Moments]:
    """Return the moments of designs that differ in their response, of which `whole` has all."""
    place = {name: at for at, name in enumerate(columns)}
    places = [[place[name] for name in design.columns] for design in designs]
    mean, cross = _select(whole.mean, whole.cross, np.array(places))
    return [
        replace(whole, design=design, mean=mean[at], cross=cross[at])
        for at, design in enumerate(designs)
    ]


@kernel
def _select(mean: Array, cross: Array, places: Array) -> tuple[Array, Array]:
    """Return means (r, J, k) and cross-products (r, J, k, k) of the columns at places (r, k)."""
    n_groups, (r, k) = len(mean), places.shape
    means, crosses = np.empty((r, n_groups, k)), np.empty((r, n_groups, k, k))
    for i in range(r):
        at, same = places[i], 0
        while same < k and at[same] == same:
            same += 1
        for j in range(n_groups):
            for a in range(k):
                means[i, j, a] = mean[j, at[a]]
                for b in range(same):  # most columns mostly stay where they are
                    crosses[i, j, a, b] = cross[j, at[a], b]
                for b in range(same, k):
                    crosses[i, j, a, b] = cross[j, at[a], at[b]]
    return means, crosses
