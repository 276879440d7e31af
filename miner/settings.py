"""The settings files and the command line -> one frozen Settings; errors name file, key and what is allowed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from miner.errors import OperatorError
from miner.ledger_schema import LEDGER_NAME
from miner.phases import NamedPhase, load_phase
from miner.rules import PolicyRules
from miner.yaml_files import load_yaml, shipped_config
from pipeline import is_embedded


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServingSettings(_Section):
    """Our axon."""

    enabled: bool = True
    queue_size: int = Field(default=16, gt=0)
    per_validator: int = Field(default=8, gt=0)
    requests_per_minute: float = Field(default=60.0, ge=1, allow_inf_nan=False)
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    max_connections: int = Field(default=1024, gt=0, le=65536)
    header_timeout: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    body_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    replay_window: float = Field(default=30.0, gt=0, allow_inf_nan=False)


class PullingSettings(_Section):
    """Pulling from validators' axons."""

    enabled: bool = True
    pull_timeout: float = Field(default=12.0, gt=0, allow_inf_nan=False)
    submit_timeout: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    state_folder: Path = Path("~/.local/state/sn17-miner")


class ChainSettings(_Section):
    """The metagraph."""

    sync_interval: float = Field(default=300.0, gt=0, allow_inf_nan=False)


class SpzSettings(_Section):
    """The container of what is submitted."""

    level: int = Field(default=1, ge=1, le=22)
    workers: int = Field(default=0, ge=0, le=256)


class GenerateSettings(_Section):
    """POST /generate of the monitor."""

    enabled: bool = False
    queue_size: int = Field(default=4, gt=0)
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)


class MonitorSettings(_Section):
    """The HTTP server for the operator; `gallery`: whether results are kept and drawn for the page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=10008, gt=0, lt=65536)
    gallery: bool = True
    generate: GenerateSettings = GenerateSettings()


class RetentionSettings(_Section):
    """What is kept of one kind: nothing older, and the newest that fit."""

    max_days: float = Field(gt=0, allow_inf_nan=False)
    max_bytes: int = Field(gt=0)


class HousekeepingSettings(_Section):
    """What is deleted, and how often in seconds it is looked for."""

    enabled: bool = True
    interval: float = Field(default=300.0, ge=1, allow_inf_nan=False)
    results: RetentionSettings = RetentionSettings(max_days=14, max_bytes=12_000_000_000)
    pictures: RetentionSettings = RetentionSettings(max_days=30, max_bytes=2_000_000_000)
    logs: RetentionSettings = RetentionSettings(max_days=30, max_bytes=2_000_000_000)
    ledger: RetentionSettings = RetentionSettings(max_days=730, max_bytes=2_000_000_000)


class LedgerSettings(_Section):
    """The ledger's file; None: ledger.sqlite in the state folder."""

    path: Path | None = None


class MinerSettings(_Section):
    """config/miner.yaml."""

    phase: str
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    kernels: Literal["auto", "plain", "fused"] = "auto"
    serving: ServingSettings = ServingSettings()
    pulling: PullingSettings = PullingSettings()
    chain: ChainSettings = ChainSettings()
    spz: SpzSettings = SpzSettings()
    ledger: LedgerSettings = LedgerSettings()
    monitor: MonitorSettings = MonitorSettings()
    housekeeping: HousekeepingSettings = HousekeepingSettings()


@dataclass(frozen=True)
class Settings:
    """All a node is started with."""

    netuid: int
    wallet_name: str
    wallet_hotkey: str
    wallet_path: str
    network: str
    axon_ip: str
    axon_port: int
    axon_external_ip: str | None
    axon_external_port: int | None
    config: Path
    miner: MinerSettings
    configured: NamedPhase
    toys_allowed: bool
    rules_file: Path
    rules: PolicyRules

    @property
    def chain_file(self) -> Path | None:
        """The snapshot file if the network is `file:PATH`."""
        return Path(self.network.removeprefix("file:")) if self.network.startswith("file:") else None

    @property
    def state_folder(self) -> Path:
        """Where all is kept that outlives a restart; beside the snapshot file where that is the chain."""
        return self.miner.pulling.state_folder.expanduser() if self.chain_file is None else self.chain_file.parent

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.miner.ledger.path or self.state_folder / LEDGER_NAME

    def cooldowns(self, hotkey: str) -> Path:
        """The file that remembers the cooldowns of this hotkey."""
        return self.state_folder / f"cooldowns-{self.netuid}-{hotkey}.json"

    def check_allowed(self, phase: NamedPhase) -> None:
        """Raises OperatorError if the phase generates with toys and this is a live network."""
        has_toys = any(map(is_embedded, phase.settings.checkpoints))
        if has_toys and self.chain_file is None and not self.toys_allowed:
            raise OperatorError(
                f"phase {phase.name} generates with an embedded toy checkpoint, which must not answer the live "
                f"network {self.network}: choose another --phase, or --subtensor.network file:PATH (or insist with "
                "--allow-demo-checkpoint)"
            )


def parser() -> argparse.ArgumentParser:
    """The command line, with the names every Bittensor miner has."""
    p = argparse.ArgumentParser(prog="miner.py", description="A miner for subnet 17 that generates in its own process.")
    p.add_argument("--netuid", type=int, default=17)
    p.add_argument("--wallet.name", dest="wallet_name", default="default")
    p.add_argument("--wallet.hotkey", dest="wallet_hotkey", default="default")
    p.add_argument("--wallet.path", dest="wallet_path", default="~/.bittensor/wallets")
    p.add_argument(
        "--subtensor.network", dest="network", default="finney", help="finney, test, local, ws://..., or file:PATH"
    )
    p.add_argument("--subtensor.chain_endpoint", dest="chain_endpoint", help="overrides --subtensor.network")
    p.add_argument("--axon.ip", dest="axon_ip", default="0.0.0.0", help="address to bind to")  # noqa: S104
    p.add_argument("--axon.port", dest="axon_port", type=int, default=8091)
    p.add_argument("--axon.external_ip", dest="axon_external_ip", help="address that validators are told")
    p.add_argument("--axon.external_port", dest="axon_external_port", type=int)
    p.add_argument(
        "--monitor.port",
        dest="monitor_port",
        type=int,
        help="port of the status, instead of the settings file's; 0: none",
    )
    p.add_argument("--config", type=Path, help="settings file (default: config/miner.yaml)")
    p.add_argument("--phase", help="phase to run instead of the settings file's")
    p.add_argument(
        "--allow-demo-checkpoint", action="store_true", help="let the embedded toy checkpoint run on a live network"
    )
    p.add_argument("--logging.debug", dest="debug", action="store_true")
    return p


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Read and check everything the command line points to. Raises OperatorError."""
    config: Path = arguments.config or shipped_config() / "miner.yaml"
    miner = load_yaml(config, MinerSettings)
    if (monitor_port := arguments.monitor_port) is not None:
        if not 0 <= monitor_port < 65536:
            raise OperatorError(f"--monitor.port must be between 1 and 65535, or 0 for none, not {monitor_port}")
        change = {"port": monitor_port, "enabled": True} if monitor_port else {"enabled": False}
        miner = miner.model_copy(update={"monitor": miner.monitor.model_copy(update=change)})
    blacklist = config.parent / "blacklist.yaml"
    rules_file = blacklist if blacklist.is_file() else shipped_config() / "blacklist.yaml"
    rules = load_yaml(rules_file, PolicyRules)
    # The SDK's axon takes no others.
    for flag, port in (("axon.port", arguments.axon_port), ("axon.external_port", arguments.axon_external_port)):
        if port is not None and not 1024 < port < 65535:
            raise OperatorError(f"--{flag} must be between 1025 and 65534, not {port}")
    settings = Settings(
        netuid=arguments.netuid,
        wallet_name=arguments.wallet_name,
        wallet_hotkey=arguments.wallet_hotkey,
        wallet_path=arguments.wallet_path,
        network=arguments.chain_endpoint or arguments.network,
        axon_ip=arguments.axon_ip,
        axon_port=arguments.axon_port,
        axon_external_ip=arguments.axon_external_ip,
        axon_external_port=arguments.axon_external_port,
        config=config,
        miner=miner,
        configured=load_phase(arguments.phase or miner.phase, config),
        toys_allowed=arguments.allow_demo_checkpoint,
        rules_file=rules_file,
        rules=rules,
    )
    settings.check_allowed(settings.configured)
    return settings
