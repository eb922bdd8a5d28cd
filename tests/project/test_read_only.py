"""A container whose file system is read-only but for /tmp: fits, samples and reconciles."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# In a namespace of its own: everything is mounted again for reading only, /tmp for writing.
READ_ONLY = (
    "mount --make-rprivate / && mount --bind / / && mount -o remount,ro,bind / && "
    "for m in $(cut -d' ' -f2 /proc/mounts | grep -v '^/proc\\|^/sys\\|^/dev\\|^/$\\|^/tmp'); do "
    'mount -o remount,ro,bind "$m" 2>/dev/null; done; '
    "mount -t tmpfs tmpfs /tmp && export HOME=/nowhere TMPDIR=/tmp && cd /tmp && "
    '! touch "$ROOT/bhlm/x" 2>/dev/null && '
)


def run_read_only(command: str, root: Path) -> subprocess.CompletedProcess[str]:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare here")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    environment |= {"ROOT": str(root), "PYTHONPATH": str(root), "PYTHON": sys.executable}
    arguments = [unshare, "-m", "sh", "-c"]
    tried = subprocess.run([*arguments, f"{READ_ONLY} true"], env=environment, capture_output=True)
    if tried.returncode:
        pytest.skip("no namespace with a read-only file system can be made here")
    return subprocess.run(
        [*arguments, READ_ONLY + command], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_read_only_file_system_fits_samples_and_reconciles() -> None:
    import bhlm

    root = Path(bhlm.__file__).parent.parent
    if root.is_relative_to(tempfile.gettempdir()):
        pytest.skip("the package stands in the folder that stays writable")
    done = run_read_only(
        "\"$PYTHON\" -c 'from bhlm.commands.main import main; main()' reconcile rail "
        "--draws 100 --tune 200 --chains 2 --json /tmp/a.json "
        "> /tmp/out; echo $?; cat /tmp/a.json",
        root,
    )
    assert done.returncode == 0, done.stderr
    status, text = done.stdout.split("\n", 1)
    assert status in ("0", "1"), done.stderr
    content = json.loads(text)
    assert content["reml"]["converged"]
    assert content["posterior"]["draws"] == 100
    assert "Traceback" not in done.stderr
