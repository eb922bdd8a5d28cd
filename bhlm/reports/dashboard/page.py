"""Sections -> one HTML file that needs no network, and its twin in JSON."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from bhlm.errors import BhlmError
from bhlm.files import make_plain, write_json, write_text
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns
from bhlm.plots.figure import Figure
from bhlm.reports.comparison_json import (
    describe_findings,
    describe_pooled_reconciliation,
    describe_reconciliation,
)
from bhlm.reports.dashboard.arrangement import Place, arrange_figure, place_block
from bhlm.reports.dashboard.blocks import Block, Chooser, Facts, Section, Subject, Table, Text
from bhlm.reports.dashboard.cells import show_cells
from bhlm.reports.dashboard.checks import build_checks, build_level_checks
from bhlm.reports.dashboard.choices import state_formula
from bhlm.reports.dashboard.content import (
    describe_sections,
    list_columns,
    name_blocks,
    pair_marks,
    show_code,
    show_prose,
    show_text,
)
from bhlm.reports.dashboard.convergence import build_convergence
from bhlm.reports.dashboard.drawing import describe_figure, describe_style
from bhlm.reports.dashboard.families import (
    build_family_checks,
    build_family_effects,
    build_family_groups,
    build_family_reproduction,
    build_family_verdict,
    find_any_pair,
)
from bhlm.reports.dashboard.family_levels import (
    build_family_level_checks,
    build_family_level_groups,
    build_family_level_verdict,
)
from bhlm.reports.dashboard.groups import build_groups
from bhlm.reports.dashboard.holdings import list_holdings
from bhlm.reports.dashboard.levels import (
    build_level_groups,
    build_level_reproduction,
    build_level_verdict,
    find_level_moments,
)
from bhlm.reports.dashboard.marks import mark_failed
from bhlm.reports.dashboard.mixture import build_mixed_comparison, build_mixture
from bhlm.reports.dashboard.outcome import judge
from bhlm.reports.dashboard.paths import check_path, name_twin
from bhlm.reports.dashboard.pooled import (
    build_pooled_fits,
    build_pooled_reproduction,
    build_pooled_verdict,
)
from bhlm.reports.dashboard.priors import build_priors
from bhlm.reports.dashboard.reconciliation import build_reconciliation
from bhlm.reports.dashboard.reproduction import build_reproduction
from bhlm.reports.dashboard.several import (
    build_comparison,
    build_convergences,
    build_several_reproduction,
    build_side_by_side,
)
from bhlm.reports.dashboard.verdict import build_verdict, find_moments
from bhlm.reports.family_json import describe_level_patterns, describe_patterns
from bhlm.reports.json import describe_cells, describe_mixture, describe_model, describe_pooled


class Part(NamedTuple):
    """A section that a page may have."""

    name: str  # the anchor
    title: str
    build: Callable[[Subject], Section | None]


# In the order of the page.
SECTIONS = (
    Part("verdict", "Verdict", build_verdict),
    Part("reconciliation", "Comparison", build_reconciliation),
    Part("convergence", "Convergence", build_convergence),
    Part("groups", "Groups", build_groups),
    Part("checks", "Model checks", build_checks),
    Part("priors", "Priors", build_priors),
    Part("reproduction", "Reproduction", build_reproduction),
)
# Of several grouping factors.
LEVEL_SECTIONS = (
    Part("verdict", "Verdict", build_level_verdict),
    Part("reconciliation", "Comparison", build_reconciliation),
    Part("convergence", "Convergence", build_convergence),
    Part("groups", "Groups", build_level_groups),
    Part("checks", "Model checks", build_level_checks),
    Part("priors", "Priors", build_priors),
    Part("reproduction", "Reproduction", build_level_reproduction),
)
# Of zeros and ones, proportions or counts.
FAMILY_SECTIONS = (
    Part("verdict", "Verdict", build_family_verdict),
    Part("reconciliation", "Comparison", build_reconciliation),
    Part("effects", "Effects", build_family_effects),
    Part("convergence", "Convergence", build_convergence),
    Part("groups", "Groups", build_family_groups),
    Part("checks", "Model checks", build_family_checks),
    Part("priors", "Priors", build_priors),
    Part("reproduction", "Reproduction", build_family_reproduction),
)
# Likewise, of several grouping factors.
FAMILY_LEVEL_SECTIONS = (
    Part("verdict", "Verdict", build_family_level_verdict),
    Part("reconciliation", "Comparison", build_reconciliation),
    Part("effects", "Effects", build_family_effects),
    Part("convergence", "Convergence", build_convergence),
    Part("groups", "Groups", build_family_level_groups),
    Part("checks", "Model checks", build_family_level_checks),
    Part("priors", "Priors", build_priors),
    Part("reproduction", "Reproduction", build_family_reproduction),
)
SEVERAL_SECTIONS = (
    Part("verdict", "Side by side", build_side_by_side),
    Part("convergence", "Convergence", build_convergences),
    Part("checks", "Comparison", build_comparison),
    Part("reproduction", "Reproduction", build_several_reproduction),
)
POOLED_SECTIONS = (
    Part("verdict", "Verdict", build_pooled_verdict),
    Part("reconciliation", "Comparison", build_mixed_comparison),
    Part("posterior", "Posterior", build_mixture),
    Part("fits", "Each fit", build_pooled_fits),
    Part("reproduction", "Reproduction", build_pooled_reproduction),
)
# Characters of JSON that the numbers behind one figure may take on the page; the twin has all.
LARGEST_TABLE = 40_000
POWER = re.compile(r"^(\d(?:\.\d+)?)e(-?)\+?0*(\d+)$")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# An option of a line to type, with a short value.
OPTION = re.compile(r"(?<= )--[\w-]+(?: (?!--)[^\s'&<]{1,20}(?= |$))?")
# Punctuation within a word that a line may break behind, in escaped text.
WITHIN = re.compile(r"([|:,_])(?=[^\s<])")
BRACKET = re.compile(r"(\()(?=[^\s<])")
SHORT_NAME = 20  # characters of a name that is not broken behind a bracket


@dataclass(frozen=True, slots=True)
class Script:
    """A script of the page, with the hash by which the page's policy lets it run."""

    text: str
    hash: str


def write_dashboard(subject: Subject, path: str | Path) -> None:
    """Write the page about a fit to an HTML file, and every number on it to a .json beside it.

    The page loads nothing: scripts, styles and numbers are inside, and its policy forbids the
    browser every request. It appears whole or not at all.

    Raises:
        DataError: `path` does not end in .html, or its folder does not exist or cannot be written
            to; this is found before anything is computed.
    """
    path = check_path(path)
    sections = build_sections(subject, choose_parts(subject))
    outcome = judge(subject)
    sections = mark_failed(sections, subject)
    twin = {
        "title": subject.title,
        "model": describe_levels_model(subject),
        "outcome": {
            "label": outcome.label,
            "tone": outcome.tone,
            "headline": outcome.headline,
            "failures": list(outcome.failures),
            "advice": list(outcome.advice),
            "findings": describe_findings(outcome.findings),
        },
        "source": subject.source,
        "holds": {
            "rows": subject.rows,
            "sentences": list(list_holdings(subject, find_any(subject))),
        },
        "sections": describe_sections(sections),
        "pooled": None if subject.pooled is None else describe_pooled(subject.pooled),
        "posterior": None if subject.mixture is None else describe_mixture(subject.mixture),
        "reconciliation": _describe_both(subject),
    }
    page = render_page(subject, sections, twin=name_twin(path).name)
    write_json(twin, name_twin(path))
    write_text(page, path)


def _describe_both(subject: Subject) -> dict[str, Any] | None:
    """Return the reconciliation under the names of the JSON; None where there is none."""
    if subject.mixed is not None:
        return describe_pooled_reconciliation(subject.mixed)
    return None if subject.both is None else describe_reconciliation(subject.both)


def choose_parts(subject: Subject) -> tuple[Part, ...]:
    """Return the sections that a page may have, by what its fits are."""
    if subject.is_counted:
        patterns = find_any_pair(subject).given.moments
        return FAMILY_LEVEL_SECTIONS if isinstance(patterns, LevelPatterns) else FAMILY_SECTIONS
    if subject.pooled is not None:
        return POOLED_SECTIONS
    if subject.fits:
        return SEVERAL_SECTIONS
    return LEVEL_SECTIONS if subject.has_levels else SECTIONS


def find_any(subject: Subject) -> Moments | CellMoments | Patterns | LevelPatterns:
    """Return the moments of the page's fits, of a single factor or of several, or the patterns."""
    if subject.is_counted:
        return find_any_pair(subject).given.moments
    if subject.pooled is not None:
        return subject.pooled.fits[0].moments
    if subject.fits:
        return next(iter(subject.fits.values())).moments
    return find_level_moments(subject) if subject.has_levels else find_moments(subject)


def list_formulas(subject: Subject) -> str:
    """Return the formula of the page's fits, or of each that differs from those before it."""
    if subject.pooled is not None:
        return state_formula(subject.pooled)
    if subject.fits:
        return "; ".join(dict.fromkeys(fit.moments.formula for fit in subject.fits.values()))
    return find_any(subject).formula


def describe_levels_model(subject: Subject) -> dict[str, Any]:
    """Return formula and size of the model, of a single factor or of several."""
    if subject.fits:
        return {name: describe_model(fit.moments) for name, fit in subject.fits.items()}
    if subject.is_counted:
        patterns = find_any_pair(subject).given.moments
        if isinstance(patterns, LevelPatterns):
            return describe_level_patterns(patterns)
        return describe_patterns(patterns)
    if subject.has_levels:
        return describe_cells(find_level_moments(subject))
    if subject.pooled is not None:
        return describe_model(subject.pooled.fits[0].moments)
    return describe_model(find_moments(subject))


def build_sections(subject: Subject, parts: Sequence[Part] = SECTIONS) -> tuple[Section, ...]:
    """Return the sections of a page in their order, without those that do not apply.

    A section that cannot be computed says why in its place.
    """
    built = []
    for part in parts:
        try:
            section = part.build(subject)
        except BhlmError as error:
            sentence = f"This section could not be computed: {error}"
            section = Section(part.name, part.title, (Text((sentence,), tone="caution"),))
        if section is not None:
            built.append(section)
    return tuple(built)


def render_page(subject: Subject, sections: Sequence[Section], *, twin: str) -> str:
    """Return the page as text.

    Args:
        subject: what the page is about.
        sections: what it shows.
        twin: the name of the file with the numbers.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("bhlm.reports.dashboard", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show_text
    environment.filters["prose"] = show_prose
    environment.filters["code"] = show_code
    environment.filters["power"] = raise_power
    environment.filters["options"] = lambda text: Markup(hold_options(text))
    environment.filters["breakable"] = lambda text: Markup(break_words(text))
    environment.filters["embed"] = lambda value: Markup(embed(value))
    shown: list[tuple[Section, list[dict[str, Any]]]] = [(section, []) for section in sections]
    places = {section.name: blocks for section, blocks in shown}
    marks = [mark for section in sections for _, mark in pair_marks(section)]
    anchors = {anchor for *_, anchor in name_blocks(sections)}
    for (section, block, anchor), mark in zip(name_blocks(sections), marks, strict=True):
        shown_yet = places[section.name]
        place = place_block(block, anchor, anchors=anchors)
        shown_yet.append(_describe(block, anchor, place) | {"mark": mark, "is_lead": not shown_yet})
    scripts = {name: Script(Markup(text), _hash(text)) for name, text in load_scripts().items()}
    return environment.get_template("page.html.jinja").render(
        title=subject.title,
        formula=list_formulas(subject),
        outcome=judge(subject),
        sections=shown,
        style=Markup(_read("style.css")),
        shared=describe_style(),
        scripts=scripts,
        twin=twin,
        holdings=list_holdings(subject, find_any(subject))[0],
    )


def _describe(block: Block, anchor: str, place: Place) -> dict[str, Any]:
    """Return what the template and the scripts need of a block."""
    shared: dict[str, Any] = {"anchor": anchor, "block": block, "place": place}
    data: dict[str, Any] = {}
    match block:
        case Text():
            return shared | {"kind": "text"}
        case Facts():
            return shared | {"kind": "facts"}
        case Table():
            kind = "table"
            data = {"columns": list_columns(block.frame)}
            shared["cells"] = show_cells(
                data["columns"], digits=block.digits, first=block.first, sizes=block.sizes,
                sized=block.sized,
            )  # fmt: skip
        case Figure():
            kind = "figure"
            block = shared["block"] = arrange_figure(block)
            data = describe_figure(block) | {"height": block.height, "name": block.name}
            columns = None if block.table is None else list_columns(block.table)
            data["columns"] = columns if len(json.dumps(columns)) <= LARGEST_TABLE else None
        case Chooser():
            kind, data = "chooser", make_plain(block.content)
    return shared | {"kind": kind, "data": data}


def embed(value: Any) -> str:
    """Return JSON that can stand in a script element of HTML: nothing in it closes the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def break_words(text: str) -> str:
    """Return a cell as HTML in which a long name may break behind its punctuation.

    Behind a bracket only where it has no other: cov(Intercept, says less than cov(Intercept,x.
    """
    escaped = escape(text)
    if WITHIN.search(escaped) or len(text) <= SHORT_NAME:
        return WITHIN.sub(r"\1<wbr>", escaped)
    return BRACKET.sub(r"\1<wbr>", escaped)


def raise_power(text: str) -> str:
    """Return a number such as "8e-07" with its power raised, and any other text as it is."""
    found = POWER.match(text)
    if found is None:
        return text
    digits, sign, power = found.groups()
    return f"{digits} \N{MULTIPLICATION SIGN} 10{(sign + power).translate(RAISED)}"


def hold_options(line: str) -> str:
    """Return a line to type as HTML that breaks in front of an option, never before its value."""
    return OPTION.sub(r'<span class="option">\g<0></span>', escape(show_code(line)))


def _read(name: str) -> str:
    return files("bhlm.reports.dashboard").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def load_scripts() -> dict[str, str]:
    """Return the scripts of the page: Plotly's basic bundle, and the page's own.

    The bundle draws points, lines and bars, which is all that the figures are made of, in a quarter
    of the size of the whole. assets/README.md says where it comes from.
    """
    own = ("figures.js", "tables.js", "groups.js", "chooser.js", "page.js")
    page = "\n".join(_read(name) for name in own)
    texts = {"plotly": _read("plotly-basic.min.js"), "page": page}
    # A browser reads every line end as a line feed, and hashes that. A comment's start changes
    # how it looks for the script's end; in the strings and patterns here the backslash is idle.
    return {
        name: text.replace("\r\n", "\n").replace("\r", "\n").replace("<!--", "<\\!--")
        for name, text in texts.items()
    }


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
