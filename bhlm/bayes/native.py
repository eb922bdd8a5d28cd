"""The density as nutpie's model: C callbacks, which its threads call without Python.

All that the density reads is packed into one array (`bhlm.bayes.packing`), whose address travels
with each call. The callbacks rest on what nutpie keeps to itself; where that has changed, its
public interface serves, with the same draws at a quarter of the speed.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from bhlm.bayes.centring import Turned, evaluate_turned
from bhlm.bayes.density import Density, log_density
from bhlm.bayes.level_density import LevelDensity, log_turned
from bhlm.bayes.packing import pack_density, pack_levels, pack_turned
from bhlm.bayes.weighted_density import WeightedDensity, log_weighted, pack_weighted
from bhlm.likelihood.level_pattern import FamilyPattern, NestedPattern
from bhlm.processes import count_cores, limit_blas

Array = np.ndarray
type AnyDensity = Turned | LevelDensity
type Start = Callable[[int], Array]  # a seed -> the position (d,) that a chain starts from
# Position and density -> the log density there and its gradient (d,), as `log_density`.
type Evaluate = Callable[[Array, Any], tuple[float, Array]]

NATIVE = "numba density, nutpie"
PYTHON = "numba density through Python, nutpie"


def make_model(
    density: AnyDensity, start: Start, *, evaluate: "Evaluate | None" = None
) -> tuple[Any, str]:
    """Return a density of z as nutpie's model, and the name of its route.

    `evaluate` takes the place of `log_density`, `log_weighted` or `log_turned`, and is called
    through Python.
    """
    native = make_native(density, start) if evaluate is None else None
    if native is not None:
        return native, NATIVE
    if isinstance(density, LevelDensity):
        return make_python(density, start, evaluate=evaluate or log_turned), PYTHON
    own = partial(_evaluate_base, evaluate or find_kernel(density.base))
    return make_python(density, start, evaluate=own), PYTHON


def find_kernel(density: Density | WeightedDensity) -> Evaluate:
    """Return the kernel that evaluates a density of x."""
    return log_weighted if isinstance(density, WeightedDensity) else log_density


def _evaluate_base(evaluate: Evaluate, z: Array, density: Turned) -> tuple[float, Array]:
    return evaluate_turned(lambda x: evaluate(x, density.base), density.axes, z)


def make_native(density: AnyDensity, start: Start) -> Any:
    """Return the density as a model of C callbacks; None where nutpie no longer takes them."""
    from bhlm.bayes.callbacks import density_callback

    if isinstance(density, LevelDensity):
        callback, packed = _find_callback(density), pack_levels(density)
    elif isinstance(density.base, WeightedDensity):
        from bhlm.bayes.weighted_callbacks import weighted_callback

        callback, packed = weighted_callback, pack_turned(pack_weighted(density.base), density.axes)
    else:
        callback, packed = density_callback, pack_turned(pack_density(density.base), density.axes)
    return wrap_callback(callback, packed, d=density.dimension, start=start)


def wrap_callback(callback: Any, packed: Array, *, d: int, start: Start) -> Any:
    """Return a callback with what it reads as nutpie's model; None where that is not taken.

    Args:
        callback: of the signature `bhlm.bayes.callbacks.DENSITY`.
        packed: all that it reads, as one array.
        d: the length of a position.
        start: where chains start.
    """
    from bhlm.bayes.callbacks import copy_callback

    try:
        _load_nutpie()
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


def _find_callback(density: LevelDensity) -> Any:
    if isinstance(density.pattern, NestedPattern):
        from bhlm.bayes.nested_callback import nested_callback

        return nested_callback
    if isinstance(density.pattern, FamilyPattern):
        from bhlm.bayes.nested_family_callback import nested_family_callback

        return nested_family_callback
    from bhlm.bayes.crossed_callback import crossed_callback

    return crossed_callback


class Moved(Protocol):
    """A density that the sampler moves on."""

    @property
    def dimension(self) -> int:
        """The length of a position."""


def make_python(density: Moved, start: Start, *, evaluate: Evaluate) -> Any:
    """Return the density as a model of Python functions, nutpie's public interface."""
    _load_nutpie()
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
    _load_nutpie()
    import nutpie

    return nutpie.compile_pymc_model(model)


class _Postponed(ModuleType):
    """Stands for a module that is loaded where something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by whoever looks through all modules
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


def _load_nutpie() -> None:
    """Load nutpie without ArviZ.

    nutpie imports it with all its plots, which takes a second, and asks it only for trees of
    arrays, which are not made of raw draws.
    """
    if "nutpie" in sys.modules or "arviz" in sys.modules:
        return
    sys.modules["arviz"] = _Postponed("arviz")
    try:
        import nutpie  # noqa: F401
    finally:
        del sys.modules["arviz"]


def run_model(model: Any, arguments: dict[str, Any], wait: "Callable[[Any], Any]") -> Any:
    """Return the trace of a run; whatever is raised while it is waited for ends the run first.

    Where chains keep all cores busy, each computes in one thread.

    nutpie itself would take Ctrl-C for a wish to have the draws so far, as many in each chain as
    there happen to be.
    """
    _load_nutpie()
    import nutpie

    at_once = min(arguments["chains"], arguments["cores"] or arguments["chains"])
    with limit_blas(when=at_once >= count_cores()):
        running = nutpie.sample(model, **arguments)
        try:
            return wait(running)
        except BaseException:
            with suppress(Exception):  # there is nothing to cancel once the draws were taken
                running.cancel()
            raise


class Drawn(NamedTuple):
    """The draws of a run, as nutpie gives them."""

    positions: Array  # (chain, draw, d)
    statistics: dict[str, Array]  # (chain, draw), by nutpie's names


def read_columns(results: Any, *, draws: int, statistics: Sequence[str]) -> Drawn:
    """Return the positions and some statistics of a raw trace.

    Making nutpie's tree of arrays from it takes as long as some hundred draws, and a study of
    many short runs longer than all the rest.
    """
    import pyarrow as pa

    positions: list[Array] = []
    found: dict[str, list[Array]] = {name: [] for name in statistics}
    for drawn, told in zip(*results.get_arrow_trace(), strict=True):
        column = pa.array(drawn.column("x"))
        flat = column.flatten().to_numpy()
        positions.append(flat.reshape(len(column), -1)[-draws:])
        for name in statistics:
            found[name].append(pa.array(told.column(name)).to_numpy(zero_copy_only=False)[-draws:])
    return Drawn(np.stack(positions), {name: np.stack(each) for name, each in found.items()})
