"""README.md and the pages of docs/: run their code, and write what it prints under each block.

    python docs/run_pages.py [PAGE ...]            # run the code, rewrite the outputs
    python docs/run_pages.py --check [PAGE ...]    # run it, and say where a page differs
    python docs/run_pages.py --check --loose       # the same, as on another machine

Blocks of a page fenced as ```python run in their order in one namespace, blocks fenced as ```sh
line by line, all of them in one temporary folder. What a block prints stands in the ```text block
that follows it. Other blocks are text; the notebooks among the pages are run by `make docs`. An
output that differs from the old one in seconds alone stays.

Where the page is made, its outputs are reproduced to the last digit, draws included, for seeds
are fixed. On another processor or with other versions rounding differs: REML then agrees within
units of the last digit printed, and a sampler, which amplifies rounding, gives other draws of the
same posterior. So there only the words of its outputs are compared, most of which stay, among
them both verdicts; that means and intervals are right is what the tests of the sampler hold against
quadrature.
"""

import argparse
import io
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "api"
RUN = ("python", "sh")
OUTPUT = "text"
VERSIONED = ("bhlm", "numpy", "scipy", "numba", "nutpie", "pandas")
MADE = re.compile(r"<!-- outputs made with (.*) -->")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
SECONDS = re.compile(r"\b\d+(?:\.\d+)? (?:s|seconds)\b")
VERDICT = re.compile(r"^(?:Convergence|Verdict): \w+", re.MULTILINE)
# Units of the last digit printed by which another machine's REML may differ.
UNITS = 2.0
# Share of a posterior's lines whose words may differ with other draws: "above" for "below".
OTHER_WORDS = 0.5


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block or the lines between two of them."""

    language: str | None  # None: not fenced
    lines: tuple[str, ...]  # without the fences
    start: int  # number of the first of them, from 1

    @property
    def text(self) -> str:
        """The content, each line ended."""
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True, slots=True)
class Output:
    """What a block prints now, and what the page says."""

    line: int  # where the block begins
    code: str
    committed: str
    found: str
    is_sampled: bool  # whether a posterior was drawn by then


def split_page(text: str) -> list[Block]:
    """Return the blocks of a page, in their order.

    Raises:
        ValueError: a fence that is never closed.
    """
    blocks: list[Block] = []
    lines: list[str] = []
    language: str | None = None
    start = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
            continue
        if language is not None or lines:
            blocks.append(Block(language, tuple(lines), start))
        lines, start = [], number + 1
        language = line[3:].strip() if language is None else None
    if language is not None:
        raise ValueError(f"the block that begins at line {start} is never closed")
    if lines:
        blocks.append(Block(None, tuple(lines), start))
    return blocks


def join_page(blocks: Sequence[Block]) -> str:
    """Return the page of blocks."""
    parts = []
    for block in blocks:
        fence = block.language is not None
        parts.append(f"```{block.language}\n{block.text}```\n" if fence else block.text)
    return "".join(parts)


def list_pages() -> list[Path]:
    """Return the pages that have code to run."""
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [
        page
        for page in pages
        if GENERATED not in page.parents
        and any(block.language in RUN for block in split_page(page.read_text(encoding="utf-8")))
    ]


def run_page(text: str, *, fast: bool = False, name: str = "page.md") -> list[Output]:
    """Run a page's code and return the outputs.

    Args:
        text: the page.
        fast: stop before the first block that draws a posterior.
        name: what errors call the page.
    """
    blocks = split_page(text)
    namespace: dict[str, object] = {"__name__": "__main__"}
    found: list[Output] = []
    is_sampled = False
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for at, block in enumerate(blocks):
            if block.language not in RUN:
                continue
            is_sampled = is_sampled or ".sample(" in block.text or "bhlm reconcile" in block.text
            if fast and is_sampled:
                break
            if block.language == "python":
                raw = run_python(block, namespace, name=name)
            else:
                raw = run_shell(block)
            printed = "".join(f"{line.rstrip()}\n" for line in raw.splitlines())
            after = find_output(blocks, at)
            committed = "" if after is None else blocks[after].text
            found.append(Output(block.start, block.text, committed, printed, is_sampled))
    return found


def run_python(block: Block, namespace: dict[str, object], *, name: str) -> str:
    """Return what a block prints; errors have the page's line."""
    code = compile("\n" * (block.start - 1) + block.text, name, "exec")
    stream = io.StringIO()
    with redirect_stdout(stream):
        exec(code, namespace)
    return stream.getvalue()


def run_shell(block: Block) -> str:
    """Return what the commands of a block print; every one must succeed, in pipes too."""
    folder = str(Path(sys.executable).parent)
    search = os.environ | {"PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}
    return "".join(
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=search,
        ).stdout
        for line in block.lines
    )


def find_output(blocks: Sequence[Block], at: int) -> int | None:
    """Return where the output of a block stands: next to it but for blank lines."""
    for after in range(at + 1, len(blocks)):
        block = blocks[after]
        if block.language == OUTPUT:
            return after
        if block.language is not None or block.text.strip():
            return None
    return None


def rewrite_page(text: str, outputs: Sequence[Output]) -> str:
    """Return the page with its outputs; one that differs in seconds alone stays as it was."""
    blocks = split_page(text)
    place = {block.start: at for at, block in enumerate(blocks) if block.language in RUN}
    # From the end, so that earlier places stay.
    for output in reversed(outputs):
        at = place[output.line]
        after = find_output(blocks, at)
        if after is not None and hide_seconds(output.committed) == hide_seconds(output.found):
            continue
        new = Block(OUTPUT, tuple(output.found.splitlines()), 0)
        if after is None:
            blocks[at + 1 : at + 1] = [Block(None, ("",), 0), new] if output.found else []
        elif output.found:
            blocks[after] = new
        else:
            del blocks[at + 1 : after + 1]
    page = join_page(blocks)
    return MADE.sub(f"<!-- outputs made with {describe_machine()} -->", page)


def describe_machine() -> str:
    """Return what outputs depend on to the last digit: the processor, and versions."""
    import llvmlite.binding as llvm

    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONED)
    return (
        f"{platform.system()} {platform.machine()} {llvm.get_host_cpu_name()}, Python "
        f"{platform.python_version()}, {packages}"
    )


def is_made_here(text: str) -> bool:
    """Whether the page's outputs were made on such a machine with these versions."""
    made = MADE.search(text)
    return made is not None and made[1] == describe_machine()


def find_differences(outputs: Sequence[Output], *, same_machine: bool) -> list[str]:
    """Return a line for each output that is not what the page says."""
    wrong = []
    for output in outputs:
        old, new = hide_seconds(output.committed), hide_seconds(output.found)
        if old == new:
            continue
        if same_machine:
            reason = name_first(old, new)
        elif output.is_sampled:
            reason = compare_words(old, new)
        else:
            reason = compare_numbers(old, new)
        if reason:
            wrong.append(f"line {output.line}: {reason}")
    return wrong


def hide_seconds(text: str) -> str:
    """Return a text without the seconds that something took."""
    return SECONDS.sub("# s", text)


def name_first(old: str, new: str) -> str:
    """Return the first line in which two texts differ."""
    pairs = zip(
        [*old.splitlines(), "(nothing)"], [*new.splitlines(), "(nothing)"], strict=False
    )  # fmt: skip
    here, there = next(pair for pair in pairs if pair[0] != pair[1])
    return f"the page has {here!r}, and running it gives {there!r}"


def compare_numbers(old: str, new: str) -> str:
    """Return how two texts differ in more than units of the last digit; "" if they do not."""
    if hide_numbers(old) != hide_numbers(new):
        return name_first(old, new)
    for one, other in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        if abs(float(one) - float(other)) > UNITS * last_digit(one):
            return f"the page has {one}, and running it gives {other}"
    return ""


def compare_words(old: str, new: str) -> str:
    """Return how the words of two texts differ; "" if they differ in a few lines only."""
    verdicts = [VERDICT.findall(text) for text in (old, new)]
    if verdicts[0] != verdicts[1]:
        return f"the page has {verdicts[0]}, and running it gives {verdicts[1]}"
    here, there = (hide_numbers(text).splitlines() for text in (old, new))
    # The wrapping of sentences moves with their numbers: lines are compared wherever they are.
    kept = set(there)
    missing = [line for line in here if line not in kept]
    if len(missing) <= OTHER_WORDS * len(here):
        return ""
    return f"{len(missing)} of {len(here)} lines have other words, the first {missing[0]!r}"


def hide_numbers(text: str) -> str:
    """Return the words of a text; rules and columns may be longer or shorter."""
    return re.sub(r"-{3,}", "---", re.sub(r"[ ]+", " ", NUMBER.sub("#", text)))


def last_digit(number: str) -> float:
    """Return a unit of the last digit of a number as it is printed."""
    mantissa, _, power = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(power or 0) - decimals))


def treat_page(page: Path, *, check: bool, loose: bool = False) -> list[str]:
    """Rewrite a page and return no line, or check it and return a line for each difference."""
    text = page.read_text(encoding="utf-8")
    outputs = run_page(text, name=str(page))
    if not check:
        page.write_text(rewrite_page(text, outputs), encoding="utf-8")
        return []
    return find_differences(outputs, same_machine=is_made_here(text) and not loose)


def main() -> int:
    """Rewrite the pages, or check them; processes of their own share them out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="all of them, if none is named")
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument("--loose", action="store_true", help="compare as on another machine")
    parser.add_argument("--workers", type=int, default=2, help="pages at a time, 2 by default")
    options = parser.parse_args()
    pages = [page.resolve() for page in options.pages] or list_pages()
    status = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context, max_tasks_per_child=1) as pool:
        start = time.perf_counter()
        runs = [
            pool.submit(treat_page, page, check=options.check, loose=options.loose)
            for page in pages
        ]
        for page, run in zip(pages, runs, strict=True):
            try:
                wrong = run.result()
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
            told = [f"done after {time.perf_counter() - start:.0f} s"]
            name = page.relative_to(ROOT)
            print("\n".join(f"{name}: {line}" for line in wrong or told), flush=True)
            status = status or int(bool(wrong))
    return status


if __name__ == "__main__":
    sys.exit(main())
