"""Keeps cooldowns and tasks in hand over a restart, whatever the clock does meanwhile."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from miner.runtime import Clock, write_atomically

log = logging.getLogger(__name__)

# Changes with each start of the machine, between which its steady clock does not go on.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class EarlierTask(_Model):
    """A task in hand before a restart, without its prompt; moments are those of the steady clock.

    `submitted_at` is when a result left to which there was no answer, None if none did.
    """

    id: str
    type: Literal["text", "image"] = "text"
    assigned_at: float
    submitted_at: float | None = None

    def moved_by(self, seconds: float) -> "EarlierTask":
        """Return the task with its moments moved."""
        submitted_at = None if self.submitted_at is None else self.submitted_at + seconds
        return self.model_copy(update={"assigned_at": self.assigned_at + seconds, "submitted_at": submitted_at})


class Cooldown(_Model):
    """What outlives a restart of one validator: when its cooldown ends, how long the last was, the task in hand.

    `cooldown_seconds` counts from the assignment of the task that the cooldown followed, None if there was none yet.
    """

    cooldown_end: float
    cooldown_seconds: float | None = None
    task: EarlierTask | None = None

    def moved_by(self, seconds: float) -> "Cooldown":
        """Return the same with its moments moved."""
        task = self.task and self.task.moved_by(seconds)
        return self.model_copy(update={"cooldown_end": self.cooldown_end + seconds, "task": task})


class _File(_Model):
    """The file: moments of the steady clock, and what it and the wall clock showed when it was written."""

    boot: str
    steady: float
    wall: float
    validators: dict[str, Cooldown]


class _OldCooldown(_Model):
    """A validator in a file of earlier releases, whose moments were unix seconds."""

    pull_after: float
    task_id: str | None = None
    assigned_at: float | None = None

    def converted(self, ahead: float) -> Cooldown:
        """Return it with moments of a steady clock; the wall clock is `ahead` of that."""
        task = None
        if self.task_id is not None and self.assigned_at is not None:
            task = EarlierTask(id=self.task_id, assigned_at=self.assigned_at - ahead)
        return Cooldown(cooldown_end=self.pull_after - ahead, task=task)


_OldFile = TypeAdapter(dict[str, _OldCooldown])


@dataclass(frozen=True)
class CooldownStore:
    """A small JSON file; without it, a restart costs a violation per validator."""

    path: Path

    def load(self, clock: Clock) -> dict[str, Cooldown]:
        """Return the cooldowns by validator hotkey, in moments of `clock`; none, with a warning, if it is damaged.

        The seconds since they were written are told by the steady clock if the machine was not restarted, else by the
        wall clock; one that was set back meanwhile counts as none at all.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            return self._start_afresh(error)
        with suppress(ValidationError):
            old = _OldFile.validate_json(content)
            ahead = clock.wall() - clock.now()
            return {hotkey: cooldown.converted(ahead) for hotkey, cooldown in old.items()}
        try:
            file = _File.model_validate_json(content)
        except ValidationError as error:
            return self._start_afresh(error)
        has_same_boot = file.boot == _boot_id() and file.steady <= clock.now()
        elapsed = clock.now() - file.steady if has_same_boot else max(clock.wall() - file.wall, 0.0)
        shift = clock.now() - elapsed - file.steady
        return {hotkey: cooldown.moved_by(shift) for hotkey, cooldown in file.validators.items()}

    def save(self, cooldowns: Mapping[str, Cooldown], clock: Clock) -> None:
        """Replace the file, some hundred bytes, without waiting for the disk; log a failure."""
        file = _File.model_construct(boot=_boot_id(), steady=clock.now(), wall=clock.wall(), validators=dict(cooldowns))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, file.model_dump_json())
        except (OSError, ValueError) as error:  # ValueError: text that is not valid Unicode
            log.warning("The cooldowns cannot be written to %s: %s", self.path, error)

    def _start_afresh(self, error: Exception) -> dict[str, Cooldown]:
        log.warning("The cooldowns in %s cannot be read and start afresh: %s", self.path, type(error).__name__)
        return {}


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
