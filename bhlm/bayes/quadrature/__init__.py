"""The posterior by deterministic quadrature, for one or two random coefficients."""

from bhlm.bayes.quadrature.posterior import (
    QuadraturePosterior,
    integrate_posterior,
    integrate_resolved,
)

__all__ = ["QuadraturePosterior", "integrate_posterior", "integrate_resolved"]
