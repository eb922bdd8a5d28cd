"""What the scripts of speed share: this checkout beside an earlier one, and the machine's line."""

import argparse
import os
import platform
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def add_before(parser: argparse.ArgumentParser) -> None:
    """Let a script take another checkout to be run beside this one."""
    parser.add_argument("--before", type=Path, help="another checkout of this repository")


def list_checkouts(before: Path | None) -> dict[str, Path]:
    """Return the checkouts that are compared, by what tables call them."""
    return ({} if before is None else {"before": before.resolve()}) | {"now": HERE}


def build_environment(checkout: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that finds the package of a checkout."""
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | more


def describe_machine() -> str:
    """Return the processor, its cores and Python's version."""
    processor = platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"
