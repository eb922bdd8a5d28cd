"""The pages of the groups and of the model checks: their content, their limits, their refusals."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulate import simulate_table

from bhlm.bayes.checks.loo_pit import LooPit
from bhlm.bayes.draws import STREAM
from bhlm.fits.model import Model
from bhlm.layout import count
from bhlm.plots.figure import Figure
from bhlm.plots.group_lines import find_band
from bhlm.plots.groups import draw_lines, join_effects, mean_beta
from bhlm.plots.loo_pit import draw_loo_pit
from bhlm.plots.ranks_of_rows import average_ranks, smooth_ranks
from bhlm.plots.residuals import plot_residuals, studentize_rows
from bhlm.reports.dashboard.blocks import Chooser, Subject, Table, Text
from bhlm.reports.dashboard.checks import build_checks
from bhlm.reports.dashboard.groups import build_groups, describe_chooser
from bhlm.reports.dashboard.holdings import list_holdings
from bhlm.sources.gallery import find_model, load_data

pytestmark = pytest.mark.wide

# A line's value keeps 5 digits of the range of y, which here is about 30.
ROUNDED = 5e-3


@pytest.fixture(scope="module")
def model(hsb):
    return Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb)


@pytest.fixture(scope="module")
def subject(model):
    return make_subject(model, model.reml(), model.sample(seed=1))


@pytest.fixture(scope="module")
def small():
    """A model of 20 groups, six of them without least squares of their own."""
    model = Model("y ~ x + (x | g)", simulate_table(5, n_groups=20))
    return make_subject(model, model.reml())


def make_subject(model, reml=None, post=None):
    return Subject(reml, post, None, model, "t", {}, rows=True)


def pick(values, at):
    return values[0] if len(values) == 1 else values[at]


def value(content, key, at, x):
    """What a page draws: y = at + slope (x - origin), of one group."""
    line = next(line for line in content["lines"] if line["key"] == key)
    start, slope = pick(line["at"], at), pick(line["slope"], at)
    return start + slope * (np.asarray(x) - content["x"]["origin"])


def blocks_of(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def sentences_of(section):
    return " ".join(s for text in blocks_of(section, Text) for s in (text.heading, *text.sentences))


def test_chooser_is_plain_json(subject):
    content = describe_chooser(subject)
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    assert list(content) == [
        *("group", "groups", "n", "start", "x", "y", "lines", "rows", "band", "reliability", "note")
    ]
    assert [line["key"] for line in content["lines"]] == ["population", "ols", "eb", "posterior"]
    for line in content["lines"]:
        assert len(line["at"]) in (1, 160)
        assert len(line["slope"]) in (1, 160)
    assert content["note"] == ""


def test_the_band_of_each_group_is_that_of_its_own_figure(subject):
    """The interval of draws of its line, and the same as `plot_group` draws by itself."""
    content = describe_chooser(subject)
    post = subject.post
    x, beta = np.array(content["band"]["x"]), post.data["posterior"]["beta"].values
    beta = beta.reshape(-1, beta.shape[-1])
    lines = draw_lines(
        post.moments, join_effects(None, post), {"posterior": mean_beta(post)}, origin=0.0
    )
    for at in (0, 41, 159):
        u = post.effect_draws([post.moments.groups[at]]).values.reshape(len(beta), -1)
        drawn = (beta + u) @ np.stack([np.ones(len(x)), x])  # cwc(ses) has mean 0 in each school
        expected = np.quantile(drawn, [0.025, 0.975], axis=0)
        found = find_band(post, at, lines, x)
        for end, own, alone in zip(("low", "high"), expected, found, strict=True):
            np.testing.assert_allclose(alone, own, rtol=1e-9)
            np.testing.assert_allclose(content["band"][end][at], own, atol=ROUNDED)


@pytest.mark.slow
def test_chooser_draws_what_the_model_predicts(model, subject, hsb):
    content = describe_chooser(subject)
    predicted = {
        "eb": model.predict(subject.reml)["estimate"],
        "population": model.predict(subject.reml, kind="population")["estimate"],
        "posterior": model.predict(subject.post)["estimate"],
    }
    labels, _, z, y = model.rows()
    for at in (0, 41, 159):
        mine = np.asarray(labels) == subject.reml.moments.groups[at]
        x = z[mine, 1]
        for key, expected in predicted.items():
            np.testing.assert_allclose(value(content, key, at, x), expected[mine], atol=ROUNDED)
        slope, level = np.polyfit(x, y[mine], 1)
        np.testing.assert_allclose(value(content, "ols", at, x), level + slope * x, atol=ROUNDED)
        order = np.argsort(x, kind="stable")
        np.testing.assert_allclose(content["rows"]["x"][at], x[order], atol=1e-4)
        np.testing.assert_allclose(content["rows"]["y"][at], y[mine][order], atol=1e-3)
    low, high = content["x"]["range"]
    assert low < z[:, 1].min()
    assert high > z[:, 1].max()


def test_chooser_starts_with_the_furthest_group(subject):
    content = describe_chooser(subject)
    effects = subject.post.group_effects().pivot(
        index="school", columns="coefficient", values="mean"
    )
    score = (effects**2 / (effects**2).mean()).sum(axis=1)
    assert content["groups"][content["start"]] == str(score.idxmax())


def test_chooser_thins_rows_and_keeps_their_ends(small):
    content = describe_chooser(small, rows=4)
    labels, _, z, _ = small.model.rows()
    for at, label in enumerate(small.reml.moments.groups):
        x = z[np.asarray(labels) == label, 1]
        shown = content["rows"]["x"][at]
        assert len(shown) == min(4, len(x))
        assert content["n"][at] == len(x)
        if len(x) > 1:
            assert shown[0] == pytest.approx(x.min(), abs=1e-3)
            assert shown[-1] == pytest.approx(x.max(), abs=1e-3)
    drawn = sum(map(len, content["rows"]["x"]))
    assert f"{drawn} of the {len(labels)} rows are drawn" in content["note"].lower()


def test_chooser_holds_no_more_numbers_than_it_may(small):
    """Fewer rows first, then fewer groups: the furthest and an even choice of the others."""

    def numbers(content):
        lines = sum(len(line[k]) for line in content["lines"] for k in ("at", "slope"))
        reliable = sum(map(len, content["reliability"].values()))
        return len(content["n"]) + lines + reliable + 2 * sum(map(len, content["rows"]["x"]))

    whole = numbers(describe_chooser(small))
    fewer = describe_chooser(small, numbers=270)
    assert len(fewer["groups"]) == 20
    assert numbers(fewer) <= 270 < whole
    least = describe_chooser(small, numbers=130)
    assert len(least["groups"]) == 10
    assert numbers(least) <= 130
    assert least["note"].startswith("10 of the 20 groups can be chosen")
    full = describe_chooser(small)
    start = describe_chooser(small)["groups"][full["start"]]
    assert fewer["groups"][fewer["start"]] == start
    assert set(least["groups"]) < set(fewer["groups"])
    for key in ("eb", "ols"):
        at = fewer["groups"].index(start)
        np.testing.assert_allclose(
            value(least, key, least["start"], 0.5), value(fewer, key, at, 0.5), rtol=1e-12
        )


def test_chooser_of_moments_has_no_rows(small):
    subject = make_subject(Model.from_moments(small.model.moments), small.reml)
    content = describe_chooser(subject)
    assert content["rows"] is None
    assert "no rows are drawn" in content["note"].lower()
    json.dumps(content, allow_nan=False)
    bare = describe_chooser(make_subject(None, small.reml))
    assert bare == content


def test_chooser_marks_what_does_not_exist(small):
    content = describe_chooser(small)
    missing = small.reml.coefficients().query("coefficient == 'x'")["ols"].isna().to_numpy()
    ols = next(line for line in content["lines"] if line["key"] == "ols")
    assert [at is None for at in ols["at"]] == missing.tolist()
    assert [at is None for at in content["reliability"]["x"]] == missing.tolist()
    assert missing.sum() == 6


def test_chooser_of_a_posterior_alone(subject):
    content = describe_chooser(make_subject(subject.model, None, subject.post))
    assert [line["key"] for line in content["lines"]] == ["population", "posterior"]
    assert content["reliability"] == {}


def test_chooser_without_a_column_counts_rows():
    model = Model("y ~ w + (1 | g)", simulate_table(5, n_groups=20))
    content = describe_chooser(make_subject(model, model.reml()))
    assert content["x"]["kind"] == "row"
    for n, x in zip(content["n"], content["rows"]["x"], strict=True):
        assert x == list(range(1, n + 1))
    assert all(slope == 0.0 for line in content["lines"] for slope in line["slope"])


def test_chooser_of_a_column_far_from_zero_keeps_its_digits():
    table = simulate_table(5, n_groups=20)
    near = Model("y ~ x + (x | g)", table)
    far = Model("y ~ x + (x | g)", table.assign(x=table["x"] + 1e6))
    one, other = (describe_chooser(make_subject(m, m.reml())) for m in (near, far))
    assert other["x"]["origin"] == 1e6
    for at in (1, 7, 19):
        np.testing.assert_allclose(
            value(other, "eb", at, 1e6 + 0.5), value(one, "eb", at, 0.5), atol=ROUNDED
        )
        np.testing.assert_allclose(
            np.array(other["rows"]["x"][at]) - 1e6, one["rows"]["x"][at], atol=1e-3
        )


def test_chooser_tells_long_labels_apart():
    table = simulate_table(5, n_groups=6)
    labels = np.array(["x" * 10_000 + str(i) for i in range(5)] + ["<script>"], dtype=object)
    model = Model("y ~ x + (x | g)", table.assign(g=labels[table["g"]]))
    content = describe_chooser(make_subject(model, model.reml()))
    assert len(set(content["groups"])) == 6
    assert all(len(label) < 80 for label in content["groups"])
    assert "<script>" in content["groups"]


def test_groups_page_holds_every_group(subject):
    section = build_groups(subject)
    assert (section.name, section.title) == ("groups", "Groups")
    assert [figure.name for figure in blocks_of(section, Figure)] == ["caterpillar", "shrinkage"]
    assert len(blocks_of(section, Chooser)) == 1
    table = blocks_of(section, Table)[0].frame
    assert len(table) == 320
    assert list(table)[:3] == ["school", "coefficient", "n"]
    assert (
        table["school"].tolist() == np.repeat(subject.reml.moments.groups, 2).astype(str).tolist()
    )
    own = subject.reml.coefficients()
    effects = subject.post.group_effects()
    np.testing.assert_allclose(table["OLS"], own["ols"], rtol=1e-12)
    np.testing.assert_allclose(table["EB"], own["eb"], rtol=1e-12)
    np.testing.assert_allclose(table["EB SE"] ** 2, own["pev"], rtol=1e-9)
    np.testing.assert_allclose(table["reliability"], own["reliability"], rtol=1e-12)
    np.testing.assert_allclose(table["u 2.5 %"], effects["lower"], rtol=1e-12)
    estimates = subject.post.estimates["mean"]
    fixed = np.tile([estimates["Intercept"], estimates["cwc(ses)"]], 160)
    np.testing.assert_allclose(table["posterior mean"], fixed + effects["mean"], rtol=1e-9)
    clear = int(np.sum((effects["lower"] > 0) | (effects["upper"] < 0)))
    assert (
        f"of 320 posterior intervals (95 %) {clear} exclude 0"
        in blocks_of(section, Table)[0].reading
    )


def test_groups_table_lists_the_furthest_of_many(small):
    table = blocks_of(build_groups(small, listed=5), Table)[0]
    u = small.reml.coefficients().pivot(index="g", columns="coefficient", values="u")
    score = (u**2 / (u**2).mean()).sum(axis=1)
    assert table.frame["g"].drop_duplicates().astype(int).tolist() == (
        score.nlargest(5).index.tolist()
    )
    assert "listed are the 5 groups of 20 that are furthest" in table.reading
    assert "6 groups without full rank have no least squares" in table.reading


def test_page_says_how_many_draws_it_rests_on(subject):
    assert "draws" not in sentences_of(build_groups(subject))
    text = sentences_of(build_groups(subject, held=STREAM))
    assert "rest here on 1,000 of the 4,000 draws" in text


def test_checks_page_of_a_model_with_rows(subject):
    section = build_checks(subject)
    assert [figure.name for figure in blocks_of(section, Figure)] == [
        *("predictive", "loo_pit", "khat", "influence", "residuals")
    ]
    text = sentences_of(section)
    loo = subject.post.loo(refit=False)
    assert f"over 160 groups, is {loo.elpd:,.1f} (SE {loo.se:,.1f})" in text
    assert "The residual SD of school 3427 is outside" in text
    for figure in blocks_of(section, Figure):
        assert figure.reading.endswith(".")
        assert figure.reading[0].isupper()


@pytest.mark.slow
def test_checks_refit_a_few_groups_and_say_so():
    entry = find_model("sleepstudy")
    model = Model(entry.formula, load_data(entry))
    subject = make_subject(model, None, model.sample(seed=1))
    refitted = int(subject.post.loo().table["refitted"].sum())
    assert refitted > 0
    assert f"sampled anew without {count(refitted, 'group')}" in sentences_of(build_checks(subject))
    text = sentences_of(build_checks(subject, refits=0))
    assert "was not sampled anew without the 1 group above the threshold" in text


def test_checks_say_why_a_block_is_missing():
    table = simulate_table(8, n_groups=2, largest=30)
    table["g"] = np.arange(len(table)) % 2
    fit = Model("y ~ x + (1 | g)", table).reml()
    section = build_checks(make_subject(None, fit))
    text = sentences_of(section)
    assert "Influence: not shown The fit has 2 'g'" in text
    assert "The fit comes without its rows" in text
    many = build_checks(make_subject(None, fit), influence=1)
    assert "each of the 2 groups" in sentences_of(many)


def test_a_figure_without_a_mark_is_a_sentence():
    entry = find_model("dyestuff2")
    fit = Model(entry.formula, load_data(entry)).reml()
    section = build_checks(make_subject(None, fit))
    assert "residuals" not in [figure.name for figure in blocks_of(section, Figure)]
    assert "REML finds no variance of Intercept over groups to draw." in sentences_of(section)


def test_checks_of_the_prior_alone_or_of_nothing(subject):
    post = replace(subject.post, settings=replace(subject.post.settings, prior_only=True))
    section = build_checks(make_subject(subject.model, None, post))
    assert not blocks_of(section, Figure)
    assert "from the prior alone" in sentences_of(section)
    assert build_checks(make_subject(subject.model)) is None


def test_pages_of_a_singular_fit():
    entry = find_model("dyestuff2")
    model = Model(entry.formula, load_data(entry))
    subject = make_subject(model, model.reml(), model.sample(seed=1))
    groups, model_checks = build_groups(subject), build_checks(subject)
    readings = [figure.reading for figure in blocks_of(groups, Figure)]
    assert "every empirical-Bayes effect is 0" in readings[0]
    assert "REML finds no variance of Intercept" in blocks_of(model_checks, Figure)[-1].reading
    content = blocks_of(groups, Chooser)[0].content
    eb = next(line for line in content["lines"] if line["key"] == "eb")
    assert len(eb["at"]) == 1
    frame = blocks_of(groups, Table)[0].frame
    assert isinstance(frame, pd.DataFrame)
    assert (frame["EB SE"] == 0.0).all()


def test_a_page_holds_no_row_unless_asked(small):
    closed, opened = replace(small, rows=False), small
    content = describe_chooser(closed)
    assert content["rows"] is None
    assert "no rows are drawn, since none was asked for" in content["note"].lower()
    # The range of the axis is not that of the rows, whose ends are single ones.
    assert content["x"]["range"] != describe_chooser(opened)["x"]["range"]
    values = np.sort(studentize_rows(small.reml, *small.model.rows()))
    single = {round(value, 9) for value in values}
    for subject, held in ((closed, 0), (opened, len(values))):
        figure = plot_residuals(subject.reml, model=subject.model, single_rows=subject.rows)
        table = figure.table.loc[figure.table["sample"] == "level 1"]
        assert sum(round(value, 9) in single for value in table["observed"]) == min(held, 200)
    assert "mean of 10 neighbouring rows or more" in figure_reading(closed)
    assert "neighbouring" not in figure_reading(opened)


def figure_reading(subject):
    return plot_residuals(subject.reml, model=subject.model, single_rows=subject.rows).reading


def test_the_pit_of_rows_is_drawn_by_means(tmp_path):
    pit = np.random.default_rng(4).uniform(size=107)
    found = LooPit(pit, of_rows=True, total=107, p=0.5)
    for single_rows, held in ((True, 107), (False, 0)):
        figure = draw_loo_pit(found, single_rows=single_rows)
        assert np.isin(figure.table["pit"], pit).sum() == held
    assert len(figure.table) == 10
    np.testing.assert_allclose(figure.table["pit"].mean(), pit.mean(), atol=0.01)
    # Means of groups are no rows.
    groups = draw_loo_pit(replace(found, of_rows=False), single_rows=False)
    assert np.isin(groups.table["pit"], pit).all()


def test_means_of_neighbours():
    assert average_ranks(np.arange(5.0)).tolist() == [2.0]
    assert average_ranks(np.arange(25.0)).tolist() == [6.0, 18.5]
    smooth = smooth_ranks(np.arange(30.0))
    assert smooth[:5].tolist() == [4.5] * 5
    np.testing.assert_allclose(smooth[10:20], np.arange(10.0, 20.0))


def test_a_page_says_what_it_holds(small):
    told = list_holdings(replace(small, rows=False), small.reml.moments)
    assert told[0].startswith("No single row")
    assert "stand as means of" in told[0]
    assert told[2].endswith("have one row only: what is said of them is said of a single row.")
    assert list_holdings(small, small.reml.moments)[0].startswith("Single rows, as was asked for")
    without = list_holdings(replace(small, model=None, rows=False), small.reml.moments)
    assert "stand as means of" not in without[0]
    table = simulate_table(5, n_groups=20)
    table = table[table.groupby("g")["y"].transform("size") > 1]
    for lone, told in (
        (0, ()),
        (1, ("1 group has one row only: what is said of it is said of a single row.",)),
    ):
        fit = Model("y ~ x + (1 | g)", pd.concat([table, table.head(lone).assign(g=99)])).reml()
        assert list_holdings(make_subject(None, fit), fit.moments)[2:-1] == told


def test_a_page_of_several_factors_tells_of_units_with_one_row_and_not_of_cells():
    table = simulate_table(5, n_groups=20)
    table = table.assign(h=np.arange(len(table)) % 7)
    table = pd.concat([table, table.head(1).assign(h=8), table.tail(1).assign(h=9)])
    table = table[table.groupby("g")["y"].transform("size") > 1]
    fit = Model("y ~ x + (1 | g) + (1 | h)", table).reml()
    assert (fit.moments.n == 1).sum() > 2
    assert list_holdings(make_subject(None, fit), fit.moments)[2:-1] == (
        "2 of 'h' have one row only: what is said of them is said of a single row.",
    )
