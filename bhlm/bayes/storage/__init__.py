"""Fits that last: saved whole or not at all, loaded to the last bit."""
