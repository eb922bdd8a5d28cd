"""Estimate + Draws -> Comparison: how each gap splits, and the words."""
