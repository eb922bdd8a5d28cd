"""Where compiled code goes when the package and the home folder are read-only or full."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import bhlm
from bhlm.likelihood.caches import choose_caches

PACKAGE = Path(bhlm.__file__).parent
READ_ONLY = """
set -e
mount --make-rprivate /
for place in "$PLACE" "$HOME"; do
    mount --bind "$place" "$place"
    mount -o remount,bind,ro "$place"
done
exec "$@"
"""
FIT = """
import bhlm, numpy as np, pandas as pd
x = np.arange(120.0) % 7
y = x + np.repeat(np.sin(np.arange(12.0)), 10) + np.cos(3.0 * np.arange(120))
model = bhlm.Model("y ~ x + (1 | g)", pd.DataFrame({"g": np.arange(120) // 10, "x": x, "y": y}))
reml, post = model.reml(), model.sample(seed=1, draws=100, tune=100, chains=2)
print(bhlm.reconcile(reml, post).verdict)
"""


def run_read_only(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where the package and the home folder are read-only, in mounts of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs the superuser of a Linux to mount folders read-only")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts")
    hidden = ("NUMBA_CACHE_DIR", "PYTENSOR_FLAGS", "MPLCONFIGDIR")
    environment = {name: text for name, text in os.environ.items() if name not in hidden}
    environment |= {"HOME": str(home), "PLACE": str(PACKAGE)}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_read_only_package_and_home_have_caches_elsewhere(tmp_path: Path) -> None:
    code = (
        "import os, bhlm; from bhlm.moments import memory; import numpy as np;"
        "memory.reduce_columns(np.zeros(3, int), np.ones((3, 1)), 1);"
        "print(os.environ['NUMBA_CACHE_DIR'], os.environ['PYTENSOR_FLAGS'])"
    )
    found = run_read_only(code, tmp_path)
    assert found.returncode == 0, found.stderr
    numba, flags = found.stdout.split()
    assert numba == f"{tempfile.gettempdir()}/bhlm-{os.getuid()}/numba"
    assert flags == f"base_compiledir={tempfile.gettempdir()}/bhlm-{os.getuid()}/pytensor"
    assert list(Path(numba).rglob("memory.add_rows*.nbi"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_read_only_package_and_home_fit_sample_and_reconcile(tmp_path: Path) -> None:
    found = run_read_only(FIT, tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no place named, and what is named within the test forgotten after it."""
    for name in ("NUMBA_CACHE_DIR", "PYTENSOR_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_places_that_can_be_used_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    choose_caches(package=tmp_path, room=1)
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert "PYTENSOR_FLAGS" not in os.environ
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    choose_caches(package=tmp_path, room=1)
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")


def test_a_full_disk_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    forget(monkeypatch)
    choose_caches(package=tmp_path, room=1 << 62)
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert not list((tmp_path / ".cache" / "bhlm").iterdir())


def test_a_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/proc/nowhere")
    forget(monkeypatch)
    place = tmp_path / f"bhlm-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    choose_caches(package=Path("/proc/nowhere"))
    assert str(tmp_path) not in os.environ.get("NUMBA_CACHE_DIR", "")
    place.chmod(0o700)
    forget(monkeypatch)
    choose_caches(package=Path("/proc/nowhere"))
    assert os.environ["NUMBA_CACHE_DIR"] == str(place / "numba")
