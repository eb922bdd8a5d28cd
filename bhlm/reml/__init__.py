"""The optimum of the likelihood -> Estimate, and whatever is asked of an Estimate."""
