"""A subnet of one validator and one miner on this machine, for tests of whole miners."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import bittensor as bt

from miner.localnet.validator import DEFAULT_TIMING, LOOPBACK, LocalValidator, free_port, write_chain_file
from miner.localnet.validator_rules import ValidatorTiming
from miner.subnet.metagraph import Neuron
from tests.support.factories import run_settings


class LocalSubnet:
    """A validator, a chain file with it and a miner, and the settings of that miner, which `miner_yaml` sets."""

    def __init__(
        self,
        wallets: dict[str, bt.Wallet],
        folder: Path,
        miner_yaml: str,
        timing: ValidatorTiming = DEFAULT_TIMING,
        phases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        wallet = wallets["miner"]
        self.folder = folder
        self.config = folder / "miner.yaml"
        self.chain_file = folder / "chain.json"
        self.validator = LocalValidator(wallets["validator"], free_port(), lambda _: True, timing)
        # The coldkeys do not matter, but must be addresses.
        key, own_key = self.validator.hotkey, wallet.hotkey.ss58_address
        place = {"ip": LOOPBACK, "port": self.validator.port}
        validator = Neuron(uid=0, hotkey=key, coldkey=key, stake=5000, validator_permit=True, **place)
        self.neurons = [validator, Neuron(uid=1, hotkey=own_key, coldkey=own_key)]
        write_chain_file(self.chain_file, self.neurons)
        self.config.write_text(miner_yaml)
        for name, content in phases.items():
            self.write_phase(name, content)
        self.settings = run_settings(
            *("--config", str(self.config), "--wallet.path", wallet.path, "--wallet.name", wallet.name),
            *("--subtensor.network", f"file:{self.chain_file}"),
        )

    def write_phase(self, name: str, content: str) -> None:
        """Write a phase file beside the settings file."""
        (self.folder / "phases").mkdir(exist_ok=True)
        (self.folder / "phases" / f"{name}.yaml").write_text(content)
