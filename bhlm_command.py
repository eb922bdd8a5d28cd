"""Where the command `bhlm` begins: outside the package, whose own import Ctrl-C may interrupt."""

import gc
import os
import signal
import sys
from importlib.util import LazyLoader, find_spec, module_from_spec

# New objects after which garbage is looked for. What packages make while they are loaded stays, and
# to go over it took a quarter of a second of a reconciliation; what goes on for long asks for less
# (`bhlm.commands.shared.watch_garbage`).
OBJECTS = 1_000_000


def run() -> None:
    """Run the command line and exit; Ctrl-C ends it by one line from here on."""
    gc.set_threshold(OBJECTS)
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_heard:
            # Nothing is begun yet that would have to be ended, and an exception could be lost.
            signal.signal(signal.SIGINT, _leave)
        postpone("numpy.f2py")
        from bhlm.commands.entry import run as run_commands

        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_commands()
    except KeyboardInterrupt:  # between two handlers
        _leave()


def postpone(name: str) -> None:
    """Let a package's module be loaded where something of it is asked for.

    SciPy goes over all that NumPy has, its compiler of Fortran among it, which nobody here asks for
    and which takes a twelfth of a second to load.
    """
    found = None if name in sys.modules else find_spec(name)
    if found is None or found.loader is None:
        return
    found.loader = LazyLoader(found.loader)
    module = sys.modules[name] = module_from_spec(found)
    package, _, own = name.rpartition(".")
    setattr(sys.modules[package], own, module)
    found.loader.exec_module(module)


def _leave(*_: object) -> None:
    # As bhlm.commands.interrupts says and does it, which cannot be asked before it is imported.
    os.write(2, b"bhlm: interrupted; what was not written yet is lost\n")
    os._exit(130)
