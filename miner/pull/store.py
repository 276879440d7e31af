"""What must outlive a restart of ours: until when each validator lets us wait, and since when we hold its task."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

log = logging.getLogger(__name__)


class Cooldown(BaseModel):
    """Of one validator, in unix seconds of our clock; the last task's prompt and result are not kept."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    pull_after: float
    task_id: str | None = None
    assigned_at: float | None = None


_File = TypeAdapter(dict[str, Cooldown])


@dataclass(frozen=True)
class CooldownStore:
    """A small JSON file, replaced as a whole at each change; without it a restart costs a violation per validator."""

    path: Path

    def load(self) -> dict[str, Cooldown]:
        """By validator hotkey; empty, with a warning, if the file is damaged."""
        try:
            return _File.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.warning("The cooldowns in %s cannot be read and start afresh: %s", self.path, type(error).__name__)
            return {}

    def save(self, cooldowns: dict[str, Cooldown]) -> None:
        """Some hundred bytes and no wait for the disk, so short enough for an event loop; a failure is logged."""
        partial = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_File.dump_json(cooldowns))
            partial.replace(self.path)
        except OSError as error:
            log.warning("The cooldowns cannot be kept in %s: %s", self.path, error)
