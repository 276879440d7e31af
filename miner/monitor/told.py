"""Remembers what the operator was told of, so that a restart does not repeat it."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from miner.runtime import write_atomically

log = logging.getLogger(__name__)

Kind = Literal["experiment_decided", "acceptance_fell", "no_result", "disk", "deregistered"]

# The pairs of kind and subject.
_File = TypeAdapter(set[tuple[Kind, str]])


@dataclass(frozen=True)
class ToldStore:
    """A small JSON file with the kind and the subject of each notification that was told and is still true."""

    path: Path

    def load(self) -> set[tuple[Kind, str]]:
        """Return what was told; nothing, with a warning, if the file is damaged."""
        try:
            return _File.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return set()
        except (OSError, ValidationError) as error:
            log.warning(
                "What was notified, in %s, cannot be read and is told again: %s", self.path, type(error).__name__
            )
            return set()

    def save(self, told: Collection[tuple[Kind, str]]) -> None:
        """Replace the file; log a failure."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, _File.dump_json(set(told)))
        except (OSError, ValueError) as error:  # ValueError: text that is not valid Unicode
            log.warning("What was notified cannot be written to %s, a restart repeats it: %s", self.path, error)
