"""Rows -> cross-products per group; files, merging, disclosure control."""
