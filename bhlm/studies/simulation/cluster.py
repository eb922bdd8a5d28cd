"""Replicates on the workers of a Dask cluster."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from bhlm.errors import ArgumentError, miss_package

CONNECT_SECONDS = 20  # how long a cluster may take to answer

type Task = Callable[[int], dict[str, Any]]


def run_on_cluster(
    task: Task,
    numbers: Sequence[int],
    *,
    address: str,
    versions: dict[str, str],
) -> Generator[dict[str, Any]]:
    """Yield `task(number)` of each number when it is done, by the workers of a Dask cluster.

    Tasks of workers that are lost run again on others.

    Args:
        task: what can be sent to the workers, which have bhlm installed.
        numbers: the numbers.
        address: of the scheduler, such as "tcp://10.0.0.1:8786".
        versions: of packages, which every worker must have.

    Raises:
        MissingPackageError: distributed is not installed.
        ArgumentError: no scheduler answers, workers are lost again
            and again, or a worker has other versions.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as as_finished
    except ImportError as error:
        what = f"address={address!r} asks for a Dask cluster, which"
        raise miss_package(what, "distributed", "dask") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"no Dask scheduler answers at {address!r}; give the address that it printed, such as "
            "'tcp://10.0.0.1:8786'"
        ) from error
    with client:
        checked = partial(_run_checked, task, versions)
        # Not pure: a cluster that has seen the same study would give back what it remembers.
        waiting = client.map(checked, numbers, pure=False)
        try:
            for future in as_finished(waiting):
                yield future.result()
                future.release()  # or a worker that is lost later would have it run again
        except (KilledWorker, CancelledError) as error:
            raise ArgumentError(
                f"the cluster at {address!r} was lost, or its workers again and again; see their "
                "logs, and start the study again to go on"
            ) from error
        finally:
            client.cancel(waiting)


def _run_checked(task: Task, versions: dict[str, str], number: int) -> dict[str, Any]:
    """Run a task where the versions of packages are those that it was planned with."""
    from importlib.metadata import version

    for name, wanted in versions.items():
        if (found := version(name)) != wanted:
            raise ArgumentError(
                f"a worker of the cluster has {name} {found}, and this study is of {name} "
                f"{wanted}; install the same versions everywhere"
            )
    return task(number)
