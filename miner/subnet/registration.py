"""What a miner must find out before it can work: its registration and its address on the internet."""

import asyncio
import logging

from bittensor.utils import networking

from miner.config.run_settings import RunOptions
from miner.errors import HotkeyNotRegistered, OperatorError
from miner.runtime import run_in_daemon
from miner.subnet.metagraph import Neuron, Snapshot

log = logging.getLogger(__name__)

EXTERNAL_IP_TIMEOUT = 60.0


def check_chain_file(options: RunOptions) -> None:
    """Raise OperatorError if the chain is a missing file: no state folder must be created beside a mistyped path."""
    if options.chain_file is not None and not options.chain_file.is_file():
        raise OperatorError(f"the chain file {options.chain_file} does not exist (--subtensor.network file:PATH)")


def find_registration(snapshot: Snapshot, hotkey: str, options: RunOptions) -> Neuron:
    """Return our neuron. Raises HotkeyNotRegistered."""
    neuron = snapshot.find(hotkey)
    if neuron is None:
        raise HotkeyNotRegistered(
            f"hotkey {hotkey} is not registered on subnet {options.netuid} of {options.chain}: register it "
            f"with `btcli subnets register --netuid {options.netuid} --wallet.name {options.wallet_name} "
            f"--wallet.hotkey {options.wallet_hotkey}`"
        )
    log.info("Registered as uid %d of %d at block %d", neuron.uid, len(snapshot.neurons), snapshot.block)
    return neuron


async def find_external_ip(options: RunOptions) -> str | None:
    """Return the IP address that the internet sees us at; None on a chain file or, logged, if nobody can tell it."""
    if options.axon_external_ip is not None:
        return options.axon_external_ip
    if options.chain_file is not None:
        return None
    try:
        async with asyncio.timeout(EXTERNAL_IP_TIMEOUT):
            return str(await run_in_daemon(networking.get_external_ip, "external-ip"))
    except (networking.ExternalIPNotFound, TimeoutError):
        log.warning(
            "The external IP address cannot be found out, so the axon is not announced: set it with "
            "--axon.external_ip; pulling goes on"
        )
        return None
