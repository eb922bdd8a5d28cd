"""The dashboard in headless Chromium: what it draws, what it loads, how it reads and prints."""

import csv
import io
import json
import re
import shutil
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhlm.fits.model import Model
from bhlm.fits.pooled_fit import fit_imputations
from bhlm.fits.reconciliation import reconcile
from bhlm.plots.residuals import studentize_rows
from bhlm.plots.style import ROLES
from bhlm.sources.datasets import load_dataset
from bhlm.sources.gallery import find_model, load_data

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.wide,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason="no chromium here; apt-get install chromium"
    ),
]
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'bhlm[dev]'")

FORMULA = "mathach ~ cwc(ses) + (cwc(ses) | school)"
MEGABYTE = 1e6
HSB_BYTES, LARGE_BYTES = 3 * MEGABYTE, 8 * MEGABYTE
HSB_HEIGHT, FOLD, PAGES = 13_000, 900, 8  # pixels at 1440, pixels of a first screen, printed A4
PYTHON = r"\w+=(True|None|\.\.\.)|\w\.\w+\(\)|bhlm\.\w|DataFrame|model\.\w+\(|\bfit\.\w"
NOTHING = ""  # no text of a figure may be clipped or overlap another
# Pixels that a text may stick out: Chromium rounds the boxes of text.
SLACK = 3
# Shape of two texts' overlap, of the smaller one, from which it can no longer be read.
COVERED = 0.25
HOSTILE = (
    "<script>alert(1)</script>\"'&amp;{{ 7*7 }}</script><img src=x onerror=alert(1)> \u202eabc"
)

# Texts of a figure outside it, or on top of each other.
FIND_CLIPPED = """([slack, covered]) => {
  const found = [];
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const box = plot.getBoundingClientRect();
    const texts = [...plot.querySelectorAll("svg text")].filter(
      (text) => !text.closest(".hoverlayer") && text.textContent.trim()
        && getComputedStyle(text).visibility !== "hidden");
    const rects = texts.map((text) => text.getBoundingClientRect());
    rects.forEach((rect, at) => {
      if (!rect.width) return; // Plotly hides what has no room
      if (rect.left < box.left - slack || rect.right > box.right + slack
          || rect.top < box.top - slack || rect.bottom > box.bottom + slack) {
        found.push(`${plot.dataset.figure}: '${texts[at].textContent}' is clipped`);
      }
      for (let other = at + 1; other < rects.length; other++) {
        const next = rects[other];
        const width = Math.min(rect.right, next.right) - Math.max(rect.left, next.left);
        const height = Math.min(rect.bottom, next.bottom) - Math.max(rect.top, next.top);
        const smaller = Math.min(rect.width * rect.height, next.width * next.height);
        if (width > 1 && height > 1 && width * height > covered * smaller) {
          found.push(`${plot.dataset.figure}: '${texts[at].textContent}' covers `
            + `'${texts[other].textContent}'`);
        }
      }
    });
  }
  return found.join("\\n");
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """Open a page and watch it: `faults` collects what no page may do."""
    contexts, faults = [], []

    def open_page(path, *, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (faults.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: watch(request.url, path))
        page.goto(path.as_uri())
        return page

    def watch(url, path):
        if url != path.as_uri() and not url.startswith(("data:", "blob:")):
            faults.append(f"request: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def walk(page):
    """Unfold all, scroll to every figure, table and chooser, and wait until it is drawn."""
    page.evaluate(
        "document.querySelectorAll('main details').forEach((one) => { one.open = true; })"
    )
    for element in page.query_selector_all("[data-figure], [data-table], [data-chooser]"):
        element.scroll_into_view_if_needed()
        element.wait_for_selector(".main-svg, tbody tr", state="attached")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(300)


def read_csv(text):
    rows = list(csv.reader(io.StringIO(text)))
    return pd.DataFrame(rows[1:], columns=rows[0])


@pytest.fixture(scope="module")
def built(hsb_both, tmp_path_factory):
    """The page of HSB, and the processor's seconds that it took after the fit."""
    both = hsb_both
    path = tmp_path_factory.mktemp("page") / "hsb.html"
    start = time.process_time()
    both.dashboard(path, title="High School and Beyond")
    return path, both, time.process_time() - start


@pytest.fixture(scope="module")
def hsb_page(built):
    return built[0]


def read_twin(path):
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def test_size(built):
    path, *_ = built
    assert path.stat().st_size <= HSB_BYTES


def list_numbers(value):
    """Every list of numbers in a JSON."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in list_numbers(item)]
    if not isinstance(value, list):
        return []
    numbers = [item for item in value if isinstance(item, float | int)]
    return [numbers, *(found for item in value for found in list_numbers(item))]


def hold_pupils(both, contents):
    """How many numbers of a list are residuals or PIT of pupils, at most."""
    kinds = [studentize_rows(both.reml, *both.model.rows()), both.checks.pit.pit]
    known = {round(value, 9) for values in kinds for value in values.tolist()}
    known -= {0.0, 1.0}
    return max(
        sum(round(number, 9) in known for number in numbers)
        for content in contents
        for numbers in list_numbers(content)
    )


def read_embedded(path):
    """The contents of a page's scripts of numbers."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(found) for found in re.findall(r'json" id="[^"]+">(.*?)</script>', text)]


def test_the_page_holds_no_pupil_unless_asked(built):
    path, both, _ = built
    twin = read_twin(path)
    embedded = read_embedded(path)
    assert len(embedded) > 10
    assert hold_pupils(both, [twin, *embedded]) == 0
    chooser = next(content for content in embedded if "lines" in content)
    assert chooser["rows"] is None
    assert twin["holds"]["rows"] is False
    assert twin["holds"]["sentences"][0].startswith("No single row: neither its response, nor")
    assert "No single row: neither its response" in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_holds_pupils_where_they_are_asked_for(built, tmp_path):
    both = built[1]
    both.dashboard(tmp_path / "rows.html", rows=True)
    twin, embedded = read_twin(tmp_path / "rows.html"), read_embedded(tmp_path / "rows.html")
    assert hold_pupils(both, [twin, *embedded]) >= 200
    chooser = next(content for content in embedded if "lines" in content)
    assert sum(map(len, chooser["rows"]["x"])) == 7185
    assert twin["holds"]["rows"] is True


def test_csv_cells_that_a_spreadsheet_would_run_stay_text(browser):
    source = files("bhlm.reports.dashboard").joinpath("assets", "tables.js").read_text()
    page = browser.new_page()
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "=a,b", '="q"']
    cells += [" =1", "\n=1", "\uff1d1", "plain", "a=b"]
    written = page.evaluate(
        f"(cells) => {{ {source}; return writeCsv([{{name: '=cmd', values: cells}}, "
        "{name: 'x', values: [-1.5, null, 'inf', '-inf', 1e-9, 0, 1, 2, 3, 4, 5, 6, 7]}]); }",
        cells,
    )
    page.close()
    table = list(csv.reader(io.StringIO(written)))
    assert table[0] == ["'=cmd", "x"]
    assert [row[0] for row in table[1:]] == [f"'{cell}" for cell in cells[:-2]] + cells[-2:]
    # Numbers stay numbers, also negative ones.
    assert [row[1] for row in table[1:5]] == ["-1.5", "", "inf", "'-inf"]


def test_all_sections_are_there(visit, hsb_page):
    page = visit(hsb_page)
    titles = page.locator("main > section > h2").all_inner_texts()
    assert titles[0] == "Verdict"
    assert titles[-1] == "Reproduction"
    assert len(titles) == 7
    assert page.locator("nav[aria-label=Sections] a").all_inner_texts() == titles


@pytest.mark.slow
def test_every_figure_and_table_is_drawn(visit, hsb_page):
    page = visit(hsb_page)
    walk(page)
    blocks = [block for section in read_twin(hsb_page)["sections"] for block in section["blocks"]]
    figures = [block for block in blocks if block["kind"] == "figure"]
    tables = [block for block in blocks if block["kind"] == "table"]
    assert page.locator("[data-figure] .main-svg").count() >= len(figures) > 0
    # A figure that is drawn has marks, not only axes.
    drawn = page.evaluate(
        "[...document.querySelectorAll('[data-figure]')].map(plot => plot.querySelectorAll("
        "'.trace path, .trace .point, .scatterlayer path, .shapelayer path, .heatmaplayer image'"
        ").length)"
    )
    assert len(drawn) == len(figures)
    assert min(drawn) > 0
    rows = page.locator("[data-table] tbody").evaluate_all("all => all.map(one => one.rows.length)")
    assert rows == [len(block["columns"][0]["values"]) for block in tables]
    for block in [*figures, *tables]:
        assert block["reading"] != ""
    captions = page.locator("main figure > figcaption")
    assert captions.count() == page.locator("main figure").count()


@pytest.mark.slow
def test_another_school_changes_the_chart(visit, hsb_page):
    page = visit(hsb_page)
    root = page.locator("[data-chooser]").first
    root.scroll_into_view_if_needed()
    root.locator(".main-svg").first.wait_for(state="attached")
    look = "document.querySelector('.chosen').querySelector('.scatterlayer').innerHTML"
    before, told = page.evaluate(look), root.locator(".telling").inner_text()
    field = root.locator("input")
    labels = page.evaluate(
        "JSON.parse(document.getElementById(document.querySelector('[data-chooser]').dataset"
        ".chooser + '-data').textContent).groups"
    )
    other = next(label for label in labels if label != field.input_value())
    field.fill(other)
    field.press("Enter")
    page.wait_for_timeout(200)
    assert page.evaluate(look) != before
    assert other in root.locator(".telling").inner_text() != told
    field.fill("no such school")
    field.press("Enter")
    assert "is called 'no such school'" in root.locator(".telling").inner_text()
    root.get_by_role("button", name="Next").click()
    assert field.input_value() == labels[labels.index(other) + 1]


@pytest.mark.slow
def test_the_csv_holds_every_digit(visit, built):
    path, both, _ = built
    page = visit(path)
    walk(page)
    with page.expect_download() as waiting:
        page.click("[data-save='verdict-reml_estimates']")
    table = read_csv(Path(waiting.value.path()).read_text(encoding="utf-8"))
    expected = both.reml.estimates
    assert table["parameter"].tolist() == list(expected.index)
    for name in expected.columns:
        given = [float(cell) if cell else np.nan for cell in table[name]]
        np.testing.assert_array_equal(given, expected[name].to_numpy())
    page.click("[data-copy='verdict-posterior_estimates']")
    playwright.expect(page.locator("#said")).to_have_text("Copied 10 rows.")
    table = read_csv(page.evaluate("navigator.clipboard.readText()"))
    np.testing.assert_array_equal(table["mean"].astype(float), both.post.estimates["mean"])


@pytest.mark.slow
def test_the_csv_of_a_figure_is_its_table(visit, hsb_page):
    page = visit(hsb_page)
    blocks = {
        f"{section['name']}-{block['name']}": block
        for section in read_twin(hsb_page)["sections"]
        for block in section["blocks"]
        if block["kind"] == "figure" and block["columns"]
    }
    anchor = next(name for name in blocks if page.locator(f"[data-save='{name}']").count())
    with page.expect_download() as waiting:
        page.click(f"[data-save='{anchor}']")
    table = read_csv(Path(waiting.value.path()).read_text(encoding="utf-8"))
    columns = blocks[anchor]["columns"]
    assert list(table.columns) == [column["name"] for column in columns]
    numbers = next(column for column in columns if column["kind"] == "number")
    given = [float(cell) if cell else None for cell in table[numbers["name"]]]
    assert given == numbers["values"]


@pytest.mark.slow
def test_tables_sort_by_click_and_by_keyboard(visit, built):
    path, both, _ = built
    page = visit(path)
    walk(page)
    table = page.locator("[data-table='verdict-posterior_estimates']")
    table.scroll_into_view_if_needed()
    head = table.locator("thead th").nth(1)
    first = table.locator("tbody tr").first.locator("td").first
    expect = playwright.expect
    head.get_by_role("button").click()
    expect(first).to_have_text(both.post.estimates["mean"].idxmin())
    button = head.get_by_role("button", name="Mean")
    button.focus()
    page.keyboard.press("Enter")
    expect(first).to_have_text(both.post.estimates["mean"].idxmax())
    assert head.get_attribute("aria-sort") == "descending"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_nothing_overflows_overlaps_or_is_clipped(visit, hsb_page, width):
    page = visit(hsb_page, width=width)
    walk(page)
    sizes = "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    needed, given = page.evaluate(sizes)
    assert needed <= given
    assert page.evaluate(FIND_CLIPPED, [SLACK, COVERED]) == NOTHING


@pytest.mark.slow
def test_colours_follow_the_system_and_the_button(visit, hsb_page):
    page = visit(hsb_page, scheme="dark")
    walk(page)
    paper = "getComputedStyle(document.querySelector('[data-figure] .main-svg')).backgroundColor"
    dark = page.evaluate(paper)
    inks = """[...document.querySelectorAll("[data-figure], .chosen")].flatMap((plot) =>
      plot.data.filter((trace) => trace.meta && (trace.line || trace.marker)).map((trace) => [
        trace.meta.role, (trace.line || trace.marker).color]))"""
    for name, shade in (("light", "dark"), ("dark", "light")):
        assert page.evaluate("document.documentElement.dataset.theme") == shade
        wanted = [[role, getattr(ROLES[role], shade)] for role, _ in page.evaluate(inks)]
        assert page.evaluate(inks) == wanted != []
        page.locator("#theme").click()
        page.wait_for_timeout(500)
        assert page.locator("html").get_attribute("data-theme") == name
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.get_by_role("button", name="Light page").click()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate(paper) == "rgb(255, 255, 255)" != dark
    page.get_by_role("button", name="Dark page").click()
    page.wait_for_timeout(500)
    assert page.evaluate(paper) == dark


@pytest.mark.slow
def test_the_keyboard_reaches_everything(visit, hsb_page):
    page = visit(hsb_page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('main')")
    page.goto(hsb_page.as_uri())
    last = page.locator("nav[aria-label=Sections] a").last
    last.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(800)
    assert page.evaluate("location.hash") == "#reproduction"
    box = page.locator("#reproduction").bounding_box()
    assert -5 < box["y"] < 900
    page.locator("#theme").focus()
    page.keyboard.press("Tab")  # from the keyboard, so that the focus has to show
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.locator("#theme").focus()
    page.keyboard.press("Space")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.slow
def test_print_shows_all_in_light_on_few_pages(visit, hsb_page):
    page = visit(hsb_page, width=1440, scheme="dark")
    page.emulate_media(media="print")
    figures = page.locator("[data-figure]:visible")
    drawn = figures.filter(has=page.locator(".main-svg"))
    playwright.expect(drawn).to_have_count(figures.count())
    assert figures.count() >= 10
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not page.locator("nav[aria-label=Sections]").is_visible()
    # Nothing sticks out of the paper.
    cut = page.evaluate(
        """() => {
          const edge = document.body.getBoundingClientRect().right + 1;
          const all = [...document.querySelectorAll("main svg, main table, main td, main th")];
          return all.filter((one) => one.checkVisibility() && !one.closest("details:not([open])")
            && one.getBoundingClientRect().right > edge).map((one) => one.outerHTML.slice(0, 80));
        }"""
    )
    assert cut == []
    fresh = visit(hsb_page, width=1440)
    printed = fresh.pdf(format="A4", prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type /Page\b(?!s)", printed)) <= PAGES


@pytest.mark.slow
def test_a_table_over_two_pages_has_its_headings_on_both(visit, tmp_path):
    """Chromium leaves buttons out of a head that it prints once more."""
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext here")
    fit_long_names().dashboard(tmp_path / "page.html")
    page = visit(tmp_path / "page.html", width=1440)
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    command = ["pdftotext", "-layout", tmp_path / "page.pdf", "-"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\f")
    assert len(printed) - 1 <= PAGES
    continued = [text for text in printed[1:] if "socioeconomic_column" in text.lstrip("\n")[:400]]
    assert len(continued) >= 1
    assert "Posterior mean" in continued[0].lstrip("\n")[:200]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hsb_random_coefficient", "hsb_intercepts_and_slopes"])
def test_pages_of_the_book_are_not_too_long(visit, tmp_path, name):
    entry = find_model(name)
    model = Model(entry.formula, load_data(entry))
    both = reconcile(model.reml(), model.sample(seed=1), published=entry.published)
    both.dashboard(tmp_path / "page.html")
    page = visit(tmp_path / "page.html", width=1440)
    for element in page.query_selector_all("[data-figure], [data-table], [data-chooser]"):
        if element.is_visible():
            element.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert page.evaluate("document.scrollingElement.scrollHeight") <= HSB_HEIGHT
    printed = page.pdf(format="A4")
    assert len(re.findall(rb"/Type /Page\b(?!s)", printed)) <= PAGES


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_the_first_screen_shows_what_matters(visit, hsb_page, width):
    page = visit(hsb_page, width=width)
    forest = page.locator("[data-figure='verdict-forest']")
    forest.locator(".main-svg").first.wait_for(state="attached")
    assert forest.bounding_box()["y"] < FOLD
    if width == 1440:
        box = forest.bounding_box()
        assert box["y"] + box["height"] <= FOLD
        assert page.evaluate("document.scrollingElement.scrollHeight") <= HSB_HEIGHT
    assert page.locator(".light").count() == 4
    # Verdict and p are there without scrolling sideways.
    table = page.locator("[data-table='verdict-estimates']").bounding_box()
    for name in ("p", "verdict"):
        box = page.locator(
            f"[data-table='verdict-estimates'] th[data-name='{name}']"
        ).bounding_box()
        assert box["x"] + box["width"] <= table["x"] + table["width"] + 1
    shown = page.locator("[data-table='verdict-estimates'] tbody").inner_text()
    assert "< .001" in shown
    assert "explained" in shown


@pytest.mark.slow
def test_one_school_lights_up_everywhere(visit, hsb_page):
    page = visit(hsb_page)
    page.goto(f"{hsb_page.as_uri()}#school=2277")
    walk(page)
    rings = """[...document.querySelectorAll("[data-figure]")].filter((plot) =>
      plot.data && plot.data.some((trace) => trace.name === "chosen")).map(
      (plot) => plot.dataset.figure)"""
    lit = {"groups-caterpillar", "groups-shrinkage", "checks-influence", "checks-khat"}
    assert lit <= set(page.evaluate(rings))
    assert page.locator("[data-chooser] input").input_value() == "2277"
    drawn = page.evaluate(
        "document.querySelector('.chosen').data.map((trace) => [trace.name, trace.fill || ''])"
    )
    assert ["Posterior, 95 % band", "tonexty"] in drawn
    with page.expect_download() as waiting:
        page.click("[data-image='groups-group'][data-format='svg']")
    assert waiting.value.suggested_filename.endswith("-groups-group.svg")
    assert page.locator("tr.lit").evaluate_all("all => all.map(one => one.dataset.group)") == [
        "2277",
        "2277",
    ]
    page.locator("[data-table='groups-groups'] tbody tr").first.click()
    chosen = page.locator("[data-table='groups-groups'] tbody tr").first.get_attribute("data-group")
    assert page.evaluate("location.hash") == f"#school={chosen}"
    assert page.locator("[data-chooser] input").input_value() == chosen
    assert page.locator(".small button").count() == 160
    page.locator(".small button").nth(5).click()
    label = page.locator(".small button").nth(5).inner_text()
    assert page.locator("[data-chooser] input").input_value() == label


@pytest.mark.slow
def test_a_figure_is_saved_under_its_name_and_found_by_its_link(visit, hsb_page):
    page = visit(hsb_page)
    page.goto(f"{hsb_page.as_uri()}#convergence-energy")  # folded away
    page.locator("#convergence-energy .main-svg").first.wait_for(state="attached")
    for ending in ("svg", "png"):
        button = f"[data-image='verdict-forest'][data-format='{ending}']"
        with page.expect_download() as waiting:
            page.click(button)
        assert waiting.value.suggested_filename == f"High-School-and-Beyond-verdict-forest.{ending}"
        assert Path(waiting.value.path()).stat().st_size > 3_000


@pytest.mark.slow
def test_no_sentence_of_the_page_is_about_python(visit, hsb_page):
    page = visit(hsb_page)
    walk(page)
    page.evaluate("document.getElementById('reproduction').remove()")
    assert re.findall(PYTHON, page.locator("main").inner_text()) == []


def check_accessibility(page):
    """axe-core finds no violation."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    violations = [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
        for each in found
        for node in each["nodes"][:3]
    ]
    assert violations == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, hsb_page, scheme):
    page = visit(hsb_page, scheme=scheme)
    walk(page)
    check_accessibility(page)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page whose labels, columns, title and file name attack it, and its fit's labels."""
    rng = np.random.default_rng(5)
    schools = [HOSTILE, "x" * 10_000, "{{ 7*7 }}", "\u05d0\u202eevil", "\x1b[31mred", "="]
    schools += [f"</script><b>{at}" for at in range(10)]
    group = "</textarea><script>alert(2)</script>"
    column = "<img src=x onerror=alert(3)>"
    n = 20
    table = pd.DataFrame({group: np.repeat(schools, n), column: rng.normal(size=n * len(schools))})
    effect = np.repeat(rng.normal(size=len(schools)), n)
    table["y"] = effect + 0.5 * table[column] + rng.normal(size=len(table))
    model = Model(f"y ~ `{column}` + (`{column}` | `{group}`)", table)
    both = reconcile(model.reml(), model.sample(seed=2))
    path = tmp_path_factory.mktemp("bad") / "a<script>alert(4)<'\" {{ 7*7 }}.html"
    title = f"{HOSTILE} {'long ' * 2000}"
    both.dashboard(path, title=title)
    return path, schools, title, column


@pytest.mark.slow
def test_hostile_input_is_text(visit, hostile):
    path, schools, title, column = hostile
    page = visit(path)
    walk(page)
    # Only the page's own elements are there: no image, bold text or script out of a label.
    assert page.locator("main img, header img, main b").count() == 0
    scripts = page.evaluate(
        "[...document.scripts].filter(x => x.type !== 'application/json').length"
    )
    assert scripts == 2
    assert page.locator("h1").inner_text().startswith("<script>alert(1)</script>\"'&amp;{{ 7*7 }}")
    assert column in page.locator(".formula").inner_text()
    assert "49" not in page.locator("h1").inner_text()
    field = page.locator("[data-chooser] input")
    for label in ("{{ 7*7 }}", "</script><b>3"):
        field.fill(label)
        field.press("Enter")
        assert label in page.locator(".telling").inner_text()
    assert "\u202e" not in page.locator("body").inner_text()
    search = page.locator("#groups-groups .search input")
    search.fill("<script>alert(1)</script>")
    rows = page.locator("[data-table='groups-groups'] tbody tr:visible")
    playwright.expect(rows).to_have_count(2)
    needed, given = page.evaluate(
        "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    )
    assert needed <= given
    twin = read_twin(path)
    assert twin["title"] == title
    text = json.dumps(twin)
    assert all(json.dumps(school)[1:-1] in text for school in schools)


@pytest.mark.slow
def test_a_failed_fit_leads_with_the_failure(visit, tmp_path):
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(np.arange(6), 10)})
    table["y"] -= table.groupby("g")["y"].transform("mean")
    model = Model("y ~ 1 + (1 | g)", table)
    both = reconcile(model.reml(), model.sample(seed=1, draws=50, tune=10))
    assert both.reml.singular
    assert both.verdict == "not_converged"
    both.dashboard(tmp_path / "failed.html")
    page = visit(tmp_path / "failed.html", scheme="dark")
    walk(page)
    first = page.locator("main > section").first.locator(".text").first
    assert "bad" in first.get_attribute("class")
    told = first.inner_text()
    for what in ("Not converged", "var(Intercept|g) = 0", "ESS", "take more draws"):
        assert what in told
    assert "bad" in page.locator("header .badge").get_attribute("class")
    box = first.bounding_box()
    assert box["y"] < 400  # seen without scrolling
    check_accessibility(page)


@pytest.mark.slow
def test_ten_thousand_groups(visit, tmp_path):
    rng = np.random.default_rng(7)
    groups, n = 10_000, 5
    table = pd.DataFrame(
        {
            "g": np.repeat([f"school {at:05d}" for at in range(groups)], n),
            "x": rng.normal(size=groups * n),
        }
    )
    table["y"] = np.repeat(rng.normal(size=groups), n) + table["x"] + rng.normal(size=groups * n)
    model = Model("y ~ x + (x | g)", table)
    both = reconcile(model.reml(), model.sample(seed=1, draws=500, tune=500))
    path = tmp_path / "large.html"
    both.dashboard(path)
    assert path.stat().st_size <= LARGE_BYTES
    page = visit(path)
    start = time.monotonic()
    walk(page)
    assert time.monotonic() - start < 60.0
    assert page.locator("datalist option").count() <= 200
    field = page.locator("[data-chooser] input")
    labels = page.evaluate(
        "JSON.parse(document.getElementById(document.querySelector('[data-chooser]').dataset"
        ".chooser + '-data').textContent).groups"
    )
    field.fill(labels[-1])
    field.press("Enter")
    assert labels[-1] in page.locator(".telling").inner_text()
    nodes = page.evaluate("document.querySelectorAll('*').length")
    assert nodes < 60_000
    frames, more = page.locator(".small [data-group]"), page.locator(".small [data-next]")
    assert frames.count() == 500
    more.click()
    assert frames.count() == 1000
    assert more.inner_text() == "Show 500 more, of 10,000"
    frames.nth(999).click()
    assert labels[999] in page.locator(".telling").inner_text()


@pytest.fixture(scope="module")
def pooled_page(tmp_path_factory):
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(25), 6)
    x, u = rng.normal(size=150), rng.normal(size=25)
    table = pd.DataFrame({"school": g, "ses": x})
    names = [f"plausible_value_{at}_mathematics" for at in range(1, 6)]
    for name in names:
        table[name] = x + u[g] + 1.5 * rng.normal(size=150)
    pooled = fit_imputations(f"{' + '.join(names)} ~ ses + (ses | school)", table)
    path = tmp_path_factory.mktemp("pooled") / "pooled.html"
    pooled.dashboard(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_the_pooled_page_is_whole_at_every_width(visit, pooled_page, width):
    page = visit(pooled_page, width=width)
    forest = page.locator("[data-figure='verdict-forest']")
    forest.locator(".main-svg").first.wait_for(state="attached")
    assert forest.bounding_box()["y"] < FOLD
    table = page.locator("[data-table='verdict-estimates']").bounding_box()
    for name in ("p", "fmi"):
        box = page.locator(
            f"[data-table='verdict-estimates'] th[data-name='{name}']"
        ).bounding_box()
        assert box["x"] + box["width"] <= table["x"] + table["width"] + 1
    walk(page)
    needed, given = page.evaluate(
        "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    )
    assert needed <= given
    assert page.evaluate(FIND_CLIPPED, [SLACK, COVERED]) == NOTHING
    assert page.evaluate(FIND_CROWDED, width > 390) == NOTHING
    assert page.evaluate(FIND_ALONE) == NOTHING
    check_accessibility(page)


# Figures without a mark, texts beside the axis of one panel that reach into another, labels of
# axes over two lines, and axes with a single number, which says nothing of the scale.
FIND_CROWDED = """(wide) => {
  const found = [];
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    if (plot.closest(".small")) continue;
    if (!plot.data.length) found.push(`${plot.dataset.figure}: an empty picture`);
    const full = plot._fullLayout, box = plot.getBoundingClientRect();
    const axes = Object.entries(full).filter(([name, axis]) => /^xaxis/.test(name) && axis._offset);
    const panels = axes.map(([, x]) => {
      const y = full["yaxis" + x.anchor.slice(1)];
      return {left: box.left + x._offset, right: box.left + x._offset + x._length,
              top: box.top + y._offset, bottom: box.top + y._offset + y._length};
    });
    for (const text of plot.querySelectorAll("[class^=y][class$=tick] text")) {
      const rect = text.getBoundingClientRect(), middle = (rect.top + rect.bottom) / 2;
      if (text.textContent.trim() && panels.some((panel) => rect.left < panel.right - 1
          && rect.right > panel.left + 1 && middle > panel.top && middle < panel.bottom)) {
        found.push(`${plot.dataset.figure}: '${text.textContent}' stands in another panel`);
      }
    }
    for (const [name, x] of axes) {
      const shown = (x._vals || []).filter((one) => one.text && one.text.trim()).length;
      if (x.type === "linear" && !x.tickvals && !x.autorange && shown < 2) {
        found.push(`${plot.dataset.figure}: ${name} has ${shown} numbers`);
      }
    }
    for (const label of wide ? plot.querySelectorAll("[class$=xtitle]") : []) {
      if (label.querySelectorAll("tspan.line").length > 1) {
        found.push(`${plot.dataset.figure}: '${label.textContent}' is broken`);
      }
    }
  }
  return found.join("\\n");
}"""


# Axes on which fewer than two numbers are seen, texts beside an axis that touch, legends that touch
# what stands above them, and titles over two lines that have room for one.
FIND_ALONE = """() => {
  const found = [];
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    if (plot.closest(".small")) continue;
    const name = plot.dataset.figure || "chosen", full = plot._fullLayout;
    const box = (text) => text.getBoundingClientRect();
    const list = (query) => [...plot.querySelectorAll(query)].filter((text) =>
      text.textContent.trim() && box(text).width && getComputedStyle(text).visibility !== "hidden");
    for (const [key, axis] of Object.entries(full)) {
      if (!/^[xy]axis/.test(key) || !axis._length || !axis.showticklabels) continue;
      const texts = list(`.${axis._id}tick text`), isAcross = key[0] === "x";
      if (isAcross && axis.type === "linear" && !axis.ticktext && texts.length < 2) {
        found.push(`${name}: ${key} has ${texts.length} numbers`);
      }
      const ends = texts.map((text) => isAcross ? [box(text).left, box(text).right]
        : [box(text).top, box(text).bottom]).sort((one, two) => one[0] - two[0]);
      if (ends.slice(1).some(([start], at) => start < ends[at][1] - (isAcross ? 0 : 3))) {
        found.push(`${name}: texts of ${key} touch: ${texts.map((text) => text.textContent)}`);
      }
    }
    const legend = plot.querySelector(".legend");
    const above = list("[class$=xtitle], [class^=x][class$=tick] text")
      .map((text) => box(text).bottom);
    if (legend && full.legend.y < 0 && box(legend).top < Math.max(...above) + 4) {
      found.push(`${name}: the legend touches the axis`);
    }
    const titles = list(".annotation-text").map((text) => ({ text, at: box(text) }));
    for (const { text, at } of titles) {
      const lines = [...text.querySelectorAll("tspan.line")];
      if (lines.length < 2) continue;
      const needed = lines.reduce((sum, line) => sum + line.getComputedTextLength(), 0);
      const middle = (at.left + at.right) / 2;
      const near = (one) => one.text !== text && Math.abs(one.at.bottom - at.bottom) < 20;
      const gaps = titles.filter(near).map((one) =>
        Math.abs((one.at.left + one.at.right) / 2 - middle) - 20);
      const edge = 2 * Math.min(middle - box(plot).left, box(plot).right - middle);
      if (needed < Math.min(...gaps, edge) - 10) {
        found.push(`${name}: '${text.textContent}' is broken`);
      }
    }
  }
  return found.join("\\n");
}"""


def simulate(groups=8, n=12, seed=4, **columns):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"clinic": np.repeat([f"clinic no. {at:04d}" for at in range(groups)], n)})
    for name, size in ({"dose": 1.0} | columns).items():
        table[name] = size * rng.normal(size=groups * n)
    table["score"] = 50 + 3 * table["dose"] + np.repeat(4 * rng.normal(size=groups), n)
    table["score"] += 5 * rng.normal(size=groups * n)
    return table


def fit_singular():
    table = load_dataset("dyestuff2")
    return reconcile_model(Model("Yield ~ 1 + (1 | Batch)", table))


def fit_long_names():
    """Twelve effects with long names, of sizes apart, and groups with long labels."""
    names = {f"socioeconomic_column_{at}": 10.0 ** (at % 5 - 2) for at in range(11)}
    table = simulate(60, 15, **names)
    return reconcile_model(
        Model(f"score ~ dose + {' + '.join(names)} + (dose | clinic)", table), draws=600
    )


def fit_few_groups():
    return reconcile_model(Model("score ~ dose + (1 | clinic)", simulate(4)), draws=50)


def fit_many_groups():
    rng = np.random.default_rng(7)
    groups, n = 5000, 5
    labels = [f"school {at:05d}" for at in range(groups)]
    table = pd.DataFrame({"g": np.repeat(labels, n), "x": rng.normal(size=groups * n)})
    table["y"] = np.repeat(rng.normal(size=groups), n) + table["x"] + rng.normal(size=groups * n)
    return reconcile_model(Model("y ~ x + (x | g)", table), draws=500)


def fit_crossed():
    return reconcile_model(
        Model("diameter ~ 1 + (1 | plate) + (1 | sample)", load_dataset("penicillin"))
    )


def fit_levels():
    entry = find_model("pastes")
    return reconcile_model(Model(entry.formula, load_data(entry)))


def fit_family():
    table = load_dataset("cbpp").assign(x=np.arange(56) % 5 / 2.0)
    formula = "incidence / size ~ x + C(period) + (1 | herd)"
    model = Model(formula, table, family="binomial")
    return reconcile(model.ml(), model.sample(seed=1, draws=1000, chains=2))


def fit_studies():
    table = load_dataset("expectancy")
    return reconcile_model(
        Model("effect ~ 1 + (1 | study)", table, known_variance="variance"), draws=600
    )


def reconcile_model(model, draws=1000):
    return reconcile(model.reml(), model.sample(seed=1, draws=draws, tune=400))


# What the page of each kind of fit is looked at for.
KINDS = [
    *(fit_singular, fit_long_names, fit_few_groups, fit_many_groups, fit_levels, fit_crossed),
    *(fit_family, fit_studies),
]
CUT = """() => [...document.querySelectorAll("[data-table]")].filter((place) =>
  place.clientWidth && place.scrollWidth > place.clientWidth + 1).map((place) =>
  `${place.dataset.table}: ${place.scrollWidth} in ${place.clientWidth}`)"""


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__.removeprefix("fit_"))
def page_of_a_kind(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("kind") / "page.html"
    request.param().dashboard(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_pages_of_every_kind_are_whole(visit, page_of_a_kind, width):
    """No table is cut, no text of a figure is, and what matters stands on the first screen."""
    page = visit(page_of_a_kind, width=width)
    lead = page.locator("[data-figure]").first
    lead.locator(".main-svg").first.wait_for(state="attached")
    lights = page.locator(".light").evaluate_all(
        "all => all.map(one => Math.round(one.getBoundingClientRect().top))"
    )
    assert len(lights) >= 4
    assert lead.bounding_box()["y"] < FOLD
    if width > 390:
        assert len(set(lights)) == 1
    walk(page)
    assert page.evaluate(CUT) == []
    needed, given = page.evaluate(
        "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    )
    assert needed <= given
    assert page.evaluate(FIND_CLIPPED, [SLACK, COVERED]) == NOTHING
    assert page.evaluate(FIND_CROWDED, width > 390) == NOTHING
    assert page.evaluate(FIND_ALONE) == NOTHING
    page.evaluate("document.getElementById('reproduction').remove()")
    assert re.findall(PYTHON, page.locator("main").inner_text()) == []


@pytest.mark.slow
def test_headings_stand_over_their_numbers_and_options_stay_whole(visit, hsb_page):
    """The sign of sorting takes no room, and a line to type breaks in front of an option only."""
    page = visit(hsb_page, width=1440)
    walk(page)
    apart = page.evaluate(
        """() => [...document.querySelectorAll("[data-table] thead th.number button")].map(
          (button) => {
            const cell = button.closest("th");
            const inner = cell.getBoundingClientRect().right
              - parseFloat(getComputedStyle(cell).paddingRight);
            return cell.offsetWidth ? Math.abs(inner - button.getBoundingClientRect().right) : 0;
          })"""
    )
    assert max(apart) < 1.0
    lines = page.evaluate(
        "[...document.querySelectorAll('.option')].map((one) => one.getClientRects().length)"
    )
    assert set(lines) == {1}


@pytest.mark.slow
def test_names_stay_on_one_line_where_they_have_room(visit, hsb_page):
    page = visit(hsb_page, width=1024)
    walk(page)
    lines = page.evaluate(
        """() => [...document.querySelectorAll("[data-table] table.firm")].flatMap((table) =>
          [...table.querySelectorAll("td:first-child bdi")].map((name) =>
            new Set([...name.getClientRects()].map((box) => Math.round(box.top))).size))"""
    )
    assert len(lines) > 40
    assert set(lines) == {1}
    verdict = page.locator("[data-table='verdict-estimates'] table")
    assert "firm" in verdict.get_attribute("class")


@pytest.mark.slow
def test_columns_without_room_are_a_button_away(visit, hsb_page):
    page = visit(hsb_page, width=390)
    table = page.locator("[data-table='groups-groups']")
    table.scroll_into_view_if_needed()
    heads = table.locator("th:visible")
    button = page.locator("[data-more='groups-groups']")
    button.wait_for()
    few = heads.count()
    button.click()
    assert heads.count() > few
    assert heads.count() == table.locator("th").count()
    button.click()
    assert heads.count() == few
    for pixels in (700, 860, 1024):  # both ends of an interval, or none
        some = visit(hsb_page, width=pixels)
        table = some.locator("[data-table='groups-groups']")
        table.scroll_into_view_if_needed()
        some.wait_for_timeout(300)
        names = table.locator("th:visible").evaluate_all("all => all.map(one => one.dataset.name)")
        assert ("u 2.5 %" in names) == ("u 97.5 %" in names)
    wide = visit(hsb_page, width=1440)
    wide.locator("[data-table='groups-groups']").scroll_into_view_if_needed()
    wide.wait_for_timeout(300)
    assert not wide.locator("[data-more='groups-groups']").is_visible()
