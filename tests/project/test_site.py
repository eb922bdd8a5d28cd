"""The documentation: every public name has a page, links point somewhere, no page lies."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bhlm
import bhlm.plots

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
try:
    import check_links
    import write_api
    import write_validation
finally:
    sys.path.remove(str(DOCS))

README_LINES = 150
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> dict[str, str]:
    """The text of each page of the API, by the page's name."""
    paths = write_api.write_pages(tmp_path_factory.mktemp("api"))
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


def test_every_public_name_has_a_page(api):
    names = {*bhlm.__all__, *(f"plots.{name}" for name in bhlm.plots.__all__)} - {"plots"}
    assert {"LevelsFit", "FamilyFit"} < set(api)  # what calls return has a page too
    assert names - set(api) == set()
    for name in names:
        assert f"[`{name}`]({name}.md)" in api["index"]
        assert f" bhlm.{name}" in api[name]


def test_a_class_shows_its_public_methods_with_defaults(api):
    for name in ("RemlFit", "BayesFit", "Reconciliation", "Moments", "LevelsFit"):
        cls = next(entry.value for entry in write_api.list_entries() if entry.name == name)
        methods = [name for name, member in write_api.list_members(cls)
                   if not isinstance(member, property)]  # fmt: skip
        assert len(methods) > 3
        for method in methods:
            assert f"{{py:method}} {method}(" in api[name], method
    assert "level: float=0.95" in api["RemlFit"]
    assert "formula: str, data: Any, *," in api["Model"]


def test_what_docstrings_hold_stays_what_it_is():
    def documented():
        """Return x * z of (x | g), by `(x | g)` and `Moments`.

            bhlm.Model("y ~ x")

        Args:
            x: a *thing*, of
                two lines.

        Raises:
            DataError: no x.
        """

    lines = write_api.convert_docstring(documented)
    assert (
        lines[0] == r"Return x \* z of (x \| g), by `(x | g)` and "
        "{py:obj}`Moments <bhlm.Moments>`."
    )
    assert lines[2:5] == ["```python", 'bhlm.Model("y ~ x")', "```"]
    assert r":param x: a \*thing\*, of two lines." in lines
    assert ":raises DataError: no x." in lines


def test_the_validation_page_says_what_the_references_say():
    committed = write_validation.PAGE.read_text(encoding="utf-8")
    assert committed == write_validation.write_page()


def test_links_within_the_repository_point_somewhere(api):
    links = check_links.list_links()
    assert len(links) > 50
    assert check_links.find_broken(links, api=set(api)) == []


def test_a_broken_link_is_named(api):
    page = DOCS / "index.md"
    targets = ["nowhere.md", "speed.md#no-such", "api/Modell.md", "speed.md#speed"]
    links = [check_links.Link(page, k, target) for k, target in enumerate(targets)]
    assert check_links.find_broken(links, api=set(api)) == [
        "docs/index.md:0: there is no nowhere.md",
        "docs/index.md:1: speed.md has no heading #no-such",
        "docs/index.md:2: no page of the API is called Modell",
    ]


def test_the_recipe_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    run = re.search(r"  run:\n((?:    - .*\n)+)", recipe)[1].replace("    - ", "")
    wanted = [re.sub(r"\[.*?\]", "", each) for each in project["dependencies"]]
    found = run.replace(" ", "").replace("matplotlib-base", "matplotlib").splitlines()
    assert found == [f"python{project['requires-python']}", *wanted]
    assert f'version: "{project["version"]}"' in recipe
    ((name, home),) = project["scripts"].items()
    assert f"    - {name} = {home}\n" in recipe


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", ["speed.md", "scale.md"])
def test_speed_and_scale_quote_what_a_committed_command_printed(page):
    results = {
        re.sub(r"\s+", " ", line).strip()
        for path in (ROOT / "comparisons" / "results").glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            assert re.sub(r"\s+", " ", line).strip() in results, line


def test_what_other_programs_users_are_told_exists():
    text = (DOCS / "coming_from.md").read_text(encoding="utf-8")
    classes = [entry.value for entry in write_api.list_entries() if entry.is_class]
    known = {name for cls in classes for name in dir(cls)}
    known |= {name for cls in classes for name, *_ in write_api.read_fields(cls)}
    found = set()
    for row in re.findall(r"^\| `?.*\|$", text, re.MULTILINE):
        cell = re.split(r"(?<!\\)\|", row)[2]
        for owner, name in re.findall(r"\b(bhlm|bhlm\.plots|fit|post|model)\.(\w+)", cell):
            found.add(name)
            if owner == "bhlm":
                assert name in bhlm.__all__, name
            elif owner == "bhlm.plots":
                assert name in bhlm.plots.__all__, name
            else:
                assert name in known, name
    assert len(found) > 30


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, its notebooks not run."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-D",
               "nb_execution_mode=off", "-D", "suppress_warnings=myst-nb.lexer",
               str(DOCS), str(place)]  # fmt: skip
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return place


@pytest.mark.slow
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium; apt-get install chromium")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "light"), (1440, "dark")])
def test_axe_finds_nothing_on_the_site_and_no_page_is_too_wide(site, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'bhlm[dev]'")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    faults = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        for name in ("index", "howto/own_data", "coming_from", "validation", "tutorial/slopes",
                     "api/index", "api/RemlFit"):  # fmt: skip
            shown.goto((site / f"{name}.html").as_uri())
            found = axe.run(shown).response["violations"]
            faults += [f"{name}: {each['id']}, {each['nodes'][0]['target']}" for each in found]
            if shown.evaluate("document.documentElement.scrollWidth > innerWidth"):
                faults.append(f"{name}: wider than the window")
        browser.close()
    assert faults == []


@pytest.mark.slow
def test_the_site_builds_and_asks_nothing_of_any_network(site):
    for name in bhlm.__all__:
        if name != "plots":
            assert (site / "api" / f"{name}.html").exists()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]*\srel=\"stylesheet\"[^>]*href=\"([^\"]+)\"", text)
        assert not [address for address in loaded if "://" in address], page.name
