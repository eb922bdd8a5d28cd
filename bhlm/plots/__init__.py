"""Figures for notebooks, papers and the dashboard: one function per file, two libraries."""
