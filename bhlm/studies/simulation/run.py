"""A study, on its way: what is missing is run, what is done stands in a file."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from bhlm.errors import ArgumentError
from bhlm.processes import count_cores, run_here
from bhlm.studies.replicate_file import append_replicate, open_replicates
from bhlm.studies.simulation.cluster import run_on_cluster
from bhlm.studies.simulation.replicate import check_study, run_replicate
from bhlm.studies.simulation.result import StudyResult, collect_records
from bhlm.studies.simulation.study import Study, find_versions, identify_study, read_study

type Progress = Callable[[int, int], None]


def run_study(
    study: Study | str | Path,
    *,
    file: str | Path | None,
    processes: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Return the results of a simulation study, after running the replicates that are missing.

    The results are the same to the last bit for any number of processes, on a cluster or not, and
    however often the study was killed and called again.

    Args:
        study: the study, or the path of its TOML.
        file: where finished replicates are kept as they come, one JSON line each. A call with the
            same study goes on from there, also with more replicates; a file of another study is
            refused. None keeps them in memory only.
        processes: processes of this machine, this one among them; None is one per processor.
        address: of a Dask scheduler whose workers run the replicates instead.
        progress: called with (done, total) after every replicate.

    Raises:
        ArgumentError: a study that is not valid, processes that are no count, or a cluster that
            does not answer.
        PriorError: priors that do not fit the model.
        IdentifiabilityError: a condition cannot identify the model.
        DataError: the file is of another study, or no such file.
    """
    start = time.perf_counter()
    if address is not None and processes is not None:
        raise ArgumentError(
            f"processes={processes!r} are processes of this machine, and address={address!r} is a "
            "cluster with its own; give one of the two"
        )
    processes = count_cores() if processes is None else processes
    if not isinstance(processes, int) or processes < 1:
        raise ArgumentError(f"processes={processes!r} is not valid; give an integer from 1 on")
    study = study if isinstance(study, Study) else read_study(study)
    check_study(study)
    identity = identify_study(study)
    path = None if file is None else Path(file)
    finished = {} if path is None else open_replicates(path, identity)
    finished = {number: record for number, record in finished.items() if number < study.total}
    missing = [number for number in range(study.total) if number not in finished]
    if progress is not None:
        progress(len(finished), study.total)
    with closing(_run(study, missing, processes, address)) as records:
        for record in records:
            finished[record["replicate"]] = record
            if path is not None:
                append_replicate(path, record)
            if progress is not None:
                progress(len(finished), study.total)
    return collect_records(study, finished, ran=len(missing), seconds=time.perf_counter() - start)


def _run(
    study: Study, missing: Sequence[int], processes: int, address: str | None
) -> Generator[dict[str, Any]]:
    task = partial(run_replicate, study)
    if missing and address is not None:
        return run_on_cluster(task, missing, address=address, versions=find_versions())
    processes = min(processes, len(missing))
    refusal = (
        f"the {processes} processes stopped before their work was done; give processes=1, which "
        "needs less memory"
    )
    # The matrices are small, and threads that wait for each other cost more than they do.
    return run_here(task, missing, processes=processes, refusal=refusal, single_threaded=True)
