"""What is said between the miner and a worker that lives elsewhere: frozen values that can be pickled."""

from dataclasses import dataclass

from miner.config.phase_files import NamedPhase
from miner.gpu.worker import LoadedPhase
from miner.runtime.gpu_memory import GpuMemory
from pipeline import Attempt, FinishedCandidate, GenerationJob

# Orders, from the miner.


@dataclass(frozen=True)
class Load:
    """Load the models of a phase."""

    models: str
    phase: NamedPhase


@dataclass(frozen=True)
class Unload:
    """Drop models."""

    models: str


@dataclass(frozen=True)
class Begin:
    """Remember a task; sent once, since its prompt may be large."""

    job: GenerationJob


@dataclass(frozen=True)
class Make:
    """Make a stage of a candidate of a task that was begun; `number` is that of the order."""

    number: int
    models: str
    task: str
    attempt: Attempt


@dataclass(frozen=True)
class Cancel:
    """Stop making a candidate at its next step."""

    task: str
    seed: int


@dataclass(frozen=True)
class Forget:
    """Drop what is kept of a task."""

    task: str


@dataclass(frozen=True)
class Stop:
    """End."""


Order = Load | Unload | Begin | Make | Cancel | Forget | Stop

# Reports, from the worker.


@dataclass(frozen=True)
class Placed:
    """The worker lives, on the machine with this address; only of workers whose machine is chosen at that moment."""

    place: str


@dataclass(frozen=True)
class Loaded:
    """Models are loaded and warm; `memory` is that of the device."""

    models: str
    phase: LoadedPhase
    memory: GpuMemory | None


@dataclass(frozen=True)
class NotLoaded:
    """Models cannot be loaded, which only the operator can put right if `is_mistake`."""

    models: str
    reason: str
    is_mistake: bool


@dataclass(frozen=True)
class Free:
    """The next candidate may come, though the one of this order may still be packed."""

    number: int


@dataclass(frozen=True)
class Made:
    """A candidate is done."""

    number: int
    finished: FinishedCandidate
    memory: GpuMemory | None


@dataclass(frozen=True)
class NotMade:
    """A candidate was cancelled, or met an unexpected error, whose traceback are the details."""

    number: int
    reason: str
    details: str
    is_cancelled: bool


@dataclass(frozen=True)
class Fault:
    """The worker cannot go on; a new one has to take its place."""

    reason: str


@dataclass(frozen=True)
class LogLine:
    """A line for the miner's log."""

    logger: str
    level: int
    text: str


Report = Placed | Loaded | NotLoaded | Free | Made | NotMade | Fault | LogLine
