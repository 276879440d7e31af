"""The version of the code that runs: that of the package and, in a checkout, the commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "sn17-miner"
GIT_TIMEOUT = 10.0


def installed_version() -> str:
    """Return the version of the installed package, "unknown" in a checkout that is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def code_version() -> str:
    """Return the version and the commit: 0.1.0+1a2b3c4d, with -dirty appended if files differ from the commit.

    This runs git and takes some milliseconds; outside a checkout, or without git, the commit is left out.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return installed_version()
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return installed_version()
    return f"{installed_version()}+{done.stdout.strip()}"
