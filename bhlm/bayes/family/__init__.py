"""Posteriors of zeros and ones, proportions and counts."""
