"""The posterior by importance sampling."""

from bhlm.bayes.importance.posterior import ImportancePosterior, integrate_importance

__all__ = ["ImportancePosterior", "integrate_importance"]
