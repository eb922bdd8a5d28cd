"""The exceptions of bhlm, and the check of the arguments of its public functions.

One base class, one subclass for each edge that validates. Every message names the object, the
offending value and the next step, in one line. What it names may be an address with a password
in it, which no message shows.

`check_arguments` holds a public function to its own signature. An annotation says what an
argument may be, by the names of classes, so that nothing has to be imported for it; the name of
a number says how large it may be, since one name means one thing everywhere.
"""

import math
import operator
import os
import sys
from collections import abc
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache, lru_cache, wraps
from inspect import Parameter, Signature, isclass, isfunction, signature
from itertools import chain
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAliasType, get_args, get_origin

from bhlm.secrets import hide_passwords, hide_within

LONGEST_MESSAGE = 2000  # characters


class BhlmError(Exception):
    """Base class of every error that bhlm raises on purpose: its text is one line."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*(_clean(part) if isinstance(part, str) else part for part in parts))
        hide_within(sys.exception())  # what led to this one is shown with it


def _clean(text: str) -> str:
    """Return a message in one line, without passwords, and no longer than can be read."""
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]}..."
    shown = hide_passwords(" ".join(text.split()))
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)


class FormulaError(BhlmError, ValueError):
    """The formula cannot be read, or asks for something that is not known."""


class DataError(BhlmError, ValueError):
    """The table cannot serve the formula: a missing column, infinite values, no rows."""


class IdentifiabilityError(BhlmError, ValueError):
    """The data cannot identify a parameter of the model."""


class GalleryError(BhlmError, ValueError):
    """A model file of the gallery is not valid."""


class PriorError(BhlmError, ValueError):
    """A prior does not fit the parameter that it was given for."""


class MissingPackageError(BhlmError, ImportError):
    """A package that only some users need is not installed."""


class ArgumentError(BhlmError, ValueError):
    """An argument has a value outside the ones that are known."""


class StoppedError(BhlmError, RuntimeError):
    """A run was stopped before there were enough draws to make a fit of."""


def miss_package(what: str, package: str, extra: str) -> MissingPackageError:
    """Return the error for a package that is not installed, with the extra that installs it."""
    return MissingPackageError(
        f"{what} needs the package {package}; install it with: pip install 'bhlm[{extra}]'"
    )


# The largest integers that are taken, by the name of the argument, so that nobody waits for more
# than a lifetime or asks for more memory than there is. What is too small is refused, in the
# words of the thing, by the function; of cores by all alike.
LIMITS = {
    **dict.fromkeys(("draws", "tune", "replicates", "rows"), 10_000_000),
    **dict.fromkeys(("n_draws", "thin", "points"), 1_000_000),
    **dict.fromkeys(("budget", "held", "min_group_size", "k", "streamed_size", "least_df"), 10**15),
    **dict.fromkeys(("cores", "processes", "chains"), 1024),
    "seed": 2**64 - 1,
    "maxdepth": 20,  # of trajectories, which have 2**maxdepth steps
}
AT_LEAST_ONE = ("cores", "maxdepth", "budget")
# What takes a value in any state that it may be in.
_AS_IT_IS = ("__init__", "save")
# Names in annotations that stand for functions, and for the bases of several classes.
_CALLABLE = {"Callable", "Progress", "Evaluate"}
_LOOKED_AT = {"None", "bool", "int", "float", "str", "Path", "Sequence", "Mapping"}
_BASES = {"Fit": ("Estimate", "Draws", "Comparison")}
# Names in annotations whose values need no look beyond their type.
_PLAIN = {"None": NoneType, "bool": bool, "float": float}
# Classes that annotations name in quotes.
_CLASSES = {
    *("str", "int", "float", "bool", "None", "Path", "Model", "Moments", "RemlFit", "BayesFit"),
    *(
        "Reconciliation",
        "Estimate",
        "Maximum",
        "Draws",
        "Comparison",
        "Contents",
        "Priors",
        "Prior",
        "TensorVariable",
    ),
    *("FamilyBayesFit", "FamilyLevelBayesFit", "LevelBayesFit", "StrataFit", "WeightedBayesFit"),
    *(
        "CellMoments",
        "LevelPatterns",
        "FamilyFit",
        "FamilyLevelsFit",
        "FamilyMaximum",
        "LevelsFit",
        "LKJ",
        "Published",
        "StudyResult",
        "DataTree",
    ),
    *("Mixture", "PooledFit"),
}
_ADVICE = {
    ("Priors", "dict"): "write priors=bhlm.Priors(fixed=..., sd=..., sigma=...)",
    ("Model", "RemlFit"): "give the model that was fitted, which is fit.model",
    ("Model", "BayesFit"): "give the model that was fitted, which is fit.model",
    ("RemlFit", "Model"): "give a fit, such as model.reml()",
    ("Estimate", "Model"): "give a fit, such as model.reml()",
    ("Maximum", "Model"): "give a fit, such as model.reml()",
    ("BayesFit", "Model"): "give a fit, such as model.sample()",
    ("Draws", "Model"): "give a fit, such as model.sample()",
    ("Moments", "Model"): "give model.moments",
    ("Moments", "RemlFit"): "give fit.moments",
    ("Moments", "BayesFit"): "give fit.moments",
    **{
        (wanted, "LevelsFit"): "a fit of several grouping factors is not taken here yet"
        for wanted in ("RemlFit", "Estimate", "Fit")
    },
    **{
        (wanted, "FamilyMaximum"): "a fit of zeros and ones or counts is not taken here"
        for wanted in ("RemlFit", "Estimate", "Maximum", "Fit")
    },
}
LONGEST = 60  # characters of a value in a message


class _TypeRefusal(ArgumentError):
    """An argument of another type than its annotation."""


def check_arguments[T](target: T) -> T:
    """Return a function that refuses arguments which its signature does not allow.

    A class is returned with its public methods so checked, and its `__init__`. Integers of NumPy
    and the like arrive as Python's. An argument without an annotation, or with Any, is left to
    the function. A value whose class has the method `_check_whole` is asked by it first whether it
    is still what it was made as.

    What is out of its range, text for a list, and a fit for a model and the like are refused before
    the function is called; what else has another type than its annotation is refused if the
    function cannot use it and says nothing clearer.

    Raises, when called:
        ArgumentError: an argument of another type than its annotation, or out of its range.
    """
    if not isclass(target):
        return _check_function(target)  # type: ignore[arg-type, return-value]
    for name, member in list(vars(target).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isfunction(member):
            setattr(target, name, _check_function(member))
        elif isinstance(member, classmethod | staticmethod):
            setattr(target, name, type(member)(_check_function(member.__func__)))
    return target


def check_fields[T: type](target: T) -> T:
    """Return a dataclass as `check_arguments` does, whose constructor refuses other types at once.

    It takes its fields as they are, so that nothing else would tell what is wrong with them.
    """
    plain = target.__init__  # type: ignore[misc]
    check_arguments(target)
    target.__init__ = _check_function(plain, at_once=True)  # type: ignore[misc]
    return target


def _check_function(function: Callable[..., Any], *, at_once: bool = False) -> Callable[..., Any]:
    @cache
    def read() -> tuple[
        Signature, dict[str, tuple["_Kind", ...]], tuple[str, ...], dict[str, set[type]]
    ]:
        shape = signature(function)
        kinds = {name: _read(each.annotation) for name, each in shape.parameters.items()}
        # By argument, the types of which every value, or every plain text, is taken as it is.
        return shape, kinds, _list_positions(shape), {name: set() for name in kinds}

    asks_whole = function.__name__ not in _AS_IT_IS

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        shape, kinds, positions, taken = read()
        if asks_whole:
            for value in (*args, *kwargs.values()):
                if (is_whole := getattr(type(value), "_check_whole", None)) is not None:
                    is_whole(value)
        if len(args) <= len(positions):
            # Mostly every value is what it should be, and goes on as it came.
            for name, value in chain(zip(positions, args, strict=False), kwargs.items()):
                if name not in kinds:
                    break
                kind = type(value)
                if kind in taken[name] and (kind is not str or _is_plain(value)):
                    continue
                if _passes_by_type(value, kinds[name]):
                    taken[name].add(kind)
                elif not _passes(name, value, kinds[name]):
                    break
                elif kind is str:
                    taken[name].add(kind)
            else:
                return function(*args, **kwargs)
        try:
            bound = shape.bind(*args, **kwargs)
        except TypeError:  # one too many, or an unknown name: Python says of which function
            return function(*args, **kwargs)
        refusal = None
        for name, value in bound.arguments.items():
            if not kinds[name]:
                continue
            try:
                if shape.parameters[name].kind is Parameter.VAR_POSITIONAL:
                    found: Any = tuple(_check(name, each, kinds[name]) for each in value)
                else:
                    found = _check(name, value, kinds[name])
            except _TypeRefusal as error:
                refusal = refusal or error
            else:
                bound.arguments[name] = found
        if refusal is None:
            return function(*bound.args, **bound.kwargs)
        if at_once:
            raise ArgumentError(*refusal.args)
        # The function's own words for what it cannot take say more than its annotation does.
        try:
            return function(*bound.args, **bound.kwargs)
        except BhlmError:
            raise
        except Exception:
            raise ArgumentError(*refusal.args) from None

    return checked


def _list_positions(shape: Signature) -> tuple[str, ...]:
    """Return the arguments that go by position, each by itself."""
    alone = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, each in shape.parameters.items() if each.kind in alone)


def _passes_by_type(value: Any, kinds: tuple["_Kind", ...]) -> bool:
    """Return whether every value of this one's type is what an argument takes, as it is."""
    return not kinds or any(
        not _class_names(value).isdisjoint(kind.classes)
        if kind.classes is not None
        else type(value) is _PLAIN.get(kind.name)
        for kind in kinds
    )


def _passes(name: str, value: Any, kinds: tuple["_Kind", ...]) -> bool:
    """Return whether an argument is seen at once to be what its function takes, as it is."""
    if _passes_by_type(value, kinds):
        return True
    for kind in kinds:
        if kind.name == "int":
            if type(value) is int and name not in LIMITS and name not in AT_LEAST_ONE:
                return True
        elif kind.name == "Sequence" and type(value) is list and kind.items:
            if all(_passes(name, item, kind.items) for item in value):
                return True
        elif kind.name == "str" and type(value) is str and _is_plain(value):
            return True
    return False


def _is_plain(text: str) -> bool:
    """Return whether text goes into any file and onto any screen."""
    return text.isascii() and "\0" not in text


class _Kind:
    """One alternative of an annotation: a class by its name, and the kinds of its items."""

    __slots__ = ("classes", "items", "name")

    def __init__(self, name: str, items: tuple["_Kind", ...] = ()) -> None:
        self.name, self.items = name, items
        # What its class is called, or one that it derives from; None where more is looked at.
        is_class = name not in _LOOKED_AT | _CALLABLE and not hasattr(abc, name)
        self.classes = frozenset(_BASES.get(name, (name,))) if is_class else None

    def __str__(self) -> str:
        words = {
            "str": "text", "int": "an integer", "float": "a number", "bool": "True or False",
            "None": "None", "Path": "a path", "Callable": "a function", "Evaluate": "a function",
            "Progress": "a function", "Fit": "a fit", "Maximum": "a fit",
            "FamilyMaximum": "a fit of a family",
        }  # fmt: skip
        if self.name in ("Sequence", "Mapping"):
            return f"a {'list' if self.name == 'Sequence' else 'dictionary'}" + (
                f" of {' or '.join(map(str, self.items))}" if self.items else ""
            )
        article = "an" if self.name[0] in "AEIOU" else "a"
        return words.get(self.name, f"{article} {self.name}")


def _read(annotation: Any) -> tuple[_Kind, ...]:
    """Return the alternatives of an annotation; none where it allows anything."""
    if isinstance(annotation, str):
        parts = _split(annotation, "|")
        if len(parts) > 1:
            return _join([_read(part) for part in parts])
        name, _, rest = annotation.strip().partition("[")
        name = name.rpartition(".")[2]
        items = _split(rest.removesuffix("]"), ",") if rest else []
        if name == "AnyMoments":
            return (_Kind("Moments"), _Kind("CellMoments"))
        is_known = name in _CLASSES | _CALLABLE | _BASES.keys() or hasattr(abc, name)
        if not is_known:  # it may stand for a union of types, which nothing here can see
            return ()
        return _name(name, [_read(item) for item in items])
    if isinstance(annotation, TypeAliasType):
        if annotation.__name__ in _CALLABLE | _BASES.keys():
            return (_Kind(annotation.__name__),)
        return _read(annotation.__value__)
    if isinstance(annotation, UnionType):
        return _join([_read(part) for part in get_args(annotation)])
    if annotation in (None, NoneType):
        return (_Kind("None"),)
    origin = get_origin(annotation)
    if annotation is Parameter.empty:
        return ()
    if origin is Literal:  # which of its texts, the function says
        return (
            (_Kind("str"),) if all(isinstance(each, str) for each in get_args(annotation)) else ()
        )
    name = getattr(origin or annotation, "__name__", "Any")
    return _name(name, [_read(item) for item in get_args(annotation)])


def _name(name: str, items: list[tuple[_Kind, ...]]) -> tuple[_Kind, ...]:
    if name in ("Any", "NativeDataFrame", "Self", "Literal", "_empty"):
        return ()
    if name == "Sequence":
        return (_Kind(name, items[0] if items else ()),)
    if name == "Mapping":
        return (_Kind(name, items[1] if len(items) > 1 else ()),)
    return (_Kind(name),)


def _join(parts: Sequence[tuple[_Kind, ...]]) -> tuple[_Kind, ...]:
    return tuple(kind for part in parts for kind in part) if all(parts) else ()


def _split(text: str, mark: str) -> list[str]:
    """Return the parts of an annotation between marks that no bracket encloses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == mark and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _check(name: str, value: Any, kinds: tuple[_Kind, ...]) -> Any:
    """Return an argument as its function takes it, or refuse it."""
    for kind in kinds:
        if _is(value, kind):
            return _check_value(name, value, kind)
    wanted = " or ".join(dict.fromkeys(map(str, kinds)))
    found = _class_names(value)
    known = [
        text for (want, got), text in _ADVICE.items()
        if got in found and any(want == kind.name for kind in kinds)
    ]  # fmt: skip
    advice = known[0] if known else f"give {wanted}"
    # A function might take text for a list of its letters in silence.
    is_silent = isinstance(value, str) and any(kind.name == "Sequence" for kind in kinds)
    # A function is called late, and maybe in a thread that nobody hears.
    is_silent |= any(kind.name in _CALLABLE for kind in kinds)
    # True would count as 1.
    items = value if isinstance(value, list | tuple) else [value]
    numbers = {own.name for kind in kinds for own in (kind, *kind.items)} & {"int", "float"}
    is_silent |= bool(numbers) and any(_is_boolean(item) for item in items)
    refusal = ArgumentError if known or is_silent else _TypeRefusal
    shown = show_value(bool(value) if _is_boolean(value) else value)
    raise refusal(f"{name}={shown} is not {wanted}; {advice}")


def _is_boolean(value: Any) -> bool:
    """Return whether a value is True or False, of Python or of NumPy."""
    kind = type(value)
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))


def _is(value: Any, kind: _Kind) -> bool:
    name = kind.name
    if name == "None":
        return value is None
    if name == "bool":
        return _is_boolean(value)
    if name in ("int", "float"):
        is_number = isinstance(value, Integral if name == "int" else Real)
        return is_number and not isinstance(value, bool)
    if name in _CALLABLE:
        return callable(value)
    if name == "Sequence":
        if isinstance(value, str | bytes | Mapping | Set) or not hasattr(value, "__len__"):
            return False
        if getattr(value, "ndim", 1) != 1:
            return False
        try:
            items = list(value)
        except Exception:
            return False
        return not kind.items or all(any(_is(item, each) for each in kind.items) for item in items)
    if name == "Mapping":
        return isinstance(value, Mapping) and (
            not kind.items
            or all(any(_is(item, each) for each in kind.items) for item in value.values())
        )
    if hasattr(abc, name):
        return isinstance(value, getattr(abc, name)) and not isinstance(value, str | bytes)
    return not _class_names(value).isdisjoint(_BASES.get(name, (name,)))


def _check_value(name: str, value: Any, kind: _Kind) -> Any:
    if kind.name in ("int", "float"):
        try:
            value = operator.index(value) if kind.name == "int" else float(value)
        except OverflowError:
            raise ArgumentError(f"{name}={show_value(value)} is too large; give a number") from None
        if kind.name == "int" and value > LIMITS.get(name, value):
            raise ArgumentError(
                f"{name}={show_value(value)} is too large; give at most {LIMITS[name]:,}"
            )
        if kind.name == "int" and name in AT_LEAST_ONE and value < 1:
            raise ArgumentError(f"{name}={value} is too small; give at least 1")
    elif kind.name in ("str", "Path"):
        try:
            is_text = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            is_text = False
        if not is_text:
            raise ArgumentError(
                f"{name}={show_value(value)} holds a zero byte or half a character; leave it out"
            )
    elif kind.name == "Sequence" and not isinstance(value, list | tuple):
        value = list(value)  # an array or a column, whose truth value is another
    return value


def _class_names(value: Any) -> frozenset[str]:
    """Return the names of a value's class and of those that it derives from."""
    kind: Any = type(value)  # which mypy does not take for hashable
    return _list_names(kind)


@lru_cache(maxsize=1024)
def _list_names(of: Any) -> frozenset[str]:
    return frozenset(each.__name__ for each in of.__mro__)


def is_finite(value: object) -> bool:
    """Return whether a value is one real number that a double can hold."""
    try:
        return isinstance(value, Real) and math.isfinite(float(value))
    except OverflowError:
        return False


def show_value(value: Any) -> str:
    """Return a value as a message names it: short, and in one line."""
    kind = type(value).__name__
    if value is not None and not isinstance(value, str | bytes | bool | Integral | Real | Path):
        return f"<{kind}>"
    try:
        text = ascii(value) if isinstance(value, bytes) else repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"<{kind}>"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
