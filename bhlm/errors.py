"""The exceptions of bhlm: one base class, one subclass for each edge that validates.

Every message names the object, the offending value and the next step, in one line. What it names
may be an address with a password in it, which no message shows.
"""

from bhlm.secrets import hide_passwords


class BhlmError(Exception):
    """Base class of every error that bhlm raises on purpose."""

    def __init__(self, *parts: object) -> None:
        super().__init__(
            *(hide_passwords(part) if isinstance(part, str) else part for part in parts)
        )


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


def miss_package(what: str, package: str, extra: str) -> MissingPackageError:
    """Return the error for a package that is not installed, with the extra that installs it."""
    return MissingPackageError(
        f"{what} needs the package {package}; install it with: pip install 'bhlm[{extra}]'"
    )
