"""`python -m tests.fuzz KIND FIRST COUNT` tries cases of a kind, and prints what is wrong.

Kinds are formulas, tables, settings (TOML), files (damaged), arguments, and degenerate and sampled
(degenerate) fits. Cases have numbers, so
that one can be tried alone: `python -m tests.fuzz tables 137 1`.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial

from tests.fuzz.arguments import try_arguments
from tests.fuzz.damage import try_files
from tests.fuzz.degenerate import try_degenerate
from tests.fuzz.formulas import try_formulas
from tests.fuzz.settings import try_settings
from tests.fuzz.tables import try_tables

KINDS: dict[str, Callable[[range], Iterable[str]]] = {
    "formulas": try_formulas,
    "tables": try_tables,
    "settings": try_settings,
    "files": try_files,
    "arguments": try_arguments,
    "degenerate": try_degenerate,
    "sampled": partial(try_degenerate, sampled=True),
}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    start, wrong = time.perf_counter(), 0
    for line in KINDS[kind](range(first, first + count)):
        wrong += 1
        print(line, flush=True)
    seconds = time.perf_counter() - start
    print(f"{kind} {first} to {first + count - 1}: {wrong} wrong, {seconds:.0f} s")
    sys.exit(min(wrong, 1))
