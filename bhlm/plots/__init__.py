"""Figures for notebooks, papers and the dashboard: one function per file, two libraries.

Each `plot_...` function returns a `Figure`: a sentence read off the data (`reading`), the numbers
that are drawn (`table`), and the drawing by Plotly (`.plotly()`, which notebooks show) or by
matplotlib (`.matplotlib()`); `.save("figure.pdf")` writes it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bhlm.plots.attribution import plot_attribution
    from bhlm.plots.caterpillar import plot_caterpillar
    from bhlm.plots.curves import plot_curves
    from bhlm.plots.divergences import plot_divergences
    from bhlm.plots.effects import plot_effects
    from bhlm.plots.energy import plot_energy
    from bhlm.plots.evolution import plot_evolution
    from bhlm.plots.figure import Figure
    from bhlm.plots.forest import plot_forest
    from bhlm.plots.group_lines import plot_group
    from bhlm.plots.homogeneity import plot_homogeneity
    from bhlm.plots.imputations import plot_imputations, plot_missing_information
    from bhlm.plots.influence import plot_influence
    from bhlm.plots.intervals import plot_intervals
    from bhlm.plots.johnson_neyman import plot_johnson_neyman
    from bhlm.plots.khat import plot_khat
    from bhlm.plots.loo_pit import plot_loo_pit
    from bhlm.plots.pairs import plot_pairs
    from bhlm.plots.predictive import plot_predictive
    from bhlm.plots.prior_posterior import plot_prior_posterior
    from bhlm.plots.ranks import plot_ranks
    from bhlm.plots.residual_fitted import plot_residual_fitted
    from bhlm.plots.residuals import plot_residuals
    from bhlm.plots.sensitivity import plot_sensitivity
    from bhlm.plots.shrinkage import plot_shrinkage
    from bhlm.plots.side_by_side import plot_fits
    from bhlm.plots.studies import plot_studies
    from bhlm.plots.study_bias import plot_bias
    from bhlm.plots.study_coverage import plot_coverage
    from bhlm.plots.study_power import plot_power
    from bhlm.plots.traces import plot_traces
    from bhlm.plots.variance_shares import plot_variance_shares

_HOMES = {
    "plot_fits": "side_by_side",
    "plot_variance_shares": "variance_shares",
    "plot_studies": "studies",
    "plot_pairs": "pairs",
    "plot_homogeneity": "homogeneity",
    "plot_residual_fitted": "residual_fitted",
    "plot_johnson_neyman": "johnson_neyman",
    "Figure": "figure",
    "plot_attribution": "attribution",
    "plot_bias": "study_bias",
    "plot_caterpillar": "caterpillar",
    "plot_coverage": "study_coverage",
    "plot_curves": "curves",
    "plot_divergences": "divergences",
    "plot_effects": "effects",
    "plot_energy": "energy",
    "plot_evolution": "evolution",
    "plot_forest": "forest",
    "plot_group": "group_lines",
    "plot_imputations": "imputations",
    "plot_influence": "influence",
    "plot_intervals": "intervals",
    "plot_khat": "khat",
    "plot_loo_pit": "loo_pit",
    "plot_missing_information": "imputations",
    "plot_power": "study_power",
    "plot_predictive": "predictive",
    "plot_prior_posterior": "prior_posterior",
    "plot_ranks": "ranks",
    "plot_residuals": "residuals",
    "plot_sensitivity": "sensitivity",
    "plot_shrinkage": "shrinkage",
    "plot_traces": "traces",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a figure's function from its file on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bhlm.plots' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(f"bhlm.plots.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
