"""The small version of scripts.validation.abuse: the same attacks on a served axon, fewer and shorter."""

import asyncio
from pathlib import Path

import bittensor as bt

from miner.axon.server import AxonServer
from miner.config.loader import shipped_config
from miner.config.phase_files import load_phase
from miner.config.policy import PolicyRules
from miner.config.settings import ServingSettings
from miner.localnet.raw_client import AxonAddress
from miner.localnet.validator import LOOPBACK, free_port, make_wallet
from miner.policy.policy import decide
from miner.subnet.metagraph import Neuron, Snapshot
from scripts.validation.attacks import Peers, make_attacks, push_tasks, run_attacks
from tests.support.generated import make_picture, png_base64
from tests.support.miner_parts import MinerParts

# The honest validator, whose tasks take no time here, must not come to its rate limit.
SETTINGS = ServingSettings(
    requests_per_minute=6000,
    max_body_bytes=200_000,
    max_connections=60,
    header_timeout=1,
    body_timeout=1,
    send_timeout=1,
)
CONNECTIONS = 60
MEGABYTES = 3


async def test_an_honest_validator_is_served_under_attack(tmp_path: Path) -> None:
    phase = load_phase("demo", shipped_config() / "miner.yaml").settings
    peers = Peers.from_seed("test")
    allowed = [
        Neuron(uid=uid, hotkey=keypair.ss58_address, coldkey="c", stake=5000, validator_permit=True)
        for uid, keypair in enumerate((peers.honest, peers.hostile, peers.slow, peers.bomber, peers.deaf))
    ]
    snapshot, rules = Snapshot(17, 1, tuple(allowed)), PolicyRules()
    miner = MinerParts(tmp_path, phase)
    wallet = make_wallet(tmp_path, "miner")
    address = AxonAddress(free_port(), wallet.hotkey.ss58_address)
    axon = bt.Axon(wallet=wallet, port=address.port, ip=LOOPBACK, external_ip=LOOPBACK)
    server = AxonServer(axon, miner.runner, lambda hotkey: decide(snapshot, rules, hotkey), SETTINGS, miner.recorder)
    attacks = make_attacks(address, peers, CONNECTIONS, MEGABYTES)
    await server.start()
    stopping = asyncio.Event()
    try:
        honest = asyncio.create_task(push_tasks(address, peers.honest, png_base64(make_picture()), stopping))
        outcomes = await run_attacks(attacks)
        stopping.set()
        verdicts = {verdict for verdict, _ in await honest}
    finally:
        await server.stop()
        miner.close()
    assert verdicts == {"valid"}
    assert {name: dict(o.answers) for name, o in outcomes.items() if not o.is_expected} == {}
    counters = miner.runner.counters
    assert counters["generated"] == counters["pushed"] - counters["PromptError"]
