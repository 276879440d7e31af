"""The status of the miner as the monitor shows it, and where the monitor gets it from."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from miner.gpu import WorkerStatus
from miner.ledger import LedgerStatus, LedgerWriter
from miner.pull import ValidatorRecord
from miner.runtime import Clock, installed_version
from miner.runtime.gpu_memory import GpuMemory, read_gpu_memory

SERVICE = "sn17-miner"


@dataclass(frozen=True)
class ValidatorView:
    """A validator that tasks are pulled from; times are unix seconds.

    `next_pull` is the earliest time of the next pull, None for now. `cooldown_end` is the end of the cooldown that the
    validator imposed, None if there is none. `failures` counts pulls or submissions in a row that failed.
    """

    uid: int
    hotkey: str
    stage: str
    next_pull: float | None
    cooldown_end: float | None
    failures: int
    task: str | None


def view_validators(records: Iterable[ValidatorRecord], clock: Clock) -> tuple[ValidatorView, ...]:
    """Return a view of each validator, in the order of their uids."""
    now, wall = clock.now(), clock.wall()

    def to_unix_time(moment: float) -> float | None:
        return wall + moment - now if now < moment < math.inf else None

    views = (
        ValidatorView(
            uid=record.neuron.uid,
            hotkey=record.neuron.hotkey,
            stage=record.state.stage.value,
            next_pull=to_unix_time(record.state.pull_after),
            cooldown_end=to_unix_time(record.state.cooldown_end),
            failures=record.state.failed_pulls + record.state.failed_submissions,
            task=record.state.held.task.id if record.state.is_busy and record.state.held is not None else None,
        )
        for record in records
    )
    return tuple(sorted(views, key=lambda view: view.uid))


@dataclass(frozen=True)
class Status:
    """The state of the miner at one moment; times are unix seconds, ages and durations are seconds.

    `metagraph_age` and `last_success` are None before the first. `config_hashes` are those of the phases that tasks are
    generated with, by name; `unanswered` are the types of tasks that each of them has no checkpoint for. `experiment`
    is a miner.analytics.experiments.ExperimentSummary as JSON, None if no experiment runs. `problems` are what the
    operator should know of the phase files and of the models, in words.
    """

    status: Literal["starting", "ok", "stopping"]
    pipeline_loaded: bool
    phase: str
    queue: int = 0
    metagraph_age: float | None = None
    last_success: float | None = None
    uptime: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    own_gpus: tuple[GpuMemory, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    ledger: LedgerStatus | None = None
    validators: tuple[ValidatorView, ...] = ()
    config_hashes: Mapping[str, str] = field(default_factory=dict)
    unanswered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experiment: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()
    service: str = SERVICE
    version: str = ""

    @property
    def gpus(self) -> tuple[GpuMemory, ...]:
        """The memory of all GPUs: those of the workers, or of this process as long as there are none."""
        return self.own_gpus or tuple(worker.memory for worker in self.workers if worker.memory is not None)

    @property
    def able_to_work(self) -> bool:
        """Whether the miner takes tasks."""
        return self.status == "ok"

    def as_json(self) -> dict[str, Any]:
        """Return all fields in types of JSON."""
        # asdict copies mappings by their own class, and a Counter cannot be made of pairs.
        plain = {"counters": dict(self.counters), "restarts": dict(self.restarts)}
        return {
            **{name: value for name, value in vars(self).items() if name not in ("own_gpus", *plain)},
            **plain,
            "gpus": [asdict(gpu) for gpu in self.gpus],
            "workers": [asdict(worker) for worker in self.workers],
            "ledger": None if self.ledger is None else asdict(self.ledger),
            "validators": [asdict(view) for view in self.validators],
        }


class StatusSource(Protocol):
    """An object that knows the present status."""

    def status(self) -> Status:
        """Return the present status, at once: it is called on the event loop for each request."""


@dataclass(frozen=True)
class StartingMiner:
    """The status of a miner that is starting, since `started_at` of time.monotonic(), until it is told to stop.

    `metagraph_age` returns the seconds since the metagraph was read, None as long as it was not.
    """

    phase: str
    ledger: LedgerWriter
    stop: asyncio.Event
    started_at: float = field(default_factory=time.monotonic)
    metagraph_age: Callable[[], float | None] = lambda: None

    def status(self) -> Status:
        """Return the present status."""
        return Status(
            status="stopping" if self.stop.is_set() else "starting",
            pipeline_loaded=False, phase=self.phase, metagraph_age=self.metagraph_age(),
            uptime=time.monotonic() - self.started_at, own_gpus=read_gpu_memory(), ledger=self.ledger.status,
            version=installed_version(),
        )  # fmt: skip


@dataclass
class StatusBoard:
    """A source of the status that can be replaced, so that the monitor answers while the miner starts and stops."""

    source: StatusSource

    def status(self) -> Status:
        """Return the present status."""
        return self.source.status()
