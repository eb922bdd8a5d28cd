"""Priors as text, `HalfStudentT(3, 5)`, as the gallery's TOML files hold them."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bhlm.bayes.priors.families import (
    LKJ,
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Normal,
    Prior,
    Priors,
    StudentT,
)
from bhlm.errors import PriorError

FAMILIES: dict[str, type[Prior] | type[LKJ]] = {
    family.__name__: family
    for family in (
        Flat, Normal, StudentT, Cauchy, HalfNormal, HalfStudentT, HalfCauchy, Exponential,
        Gamma, LKJ,
    )
}  # fmt: skip


def parse_prior(text: str) -> Prior | LKJ:
    """Return the prior written as `Family(number, ...)`, as the gallery's TOML files hold it.

    Raises:
        PriorError: a family that is not known, or numbers that it does not take.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    known = ", ".join(FAMILIES)
    if not match or match[1] not in FAMILIES:
        raise PriorError(f"prior {text!r} is not known; write one of {known} with its numbers")
    try:
        numbers = [float(part) for part in (match[2] or "").split(",") if part.strip()]
        return FAMILIES[match[1]](*numbers)
    except (TypeError, ValueError) as error:
        takes = ", ".join(field.name for field in fields(FAMILIES[match[1]]))
        raise PriorError(f"prior {text!r} does not fit {match[1]}({takes})") from error


def read_priors(table: Mapping[str, Any] | None) -> Priors | None:
    """Return the priors that a gallery file holds as text; None for none.

    Keys are `fixed` and `sd` (text, or a table from coefficient to text), `corr` and `sigma`.

    Raises:
        PriorError: an unknown key, or text that is no prior.
    """
    if table is None:
        return None
    known = ("fixed", "sd", "corr", "sigma")
    for key in table:
        if key not in known:
            raise PriorError(f"priors.{key} is not known; the keys are {', '.join(known)}")

    def read(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: read(text) for name, text in value.items()}
        if not isinstance(value, str):
            raise PriorError(f"prior {value!r} is not text; write it as 'Normal(0, 10)'")
        return parse_prior(value)

    return Priors(**{key: read(value) for key, value in table.items()})
