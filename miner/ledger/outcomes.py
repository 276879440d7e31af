"""How a submission ended: the one vocabulary of log, ledger, reports and metrics."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """How a submission ended."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    NOT_VALIDATED = "not validated"
    UNSCORED = "closed without a score"
    STILL_OPEN = "still open"
    NOT_HELD = "not held"
    UNKNOWN = "unknown"

    @property
    def closes(self) -> bool:
        """Whether the validator holds the task no longer and told the cooldown."""
        return self not in (Outcome.STILL_OPEN, Outcome.NOT_HELD, Outcome.UNKNOWN)
