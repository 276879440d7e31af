"""The mean power of a GPU, from an nvidia-smi of our own."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts.benchmarks.power import with_mean_power

# Two whole lines, and one that is cut off when the program is ended.
PROGRAM = """#!/bin/sh
case "$*" in *--id=GPU-12-34*) ;; *) exit 1 ;; esac
printf '100.0\n300.5\n99'
touch "{seen}"
exec sleep 60
"""


def test_the_mean_is_of_whole_lines_while_the_work_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, program = tmp_path / "seen", tmp_path / "nvidia-smi"
    program.write_text(PROGRAM.format(seen=seen))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="12-34"))

    def work() -> str:
        deadline = time.monotonic() + 30
        while not seen.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return "made"

    assert with_mean_power(work, torch.device("cuda")) == ("made", 200.25)
