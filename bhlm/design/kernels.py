"""How bhlm compiles its kernels: kept on disk, beside other threads, division by NumPy's rules."""

from collections.abc import Callable
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import AnnotateTypes

# Nobody calls kernels from C: numba need not wrap them for that, which takes a twentieth of the
# time that compiling takes.
HOW = {"cache": True, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, or where another kernel calls it."""
    compiled: Callable[..., Any] = numba.njit(**HOW)(function)
    return compiled


def light_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function like `kernel`, but optimise its own code alone, not what it calls.

    The machine code of a kernel holds that of the kernels that it calls, and of those that they
    call, so that of five that call each other the innermost would be optimised five times. Light is
    what is optimised with the kernel that calls it, what leaves the work to kernels that it calls,
    and what takes microseconds anyhow. Numbers are the same to the bit.

    In the process that compiles both, calls that were not inlined run this code and not the copy
    that was optimised with the caller, since a name means what was loaded first: likelihoods take
    twice as long there as they do once they are read from the disk.
    """
    compiled: Callable[..., Any] = numba.njit(**HOW, pipeline_class=LightCompiler)(function)
    return compiled


def inlined_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function within the kernel that calls it, and by itself only if Python calls it.

    For what a kernel calls in one place: it has no machine code of its own then, which would hold
    another copy of all that it calls.
    """
    compiled: Callable[..., Any] = numba.njit(**HOW, inline="always", pipeline_class=LightCompiler)(
        function
    )
    return compiled


def callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function at once, as lightly as `light_kernel`, for calls from C."""
    return numba.cfunc(
        signature, cache=True, nopython=True, error_model="numpy", pipeline_class=LightCompiler
    )


class _Light(JITCodeLibrary):
    """Machine code of functions that were optimised one by one, as numba does first."""

    def _optimize_final_module(self) -> None:
        """Leave out what numba does next: LLVM's passes over all, with what was linked in."""


@register_pass(mutates_CFG=False, analysis_only=True)
class _ChooseLibrary(AnalysisPass):
    _name = "bhlm_choose_library"

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _Light(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


class LightCompiler(CompilerBase):
    """numba's compiler, but for the passes over the whole module."""

    def define_pipelines(self) -> list[Any]:
        """Return numba's passes, with the choice of where the machine code goes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_ChooseLibrary, AnnotateTypes)
        passes.finalize()
        return [passes]
