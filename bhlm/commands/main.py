"""The command line: parse, call, print."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from bhlm import __version__

# Each family registers its commands, in the order in which --help lists them.
from bhlm.commands import dashboard, fits, gallery, moments, pool, studies  # noqa: F401
from bhlm.commands.interrupts import INTERRUPTED, INTERRUPTION, hear_interrupts
from bhlm.commands.options import app
from bhlm.errors import ArgumentError, BhlmError, StoppedError
from bhlm.layout import show_name
from bhlm.progress import VOICE
from bhlm.secrets import hide_password, hide_passwords, is_address

# The status of a program whose output nobody reads any more, as shells report SIGPIPE.
UNHEARD = 141


@app.callback(invoke_without_command=True)
def callback(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version, and end.")] = False,
) -> None:
    """Hierarchical linear models by REML and by Bayes, and the two answers reconciled."""
    if version:
        print(f"bhlm {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise ArgumentError(
            "no command given; start with: bhlm reconcile hsb_random_coefficient (see bhlm --help)"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 the verdict holds, 1 it does not, 2 bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logger = logging.getLogger("bhlm")
    level, quiet, notes = logger.level, VOICE.quiet, VOICE.notes
    VOICE.notes = True
    logger.setLevel(logging.ERROR)  # commands print the verdict themselves
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _call(given)
    except StoppedError as error:
        print(f"bhlm: {error}; nothing was written", file=sys.stderr)
        status = INTERRUPTED
    except BhlmError as error:
        status = _refuse(str(error), given)
    except TyperException as error:
        status = _refuse(_tell_usage(error), given)
    except BrokenPipeError:
        status = UNHEARD
        _drop_output()
    except OSError as error:  # of files bhlm says more; what is left is where it prints to
        status = _refuse(f"cannot write what is printed ({error.strerror}); redirect it", given)
    except (KeyboardInterrupt, typer.Abort):
        print(INTERRUPTION, file=sys.stderr)
        status = INTERRUPTED
    finally:
        logger.setLevel(level)
        VOICE.quiet, VOICE.notes = quiet, notes
    if status == 2:
        _drop_output()
    sys.exit(status or 0)


def _drop_output() -> None:
    """Forget what could not be printed, of which Python would complain when it ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_usage(error: TyperException) -> str:
    """Return one sentence about arguments that no command takes, and whose help has those it does.

    Typer's own ends with a full stop or without, as its kinds of errors were written.
    """
    context = getattr(error, "ctx", None)
    path = "bhlm" if context is None else context.command_path
    message = error.format_message().strip().rstrip(".").replace(". Did you", "; did you")
    joint = " See" if message.endswith("?") else "; see"
    return f"{message[:1].lower()}{message[1:]}{joint} {path} --help"


def _call(given: list[str]) -> int | None:
    """Return the status of a command; raise KeyboardInterrupt for whatever Ctrl-C led to."""
    with hear_interrupts() as was_pressed:
        try:
            status: int | None = app(given, prog_name="bhlm", standalone_mode=False)
        except StoppedError:
            raise
        except BaseException as error:
            if was_pressed():
                raise KeyboardInterrupt from None
            if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
                raise error.__context__ from None  # Typer makes an exit of it
            raise
        sys.stdout.flush()
        if status == INTERRUPTED or was_pressed():  # Typer makes that of Ctrl-C, or it was lost
            raise KeyboardInterrupt
        return status


def _refuse(message: str, given: Sequence[str]) -> int:
    for argument in given:
        # An argument in the wrong place is quoted by whoever refuses it.
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if is_address(value):
            message = message.replace(value, hide_password(value))
    message = hide_passwords(message)
    print(f"bhlm: {show_name(' '.join(message.split()))}", file=sys.stderr)
    return 2
