"""The density of a family as one array of doubles, whose address can travel with a call from C."""

import numpy as np

from bhlm.bayes.family.density import Compiled, FamilyDensity, compile_family, evaluate_turned
from bhlm.bayes.packing import pack_density, unpack_density
from bhlm.design.kernels import inlined_kernel
from bhlm.likelihood.lattice import Rows

Array = np.ndarray

HEADER = 8


def pack_family(density: FamilyDensity) -> Array:
    """Return all that the density reads as one array of doubles: sizes, then the parts."""
    whole = compile_family(density)
    rows, base = whole.rows, pack_density(density.base)
    header = (
        len(base), *rows.x.shape, *whole.modes.shape, rows.link, whole.constant,
    )  # fmt: skip
    parts = (
        base, rows.starts, rows.n, rows.y, rows.peak, rows.x, rows.z, rows.sign, rows.slack,
        rows.eta, whole.modes, whole.steps, whole.centre, whole.turn,
    )  # fmt: skip
    body = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
    return np.concatenate([np.array((HEADER + len(body), *header), dtype=np.float64), body])


@inlined_kernel
def evaluate_packed(z: Array, data: Array) -> tuple[float, Array]:
    """Return `log_turned` of a packed density: its value and gradient (d,)."""
    n_base, count, p, groups, q = (
        int(data[1]), int(data[2]), int(data[3]), int(data[4]), int(data[5]),
    )  # fmt: skip
    d = len(z)
    at = HEADER
    base = unpack_density(data[at : at + n_base])
    at += n_base
    starts = data[at : at + groups + 1].astype(np.int64)
    at += groups + 1
    n = data[at : at + count]
    at += count
    y = data[at : at + count]
    at += count
    peak = data[at : at + count]
    at += count
    x = data[at : at + count * p].reshape((count, p))
    at += count * p
    columns = data[at : at + count * q].reshape((count, q))
    at += count * q
    sign = data[at : at + count]
    at += count
    slack = data[at : at + count]
    at += count
    offset = data[at : at + count]
    at += count
    modes = data[at : at + groups * q].reshape((groups, q))
    at += groups * q
    steps = data[at : at + groups]
    at += groups
    centre = data[at : at + d]
    at += d
    turn = data[at : at + d * d].reshape((d, d))
    rows = Rows(int(data[6]), starts, n, y, peak, x, columns, sign, slack, offset, columns)
    return evaluate_turned(z, Compiled(base, rows, modes, steps, data[7], centre, turn))
