"""Several responses over one X, such as plausible values: moments of all of them in one pass."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bhlm.design.design import Design
from bhlm.design.formula.expressions import Name
from bhlm.design.formula.terms import Formula, Term
from bhlm.moments.moments import Moments, reduce_table


def reduce_responses(formulas: Sequence[Formula], table: Any) -> list[Moments] | None:
    """Return the moments of formulas that differ in their response, a column, from one pass.

    The other responses go along as columns of the first one's cross-products, from which the rows
    and columns of each model are taken. None where some response is missing in rows of its own,
    so that the models have other rows, or is no number: there is a pass for each then.

    Raises:
        FormulaError: the formulas cannot be read.
        DataError: the table cannot serve them.
    """
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
    return [_take(whole, each) for each in designs]


def _respond(design: Design, formula: Formula) -> Design:
    """Return the design of a formula that differs from the design's in its response."""
    return replace(design, formula=formula, columns=(*design.columns[:-1], str(formula.response)))


def _take(whole: Moments, design: Design) -> Moments:
    """Return the moments of one design, of which `whole` has all columns."""
    at = np.array([whole.columns.index(name) for name in design.columns])
    cross = np.ascontiguousarray(whole.cross[:, at[:, None], at])
    return replace(whole, design=design, mean=whole.mean[:, at], cross=cross)
