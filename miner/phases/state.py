"""Which phase is to run, and which ran before it: a small file that scripts/phase.py and the miner share."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from miner.analytics.assignment import Experiment
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError

STATE_NAME = "phase.yaml"
# PhaseSelector that can be gone back to.
MOST_BEFORE = 20
HEADER = "# Which phase runs and which ran before; written by scripts/phase.py and by the miner.\n"

Action = Literal["start", "apply", "rollback", "automatic"]


class StateError(OperatorError):
    """The state file cannot be read or written."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Chosen(_Section):
    """One phase with its settings as they were; one that follows takes over what is changed in its file."""

    phase: str
    follows: bool = True
    settings: Phase

    @staticmethod
    def of(phase: NamedPhase, follows: bool = True) -> Chosen:
        """This phase."""
        return Chosen(phase=phase.name, follows=follows, settings=phase.settings)

    @property
    def named(self) -> NamedPhase:
        """The phase."""
        return NamedPhase(self.phase, self.settings)

    @property
    def phases(self) -> tuple[NamedPhase, ...]:
        """The phases that tasks may be generated with."""
        return (self.named,)

    @property
    def short(self) -> str:
        """Its name."""
        return self.phase

    @property
    def label(self) -> str:
        """For people."""
        return f"phase {self.named.label}"

    def is_same(self, other: Choice) -> bool:
        """Whether tasks are generated alike."""
        return isinstance(other, Chosen) and self.named.label == other.named.label


class Arm(_Section):
    """One phase of a split, and its share."""

    weight: int = Field(gt=0)
    settings: Phase


class ChosenSplit(_Section):
    """Several phases that tasks are drawn from, their settings as they were when it began.

    `promote`: the arm that wins becomes the phase; `rollback`: once an arm is clearly worse, the phase from before
    comes back.
    """

    experiment: str
    seed: int
    arms: dict[str, Arm]
    promote: bool = False
    rollback: bool = False

    @property
    def phases(self) -> tuple[NamedPhase, ...]:
        """The arms, in the order in which they were named."""
        return tuple(NamedPhase(name, arm.settings) for name, arm in self.arms.items())

    @property
    def weights(self) -> dict[str, int]:
        """Shares by arm."""
        return {name: arm.weight for name, arm in self.arms.items()}

    @property
    def short(self) -> str:
        """The arms and their shares."""
        return " ".join(f"{name}={weight}" for name, weight in self.weights.items())

    @property
    def label(self) -> str:
        """For people."""
        return f"split {self.short}"

    @property
    def drawing(self) -> Experiment:
        """How tasks are drawn. Raises ValueError if these arms cannot be compared."""
        if len({phase.settings.loaded for phase in self.phases}) > 1:
            raise ValueError(
                "the arms need different networks in memory, and a split has one set: compare phases with the same "
                "image, text, text_to_image.model, background, backend, scorer and acceleration.fp8, or apply one "
                "after the other"
            )
        if len({phase.config_hash for phase in self.phases}) < len(self.arms):
            raise ValueError("two of the arms have the same settings, so there is nothing to compare")
        return Experiment(self.seed, self.weights)

    def is_same(self, other: Choice) -> bool:
        """Whether tasks are generated alike."""
        return isinstance(other, ChosenSplit) and self.experiment == other.experiment


Choice = Chosen | ChosenSplit


class PhaseState(_Section):
    """What is to run since `at` (unix seconds), and why; `before`: what ran earlier, the latest last.

    `configured` is the phase that the settings file or the command line named when this was written, None if nobody
    knew: a miner that is started with another one runs that.
    """

    configured: str | None = None
    at: float
    action: Action
    reason: str = ""
    current: Choice
    before: tuple[Chosen, ...] = ()

    def apply(self, choice: Choice, action: Action, reason: str = "") -> PhaseState:
        """With another choice; a phase that ran till now can be gone back to, a split cannot."""
        before = [*self.before, self.current] if isinstance(self.current, Chosen) else list(self.before)
        while before and before[-1].is_same(choice):
            before.pop()
        changes = {"at": time.time(), "action": action, "reason": reason}
        return self.model_copy(update={**changes, "current": choice, "before": tuple(before[-MOST_BEFORE:])})

    def roll_back(self, reload: Callable[[Chosen], NamedPhase | None], action: Action, reason: str = "") -> PhaseState:
        """With the phase from before; raises OperatorError if there is none.

        It follows its file if that, as `reload` finds it, still says the same.
        """
        if not self.before:
            raise OperatorError("there is no phase to go back to")
        last = self.before[-1]
        found = reload(last)
        last = Chosen.of(last.named, follows=found is not None and found.config_hash == last.named.config_hash)
        changes = {"at": time.time(), "action": action, "reason": reason}
        return self.model_copy(update={**changes, "current": last, "before": self.before[:-1]})


@dataclass(frozen=True)
class StateFile:
    """The file in the state folder; changed whole or not at all, by one process at a time."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / STATE_NAME

    def read(self) -> PhaseState | None:
        """None if there is none yet. Raises StateError if it cannot be read."""
        try:
            return PhaseState.model_validate(yaml.safe_load(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())
            raise StateError(f"{self.path} cannot be read ({problem}): delete it, and apply a phase anew") from None

    def change(self, change: Callable[[PhaseState | None], PhaseState | None]) -> PhaseState | None:
        """Write what `change` makes of it, unless that is None; what it made. Raises StateError."""
        with self._locked():
            state = change(self.read())
            if state is not None:
                self._write(state)
            return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / f".{STATE_NAME}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"{self.path} cannot be changed: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, state: PhaseState) -> None:
        content = state.model_dump(mode="json", exclude_none=True)
        text = HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        partial = None
        try:
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{STATE_NAME}.", suffix=".part")
            partial = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except OSError as error:
            if partial is not None:
                partial.unlink(missing_ok=True)
            raise StateError(f"{self.path} cannot be written: {error.strerror}") from None
