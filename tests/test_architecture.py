"""The order of the modules: imports go leftwards only, and engines stay in their rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bhlm"

# From left to right along the pipeline. A module may import the modules of earlier lines;
# modules of one line do not import each other. A folder (inference, checks, dashboard) is one
# entry, and its files may import each other. A new module needs its entry here.
LAYERS: list[set[str]] = [
    {"errors"},
    {"files", "databases"},
    {"parquet"},
    {"datasets", "sources", "centering", "expressions", "parameters", "progress", "processes"},
    {"tables"},
    {"syntax"},
    {"reader"},
    {"formula"},
    {"contrasts", "transforms"},
    {"rows"},
    {"levels"},
    {"design"},
    {"inmemory"},
    {"streaming"},
    {"moments"},
    {"disclosure", "moments_check"},
    {"moments_file"},
    {"covariance"},
    {"whitening", "panels"},
    {"panel_sums"},
    {"within_groups", "likelihood"},
    {"marginal"},
    {"effects", "optimize"},
    {"standard_errors", "singularity"},
    {"reml"},
    {"inference"},
    {"statements", "group_effects", "influence", "comparison"},
    {"predictions", "residuals"},
    {"gallery"},
    {"published"},
    {"priors"},
    {"density", "prior_draws"},
    {"native"},
    {"pymc_model"},
    {"prior_text"},
    {"convergence"},
    {"posterior_checks", "posterior_queries"},
    {"bayes"},
    {"sampling", "effects_file"},
    {"live"},
    {"quadrature"},
    {"quantities", "posterior_hypotheses", "posterior_predictions"},
    {"prior_predictive", "prior_table"},
    {"checks", "calibration"},
    {"simulation"},
    {"storage"},
    {"model"},
    {"flat_mode"},
    {"attribution", "curves"},
    {"explain"},
    {"reconcile"},
    {"export"},
    {"plots"},
    {"dashboard"},
    {"gallery_table"},
    {"commands"},
    {"cli"},
    {"__init__"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}

# Imports inside functions may go rightwards only here: __init__ and model hand over to what
# is asked for, and a result prints itself (`fit.summary()`).
LAZY = {
    "__init__": set(RANK),
    "model": set(RANK),
    "moments": {"moments_file"},
    "bayes": {"storage"},
    "posterior_checks": {"checks", "dashboard"},
    "posterior_queries": {
        "posterior_hypotheses",
        "quantities",
        "prior_table",
        "effects_file",
        "dashboard",
        "tables",
    },
    "density": {"pymc_model"},  # priors that are PyMC distributions
    "reml": {
        "inference",
        "group_effects",
        "influence",
        "predictions",
        "residuals",
        "comparison",
        "dashboard",
    },
    "reconcile": {"export", "dashboard", "tables"},
}

# Third-party packages that only these modules may import, at any depth.
ROOMS = {
    "pymc": {"pymc_model"},
    "pytensor": {"pymc_model"},
    "nutpie": {"sampling"},
    "matplotlib": {"plots", "dashboard"},
    "plotly": {"plots", "dashboard"},
    "formulae": {"syntax"},
    "pyreadstat": {"sources"},
    "polars": set(),
    "duckdb": {"databases"},
    "ibis": {"databases"},
    "psycopg": {"databases"},
    "distributed": {"simulation"},
    "dask": set(),
    "pyspark": set(),
}
PANDAS_READERS = {"sources", "datasets"}

MAX_LINES = 400
# What `import bhlm` may cost: seconds, the best of a few tries on a busy machine.
IMPORT_SECONDS = 0.3
HEAVY = {"pymc", "pytensor", "nutpie", "arviz", "numba", "scipy", "pandas", "matplotlib", "plotly"}

FILES = sorted(PACKAGE.rglob("*.py"))


def entry_of(path: Path) -> str:
    """The entry of LAYERS that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def walk_imports(tree: ast.Module) -> Iterator[tuple[str, bool, int]]:
    """Every imported dotted name, whether the import runs inside a function, and its line."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write `from bhlm...`, not a dot"
            if node.module == "bhlm":
                for alias in node.names:
                    yield f"bhlm.{alias.name}", id(node) in inside, node.lineno
            elif node.module is not None:
                yield node.module, id(node) in inside, node.lineno


def find_violations(source: str, entry: str) -> list[str]:
    """What a file of that entry imports against the order of LAYERS or out of ROOMS."""
    found = []
    tree = ast.parse(source)
    for name, is_lazy, line in walk_imports(tree):
        root, *rest = name.split(".")
        if root == "bhlm":
            target = rest[0] if rest else "__init__"
            if target == entry or (is_lazy and target in LAZY.get(entry, set())):
                continue
            if RANK.get(target, len(LAYERS)) >= RANK.get(entry, 0):
                found.append(f"line {line}: {entry} imports {target}, which is not to its left")
        elif root in ROOMS and entry not in ROOMS[root]:
            found.append(f"line {line}: {entry} imports {root}")
    if entry not in PANDAS_READERS:
        found += [
            f"line {node.lineno}: {entry} calls pandas' {node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("read_")
            and isinstance(node.value, ast.Name)
            and node.value.id in {"pd", "pandas"}
        ]
    return found


def test_no_module_is_in_two_layers() -> None:
    assert sum(map(len, LAYERS)) == len(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestEveryFile:
    def test_has_a_layer(self, path: Path) -> None:
        assert entry_of(path) in RANK, "give the new module its place in LAYERS"

    def test_imports_leftwards_and_stays_in_its_room(self, path: Path) -> None:
        assert find_violations(path.read_text(encoding="utf-8"), entry_of(path)) == []

    def test_is_short(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("moments", "from bhlm.reml import RemlFit"),
        ("moments", "import bhlm.reml"),
        ("moments", "from bhlm import reml"),
        ("moments", "import bhlm"),
        ("moments", "def f():\n    from bhlm.reml import RemlFit"),
        ("moments", "from bhlm.nowhere import x"),
        ("datasets", "from bhlm.sources import open_table"),
        ("model", "from bhlm.reconcile import reconcile"),
        ("__init__", "from bhlm.model import Model\nimport pymc"),
        ("reml", "from bhlm.bayes import BayesFit"),
        ("reml", "def f():\n    import pymc"),
        ("sampling", "from pytensor.graph import Op"),
        ("moments", "import polars as pl"),
        ("model", "import pandas as pd\npd.read_csv('x')"),
        ("design", "from formulae.parser import Parser"),
    ],
)
def test_a_wrong_import_is_seen(entry: str, source: str) -> None:
    assert len(find_violations(source, entry)) == 1


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("reml", "from bhlm.moments import Moments\nimport pandas as pd\nimport numpy"),
        ("model", "def f():\n    from bhlm.reconcile import reconcile"),
        ("reml", "def f():\n    from bhlm.tables import render_stata"),
        ("plots", "from bhlm.plots.forest import draw\nimport matplotlib.pyplot"),
        ("pymc_model", "import pymc as pm\nfrom pytensor.graph import Op"),
        ("sources", "def f():\n    import pandas as pd\n    return pd.read_csv('x')"),
    ],
)
def test_a_right_import_is_not(entry: str, source: str) -> None:
    assert find_violations(source, entry) == []


def test_import_bhlm_is_light() -> None:
    assert (PACKAGE / "__init__.py").is_file()
    code = "import sys, bhlm; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert HEAVY & {name.split(".")[0] for name in loaded.stdout.split()} == set()


def test_import_bhlm_is_quick() -> None:
    def measure() -> float:
        command = [sys.executable, "-X", "importtime", "-c", "import bhlm"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        rows = [line.removeprefix("import time:").split("|") for line in report.splitlines()]
        (cumulative,) = [row[1] for row in rows if row[2].strip() == "bhlm"]
        return int(cumulative) / 1e6

    assert min(measure() for _ in range(3)) < IMPORT_SECONDS


def test_a_public_function_is_not_taken_by_the_module_of_its_name() -> None:
    code = "import bhlm.plots.attribution, bhlm.reconcile, bhlm; assert callable(bhlm.reconcile)"
    subprocess.run([sys.executable, "-c", code], check=True)
