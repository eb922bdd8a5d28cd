"""A density as one array of doubles, whose address can travel with a call from C.

First the sizes of the parts, then the parts one after the other.
"""

import numpy as np

from bhlm.bayes.centring import Axes, locate, pull_back
from bhlm.bayes.density import Density, log_density
from bhlm.bayes.level_density import PARTS, LevelDensity, log_turned
from bhlm.design.kernels import inlined_kernel, kernel
from bhlm.likelihood.level_pattern import CrossedPattern, FamilyPattern, NestedPattern
from bhlm.likelihood.panels import LANES

Array = np.ndarray

HEADER = 14
LEVELS_HEADER = 6


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
    body = np.concatenate([_spell(np.asarray(part)) for part in parts])
    return np.concatenate([np.array((HEADER + len(body), *header), dtype=np.float64), body])


def _spell(part: Array) -> Array:
    """Return an array as doubles; those of integers have their bits, which are read as they are."""
    if part.dtype == np.int64:
        return part.ravel().view(np.float64)
    return np.asarray(part, dtype=np.float64).ravel()


def pack_turned(packed: Array, axes: Axes) -> Array:
    """Return a packed density of x with the axes of z before it."""
    d = len(axes.centre)
    head = np.array([1.0 + d + d * d + len(packed)])
    return np.concatenate([head, axes.centre, axes.turn.ravel(), packed])


def pack_levels(density: LevelDensity) -> Array:
    """Return all that the density of several factors reads as one array of doubles."""
    base = pack_density(density.base)
    d = density.dimension
    body = np.concatenate(
        [
            np.asarray(part, dtype=np.float64).ravel()
            for part in (
                base, density.parts, density.etas, density.centre, density.turn,
                density.pattern.data,
            )
        ]
    )  # fmt: skip
    header = (
        LEVELS_HEADER + len(body), len(base), len(density.parts), d, len(density.pattern.data),
        density.held,
    )  # fmt: skip
    return np.concatenate([np.array(header, dtype=np.float64), body])


@inlined_kernel
def evaluate_packed(x: Array, data: Array) -> tuple[float, Array]:
    """Return `log_density` of a packed density: its value and gradient (d,)."""
    return log_density(x, unpack_density(data))


@kernel
def unpack_axes(d: int, data: Array) -> tuple[Array, Array, Array]:
    """Return centre (d,), turn (d, d) and the packed density that `pack_turned` packed."""
    at = 1 + d
    return data[1:at], data[at : at + d * d].reshape((d, d)), data[at + d * d :]


@inlined_kernel
def evaluate_packed_turned(z: Array, data: Array) -> tuple[float, Array]:
    """Return the value of a packed density of x at z, and its gradient by z (d,)."""
    centre, turn, packed = unpack_axes(len(z), data)
    value, gradient = evaluate_packed(locate(z, centre, turn), packed)
    return value, pull_back(gradient, turn)


@inlined_kernel
def evaluate_nested(z: Array, data: Array) -> tuple[float, Array]:
    """Return `log_turned` of a packed density of nested factors: value and gradient (d,)."""
    base, parts, etas, centre, turn, pattern = unpack_levels(data)
    density = LevelDensity(
        base=base, parts=parts, etas=etas, pattern=NestedPattern(pattern), centre=centre,
        turn=turn, held=data[5],
    )  # fmt: skip
    return log_turned(z, density)


@inlined_kernel
def evaluate_crossed(z: Array, data: Array) -> tuple[float, Array]:
    """Return `log_turned` of a packed density of crossed factors: value and gradient (d,)."""
    base, parts, etas, centre, turn, pattern = unpack_levels(data)
    density = LevelDensity(
        base=base, parts=parts, etas=etas, pattern=CrossedPattern(pattern), centre=centre,
        turn=turn, held=data[5],
    )  # fmt: skip
    return log_turned(z, density)


@inlined_kernel
def evaluate_nested_family(z: Array, data: Array) -> tuple[float, Array]:
    """Return `log_turned` of a packed density of a family's nested factors."""
    base, parts, etas, centre, turn, pattern = unpack_levels(data)
    density = LevelDensity(
        base=base, parts=parts, etas=etas, pattern=FamilyPattern(pattern), centre=centre,
        turn=turn, held=data[5],
    )  # fmt: skip
    return log_turned(z, density)


@kernel
def unpack_levels(data: Array) -> tuple[Density, Array, Array, Array, Array, Array]:
    """Return base, parts, etas, centre, turn and the pattern's data that `pack_levels` packed."""
    n_base, n_parts, d = int(data[1]), int(data[2]), int(data[3])
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
    return base, parts, etas, centre, turn, data[at : at + int(data[4])]


@kernel
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
    owners = data[at : at + q].view(np.int64)
    at += q
    sizes = data[at : at + n_blocks].view(np.int64)
    at += n_blocks
    count = p + s + 1
    codes = data[at : at + count].view(np.int64)
    at += count
    numbers = data[at : at + width * count].reshape((count, width))
    return Density(
        panels=panels, total=total, reach=data[9], n=data[10], scale=data[11],
        inverse_basis=inverse_basis, offset=offset, slope=slope, unit=unit, signed=signed,
        owners=owners, law=int(data[7]), angles=int(data[8]), sizes=sizes, codes=codes,
        numbers=numbers, eta=data[12], use_likelihood=data[13] > 0.0,
    )  # fmt: skip
