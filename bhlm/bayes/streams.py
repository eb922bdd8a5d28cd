"""What is drawn given draws of the parameters, some at a time, each from a stream of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bhlm.processes import count_cores

STREAM = 64  # draws of the parameters that share one random stream


def run_streams(
    fill: Callable[[slice, np.random.Generator], None], count: int, *, seed: int
) -> None:
    """Call `fill` with the span and the random numbers of every stream of `count` draws.

    Several threads share the streams; what is drawn does not depend on how many.

    Args:
        fill: writes what belongs to the draws of a span.
        count: draws of the parameters.
        seed: the run's.
    """

    def run(stream: int) -> None:
        span = slice(stream * STREAM, min((stream + 1) * STREAM, count))
        fill(span, np.random.default_rng([seed, 1, stream]))

    streams = range(-(-count // STREAM))
    with ThreadPoolExecutor(min(count_cores(), len(streams))) as pool:
        list(pool.map(run, streams))
