"""A miner with a served axon, for the tests of pushed tasks."""

from pathlib import Path

import bittensor as bt

from miner.axon.server import AxonServer
from miner.config.phase import Phase
from miner.config.policy import PolicyRules
from miner.config.settings import ServingSettings
from miner.localnet.raw_client import AxonAddress
from miner.localnet.validator import LOOPBACK, free_port
from miner.policy.policy import decide
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron, Snapshot
from miner.subnet.protocol import Generate
from tests.support.miner_parts import MinerParts
from tests.support.waiting import TIMEOUT

SETTINGS = ServingSettings(queue_size=2, max_body_bytes=500_000, header_timeout=0.5, body_timeout=0.5, send_timeout=0.5)


class ServingMiner(MinerParts):
    """A miner's parts with a served axon; the test may replace `rules`, which say who may call it."""

    def __init__(self, folder: Path, phase: Phase, wallet: bt.Wallet, snapshot: Snapshot) -> None:
        super().__init__(folder, phase)
        self.rules = PolicyRules()
        port = free_port()
        self.neuron = Neuron(uid=1, hotkey=wallet.hotkey.ss58_address, coldkey="c", ip=LOOPBACK, port=port)
        self.address = AxonAddress(port, self.neuron.hotkey)
        axon = bt.Axon(wallet=wallet, port=port, ip=LOOPBACK, external_ip=LOOPBACK)
        self.server = AxonServer(
            axon, self.runner, lambda hotkey: decide(snapshot, self.rules, hotkey), SETTINGS, self.recorder
        )


async def ask(miner: ServingMiner, wallet: bt.Wallet, request: Generate) -> Generate:
    dendrite = Dendrite(wallet.hotkey)
    try:
        return await dendrite.ask(miner.neuron, request, TIMEOUT)
    finally:
        await dendrite.aclose_session()
