"""Where the command begins, before anything that takes time is loaded."""

import gc
import sys
from contextlib import ExitStack

from bhlm.commands.interrupts import INTERRUPTED, INTERRUPTION, hear_interrupts
from bhlm.progress import VOICE


def run() -> None:
    """Run the command line and exit; where it is silent for long, a line says what goes on."""
    VOICE.quiet = "--quiet" in sys.argv or "-q" in sys.argv
    with ExitStack() as stack:
        # Nothing is left to be found: searching a million objects at the end takes seconds.
        stack.callback(gc.freeze)
        with hear_interrupts() as was_pressed:
            try:
                stack.enter_context(VOICE.speak())
                from bhlm.commands.main import main
            except BaseException as error:
                if not (was_pressed() or isinstance(error, KeyboardInterrupt)):
                    raise
                print(INTERRUPTION, file=sys.stderr)
                sys.exit(INTERRUPTED)
        main()
