"""Whether a posterior is proper and which moments it has, of every kind of model alike."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.bayes.family.tails import index_family
from bhlm.bayes.level_tails import judge_existence
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.priors.tails import describe_ray, name_indices
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns


class Proper(NamedTuple):
    """What is known of a posterior's tails."""

    proper: bool
    indices: dict[str, float]  # by parameter: the m-th moment exists if m < index
    slowest: str  # why it may be improper, a clause
    sd_index: float  # the smallest of the SDs


def judge_proper(
    post: Posterior, priors: ResolvedPriors | None = None, *, without: Collection[str] = ()
) -> Proper:
    """Return whether the posterior of a fit's model is proper, and which moments it has.

    Args:
        post: draws, of which the model and the data are read.
        priors: in the place of the fit's own.
        without: names of `list_priors` to swap for flat ones.
    """
    priors = post.priors if priors is None else priors
    moments, white, structure = post.moments, post.white, post.structure
    if isinstance(moments, Patterns | LevelPatterns):
        assert isinstance(white, WhitenedPatterns | WhitenedNest)
        indices = index_family(moments, structure, priors, white, without=without)
        sd = min(map(str, structure.sds), key=lambda name: indices[name])
        slowest = f"the groups whose responses differ are too few to bound {sd}"
        return Proper(min(indices.values()) > 0.0, indices, slowest, indices[sd])
    assert not isinstance(white, WhitenedPatterns | WhitenedNest)
    found = judge_existence(white, structure, priors, without=tuple(without))
    return Proper(
        found.proper,
        name_indices(found, moments, structure),
        describe_ray(found.slowest, structure),
        float(np.min(found.sd)),
    )
