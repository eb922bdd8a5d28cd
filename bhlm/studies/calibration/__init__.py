"""Simulation-based calibration of the sampler on a model."""
