"""How a submission can end: the one vocabulary of the ledger, the reports, the log's totals and the metrics."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a submission ended."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    NOT_VALIDATED = "not_validated"
    CLOSED_WITHOUT_SCORE = "closed_without_a_score"
    STILL_OPEN = "still_open"
    NOT_HELD = "not_held"
    UNKNOWN = "unknown"

    @property
    def closes(self) -> bool:
        """Whether the validator no longer holds the task; the first such outcome of a task is final."""
        return self in CLOSING


CLOSING = (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.SKIPPED, Outcome.NOT_VALIDATED, Outcome.CLOSED_WITHOUT_SCORE)
"""The outcomes that close a task."""
