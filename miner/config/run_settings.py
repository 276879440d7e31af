"""All that a miner is started with: the command line, the settings file, the phase and the validator policy."""

from dataclasses import dataclass, replace
from pathlib import Path

from miner.config.axon_addresses import check_announced, check_listening
from miner.config.loader import load_yaml
from miner.config.phase_files import NamedPhase, load_phase
from miner.config.policy import PolicyRules
from miner.config.settings import MinerSettings, OperatorFiles
from miner.errors import OperatorError
from pipeline import is_embedded


@dataclass(frozen=True)
class RunOptions:
    """The command line of `sn17-miner run`; None stands for what the settings file says."""

    netuid: int = 17
    wallet_name: str = "default"
    wallet_hotkey: str = "default"
    wallet_path: str = "~/.bittensor/wallets"
    network: str = "finney"
    chain_endpoint: str | None = None
    axon_ip: str = "0.0.0.0"  # noqa: S104 - validators come from outside
    axon_port: int = 8091
    axon_external_ip: str | None = None
    axon_external_port: int | None = None
    monitor_port: int | None = None
    phase: str | None = None
    allow_demo_checkpoint: bool = False
    config: Path | None = None
    state_dir: Path | None = None

    @property
    def chain(self) -> str:
        """The chain: a network's name, an address, or file:PATH."""
        return self.chain_endpoint or self.network

    @property
    def chain_file(self) -> Path | None:
        """The snapshot file if the chain is `file:PATH`."""
        return Path(self.chain.removeprefix("file:")) if self.chain.startswith("file:") else None


@dataclass(frozen=True)
class RunSettings:
    """Everything checked; `configured` is the phase that the command line or the settings file names."""

    options: RunOptions
    files: OperatorFiles
    configured: NamedPhase
    rules: PolicyRules

    @staticmethod
    def load(options: RunOptions) -> "RunSettings":
        """Read and check everything that the command line points to. Raises OperatorError."""
        state_dir = options.state_dir
        if state_dir is None and options.chain_file is not None:
            # What is tried out with a chain file is kept beside it.
            state_dir = options.chain_file.parent
        files = OperatorFiles.load(options.config, state_dir)
        files = OperatorFiles(files.config, _with_monitor_port(files.settings, options.monitor_port), files.state_dir)
        # The SDK's axon takes no others.
        for flag, port in (("axon.port", options.axon_port), ("axon.external_port", options.axon_external_port)):
            if port is not None and not 1024 < port < 65535:
                raise OperatorError(f"--{flag} must be between 1025 and 65534, not {port}")
        if options.axon_external_ip is not None:
            check_announced(options.axon_external_ip, options.chain)
        options = replace(options, axon_ip=check_listening(options.axon_ip))
        settings = RunSettings(
            options=options,
            files=files,
            configured=load_phase(options.phase or files.settings.phase, files.config),
            rules=load_yaml(files.blacklist, PolicyRules),
        )
        settings.check_allowed(settings.configured)
        return settings

    @property
    def miner(self) -> MinerSettings:
        """The settings file, with what the command line changes in it."""
        return self.files.settings

    def cooldowns(self, hotkey: str) -> Path:
        """Return the file that remembers the cooldowns of this hotkey."""
        return self.files.state_dir / f"cooldowns-{self.options.netuid}-{hotkey}.json"

    def used_nonces(self, hotkey: str) -> Path:
        """Return the file that remembers the nonces of requests to this hotkey."""
        return self.files.state_dir / f"nonces-{self.options.netuid}-{hotkey}.json"

    def check_allowed(self, phase: NamedPhase) -> None:
        """Raise OperatorError if the phase generates with a toy checkpoint and this is a live network."""
        is_toy = any(map(is_embedded, phase.settings.checkpoints))
        if is_toy and self.options.chain_file is None and not self.options.allow_demo_checkpoint:
            raise OperatorError(
                f"phase {phase.name} generates with an embedded toy checkpoint, which must not answer the live "
                f"network {self.options.chain}: choose another --phase, or --subtensor.network file:PATH (or insist "
                "with --allow-demo-checkpoint)"
            )


def _with_monitor_port(settings: MinerSettings, port: int | None) -> MinerSettings:
    if port is None:
        return settings
    if not 0 <= port < 65536:
        raise OperatorError(f"--monitor.port must be between 1 and 65535, or 0 for none, not {port}")
    change = {"port": port, "enabled": True} if port else {"enabled": False}
    return settings.model_copy(update={"monitor": settings.monitor.model_copy(update=change)})
