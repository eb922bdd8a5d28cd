"""ArviZ's figures, by its Plotly or matplotlib backend, in bhlm's colours."""

from typing import TYPE_CHECKING, Any

from bhlm.plots.plotly_figures import theme

if TYPE_CHECKING:
    from bhlm.plots.figure import Figure


def draw_arviz(figure: "Figure", backend: str) -> Any:
    """Return the native figure of a figure that ArviZ draws, by "plotly" or "matplotlib"."""
    assert figure.draw is not None
    collection = figure.draw(backend)
    drawn = collection.viz["figure"].item()
    if backend == "plotly":
        drawn.update_layout(theme("light"))
        drawn.update_layout(height=figure.height, width=None, autosize=True)
    else:
        from matplotlib import pyplot

        # ArviZ draws through pyplot, which would keep the figure and show it a second time.
        pyplot.close(drawn)
    return drawn
