"""Links of README.md, CONTRIBUTING.md and docs/: whether what they point at exists.

    python docs/check_links.py               # files and headings of this repository
    python docs/check_links.py --external    # list the addresses outside of it, for a person

Pages of docs/api are made by the build; links to them are held against the names that get one.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|https?://[^\s)>\"'`]+")
FENCED = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


class Link(NamedTuple):
    """Where a link stands, and where it points."""

    page: Path
    line: int
    target: str


def list_links() -> list[Link]:
    """Return every link of the pages, none of those in code."""
    found = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]:
        if DOCS / "api" in page.parents:
            continue
        text = page.read_text(encoding="utf-8")
        for pattern in (FENCED, CODE):
            text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        for match in LINK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Link(page, line, match[1] or match[0]))
    return found


def is_external(link: Link) -> bool:
    """Whether a link leaves the repository."""
    return "://" in link.target or link.target.startswith("mailto:")


def find_broken(links: list[Link], *, api: set[str]) -> list[str]:
    """Return a line for each link to a file or heading that does not exist.

    Args:
        links: of which those within the repository are looked at.
        api: names of the pages in docs/api.
    """
    broken = []
    for link in links:
        if is_external(link):
            continue
        path, _, anchor = link.target.partition("#")
        target = (link.page.parent / path).resolve() if path else link.page
        name = f"{link.page.relative_to(ROOT)}:{link.line}"
        if target.parent == DOCS / "api":
            if target.stem not in api:
                broken.append(f"{name}: no page of the API is called {target.stem}")
        elif not target.exists():
            broken.append(f"{name}: there is no {path}")
        elif anchor and anchor not in list_anchors(target):
            broken.append(f"{name}: {path or link.page.name} has no heading #{anchor}")
    return broken


def list_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(text)
    }


def main() -> int:
    """Say which links are broken, or list the external ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--external", action="store_true", help="list what lies outside")
    options = parser.parse_args()
    links = list_links()
    if options.external:
        for link in filter(is_external, links):
            print(f"{link.page.relative_to(ROOT)}:{link.line}: {link.target}")
        return 0
    sys.path.insert(0, str(DOCS))
    from write_api import list_entries

    broken = find_broken(links, api={"index", *(entry.name for entry in list_entries())})
    print("\n".join(broken) or f"{len(links)} links, none broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
