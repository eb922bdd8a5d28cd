"""The density as nutpie's model: C callbacks, which its threads call without Python.

All that the density reads is packed into one array of doubles, whose address travels with each
call: the sizes of the parts (see `pack_density`), then the parts one after the other. The callbacks
rest on what nutpie keeps to itself; where that has changed, its public interface serves, with the
same draws at a quarter of the speed.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types

from bhlm.bayes.density import Density, log_density
from bhlm.bayes.level_density import PARTS, LevelDensity, log_turned
from bhlm.likelihood.panels import LANES

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
type Start = Callable[[int], Array]  # a seed -> the position (d,) that a chain starts from
# Position and density -> the log density there and its gradient (d,), as `log_density`.
type Evaluate = Callable[[Array, Any], tuple[float, Array]]

NATIVE = "numba density, nutpie"
PYTHON = "numba density through Python, nutpie"

HEADER = 14
LEVELS_HEADER = 6
# What nutpie takes for a point outside of the support, which a trajectory may leave again.
BAD_GRADIENT = 3
BAD_VALUE = 4

_DOUBLES = types.CPointer(types.float64)


def pack_density(density: Density) -> Array:
    """Return all that the density reads as one array of doubles."""
    header = (
        len(density.offset), len(density.owners), len(density.unit), len(density.panels),
        len(density.sizes), density.numbers.shape[1], density.law, density.angles,
        density.reach, density.n, density.scale, density.eta, density.use_likelihood,
    )  # fmt: skip
    parts = (
        density.panels, density.total, density.inverse_basis, density.offset, density.slope,
        density.unit, density.signed, density.owners, density.sizes, density.codes,
        density.numbers,
    )  # fmt: skip
    body = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
    return np.concatenate([np.array((HEADER + len(body), *header), dtype=np.float64), body])


def pack_levels(density: LevelDensity) -> Array:
    """Return all that the density of several factors reads as one array of doubles."""
    base = pack_density(density.base)
    d = density.dimension
    body = np.concatenate(
        [
            np.asarray(part, dtype=np.float64).ravel()
            for part in (
                base, density.parts, density.etas, density.centre, density.turn, density.pattern,
            )
        ]
    )  # fmt: skip
    header = (
        LEVELS_HEADER + len(body), len(base), len(density.parts), density.is_nested, d,
        len(density.pattern),
    )  # fmt: skip
    return np.concatenate([np.array(header, dtype=np.float64), body])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def evaluate_packed(x: Array, data: Array) -> tuple[float, Array]:
    """Return `log_density` of a packed density: its value and gradient (d,)."""
    return log_density(x, unpack_density(data))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def evaluate_levels(z: Array, data: Array) -> tuple[float, Array]:
    """Return `log_turned` of a packed density of several factors: value and gradient (d,)."""
    n_base, n_parts, d = int(data[1]), int(data[2]), int(data[4])
    at = LEVELS_HEADER
    base = unpack_density(data[at : at + n_base])
    at += n_base
    parts = data[at : at + n_parts * PARTS].reshape((n_parts, PARTS)).astype(np.int64)
    at += n_parts * PARTS
    etas = data[at : at + n_parts]
    at += n_parts
    centre = data[at : at + d]
    at += d
    turn = data[at : at + d * d].reshape((d, d))
    at += d * d
    pattern = data[at : at + int(data[5])]
    density = LevelDensity(
        base=base, parts=parts, etas=etas, pattern=pattern, is_nested=data[3] > 0.0,
        centre=centre, turn=turn,
    )  # fmt: skip
    return log_turned(z, density)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def unpack_density(data: Array) -> Density:
    """Return the density that `pack_density` packed."""
    p, q, s, n_panels, n_blocks, width = (
        int(data[1]), int(data[2]), int(data[3]), int(data[4]), int(data[5]), int(data[6]),
    )  # fmt: skip
    k = q + p + 1
    at = HEADER
    panels = data[at : at + n_panels * q * k * LANES].reshape((n_panels, q, k, LANES))
    at += n_panels * q * k * LANES
    total = data[at : at + (p + 1) * (p + 1)].reshape((p + 1, p + 1))
    at += (p + 1) * (p + 1)
    inverse_basis = data[at : at + q * q].reshape((q, q))
    at += q * q
    offset = data[at : at + p]
    at += p
    slope = data[at : at + p * p].reshape((p, p))
    at += p * p
    unit = data[at : at + s]
    at += s
    signed = data[at : at + s] > 0.0
    at += s
    owners = data[at : at + q].astype(np.int64)
    at += q
    sizes = data[at : at + n_blocks].astype(np.int64)
    at += n_blocks
    count = p + s + 1
    codes = data[at : at + count].astype(np.int64)
    at += count
    numbers = data[at : at + width * count].reshape((count, width))
    return Density(
        panels=panels, total=total, reach=data[9], n=data[10], scale=data[11],
        inverse_basis=inverse_basis, offset=offset, slope=slope, unit=unit, signed=signed,
        owners=owners, law=int(data[7]), angles=int(data[8]), sizes=sizes, codes=codes,
        numbers=numbers, eta=data[12], use_likelihood=data[13] > 0.0,
    )  # fmt: skip


@numba.cfunc(
    types.int64(types.uint64, _DOUBLES, _DOUBLES, _DOUBLES, _DOUBLES), cache=True, nopython=True
)
def density_callback(d, x_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient at x (d,); return 0, or how the point is bad."""
    size = int(numba.carray(data_, 1)[0])
    value, gradient = evaluate_packed(numba.carray(x_, d), numba.carray(data_, size))
    out = numba.carray(gradient_, d)
    for i in range(d):
        out[i] = gradient[i]
        if not np.isfinite(gradient[i]):
            return BAD_GRADIENT
    numba.carray(value_, 1)[0] = value
    return 0 if np.isfinite(value) else BAD_VALUE


@numba.cfunc(
    types.int64(types.uint64, _DOUBLES, _DOUBLES, _DOUBLES, _DOUBLES), cache=True, nopython=True
)
def levels_callback(d, x_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient of several factors' density at z (d,); else how it is bad."""
    size = int(numba.carray(data_, 1)[0])
    value, gradient = evaluate_levels(numba.carray(x_, d), numba.carray(data_, size))
    out = numba.carray(gradient_, d)
    for i in range(d):
        out[i] = gradient[i]
        if not np.isfinite(gradient[i]):
            return BAD_GRADIENT
    numba.carray(value_, 1)[0] = value
    return 0 if np.isfinite(value) else BAD_VALUE


@numba.cfunc(
    types.int64(types.uint64, types.uint64, _DOUBLES, _DOUBLES, _DOUBLES),
    cache=True,
    nopython=True,
)
def copy_callback(d, expanded, x_, out_, data_):  # type: ignore[no-untyped-def]
    """Copy x (d,): what is kept of a draw are the coordinates themselves."""
    x, out = numba.carray(x_, d), numba.carray(out_, expanded)
    for i in range(d):
        out[i] = x[i]
    return 0


def make_model(
    density: Density | LevelDensity, start: Start, *, evaluate: "Evaluate | None" = None
) -> tuple[Any, str]:
    """Return a density as nutpie's model, and the name of its route.

    That of several factors moves in z, see `bhlm.bayes.level_density`. `evaluate` takes the place
    of `log_density` or `log_turned`, and is called through Python.
    """
    native = make_native(density, start) if evaluate is None else None
    if native is not None:
        return native, NATIVE
    own: Evaluate = log_turned if isinstance(density, LevelDensity) else log_density
    return make_python(density, start, evaluate=evaluate or own), PYTHON


def make_native(density: Density | LevelDensity, start: Start) -> Any:
    """Return the density as a model of C callbacks; None where nutpie no longer takes them."""
    d = density.dimension
    if isinstance(density, LevelDensity):
        callback, packed = levels_callback, pack_levels(density)
    else:
        callback, packed = density_callback, pack_density(density)
    try:
        from nutpie.compile_pymc import CompiledPyMCModel

        model = CompiledPyMCModel(
            dims={"x": ("dimension",)},
            compiled_logp_func=callback,
            compiled_expand_func=copy_callback,
            initial_point_func=start,
            shared_data={},
            shared_var_keys={},
            user_data=packed,
            n_expanded=d,
            shape_info=(["x"], None, [(d,)]),
            logp_func=None,
            expand_func=None,
            _n_dim=d,
            _shapes={"x": (d,)},
            _coords={"dimension": [str(i) for i in range(d)]},
        )
        model._make_model(None)
    except (ImportError, AttributeError, TypeError):
        return None
    return model


def make_python(density: Density | LevelDensity, start: Start, *, evaluate: Evaluate) -> Any:
    """Return the density as a model of Python functions, nutpie's public interface."""
    from nutpie.compiled_pyfunc import from_pyfunc

    d = density.dimension
    evaluate(np.zeros(d), density)  # compile before the threads start

    def make_logp() -> Callable[[Array], tuple[float, Array]]:
        return lambda x: evaluate(x, density)

    def make_expand(*_: int) -> Callable[[Array], dict[str, Array]]:
        return lambda x: {"x": x}

    return from_pyfunc(
        d,
        make_logp,
        make_expand,
        [np.dtype(np.float64)],
        [(d,)],
        ["x"],
        dims={"x": ("dimension",)},
        coords={"dimension": [str(i) for i in range(d)]},
        make_initial_point_fn=start,
    )


def compile_pymc(model: Any) -> Any:
    """Return a pm.Model as nutpie's model, compiled in this process."""
    import nutpie

    return nutpie.compile_pymc_model(model)


def run_model(
    model: Any, arguments: dict[str, Any], wait: "Callable[[Any], xr.DataTree]"
) -> "xr.DataTree":
    """Return the trace of a run; whatever is raised while it is waited for ends the run first.

    nutpie itself would take Ctrl-C for a wish to have the draws so far, as many in each chain as
    there happen to be.
    """
    import nutpie

    running = nutpie.sample(model, **arguments)
    try:
        return wait(running)
    except BaseException:
        with suppress(Exception):  # there is nothing to cancel once the draws were taken
            running.cancel()
        raise
