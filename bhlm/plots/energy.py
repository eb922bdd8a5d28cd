"""Energy: whether the sampler's jumps in energy are as wide as the energies it has to reach."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.convergence import BFMI
from bhlm.bayes.draws import Posterior
from bhlm.bayes.live import ignore_short_chains
from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import count
from bhlm.plots.arviz_figures import name_roles
from bhlm.plots.figure import Figure
from bhlm.plots.plotly_figures import BAND_OPACITY
from bhlm.plots.style import ROLES

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
ROOM = 0.2  # shares of an axis beside its outermost points


@check_arguments
def plot_energy(post: Posterior) -> Figure:
    """Return the figure of the energies and of the changes between draws, with E-BFMI, by ArviZ.

    Left, E-BFMI of each chain, which should be at least 0.3: the mean squared change of energy
    from draw to draw over the energy's variance. Right, the densities of the energies about their
    mean (marginal) and of the changes (transition). Where the second is much narrower the sampler
    creeps through the tails. Reference: Betancourt (2016), arXiv:1604.00695, section 2.

    The figure's table has one row per chain: `chain`, `bfmi`, `sd_energy`, `sd_change`.

    Args:
        post: the posterior.

    Raises:
        ArgumentError: independent draws, which no sampler moved.
    """
    refuse_unmoved(post, "energies")
    table = tabulate_energy(post.data["sample_stats"]["energy"].values)

    def draw(backend: str) -> Any:
        import arviz_plots

        first, second = ROLES["first"].light, ROLES["second"].light
        dashes = ["solid", "dash"] if backend == "plotly" else ["-", "--"]
        sizes = {"figsize": (900, 360), "figsize_units": "dots", "width_ratios": [1, 3]}
        with ignore_short_chains():
            collection = arviz_plots.plot_energy(
                post.data, kind="kde", threshold=BFMI, backend=backend, color=[first, second],
                linestyle=dashes, aes={"color": ["energy"], "linestyle": ["energy"]},
                figure_kwargs=sizes,
                visuals={
                    "legend": False,
                    "face": {"alpha": BAND_OPACITY},
                    "bfmi_points": {"color": ROLES["sixth"].light, "size": 60},
                    "ref_line": {"color": ROLES["reference"].light},
                },
            )  # fmt: skip
        drawn, chains = collection.viz["figure"].item(), table["chain"].tolist()
        ticks = [chain - 1 for chain in chains], [str(chain) for chain in chains]
        if backend == "plotly":
            drawn.update_yaxes(tickvals=ticks[0], ticktext=ticks[1], col=1)
        else:
            drawn.axes[0].set_yticks(*ticks)
            drawn.axes[0].margins(ROOM)  # whole points, those of the first and last chain too
        names = {"first": "energy, about its mean", "second": "change from draw to draw"}
        name_roles(collection, names, backend, dashed=True)
        return collection

    return Figure(
        name="energy",
        title="Energy",
        reading=_read(table),
        table=table,
        height=360,
        draw=draw,
    )


def refuse_unmoved(post: Posterior, what: str) -> None:
    """Refuse what only the draws of a sampler that moves have, such as "energies"."""
    if post.diagnostics.certificate is not None:
        raise ArgumentError(
            f"independent draws have no {what}; their k-hat and effective number are in "
            "fit.diagnostics.certificate"
        )


def tabulate_energy(energy: Array) -> "pd.DataFrame":
    """Return E-BFMI, the SD of the energy and that of its changes, of each chain.

    Args:
        energy: (chain, draw).
    """
    import pandas as pd
    from arviz_stats.base import array_stats

    with np.errstate(invalid="ignore", divide="ignore"):
        bfmi = np.atleast_1d(array_stats.bfmi(energy, chain_axis=0, draw_axis=1))
    return pd.DataFrame(
        {
            "chain": np.arange(1, len(energy) + 1),
            "bfmi": bfmi,
            "sd_energy": energy.std(axis=1),
            "sd_change": np.diff(energy, axis=1).std(axis=1),
        }
    )


def _read(table: "pd.DataFrame") -> str:
    bfmi = table["bfmi"].to_numpy()
    low = ~(bfmi >= BFMI)
    if low.any():
        least = "cannot be computed" if np.isnan(bfmi[low]).any() else f"is {bfmi[low].min():.2f}"
        return (
            f"E-BFMI {least} in {count(int(low.sum()), 'chain')} of {len(bfmi)}, where at least "
            f"{BFMI} is needed: from draw to draw the energy changes too little for the sampler to "
            "reach the tails."
        )
    ratio = float((table["sd_change"] / table["sd_energy"]).mean())
    where = "in the one chain" if len(bfmi) == 1 else f"or more in all {len(bfmi)} chains"
    return (
        f"E-BFMI is {bfmi.min():.2f} {where} (at least {BFMI} is needed): the changes from draw to "
        f"draw have {ratio:.2g} times the SD of the energies, wide enough to reach the tails."
    )
