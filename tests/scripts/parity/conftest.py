import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.parity import main
from tests.support.golden_trellis import link_golden


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; returns its exit code, its lines and its last line as JSON."""

    def run(directory: Path) -> tuple[int, list[str], dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["parity", str(directory)])
        code = main()
        *lines, last = capsys.readouterr().out.splitlines()
        return code, lines, json.loads(last)

    return run


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return link_golden(tmp_path)
