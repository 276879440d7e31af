"""Signals in the first seconds of the miner's process, while Python imports what takes long."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from miner.errors import ExitCode
from tests.support.paths import ROOT

MINER = ROOT / "neurons" / "miner.py"


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start a miner that tells on stderr what it imports."""
    arguments = ("--netuid", "17", "--phase", "demo", "--subtensor.network", f"file:{folder / 'chain.json'}")
    return subprocess.Popen(
        [sys.executable, "-X", "importtime", str(MINER), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_import(process: "subprocess.Popen[str]", module: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("import time:") and line.rsplit("|", 1)[1].strip() == module:
            return
    raise AssertionError(f"{module} was not imported")


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["click", "numpy", "pydantic", "torch.nn"])
def test_a_stop_while_modules_are_imported(tmp_path: Path, module: str, number: signal.Signals) -> None:
    with start(tmp_path) as process:
        wait_for_import(process, module)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CLEAN, err[-2000:]
    assert out.endswith(f" | INFO | {number.name} received before anything was begun\n")
    assert all(line.startswith("import time:") for line in err.splitlines())


@pytest.mark.process
def test_a_reload_while_modules_are_imported_ends_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        wait_for_import(process, "click")
        process.send_signal(signal.SIGHUP)
        wait_for_import(process, "numpy")
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == ExitCode.CLEAN
