"""Priors, density, sampler -> Draws, and whatever is asked of Draws."""
