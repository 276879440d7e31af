"""The models that a remote worker is to have, and what becomes of loading each."""

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from miner.config.phase_files import NamedPhase
from miner.gpu import messages
from miner.gpu.worker import LoadedPhase

SendOrder = Callable[[messages.Order], None]


@dataclass(eq=False)
class WantedPhase:
    """A phase whose models are to be there.

    loaded: ends when they are first loaded or refused. attempts: how often that was tried. refusal: why they could not
    be loaded the last time, "" if they could. retry_at: when to try it again in the same life, if it was refused.
    """

    phase: NamedPhase
    loaded: "Future[LoadedPhase]" = field(default_factory=Future)
    attempts: int = 0
    refusal: str = ""
    retry_at: float = float("inf")

    def fail(self, error: Exception) -> None:
        """Tell whoever waits for it, if anybody still does."""
        with suppress(InvalidStateError):
            self.loaded.set_exception(error)


class WantedModels:
    """Phases by the id of their models, over all lives of a worker; its owner guards it against other threads."""

    def __init__(self) -> None:
        """Want nothing yet."""
        self._phases: dict[str, WantedPhase] = {}
        self._loading_since: dict[str, float] = {}
        self.ready: set[str] = set()

    def add(self, models: str, phase: NamedPhase) -> WantedPhase:
        """Want the models of a phase from now on."""
        wanted = self._phases[models] = WantedPhase(phase)
        return wanted

    def drop(self, models: str) -> None:
        """Want models no more."""
        self._phases.pop(models, None)
        self._loading_since.pop(models, None)
        self.ready.discard(models)

    def load(self, models: str, send: SendOrder) -> None:
        """Order that wanted models be loaded."""
        wanted = self._phases[models]
        wanted.attempts += 1
        wanted.retry_at = float("inf")
        self._loading_since[models] = time.monotonic()
        send(messages.Load(models, wanted.phase))

    def load_all(self, send: SendOrder) -> None:
        """Order all of them, in a life that has begun: the last ones first, since all new tasks need them."""
        for models in reversed(self._phases):
            self.load(models, send)

    def load_due(self, send: SendOrder) -> None:
        """Order again what was refused, if it is time to."""
        now = time.monotonic()
        for models, wanted in self._phases.items():
            if wanted.retry_at <= now:
                self.load(models, send)

    def take(self, models: str, loaded: LoadedPhase) -> None:
        """Take note that models are loaded and warm."""
        self._loading_since.pop(models, None)
        if models in self._phases:
            self.ready.add(models)
            self._phases[models].refusal = ""
            with suppress(InvalidStateError):
                self._phases[models].loaded.set_result(loaded)

    def refuse(self, models: str) -> WantedPhase | None:
        """Take note that models cannot be loaded; return their phase, None if they are not wanted any more."""
        self._loading_since.pop(models, None)
        return self._phases.get(models)

    @property
    def refusals(self) -> tuple[str, ...]:
        """The phases that could not be loaded, each with the reason."""
        return tuple(f"phase {one.phase.name}: {one.refusal}" for one in self._phases.values() if one.refusal)

    def fail_all(self, error: Exception) -> None:
        """Tell all who still wait."""
        for wanted in self._phases.values():
            wanted.fail(error)

    def end_life(self) -> None:
        """Take note that nothing is loaded any more."""
        self.ready.clear()
        self._loading_since.clear()

    def is_overdue(self, limit: float) -> bool:
        """Return whether loading something takes longer than `limit` seconds."""
        now = time.monotonic()
        return any(now - since > limit for since in self._loading_since.values())
