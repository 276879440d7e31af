"""What the miner tells of itself, as frozen values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from miner.ledger.writer import LedgerStatus
from miner.pull.session import ValidatorRecord
from miner.runtime.clock import Clock
from miner.runtime.gpu_memory import GpuMemory

SERVICE = "sn17-miner"


@dataclass(frozen=True)
class ValidatorView:
    """One validator that is pulled from; moments are unix seconds, None is "now" or "there is none".

    `next_pull`: not before; `cooldown_end`: of the cooldown it imposed; `failures`: pulls or submissions in a row that
    came to nothing.
    """

    uid: int
    hotkey: str
    stage: str
    next_pull: float | None
    cooldown_end: float | None
    failures: int
    task: str | None


def validator_views(records: Iterable[ValidatorRecord], clock: Clock) -> tuple[ValidatorView, ...]:
    """The state of each validator, in the order of their uids."""
    now, wall = clock.now(), clock.wall()

    def moment(steady: float) -> float | None:
        return wall + steady - now if now < steady < math.inf else None

    views = (
        ValidatorView(
            uid=record.neuron.uid,
            hotkey=record.neuron.hotkey,
            stage=record.state.stage.value,
            next_pull=moment(record.state.pull_after),
            cooldown_end=moment(record.state.cooldown_end),
            failures=record.state.failed_pulls + record.state.failed_submissions,
            task=record.state.held.task.id if record.state.busy and record.state.held is not None else None,
        )
        for record in records
    )
    return tuple(sorted(views, key=lambda view: view.uid))


@dataclass(frozen=True)
class Status:
    """What the miner tells of itself; times are unix seconds, ages and durations seconds, None is "not yet".

    `config_hashes` are those of the phases that tasks are generated with, by name; `experiment` says how the split
    that runs stands, see miner.phases.experiment_monitor.ExperimentStatus.
    """

    status: Literal["starting", "ok", "stopping"]
    pipeline_loaded: bool
    phase: str
    queue: int
    metagraph_age: float | None
    last_success: float | None
    uptime: float
    counters: Mapping[str, int]
    restarts: Mapping[str, int] = field(default_factory=dict)
    gpus: tuple[GpuMemory, ...] = ()
    ledger: LedgerStatus | None = None
    validators: tuple[ValidatorView, ...] = ()
    config_hashes: Mapping[str, str] = field(default_factory=dict)
    experiment: Mapping[str, Any] | None = None
    service: str = SERVICE
    version: str = ""

    @property
    def able_to_work(self) -> bool:
        """Whether tasks are taken."""
        return self.status == "ok"

    def as_json(self) -> dict[str, Any]:
        """All of it, in types of JSON."""
        # asdict copies mappings by their own class, and a Counter cannot be gallery_result of pairs.
        plain = {"counters": dict(self.counters), "restarts": dict(self.restarts)}
        return {
            **{name: value for name, value in vars(self).items() if name not in plain},
            **plain,
            "gpus": [asdict(gpu) for gpu in self.gpus],
            "ledger": None if self.ledger is None else asdict(self.ledger),
            "validators": [asdict(view) for view in self.validators],
        }


def installed_version() -> str:
    """The version of the installed package, "unknown" for a bare checkout."""
    try:
        return version(SERVICE)
    except PackageNotFoundError:
        return "unknown"
