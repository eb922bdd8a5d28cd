"""What a posterior holds: arrays, and the tree of them that ArviZ takes, made when asked for.

Estimates and the verdict rest on the draws of the parameters alone. Random effects, log-likelihoods
and the tree around them take as long as the sampler, and are not made for who asks for no more.
"""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bhlm.bayes.whole import ADVICE, Layout, check_draws, check_place, survey_draws
from bhlm.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
type Arrays = dict[str, dict[str, Array]]  # by group of the tree, then by name


class Contents:
    """The arrays of a posterior, then its tree, to which anybody may write."""

    __slots__ = ("_arrays", "_complete", "_layout", "_lock", "_tree")

    def __init__(self, arrays: Arrays, complete: "Callable[[Arrays], xr.DataTree]") -> None:
        """Keep arrays.

        Args:
            arrays: what every posterior is asked for: parameters, roots and statistics.
            complete: makes the tree of them, with all else that belongs there.
        """
        self._arrays = arrays
        self._complete: Callable[[Arrays], xr.DataTree] | None = complete
        self._tree: xr.DataTree | None = None
        self._layout: Layout = {}
        self._lock = Lock()

    @classmethod
    def of(cls, tree: "xr.DataTree", layout: Layout | None = None) -> Self:
        """Return the contents that are a tree already, made with a layout; None is its own."""
        made = cls({}, lambda _: tree)
        _ = made.tree
        if layout is not None:
            made._layout = layout
        return made

    def with_tree(self, tree: "xr.DataTree") -> Self:
        """Return contents that are another tree.

        Raises:
            DataError: it has no draws of these parameters.
        """
        _ = self.tree
        check_place(tree, self._layout)
        return type(self).of(tree)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have the tree, as what it is made from may be long gone there."""
        return type(self).of, (self.tree, self._layout)

    @property
    def is_made(self) -> bool:
        """Whether the tree is there, and may have been written to."""
        return self._tree is not None

    @property
    def tree(self) -> "xr.DataTree":
        """The tree, the same at each call."""
        with self._lock:
            if self._tree is None:
                assert self._complete is not None
                tree = self._complete(self._arrays)
                self._layout, self._tree = survey_draws(tree), tree
                self._complete = None  # and what it was made from
            return self._tree

    def read(self, node: str, name: str) -> Array:
        """Return a variable of a group of the tree.

        Raises:
            DataError: it is not in the tree.
            KeyError: the tree is not made yet, and it would be made with it.
        """
        if self._tree is None:
            return self._arrays[node][name]
        if not self.has(node, name):
            raise DataError(f"fit.data['{node}'] has no '{name}', which is asked for; {ADVICE}")
        return np.asarray(self._tree[node].dataset.variables[name].values)

    def has(self, node: str, name: str) -> bool:
        """Return whether `read` gives a variable."""
        if self._tree is None:
            return name in self._arrays.get(node, {})
        return node in self._tree.children and name in self._tree[node].dataset.variables

    def check(self) -> None:
        """Raise `DataError` where somebody has written to the tree what no posterior holds."""
        if self._tree is not None:
            check_draws(self._tree, self._layout)
