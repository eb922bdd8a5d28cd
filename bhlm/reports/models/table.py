"""bhlm.table: several models side by side, with what may be compared and what may not."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bhlm.errors import ArgumentError, check_arguments, check_fields
from bhlm.files import refuse_address, write_text
from bhlm.layout import format_digits, list_names, shorten, show_name
from bhlm.likelihood.parameters import Parameter, check_level
from bhlm.reml.fixed.contrasts import METHODS
from bhlm.reports.models.columns import Cell, Column, read_fit
from bhlm.reports.models.layout import DASH, MINUS, TIMES, Layout, Line
from bhlm.reports.models.markup import write_html, write_latex, write_markdown, write_plain

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("se", "interval", "none")
SCALES = ("variance", "sd")
STARS = {0.05: "*", 0.01: "**", 0.001: "***"}
ENDINGS = (".txt", ".md", ".tex", ".html", ".docx")
TESTS = {
    "z": "z",
    "satterthwaite": "t with Satterthwaite's df",
    "kenward-roger": "Kenward and Roger's t",
    "hlm": f"t on J {MINUS} S {MINUS} 1 df",
    "cr0": "cluster-robust z (CR0)",
    "cr2": "cluster-robust t (CR2)",
}


@check_fields
@dataclass(frozen=True, slots=True, repr=False)
class ModelTable:
    """Models side by side: numbers in `frame`, and the table as text, Markdown, LaTeX, HTML, Word.

    `str(table)` is text, a notebook shows HTML, and `table.save("table.docx")` writes what the
    ending says.
    """

    columns: tuple[Column, ...]
    headings: tuple[str, ...]
    layout: Layout

    def __repr__(self) -> str:
        """Return the table as text, within a screen."""
        return shorten(str(self), whole="print(...)")

    def __str__(self) -> str:
        """Return the table as text."""
        return write_plain(self.layout)

    def _repr_html_(self) -> str:
        """Return the table as HTML, for notebooks."""
        return write_html(self.layout)

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands under the table: what the numbers are, and what may not be compared."""
        return self.layout.notes

    @property
    def frame(self) -> "pd.DataFrame":
        """The numbers behind the table, with all their digits.

        One row per model and parameter, on both scales: `model, method, parameter, estimate, se,
        lower, upper, p`; of a posterior `estimate` and `se` are mean and SD.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {"model": heading, "method": column.method, "parameter": str(each)} | cell._asdict()
                for heading, column in zip(self.headings, self.columns, strict=True)
                for each, cell in column.cells.items()
            ]
        )

    def to_markdown(self) -> str:
        """Return the table in Markdown's pipe syntax, each error beside its estimate."""
        return write_markdown(self.layout)

    def to_latex(self) -> str:
        """Return the table as a LaTeX tabular with the rules of the package booktabs.

        Notes stand in it as a last row. Put it into a table environment for caption and label.
        """
        return write_latex(self.layout)

    def to_html(self) -> str:
        """Return the table as HTML: a table element with its own style, no script, no request."""
        return write_html(self.layout)

    def to_gt(self) -> Any:
        """Return the table as a great_tables.GT, to be styled further.

        Raises:
            MissingPackageError: great_tables is not installed.
        """
        from bhlm.reports.models.gt import make_gt

        return make_gt(self.layout)

    def save(self, path: str | Path) -> None:
        """Write the table to a .txt, .md, .tex, .html or .docx file.

        Raises:
            ArgumentError: another ending.
            MissingPackageError: .docx, and python-docx is not installed.
        """
        refuse_address(path)
        path = Path(path)
        ending = path.suffix.lower()
        if ending == ".docx":
            from bhlm.reports.models.word import write_word

            write_word(self.layout, path)
            return
        writers = {".txt": write_plain, ".md": write_markdown, ".tex": write_latex}
        if ending == ".html":
            title = f"Models of {self.columns[0].response}"
            write_text(write_html(self.layout, title=title), path)
        elif ending in writers:
            write_text(writers[ending](self.layout) + "\n", path)
        else:
            raise ArgumentError(
                f"'{path.name}' is not a table's file; end it in {list_names(ENDINGS, most=5)}"
            )


@check_arguments
def table(
    models: Any,
    *,
    show: Literal["se", "interval", "none"] = "se",
    scale: Literal["variance", "sd"] = "variance",
    decimals: int = 3,
    level: float = 0.95,
    df: str = "satterthwaite",
    stars: bool | Mapping[float, str] = False,
    labels: Mapping[str, str] | None = None,
    ratios: bool = False,
) -> ModelTable:
    """Return several models side by side, as a paper prints them.

    Rows: fixed effects, variance components, then rows and levels of each grouping factor, ICC,
    R2 (Nakagawa, Johnson & Schielzeth) and deviance (-2 log-likelihood). A posterior shows means
    with SDs or intervals. Notes under it say what the numbers are, and which may not be compared.

    Args:
        models: fits by REML, ML or Bayes, also pooled ones, in a list, or in a dict by the
            heading of their column; a reconciliation has two columns.
        show: "se" under each estimate, the "interval", or "none".
        scale: of the random effects: "variance" and covariance, or "sd" and correlation.
        decimals: of the numbers; one that would be shown as zero keeps two digits.
        level: of the intervals.
        df: by which fixed effects of REML and ML fits are tested, a method of `fixed_effects`.
        stars: True marks p below .05, .01 and .001 of fixed effects; or a dict from the largest p
            to its mark. A posterior has no p.
        labels: what to print for a column of the data, such as {"cwc(ses)": "SES within school"};
            products and components take them for their parts.
        ratios: of zeros and ones, proportions and counts, whether fixed effects are shown as odds
            ratios, hazard ratios (cloglog) or rate ratios.

    Raises:
        ArgumentError: no fits, something that is no fit, fits of several families or links, ratios
            of a fit that has none, or an unknown argument.
    """
    _check(show, scale, decimals, level, df)
    fits = _list_fits(models)
    columns = tuple(read_fit(fit, df=df, level=level, ratios=ratios) for _, fit in fits)
    _check_families(columns)
    headings = tuple(heading for heading, _ in fits)
    marks = _read_stars(stars)
    written = _Writer(show, scale, decimals, level, marks, dict(labels or {}))
    return ModelTable(columns, headings, written.lay_out(columns, headings))


def _check(show: str, scale: str, decimals: int, level: float, df: str) -> None:
    for name, value, known in (("show", show, SHOWN), ("scale", scale, SCALES)):
        if value not in known:
            raise ArgumentError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
    if df not in METHODS:
        raise ArgumentError(f"df={df!r} is not known; choose one of {', '.join(METHODS)}")
    if not 0 <= decimals <= 10:
        raise ArgumentError(f"decimals={decimals} is not between 0 and 10; give 2 or 3")
    check_level(level)


def _check_families(columns: Sequence[Column]) -> None:
    """Refuse columns whose effects are on different scales."""
    first = columns[0]
    for column in columns[1:]:
        if column.family != first.family:
            one, other = (each.family or "gaussian" for each in (first, column))
            raise ArgumentError(
                f"'{first.formula}' is {one} and '{column.formula}' is {other}, whose effects are "
                "on different scales; make a table of each family and link"
            )


def _list_fits(models: Any) -> list[tuple[str, Any]]:
    """Return every fit with its heading; a reconciliation gives its two."""
    from bhlm.reconciliation.comparison import Comparison

    if isinstance(models, Mapping):
        given = [(str(name), fit) for name, fit in models.items()]
    elif isinstance(models, Iterable) and not isinstance(models, str | bytes):
        given = [("", fit) for fit in models]
    else:
        given = [("", models)]
    fits: list[tuple[str, Any]] = []
    for heading, fit in given:
        both = [fit.reml, fit.post] if isinstance(fit, Comparison) else [fit]
        fits += [(heading, each) for each in both]
    if not fits:
        raise ArgumentError("there is nothing to tabulate; give at least one fit")
    return [(heading or f"({at})", fit) for at, (heading, fit) in enumerate(fits, 1)]


def _read_stars(stars: bool | Mapping[float, str]) -> dict[float, str]:
    """Return the marks by the largest p of each, the smallest first."""
    marks = STARS if stars is True else {} if stars is False else dict(stars)
    for limit in marks:
        if not (isinstance(limit, int | float) and 0.0 < limit < 1.0):
            raise ArgumentError(
                f"stars has {limit!r} for a p, which lies between 0 and 1; write {{0.05: '*'}}"
            )
    return dict(sorted(marks.items()))


@dataclass(frozen=True, slots=True)
class _Writer:
    """How numbers and names become text."""

    show: str
    scale: str
    decimals: int
    level: float
    stars: dict[float, str]
    labels: dict[str, str]

    def lay_out(self, columns: Sequence[Column], headings: Sequence[str]) -> Layout:
        """Return the table as lines of text."""
        fixed, random = self._order(columns)
        ratio = columns[0].ratio
        effects = f"Fixed effects, as {ratio.lower()}s" if ratio else "Fixed effects"
        sections = [
            (effects, [self._write_line(each, columns) for each in fixed]),
            ("Variance components", [self._write_line(each, columns) for each in random]),
            ("Model", self._describe_models(columns)),
        ]
        return Layout(
            headings=tuple(headings),
            methods=tuple(column.method for column in columns),
            sections=tuple((title, tuple(lines)) for title, lines in sections),
            notes=tuple(self._note(columns, headings)),
        )

    def _order(self, columns: Sequence[Column]) -> tuple[list[Parameter], list[Parameter]]:
        """Return the parameters of all columns: as they follow each other, the residual last."""
        order: list[Parameter] = []
        for column in columns:
            at = 0
            for each in column.cells:
                if each in order:
                    at = order.index(each) + 1
                else:
                    order.insert(at, each)
                    at += 1
        fixed = [each for each in order if each.is_fixed]
        kinds = ("var", "cov") if self.scale == "variance" else ("sd", "corr")
        random = [each for each in order if each.kind in kinds]
        groups = list(dict.fromkeys(name for column in columns for name in column.groups))
        places = {name: at for at, name in enumerate(groups)}
        random.sort(key=lambda each: (places.get(each.group, len(groups)), bool(each.column)))
        return fixed, random

    def _write_line(self, parameter: Parameter, columns: Sequence[Column]) -> Line:
        cells = [column.cells.get(parameter) for column in columns]
        estimates = tuple("" if cell is None else self._write_estimate(cell) for cell in cells)
        errors = tuple("" if cell is None else self._write_error(cell) for cell in cells)
        return Line(self.name(parameter), estimates, errors if any(errors) else ())

    def _write_estimate(self, cell: Cell) -> str:
        text = self.number(cell.estimate)
        for limit, mark in self.stars.items():
            if cell.p < limit:
                return text + mark
        return text

    def _write_error(self, cell: Cell) -> str:
        if self.show == "interval" and not math.isnan(cell.lower):
            return f"[{self.number(cell.lower)}, {self.number(cell.upper)}]"
        if self.show == "se" and not math.isnan(cell.se):
            return f"({self.number(cell.se)})"
        return ""

    def number(self, value: float) -> str:
        """Return a number with its decimals, and the true sign of minus."""
        if not math.isfinite(value):
            return DASH
        text = f"{value:.{self.decimals}f}"
        if float(text) == 0.0 and value != 0.0 and abs(value) >= 1e-12:
            text = format_digits(value, 2)
        elif float(text) == 0.0:
            text = text.removeprefix("-")
        return text.replace("-", MINUS)

    def name(self, parameter: Parameter) -> str:
        """Return what a parameter is called, with the labels given for its parts."""
        whole = self.labels.get(str(parameter))
        if whole is not None:
            return whole
        changed = replace(
            parameter,
            row=self._label(parameter.row),
            column=self._label(parameter.column),
            group=self._label(parameter.group),
        )
        return show_name(changed)

    def _label(self, name: str) -> str:
        if name in self.labels:
            return self.labels[name]
        parts = split_product(name)
        if len(parts) > 1 and any(part in self.labels for part in parts):
            return f" {TIMES} ".join(self.labels.get(part, part) for part in parts)
        return name

    def _describe_models(self, columns: Sequence[Column]) -> list[Line]:
        """Return counts, shares and deviances, a line each."""
        groups = list(dict.fromkeys(name for column in columns for name in column.groups))
        lines = []
        if len({column.response for column in columns}) > 1:
            lines.append(Line("Response", tuple(show_name(each.response) for each in columns)))
        lines.append(Line("N, rows", tuple(f"{column.rows:,}" for column in columns)))
        for name in groups:
            counts = (column.groups.get(name) for column in columns)
            label = f"N, {show_name(self._label(name))}"
            lines.append(Line(label, tuple("" if n is None else f"{n:,}" for n in counts)))
        several = len(groups) > 1
        for name in groups:
            shares = (column.icc.get(name, math.nan) for column in columns)
            label = f"ICC, {show_name(self._label(name))}" if several else "ICC"
            lines.append(Line(label, tuple(map(self._write_share, shares))))
        for at, kind in enumerate(("marginal", "conditional")):
            shares = (column.r2[at] for column in columns)
            lines.append(Line(f"R², {kind}", tuple(map(self._write_share, shares))))
        if any(column.parameters for column in columns):
            mark = "†" if _cannot_compare(columns) else ""
            values = tuple(
                f"{column.deviance:,.{min(self.decimals, 2)}f}" if column.parameters else DASH
                for column in columns
            )
            lines.append(Line(f"Deviance{mark}", values))
            lines.append(Line("Parameters", tuple(str(c.parameters or DASH) for c in columns)))
        return [line for line in lines if any(each not in ("", DASH) for each in line.cells)]

    def _write_share(self, value: float) -> str:
        return DASH if math.isnan(value) else f"{value:.{max(self.decimals, 2)}f}"

    def _note(self, columns: Sequence[Column], headings: Sequence[str]) -> list[str]:
        """Return what stands under the table."""
        level = f"{100.0 * self.level:g} %"
        likelihoods = [column for column in columns if column.method != "Bayes"]
        bayes = len(likelihoods) < len(columns)
        shown = {
            "se": {"l": "standard errors", "b": "posterior SDs", "where": "in parentheses"},
            "interval": {
                "l": f"{level} intervals",
                "b": f"equal-tailed {level} intervals of the posterior",
                "where": "in brackets",
            },
        }.get(self.show)
        notes = []
        if shown:
            kinds = [shown["l"]] if likelihoods else []
            kinds += [shown["b"]] if bayes else []
            text = f"{' and '.join(kinds)} {shown['where']}"
            notes.append(f"{text[0].upper()}{text[1:]}.")
        if bayes:
            what = "; ratios are posterior medians, without an SD" if columns[0].ratio else ""
            notes.append(f"Estimates of Bayes columns are posterior means{what}.")
        if family := columns[0].family:
            scale = "" if columns[0].ratio else f", fixed effects on the {family.split()[-2]} scale"
            notes.append(f"{family[0].upper()}{family[1:]}{scale}, unit-specific.")
        tests = list(dict.fromkeys(column.tests for column in likelihoods if column.tests))
        tests = [TESTS[each] for each in tests]
        if tests and (self.stars or self.show == "interval"):
            what = "Tests and intervals" if self.stars else "Intervals"
            notes.append(f"{what} of fixed effects by {list_names(tests)}.")
        if self.stars:
            marks = ", ".join(
                f"{mark} p < {f'{limit:g}'.removeprefix('0')}"
                for limit, mark in sorted(self.stars.items(), reverse=True)
            )
            notes.append(f"{marks}{'; a posterior has no p' if bayes else ''}.")
        notes += self._note_shares(columns)
        notes += _warn(columns, headings)
        for heading, column in zip(headings, columns, strict=True):
            notes += [f"{heading} {note.removesuffix('.')}." for note in column.notes]
        return [show_name(note) for note in notes]

    def _note_shares(self, columns: Sequence[Column]) -> list[str]:
        """Return what ICC and R2 are, where there are any."""
        if not columns[0].family:
            return [
                "ICC at the means of the random columns; R² of Nakagawa, Johnson and Schielzeth."
            ]
        iccs = [value for column in columns for value in column.icc.values()]
        if all(map(math.isnan, iccs)):
            return []
        if columns[0].family.endswith("log link"):
            return ["ICC of two counts where all columns have their means."]
        return [
            "ICC on the latent scale of the link, at the means of the random columns; R² of "
            "Nakagawa and Schielzeth on that scale."
        ]


def split_product(name: str) -> list[str]:
    """Return the factors of a column "a:f(b:c):d", split at colons outside of brackets."""
    parts, depth = [""], 0
    for letter in name:
        depth += (letter in "([`") - (letter in ")]")
        if letter == ":" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _cannot_compare(columns: Sequence[Column]) -> bool:
    return bool(_warn_deviance(columns))


def _warn_deviance(columns: Sequence[Column]) -> list[str]:
    """Return why deviances of the columns are not comparable."""
    counted = [column for column in columns if column.parameters]
    restricted = [column for column in counted if column.method == "REML"]
    notes = []
    if len({column.label for column in counted}) > 1:
        notes.append(
            "† Deviances of integrated and of approximate likelihoods are not comparable: fit all "
            "alike, such as with nagq=1, to compare them"
        )
    elif len({column.method for column in counted}) > 1:
        notes.append(
            "† Deviances by REML and by ML are not of one likelihood: compare within one method"
        )
    if len({frozenset(column.fixed) for column in restricted}) > 1:
        notes.append(
            "† Deviances by REML of models with different fixed effects are not comparable: fit by "
            "ML to compare them"
        )
    return [f"{note}." for note in notes]


def _warn(columns: Sequence[Column], headings: Sequence[str]) -> list[str]:
    """Return what may not be compared between the columns."""
    notes = _warn_deviance(columns)
    counts = {(column.rows, tuple(column.groups.items())[:1]) for column in columns}
    rows = {column.rows for column in columns}
    if len(rows) > 1:
        least, most = min(rows), max(rows)
        few = [head for head, column in zip(headings, columns, strict=True) if column.rows == least]
        notes.append(
            f"The models rest on different rows ({least:,} in {list_names(few)}, up to {most:,} "
            "elsewhere): fit all to the same complete rows before they are compared."
        )
    elif len(counts) > 1 and len({tuple(column.groups) for column in columns}) == 1:
        notes.append("The models have different groups: they were fitted to different rows.")
    if len({column.response for column in columns}) > 1:
        notes.append("The models explain different responses.")
    return notes
