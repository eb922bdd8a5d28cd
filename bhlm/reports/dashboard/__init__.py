"""Fits and their checks -> one HTML file with everything in it, and its twin in JSON."""
