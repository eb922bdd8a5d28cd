"""What `import bhlm` costs; the order of the rooms is held by `make lint` (lint-imports)."""

import subprocess
import sys

import bhlm

HEAVY = {"pymc", "pytensor", "nutpie", "arviz", "numba", "scipy", "pandas", "matplotlib", "plotly"}


def test_import_bhlm_is_light() -> None:
    code = "import sys, bhlm; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert HEAVY & {name.split(".")[0] for name in loaded.stdout.split()} == set()


def test_every_public_name_can_be_had() -> None:
    for name in bhlm.__all__:
        assert getattr(bhlm, name) is not None
    assert set(bhlm.__all__) < set(dir(bhlm))
