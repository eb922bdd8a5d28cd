"""What the pages print is what their code prints, and the script that says so can tell."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
try:
    import run_pages
finally:
    sys.path.remove(str(DOCS))

PAGES = run_pages.list_pages()
TUTORIAL = sorted((DOCS / "tutorial").glob("*.md"))
# What a fence may say: code that runs here, its output, equations, Stata, and what a person types
# to install something.
FENCES = {"", "python", "sh", "text", "stata", "console"}
INSTALLS = ("pip ", "uv ", "conda ", "make ", "python -m venv", ". ", "git ", "bhlm ")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return run_pages


def name_page(path: Path) -> str:
    return str(path.relative_to(DOCS.parent))


def check(build, text, *, same_machine=True):
    return build.find_differences(build.run_page(text), same_machine=same_machine)


def compare(build, old, new, *, same_machine=False, is_sampled=False):
    outputs = [build.Output(1, "", old, new, is_sampled)]
    return build.find_differences(outputs, same_machine=same_machine)


@pytest.mark.parametrize(
    "path", [page for page in TUTORIAL if page.stem in ("anova", "outcomes")], ids=name_page
)
def test_what_reml_prints_is_what_the_tutorial_says(build, path):
    page = path.read_text(encoding="utf-8")
    outputs = build.run_page(page, fast=True)
    assert len(outputs) > 2
    assert not any(output.is_sampled for output in outputs)
    assert build.find_differences(outputs, same_machine=build.is_made_here(page)) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=name_page)
def test_a_whole_page_prints_what_it_says(build, path):
    page = path.read_text(encoding="utf-8")
    outputs = build.run_page(page)
    code = [block for block in build.split_page(page) if block.language in build.RUN]
    assert len(outputs) == len(code)
    assert build.find_differences(outputs, same_machine=build.is_made_here(page)) == []


@pytest.mark.parametrize("path", PAGES, ids=name_page)
def test_no_output_stands_there_without_code(build, path):
    page = path.read_text(encoding="utf-8")
    blocks = build.split_page(page)
    outputs = {at for at, block in enumerate(blocks) if block.language == build.OUTPUT}
    made = {build.find_output(blocks, at) for at, block in enumerate(blocks)
            if block.language in build.RUN}  # fmt: skip
    assert outputs == made - {None}
    assert build.join_page(blocks) == page


def test_every_fence_is_run_or_cannot_be():
    for path in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        if "api" in path.relative_to(DOCS.parent).parts:
            continue
        for block in run_pages.split_page(path.read_text(encoding="utf-8")):
            if block.language is None or block.language.startswith("{"):
                continue
            assert block.language in FENCES, f"{path.name}: {block.language!r}"
            if block.language == "console":
                assert all(line.startswith(INSTALLS) for line in block.lines), block.text


def test_the_tutorial_has_the_four_models_in_three_languages(build):
    blocks = [
        block for path in TUTORIAL for block in build.split_page(path.read_text(encoding="utf-8"))
    ]
    stata = [block.text for block in blocks if block.language == "stata"]
    assert len(stata) == 4
    assert all("xtmixed mathach" in text for text in stata)
    python = "".join(block.text for block in blocks if block.language == "python")
    for formula in ("mathach ~ 1 + (1 | school)", "mathach ~ gm(ses) + (1 | school)",
                    "mathach ~ cwc(ses) + (cwc(ses) | school)",
                    "sector:cwc(ses)"):  # fmt: skip
        assert formula in python


SMALL = """# A page

```python
x = 2.5
print(f"x is {x}")
```

```text
x is 2.5
```

```python
x += 1
```

Between.

```sh
echo $((1 + 1))
```

```text
2
```
"""


class TestChecking:
    def test_a_true_page(self, build):
        assert check(build, SMALL) == []
        assert build.rewrite_page(SMALL, build.run_page(SMALL)) == SMALL

    @pytest.mark.parametrize(
        ("old", "new", "line"), [("is 2.5", "is 2.6", 4), ("\n2\n", "\n3\n", 19)]
    )
    def test_a_false_output_is_named(self, build, old, new, line):
        false = SMALL.replace(f"x {old}\n```" if "is" in old else f"text{old}```",
                              f"x {new}\n```" if "is" in old else f"text{new}```")  # fmt: skip
        assert false != SMALL
        (found,) = check(build, false)
        assert found.startswith(f"line {line}: the page has ")
        assert build.rewrite_page(false, build.run_page(false)) == SMALL

    def test_an_output_that_is_missing_is_written(self, build):
        bare = SMALL.replace("```text\nx is 2.5\n```\n\n", "")
        assert len(check(build, bare)) == 1
        assert build.rewrite_page(bare, build.run_page(bare)) == SMALL

    def test_an_output_that_is_not_printed_is_removed(self, build):
        more = SMALL.replace("x += 1\n```\n", "x += 1\n```\n\n```text\nnothing\n```\n")
        assert len(check(build, more)) == 1
        assert build.rewrite_page(more, build.run_page(more)) == SMALL

    def test_an_error_has_the_line_of_the_page(self, build):
        with pytest.raises(ZeroDivisionError) as caught:
            build.run_page(SMALL.replace("x += 1", "x / 0"))
        assert caught.traceback[-1].lineno + 1 == 13

    @pytest.mark.parametrize("command", ["false", "false | cat"])
    def test_a_command_that_fails_stops(self, build, command):
        with pytest.raises(build.subprocess.CalledProcessError):
            build.run_page(SMALL.replace("echo $((1 + 1))", command))

    def test_a_fence_that_is_open(self, build):
        with pytest.raises(ValueError, match="begins at line 2 is never closed"):
            build.split_page("```python\nx = 1\n")

    def test_fast_stops_before_a_posterior(self, build):
        text = SMALL.replace("x += 1", "post = model.sample(seed=1)")
        assert len(build.run_page(text, fast=True)) == 1


class TestComparing:
    def test_seconds_do_not_count(self, build):
        for is_sampled in (True, False):
            assert not compare(
                build, "seed 1, 2.0 s (numba)\n", "seed 1, 11.7 s (numba)\n",
                same_machine=True, is_sampled=is_sampled,
            )  # fmt: skip
        assert compare(build, "a 2.0 km\n", "a 2.1 km\n", same_machine=True)

    @pytest.mark.parametrize("is_sampled", [True, False])
    def test_here_every_digit_counts(self, build, is_sampled):
        assert compare(build, "2.193196\n", "2.193197\n", same_machine=True, is_sampled=is_sampled)
        assert compare(build, "a\nb\n", "a\n", same_machine=True, is_sampled=is_sampled)

    def test_elsewhere_reml_may_round_otherwise(self, build):
        assert not compare(build, "ses | 2.193196 .1282\n", "ses |  2.193197 .1283\n")
        assert compare(build, "ses | 2.193196\n", "ses | 2.193201\n")
        assert compare(build, "1.5e-10\n", "1.8e-10\n")
        assert compare(build, "ses | 2.193196\n", "sex | 2.193196\n")
        assert compare(build, "p 0.0047\n", "p -0.0047\n")

    def test_elsewhere_draws_are_others(self, build):
        page = "mean 12.630 5137\nConvergence: ok\nb -0.02\nc 1\nd 2\n"
        assert not compare(build, page, page.replace("12.630 5137", "12.640 4893"), is_sampled=True)
        assert not compare(build, page, page.replace("mean", "median"), is_sampled=True)
        other = page.replace("d ", "e ").replace("c ", "f ").replace("mean", "median")
        assert compare(build, page, other, is_sampled=True)
        # The verdict stays, whatever the draws.
        assert compare(build, page, page.replace("ok", "fails"), is_sampled=True)

    def test_the_machine_is_recorded(self, build):
        text = "<!-- outputs made with a computer -->\n"
        assert not build.is_made_here(text)
        assert build.is_made_here(build.rewrite_page(text, []))
