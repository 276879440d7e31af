"""Which phase runs and which ran before: a small file that `sn17-miner phase` and the miner share."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from miner.analytics import Experiment
from miner.config import Section, parse_yaml
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.runtime import locked, write_atomically

STATE_NAME = "phase.yaml"
# How many earlier phases can be rolled back to.
MAX_HISTORY = 20
HEADER = "# Which phase runs and which ran before; written by `sn17-miner phase` and by the miner.\n"

Action = Literal["start", "apply", "rollback", "automatic"]


class StateError(OperatorError):
    """The state file cannot be read or written."""


class Arm(Section):
    """One phase of a choice and its share of the tasks; the settings are those of when it was chosen."""

    weight: int = Field(default=1, gt=0, lt=1_000_000)
    settings: Phase


class PhaseChoice(Section):
    """The phases that tasks are generated with, by name: usually one, several while an experiment compares them.

    `follows`: a single phase takes over changes of its file. `experiment` names the comparison of several phases, and
    `seed` reproduces which task gets which. `promote`: the winner becomes the phase. `rollback`: the phase from before
    returns once an arm is clearly worse.
    """

    arms: dict[str, Arm] = Field(min_length=1)
    follows: bool = True
    experiment: str = ""
    seed: int = 0
    promote: bool = False
    rollback: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_first_release(cls, content: Any) -> Any:
        """Read a single phase as files of the first release hold it: {phase, follows, settings}."""
        if isinstance(content, dict) and "phase" in content:
            name, settings = content["phase"], content.get("settings")
            rest = {key: value for key, value in content.items() if key not in ("phase", "settings")}
            return {"arms": {name: {"settings": settings}}, **rest}
        return content

    @staticmethod
    def single(phase: NamedPhase, *, follows: bool = True) -> "PhaseChoice":
        """Return the choice of one phase."""
        return PhaseChoice(arms={phase.name: Arm(settings=phase.settings)}, follows=follows)

    @property
    def is_split(self) -> bool:
        """Whether an experiment shares tasks out among several phases."""
        return len(self.arms) > 1

    @property
    def phases(self) -> tuple[NamedPhase, ...]:
        """The arms' phases, in the order in which they were named."""
        return tuple(NamedPhase(name, arm.settings) for name, arm in self.arms.items())

    @property
    def to_load(self) -> NamedPhase:
        """The first arm's phase that has a scorer, or the first one, with the background models of all arms."""
        first = next((phase for phase in self.phases if phase.settings.scorer), self.phases[0])
        names = tuple(dict.fromkeys(name for phase in self.phases for name in phase.settings.background.names))
        if names == first.settings.background.names:
            return first
        background = first.settings.background.model_copy(update={"model": None, "models": names})
        return NamedPhase(first.name, first.settings.model_copy(update={"background": background}))

    @property
    def weights(self) -> dict[str, int]:
        """The arms' shares by name."""
        return {name: arm.weight for name, arm in self.arms.items()}

    @property
    def short_label(self) -> str:
        """The phase's name, or the names and shares of all arms."""
        return " ".join(f"{name}={weight}" for name, weight in self.weights.items()) if self.is_split else self.name

    @property
    def name(self) -> str:
        """The name of the first arm."""
        return next(iter(self.arms))

    @property
    def label(self) -> str:
        """The choice as part of a sentence: "phase NAME (HASH)" or "split A=50 B=50"."""
        return f"split {self.short_label}" if self.is_split else f"phase {self.phases[0].label}"

    @property
    def assignment(self) -> Experiment:
        """The rule that assigns tasks to arms. Raises ValueError if these arms cannot be compared."""
        needed = self.to_load.settings.models_key
        if not all(needed.serves(phase.settings.models_key) for phase in self.phases):
            raise ValueError(
                "the arms need different models in memory, and a split has one set: compare phases with the same "
                "image, text, text_to_image.model, background.provider, backend and acceleration.fp8, and with the "
                "same scorer or none, or apply one after the other"
            )
        if len({phase.config_hash for phase in self.phases}) < len(self.arms):
            raise ValueError("two of the arms have the same settings, so there is nothing to compare")
        return Experiment(self.seed, self.weights)

    def same_as(self, other: "PhaseChoice") -> bool:
        """Return whether both generate tasks alike: the same experiment, or one phase with the same settings."""
        if self.is_split or other.is_split:
            return self.is_split and other.is_split and self.experiment == other.experiment
        return self.label == other.label


class Refusal(Section):
    """The choice, by its label, that the miner could not or must not run, and why."""

    choice: str
    reason: str


class PhaseState(Section):
    """The choice to run since `at` (unix seconds), why, and the single phases that ran before it, the latest last.

    `configured` is the phase that the settings file or the command line named when this was written, None if that is
    unknown: a miner that is started with another one runs that. `ready`: a miner has taken the choice over; files of
    earlier releases do not say, and nearly always were. `refusal` is the miner's answer to a choice that it refused.
    """

    configured: str | None = None
    at: float
    action: Action
    reason: str = ""
    current: PhaseChoice
    ready: bool = True
    before: tuple[PhaseChoice, ...] = ()
    refusal: Refusal | None = None

    def apply(self, choice: PhaseChoice, action: Action, reason: str = "") -> "PhaseState":
        """Return the state with another choice; a phase that ran until now can be rolled back to, a split cannot."""
        ran = self.ready and not self.current.is_split
        before = [*self.before, self.current] if ran else list(self.before)
        while before and before[-1].same_as(choice):
            before.pop()
        return self._changed(choice, tuple(before[-MAX_HISTORY:]), action, reason)

    def roll_back(self, choose: Callable[[NamedPhase], PhaseChoice], action: Action, reason: str) -> "PhaseState":
        """Return the state with the phase from before, as `choose` chooses it; raise OperatorError if there is none."""
        if not self.before:
            raise OperatorError("there is no phase to go back to")
        (phase,) = self.before[-1].phases
        return self._changed(choose(phase), self.before[:-1], action, reason)

    def taken_over(self) -> "PhaseState":
        """Return the state once a miner works with its choice."""
        return self.model_copy(update={"ready": True, "refusal": None})

    def refusing(self, choice: PhaseChoice, reason: str) -> "PhaseState":
        """Return the state with the answer to a choice that was written over it and could not be taken over."""
        return self.model_copy(update={"refusal": Refusal(choice=choice.label, reason=reason)})

    def _changed(
        self, choice: PhaseChoice, before: tuple[PhaseChoice, ...], action: Action, reason: str
    ) -> "PhaseState":
        return PhaseState(
            configured=self.configured,
            at=time.time(),
            action=action,
            reason=reason,
            current=choice,
            ready=self.ready and self.current.same_as(choice),
            before=before,
        )


Changed = TypeVar("Changed", bound=PhaseState | None)


@dataclass(frozen=True)
class StateFile:
    """The file in the state folder; replaced as a whole, by one process at a time."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.folder / STATE_NAME

    def read(self) -> PhaseState | None:
        """Return the state, None if there is no file yet. Raise StateError if it cannot be read."""
        try:
            return PhaseState.model_validate(parse_yaml(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())
            raise StateError(f"{self.path} cannot be read ({problem}): delete it and apply a phase again") from None

    def change(self, change: Callable[[PhaseState | None], Changed]) -> tuple[PhaseState | None, Changed]:
        """Write what `change` makes of the state, unless that is None; return the old and the new. Raise StateError."""
        try:
            with locked(self.path):
                written = self.read()
                state = change(written)
                if state is not None:
                    content = state.model_dump(mode="json", exclude_none=True)
                    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
                    write_atomically(self.path, HEADER + text, sync=True)
                return written, state
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror or error}") from None
