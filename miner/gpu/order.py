"""A task for the workers, and what has become of it so far."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from miner.gpu.models import PhaseModels
from miner.gpu.pace import Sample
from pipeline import BestOfN, BestResult, GenerationJob


@dataclass(frozen=True, eq=False)
class GenerationOrder:
    """A task for the workers.

    models: those that its candidates are made with. kind: candidates of one kind take about as long as one another.
    priority: see Claim.
    """

    job: GenerationJob
    models: PhaseModels
    kind: str = ""
    priority: float = 0.0


@dataclass(eq=False)
class TaskInHand:
    """A task that somebody waits for.

    arrived: a moment of the event loop's clock. done: ends with the result. making: the number of the worker that makes
    each seed. losses: how many workers each seed was lost with. workers: those that have worked on it.
    """

    order: GenerationOrder
    choice: BestOfN
    arrived: float
    done: "asyncio.Future[BestResult]"
    making: dict[int, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    losses: Counter[int] = field(default_factory=Counter)
    workers: set[int] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether somebody waits for it."""
        return not self.done.done()
