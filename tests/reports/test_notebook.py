"""Results at the end of a notebook cell: their tables, with every name as text."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from gallery_fits import make_model, sample_posterior

from bhlm.bayes.checks.loo import Loo
from bhlm.bayes.checks.predictive import PredictiveCheck
from bhlm.bayes.checks.rows import RowCheck
from bhlm.bayes.checks.sensitivity import Sensitivity
from bhlm.likelihood.covariance import arrange
from bhlm.markup import show_text
from bhlm.studies.calibration.result import Calibration
from bhlm.studies.simulation.result import StudyResult

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}\x1b[2J" + "é" * 10_000
TAGS = {"section", "h4", "table", "thead", "tbody", "tr", "th", "td", "p", "pre"}


class Reader(HTMLParser):
    """Collects the tags, the attributes and the text of a document."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def read(result):
    html = result._repr_html_()
    assert "{{" not in html
    assert "\x1b" not in html
    reader = Reader()
    reader.feed(html)
    assert set(reader.tags) <= TAGS
    assert reader.attributes <= {"style", "border", "class"}
    return reader


@pytest.fixture(scope="module")
def model():
    return make_model("sleepstudy")


@pytest.fixture(scope="module")
def post():
    return sample_posterior("sleepstudy")


@pytest.fixture(scope="module")
def both(sleep_both):
    return sleep_both


def rename(moments):
    formula = replace(moments.design.formula, text=f"y ~ {HOSTILE}")
    design = replace(moments.design, formula=formula)
    return replace(moments, design=design).rename({"Days": HOSTILE})


def test_a_posterior_shows_its_table(post):
    found = read(post)
    for name, row in post.estimates.iterrows():
        assert name in found.text
        assert f"{row['mean']:.5g}" in found.text
    assert post.moments.formula in found.text
    assert "FAILED" not in found.text


def test_a_failure_leads(post):
    failed = replace(post, diagnostics=post.diagnostics.add_failure(f"R-hat of {HOSTILE} is 2"))
    found = read(failed)
    assert found.tags[0] == "p"
    assert found.text.startswith("FAILED: R-hat of <script>alert(1)</script>")


def test_a_reconciliation_shows_its_conclusion_and_table(both):
    found = read(both)
    assert found.text.startswith(both.conclusion)
    for name, row in both.table.iterrows():
        assert name in found.text
        assert f"{row['gap']:.5g}" in found.text
    assert ("published" in found.text) == bool(both.printed)


def test_hostile_names_are_text(post, both):
    changed = rename(post.moments)
    named = replace(post, moments=changed, structure=arrange(changed))
    assert "<script>alert(1)</script>" in read(named).text
    table = both.table.rename(index={"Days": HOSTILE})
    reml = replace(both.reml, moments=changed, structure=arrange(changed))
    hostile = replace(both, table=table, reml=reml, conclusion=HOSTILE, reasons=(HOSTILE,))
    assert read(hostile).text.count("<script>alert(1)</script>") >= 4


def test_the_other_results(model, post):
    for result in (post.icc(), post.check(draws=200), post.sensitivity(), post.loo(refit=False)):
        found = read(result)
        assert found.tags[0] in ("pre", "table")
        assert found.text.strip()
    check = post.check(draws=200)
    assert read(check).text == check.summary()
    icc = post.icc()
    assert f"{icc.estimates.loc['icc', 'mean']:.5g}" in read(icc).text


@pytest.mark.parametrize(
    "kind", [Loo, RowCheck, PredictiveCheck, Sensitivity, Calibration, StudyResult]
)
def test_results_with_a_summary_show_it(kind):
    assert callable(kind._repr_html_)
    assert callable(kind.summary)


def test_lines_are_kept_and_escaped():
    html = show_text(f"a  b\n{HOSTILE}\n")
    assert html.startswith('<pre style="overflow-x: auto">a  b\n&lt;script&gt;')
    assert "&#123;&#123; 7*7" in html
    assert "\x1b" not in html
