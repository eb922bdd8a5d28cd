"""Whether the draws of a posterior are still such as it was made with, when something is asked.

`fit.data` is a tree that anybody may write to. Other values are taken as draws like any others, so
that a reconciliation can judge them; what no posterior holds is told in one line: a parameter that
is gone or of another shape or type, values that are not finite, SDs below zero.
"""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

# Where the parameters stand, and what of it is drawn or evaluated again where it is left out.
NODES = ("posterior", "unconstrained_posterior", "sample_stats")
OPTIONAL = "u"
ADVICE = "load or sample the fit again, or put them back"

type Layout = dict[tuple[str, str], tuple[tuple[str, ...], tuple[int, ...]]]


def survey_draws(data: "xr.DataTree") -> Layout:
    """Return the dimensions and the shape of what a posterior needs, by group and name."""
    found: Layout = {}
    for node in NODES:
        if node not in data.children:
            continue
        for name, variable in data[node].dataset.data_vars.items():
            if str(name).partition("|")[0] != OPTIONAL:
                found[node, str(name)] = (tuple(map(str, variable.dims)), variable.shape)
    return found


def check_draws(data: "xr.DataTree", layout: Layout) -> None:
    """Raise `DataError` where a tree does not hold draws of a layout (see `survey_draws`)."""
    for (node, name), (dims, shape) in layout.items():
        held = data[node].dataset.variables if node in data.children else {}
        if name not in held:
            raise DataError(
                f"fit.data['{node}'] has lost '{name}', which the fit was made with; {ADVICE}"
            )
        variable = held[name]
        if variable.dims != dims or variable.shape != shape:
            now = dict(zip(variable.dims, variable.shape, strict=True))
            was = dict(zip(dims, shape, strict=True))
            raise DataError(
                f"'{name}' in fit.data['{node}'] has the dimensions {now}, and had {was}; {ADVICE}"
            )
        if node == "posterior":
            _check_values(name, np.asarray(variable.values))


def check_place(data: "xr.DataTree", layout: Layout) -> None:
    """Raise `DataError` where a tree has no draws, however many, of the parameters of a layout."""
    for (node, name), (dims, shape) in layout.items():
        if node != "posterior":
            continue
        held = data[node].dataset.variables if node in data.children else {}
        own = dict(zip(held[name].dims, held[name].shape, strict=True)) if name in held else {}
        wanted = dict(zip(dims, shape, strict=True))
        if tuple(own) != dims or any(own[dim] != wanted[dim] for dim in dims[2:]):
            now = f"has the dimensions {own}" if name in held else "is not there"
            raise DataError(
                f"'{name}' in '{node}' of the tree {now}, and the fit has {wanted}; give a tree "
                "made from fit.data, of which chains and draws alone may be other ones"
            )


def _check_values(name: str, values: np.ndarray) -> None:
    kind = name.partition("|")[0]
    if values.dtype.kind not in "fiu":
        raise DataError(
            f"'{name}' in fit.data['posterior'] has values of the type {values.dtype}, which are "
            f"no draws; {ADVICE}"
        )
    if kind not in ("beta", "sd", "sigma"):
        return
    odd = int(np.sum(~np.isfinite(values)))
    what = "not finite"
    if not odd and kind == "sd":
        odd, what = int(np.sum(values < 0.0)), "below zero"
    if not odd and kind == "sigma":
        odd, what = int(np.sum(values <= 0.0)), "not above zero"
    if odd:
        raise DataError(
            f"'{name}' in fit.data['posterior'] has {odd} of {values.size} values that are {what}, "
            f"which are no draws; {ADVICE}"
        )
