"""Covariance structures, parameter names, whitening, kernels: the marginal algebra."""
