"""Where a fit came from: the values behind its facade, and the model with the rows."""

from collections.abc import Hashable
from dataclasses import FrozenInstanceError, fields
from functools import cache
from inspect import Signature
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import ref

if TYPE_CHECKING:
    from bhlm.fits.model import Model


@cache
def _list_fields(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cast(Any, kind)))


class Fitted:
    """Base of the fits that users hold: a frozen value that remembers its model, weakly.

    A fit is pickled and saved without the model: the rows stay where they are.
    """

    __slots__ = ()
    # Nobody makes a fit by hand: help() and notebooks need not show what it is made of.
    __signature__ = Signature()
    _model: "ref[Model] | None"  # a slot of each class of fits

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse it in one line: a frozen dataclass's own refusal fails in its subclasses."""
        has_draws = name == "data" and hasattr(type(self), "with_data")
        way_out = "; fit.with_data(tree) is the fit with other draws" if has_draws else ""
        raise FrozenInstanceError(f"a fit stays as it is: '{name}' cannot be set{way_out}")

    def __delattr__(self, name: str) -> None:
        """Refuse it in one line."""
        raise FrozenInstanceError(f"a fit stays as it is: '{name}' cannot be deleted")

    @classmethod
    def of(cls, value: Any, *, model: "Model | None" = None) -> Self:
        """Return a value (an Estimate, Draws) as the class that users hold."""
        # Every field as it is: what was checked and computed once is so still.
        fit = object.__new__(cls)
        for name in _list_fields(cast("Hashable", type(value))):
            object.__setattr__(fit, name, getattr(value, name))
        object.__setattr__(fit, "_model", None if model is None else ref(model))
        return fit

    @property
    def model(self) -> "Model | None":
        """The model that this fit was made from; None if it is no longer in use."""
        found = getattr(self, "_model", None)
        return None if found is None else found()
