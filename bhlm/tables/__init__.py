"""Fits as text: one file per style."""

from bhlm.tables.posterior import render_posterior
from bhlm.tables.reconciliation import render_reconciliation
from bhlm.tables.stata import render_stata

__all__ = ["render_posterior", "render_reconciliation", "render_stata"]
