"""A posterior <-> a JSON text and named arrays, which together are the whole of it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from bhlm.bayes.adjust import Adjustment
from bhlm.bayes.contents import Contents
from bhlm.bayes.convergence import Certificate, Diagnostics
from bhlm.bayes.draws import Draws, Posterior, Settings
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.bayes.priors.correlations import LKJ, arrange_prior
from bhlm.bayes.priors.families import Prior, TextPrior
from bhlm.bayes.priors.frame import Frame, stand_as_given
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.storage.arrays import digest_arrays, name_type
from bhlm.errors import DataError
from bhlm.files import make_plain
from bhlm.likelihood.cells import whiten_cells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.families import find_family
from bhlm.likelihood.nested_families import whiten_nest
from bhlm.likelihood.patterns import whiten_patterns
from bhlm.likelihood.whitening import Whitened, whiten
from bhlm.moments.cells import CellMoments, describe_cells, rebuild_cells
from bhlm.moments.either import Reduced as AnyReduced
from bhlm.moments.level_patterns import (
    LevelPatterns,
    describe_level_patterns,
    rebuild_level_patterns,
)
from bhlm.moments.memory import Blocks, Reduced
from bhlm.moments.moments import INTERCEPT, Moments, describe_moments, rebuild_moments
from bhlm.moments.patterns import Patterns, describe_patterns, rebuild_patterns
from bhlm.moments.weighting import Weighting, describe_weighting

Array = np.ndarray
type Arrays = dict[tuple[str, str], Array]  # by group and name, in the order of the file

EXTRA = "/bhlm_moments"
# The arrays of the moments and their dimensions in a file, after the labels of the blocks.
MOMENTS = {
    "n": ["block"],
    "mean": ["block", "column"],
    "cross": ["block", "column", "column_bis"],
}
# Those of the patterns of a family, and the distances of its nodes.
PATTERNS = {
    "groups": ["block"],
    "starts": ["edge"],
    "n": ["pattern"],
    "y": ["pattern"],
    "offset": ["pattern"],
    "values": ["pattern", "column"],
    "rows": ["block"],
}
# Those of several factors, which are all by pattern, as their labels are.
LEVEL_PATTERNS = {
    "n": ["pattern"],
    "y": ["pattern"],
    "offset": ["pattern"],
    "values": ["pattern", "column"],
    "rows": ["pattern"],
}
NODES = "nodes"
LABELS = "labels_{}"  # the i-th grouping column's, of several factors


def describe_fit(fit: Posterior) -> tuple[str, Arrays]:
    """Return the JSON text of all of a fit but its arrays, and the arrays.

    Raises:
        DataError: arrays of `fit.data` or labels of a type that has no place in a file, or a
            group in `fit.data` with the name of the file's own.
        TypeError: attributes in `fit.data` that JSON cannot hold.
    """
    arrays: Arrays = {}
    nodes: dict[str, dict[str, Any]] = {}
    for node in fit.data.subtree:
        dataset = node.to_dataset(inherit=False)
        entries = {}
        for name, variable in dataset.variables.items():
            arrays[node.path, name] = array = variable.values
            entries[name] = _describe_array(array, variable.dims, variable.attrs)
        nodes[node.path] = {
            "attrs": dict(dataset.attrs),
            "coordinates": list(dataset.coords),
            "variables": entries,
        }
    if EXTRA in nodes:
        raise DataError(f"fit.data has a group '{EXTRA}', which is the file's own; rename it")
    entries = {}
    for name, array in _list_arrays(fit.moments).items():
        arrays[EXTRA, name] = array
        dims = _list_dims(fit.moments).get(name, ["block"])
        entries[name] = _describe_array(array, dims, {})
    if isinstance(fit, FamilyDraws | FamilyLevelDraws):
        arrays[EXTRA, NODES] = fit.nodes
        entries[NODES] = _describe_array(fit.nodes, ["block"], {})
    for name, (array, dims) in _list_weights(fit).items():
        arrays[EXTRA, name] = array
        entries[name] = _describe_array(array, dims, {})
    nodes[EXTRA] = {"attrs": {}, "coordinates": [], "variables": entries}
    priors = fit.priors
    description = {
        "bhlm": version("bhlm"),
        "moments": _describe_moments(fit.moments),
        "data_sha256": hash_moments(fit.moments),
        "covariance": fit.structure.name_override,
        "priors": {
            "fixed": [_describe_prior(prior) for prior in priors.fixed],
            "sd": [_describe_prior(prior) for prior in priors.sd],
            "corr": priors.corr.eta,
            "others": [corr.eta for corr in priors.others],
            "sigma": _describe_prior(priors.sigma),
            "strata": [_describe_prior(prior) for prior in priors.strata],
            "held": priors.held,
            "frame": {"fixed": priors.frame.fixed, "random": priors.frame.random},
        },
        "settings": asdict(fit.settings),
        "seed": fit.seed,
        "seconds": fit.seconds,
        "sampler": fit.sampler,
        "diagnostics": asdict(fit.diagnostics),
        "nodes": nodes,
    }
    if isinstance(fit, Draws) and fit.adjustment is not None:
        description["adjustment"] = {
            "inflation": fit.adjustment.inflation.tolist(),
            "failure": fit.adjustment.failure,
        }
    if isinstance(fit, FamilyDraws | FamilyLevelDraws):
        description["error"] = fit.error
    return _encode(description), arrays


def rebuild_fit(description: str, arrays: Arrays) -> Posterior:
    """Return the fit that a JSON text and arrays stand for.

    `Draws`, `LevelDraws` of several grouping factors, `FamilyDraws` and `FamilyLevelDraws` of a
    family.
    """
    import xarray as xr

    content = json.loads(description)
    datasets = {}
    for path, node in content["nodes"].items():
        if path == EXTRA:
            continue
        variables = {
            name: (entry["dims"], arrays[path, name], entry["attrs"])
            for name, entry in node["variables"].items()
        }
        coordinates = {name: variables.pop(name) for name in node["coordinates"]}
        datasets[path] = xr.Dataset(variables, coordinates, node["attrs"])
    priors = content["priors"]
    moments = _rebuild_moments(content["moments"], arrays)
    structure = arrange_prior(moments, _read_covariance(content, moments))
    kept = {
        "structure": structure,
        "priors": ResolvedPriors(
            fixed=tuple(_make_prior(*prior) for prior in priors["fixed"]),
            sd=tuple(_make_prior(*prior) for prior in priors["sd"]),
            corr=LKJ(priors["corr"]),
            sigma=_make_prior(*priors["sigma"]),
            strata=tuple(_make_prior(*prior) for prior in priors.get("strata", ())),
            held=priors.get("held", False),
            frame=_read_frame(priors, moments, structure),
            others=tuple(LKJ(eta) for eta in priors.get("others", [])),
        ),
        "contents": Contents.of(xr.DataTree.from_dict(datasets)),
        "diagnostics": _read_diagnostics(content["diagnostics"]),
        "settings": Settings(**content["settings"]),
        **{name: content[name] for name in ("seed", "seconds", "sampler")},
    }
    if isinstance(moments, Patterns):
        return FamilyDraws(
            moments=moments,
            white=whiten_patterns(moments, structure),
            **kept,
            nodes=arrays[EXTRA, NODES],
            error=content["error"],
        )
    if isinstance(moments, LevelPatterns):
        return FamilyLevelDraws(
            moments=moments,
            white=whiten_nest(moments, structure.parts),
            **kept,
            nodes=arrays[EXTRA, NODES],
            error=content["error"],
        )
    if isinstance(moments, Moments):
        white = _read_strata(arrays, whiten(moments, structure))
        adjustment = _read_adjustment(content.get("adjustment"))
        return Draws(moments=moments, white=white, **kept, adjustment=adjustment)
    from bhlm.bayes.level_draws import LevelDraws

    return LevelDraws(moments=moments, white=whiten_cells(moments, structure.parts), **kept)


def _list_weights(fit: Posterior) -> dict[str, tuple[Array, list[str]]]:
    """Return the sums of weights by block, and the blocks of strata, with their dimensions."""
    found: dict[str, tuple[Array, list[str]]] = {}
    moments = fit.moments
    if isinstance(moments, Moments | CellMoments) and moments.weighting is not None:
        found |= {
            f"weights_{name}": (array, ["block"])
            for name, array in describe_weighting(moments.weighting).items()
        }
    if not isinstance(fit, Draws):
        return found
    if fit.white.parts is not None and fit.white.sizes is not None:
        square = ["stratum", "block", "white", "white_bis"]
        found |= {"parts": (fit.white.parts, square), "sizes": (fit.white.sizes, square[:2])}
    return found


def _read_weighting(arrays: Arrays) -> Weighting | None:
    names = [each.name for each in fields(Weighting)]
    if (EXTRA, f"weights_{names[0]}") not in arrays:
        return None
    return Weighting(*(arrays[EXTRA, f"weights_{name}"] for name in names))


def _read_strata(arrays: Arrays, white: Whitened) -> Whitened:
    if (EXTRA, "parts") not in arrays:
        return white
    parts, sizes = arrays[EXTRA, "parts"], arrays[EXTRA, "sizes"]
    return replace(white, parts=np.ascontiguousarray(parts), sizes=np.ascontiguousarray(sizes))


def _read_adjustment(content: Mapping[str, Any] | None) -> Adjustment | None:
    if content is None:
        return None
    return Adjustment(np.array(content["inflation"]), content["failure"])


def _list_arrays(moments: AnyReduced) -> dict[str, Array]:
    """Return the arrays of moments, or of patterns, by their name in a file."""
    if isinstance(moments, Patterns):
        return {name: getattr(moments, name) for name in PATTERNS}
    if isinstance(moments, LevelPatterns):
        columns = enumerate(moments.cell_labels.values())
        named = {LABELS.format(at): column for at, column in columns}
        return named | {name: getattr(moments, name) for name in LEVEL_PATTERNS}
    labels = (
        {"groups": moments.groups}
        if isinstance(moments, Moments)
        else {LABELS.format(at): column for at, column in enumerate(moments.blocks.labels)}
    )
    return labels | {name: getattr(moments, name) for name in MOMENTS}


def _list_dims(moments: AnyReduced) -> dict[str, list[str]]:
    """Return the dimensions of the arrays of moments, or of patterns; those of labels are one."""
    if isinstance(moments, LevelPatterns):
        labels = (LABELS.format(at) for at in range(len(moments.cell_labels)))
        return LEVEL_PATTERNS | {name: ["pattern"] for name in labels}
    return PATTERNS if isinstance(moments, Patterns) else MOMENTS


def _describe_moments(moments: AnyReduced) -> dict[str, Any]:
    if isinstance(moments, Patterns):
        return describe_patterns(moments)
    if isinstance(moments, LevelPatterns):
        return describe_level_patterns(moments) | {"min_group_size": moments.min_group_size}
    return describe_moments(moments) if isinstance(moments, Moments) else describe_cells(moments)


def _rebuild_moments(description: Mapping[str, Any], arrays: Arrays) -> AnyReduced:
    if "family" in description and "groupings" in description:
        names = description["groupings"]
        labels = {name: arrays[EXTRA, LABELS.format(at)] for at, name in enumerate(names)}
        lists = {name: arrays[EXTRA, name] for name in LEVEL_PATTERNS}
        family = find_family(description["family"], description["link"])
        return rebuild_level_patterns(description, labels, lists, family=family)
    if "family" in description:
        held = {name: arrays[EXTRA, name] for name in PATTERNS}
        family = find_family(description["family"], description["link"])
        return rebuild_patterns(description, held, family=family)
    n, mean, cross = (arrays[EXTRA, name] for name in MOMENTS)
    if "groupings" not in description:
        reduced = Reduced(arrays[EXTRA, "groups"], n, mean, cross, _read_weighting(arrays))
        return rebuild_moments(description, reduced)
    columns = range(len(description["groupings"]))
    held_labels = tuple(arrays[EXTRA, LABELS.format(at)] for at in columns)
    return rebuild_cells(description, Blocks(held_labels, n, mean, cross, _read_weighting(arrays)))


def _read_covariance(content: Mapping[str, Any], moments: AnyReduced) -> str | None:
    """Return what `covariance=` the fit was sampled with.

    Older files hold the correlated sets of coefficients in its place.
    """
    if "blocks" not in content:
        return content["covariance"]
    blocks = _freeze(content["blocks"])
    if blocks == moments.design.blocks:
        return None
    return "unstructured" if len(blocks) == 1 else "independent"


def hash_moments(moments: AnyReduced | LevelPatterns) -> str:
    """Return the SHA-256 of moments, by which two fits can be told to be of the same data."""
    if isinstance(moments, LevelPatterns):
        columns = [column for labels in moments.labels for column in labels.columns]
        codes = [labels.codes for labels in moments.labels]
        lists = [getattr(moments, name) for name in ("n", "y", "offset", "values", "rows")]
        text = _encode(describe_level_patterns(moments))
        return digest_arrays(text, [*columns, *codes, *lists])
    return digest_arrays(_encode(_describe_moments(moments)), _list_arrays(moments).values())


def _describe_array(array: Array, dims: Iterable[Any], attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "dims": list(dims),
        "shape": list(array.shape),
        "dtype": name_type(array),
        "attrs": dict(attrs),
    }


def _describe_prior(prior: Prior) -> list[Any]:
    """Return the prior's family and its numbers, or "" and its text."""
    family = type(prior).__name__
    if type(prior) not in Prior.families():
        return ["", str(prior)]
    return [family, *(getattr(prior, field.name) for field in fields(prior))]


def _read_frame(priors: dict[str, Any], moments: AnyReduced, structure: Structure) -> Frame:
    """Return where priors stand; older fits kept the means of the Intercept's alone."""
    if "frame" in priors:
        return Frame(*(np.array(priors["frame"][part]) for part in ("fixed", "random")))
    given = stand_as_given(moments, structure)
    if INTERCEPT in moments.fixed:
        given.fixed[moments.fixed.index(INTERCEPT)] += priors["centre"]
    return given


def _make_prior(family: str, *content: Any) -> Prior:
    if not family:
        return TextPrior(*content)
    return {known.__name__: known for known in Prior.families()}[family](*content)


def _encode(value: Any) -> str:
    """Return JSON, NumPy's arrays and scalars included; floats come back to the last bit."""
    return json.dumps(make_plain(value, finite=False), default=_refuse)


def _refuse(value: object) -> None:
    raise TypeError(f"{value!r} has no place in a file; make it a number or text")


def _freeze(value: Any) -> Any:
    """Return what JSON read with tuples in the place of its lists."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _read_diagnostics(values: Mapping[str, Any]) -> Diagnostics:
    found = Diagnostics(**_freeze_each(values))
    if found.certificate is None:
        return found
    return replace(found, certificate=Certificate(*found.certificate))


def _freeze_each(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _freeze(value) for name, value in values.items()}
