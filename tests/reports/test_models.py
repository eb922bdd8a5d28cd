"""bhlm.table: models side by side, in every format."""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from simulate import simulate_table

import bhlm
from bhlm.errors import ArgumentError
from bhlm.reports.models.layout import DASH, MINUS, TIMES
from bhlm.reports.models.table import split_product

LATEX = shutil.which("pdflatex")
OFFICE = shutil.which("soffice") or shutil.which("libreoffice")
CHROMIUM = shutil.which("chromium")
TABLE = simulate_table(3, n_groups=25, largest=9)
LABELS = {"cwc(x)": "x & within_50 %", "gm(x)": "mean of <x>"}


@functools.cache
def fit(formula: str, method: str = "reml") -> bhlm.RemlFit:
    return bhlm.Model(formula, TABLE).reml(method=method)


NULL, MEANS, FULL = "y ~ 1 + (1 | g)", "y ~ gm(x) + (1 | g)", "y ~ gm(x) * cwc(x) + (cwc(x) | g)"


@pytest.fixture(scope="module")
def three() -> bhlm.ModelTable:
    return bhlm.table([fit(NULL), fit(MEANS), fit(FULL)], labels=LABELS)


@pytest.fixture(scope="module")
def post() -> bhlm.BayesFit:
    return bhlm.Model(NULL, TABLE).sample(seed=1, draws=200, tune=200, chains=2)


def read_text(table: bhlm.ModelTable) -> dict[str, list[str]]:
    """Return the numbers of each labelled row of the text."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in str(table).splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_numbers_are_those_of_the_fits(three):
    rows, full = read_text(three), fit(FULL)
    intercepts = (f"{fit(f).beta[0]:.3f}" for f in (NULL, MEANS, FULL))
    assert rows["Intercept"] == [text.replace("-", MINUS) for text in intercepts]
    assert rows["var(Residual)"] == [f"{fit(f).sigma2:.3f}" for f in (NULL, MEANS, FULL)]
    assert rows["N, rows"] == [f"{len(TABLE)}"] * 3
    assert rows["N, g"] == ["25"] * 3
    assert rows["ICC"][0] == f"{fit(NULL).icc():.3f}"
    assert rows["R², marginal"][2] == f"{full.r_squared()['marginal']:.3f}"
    assert rows["Deviance†"][1] == f"{-2 * fit(MEANS).loglik:,.2f}"
    assert rows["Parameters"] == ["3", "4", "8"]
    frame = three.frame.set_index(["model", "parameter"])
    tests = full.fixed_effects()
    for name in full.moments.fixed:
        row = frame.loc[("(3)", name)]
        for key in ("estimate", "se", "lower", "upper", "p"):
            assert row[key] == tests.loc[name, key]


def test_a_parameter_stands_where_its_model_has_it(three):
    lines = [line.strip() for line in str(three).splitlines()]
    labels = [re.split(r"\s{2,}", line)[0] for line in lines if line[:1] not in "(-" and line]
    at = {label: labels.index(label) for label in labels}
    product = f"mean of <x> {TIMES} x & within_50 %"
    assert at["mean of <x>"] < at["x & within_50 %"] < at[product] < at["Variance components"]
    assert at["var(Intercept|g)"] < at["var(x & within_50 %|g)"] < at["var(Residual)"]
    assert at["cov(Intercept,x & within_50 %|g)"] < at["var(Residual)"]


def test_reml_deviances_of_other_fixed_effects_are_warned_of(three):
    assert any("REML of models with different fixed effects" in note for note in three.notes)
    same = bhlm.table([fit(MEANS), fit("y ~ gm(x) + (cwc(x) | g)")])
    assert not any("†" in note for note in same.notes)
    by_ml = bhlm.table([fit(NULL, "ml"), fit(MEANS, "ml")])
    assert not any("†" in note for note in by_ml.notes)
    mixed = bhlm.table([fit(NULL), fit(NULL, "ml")])
    assert any("by REML and by ML" in note for note in mixed.notes)


def test_other_rows_groups_and_responses_are_warned_of():
    fewer = bhlm.Model(NULL, TABLE.iloc[5:]).reml()
    notes = bhlm.table({"all": fit(NULL), "some": fewer}).notes
    assert any(f"different rows ({len(TABLE) - 5} in some" in note for note in notes)
    other = bhlm.Model("x ~ 1 + (1 | g)", TABLE).reml()
    table = bhlm.table([fit(NULL), other])
    assert "The models explain different responses." in table.notes
    assert read_text(table)["Response"] == ["y", "x"]


def test_singular_and_several_factors_are_told():
    flat = TABLE.assign(y=np.tile([1.0, 2.0, 4.0], len(TABLE))[: len(TABLE)])
    singular = bhlm.Model(NULL, flat).reml()
    assert singular.singular
    table = bhlm.table({"flat": singular})
    assert any(note.startswith("flat singular: ") for note in table.notes)
    assert read_text(table)["var(Intercept|g)"] == ["0.000"]
    crossed = TABLE.assign(h=np.arange(len(TABLE)) % 7)
    both = bhlm.table([fit(NULL), bhlm.Model("y ~ 1 + (1 | g) + (1 | h)", crossed).reml()])
    rows = read_text(both)
    assert rows["N, h"] == ["7"]
    assert len(rows["ICC, g"]) == 2
    assert rows["var(Intercept|h)"]


def test_a_posterior_shows_means_and_its_own_intervals(post):
    table = bhlm.table({"reml": fit(NULL), "post": post}, show="interval", scale="sd", level=0.9)
    rows, draws = read_text(table), post.draws["sd(Intercept|g)"]
    assert rows["sd(Intercept|g)"][1] == f"{draws.mean():.3f}"
    cell = table.frame.set_index(["model", "parameter"]).loc[("post", "sd(Intercept|g)")]
    assert cell["lower"] == pytest.approx(np.quantile(draws, 0.05))
    row = fit(NULL).estimates.loc["sd(Intercept|g)"]
    z = stats.norm.ppf(0.95)
    cell = table.frame.set_index(["model", "parameter"]).loc[("reml", "sd(Intercept|g)")]
    assert cell["upper"] == pytest.approx(row["estimate"] * np.exp(z * row["se"] / row["estimate"]))
    assert rows["Deviance"][1] == DASH


def test_stars_are_asked_for_and_never_of_a_posterior(post):
    plain = bhlm.table([fit(FULL), post])
    assert "*" not in str(plain)
    starred = bhlm.table([fit(FULL), post], stars={0.9999: "†"})
    cells = read_text(starred)["Intercept"]
    assert cells[0].endswith("†")
    assert not cells[1].endswith("†")
    assert any("† p < .9999; a posterior has no p" in note for note in starred.notes)


def test_a_small_number_is_not_shown_as_zero():
    table = bhlm.table([bhlm.Model(NULL, TABLE.assign(y=TABLE["y"] / 1e5)).reml()], decimals=2)
    assert re.fullmatch(
        rf"{MINUS}?\d\.\de-\d\d|{MINUS}?0\.0000\d\d", read_text(table)["Intercept"][0]
    )


def test_every_name_is_escaped_in_every_format(three):
    latex = three.to_latex()
    assert r"x \& within\_50 \%" in latex
    assert "x &amp; within_50 %" in three.to_html()
    assert "mean of &lt;x&gt;" in three.to_html()
    assert r"x \& within\_50 \%" in three.to_markdown()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert latex.count(r"\midrule") == 3


def test_files_hold_what_their_ending_says(three, tmp_path):
    for ending in ("txt", "md", "tex", "html"):
        three.save(tmp_path / f"table.{ending}")
    assert (tmp_path / "table.txt").read_text().rstrip("\n") == str(three)
    assert (tmp_path / "table.tex").read_text().startswith(r"\begin{tabular}{lrrr}")
    assert (tmp_path / "table.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(ArgumentError, match=r"'table\.xls' is not a table's file"):
        three.save(tmp_path / "table.xls")


def test_word_holds_every_cell(three, tmp_path):
    docx = pytest.importorskip("docx", reason="pip install 'bhlm[tables]'")
    three.save(tmp_path / "table.docx")
    document = docx.Document(str(tmp_path / "table.docx"))
    cells = {cell.text for cell in document.tables[0]._cells}
    assert any(text.startswith(f"{fit(FULL).sigma2:.3f}") for text in cells)
    assert [paragraph.text for paragraph in document.paragraphs] == list(three.notes)


def test_great_tables_takes_it_over(three):
    pytest.importorskip("great_tables", reason="pip install 'bhlm[tables]'")
    html = three.to_gt().as_raw_html()
    assert f"{fit(FULL).sigma2:.3f}" in html


@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        ([], {}, "there is nothing to tabulate"),
        ([TABLE], {}, "a DataFrame has no place in a table of models"),
        (5, {}, "a int has no place"),
        (None, {"show": "p"}, "show='p' is not"),
        (None, {"scale": "log"}, "scale='log' is not"),
        (None, {"df": "t"}, "df='t' is not known"),
        (None, {"decimals": 99}, "decimals=99 is not between 0 and 10"),
        (None, {"stars": {5: "*"}}, "stars has 5 for a p"),
        (None, {"level": 95.0}, "level=95.0 is not between 0 and 1"),
    ],
)
def test_what_cannot_be_tabulated_is_refused_in_one_line(models, arguments, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        bhlm.table(fit(NULL) if models is None else models, **arguments)


def test_products_are_split_at_colons_outside_of_brackets():
    assert split_product("a:f(b:c):C(d)[e:f]") == ["a", "f(b:c)", "C(d)[e:f]"]


@pytest.fixture(scope="module")
def hsb_table() -> bhlm.ModelTable:
    hsb = bhlm.load_hsb()
    formulas = (
        "mathach ~ 1 + (1 | school)",
        "mathach ~ gm(ses) + sector + (1 | school)",
        "mathach ~ (gm(ses) + sector) * cwc(ses) + (cwc(ses) | school)",
    )
    fits = [bhlm.Model(formula, hsb).reml() for formula in formulas]
    return bhlm.table(fits, stars=True, labels={"cwc(ses)": "SES & school_mean"})


@pytest.mark.slow
@pytest.mark.skipif(
    LATEX is None, reason="no pdflatex here; apt-get install texlive-latex-recommended"
)
def test_latex_compiles(hsb_table, tmp_path):
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        "\\begin{table}\n\\small\\caption{Three models}\n\\input{table.tex}\n\\end{table}\n"
        "\\end{document}\n"
    )
    hsb_table.save(tmp_path / "table.tex")
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "page.pdf").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.skipif(
    OFFICE is None, reason="no LibreOffice here; apt-get install libreoffice-writer"
)
def test_word_opens_in_an_office(hsb_table, tmp_path):
    hsb_table.save(tmp_path / "table.docx")
    command = [OFFICE, f"-env:UserInstallation=file://{tmp_path}/home", "--headless"]
    command += ["--convert-to", "txt:Text", "table.docx"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=120)
    text = (tmp_path / "table.txt").read_text(encoding="utf-8-sig")
    for word in ("39.148", "SES & school_mean", "47,116.79", "Deviance†"):
        assert word in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "light"), (1440, "dark")])
def test_html_passes_axe(hsb_table, tmp_path, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'bhlm[dev]'")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="bhlm[dev]")
    hsb_table.save(tmp_path / "table.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto((tmp_path / "table.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        methods = page.locator(".bhlm-models thead tr:last-child td").last
        assert methods.evaluate("it => getComputedStyle(it).borderBottomStyle") == "solid"
        found = axe.Axe().run(page)
        page.screenshot(path=str(tmp_path / "table.png"), full_page=True)
        browser.close()
    assert found.response["violations"] == []
    assert Path(tmp_path / "table.png").exists()


CBPP = "incidence / size ~ C(period) + (1 | herd)"


@functools.cache
def fit_cbpp(formula: str, *, nagq: int | None = None, family: str = "binomial", link: str = ""):
    table = bhlm.load_dataset("cbpp")
    table = table.assign(obs=np.arange(len(table)))
    return bhlm.Model(formula, table, family=family, link=link or None).ml(nagq=nagq)


def test_families_stand_side_by_side_on_the_link_scale():
    one, two = fit_cbpp(CBPP), fit_cbpp(CBPP + " + (1 | obs)")
    table = bhlm.table([one, two], stars=True)
    rows = read_text(table)
    minus = [f"{fit.beta[0]:.3f}***".replace("-", MINUS) for fit in (one, two)]
    assert rows["Intercept"] == minus
    assert rows["var(Intercept|obs)"] == [f"{two.gs[1][0, 0]:.3f}"]
    assert rows["Parameters"] == ["5", "6"]
    assert rows["Deviance"] == [f"{-2 * fit.loglik:,.2f}" for fit in (one, two)]
    icc = two.icc()["icc"]
    assert rows["ICC, herd"] == [f"{one.icc()['icc'].iloc[0]:.3f}", f"{icc['herd']:.3f}"]
    assert rows["R², conditional"] == [f"{f.r_squared()['conditional']:.3f}" for f in (one, two)]
    assert any("Binomial with logit link" in note for note in table.notes)
    assert not any("Laplace" in note for note in table.notes)
    for text in (table.to_latex(), table.to_html(), table.to_markdown()):
        assert "logit" in text
    robust = bhlm.table([one], df="cr0").frame.set_index("parameter")
    wanted = one.fixed_effects(method="cr0")
    assert robust.loc["Intercept", "se"] == wanted.loc["Intercept", "se"]


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [
        ("binomial", "logit", "odds ratios"),
        ("binomial", "cloglog", "hazard ratios"),
        ("poisson", "log", "rate ratios"),
    ],
)
def test_fixed_effects_are_shown_as_ratios(family, link, name):
    formula = CBPP if family == "binomial" else CBPP.replace(" / size", "")
    fit = fit_cbpp(formula, family=family, link=link)
    table = bhlm.table([fit], ratios=True, show="interval")
    assert f"Fixed effects, as {name}" in str(table)
    frame, ratios = table.frame.set_index("parameter"), fit.ratios()
    for key in ("se", "lower", "upper", "p"):
        np.testing.assert_array_equal(frame.loc[ratios.index, key], ratios[key])
    np.testing.assert_array_equal(frame.loc[ratios.index, "estimate"], ratios["ratio"])
    assert frame.loc["var(Intercept|herd)", "estimate"] == fit.g[0, 0]


def test_laplace_is_labelled_and_its_deviance_not_compared():
    exact, other = fit_cbpp(CBPP), fit_cbpp(CBPP + " + (1 | obs)", nagq=1)
    table = bhlm.table([exact, other])
    assert "ML (Laplace)" in str(table)
    assert any("(2) Laplace approximation of the likelihood" in note for note in table.notes)
    assert any("integrated and of approximate likelihoods" in note for note in table.notes)
    alike = bhlm.table([fit_cbpp(CBPP, nagq=1), other])
    assert not any("†" in note for note in alike.notes)
    nodes = bhlm.table([fit_cbpp(CBPP, nagq=5)])
    assert "ML (5 nodes)" in str(nodes)
    assert any("5 nodes per dimension, whose error is not known" in note for note in nodes.notes)


def test_tables_of_several_families_and_ratios_of_none_are_refused():
    logit, probit = fit_cbpp(CBPP), fit_cbpp(CBPP, link="probit")
    counts = fit_cbpp(CBPP.replace(" / size", ""), family="poisson")
    for other in (probit, counts, fit(NULL)):
        with pytest.raises(ArgumentError, match="; make a table of each family and link"):
            bhlm.table([logit, other])
    with pytest.raises(ArgumentError, match="probit link are no log ratios"):
        bhlm.table([probit], ratios=True)
    with pytest.raises(ArgumentError, match=r"ratios=True is for fits of zeros .* is gaussian"):
        bhlm.table([fit(NULL)], ratios=True)


@pytest.mark.wide
def test_a_posterior_of_a_family_stands_beside_its_fit():
    model = bhlm.Model(CBPP, bhlm.load_dataset("cbpp"), family="binomial")
    ml, post = model.ml(), model.sample(seed=1, draws=600, tune=600)
    both = bhlm.table(bhlm.reconcile(ml, post))
    assert read_text(both)["Intercept"] == [
        f"{value:.3f}".replace("-", MINUS)
        for value in (ml.beta[0], post.estimates.loc["Intercept", "mean"])
    ]
    ratios = bhlm.table([ml, post], ratios=True)
    found = ratios.frame[ratios.frame["method"] == "Bayes"].set_index("parameter")
    wanted = post.ratios()
    np.testing.assert_array_equal(found.loc[wanted.index, "estimate"], wanted["ratio"])
    assert any("ratios are posterior medians" in note for note in ratios.notes)
