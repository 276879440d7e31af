"""Keeps cooldowns and tasks in hand over a restart."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from miner.runtime import write_atomically

log = logging.getLogger(__name__)


class Cooldown(BaseModel):
    """The cooldown of one validator and the task it last gave us, without its prompt, in unix seconds of our clock."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    pull_after: float
    task_id: str | None = None
    assigned_at: float | None = None


_File = TypeAdapter(dict[str, Cooldown])


@dataclass(frozen=True)
class CooldownStore:
    """A small JSON file; without it, a restart costs a violation per validator."""

    path: Path

    def load(self) -> dict[str, Cooldown]:
        """Return the cooldowns by validator hotkey; none, with a warning, if the file is damaged."""
        try:
            return _File.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.warning("The cooldowns in %s cannot be read and start afresh: %s", self.path, type(error).__name__)
            return {}

    def save(self, cooldowns: dict[str, Cooldown]) -> None:
        """Replace the file, some hundred bytes, without waiting for the disk; log a failure."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, _File.dump_json(cooldowns))
        except (OSError, ValueError) as error:  # ValueError: text that is not valid Unicode
            log.warning("The cooldowns cannot be written to %s: %s", self.path, error)
