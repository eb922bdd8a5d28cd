"""The names by which numba links what it keeps on disk: one function, one name.

The number that numba adds to a name counts what a process compiled before, so that two processes
may give it to two closures of one name; a third that reads both from disk takes one for the other.
"""

import importlib
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import bhlm
from bhlm.bayes.priors.families import Prior

PACKAGE = Path(bhlm.__file__).parent
CALL = """
import sys
import numba, numpy as np
for i in range(int(sys.argv[1])):
    @numba.njit
    def earlier(x):
        return x + 1
    earlier(1)
from bhlm.bayes.density import evaluate_prior
from bhlm.bayes.priors.families import Prior, log_prior
prior, x = {family.__name__: family for family in Prior.families()}["HalfStudentT"](3.0, 1.0), 0.4
for each in sys.argv[2:]:
    one = each == "one"
    print(log_prior(prior.code, np.array(prior.numbers), x)[0] if one
          else evaluate_prior(prior, np.array([x]))[0])
"""


def walk(holder):
    """Yield the compiled functions of a module, of its classes, and those that they close over."""
    from numba.core.registry import CPUDispatcher

    for each in list(vars(holder).values()):
        own = getattr(each, "__module__", None) == getattr(holder, "__name__", None)
        if isinstance(each, type) and own:
            yield from walk(each)
        waiting = [getattr(each, "__func__", each)]
        while waiting:
            each = waiting.pop()
            if isinstance(each, CPUDispatcher):
                yield each.py_func
                waiting += [cell.cell_contents for cell in each.py_func.__closure__ or ()]


def test_no_two_compiled_functions_have_one_name():
    found = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        # One that compiles a callback when it is imported has nothing else.
        compiles = any(each in text for each in ("kernel\ndef ", "numba.njit", "@_compiled"))
        if compiles and "\n@callback(" not in text:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            for function in walk(importlib.import_module(".".join(parts))):
                found[function.__module__, function.__qualname__].add(id(function))
    closures = [name for _, name in found if name.startswith("choose_")]
    assert len(closures) >= len(Prior.families())
    assert [name for name, own in found.items() if len(own) > 1] == []


def test_kernels_of_several_processes_link_to_their_own(tmp_path):
    """Two processes compile the priors' kernels after other work, and a third reads them."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", CALL, *arguments],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [float(line) for line in done.stdout.split()]

    (expected,) = run("0", "many")
    for file in tmp_path.rglob("*log_prior-*"):
        file.unlink()
    run("2", "one")
    assert run("0", "one", "many") == [expected, expected]
