"""A run in progress: watched in a real terminal, stopped by Ctrl-C, what is drawn kept."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import bhlm
from bhlm.bayes.draws import Settings
from bhlm.bayes.live import (
    LEAST,
    StoppedError,
    Watcher,
    count_draws,
    judge_draws,
    measure_shortfall,
)
from bhlm.commands.main import main
from bhlm.commands.view import describe, open_view, render, sample_live
from bhlm.errors import ArgumentError

pytestmark = pytest.mark.wide

COMMAND = [sys.executable, "-c", "from bhlm.commands.main import main; main()"]
MODEL = "sleepstudy"
ENDLESS = 3_000_000  # draws that no machine has before the tests stop it
PATIENCE = 120.0  # seconds that a busy machine may take to start


@pytest.fixture(scope="module")
def model():
    from bhlm.sources.gallery import find_model, load_data

    entry = find_model(MODEL)
    return bhlm.Model(entry.formula, load_data(entry))


def run_in_terminal(*arguments, stop_at=None, presses=1):
    """Return exit status and all that a command printed in a terminal.

    Ctrl-C is typed once the pattern `stop_at` is on the screen.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="40")
        os.execv(COMMAND[0], [*COMMAND, *map(str, arguments)])
    shown, deadline = b"", time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    read = os.read(terminal, 65536)
                except OSError:  # the other end is closed
                    break
                if not read:
                    break
                shown += read
            if presses and stop_at and re.search(stop_at, strip_colours(shown)):
                os.write(terminal, b"\x03" * presses)
                presses = 0
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        _, status = os.waitpid(child, 0)
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), strip_colours(shown)


def strip_colours(shown):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_drawn(tmp_path, model):
    path, numbers = tmp_path / "fit.zarr", tmp_path / "fit.json"
    status, shown = run_in_terminal(
        "sample", MODEL, "--live", "--draws", ENDLESS, "--save", path, "--json", numbers,
        stop_at=r"furthest from their limits after \d+ draws",
    )  # fmt: skip
    assert status == 1
    assert "Ctrl-C stops the run and keeps what is drawn" in shown
    assert re.search(r"\d+ of 3000000 +0 +0\.\d+", shown)  # draws, divergences, step size
    assert "sd(Intercept|Subject)" in shown
    fit = bhlm.load(path)
    kept = fit.data["posterior"]["sigma"].shape[1]
    assert LEAST <= kept < ENDLESS
    assert fit.settings.draws == kept
    for group in ("posterior", "sample_stats"):
        for values in fit.data[group].data_vars.values():
            assert values.sizes["draw"] == kept
    assert np.isfinite(fit.data["sample_stats"]["energy"].values).all()
    assert not fit.converged
    said = f"stopped after {kept} of {ENDLESS} draws per chain"
    assert fit.diagnostics.failures[-1].startswith(said)
    assert said in shown
    assert any(
        said in failure
        for failure in json.loads(numbers.read_text())["posterior"]["diagnostics"]["failures"]
    )
    # The verdict's advice: the same seed and as many draws give these very draws.
    again = model.sample(seed=1, draws=LEAST)
    np.testing.assert_array_equal(
        fit.data["posterior"]["beta"].values[:, :LEAST], again.data["posterior"]["beta"].values
    )


@pytest.mark.slow
def test_ctrl_c_in_warm_up_is_one_clear_line(tmp_path):
    status, shown = run_in_terminal(
        "sample", MODEL, "--live", "--tune", ENDLESS, "--save", tmp_path / "fit.zarr",
        stop_at=r"warm-up \d+",
    )  # fmt: skip
    assert status == 130
    assert f"a fit needs {LEAST} of each" in shown
    assert "nothing was written" in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_without_live_writes_nothing(tmp_path):
    """A run that nobody watches ends by Ctrl-C, with no fit of chains of unequal lengths."""
    status, shown = run_in_terminal(
        "sample", MODEL, "--draws", ENDLESS, "--save", tmp_path / "fit.zarr",
        stop_at=r"chain 4 .* \d\d\d+/",  # the sampler runs
    )  # fmt: skip
    assert status == 130
    assert "Posterior of" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_reconcile_live_stopped_has_no_verdict(tmp_path):
    status, shown = run_in_terminal(
        "reconcile", MODEL, "--live", "--draws", ENDLESS, stop_at="keeps what is drawn"
    )
    assert status == 1
    assert "not_converged" in shown


@pytest.mark.slow
def test_a_pipe_gets_lines(monkeypatch, tmp_path):
    """Where there is no terminal a log has a line now and then, and SIGINT still keeps draws."""
    path = tmp_path / "fit.nc"
    process = subprocess.Popen(
        [*COMMAND, "sample", MODEL, "--live", "--draws", str(ENDLESS), "--save", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lines = []
        while not any("R-hat" in line for line in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], f"the command ended: {lines}"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "stopped after" in out
    assert "\x1b" not in "".join(lines) + out
    pattern = r"bhlm: \d+ of 3000000 draws in the slowest of 4 chains, \d+ divergences?, R-hat "
    assert re.match(pattern, lines[-1])
    assert not bhlm.load(path).converged


def test_a_run_to_its_end_gives_the_same_draws(model):
    seen = []
    live = sample_live(model, seed=3, settings=Settings(draws=200, tune=200), progress=seen.append)
    plain = model.sample(seed=3, draws=200, tune=200)
    for name in ("beta", "G", "sigma", "u"):
        ours, theirs = (fit.data["posterior"][name].values for fit in (live, plain))
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (fit.data["sample_stats"].dataset for fit in (live, plain))
    xr.testing.assert_equal(ours, theirs)
    assert {str(one.dtype) for one in ours.values()} == {"bool", "float64", "uint64"}
    assert live.diagnostics == plain.diagnostics
    assert live.settings == plain.settings
    assert len(seen[-1]) == 4


def test_several_factors_are_watched_with_the_same_draws():
    from bhlm.sources.gallery import find_model, load_data

    entry = find_model("pastes")
    pastes = bhlm.Model(entry.formula, load_data(entry))
    live = sample_live(pastes, seed=3, settings=Settings(draws=100, tune=150, chains=2))
    plain = pastes.sample(seed=3, draws=100, tune=150, chains=2)
    for name in ("beta", "sigma", "sd|batch", "u|batch:cask"):
        ours, theirs = (fit.data["posterior"][name].values for fit in (live, plain))
        np.testing.assert_array_equal(ours, theirs)
    assert type(live) is type(plain)
    assert live.diagnostics == plain.diagnostics


@pytest.mark.slow
def test_several_factors_stopped_keep_what_is_drawn(tmp_path):
    path = tmp_path / "fit.zarr"
    status, shown = run_in_terminal(
        "sample", "pastes", "--live", "--draws", ENDLESS, "--save", path,
        stop_at=r"furthest from their limits after \d+ draws",
    )  # fmt: skip
    assert status == 1
    fit = bhlm.load(path)
    kept = fit.data["posterior"]["sigma"].shape[1]
    assert LEAST <= kept < ENDLESS
    assert f"stopped after {kept} of {ENDLESS} draws per chain" in shown


def test_live_command_to_its_end(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", MODEL, "--live", "--draws", "1000", "--seed", "3"])
    assert stop.value.code == 0
    assert "Convergence: ok" in capsys.readouterr().out


def test_the_handler_of_ctrl_c_comes_back(model):
    before = signal.getsignal(signal.SIGINT)
    sample_live(model, seed=3, settings=Settings(draws=100, tune=100, chains=2))
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(ArgumentError, match="draws=0"):
        sample_live(model, seed=3, settings=Settings(draws=0))
    assert signal.getsignal(signal.SIGINT) == before


def test_outside_the_main_thread(model):
    fits = []
    settings = Settings(draws=60, tune=100, chains=2)
    worker = threading.Thread(
        target=lambda: fits.append(sample_live(model, seed=3, settings=settings))
    )
    worker.start()
    worker.join()
    assert fits[0].data["posterior"]["sigma"].shape == (2, 60)


def test_a_second_ctrl_c_interrupts(model):
    """Whoever presses again, before the first has been seen, wants out."""

    class Stuck:
        @property
        def is_finished(self):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    watcher = make_watcher()
    with pytest.raises(KeyboardInterrupt):
        watcher.watch(Stuck(), dict)


def make_watcher(width=100, **options):
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, width=width, **options)
    return Watcher(lambda watcher: open_view(watcher, console), draws=1000)


def state(finished, **others):
    return SimpleNamespace(
        finished_draws=finished, total_draws=2000, divergences=0, step_size=0.5, **others
    )


@pytest.mark.parametrize("width", [40, 60, 100])
def test_hostile_names_are_text_in_the_view(width):
    name = "[red]\x1b[2J<script>[/red]{{ x }}" + "é" * 10_000
    rng = np.random.default_rng(1)
    found = judge_draws({name: rng.normal(np.arange(4)[:, None], size=(4, 50))}, divergences=1)
    watcher = make_watcher(width)
    watcher.states, watcher.outlook = [state(1300), state(990)], found
    console = Console(width=width, force_terminal=True, color_system=None, record=True)
    with console.capture() as capture:
        console.print(render(watcher))
    shown = capture.get()
    assert "[red]" in shown  # no markup
    assert "\x1b[2J" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b" not in describe(watcher)
    assert len(describe(watcher)) < 200
    watcher.states = [state(1300)]
    assert "300 of 1000 draws in 1 chain, 1 divergence, R-hat " in describe(watcher)


def test_the_worst_come_first():
    rng = np.random.default_rng(2)
    good, shifted = rng.normal(size=(2, 4, 500))
    shifted[0] += 1.0
    frozen = np.ones((4, 500))
    found = judge_draws({"good": good, "shifted": shifted, "frozen": frozen}, divergences=0)
    assert found.names == ("frozen", "shifted", "good")
    assert np.isnan(found.rhat[0])
    assert found.draws == 500
    rhat, bulk, tail = np.array([[1.02, 1.0], [400.0, 800.0], [400.0, 200.0]])
    short = measure_shortfall(rhat, bulk, tail)
    np.testing.assert_allclose(short, [2.0, 2.0], rtol=1e-12)  # a few operations


def test_too_few_draws_raise():
    import xarray as xr

    steps = np.full((2, 80), 0.5)
    steps[1, LEAST - 1 :] = np.nan
    trace = xr.DataTree.from_dict(
        {"sample_stats": xr.Dataset({"step_size": (("chain", "draw"), steps)})}
    )
    assert count_draws(trace).tolist() == [80, LEAST - 1]
    running = SimpleNamespace(abort=lambda: trace)
    with pytest.raises(StoppedError, match=f"chain 2 had {LEAST - 1} draws"):
        make_watcher()._stop(running)
    steps[1, LEAST - 1] = 0.5
    assert make_watcher()._stop(running)["sample_stats"]["step_size"].shape == (2, LEAST)


def test_what_is_raised_while_a_run_is_waited_for_ends_it(monkeypatch, model):
    ended = []

    class Running:
        def wait(self):
            raise KeyboardInterrupt

        def cancel(self):
            ended.append(True)

    monkeypatch.setattr("nutpie.sample", lambda *_, **__: Running())
    with pytest.raises(KeyboardInterrupt):
        model.sample(seed=1)
    assert ended == [True]
