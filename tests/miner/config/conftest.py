from pathlib import Path

import pytest

from tests.support.phase_files import COMPLETE, write


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file with phases beside it."""
    (tmp_path / "phases").mkdir()
    write(tmp_path / "miner.yaml", "base", COMPLETE)
    return tmp_path / "miner.yaml"
