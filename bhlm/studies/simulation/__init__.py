"""Simulation studies: bias, RMSE, coverage and power of REML and of Bayes over a grid."""
