"""The page of the priors: its blocks, what it says of them, and when there is none."""

import pandas as pd
import pytest
from simulate import simulate_table

from bhlm.bayes.checks.model_checks import Checks
from bhlm.bayes.checks.sensitivity import measure_sensitivity
from bhlm.bayes.priors.families import Flat, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.plots.figure import Figure
from bhlm.plots.prior_posterior import compare_widths
from bhlm.reports.dashboard.blocks import Subject, Table, Text
from bhlm.reports.dashboard.priors import build_priors

pytestmark = pytest.mark.wide


@pytest.fixture(scope="module")
def model():
    return Model("y ~ x + (x | g)", simulate_table(3, n_groups=30))


@pytest.fixture(scope="module")
def post(model):
    return model.sample(seed=1)


def build(post):
    return build_priors(Subject(None, post, None, None, "t", {}))


def test_none_without_a_posterior(model):
    assert build_priors(Subject(model.reml(), None, None, model, "t", {})) is None


def test_blocks(post):
    section = build(post)
    assert section.name == "priors"
    lead = section.blocks[0]
    texts = post.priors.describe(post.moments)
    assert lead.sentences == tuple(f"{name} ~ {text}" for name, text in texts.items())
    names = [block.name for block in section.blocks if isinstance(block, Figure)]
    assert names == ["prior_posterior", "sensitivity"]
    tables = {block.name: block for block in section.blocks if isinstance(block, Table)}
    facts = compare_widths(post.prior_table())
    frame = tables["prior_quantiles"].frame
    pd.testing.assert_series_equal(
        frame["posterior_width_share"], facts["width"], check_names=False
    )
    assert frame.loc["x", "prior"] == texts["x"]
    pd.testing.assert_frame_equal(tables["power_scaling"].frame, measure_sensitivity(post).table)
    narrow = (facts["width"] < 0.1).sum()
    assert f"{narrow} have a posterior interval less than a tenth" in (
        tables["prior_quantiles"].reading
    )


def test_sensitivity_that_was_measured_is_not_measured_again(post, monkeypatch):
    own = Checks(predictive=None, pit=None, sensitivity=measure_sensitivity(post))
    monkeypatch.setattr("bhlm.reports.dashboard.priors.measure_sensitivity", pytest.fail)
    section = build_priors(Subject(None, post, None, None, "t", {}, own_checks=own))
    (table,) = [block for block in section.blocks if getattr(block, "name", "") == "power_scaling"]
    assert table.frame is own.sensitivity.table


def find_judgement(section):
    (found,) = [
        block for block in section.blocks if isinstance(block, Text) and "hang" in block.heading
    ]
    return found


def test_priors_that_matter_not(model):
    rows = simulate_table(3, n_groups=60, largest=30)
    judged = find_judgement(build(Model("y ~ x + (1 | g)", rows).sample(seed=1)))
    assert judged.tone == "good"
    assert judged.sentences == ("No: no parameter's sensitivity to the priors reaches 0.05.",)


def test_priors_that_matter(model):
    priors = Priors(fixed={"x": Normal(0.0, 0.05)}, sd={"Intercept": HalfNormal(0.1)})
    fit = model.sample(seed=1, priors=priors)
    judged = find_judgement(build(fit))
    assert judged.tone == "caution"
    findings = fit.sensitivity().findings
    assert judged.sentences == tuple(f"{finding}." for finding in findings)


def test_draws_of_the_prior(model):
    section = build(model.sample(seed=1, draws=200, prior_only=True))
    assert section.blocks[-1].tone == "caution"
    assert "prior alone" in section.blocks[-1].sentences[0]
    assert [block.name for block in section.blocks if isinstance(block, Figure)] == [
        "prior_posterior"
    ]


def test_flat_priors_have_no_width():
    fit = Model("y ~ x + (1 | g)", simulate_table(3, n_groups=30)).sample(
        seed=1, priors=Priors(fixed=Flat(), sd=Flat(), sigma=Flat())
    )
    tables = [block for block in build(fit).blocks if isinstance(block, Table)]
    assert tables[0].reading.startswith("No prior here has an interval")
    assert tables[0].frame["posterior_width_share"].isna().all()
