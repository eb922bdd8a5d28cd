"""Generators of odd formulas, tables, settings, files and arguments; see __main__.py."""
