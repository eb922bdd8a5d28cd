"""The dashboard without a browser: what its sections say, its files, its commands, its refusals."""

import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from command_line import check_refusal, run

from bhlm import plots
from bhlm.bayes.priors.families import HalfNormal
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.storage.description import hash_moments
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.fits.saved import load
from bhlm.reml.compare import intraclass_correlation
from bhlm.reports.dashboard import page as page_module
from bhlm.reports.dashboard.arrangement import arrange_figure, place_block
from bhlm.reports.dashboard.blocks import Facts, Subject, Table, Text
from bhlm.reports.dashboard.cells import count_decimals, separate_thousands, show_cells
from bhlm.reports.dashboard.content import list_columns, show_text
from bhlm.reports.dashboard.drawing import describe_figure
from bhlm.reports.dashboard.outcome import _advise, judge
from bhlm.reports.dashboard.page import SECTIONS, build_sections, embed, load_scripts
from bhlm.reports.dashboard.reproduction import build_reproduction
from bhlm.reports.dashboard.subjects import check_rows
from bhlm.reports.dashboard.verdict import build_verdict, join_ends, measure_rows

pytestmark = pytest.mark.wide

FORMULA = "mathach ~ cwc(ses) + (cwc(ses) | school)"
# Sections that take no seconds: what the files are like does not depend on the others.
QUICK = tuple(part for part in SECTIONS if part.name in ("verdict", "reproduction"))


@pytest.fixture(scope="module")
def model(hsb):
    return Model(FORMULA, hsb)


@pytest.fixture(scope="module")
def both(model):
    return reconcile(model.reml(), model.sample(seed=1))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(page_module, "SECTIONS", QUICK)


def make_subject(both, *, reml=None, post=None, **more):
    given = {"reml": reml or both.reml, "post": post or both.post, "both": both, "model": None}
    return Subject(**given | {"title": "t", "source": {}} | more)


def texts_of(section):
    return [
        sentence
        for block in section.blocks
        if isinstance(block, Text)
        for sentence in block.sentences
    ]


def tables_of(section):
    return {block.name: block for block in section.blocks if isinstance(block, Table)}


class TestVerdict:
    def test_a_fit_that_holds(self, both, model):
        section = build_verdict(make_subject(both, model=model))
        first = section.blocks[0]
        assert (first.tone, first.heading) == ("caution", "A model check fails")
        headings = [block.heading for block in section.blocks if isinstance(block, Text)]
        assert headings[2:6] == [
            "Convergence: converged",
            "Reconciliation: every gap is explained",
            "Model checks: a model check fails",
            "Priors: the data decide",
        ]
        text = "\n".join(texts_of(section))
        assert "Data: 7,185 rows in 160 groups of 'school', 14 to 67 rows each, 44.9 on" in text
        assert "No row was dropped" in text
        assert "Only the moments" not in text
        tables = tables_of(section)
        pd.testing.assert_frame_equal(tables["reml_estimates"].frame, both.reml.estimates)
        pd.testing.assert_frame_equal(tables["posterior_estimates"].frame, both.post.estimates)

    def test_dropped_rows_and_missing_rows_are_told(self, hsb):
        table = hsb.copy()
        table.loc[:9, "ses"] = np.nan
        fit = Model(FORMULA, table).reml()
        text = "\n".join(texts_of(build_verdict(Subject(fit, None, None, None, "t", {}))))
        assert "7175 of 7185 rows used, 10 dropped for missing values (ses 10): 0.1 % left" in text
        assert "Only the moments of the rows are at hand" in text

    def test_divergences_lead(self, both):
        failed = both.post.diagnostics.add_failure("7 of 4000 transitions diverged; do so and so")
        post = replace(both.post, diagnostics=replace(failed, divergences=7))
        section = build_verdict(Subject(None, post, None, None, "t", {}))
        first, second = section.blocks[:2]
        assert first.tone == "bad"
        assert "7 of 4000 transitions diverged; do so and so" in " ".join(first.sentences)
        assert second.heading == "What to do"

    def test_a_reconciliation_that_fails_leads(self, both):
        bad = replace(both, verdict="unexplained", reasons=("Something is off.",))
        first = build_verdict(make_subject(bad)).blocks[0]
        assert (first.tone, first.heading) == ("bad", "Unexplained gap")
        assert "Something is off." in first.sentences
        assert judge(make_subject(bad)).advice[0].startswith("Report neither answer")

    def test_reml_that_did_not_converge_leads(self, both):
        fit = replace(both.reml, converged=False, gradient=both.reml.gradient + 1.0)
        first = build_verdict(Subject(fit, None, None, None, "t", {})).blocks[0]
        assert first.tone == "bad"
        assert "did not converge" in first.sentences[0]
        assert any("do not report these estimates" in text for text in first.sentences)

    def test_singular_reml_leads(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(np.arange(6), 10)})
        table["y"] -= table.groupby("g")["y"].transform("mean")
        fit = Model("y ~ 1 + (1 | g)", table).reml()
        assert fit.singular
        first, second = build_verdict(Subject(fit, None, None, None, "t", {})).blocks[:2]
        assert (first.tone, first.heading) == ("caution", "Singular REML fit")
        assert any("var(Intercept|g) = 0" in text for text in first.sentences)
        assert second.heading == "What to do"

    def test_what_was_not_checked_is_to_be_said(self, both):
        found = both.findings.model_checks
        unknown = both.findings._replace(model_checks=replace(found, status="unknown"))
        advice = _advise(make_subject(both), unknown)
        assert advice[0] == "Say beside the estimates what of the model was not checked."

    def test_what_is_asked_first_stands_first(self, both):
        section = build_verdict(make_subject(both))
        facts = next(block for block in section.blocks if isinstance(block, Facts))
        told = dict(facts.items)
        assert (told["Rows"], told["Groups of school"], told["Rows dropped"]) == (
            *("7,185", "160"),
            "0",
        )
        assert told["ICC"] == f"{intraclass_correlation(both.reml):.2g}"
        frame = tables_of(section)["estimates"].frame
        assert list(frame.columns) == [
            *("REML", "REML 95 % interval", "posterior mean", "posterior 95 % interval"),
            *("p", "verdict"),
        ]
        assert frame.loc["cwc(ses)", "REML 95 % interval"] == "1.94 to 2.44"
        assert frame["verdict"].tolist() == both.table["verdict"].reindex(frame.index).tolist()


class TestCells:
    def show(self, *, digits=3, **columns):
        frame = pd.DataFrame(columns, dtype=object)
        return show_cells(list_columns(frame), digits=digits)

    def test_p_and_counts_and_decimals(self):
        found = self.show(
            p=[0.2004, 1e-9, None], n=[3, 40, 5], x=[12.64, -0.683, 0.0], rhat=[1.0, 1.01234, 1.1]
        )
        p, n, x, rhat = zip(*found.rows, strict=True)
        assert p == (".200", "< .001", "\N{EN DASH}")
        assert n == ("3", "40", "5")
        assert x == ("12.64", "\N{MINUS SIGN}0.68", "0.00")
        assert rhat == ("1.000", "1.012", "1.100")

    def test_numbers_of_many_sizes_keep_their_digits(self):
        (column,) = zip(*self.show(x=[0.0, 0.00012345, 1.5, 54321.0]).rows, strict=True)
        assert column == ("0", "0.000123", "1.50", "54321")

    def show_sized(self, sizes, **columns):
        frame = pd.DataFrame(columns)
        found = show_cells(list_columns(frame), digits=3, sizes=sizes, sized=tuple(columns))
        return list(zip(*found.rows, strict=True))

    def test_rows_have_two_digits_of_what_they_are_known_to(self):
        """An estimate, its mean and its interval agree on the decimals of their row."""
        values = [490.4567, -12.5611, 0.000977, 7.2e-17]
        assert self.show_sized((47.0, 71.0, 0.007, 0.52), a=values, b=values) == [
            ("490", "\N{MINUS SIGN}13", "0.0010", "0.00"),
            ("490", "\N{MINUS SIGN}13", "0.0010", "0.00"),
        ]
        ends = pd.DataFrame({"lower": [-6.93, 46.5, np.nan], "upper": [-0.004, 56.7, 1.0]})
        assert join_ends(ends) == ["-6.9 to 0.0", "46.5 to 56.7", "none"]
        widths = measure_rows(ends, ends.assign(upper=ends["lower"] + 1.0))
        np.testing.assert_array_equal(widths, [1.0, 1.0, np.nan])

    def test_decimals_that_differ_by_one_are_one(self):
        assert count_decimals((0.2, 1.46, 0.96)) == (2, 2, 2)
        assert count_decimals((0.2, 146.0, np.nan)) == (2, 0, None)
        assert count_decimals((np.nan, 0.0)) == (None, None)
        (cells,) = self.show_sized((0.2, 146.0, np.nan), a=[1.234, 1.234, 1.234])
        assert cells == ("1.23", "1", "1.23")

    def test_columns_shown_at_first_stand_in_front(self):
        frame = pd.DataFrame({"a": [1], "b": [2], "verdict": ["x"]}).rename_axis("row")
        found = show_cells(list_columns(frame), digits=3, first=("verdict",))
        assert [(head.name, head.is_first) for head in found.heads] == [
            *(("row", True), ("verdict", True)),
            *(("a", False), ("b", False)),
        ]
        assert found.rows == (("0", "x", "1", "2"),)


class TestReproduction:
    def test_the_lines_repeat_the_draws(self, hsb):
        """Typed as they stand they give the same draws, chosen priors and all."""
        priors = Priors(sd={"cwc(ses)": HalfNormal(np.float64(0.7))}, sigma=HalfNormal(8.0))
        model = Model(FORMULA, hsb)
        post = model.sample(seed=3, draws=60, tune=100, chains=2, priors=priors)
        section = build_reproduction(Subject(None, post, None, model, "t", {}))
        (lines,) = [block for block in section.blocks if isinstance(block, Text) and block.code]
        space = {"data": hsb}
        exec("\n".join(lines.sentences), space)
        again = space["post"].data["posterior"]["beta"].values
        np.testing.assert_array_equal(again, post.data["posterior"]["beta"].values)
        assert tables_of(section)["priors"].reading.startswith("2 of 6 were chosen")

    def test_default_priors_and_the_command(self, both):
        section = build_reproduction(make_subject(both))
        command, lines = [block for block in section.blocks if isinstance(block, Text)]
        assert command.sentences[0].startswith("bhlm reconcile --data FILE --formula 'mathach ~")
        assert not any("priors=" in line for line in lines.sentences)
        settings = tables_of(section)["settings"].frame["value"]
        assert settings["SHA-256 of the moments"] == hash_moments(both.reml.moments)
        assert settings["seed"] == 1

    def test_independent_covariance_is_named(self, hsb):
        fit = Model(FORMULA, hsb).reml(covariance="independent")
        section = build_reproduction(Subject(fit, None, None, None, "t", {}))
        assert any("model.reml(covariance='independent')" in text for text in texts_of(section))


class Reader(HTMLParser):
    """Collects elements, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.shown, self.within = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.within.append(tag)

    def handle_endtag(self, tag):
        while self.within and self.within.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.within):
            self.shown.append(data)


def read_page(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.mark.usefixtures("quick")
class TestFiles:
    def test_nothing_is_loaded(self, both, tmp_path):
        both.dashboard(tmp_path / "page.html")
        reader = read_page(tmp_path / "page.html")
        loading = [
            (name, value)
            for name, value in reader.attributes
            if name in ("src", "srcset", "data", "action") or (name == "href" and value[0] != "#")
        ]
        assert loading == [("href", "data:,")]

    def test_the_policy_names_every_script(self, both, tmp_path):
        both.dashboard(tmp_path / "page.html")
        reader = read_page(tmp_path / "page.html")
        policy = dict(reader.attributes[:4])["content"]
        rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
        assert rules["default-src"] == "'none'"
        assert re.fullmatch(r"('sha256-[\w+/]{43}=' ?){2}", rules["script-src"])
        data = sum(pair == ("type", "application/json") for pair in reader.attributes)
        assert reader.tags.count("script") == 2 + data

    def test_the_twin_holds_every_digit(self, both, tmp_path):
        both.dashboard(tmp_path / "page.html", title="A title")
        twin = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
        assert twin["title"] == "A title"
        assert twin["reconciliation"]["verdict"] == both.verdict
        (verdict,) = [part for part in twin["sections"] if part["name"] == "verdict"]
        (table,) = [part for part in verdict["blocks"] if part.get("name") == "reml_estimates"]
        columns = {column["name"]: column["values"] for column in table["columns"]}
        assert columns["parameter"] == list(both.reml.estimates.index)
        assert columns["estimate"] == both.reml.estimates["estimate"].tolist()
        assert columns["df"][0] == "inf"
        assert columns["p"][-1] is None

    def test_fits_alone(self, model, both, tmp_path):
        both.post.dashboard(tmp_path / "post.html", model=model)
        both.reml.dashboard(tmp_path / "reml.html")
        for name, tone in (("post", "caution"), ("reml", "good")):
            twin = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
            assert twin["reconciliation"] is None
            assert twin["outcome"]["tone"] == tone  # the model misses something

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("nowhere/page.html", "choose a folder that exists and is writable"),
            ("page.pdf", "end it in .html"),
            ("folder.html", "which is a folder"),
        ],
    )
    def test_bad_paths_are_refused_before_computing(
        self, both, tmp_path, path, message, monkeypatch
    ):
        (tmp_path / "folder.html").mkdir()
        monkeypatch.setattr(page_module, "build_sections", lambda *_: pytest.fail("computed"))
        with pytest.raises(DataError, match=message):
            both.dashboard(tmp_path / path)

    def test_a_json_that_no_page_wrote_stays(self, both, tmp_path, monkeypatch):
        twin = tmp_path / "page.json"
        monkeypatch.setattr(page_module, "build_sections", lambda subject: pytest.fail("computed"))
        for text in ('{"mine": 1}', "no JSON", "[]", ""):
            twin.write_text(text)
            with pytest.raises(
                DataError, match=r"page\.json', which is there and was written by no"
            ):
                both.dashboard(tmp_path / "page.html")
            assert twin.read_text() == text

    def test_the_json_of_the_page_before_is_replaced(self, both, tmp_path):
        both.reml.dashboard(tmp_path / "page.html", title="One")
        both.reml.dashboard(tmp_path / "page.html", title="Two")
        assert json.loads((tmp_path / "page.json").read_text())["title"] == "Two"

    def test_a_failed_render_leaves_the_old_page(self, both, tmp_path, monkeypatch):
        (tmp_path / "page.html").write_text("old")
        monkeypatch.setattr(page_module, "render_page", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            both.dashboard(tmp_path / "page.html")
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
        assert (tmp_path / "page.html").read_text() == "old"


class TestSections:
    def test_their_order(self):
        assert [part.name for part in SECTIONS] == [
            *("verdict", "reconciliation", "convergence", "groups", "checks", "priors"),
            "reproduction",
        ]

    def test_a_section_that_cannot_be_computed_says_so(self, both):
        def refuse(subject):
            raise ArgumentError("'x' is not known; give y")

        parts = (QUICK[0], QUICK[1]._replace(build=refuse))
        _, last = build_sections(make_subject(both), parts)
        assert (last.name, last.title) == ("reproduction", "Reproduction")
        assert last.blocks[0].tone == "caution"
        assert "'x' is not known; give y" in last.blocks[0].sentences[0]

    def test_a_mistake_in_a_section_is_not_hidden(self, both):
        with pytest.raises(ZeroDivisionError):
            build_sections(make_subject(both), (QUICK[1]._replace(build=lambda _: 1 / 0),))

    def test_a_section_that_does_not_apply_is_left_out(self, both):
        parts = (QUICK[0], QUICK[1]._replace(build=lambda _: None))
        sections = build_sections(make_subject(both), parts)
        assert [section.name for section in sections] == ["verdict"]


class TestRows:
    def test_a_model_in_use_is_found(self, hsb):
        model = Model(FORMULA, hsb)
        fit = model.reml()
        Model.from_moments(model.moments)  # has no rows and takes nobody's place
        is_found = fit.model is model
        assert is_found
        del model
        assert fit.model is None

    def test_a_model_of_other_rows_is_refused(self, hsb, both, tmp_path):
        table = hsb.copy()
        table.loc[5, "mathach"] += 0.01
        with pytest.raises(DataError, match="or hold other numbers; give the table"):
            both.dashboard(tmp_path / "page.html", model=Model(FORMULA, table))
        with pytest.raises(DataError, match="7185 rows of 160 groups"):
            check_rows(both.reml.moments, Model("mathach ~ ses + (1 | school)", hsb))

    def test_the_same_rows_in_another_order_are_accepted(self, hsb, both):
        check_rows(both.reml.moments, Model(FORMULA, hsb.sample(frac=1.0, random_state=1)))


class TestText:
    def test_what_hides_or_breaks_text_is_escaped(self):
        assert show_text("a\x1b[31mb\u202ec") == "a\\x1b[31mb\\u202ec"

    def test_long_words_and_long_texts_are_cut(self):
        assert show_text("x" * 10_000) == "x" * 79 + "…"
        assert len(show_text("word " * 10_000)) == 1500

    def test_json_cannot_close_its_element(self):
        text = embed({"</script><!--": ["&", "\u2028"]})
        assert not set("<>&\u2028") & set(text)
        assert json.loads(text) == {"</script><!--": ["&", "\u2028"]}

    def test_scripts_cannot_close_their_element(self):
        for text in load_scripts().values():
            assert "</script" not in text.lower()
            assert "<!--" not in text
            assert "\r" not in text
            assert "sourceMappingURL" not in text

    def test_columns_hold_every_kind_of_value(self):
        frame = pd.DataFrame(
            {
                "a": [0.1 + 0.2, np.inf, np.nan],
                "b": np.array([1, 2, 3], dtype=np.int64),
                "c": ["x", None, "<b>"],
                "d": [np.float64(1.5), "text", True],
            },
            index=pd.Index(["r", "s", "t"], name="row"),
        )
        found = {column["name"]: column for column in list_columns(frame)}
        assert found["row"]["values"] == ["r", "s", "t"]
        assert found["a"] == {
            "name": "a", "kind": "number", "values": [0.30000000000000004, "inf", None],
        }  # fmt: skip
        assert found["b"]["values"] == [1, 2, 3]
        assert found["c"]["kind"] == found["d"]["kind"] == "text"
        json.dumps(list(found.values()), allow_nan=False)
        assert "row" not in {column["name"] for column in list_columns(frame.rename_axis(None))}


@pytest.mark.usefixtures("quick")
class TestCommands:
    def test_a_gallery_model(self, capsys, tmp_path):
        page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
        arguments = ("dashboard", "rail", "-o", page, "--json", numbers, "--title", "Six rails")
        status, out, err = run(capsys, *arguments)
        verdict = json.loads(numbers.read_text())["verdict"]
        assert status == (0 if verdict in ("agree", "explained") else 1)
        assert err == ""
        assert f"Verdict: {verdict}" in out
        assert "Six rails" in "".join(read_page(page).shown)

    @pytest.mark.slow
    def test_a_saved_fit_with_and_without_its_rows(self, capsys, hsb, tmp_path):
        hsb.to_csv(tmp_path / "hsb.csv", index=False)
        fit, page = tmp_path / "fit.nc", tmp_path / "page.html"
        Model(FORMULA, tmp_path / "hsb.csv").sample(seed=1).save(fit)
        status, _, err = run(capsys, "dashboard", fit, "-o", page)
        assert (status, err) == (0, "")
        assert "Only the moments of the rows" in "".join(read_page(page).shown)
        arguments = ("dashboard", fit, "-o", page, "--data", tmp_path / "hsb.csv")
        status, _, err = run(capsys, *arguments)
        assert (status, err) == (0, "")
        assert "Only the moments of the rows" not in "".join(read_page(page).shown)
        assert load(fit).seed == 1

    def test_reconcile_writes_the_page_of_a_failure(self, capsys, tmp_path):
        page = tmp_path / "page.html"
        arguments = ("--draws", 30, "--tune", 5, "--dashboard", page)
        status, _, _ = run(capsys, "reconcile", "rail", *arguments)
        assert status == 1
        shown = read_page(page)
        assert "Not converged" in "".join(shown.shown)
        command = "bhlm reconcile rail --seed 1 --draws 30 --tune 5 --chains 4"
        assert command in "".join(shown.shown)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("dashboard", "nothing", "-o", "{}/p.html"), "neither a model file nor a model"),
            (("dashboard", "nothing.zarr", "-o", "{}/p.html"), "does not exist"),
            (("dashboard", "rail"), "-o"),
            (("dashboard", "rail", "-o", "{}/nowhere/p.html"), "choose a folder that exists"),
            (("dashboard", "rail", "-o", "{}/p.txt"), "end it in .html"),
            (("dashboard", "f.nc", "-o", "{}/p.html", "--seed", "2"), "--seed cannot be given"),
            (("dashboard", "rail", "-o", "{}/p.html", "--data", "x.csv"), "has its data"),
            (("dashboard", "rail", "-o", "{}/p.html", "--json", "{}/p.json"), "its own numbers"),
            (("reconcile", "rail", "--dashboard", "{}/no/p.html"), "choose a folder that exists"),
            (("reconcile", "rail", "--dashboard", "{}/p.html", "--json", "{}/p.json"), "its own"),
        ],
    )
    def test_bad_input_exits_2_with_one_line(self, capsys, tmp_path, arguments, message):
        given = [word.replace("{}", str(tmp_path)) for word in arguments]
        check_refusal(run(capsys, *given), message)

    @pytest.mark.slow
    def test_control_characters_stay_out_of_the_terminal(self, capsys, hsb, tmp_path):
        table = hsb[hsb["school"].isin(hsb["school"].unique()[:25])].copy()
        table["track\x1b[31m"] = "b"
        table.loc[table.index[::2], "track\x1b[31m"] = "a"
        table["kind"] = np.where(np.arange(len(table)) % 2, "a", "b\x1b[31m")
        table.to_csv(tmp_path / "odd.csv", index=False)
        arguments = ("--data", tmp_path / "odd.csv", "--formula", "mathach ~ kind + (1 | school)")
        page = tmp_path / "p.html"
        _, out, err = run(capsys, "reconcile", *arguments, "--dashboard", page)
        assert "kind[b\\x1b[31m]" in out
        assert "\x1b" not in out + err
        _, _, err = run(capsys, "reml", "--data", "no\x1b[31m.csv", "--formula", "y ~ 1 + (1 | g)")
        assert "\x1b" not in err


class TestArrangement:
    @pytest.mark.parametrize(
        ("panels", "columns"), [(2, 2), (4, 4), (5, 3), (6, 3), (7, 4), (9, 3), (10, 4)]
    )
    def test_rows_of_small_multiples_are_few_and_even(self, both, panels, columns):
        figure = plots.plot_attribution(both)
        panel = figure.panels[0]
        found = arrange_figure(replace(figure, panels=(panel,) * panels))
        assert found.columns == columns
        assert found.height == 210 * math.ceil(panels / columns) + 90

    @pytest.mark.parametrize(("panels", "columns"), [(2, 2), (3, 3), (4, 2), (5, 3), (8, 4)])
    def test_a_single_row_with_a_legend_is_high_enough_for_it(self, both, panels, columns):
        figure = plots.plot_prior_posterior(both.post)
        found = arrange_figure(replace(figure, panels=(figure.panels[0],) * panels))
        assert found.columns == columns
        assert found.height >= 390

    @pytest.mark.parametrize("function", [plots.plot_traces, plots.plot_predictive])
    def test_panels_of_arviz_stand_one_below_the_other_on_a_telephone(self, both, function):
        content = describe_figure(function(both.post))
        wide, narrow = content["layout"], content["narrow"]
        assert content["least"] == 0

        def list_panels(layout):
            axes = [name for name in layout if name.startswith("xaxis")]
            return [(layout[n]["domain"], layout[n.replace("x", "y", 1)]["domain"]) for n in axes]

        panels = list_panels(narrow)
        assert len(panels) == len(list_panels(wide)) > 1
        assert all(x == [0.0, 1.0] for x, _ in panels)
        lows, highs = zip(*(y for _, y in panels), strict=True)  # in the order of reading
        assert all(low > high for low, high in itertools.pairwise(lows))
        assert lows[-1] == pytest.approx(0.0, abs=1e-12)  # no empty space above the legend
        assert all(low > high for low, high in zip(lows, highs[1:], strict=False))
        titles = [note for note in narrow["annotations"] if note["xref"] == "paper"]
        assert {(note["x"], note["y"]) for note in titles} == {(0.5, high) for high in highs}

    def test_a_fits_own_table_is_folded_beside_that_of_all_fits(self):
        table = Table("reml_estimates", "REML", "Read.", pd.DataFrame({"x": [1.0]}))
        fitted = Text(("y ~ x",), heading="What was fitted")
        assert place_block(table, "verdict-reml_estimates").folded
        assert place_block(fitted, "verdict-text").folded
        alone = {"verdict-reml_estimates"}
        assert not place_block(table, "verdict-reml_estimates", anchors=alone).folded
        assert not place_block(fitted, "verdict-text", anchors=alone).folded


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("cov(Intercept,cwc(ses)|school)", "cov(Intercept,<wbr>cwc(ses)|<wbr>school)"),
        ("var(Residual)", "var(Residual)"),
        ("socioeconomic_column", "socioeconomic_<wbr>column"),
        ("cwc(socioeconomicstatusofparents)", "cwc(<wbr>socioeconomicstatusofparents)"),
    ],
)
def test_names_break_behind_a_bracket_only_where_they_have_nothing_else(name, written):
    assert str(page_module.break_words(name)) == written


@pytest.mark.parametrize(("name", "last"), [("P(above 1)", "> .999"), ("p", "1.000")])
def test_a_share_of_draws_is_never_all_of_them(name, last):
    """A p of 1 is exact; a share of draws is as good as their number."""
    column = {"name": name, "kind": "number", "values": [0.0004, 0.25, 0.9995, 1.0]}
    shown = [row[0] for row in show_cells([column], digits=3).rows]
    assert shown == ["< .001", ".250", "> .999", last]


def test_gaps_next_to_nothing_are_zero_without_a_sign():
    column = {"name": "gap_sd", "kind": "number", "values": [-0.0001, 0.25, None]}
    assert [row[0] for row in show_cells([column], digits=3).rows] == [
        "0.000",
        "0.250",
        "\N{EN DASH}",
    ]


@pytest.mark.parametrize(
    ("text", "parted"),
    [
        ("-30766.1", "-30,766.1"),
        ("1234567", "1,234,567"),
        ("9999.5", "9999.5"),
        ("0.123456", "0.123456"),
        ("1.25e+12", "1.25e+12"),
    ],
)
def test_thousands_stand_apart_from_ten_thousand_on(text, parted):
    assert separate_thousands(text) == parted


def test_an_option_of_a_line_to_type_keeps_its_value():
    line = "bhlm reconcile --formula 'y ~ x --chains' --chains 4 --no-adjust --seed 1"
    held = page_module.hold_options(line)
    assert '<span class="option">--chains 4</span>' in held
    assert '<span class="option">--no-adjust</span>' in held
    assert '<span class="option">--seed 1</span>' in held
    assert '<span class="option">--formula</span>' in held  # of any length
