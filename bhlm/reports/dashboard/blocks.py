"""What a page is made of: sections of texts, tables and figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bhlm.plots.figure import Figure

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.checks.model_checks import Checks
    from bhlm.bayes.draws import Draws
    from bhlm.bayes.family.level_draws import AnyFamilyDraws
    from bhlm.bayes.level_draws import LevelDraws
    from bhlm.fits.model import Model
    from bhlm.reconciliation.comparison import Comparison
    from bhlm.reml.estimate import Estimate
    from bhlm.reml.family.maximum import FamilyMaximum
    from bhlm.reml.levels import LevelsEstimate
    from bhlm.reml.strata import StrataEstimate
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.pooled import Pooled
    from bhlm.studies.imputations.reconciled import PooledComparison

Tone = Literal["plain", "good", "caution", "bad"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about: a REML fit, a posterior, or both and their reconciliation."""

    reml: "Estimate | None"
    post: "Draws | None"
    both: "Comparison | None"
    model: "Model | None"  # has the rows, where they are at hand
    title: str
    source: dict[str, str]  # label -> text: citation, data, command
    own_checks: "Checks | None" = None  # of a posterior alone
    df: str | None = None  # by which the fixed effects are tested too
    rows: bool = False  # whether the page may hold single rows
    # In the place of `reml` and `post`, of several grouping factors.
    levels: "LevelsEstimate | None" = None
    level_post: "LevelDraws | None" = None
    # Likewise, of zeros and ones, proportions or counts.
    counted: "FamilyMaximum | None" = None
    counted_post: "AnyFamilyDraws | None" = None
    fits: "Mapping[str, Draws]" = field(default_factory=dict)  # several posteriors, in their place
    strata: "StrataEstimate | None" = None  # whose fit at its ratios is `reml`
    pooled: "Pooled | None" = None  # fits to plausible values or imputations, in their place
    mixture: "Mixture | None" = None  # of the posteriors given each of them
    mixed: "PooledComparison | None" = None  # the reconciliation of the two

    @property
    def estimate(
        self,
    ) -> "Estimate | LevelsEstimate | StrataEstimate | FamilyMaximum | None":
        """The fit by REML or ML, of a single factor, of several, with strata, or of a family."""
        if self.strata is not None:
            return self.strata
        if self.is_counted:
            return self.counted
        return self.reml if self.levels is None else self.levels

    @property
    def posterior(self) -> "Draws | LevelDraws | AnyFamilyDraws | None":
        """The posterior, of a single factor or of several, or of a family."""
        if self.is_counted:
            return self.counted_post
        return self.post if self.level_post is None else self.level_post

    @property
    def is_counted(self) -> bool:
        """Whether the fits are of zeros and ones, proportions or counts."""
        return self.counted is not None or self.counted_post is not None

    @property
    def has_levels(self) -> bool:
        """Whether the fits are of several grouping factors."""
        return self.levels is not None or self.level_post is not None

    @property
    def checks(self) -> "Checks | None":
        """The checks of the model and its priors; None if they were not made."""
        return self.own_checks if self.both is None else self.both.checks


@dataclass(frozen=True, slots=True)
class Text:
    """Sentences, one paragraph or list item each."""

    sentences: tuple[str, ...]
    tone: Tone = "plain"
    heading: str = ""
    listed: bool = False
    code: bool = False  # lines to type, as they are
    light: bool = False  # one of the findings, which stand side by side


@dataclass(frozen=True, slots=True)
class Table:
    """A table that sorts and can be copied as CSV."""

    name: str  # unique on the page
    title: str
    reading: str  # one sentence, computed from the numbers
    frame: "pd.DataFrame"  # the index, if it is named, is the first column
    digits: int = 3  # significant digits shown; the CSV and the JSON hold every digit
    first: tuple[str, ...] = ()  # columns shown at first; () for all
    # Of each row the size that its numbers are known to, such as an interval's; () where every
    # column has decimals of its own. These columns are shown to two digits of it.
    sizes: tuple[float, ...] = ()
    sized: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """A few numbers side by side, each under its name."""

    name: str
    title: str
    reading: str
    items: tuple[tuple[str, str], ...]  # name and value


@dataclass(frozen=True, slots=True)
class Chooser:
    """A figure of one group at a time, with a field to search for the group."""

    name: str
    title: str
    reading: str
    content: dict[str, Any]  # what the script draws from; see `groups.describe_chooser`


Block = Text | Table | Facts | Figure | Chooser


@dataclass(frozen=True, slots=True)
class Section:
    """One page of the dashboard."""

    name: str  # the anchor
    title: str
    blocks: tuple[Block, ...]
    marks: tuple[str, ...] = ()  # what stands over each block, "" for none; () if over none
