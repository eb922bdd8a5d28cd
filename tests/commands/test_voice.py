"""Nothing is silent for long: lines on a pipe, one line in a terminal, none with --quiet."""

import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from bhlm.progress import VOICE, Voice, show_progress

LONGEST = 3.0  # seconds of silence
COMMAND = [sys.executable, "-c", "from bhlm.commands.entry import run; run()"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_long_silence_is_broken_and_lines_stay_whole(monkeypatch, stream):
    out, err = io.StringIO(), stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    voice = Voice()
    with voice.speak(patience=0.02):
        voice.say("fitting")
        time.sleep(0.15)
        print("a result")
        voice.say("sampling")
        time.sleep(0.1)
    assert sys.stdout is out
    assert out.getvalue() == "a result\n"
    said = err.getvalue()
    assert "bhlm: fitting, 0 s" in said
    assert "bhlm: sampling, 0 s" in said
    if err.isatty():
        assert said.endswith("\r\x1b[K")
        assert "\n" not in said
    else:
        lines = said.splitlines()
        assert said.endswith("\n")
        assert lines[0].startswith("bhlm: fitting, 0 s ..")
        assert [line[:11] for line in lines] == ["bhlm: fitti", "bhlm: sampl"]


def test_quiet_says_nothing_and_counts_are_told_elsewhere(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(VOICE, "quiet", True)
    with VOICE.speak(patience=0.02), show_progress("bootstrap") as bar:
        bar(3, 10)
        time.sleep(0.1)
    assert err.getvalue() == ""
    monkeypatch.setattr(VOICE, "quiet", False)
    with VOICE.speak(patience=0.02), show_progress("bootstrap") as bar:
        bar(3, 10)
        time.sleep(0.1)
    assert "bhlm: bootstrap: 3 of 10" in err.getvalue()


def watch(command, *, terminal):
    """Return the status, what was written, the longest silence in seconds, and what was before."""
    if terminal:
        master, slave = pty.openpty()
        running = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
    else:
        master, slave = os.pipe()
        running = subprocess.Popen(command, stdout=slave, stderr=slave)
        os.close(slave)
    written, before, last, longest = b"", b"", time.monotonic(), 0.0
    while True:
        select.select([master], [], [], 60)
        try:
            found = os.read(master, 65536)
        except OSError:  # a terminal whose other end is closed
            found = b""
        silent = time.monotonic() - last
        if silent > longest:
            longest, before = silent, written[-60:]
        last = time.monotonic()
        if not found:
            break
        written += found
    os.close(master)
    return running.wait(), written.decode(), longest, before


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize(
    "words",
    [["reconcile", "sleepstudy", "--draws", "500"], ["reml", "hsb_anova"], ["models"]],
    ids=lambda words: words[0],
)
def test_no_command_is_silent_for_long(words, terminal):
    status, written, longest, before = watch([*COMMAND, *words], terminal=terminal)
    assert status in (0, 1), written
    assert longest <= LONGEST, before
    assert "Traceback" not in written


@pytest.mark.exhaustive  # it compiles every kernel of a fit by REML: minutes
def test_compiling_is_named_and_quiet_is_quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    status, written, longest, before = watch([*COMMAND, "reml", "hsb_anova"], terminal=False)
    assert status == 0
    assert "(compiling, which only the first run does)" in written
    assert longest <= LONGEST, before
    done = subprocess.run([*COMMAND, "reml", "hsb_anova", "-q"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Mixed-effects REML regression" in done.stdout
