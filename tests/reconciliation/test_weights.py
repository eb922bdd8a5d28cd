"""Reconciliation with precision and frequency weights, whose likelihood is one of the rows."""

import numpy as np
import pandas as pd
import pytest

import bhlm


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["w", bhlm.FrequencyWeights("times")])
def test_weighted_rows_are_reconciled(weights):
    table = bhlm.load_dataset("sleepstudy")
    rng = np.random.default_rng(1)
    table = table.assign(
        w=rng.uniform(0.5, 2.0, size=len(table)), times=rng.integers(1, 3, size=len(table))
    )
    model = bhlm.Model("Reaction ~ Days + (1 | Subject)", pd.DataFrame(table), weights=weights)
    both = bhlm.reconcile(model.reml(), model.sample(seed=1))
    assert both.verdict in ("agree", "explained")
    assert both.evidence.identity.finding == "same"
    assert both.evidence.certified
    assert "not checked by replicates" in both.checks.left_out[0]
