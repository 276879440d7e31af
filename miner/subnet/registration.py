"""What a node has to find out before it can work: its wallet, its place on the subnet, its address on the internet."""

from __future__ import annotations

import asyncio
import logging

import bittensor as bt
from bittensor.utils import networking

from miner.config.settings import Settings
from miner.errors import OperatorError
from miner.runtime.threads import run_in_daemon
from miner.subnet.metagraph import Snapshot
from miner.subnet.metagraph_sync import MetagraphSync

log = logging.getLogger(__name__)

EXTERNAL_IP_TIMEOUT = 60.0


def load_wallet(settings: Settings) -> bt.Wallet:
    """The wallet, its hotkey readable. Raises OperatorError naming the file."""
    wallet = bt.Wallet(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)
    try:
        _ = wallet.hotkey
    except Exception as error:  # the wallet library raises its own types for a missing, damaged or locked file
        raise OperatorError(
            f"the hotkey {settings.wallet_path}/{settings.wallet_name}/hotkeys/{settings.wallet_hotkey} cannot be "
            f"read ({error}): check --wallet.name, --wallet.hotkey and --wallet.path, or make it with "
            f"`btcli wallet new-hotkey`"
        ) from None
    return wallet


def check_chain_file(settings: Settings) -> None:
    """Raises OperatorError if it is missing: what we keep lies beside it, and a mistyped path must not make folders."""
    if settings.chain_file is not None and not settings.chain_file.is_file():
        raise OperatorError(f"the chain file {settings.chain_file} does not exist (--subtensor.network file:PATH)")


async def find_registration(chain: MetagraphSync, hotkey: str, settings: Settings) -> Snapshot:
    """The subnet with us on it. Raises OperatorError if we are not registered."""
    snapshot = await chain.first_look()
    neuron = snapshot.find(hotkey)
    if neuron is None:
        raise OperatorError(
            f"hotkey {hotkey} is not registered on subnet {settings.netuid} of {settings.network}: register it "
            f"with `btcli subnets register --netuid {settings.netuid} --wallet.name {settings.wallet_name} "
            f"--wallet.hotkey {settings.wallet_hotkey}`"
        )
    log.info("Registered as uid %d of %d at block %d", neuron.uid, len(snapshot.neurons), snapshot.block)
    return snapshot


async def find_external_ip(settings: Settings) -> str | None:
    """The address the internet sees us at; None on a local chain, or with a warning if nobody tells."""
    if settings.axon_external_ip is not None:
        return settings.axon_external_ip
    if settings.chain_file is not None:
        return None
    try:
        async with asyncio.timeout(EXTERNAL_IP_TIMEOUT):
            return str(await run_in_daemon(networking.get_external_ip, "external-ip"))
    except (networking.ExternalIPNotFound, TimeoutError):
        log.warning(
            "Our address on the internet could not be found out, so the axon is not announced: name it with "
            "--axon.external_ip; pulling goes on"
        )
        return None
