from pathlib import Path

import pytest

from miner.localnet.synthetic_ledger import fill_ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 invented tasks of two phases and an experiment."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    fill_ledger(path, 600)
    return path
