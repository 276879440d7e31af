import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import bittensor as bt
import pytest
import pytest_asyncio

from miner.config.phase import Phase
from miner.localnet.validator import LOOPBACK
from miner.subnet.metagraph import Snapshot
from tests.support.serving import ServingMiner


@pytest_asyncio.fixture
async def miner(
    wallets: dict[str, bt.Wallet], snapshot: Snapshot, phase: Phase, tmp_path: Path
) -> AsyncIterator[ServingMiner]:
    miner = ServingMiner(tmp_path, phase, wallets["miner"], snapshot)
    await miner.server.start()
    yield miner
    await miner.server.stop()
    miner.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(LOOPBACK, miner.neuron.port)
