"""The worker that drives a device in this process."""

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.gpu.device_thread import DeviceLost, DeviceThread
from miner.gpu.models import LoadedModels, free_memory
from miner.gpu.statistics import CandidateCounter
from miner.gpu.worker import LoadedPhase, Worker, WorkerState, WorkerStatus
from miner.runtime.gpu_memory import GpuMemory, read_gpu_memory
from pipeline import (
    Attempt,
    Cancelled,
    CandidateMaker,
    FinishedCandidate,
    GenerationJob,
    OnStep,
    PackSampled,
    PipelineError,
    WorkerLost,
)

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")
LoadModels = Callable[[NamedPhase], LoadedModels]
_DONE = object()


@dataclass(frozen=True, eq=False)
class _Making:
    """A candidate in the making: since when, who waits for it, and what tells it to stop."""

    since: float = field(default_factory=time.monotonic)
    future: "Future[FinishedCandidate]" = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self, _stage: str, _done: int, _steps: int) -> None:
        """Raise Cancelled if nobody waits any more."""
        if self.cancelled.is_set():
            raise Cancelled("nobody waits for this candidate any more")

    def end(self, finish: Callable[[], FinishedCandidate]) -> None:
        """Hand over what `finish` returns or raises, unless the worker was given up meanwhile."""
        with suppress(InvalidStateError):
            try:
                self.future.set_result(finish())
            except InvalidStateError:
                raise
            except Exception as error:  # belongs to whoever waits
                self.future.set_exception(error)


class LocalWorker(Worker):
    """Loads models and makes candidates in this process, on a device thread.

    A CUDA error that no kernel survives, or a candidate that hangs, ends it for good: only a new process helps.
    """

    def __init__(self, device: str, load_models: LoadModels, place: str = "this process") -> None:
        """Take the device's name, and the function that loads the models of a phase, which blocks."""
        self.device = device
        self._place = place
        self._load_models = load_models
        self._thread = DeviceThread()
        # Packs candidates while the device samples the next one, after which it scores them.
        self._packer = ThreadPoolExecutor(1, "packer")
        # Of the latest candidate that was handed over to be packed; device thread only.
        self._last_packing: Future[None] | None = None
        self._makers: dict[str, CandidateMaker] = {}
        # The ids of models that are loaded, or to be.
        self._wanted: set[str] = set()
        self._on_change: Callable[[], None] = lambda: None
        self._counter = CandidateCounter()
        # The candidate that the device is busy with.
        self._busy: _Making | None = None
        # By task and seed; what is packed beside the next candidate is among them.
        self._making: dict[tuple[str, int], _Making] = {}
        self._fault = ""

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called whenever `is_free`, `has` or `can_come_back` may have changed."""
        self._on_change = on_change

    @property
    def is_free(self) -> bool:
        """Whether it would begin a candidate at once."""
        return self._busy is None and not self._fault

    @property
    def is_up(self) -> bool:
        """Whether it works."""
        return not self._fault

    @property
    def can_come_back(self) -> bool:
        """Whether it works."""
        return not self._fault

    def has(self, models: str) -> bool:
        """Return whether models are loaded and warm."""
        return models in self._makers

    def load(self, models: str, phase: NamedPhase) -> "Future[LoadedPhase]":
        """Load the models of a phase and warm them up. The future fails with OperatorError if something is missing.

        Models are loaded while others generate. The steps of the warm-up wait for their turns on the device, since they
        record graphs and so must have it to themselves; a candidate waits for one of them at most.
        """
        future: Future[LoadedPhase] = Future()
        self._wanted.add(models)
        arguments = (models, phase, future)
        threading.Thread(target=self._load, args=arguments, name="loading", daemon=True).start()
        return future

    def unload(self, models: str) -> None:
        """Drop models after their last candidate, and free their memory."""
        self._wanted.discard(models)
        self._makers.pop(models, None)
        self._thread.submit_background(lambda _: free_memory())

    def make(self, models: str, job: GenerationJob, attempt: Attempt) -> "Future[FinishedCandidate]":
        """Make a candidate; see Worker."""
        key, making, maker = (job.task, attempt.seed), _Making(), self._makers[models]
        self._busy = self._making[key] = making
        making.future.add_done_callback(lambda _: self._making.pop(key, None))
        work = self._thread.submit(lambda on_step: self._make(maker, job, attempt, making, on_step))
        work.add_done_callback(partial(self._end, making))
        return making.future

    def run_in_background(self, job: Callable[[], Outcome]) -> "Future[Outcome]":
        """Run something else on the device, once there is a moment without candidates."""
        return self._thread.submit_background(lambda _: job())

    def cancel(self, job: GenerationJob, seed: int) -> None:
        """Stop making a candidate at its next step, if it still is."""
        if (making := self._making.get((job.task, seed))) is not None:
            making.cancelled.set()

    def forget(self, task: str) -> None:
        """Drop what is kept of a task."""
        # On the device's thread, where a candidate of the task may still be made.
        self._thread.submit_background(lambda _: self._forget(task))

    def check(self, limit: float) -> None:
        """Give up for good if a job takes longer than `limit` seconds."""
        oldest = min((making.since for making in tuple(self._making.values())), default=math.inf)
        if max(self._thread.running_for, time.monotonic() - oldest) > limit and not self._fault:
            self._lose(f"a generation has hung for {limit:.0f} s; only a new process can go on")

    def status(self) -> WorkerStatus:
        """Return the present status."""
        busy = self._busy
        state: WorkerState = "lost" if self._fault else "busy" if busy is not None else "idle"
        if state == "idle" and not self._makers:
            state = "starting"
        return WorkerStatus(
            self._place, self.device, state, 0.0 if busy is None else time.monotonic() - busy.since,
            self._counter.total, self._counter.per_minute, self.memory(),
            problem=self._fault, losses=int(bool(self._fault)), last_loss=self._fault,
        )  # fmt: skip

    def memory(self) -> GpuMemory | None:
        """Return the memory of the device, None for a CPU or before it is used."""
        gpus = read_gpu_memory()
        return next((gpu for gpu in gpus if gpu.device == self.device), gpus[0] if gpus else None)

    def stop(self, timeout: float) -> bool:
        """Stop the present candidate at its next step; return whether the thread ended in time."""
        self._packer.shutdown(wait=False, cancel_futures=True)
        return self._thread.stop(timeout)

    def _forget(self, task: str) -> None:
        for maker in tuple(self._makers.values()):
            maker.forget(task)

    def _make(
        self, maker: CandidateMaker, job: GenerationJob, attempt: Attempt, making: _Making, on_step: OnStep
    ) -> None:
        def check(stage: str, done: int, steps: int) -> None:
            making.check(stage, done, steps)
            on_step(stage, done, steps)

        begun = maker.begin(job, attempt, check)
        self._counter.count()
        if isinstance(begun, FinishedCandidate):
            making.end(lambda: begun)
            return
        if self._last_packing is not None:
            # The device must not run ahead of what packs, or candidates would pile up and come too late.
            wait([self._last_packing])
        with suppress(RuntimeError):  # the miner is stopping
            self._last_packing = self._packer.submit(self._pack, making, begun)

    def _pack(self, making: _Making, pack: PackSampled) -> None:
        """Pack a candidate, and have it scored once the device is free."""
        try:
            packed = pack()
        except Exception as error:  # belongs to whoever waits
            with suppress(InvalidStateError):
                making.future.set_exception(error)
            return
        if isinstance(packed, FinishedCandidate):
            making.end(lambda: packed)
        else:
            scoring = self._thread.submit(lambda _: making.end(packed))
            scoring.add_done_callback(partial(self._end, making))

    def _end(self, making: _Making, work: "Future[None]") -> None:
        """Take note that the device's thread is done with a candidate."""
        error = work.exception()
        if isinstance(error, DeviceLost):
            self._lose(f"the generator cannot go on in this process: {error}")
        if error is not None and not making.future.done():
            making.future.set_exception(error)
        # Last, so that whoever gives out the next candidate knows of this one.
        if self._busy is making:
            self._busy = None
        self._on_change()

    def _load(self, models: str, phase: NamedPhase, future: "Future[LoadedPhase]") -> None:
        try:
            loaded = self._load_models(phase)
            seconds = self._warm_up(loaded)
        except PipelineError as error:
            future.set_exception(OperatorError(f"phase {phase.name} cannot be loaded: {error}"))
            return
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        except DeviceLost as error:
            self._lose(f"the generator cannot go on in this process: {error}")
            future.set_exception(WorkerLost(self._fault))
            return
        except Exception as error:  # handed to whoever waits
            future.set_exception(error)
            return
        else:
            checkpoints = " and ".join(phase.settings.checkpoints)
            log.info("Loaded %s and warmed up in %.1f s", checkpoints, seconds)
            self._makers[models] = CandidateMaker(loaded.backend, loaded.scorer)
            if models not in self._wanted:
                # They were dropped while they loaded.
                self.unload(models)
            future.set_result(LoadedPhase(loaded.scorer is not None, loaded.problems))
            self._on_change()
            return
        # Outside the handler, since the error holds on to the tensors of every frame that it passed through.
        free_memory()
        future.set_exception(
            OperatorError(
                f"phase {phase.name} cannot be loaded, the GPU has too little memory ({reason}): while a miner runs, "
                "the models of its present phase stay in memory; start the miner with this phase instead, or free the "
                "GPU"
            )
        )

    def _warm_up(self, models: LoadedModels) -> float:
        """Warm up the models step by step; return the seconds it took without those in which others used the device."""
        steps = models.warm_up_steps()

        def take_step(_on_step: OnStep) -> tuple[bool, float]:
            started = time.monotonic()
            is_done = next(steps, _DONE) is _DONE
            return is_done, time.monotonic() - started

        total, is_done = 0.0, False
        while not is_done:
            is_done, seconds = self._thread.submit_background(take_step).result()
            total += seconds
        return total

    def _lose(self, reason: str) -> None:
        """Give up for good, with all candidates in the making."""
        self._fault = reason
        for making in tuple(self._making.values()):
            making.cancelled.set()
            with suppress(InvalidStateError):
                making.future.set_exception(WorkerLost(f"the worker on {self.device} was lost: {reason}"))
        self._on_change()
