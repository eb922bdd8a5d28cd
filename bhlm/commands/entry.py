"""Where the command begins, before anything that takes time is loaded."""

import sys

from bhlm.commands.interrupts import INTERRUPTED, INTERRUPTION, hear_interrupts


def run() -> None:
    """Run the command line and exit."""
    with hear_interrupts() as was_pressed:
        try:
            from bhlm.commands.main import main
        except BaseException as error:
            if not (was_pressed() or isinstance(error, KeyboardInterrupt)):
                raise
            print(INTERRUPTION, file=sys.stderr)
            sys.exit(INTERRUPTED)
    main()
