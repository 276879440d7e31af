"""What makes candidates on one device, wherever that is, as the pool sees it."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.runtime.gpu_memory import GpuMemory
from pipeline import Attempt, FinishedCandidate, GenerationJob

WorkerState = Literal["starting", "idle", "busy", "left_out", "restarting", "unreachable", "lost"]


class LeftOut(OperatorError):  # noqa: N818 - a state of the worker
    """A worker cannot be used until the operator has put something right, while others can."""


@dataclass(frozen=True)
class LoadedPhase:
    """What a worker tells of the models that it has loaded for a phase.

    can_score: whether results are scored. problems: which parts of the score cannot be computed, and the cure.
    """

    can_score: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerStatus:
    """A worker at one moment.

    place: the machine or process that it runs in. device: its name in the settings. state: `left_out` if it lives but
    has no models of any phase, `restarting` if it was lost and is started again, `unreachable` if what it would live in
    is not there or not fit, `lost` if it was lost too often. busy_seconds: since the present candidate was begun, 0.0
    if there is none. candidates: those it has made. per_minute: those of the last minutes, each minute. memory: that of
    its device, as last told. problem: why it does not work at present, "" if it does. left_out: the phases that it
    cannot load at present, each with the reason. losses, last_loss: how often it was lost, and why the last time; past
    ones are no problem any more.
    """

    place: str
    device: str
    state: WorkerState
    busy_seconds: float = 0.0
    candidates: int = 0
    per_minute: float = 0.0
    memory: GpuMemory | None = None
    problem: str = ""
    left_out: tuple[str, ...] = ()
    losses: int = 0
    last_loss: str = ""


class Worker(Protocol):
    """Makes candidates one at a time with the models of any number of phases; its methods return at once.

    Models have an id of the caller's, under which they are loaded, used and dropped. A worker that comes back after it
    was lost loads all that were not dropped again.
    """

    device: str

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called, from any thread, whenever `is_free`, `has` or `can_come_back` may have changed."""

    @property
    def is_free(self) -> bool:
        """Whether it would begin a candidate at once."""

    @property
    def is_up(self) -> bool:
        """Whether it is there at present, be it free, busy or loading."""

    @property
    def can_come_back(self) -> bool:
        """Whether it is there, or will be again without help."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it is not there for a reason that may last, so that no task waits for it."""
        return False

    def has(self, models: str) -> bool:
        """Return whether models are loaded and warm."""

    def load(self, models: str, phase: NamedPhase) -> "Future[LoadedPhase]":
        """Load the models of a phase and warm them up. The future may fail with OperatorError, or its kind LeftOut."""

    def unload(self, models: str) -> None:
        """Drop models after their last candidate, and free their memory."""

    def make(self, models: str, job: GenerationJob, attempt: Attempt) -> "Future[FinishedCandidate]":
        """Make a stage of a candidate; call this only if the worker is free.

        The future fails with WorkerLost if the worker is lost with it, with Cancelled if it was cancelled, and with
        whatever unexpected error the candidate met. The worker may be free again before it ends.
        """

    def cancel(self, job: GenerationJob, seed: int) -> None:
        """Stop making a candidate at its next step, if it still is."""

    def forget(self, task: str) -> None:
        """Drop what is kept of a task."""

    def check(self, limit: float) -> None:
        """Give up a candidate that takes longer than `limit` seconds, and what it is made by with it."""

    def status(self) -> WorkerStatus:
        """Return the present status."""

    def stop(self, timeout: float) -> bool:
        """End it; return whether it ended within `timeout` seconds. This may block for as long."""
