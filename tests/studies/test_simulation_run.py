"""Studies that are killed, shared, resumed or sent to a cluster give the same bits."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from small_studies import small_study

from bhlm.errors import ArgumentError, DataError, MissingPackageError
from bhlm.studies.simulation.run import run_study

pytestmark = pytest.mark.wide


def assert_same(one, other):
    assert json.dumps(one.records) == json.dumps(other.records)
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    pd.testing.assert_frame_equal(one.fits, other.fits, check_exact=True)
    assert one.summary() == other.summary()


@pytest.mark.slow
def test_processes_do_not_matter():
    calls = []
    alone = run_study(small_study(), file=None, processes=1)
    shared = run_study(
        small_study(), file=None, processes=2, progress=lambda *counts: calls.append(counts)
    )
    assert_same(alone, shared)
    assert calls == [(done, 6) for done in range(7)]


TESTS = Path(__file__).parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
if __name__ == "__main__":
    from small_studies import small_study
    from bhlm.studies.simulation.run import run_study
    run_study(small_study(4000), file={file!r}, processes=2)
"""


@pytest.mark.slow
def test_a_study_killed_twice_goes_on(tmp_path):
    file, script = tmp_path / "study.jsonl", tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(TESTS), file=str(file)))
    lines = 1
    for _ in range(2):
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 120.0
            while not file.exists() or file.read_bytes().count(b"\n") < lines + 4:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
        # Its output ends when the last worker has ended, which nobody told to.
        process.communicate(timeout=30.0)
        lines = file.read_bytes().count(b"\n")
        with file.open("ab") as stream:
            stream.write(b'{"replicate": 11, "fits": {"re')
    kept = {json.loads(line)["replicate"] for line in file.read_bytes().splitlines()[1:-1]}
    replicates = max(kept) // 2 + 2
    resumed = run_study(small_study(replicates), file=file, processes=1)
    assert resumed.ran == 2 * replicates - len(kept)
    assert resumed.ran > 0
    assert_same(resumed, run_study(small_study(replicates), file=None, processes=2))
    numbers = [json.loads(line)["replicate"] for line in file.read_text().splitlines()[1:]]
    assert sorted(numbers) == list(range(2 * replicates))


def test_a_finished_study_is_read_and_can_grow_or_shrink(tmp_path):
    file = tmp_path / "study.jsonl"
    first = run_study(small_study(2), file=file, processes=1)
    more = run_study(small_study(3), file=str(file), processes=1)
    assert more.ran == 2
    assert more.records[:4] == first.records
    calls = []
    again = run_study(small_study(2), file=file, progress=lambda *counts: calls.append(counts))
    assert again.ran == 0
    assert calls == [(4, 4)]  # nothing was left to run
    assert_same(again, first)


def test_another_study_is_refused(tmp_path):
    file = tmp_path / "study.jsonl"
    run_study(small_study(2), file=file, processes=1)
    with pytest.raises(DataError, match="its seed is 5, here it is 6"):
        run_study(replace(small_study(2), seed=6), file=file, processes=1)
    with pytest.raises(DataError, match="its priors"):
        run_study(replace(small_study(2), priors=()), file=file, processes=1)


def test_a_study_is_read_from_its_path(tmp_path):
    path = tmp_path / "few.toml"
    path.write_text(
        "seed = 1\nreplicates = 2\n[model]\nfixed = {Intercept = 0}\n"
        "[grid]\ngroups = 6\ngroup_size = 4\nicc = 0.2\n"
    )
    found = run_study(path, file=None, processes=1)
    assert found.study.title == "few"
    assert len(found.records) == 2


@pytest.mark.parametrize("processes", [0, 1.5, "2"])
def test_processes_are_a_count(processes):
    with pytest.raises(ArgumentError, match="processes="):
        run_study(small_study(), file=None, processes=processes)


def test_processes_and_a_cluster_exclude_each_other():
    with pytest.raises(ArgumentError, match="give one of the two"):
        run_study(small_study(), file=None, processes=2, address="tcp://127.0.0.1:1")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(False, id="threads", marks=pytest.mark.slow),
        pytest.param(True, id="processes", marks=pytest.mark.slow),
    ],
)
def cluster(request):
    distributed = pytest.importorskip("distributed", reason="needs the extra bhlm[dask]")
    with distributed.LocalCluster(
        n_workers=1 + request.param, threads_per_worker=1, dashboard_address=":0",
        processes=request.param,
    ) as local:  # fmt: skip
        yield local


def test_a_cluster_gives_the_same_bits(cluster, tmp_path):
    file, calls = tmp_path / "study.jsonl", []
    alone = run_study(small_study(), file=None, processes=1)
    run_study(small_study(2), file=file, address=cluster.scheduler_address)
    shared = run_study(
        small_study(), file=file, address=cluster.scheduler_address,
        progress=lambda *counts: calls.append(counts),
    )  # fmt: skip
    assert shared.ran == 2
    assert calls == [(4, 6), (5, 6), (6, 6)]
    assert_same(alone, shared)


def test_a_cluster_of_other_versions_is_refused(cluster, monkeypatch):
    monkeypatch.setattr("bhlm.studies.simulation.run.find_versions", lambda: {"numpy": "0.1"})
    with pytest.raises(ArgumentError, match=r"a worker of the cluster has numpy .* of numpy 0\.1"):
        run_study(small_study(), file=None, address=cluster.scheduler_address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named(monkeypatch, address):
    pytest.importorskip("distributed", reason="needs the extra bhlm[dask]")
    monkeypatch.setattr("bhlm.studies.simulation.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(ArgumentError, match=f"no Dask scheduler answers at '{address}'"):
        run_study(small_study(), file=None, address=address)


def test_without_distributed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'bhlm\[dask\]'"):
        run_study(small_study(), file=None, address="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_a_script_without_a_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n"
        "from small_studies import small_study\n"
        "from bhlm.studies.simulation.run import run_study\n"
        "run_study(small_study(2), file=None, processes=2)\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
