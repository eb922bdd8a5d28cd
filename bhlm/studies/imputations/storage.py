"""Mixture <-> a posterior's file or folder for each imputation, and what puts them together.

`save_mixture(mixture, "post.nc")` writes `post.1.nc`, `post.2.nc`, ..., each of which `bhlm.load`
reads as a posterior of its own, and at last `post.nc.mixture`, a JSON object: `schema`, the `seed`,
the `fits` (name and SHA-256 of each one's content), and how the pooled fits were made, `method`,
`covariance`, `errors`, `df` and `level`. Without it there is no mixture, so that a save that is
killed leaves none. Draws come back to the last bit; the fits by REML or ML are fitted again, from
the moments in the posteriors.
"""

import json
from pathlib import Path
from typing import Any

from bhlm.bayes.draws import Draws
from bhlm.bayes.storage.arrays import digest_arrays
from bhlm.bayes.storage.description import describe_fit
from bhlm.bayes.storage.file import FORMATS, check_place, load, save
from bhlm.errors import ArgumentError, BhlmError, DataError
from bhlm.files import check_output, write_json
from bhlm.layout import count
from bhlm.reml.estimate import fit_moments
from bhlm.reml.sandwich import CONVENTIONS
from bhlm.studies.imputations.mixture import Mixture
from bhlm.studies.imputations.pooled import pool_fits

SCHEMA = 1
SUFFIX = ".mixture"


def name_index(path: str | Path) -> Path:
    """Return the file that puts the posteriors of `path` together."""
    given = Path(path)
    return given if given.suffix == SUFFIX else given.with_name(f"{given.name}{SUFFIX}")


def is_mixture(path: str | Path) -> bool:
    """Return whether a path is that of a saved mixture."""
    given = Path(path)
    if given.suffix == SUFFIX:
        return True
    return given.suffix.lower() in FORMATS and not given.exists() and name_index(given).exists()


def check_mixture_place(path: str | Path) -> None:
    """Refuse a path that `save_mixture` could not write to, before anything is sampled for it.

    Raises:
        ArgumentError: a path with another ending than .zarr or .nc, or of a posterior of its own.
        DataError: a place that cannot be written to.
    """
    given = Path(path)
    check_place(given)
    if given.exists():
        raise ArgumentError(
            f"'{path}' is a posterior of its own, which bhlm.load would read in place of the "
            "mixture; remove it, or give another name"
        )
    check_output(name_index(given))


def save_mixture(mixture: Mixture, path: str | Path) -> None:
    """Write the posteriors of a mixture beside each other; `load_mixture` gives it back.

    Args:
        mixture: the posterior given several imputations.
        path: `post.nc` or `post.zarr`, which stand for `post.1.nc`, `post.2.nc` and so on.

    Raises:
        ArgumentError: another ending, a posterior of its own at that path, or a mixture whose
            pooled fits rest on replicate weights, which are not in the moments.
        DataError: a place that cannot be written to.
    """
    pooled = mixture.pooled
    first = pooled.fits[0]
    if first.errors != "model" and first.errors not in CONVENTIONS:
        raise ArgumentError(
            f"standard errors by {first.errors} cannot be had again from moments; pool with one of "
            f"{', '.join(CONVENTIONS)}, and sample and save that"
        )
    check_mixture_place(path)
    given, index = Path(path), name_index(path)
    index.unlink(missing_ok=True)  # what it put together is about to change
    held = []
    for at, fit in enumerate(mixture.fits, 1):
        own = given.with_name(f"{given.stem}.{at}{given.suffix}")
        save(fit, own)
        held.append({"name": own.name, "sha256": _digest(fit)})
    write_json(
        {
            "schema": SCHEMA,
            "seed": mixture.seed,
            "fits": held,
            "method": first.method,
            "covariance": first.structure.name_override,
            "errors": first.errors,
            "df": pooled.df,
            "level": pooled.level,
        },
        index,
    )


def load_mixture(path: str | Path) -> Mixture:
    """Return the mixture that `save_mixture` wrote, its draws equal to the last bit.

    Raises:
        DataError: no such files, files that were not saved together, or that were changed.
    """
    index = name_index(path)
    try:
        told: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        held = [(each["name"], each["sha256"]) for each in told["fits"]]
        schema, seed, df, level = (told[name] for name in ("schema", "seed", "df", "level"))
        choice = {name: told[name] for name in ("method", "covariance", "errors")}
    except OSError as error:
        raise DataError(f"'{index}' cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"'{index}' is no index of a saved mixture; save the mixture again"
        ) from error
    if schema != SCHEMA:
        raise DataError(f"'{index}' has the schema {schema!r}, and this version reads {SCHEMA}")
    fits: list[Draws] = []
    for name, digest in held:
        own = index.with_name(Path(name).name)
        fit = load(own)
        if not isinstance(fit, Draws) or _digest(fit) != digest:
            raise DataError(
                f"'{own}' is not the posterior that '{index.name}' was saved with; save the "
                f"mixture of {count(len(held), 'imputation')} again"
            )
        fits.append(fit)
    try:
        estimates = [fit_moments(fit.moments, **choice) for fit in fits]
        pooled = pool_fits(estimates, df=df, level=level)
    except (BhlmError, TypeError) as error:
        raise DataError(f"'{index}' was changed ({error}); save the mixture again") from error
    return Mixture(tuple(fits), pooled, seed)


def _digest(fit: Draws) -> str:
    """Return the SHA-256 of what is saved of a posterior."""
    description, arrays = describe_fit(fit)
    return digest_arrays(description, arrays.values())
