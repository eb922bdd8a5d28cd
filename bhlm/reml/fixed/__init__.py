"""Inference about fixed effects: one file per method."""
