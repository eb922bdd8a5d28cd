"""Many data sets: calibration and simulation."""
