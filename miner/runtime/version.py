"""Which code runs: the package's version and, in a checkout, the commit."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "sn17-miner"
GIT_TIMEOUT = 10.0


def code_version() -> str:
    """Such as 0.1.0+1a2b3c4d, or 0.1.0+1a2b3c4d-dirty where files differ from the commit. Takes some milliseconds."""
    try:
        known = version(PACKAGE)
    except PackageNotFoundError:
        known = "unknown"
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return known
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return known
    return f"{known}+{done.stdout.strip()}"
