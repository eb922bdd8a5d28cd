"""Fixtures that every test module may use: the data, the reference values, the printed ones."""

import gc
import json
import os
import signal
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# The matrices here are small: threads of BLAS would only get in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
import pytest
from gallery_fits import fit_reml, make_model, reconcile_both, sample_posterior
from postgres_server import serve_postgres
from simulate import simulate_table

from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import Reconciliation
from bhlm.fits.reml_fit import RemlFit
from bhlm.sources.datasets import load_hsb

# A job in the background ignores SIGINT, and some runners block it: the tests that send it would
# wait for ever, and so would those in processes that are started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


# The processes of a run begin with the files that stand here, one each: what the first compiles
# (the densities), others need too, and would compile once more beside it.
FIRST = ["tests/bayes/test_density.py", "tests/design/test_design.py"]


@pytest.hookimpl(trylast=True)  # after what is not asked for has gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files: those of FIRST, then by their number of tests, so that none is left last."""
    sizes = Counter(item.nodeid.split("::")[0] for item in items)
    ranks = {name: (rank, 0) for rank, name in enumerate(FIRST)}
    items.sort(
        key=lambda item: ranks.get(name := item.nodeid.split("::")[0], (len(FIRST), -sizes[name]))
    )


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later search for garbage: a million objects."""
    gc.collect()
    gc.freeze()


REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def hsb() -> pd.DataFrame:
    """Pupils joined with schools. Copy it before changing it: all tests share it."""
    return load_hsb()


@pytest.fixture(scope="session")
def hsb_model() -> Model:
    """The model of Table 4.4: mathach ~ cwc(ses) + (cwc(ses) | school)."""
    return make_model("hsb_random_coefficient")


@pytest.fixture(scope="session")
def hsb_reml() -> RemlFit:
    return fit_reml("hsb_random_coefficient")


@pytest.fixture(scope="session")
def hsb_post() -> BayesFit:
    """Draws of seed 1, under the default priors."""
    return sample_posterior("hsb_random_coefficient")


@pytest.fixture(scope="session")
def reconcile_gallery(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reconciliation]:
    """Return the reconciliation of a model of the gallery, by its name."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # all workers' own
    return partial(reconcile_both, folder=folder)


@pytest.fixture(scope="session")
def hsb_both(reconcile_gallery: Callable[[str], Reconciliation]) -> Reconciliation:
    """The two fits of Table 4.4 beside the printed values."""
    return reconcile_gallery("hsb_random_coefficient")


@pytest.fixture(scope="session")
def sleep_both(reconcile_gallery: Callable[[str], Reconciliation]) -> Reconciliation:
    """The sleep study: 18 subjects, one of them with a k-hat above the threshold."""
    return reconcile_gallery("sleepstudy")


@pytest.fixture(scope="session")
def singular_both(reconcile_gallery: Callable[[str], Reconciliation]) -> Reconciliation:
    """Dyestuff2, whose REML estimate of the batches' variance is 0."""
    return reconcile_gallery("dyestuff2")


@pytest.fixture(scope="session")
def many_reml() -> RemlFit:
    """A fit of 700 groups, more than a panel shows, one of them with least squares far away."""
    return Model("y ~ x + (x | g)", simulate_table(5, n_groups=700, largest=6)).reml()


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """REML and ML answers of the four models of chapter 4, as 16-digit strings, by model name."""
    return json.loads((REFERENCE / "hsb_reml.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def printed() -> dict[str, Any]:
    """Every value that Stata printed for Table 4.4, as the strings that it printed."""
    return tomllib.loads((REFERENCE / "stata_table_4_4.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the tests."""
    with serve_postgres() as url:
        yield url
