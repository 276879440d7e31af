import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import bittensor as bt
import pytest_asyncio

from miner.config.phase import Phase
from tests.support.pulling import PullingMiner


@pytest_asyncio.fixture
async def miner(
    tmp_path: Path, phase: Phase, wallets: dict[str, bt.Wallet], image_base64: str
) -> AsyncIterator[PullingMiner]:
    miner = PullingMiner(tmp_path, phase, wallets, image_base64)
    await miner.validator.start()
    yield miner
    await miner.puller.stop()
    await miner.validator.stop()
    await asyncio.to_thread(miner.close)
