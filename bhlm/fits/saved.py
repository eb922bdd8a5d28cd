"""A saved fit -> the class that `model.sample()` returns."""

from pathlib import Path
from typing import cast

from bhlm.bayes.draws import Draws
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.errors import check_arguments
from bhlm.fits.bayes_fit import BayesFit


@check_arguments
def load(path: str | Path) -> BayesFit:
    """Return the fit that `fit.save(path)` wrote; see `bhlm.bayes.storage.file.load`.

    That of several grouping factors is a `LevelBayesFit`, and with sampling weights, known
    variances or strata it is a `WeightedBayesFit`; of a family a `FamilyBayesFit`, of
    nested factors a `FamilyLevelBayesFit`. The posteriors
    of imputations that were saved together are a `MixtureFit`.

    Raises:
        DataError: the path is no saved fit, or one that is damaged.
    """
    from bhlm.bayes.storage.file import load as load_draws
    from bhlm.studies.imputations.storage import is_mixture, load_mixture

    if is_mixture(path):
        from bhlm.fits.pooled_fit import MixtureFit, hold_pooled

        mixture = load_mixture(path)
        pooled = hold_pooled(mixture.pooled)
        return cast("BayesFit", MixtureFit(mixture.fits, pooled, mixture.seed))
    found = load_draws(path)
    if isinstance(found, Draws) and found.white.is_plain:
        return BayesFit.of(found)
    if isinstance(found, Draws):
        from bhlm.fits.weighted_bayes_fit import WeightedBayesFit

        return cast("BayesFit", WeightedBayesFit.of(found))
    if isinstance(found, FamilyLevelDraws):
        from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit

        return cast("BayesFit", FamilyLevelBayesFit.of(found))
    if isinstance(found, FamilyDraws):
        from bhlm.fits.family_bayes_fit import FamilyBayesFit

        return cast("BayesFit", FamilyBayesFit.of(found))
    from bhlm.fits.level_bayes_fit import LevelBayesFit

    return cast("BayesFit", LevelBayesFit.of(found))
