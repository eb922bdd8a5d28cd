"""Calls of the command line in this process."""

import pytest

from bhlm.commands.main import main


def run(capsys, *arguments):
    """Return exit status, standard output and standard error of one call."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def check_refusal(result, expected):
    status, out, err = result
    assert status == 2
    assert out == ""
    assert expected in err
    assert err.startswith("bhlm: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
