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
        "import matplotlib; matplotlib.get_configdir(); matplotlib.get_cachedir();"
        "print(os.environ['NUMBA_CACHE_DIR'], os.environ['PYTENSOR_FLAGS'])"
    )
    found = run_read_only(code, tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
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
    for name in ("NUMBA_CACHE_DIR", "PYTENSOR_FLAGS", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_places_that_can_be_used_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    choose_caches(package=tmp_path, room=1)
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert "PYTENSOR_FLAGS" not in os.environ
    assert "MPLCONFIGDIR" not in os.environ
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


KERNELS = {
    "inner.py": "import numba\n@numba.njit(cache=True)\ndef double(x):\n    return 2 * x\n",
    "outer.py": (
        "import numba\nfrom inner import double\n"
        "@numba.njit(cache=True)\ndef outer(x):\n    return double(x) + 1\n"
    ),
}
CALL = (
    "import sys; from pathlib import Path; from bhlm.likelihood.caches import choose_caches;"
    "choose_caches(package=Path(sys.argv[1]), room=1); sys.path.insert(0, sys.argv[1]);"
    "import outer; print(outer.outer(5))"
)


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
def test_a_changed_function_is_what_kernels_of_other_files_run(tmp_path: Path, named: bool) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name, text in KERNELS.items():
        (package / name).write_text(text)
    environment = dict(os.environ)
    environment.pop("NUMBA_CACHE_DIR", None)
    if named:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "kept")

    def call() -> str:
        command = [sys.executable, "-c", CALL, str(package)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert call() == "11"
    index = next(tmp_path.rglob("outer.outer*.nbi"))
    before = index.stat().st_mtime_ns
    assert call() == "11"
    assert index.stat().st_mtime_ns == before
    inner = package / "inner.py"
    inner.write_text(inner.read_text().replace("2 * x", "3 * x"))
    assert call() == "16"


def test_kernels_of_other_packages_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all packages keep theirs in one place."""
    forget(monkeypatch)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    other = tmp_path / "kept" / "theirs_0123" / "theirs.nbi"
    other.parent.mkdir(parents=True)
    other.touch()
    package = tmp_path / "package"
    package.mkdir()
    for text in ("a = 1\n", "a = 12\n"):
        (package / "a.py").write_text(text)
        choose_caches(package=package, room=1)
    assert other.exists()
