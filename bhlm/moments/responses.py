"""Several responses over one X, such as plausible values: moments of all of them in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, build_prepared, check_roles
from bhlm.design.formula.coding import Column, Part
from bhlm.design.formula.expressions import Name
from bhlm.design.formula.terms import Formula, Term
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
    for formula in formulas:
        check_roles(formula)
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
    for formula in formulas:
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
    at = np.array([columns.index(name) for name in designs[0].columns])
    mean, cross = whole.mean[:, at], np.ascontiguousarray(whole.cross[:, at[:, None], at])
    found = []
    for design in designs:
        last = columns.index(design.columns[-1])
        own = mean, cross
        if last != at[-1]:
            own = mean.copy(), cross.copy()
            beside = whole.cross[:, last]
            own[0][:, -1] = whole.mean[:, last]
            own[1][:, -1, :-1] = own[1][:, :-1, -1] = beside[:, at[:-1]]
            own[1][:, -1, -1] = beside[:, last]
        found.append(replace(whole, design=design, mean=own[0], cross=own[1]))
    return found
