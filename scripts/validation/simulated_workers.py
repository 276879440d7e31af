"""Workers that take as long as they are told and can be lost, for the miner's own pool in virtual time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

import torch

from miner.config.phase_files import NamedPhase
from miner.gpu import LoadedPhase, Worker, WorkerState, WorkerStatus
from pipeline import (
    Attempt,
    Cancelled,
    Candidate,
    FinishedCandidate,
    GenerationJob,
    PackedAsset,
    Score,
    Splats,
    WorkerLost,
    compute_statistics,
)

NOTHING = Splats(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3))
STATISTICS = compute_statistics(NOTHING)
MODELS = "simulated"


class SimulatedWorker(Worker):
    """A worker that has the models MODELS; call everything on an event loop, whose clock it follows.

    made: the number of candidates that it finished.
    """

    def __init__(self, device: str, seconds: Callable[[], float], score: Callable[[], float] = lambda: 0.5) -> None:
        """Take the functions that tell the seconds and the quality of each next candidate."""
        self.device = device
        self.made = 0
        self._seconds = seconds
        self._score = score
        self._on_change: Callable[[], None] = lambda: None
        self._making: tuple[GenerationJob, int, Future[FinishedCandidate]] | None = None
        self._is_up = True
        self._is_gone = False
        self._is_out_of_reach = False

    def lose(self, comes_back_after: float | None, is_out_of_reach: bool = False) -> None:
        """Lose the worker now, with its candidate; it comes back after so many seconds, or never."""
        self._is_up, self._is_gone, self._is_out_of_reach = False, comes_back_after is None, is_out_of_reach
        if self._making is not None:
            _, _, future = self._making
            self._making = None
            future.set_exception(WorkerLost(f"{self.device} was lost"))
        if comes_back_after is not None:
            asyncio.get_running_loop().call_later(comes_back_after, self._come_back)
        self._on_change()

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called whenever the worker becomes free, is lost or comes back."""
        self._on_change = on_change

    @property
    def is_free(self) -> bool:
        """Whether it would begin a candidate at once."""
        return self._is_up and self._making is None

    @property
    def is_up(self) -> bool:
        """Whether it is there."""
        return self._is_up

    @property
    def can_come_back(self) -> bool:
        """Whether it is there, or will be."""
        return not self._is_gone

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no task waits for it."""
        return self._is_out_of_reach

    def has(self, models: str) -> bool:
        """Return whether it is there, and these are MODELS."""
        return self._is_up and models == MODELS

    def load(self, models: str, phase: NamedPhase) -> "Future[LoadedPhase]":
        """Load nothing: it has its models."""
        loaded: Future[LoadedPhase] = Future()
        loaded.set_result(LoadedPhase(can_score=True))
        return loaded

    def unload(self, models: str) -> None:
        """Drop nothing."""

    def make(self, models: str, job: GenerationJob, attempt: Attempt) -> "Future[FinishedCandidate]":
        """Finish a candidate after the seconds that it takes."""
        future: Future[FinishedCandidate] = Future()
        seconds = self._seconds()
        self._making = job, attempt.seed, future
        asyncio.get_running_loop().call_later(seconds, self._finish, future, attempt.seed, seconds)
        return future

    def cancel(self, job: GenerationJob, seed: int) -> None:
        """Stop making a candidate now."""
        if self._making is not None and self._making[:2] == (job, seed):
            self._making[2].set_exception(Cancelled("nobody waits any more"))
            self._making = None
            self._on_change()

    def forget(self, task: str) -> None:
        """Drop nothing."""

    def check(self, limit: float) -> None:
        """Find nothing: what hangs is lost by `lose`."""

    def status(self) -> WorkerStatus:
        """Return the present status."""
        state: WorkerState = (
            "idle" if self.is_free else "busy" if self._is_up else "lost" if self._is_gone else "restarting"
        )
        return WorkerStatus("simulated", self.device, state, candidates=self.made)

    def stop(self, timeout: float) -> bool:
        """End at once."""
        return True

    def _finish(self, future: "Future[FinishedCandidate]", seed: int, seconds: float) -> None:
        if self._making is None or self._making[2] is not future:
            return
        self._making = None
        self.made += 1
        asset = PackedAsset(b"simulated", (), seed, 0, STATISTICS, {})
        future.set_result(FinishedCandidate(Candidate(seed, seconds, Score(quality=self._score())), asset))
        self._on_change()

    def _come_back(self) -> None:
        self._is_up, self._is_out_of_reach = True, False
        self._on_change()
