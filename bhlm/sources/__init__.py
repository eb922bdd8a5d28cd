"""Paths, URLs, databases, shipped data and the gallery -> tables."""
