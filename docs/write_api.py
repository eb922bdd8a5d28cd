"""The pages of the API reference: one per public name, from signatures and docstrings.

    python docs/write_api.py FOLDER     # the build calls `write_pages` by itself

A docstring of the house is Markdown with two sections, "Args:" and "Raises:"; autodoc reads
reStructuredText, to which `(x | g)` and `x * z` are mark-up. So the source is read here, as it is
written: defaults and annotations too, and the comments beside the fields of dataclasses.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import bhlm
import bhlm.errors
import bhlm.fits
import bhlm.plots
from bhlm.fits.origin import Fitted

# What stands under which heading; tests/project/test_site.py holds that no public name is left out.
GROUPS = {
    "State a model": (
        "Model SamplingWeights FrequencyWeights PrecisionWeights center_within center_grand "
        "group_mean"
    ),
    "What calls return": "RemlFit BayesFit Reconciliation PooledFit ModelTable Moments CellMoments",
    "Both answers": "reconcile integrate_posterior diagnose_data",
    "Priors": (
        "Priors Normal StudentT Cauchy HalfNormal HalfStudentT HalfCauchy Exponential Gamma "
        "LogNormal LKJ Flat tabulate_priors draw_prior_predictive"
    ),
    "Compare and report": (
        "table compare_fits compare_nested compare_posteriors variance_explained"
    ),
    "Imputations and plausible values": "fit_imputations pool ReplicateWeights",
    "Tables, data and files": "open_table load_hsb load_dataset find_model list_models load",
    "Moments": (
        "reduce_part reduce_like merge_moments merge_files save_moments load_moments "
        "suppress_small_groups"
    ),
    "Studies": "calibrate Calibration",
}
# Classes that are called by hand, so that their page shows the call.
CALLED = {
    "Model", "Priors", "LKJ", "Normal", "StudentT", "Cauchy", "HalfNormal", "HalfStudentT",
    "HalfCauchy", "Exponential", "Gamma", "LogNormal", "Flat", "SamplingWeights",
    "FrequencyWeights", "PrecisionWeights", "ReplicateWeights",
}  # fmt: skip
SECTIONS = ("Args:", "Raises:", "Returns:")
MARKUP = re.compile(r"([\\*_<>\[\]#|{}$~])")
CODE = re.compile(r"(``.*?``|`[^`]*`)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A page: a public name and what it stands for."""

    name: str  # as it is written: "Model", "plots.plot_forest"
    value: Any
    group: str

    @property
    def is_class(self) -> bool:
        """Whether the page is a class's."""
        return inspect.isclass(self.value)


def list_entries() -> list[Entry]:
    """Return every page, in the order of the index."""
    entries = []
    for group, names in GROUPS.items():
        entries += [Entry(name, getattr(bhlm, name), group) for name in names.split()]
        if group == "What calls return":
            entries += [Entry(cls.__name__, cls, group) for cls in list_fits()]
    entries += [
        Entry(f"plots.{name}", getattr(bhlm.plots, name), "Figures") for name in bhlm.plots.__all__
    ]
    kinds = [
        value
        for value in vars(bhlm.errors).values()
        if inspect.isclass(value)
        and issubclass(value, bhlm.BhlmError)
        and not value.__name__.startswith("_")
    ]
    entries += [Entry(kind.__name__, kind, "Errors") for kind in kinds]
    return entries


@cache
def list_fits() -> tuple[type, ...]:
    """Return the classes of fits that calls return beside the public ones: nobody makes them."""
    found = {}
    for module in pkgutil.iter_modules(bhlm.fits.__path__):
        for value in vars(importlib.import_module(f"bhlm.fits.{module.name}")).values():
            if inspect.isclass(value) and issubclass(value, Fitted) and not value.__subclasses__():
                found[value.__name__] = value
    return tuple(found[name] for name in sorted(set(found) - set(bhlm.__all__)))


def write_pages(folder: Path) -> list[Path]:
    """Write the index and a page for each entry; return their paths, unchanged ones untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = list_entries()
    pages = {folder / f"{entry.name}.md": write_entry(entry) for entry in entries}
    pages[folder / "index.md"] = write_index(entries)
    for path in set(folder.glob("*.md")) - set(pages):
        path.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return list(pages)


def write_index(entries: list[Entry]) -> str:
    """Return the page that lists all others, by group, with the first sentence of each."""
    lines = ["# API reference", ""]
    lines += [
        "Every public name, from its docstring. Names are those of `bhlm`, unless a module",
        "",
    ]
    lines[-2] += " is written before them."
    for group in dict.fromkeys(entry.group for entry in entries):
        lines += [f"## {group}", "", "| name | what it is |", "|---|---|"]
        for entry in entries:
            if entry.group == group:
                first = escape(read_summary(entry.value)).replace("\n", " ")
                lines.append(f"| [`{entry.name}`]({entry.name}.md) | {first} |")
        lines.append("")
    lines += ["```{toctree}", ":hidden:", ":maxdepth: 1", ""]
    lines += [entry.name for entry in entries]
    return "\n".join([*lines, "```", ""])


def write_entry(entry: Entry) -> str:
    """Return the page of one name."""
    lines = [f"# {entry.name}", ""]
    lines += document_class(entry) if entry.is_class else document_function(entry)
    return "\n".join(lines).rstrip() + "\n"


def document_function(entry: Entry) -> list[str]:
    """Return the lines about a function."""
    return wrap_directive("py:function", f"bhlm.{entry.name}{read_signature(entry.value)}",
                          convert_docstring(entry.value), 3)  # fmt: skip


def document_class(entry: Entry) -> list[str]:
    """Return the lines about a class, its attributes and its methods, inherited ones too."""
    cls = entry.value
    call = read_constructor(cls) if entry.name in CALLED else ""
    kind = "py:exception" if issubclass(cls, Exception) else "py:class"
    body = convert_docstring(cls)
    if not issubclass(cls, Exception):
        for name, member in list_members(cls):
            body += [""]
            if isinstance(member, property):
                of = find_definition(member.fget).returns
                option = [f":type: {unquote(of)}", ""] if of is not None else []
                body += wrap_directive("py:property", name, option + convert_docstring(member), 3)
            else:
                inner = convert_docstring(member)
                static = [":classmethod:", ""] if is_classmethod(cls, name) else []
                body += wrap_directive("py:method", f"{name}{read_signature(member)}",
                                       static + inner, 3)  # fmt: skip
    fields = [] if entry.name in CALLED and "Args:" in (cls.__doc__ or "") else read_fields(cls)
    if fields:
        body += ["", "It holds:", "", "| field | type | what it is |", "|---|---|---|"]
        body += [f"| `{name}` | {show_type(of)} | {escape(told)} |" for name, of, told in fields]
        body.append("")
    return wrap_directive(kind, f"bhlm.{entry.name}{call}", body, 4)


def wrap_directive(kind: str, argument: str, body: list[str], colons: int) -> list[str]:
    """Return a directive's lines."""
    fence = ":" * colons
    return [f"{fence}{{{kind}}} {argument}", *body, fence]


def list_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield public methods and properties, each class's in the order of its source."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("bhlm"):
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            value = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if isinstance(value, property) or inspect.isfunction(inspect.unwrap(value)):
                yield name, value


def is_classmethod(cls: type, name: str) -> bool:
    """Whether a method belongs to the class."""
    return isinstance(inspect.getattr_static(cls, name), classmethod)


def read_fields(cls: type) -> list[tuple[str, str, str]]:
    """Return name, annotation and comment of the fields of a dataclass, those of bases first."""
    found: dict[str, tuple[str, str, str]] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("bhlm"):
            continue
        lines = read_module(base.__module__)[0]
        for node in find_definition(base).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
                is_constant = "ClassVar" in ast.unparse(node.annotation)
                if not name.startswith("_") and not is_constant:
                    told = lines[node.end_lineno - 1].partition("  # ")[2]
                    found[name] = name, unquote(node.annotation), told
    return list(found.values())


def read_constructor(cls: type) -> str:
    """Return the call of a class as its source has it: __init__'s, or a dataclass's fields."""
    names = [getattr(node, "name", "") for node in find_definition(cls).body]
    if "__init__" in names:
        return read_signature(cls.__init__, returns=False)
    parts = []
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("bhlm"):
            for node in find_definition(base).body:
                if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(
                    node.annotation
                ):
                    default = f" = {ast.unparse(node.value)}" if node.value else ""
                    parts.append(f"{ast.unparse(node.target)}: {unquote(node.annotation)}{default}")
    return f"({', '.join(parts)})"


def read_signature(function: Callable[..., Any], *, returns: bool = True) -> str:
    """Return arguments, defaults and result as the source has them, without self."""
    node = find_definition(function)
    arguments = deepcopy(node.args)
    for part in (arguments.posonlyargs, arguments.args):
        if part and part[0].arg in ("self", "cls"):
            del part[0]
            break
    for each in ast.walk(arguments):
        if isinstance(each, ast.arg) and each.annotation is not None:
            each.annotation = ast.parse(unquote(each.annotation), mode="eval").body
    result = f" -> {unquote(node.returns)}" if returns and node.returns is not None else ""
    return f"({ast.unparse(arguments)}){result}"


def find_definition(value: Any) -> Any:
    """Return the definition of a function or class in its module's source."""
    value = inspect.unwrap(value)
    node: Any = read_module(value.__module__)[1]
    for name in value.__qualname__.split("."):
        node = next(each for each in reversed(node.body) if getattr(each, "name", "") == name)
    return node


@cache
def read_module(name: str) -> tuple[list[str], ast.Module]:
    """Return the lines of a module's source, and its tree."""
    source = inspect.getsource(sys.modules[name])
    return source.splitlines(), ast.parse(source)


def unquote(annotation: ast.expr) -> str:
    """Return an annotation as text, forward references without their quotes."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    text = ast.unparse(annotation)
    return text if "Literal" in text else re.sub(r"'([^']*)'", r"\1", text)


def show_type(text: str) -> str:
    """Return a type in a cell of a table."""
    return "`" + text.replace("|", "\\|") + "`"


def read_summary(value: Any) -> str:
    """Return the first paragraph of a docstring, which is one sentence."""
    return (inspect.getdoc(value) or "").split("\n\n")[0]


def convert_docstring(value: Any) -> list[str]:
    """Return a docstring as Markdown, its sections as field lists."""
    text = inspect.getdoc(value) or ""
    blocks: list[str] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if line in SECTIONS:
            end = next(
                (k for k in range(at + 1, len(lines)) if lines[k] and not lines[k][0].isspace()),
                len(lines),
            )
            section = textwrap.dedent("\n".join(lines[at + 1 : end])).strip("\n")
            blocks += ["", *convert_section(line, section), ""]
            at = end
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next(
                (k for k in range(at, len(lines)) if lines[k] and not lines[k].startswith("    ")),
                len(lines),
            )
            code = textwrap.dedent("\n".join(lines[at:end])).strip("\n")
            blocks += ["```python" if "bhlm." in code else "```text", *code.splitlines(), "```", ""]
            at = end
        else:
            blocks.append(line)
            at += 1
    # Prose is escaped as a whole, for a code span may run over the end of a line.
    return escape_prose(blocks)


def convert_section(heading: str, text: str) -> list[str]:
    """Return "Args:" or "Raises:" as fields; words after no name stay words."""
    role = {"Args:": "param", "Raises:": "raises", "Returns:": "returns"}[heading]
    fields = []
    for entry in re.split(r"\n(?=\S)", text):
        name, colon, told = entry.partition(": ")
        if colon and re.fullmatch(r"\*{0,2}[\w, *]+", name):
            told = " ".join(told.split())
            name = name.replace("*", "")
            fields.append(f":{role} {name}: {told}")
        else:
            fields.append(f":{role}: {' '.join(entry.split())}")
    return fields


def escape_prose(lines: list[str]) -> list[str]:
    """Return lines with what Markdown would read as mark-up escaped, code and directives aside."""
    result: list[str] = []
    prose: list[str] = []
    is_code = False

    def flush() -> None:
        result.extend(escape("\n".join(prose)).split("\n") if prose else [])
        prose.clear()

    for line in lines:
        if line.startswith("```"):
            flush()
            is_code = not is_code
            result.append(line)
        elif is_code:
            result.append(line)
        else:
            prose.append(line)
    flush()
    return result


def escape(text: str) -> str:
    """Return prose as Markdown that shows it as it is, with links at code that names a page."""
    parts = CODE.split(text)
    for k, part in enumerate(parts):
        parts[k] = link(part) if k % 2 else MARKUP.sub(r"\\\1", part)
    return "".join(parts)


def link(code: str) -> str:
    """Return a code span, as a reference where it names a page."""
    name = code.strip("`").removesuffix("()")
    short = name.removeprefix("bhlm.")
    names = {*bhlm.__all__, *(cls.__name__ for cls in list_fits())}
    is_named = short in names and (name != short or "_" in short or short[:1].isupper())
    is_figure = short.startswith("plots.") and short[6:] in bhlm.plots.__all__
    if is_named or is_figure:
        return f"{{py:obj}}`{code.strip('`')} <bhlm.{short}>`"
    return code


def main() -> int:
    """Write the pages into the folder that is named."""
    print(f"{len(write_pages(Path(sys.argv[1])))} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
