"""YAML files and the command line -> one frozen Settings; errors name the file, the key and what is allowed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from miner.errors import OperatorError
from miner.rules import PolicyRules
from pipeline import EMBEDDED_CHECKPOINT, SamplerParams, Source, VoxelLimit


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplerSettings(_Section):
    """One sampler; upstream's own names."""

    steps: int = Field(ge=1, le=1000)
    cfg_strength: float = Field(ge=0, allow_inf_nan=False)
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    rescale_t: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @field_validator("cfg_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        lo, hi = interval
        if not 0 <= lo <= hi <= 1:
            raise ValueError("must be two numbers with 0 <= low <= high <= 1")
        return interval

    def params(self, reuse: int = 0) -> SamplerParams:
        """As the pipeline takes it."""
        return SamplerParams(**dict(self), reuse=reuse)


Role = Literal["sparse_structure_flow_model", "sparse_structure_decoder", "slat_flow_model", "slat_decoder_gs"]


class CheckpointSettings(_Section):
    """What tasks of one type are generated with: a checkpoint, and networks that take the place of its own."""

    checkpoint: str = Field(min_length=1)
    overrides: dict[Role, str] = {}

    def source(self) -> Source:
        """As the pipeline takes it."""
        return Source(self.checkpoint, {str(role): reference for role, reference in self.overrides.items()})


class BackgroundSettings(_Section):
    """Background removal."""

    model: str
    provider: Literal["cpu", "cuda"] = "cpu"


class VoxelSettings(_Section):
    """A limit to the structure; above it the task fails, or the least likely voxels are dropped."""

    count: int = Field(gt=0)
    excess: Literal["refuse", "drop"] = "refuse"

    def limit(self) -> VoxelLimit:
        """As the pipeline takes it."""
        return VoxelLimit(**dict(self))


class ExportSettings(_Section):
    """What happens to the splats before they are written; None leaves them as generated."""

    extent: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class AccelerationSettings(_Section):
    """What is faster and not exact: products of 8-bit floats, and guided steps without an evaluation of their own."""

    fp8: bool = False
    reuse: int = Field(default=0, ge=0, le=4)


class Phase(_Section):
    """What shapes a result: config/phases/NAME.yaml."""

    note: str = ""
    image: CheckpointSettings | None = None
    text: CheckpointSettings | None = None
    sparse_structure_sampler_params: SamplerSettings
    slat_sampler_params: SamplerSettings
    background: BackgroundSettings
    max_voxels: VoxelSettings | None = None
    export: ExportSettings = ExportSettings()
    backend: Literal["native", "trellis"] = "native"
    acceleration: AccelerationSettings = AccelerationSettings()

    @model_validator(mode="after")
    def _generates_something(self) -> Phase:
        if self.image is None and self.text is None:
            raise ValueError("needs image: {checkpoint: ...}, text: {checkpoint: ...}, or both")
        return self

    @property
    def samplers(self) -> tuple[SamplerParams, SamplerParams]:
        """Of the sparse structure and of the structured latents, as the pipeline takes them."""
        reuse = self.acceleration.reuse
        return self.sparse_structure_sampler_params.params(reuse), self.slat_sampler_params.params(reuse)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The references of the checkpoints it names."""
        return tuple(section.checkpoint for section in (self.image, self.text) if section)


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


class MonitorSettings(_Section):
    """The HTTP status."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=10008, gt=0, lt=65536)


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
    monitor: MonitorSettings = MonitorSettings()


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
    miner: MinerSettings
    phase_name: str
    phase: Phase
    rules_file: Path
    rules: PolicyRules

    @property
    def chain_file(self) -> Path | None:
        """The snapshot file if the network is `file:PATH`."""
        return Path(self.network.removeprefix("file:")) if self.network.startswith("file:") else None

    def cooldowns(self, hotkey: str) -> Path:
        """The file that remembers the cooldowns of this hotkey; beside the snapshot file where that is the chain."""
        folder = self.miner.pulling.state_folder.expanduser() if self.chain_file is None else self.chain_file.parent
        return folder / f"cooldowns-{self.netuid}-{hotkey}.json"


def shipped_config() -> Path:
    """The config folder of the checkout or of the installed package."""
    installed = Path(__file__).parent / "config"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "config"


Section = TypeVar("Section", bound=BaseModel)


def _allowed_keys(section: type[BaseModel], location: tuple[Any, ...]) -> str:
    for name in location[:-1]:
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        # Optional sections and lists of them name theirs inside.
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
    return ", ".join(section.model_fields)


def load_yaml(path: Path, section: type[Section]) -> Section:
    """A settings file, checked. Raises OperatorError naming file, key and what is allowed."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OperatorError(f"the settings file {path} does not exist") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no such day in the calendar
        raise OperatorError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise OperatorError(f"{path} must hold keys and values, such as `{next(iter(section.model_fields))}: ...`")
    try:
        return section.model_validate(content)
    except ValidationError as invalid:
        problems = []
        for problem in invalid.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                problems.append(f"unknown key {key}; allowed here: {_allowed_keys(section, problem['loc'])}")
            else:
                problems.append(f"{key}: {problem['msg']}")
        raise OperatorError(f"{path}: {'; '.join(problems)}") from None


def find_phase(name: str, config: Path) -> Path:
    """The file of a phase, beside the settings file or among those shipped. Raises OperatorError if there is none."""
    folders = dict.fromkeys([config.parent / "phases", shipped_config() / "phases"])
    for folder in folders:
        if name and (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise OperatorError(f"there is no phase {name!r}; there are: {', '.join(known)} (files in {config.parent}/phases)")


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
    phase_name = arguments.phase or miner.phase
    phase = load_yaml(find_phase(phase_name, config), Phase)
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
        miner=miner,
        phase_name=phase_name,
        phase=phase,
        rules_file=rules_file,
        rules=rules,
    )
    toy = EMBEDDED_CHECKPOINT in phase.checkpoints
    if toy and settings.chain_file is None and not arguments.allow_demo_checkpoint:
        raise OperatorError(
            f"phase {phase_name} generates with the embedded toy checkpoint, which must not answer the live network "
            f"{settings.network}: choose another --phase, or --subtensor.network file:PATH (or insist with "
            "--allow-demo-checkpoint)"
        )
    return settings
