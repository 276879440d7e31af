import shutil
from pathlib import Path

import bittensor as bt
import pytest

from miner.config.loader import shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import load_phase
from miner.config.phase_sections import ExportSettings
from miner.localnet.validator import make_wallet
from miner.subnet.metagraph import Neuron, Snapshot
from tests.support.generated import make_picture, png_base64


@pytest.fixture(scope="session")
def image_base64() -> str:
    return png_base64(make_picture())


@pytest.fixture(scope="session")
def wallets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bt.Wallet]:
    folder = tmp_path_factory.mktemp("wallets")
    return {name: make_wallet(folder, name) for name in ("validator", "miner", "stranger")}


@pytest.fixture
def snapshot(wallets: dict[str, bt.Wallet]) -> Snapshot:
    validator = Neuron(
        uid=0,
        hotkey=wallets["validator"].hotkey.ss58_address,
        coldkey="cold-validator",
        stake=5000.0,
        validator_permit=True,
    )
    return Snapshot(
        17, 1000, (validator, Neuron(uid=1, hotkey=wallets["miner"].hotkey.ss58_address, coldkey="cold-miner"))
    )


@pytest.fixture(scope="session")
def phase() -> Phase:
    """The demo's, for pictures alone, whose results leave as they were generated."""
    demo = load_phase("demo", shipped_config() / "miner.yaml").settings
    return demo.model_copy(update={"text": None, "export": ExportSettings()})


@pytest.fixture
def config_folder(tmp_path: Path) -> Path:
    """A copy of the shipped settings to spoil."""
    return Path(shutil.copytree(shipped_config(), tmp_path / "config"))
