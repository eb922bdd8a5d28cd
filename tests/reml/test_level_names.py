"""Names of levels of several columns."""

import numpy as np

from bhlm.fits.model import Model
from tests.simulate import simulate_table


def test_levels_of_labels_with_colons_have_names_of_their_own():
    table = simulate_table(1)
    place = np.arange(len(table))
    table["a"] = np.where(place % 2 == 0, "p:q", "p")
    table["b"] = np.where(place % 3 == 0, "q:r", "r")
    effects = Model("y ~ x + (1 | a:b)", table).reml().group_effects()
    names = sorted(effects.iloc[:, 1])
    assert names == ["`p:q`:`q:r`", "`p:q`:r", "p:`q:r`", "p:r"]
    plain = table.replace({"a": {"p:q": "s"}, "b": {"q:r": "t"}})
    effects = Model("y ~ x + (1 | a:b)", plain).reml().group_effects()
    assert sorted(effects.iloc[:, 1]) == ["p:r", "p:t", "s:r", "s:t"]
