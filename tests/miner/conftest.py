from __future__ import annotations

import base64
import io
from pathlib import Path

import bittensor as bt
import pytest
import torch
from PIL import Image

from miner.chain import Neuron, Snapshot
from miner.localnet import make_wallet
from miner.settings import Phase, SpzSettings, load_yaml, shipped_config
from pipeline import STAGES, Asset, OnStep, Request, Splats


def make_splats(count: int = 7000, seed: int = 0) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.rand(count, 3, generator=generator) - 0.5,
        quaternions=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator)),
        log_scales=torch.full((count, 3), -4.5),
        opacity_logits=torch.randn(count, generator=generator),
        f_dc=torch.randn(count, 3, generator=generator),
    )


def make_asset(request: Request, count: int = 7000) -> Asset:
    return Asset(make_splats(count, request.seed), request.seed, count // 32, dict.fromkeys(STAGES, 0.25))


def instant_generate(request: Request, on_step: OnStep) -> Asset:
    return make_asset(request)


def png_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="session")
def image_base64() -> str:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30, 30, 255), (16, 16, 48, 48))
    return png_base64(image)


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
    return load_yaml(shipped_config() / "phases" / "demo.yaml", Phase)


@pytest.fixture(scope="session")
def container() -> SpzSettings:
    return SpzSettings()


@pytest.fixture
def config_folder(tmp_path: Path) -> Path:
    """A copy of the shipped settings to spoil."""
    import shutil

    return Path(shutil.copytree(shipped_config(), tmp_path / "config"))
