"""config/miner.yaml as typed values, and the files that it and the command line point to."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from miner.config.loader import Section, check, read_mapping, shipped_config

log = logging.getLogger(__name__)

LEDGER_NAME = "ledger.sqlite"


class ServingSettings(Section):
    """The axon, on which validators push tasks."""

    enabled: bool = True
    queue_size: int = Field(default=16, gt=0)
    per_validator: int = Field(default=8, gt=0)
    requests_per_minute: float = Field(default=60.0, ge=1, allow_inf_nan=False)
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    max_connections: int = Field(default=1024, gt=0, le=65536)
    header_timeout: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    body_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    send_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    replay_window: float = Field(default=30.0, gt=0, allow_inf_nan=False)


class PullingSettings(Section):
    """Pulling of tasks from validators' axons."""

    enabled: bool = True
    pull_timeout: float = Field(default=12.0, gt=0, allow_inf_nan=False)
    submit_timeout: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    max_answer_bytes: int = Field(default=20_000_000, ge=1024)


class ChainSettings(Section):
    """Synchronisation with the metagraph."""

    sync_interval: float = Field(default=300.0, gt=0, allow_inf_nan=False)


class SpzSettings(Section):
    """Compression of the SPZ files that are submitted."""

    level: int = Field(default=1, ge=1, le=22)
    workers: int = Field(default=0, ge=0, le=256)


class GenerateSettings(Section):
    """The monitor's POST /generate; `up` is the axis that points up in its files unless a request names one."""

    enabled: bool = False
    queue_size: int = Field(default=4, gt=0)
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    # The values of pipeline.UpAxis; settings are read without loading torch.
    up: Literal["y", "-y"] = "-y"


class MonitorSettings(Section):
    """The HTTP server for the operator; `gallery` keeps results and draws them for the page.

    `allowed_hosts` are further names, without ports, by which browsers may call it.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=10008, gt=0, lt=65536)
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    gallery: bool = True
    generate: GenerateSettings = GenerateSettings()


class RetentionSettings(Section):
    """The age and the total size within which files of one kind are kept, the newest first."""

    max_days: float = Field(gt=0, allow_inf_nan=False)
    max_bytes: int = Field(gt=0)


class HousekeepingSettings(Section):
    """Deletion of old files; `interval` is the seconds between two rounds."""

    enabled: bool = True
    interval: float = Field(default=300.0, ge=1, allow_inf_nan=False)
    results: RetentionSettings = RetentionSettings(max_days=14, max_bytes=12_000_000_000)
    pictures: RetentionSettings = RetentionSettings(max_days=30, max_bytes=2_000_000_000)
    logs: RetentionSettings = RetentionSettings(max_days=30, max_bytes=2_000_000_000)
    ledger: RetentionSettings = RetentionSettings(max_days=730, max_bytes=2_000_000_000)


class NotificationSettings(Section):
    """Messages to the operator: a command that gets each as JSON on its stdin, and a URL to which it is posted.

    `silence_minutes` is the time without a result, and `disk_free_gb` the free space, that are told of.
    """

    command: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    webhook: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    silence_minutes: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    disk_free_gb: float = Field(default=2.0, ge=0, allow_inf_nan=False)

    @property
    def enabled(self) -> bool:
        """Whether anybody is to be told."""
        return bool(self.command or self.webhook)


class LedgerSettings(Section):
    """The ledger's file; None stands for ledger.sqlite in the state folder."""

    path: Path | None = None


# The lowest acceptance rate of each band that verdicts name.
BANDS = {"excellent": 0.70, "good": 0.60, "minimum": 0.55, "modest": 0.45}


class RaySettings(Section):
    """A Ray cluster, and how many of its GPUs work for the miner; CPUs are for trying it out."""

    address: Annotated[str, Field(pattern=r"^(auto|[^\s:/]+:\d{1,5})$")] = "auto"
    gpus: int = Field(default=0, ge=0, le=1024)
    cpus: int = Field(default=0, ge=0, le=1024)

    @model_validator(mode="after")
    def _ask_for_one_kind(self) -> "RaySettings":
        if (self.gpus > 0) == (self.cpus > 0):
            raise ValueError("give the number of GPUs that work for the miner: {gpus: 8}; or cpus, to try it out")
        return self

    @property
    def count(self) -> int:
        """The number of GPUs, or of CPUs."""
        return self.gpus or self.cpus


class WorkerSettings(Section):
    """The devices that candidates are made on: several have a process each, and those of a Ray cluster an actor.

    `auto` is what `device` says, or none beside a Ray cluster.
    """

    devices: Literal["auto", "all"] | tuple[str, ...] = "auto"
    ray: RaySettings | None = None

    @field_validator("devices", mode="before")
    @classmethod
    def _name_each_once(cls, content: Any) -> Any:
        if content in ("auto", "all"):
            return content
        if not isinstance(content, list | tuple) or not content:
            raise ValueError("must be auto, all, or a list such as [cuda:0, cuda:1]")
        names = ["cuda:0" if name == "cuda" else name for name in content]
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda:(0|[1-9]\d{0,3})", name):
                raise ValueError(f"{name!r} is no device: name cuda:0, cuda:1 and so on, or cpu")
            if names.count(name) > 1:
                raise ValueError(f"names {name} twice: leave one of the two out")
        return tuple(names)


class MinerSettings(Section):
    """The content of config/miner.yaml."""

    phase: str
    state_dir: Path = Path("~/.local/state/sn17-miner")
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    kernels: Literal["auto", "plain", "fused"] = "auto"
    workers: WorkerSettings = WorkerSettings()
    serving: ServingSettings = ServingSettings()
    pulling: PullingSettings = PullingSettings()
    chain: ChainSettings = ChainSettings()
    spz: SpzSettings = SpzSettings()
    ledger: LedgerSettings = LedgerSettings()
    monitor: MonitorSettings = MonitorSettings()
    notifications: NotificationSettings = NotificationSettings()
    housekeeping: HousekeepingSettings = HousekeepingSettings()
    bands: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, lt=1)]] = BANDS

    @model_validator(mode="after")
    def _name_devices_once(self) -> "MinerSettings":
        if self.device != "auto" and self.workers.devices != "auto":
            raise ValueError("device and workers.devices both name devices: leave one of the two out")
        if self.device != "auto" and self.workers.ray is not None:
            raise ValueError("device has no effect beside workers.ray: name it in workers.devices to use both")
        return self

    @field_validator("bands")
    @classmethod
    def _differ(cls, bands: dict[str, float]) -> dict[str, float]:
        if not bands or len(set(bands.values())) < len(bands):
            raise ValueError("must name at least one band, and each with a floor of its own")
        return bands


@dataclass(frozen=True)
class OperatorFiles:
    """The settings file, what it says, and the folder in which the miner keeps what outlives a restart."""

    config: Path
    settings: MinerSettings
    state_dir: Path

    @staticmethod
    def load(config: Path | None = None, state_dir: Path | None = None) -> "OperatorFiles":
        """Read the settings file, by default the shipped one; `state_dir` replaces its own. Raises OperatorError."""
        path = config or shipped_config() / "miner.yaml"
        content = read_mapping(path, MinerSettings)
        settings = check(_with_old_keys(path, content), MinerSettings, lambda _: path)
        return OperatorFiles(path, settings, (state_dir or settings.state_dir).expanduser())

    @property
    def options(self) -> tuple[str, ...]:
        """The options with which other commands find the same files."""
        config = () if self.config == shipped_config() / "miner.yaml" else ("--config", str(self.config.absolute()))
        is_default = self.state_dir == self.settings.state_dir.expanduser()
        return config if is_default else (*config, "--state", str(self.state_dir.absolute()))

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return (self.settings.ledger.path or self.state_dir / LEDGER_NAME).expanduser()

    @property
    def metagraph(self) -> Path:
        """The file in which the miner keeps the metagraph as last seen."""
        return self.state_dir / "seen-metagraph.json"

    @property
    def blacklist(self) -> Path:
        """The file of the validator policy: beside the settings file, else the shipped one."""
        beside = self.config.parent / "blacklist.yaml"
        return beside if beside.is_file() else shipped_config() / "blacklist.yaml"


def _with_old_keys(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with keys of earlier releases moved to where they are now, and say so in the log."""
    pulling = content.get("pulling")
    if not isinstance(pulling, dict) or "state_folder" not in pulling:
        return content
    log.warning("%s: pulling.state_folder still works; its new name is state_dir, at the top of the file", path)
    rest = {key: value for key, value in pulling.items() if key != "state_folder"}
    return {"state_dir": pulling["state_folder"], **content, "pulling": rest}
