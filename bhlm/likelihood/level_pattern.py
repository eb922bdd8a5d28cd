"""Whitened cells or patterns -> what the marginal likelihood's kernels read, told apart by type.

A kernel that reads them is compiled for nested factors, for crossed ones or for nested ones of a
family, never for two of them: a model of nested factors does not wait for code that it never runs.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from bhlm.design.kernels import LightCompiler
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.crossed_marginal import crossed_marginal, pack_crossed
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.likelihood.nested_marginal import nested_marginal, pack_nested
from bhlm.likelihood.nested_sums import family_marginal, pack_nest
from bhlm.moments.sums import sum_blocks

Array = np.ndarray


class NestedPattern(NamedTuple):
    """What `nested_marginal` reads."""

    data: Array  # of `pack_nested`


class CrossedPattern(NamedTuple):
    """What `crossed_marginal` reads."""

    data: Array  # of `pack_crossed`


class FamilyPattern(NamedTuple):
    """What `family_marginal` reads."""

    data: Array  # of `pack_nest`


type Pattern = NestedPattern | CrossedPattern | FamilyPattern


def pack_nodes(nodes: NestIntegrator) -> FamilyPattern:
    """Return what `marginal_cells` reads of nested patterns, with the nodes as they are."""
    return FamilyPattern(pack_nest(nodes, nodes.white.spans))


def pack_cells(white: WhitenedCells | WhitenedNest) -> Pattern:
    """Return what `marginal_cells` reads of whitened cells, or of patterns with their widest nodes.

    See `pack_nodes` for nodes that were chosen.
    """
    if isinstance(white, WhitenedNest):
        return pack_nodes(NestIntegrator(white))
    sizes = [len(basis) for basis in white.bases]
    if isinstance(white.levels, Crossed):
        total = sum_blocks(white.blocks[:, white.q :, white.q :])
        return CrossedPattern(pack_crossed(white.levels, sizes, total))
    return NestedPattern(pack_nested(white.blocks, white.codes, sizes))


def marginal_cells(
    pattern: Pattern, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return what the kernel of the pattern does; compiled code may call it."""
    kernels = {NestedPattern: nested_marginal, CrossedPattern: crossed_marginal}
    kernel = kernels.get(type(pattern), family_marginal)
    found: tuple[float, Array, Array, float] = kernel(pattern.data, n, lam, beta, sigma)
    return found


@overload(marginal_cells, jit_options={"pipeline_class": LightCompiler})
def _choose(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
    def choose_nested(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        return nested_marginal(pattern.data, n, lam, beta, sigma)

    def choose_crossed(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        return crossed_marginal(pattern.data, n, lam, beta, sigma)

    def choose_family(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        return family_marginal(pattern.data, n, lam, beta, sigma)

    chosen = {NestedPattern: choose_nested, CrossedPattern: choose_crossed}
    return chosen.get(pattern.instance_class, choose_family)
