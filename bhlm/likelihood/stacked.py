"""The structures of several grouping factors as one, block-diagonal, one factor after the other.

With the random coefficients of all factors in one vector, G is block-diagonal and has a block for
each factor. What holds of one structure then holds of several: names, free elements, SDs that are
shared, blocks that may be correlated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bhlm.likelihood.cells import arrange_factors
from bhlm.likelihood.covariance import Labels, Structure, Terms, arrange, place_span
from bhlm.likelihood.parameters import Parameter
from bhlm.moments.cells import CellMoments
from bhlm.moments.either import Reduced
from bhlm.moments.level_patterns import LevelPatterns

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Stacked(Structure):
    """The structures of F grouping factors, one after the other.

    How its columns may be whitened and how priors stand on its correlations say the parts.
    """

    kind: ClassVar[str] = "stacked"
    whitening: ClassVar = "columns"
    correlation_law: ClassVar[str] = "of each part"

    members: tuple[Structure, ...]  # F

    @property
    def parts(self) -> tuple[Structure, ...]:
        """The structure of each grouping factor."""
        return self.members

    @property
    def blocks(self) -> Terms:
        """The sets of coefficients that may be correlated, of one factor after the other."""
        return tuple(block for part in self.members for block in part.blocks)

    @property
    def variances(self) -> tuple[Parameter, ...]:
        """The free elements of G as parameters, of one factor after the other."""
        return tuple(each for part in self.members for each in part.variances)

    @property
    def owners(self) -> tuple[int, ...]:
        """Which of the free SDs each coefficient has (q,)."""
        found: list[int] = []
        before = 0
        for part in self.members:
            found += [before + own for own in part.owners]
            before += len(part.sds)
        return tuple(found)

    @property
    def powers(self) -> tuple[int, ...]:
        """The power of each free SD that is flat on G's free elements."""
        return tuple(power for part in self.members for power in part.powers)

    @property
    def shares_variance(self) -> bool:
        """Whether coefficients of some factor have one variance."""
        return any(part.shares_variance for part in self.members)

    @property
    def name_override(self) -> str | None:
        """The `covariance=` that asks for the structures; None if they are the formula's own."""
        given = (part.name_override for part in self.members)
        return next((name for name in given if name is not None), None)

    def project(self, psi: Array) -> Array:
        """Return theta (c,) whose lam lam' is the structures' nearest match to psi (q, q)."""
        pairs = zip(self.members, self.spans, strict=True)
        return np.concatenate([part.project(psi[span, span]) for part, span in pairs])

    def _span(self) -> tuple[Array, Array, Labels]:
        placed = [
            place_span((part.factors, part.directions, part.labels), span.start, self.q)
            for part, span in zip(self.members, self.spans, strict=True)
        ]
        return (
            np.concatenate([factors for factors, _, _ in placed]),
            np.concatenate([directions for _, directions, _ in placed]),
            tuple(label for _, _, labels in placed for label in labels),
        )


def stack_structures(structures: Sequence[Structure]) -> Stacked:
    """Return the structures of several grouping factors as one."""
    terms = tuple(term for structure in structures for term in structure.terms)
    return Stacked("", terms, tuple(structures))


def arrange_stack(moments: Reduced | LevelPatterns, covariance: str | None = None) -> Structure:
    """Return the structure of the random coefficients of all grouping factors, one or several."""
    if isinstance(moments, CellMoments | LevelPatterns):
        return stack_structures(arrange_factors(moments, covariance))
    return arrange(moments, covariance)
