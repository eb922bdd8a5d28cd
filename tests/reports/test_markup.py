"""Markdown, LaTeX and HTML: every number in its place, no name that gets out of its cell."""

import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from bhlm.errors import ArgumentError, MissingPackageError
from bhlm.markup import estimates_html, to_html, to_latex, to_markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "a_b_c",
    "100 %",
    "var(x|school)",
    "&lt;b&gt;",
    "[link](javascript:alert(1))",
    "![image](http://example.org/x.png)",
    "http://example.org and me@example.org",
    "*bold* `code` ~~gone~~ # head",
    "$x^2$ \\input{secret}",
    "\\",
    "new\nline | cell",
    '" onload="alert(1)',
    "{% raw %}",
]
SHOWN = [name.replace("\n", "\\n") for name in HOSTILE]


@pytest.fixture
def hostile():
    table = pd.DataFrame({"estimate": np.arange(len(HOSTILE)) + 0.5}, index=HOSTILE)
    table.index.name = "<i>name</i>"
    return table


@pytest.fixture
def table():
    table = pd.DataFrame(
        {
            "estimate": [12.636193067, -0.0001234567891, 1e-20],
            "df": [np.inf, 159.0, np.nan],
            "count": [7185, 160, 1],
            "verdict": ["agree", None, "explained"],
        },
        index=["Intercept", "cwc(ses)", "var(Residual)"],
    )
    table.index.name = "parameter"
    return table


CELLS = [
    ["parameter", "estimate", "df", "count", "verdict"],
    ["Intercept", "12.63619", "inf", "7185", "agree"],
    ["cwc(ses)", "-0.0001234568", "159", "160", ""],
    ["var(Residual)", "1e-20", "", "1", "explained"],
]


class Cells(HTMLParser):
    """The text of every cell, row by row, and every tag that occurs."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.rows, self.tags, self.inside = [], set(), False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}


def render_markdown(text):
    return Cells(MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])
                 .render(text))  # fmt: skip


def split_latex(text):
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    return [[cell.strip() for cell in line.removesuffix("\\\\").split("&")] for line in lines]


def test_markdown_holds_every_number(table):
    text = to_markdown(table)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert cells[0] == CELLS[0]
    assert cells[2:] == CELLS[1:]
    assert [cell[-1] for cell in cells[1]] == ["-", ":", ":", ":", "-"]  # numbers to the right
    assert len({len(line) for line in text.splitlines()}) == 1


def test_html_holds_every_number(table):
    assert Cells(to_html(table)).rows == CELLS


def test_latex_holds_every_number(table):
    text = to_latex(table)
    assert split_latex(text) == CELLS
    assert text.startswith("\\begin{tabular}{lrrrl}\n")
    assert text.endswith("\\end{tabular}")


def test_digits(table):
    assert "12.6 " in to_markdown(table, digits=3)
    assert ">12.6<" in to_html(table, digits=3)
    for write in (to_markdown, to_html, to_latex):
        with pytest.raises(ArgumentError, match="digits=0 is not a count"):
            write(table, digits=0)


def test_hostile_names_in_html(hostile):
    html = to_html(hostile)
    cells = Cells(html)
    assert cells.tags == TABLE_TAGS
    assert [row[0] for row in cells.rows] == ["<i>name</i>", *SHOWN]
    assert "{" not in html
    assert "}" not in html


def test_hostile_names_in_markdown(hostile):
    text = to_markdown(hostile)
    cells = render_markdown(text)
    assert cells.tags == TABLE_TAGS
    assert [row[0] for row in cells.rows] == ["<i>name</i>", *SHOWN]
    assert "{{" not in text
    assert "{%" not in text
    assert "http://" not in text  # GitHub makes links of bare addresses


UNESCAPED = {
    "\\textbackslash{}": "\\",
    "\\textasciicircum{}": "^",
    "\\textasciitilde{}": "~",
    "\\textless{}": "<",
    "\\textgreater{}": ">",
    "\\textbar{}": "|",
    "{[}": "[",
    "{*}": "*",
    **{f"\\{char}": char for char in "&%$#_{}"},
}


def read_latex(cell):
    """The text that TeX would set, for the commands that may occur."""
    out = ""
    while cell:
        for command, char in UNESCAPED.items():
            if cell.startswith(command):
                out, cell = out + char, cell[len(command) :]
                break
        else:
            assert cell[0] not in "\\{}$&#^_~%[*<>|", cell
            out, cell = out + cell[0], cell[1:]
    return out


def test_hostile_names_in_latex(hostile):
    rows = [line.removesuffix("\\\\") for line in to_latex(hostile).splitlines()
            if line.endswith("\\\\")]  # fmt: skip
    names = [row.rpartition(" & ")[0].strip() for row in rows]
    assert [read_latex(name) for name in names] == ["<i>name</i>", *SHOWN]


def test_two_columns_of_one_name_and_a_nameless_index():
    table = pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])
    assert Cells(to_html(table)).rows == [["", "a", "a"], ["0", "1", "2"]]


def test_an_index_of_two_levels():
    index = pd.MultiIndex.from_tuples([("1224", "Intercept")], names=["school", "coefficient"])
    table = pd.DataFrame({"estimate": [0.5]}, index=index)
    rows = [["school", "coefficient", "estimate"], ["1224", "Intercept", "0.5"]]
    assert Cells(to_html(table)).rows == rows
    assert split_latex(to_latex(table)) == rows


def test_long_tables_and_names_are_not_cut():
    table = pd.DataFrame({"x": np.arange(300.0)}, index=["n" * 200 + str(i) for i in range(300)])
    cells = Cells(to_html(table)).rows
    assert len(cells) == 301
    assert cells[-1] == ["n" * 200 + "299", "299"]


def test_estimates_html_has_a_title(table):
    html = estimates_html(table, "y ~ <x> & {{z}}")
    assert "<h4>y ~ &lt;x&gt; &amp; &#123;&#123;z&#125;&#125;</h4>" in html
    assert Cells(html).rows == CELLS
    assert "<script" not in html
    assert "style>" not in html


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_without_tabulate_the_error_says_what_to_install(table, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    with pytest.raises(MissingPackageError, match=r"tabulate; .* pip install 'bhlm\[tables\]'"):
        write(table)
    assert "12.63619" in to_html(table)
