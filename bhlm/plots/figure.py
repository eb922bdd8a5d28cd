"""Figure: what a plot function returns, drawn by Plotly or by matplotlib when asked."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.errors import ArgumentError, check_fields
from bhlm.files import refuse_address, replace_file, write_text
from bhlm.plots.arviz_figures import draw_arviz
from bhlm.plots.marks import Panel
from bhlm.plots.matplotlib_figures import INCHES, draw_matplotlib
from bhlm.plots.plotly_figures import draw_plotly
from bhlm.plots.style import PAGES

if TYPE_CHECKING:
    import pandas as pd

STATIC = (".png", ".svg", ".pdf")
DPI = 300  # of .png for a paper


@check_fields
@dataclass(frozen=True, slots=True)
class Figure:
    """A figure before a library draws it: its marks, a sentence read off it, its numbers.

    In a notebook it shows itself by Plotly; `.matplotlib()` gives the static version for a paper
    and `.save("figure.pdf")` writes it.
    """

    name: str  # such as "caterpillar", the key in files
    title: str
    reading: str  # one sentence, computed from the numbers
    table: "pd.DataFrame | None"  # the numbers that are drawn, tidy
    panels: tuple[Panel, ...] = ()
    columns: int = 1  # panels side by side
    height: int = 420  # pixels, of all panels together
    draw: Callable[[str], Any] | None = None  # "plotly" or "matplotlib" -> ArviZ's PlotCollection

    def __repr__(self) -> str:
        """Return the figure's name, title and sentence."""
        return f"Figure({self.name!r}: {self.title}. {self.reading})"

    def plotly(self, *, page: str = "light") -> Any:
        """Return the figure as a plotly.graph_objects.Figure, for a "light" or "dark" page.

        Raises:
            ArgumentError: another page.
        """
        if page not in PAGES:
            raise ArgumentError(f"page={page!r} is not known; choose one of {', '.join(PAGES)}")
        if self.draw:
            return draw_arviz(self.draw, "plotly", height=self.height, page=page)
        return draw_plotly(self.panels, columns=self.columns, height=self.height, page=page)

    def matplotlib(
        self,
        *,
        ax: Any = None,
        width: str | None = None,
        labels: Mapping[str, str] | None = None,
        title: str | None = None,
    ) -> Any:
        """Return the figure as a matplotlib.figure.Figure, which no window shows by itself.

        Args:
            ax: axes to draw into, one or a list with one for each panel; a figure's layout, size
                and type are then its own.
            width: of a paper's "column" (3.5 inches) or "page" (7 inches), with the type and
                the legend that fit; None is that of a screen.
            labels: texts in the place of names, {"cwc(ses)": "SES within school"}.
            title: above the figure; papers have theirs in the caption.

        Raises:
            ArgumentError: another width, not one of the axes for each panel, or axes for a figure
                that ArviZ draws.
        """
        if width not in (None, *INCHES):
            raise ArgumentError(f"width={width!r} is not known; choose one of {', '.join(INCHES)}")
        if self.draw:
            if ax is not None:
                raise ArgumentError(
                    f"the figure '{self.name}' is drawn by ArviZ, on axes of its own; leave ax= out"
                )
            return draw_arviz(
                self.draw, "matplotlib", height=self.height, width=width, labels=labels, title=title
            )
        return draw_matplotlib(
            self.panels, columns=self.columns, height=self.height, width=width, labels=labels,
            title=title, ax=ax,
        )  # fmt: skip

    def save(self, path: str | Path, **options: Any) -> None:
        """Write the figure: .png, .svg or .pdf by matplotlib, .html (with its script) by Plotly.

        `options` are those of `matplotlib`: `width`, `labels` and `title`.

        Raises:
            ArgumentError: another ending, or options for .html.
        """
        refuse_address(path)
        path = Path(path)
        if path.suffix in STATIC:
            drawn = self.matplotlib(**options)
            sharp = {"dpi": DPI} if options.get("width") else {}
            # A full disk would break matplotlib and what it packs with, each in a way of its own.
            content = io.BytesIO()
            drawn.savefig(content, format=path.suffix[1:], bbox_inches="tight", **sharp)
            with replace_file(path) as stream:
                stream.write(content.getbuffer())
        elif path.suffix == ".html":
            if options:
                raise ArgumentError(
                    f"{next(iter(options))}= is for .png, .svg and .pdf; leave it out for .html"
                )
            write_text(self.plotly().to_html(include_plotlyjs=True), path)
        else:
            raise ArgumentError(
                f"'{path.name}' is not a figure's file; end it in .png, .svg, .pdf or .html"
            )

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """Show the Plotly version in notebooks."""
        return self.plotly()._repr_mimebundle_(*args, **kwargs)
