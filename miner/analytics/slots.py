"""What a validator's time is worth, and with it the chance to pass from which sending a result pays.

A validator gives a miner one task at a time. The next one follows COOLDOWN after the assignment if the result was
accepted or the task was skipped, and PENALTY later if the result was rejected. So its time is a row of slots of
COOLDOWN seconds each, of which an accepted result and an empty one take one, and a rejected one
1 + PENALTY / COOLDOWN = 3.

Let r be the share of the slots that end accepted in the long run: accepted results per task over slots per task, by the
renewal-reward theorem. Who maximises it decides each task so that accepted - r * slots is the largest on average
(Dinkelbach, 1967), with r that of the best decisions. A result that passes with chance p yields p - r * (1 + 2 (1 - p))
if it is sent, and -r if it is withheld. Hence it is sent if p > 2 r (1 - p), that is

    p / (1 - p) > 2 r        with 2 = PENALTY / COOLDOWN.

r counts slots, not tasks: where shares a and q of the tasks are accepted and rejected, r = a / (1 + 2 q). With a in its
place, more would be withheld than pays, the more so the more is rejected. Measuring r under the decisions of the
moment, and deciding by it, is Dinkelbach's iteration: r grows with each round, and ends at the largest possible.

All results count the same here. Rating and duels are left out, as neither is known before a result is sent: a withheld
result loses a duel as a rejected one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from miner.ledger import Outcome, TaskRow

# Seconds, as validators set them.
COOLDOWN, PENALTY = 300.0, 600.0
PENALTY_SLOTS = PENALTY / COOLDOWN

# The share is that of the latest tasks, so that it follows a change of phase within half a day or so.
WINDOW_TASKS = 500
WINDOW_SECONDS = 24 * 3600.0
# Before there are any, a quarter; as if it had been seen in so many slots. It is low, since too low a share only sends
# what might have been withheld.
PRIOR_SHARE, PRIOR_SLOTS = 0.25, 20.0

# The slots that a task takes by its outcome. An outcome that is not known, or hides whether there was a penalty, says
# nothing.
_SLOTS: dict[str, float] = {
    Outcome.ACCEPTED: 1.0,
    Outcome.SKIPPED: 1.0,
    Outcome.NOT_VALIDATED: 1.0,
    Outcome.REJECTED: 1.0 + PENALTY_SLOTS,
}


@dataclass(frozen=True)
class Slots:
    """Accepted results, and the slots that they and all other tasks took."""

    accepted: int = 0
    total: float = 0.0

    @property
    def share(self) -> float:
        """The share of the slots that ended accepted, shrunk to PRIOR_SHARE; between 0 and 1."""
        return (self.accepted + PRIOR_SHARE * PRIOR_SLOTS) / (self.total + PRIOR_SLOTS)

    @property
    def accepted_share(self) -> float | None:
        """The share of the slots that ended accepted, as counted; None without any."""
        return self.accepted / self.total if self.total else None

    def with_task(self, task: TaskRow) -> "Slots":
        """Return the sum with one more task, the same if it is not pulled or its outcome says nothing."""
        slots = _SLOTS.get(task.outcome or "", 0.0) if task.transport == "pull" else 0.0
        return Slots(self.accepted + (slots > 0 and task.outcome == Outcome.ACCEPTED), self.total + slots)


def count_slots(tasks: Sequence[TaskRow], now: float) -> Slots:
    """Count the slots of the latest pulled tasks among some in the order of their assignment; `now` is unix time."""
    sum_so_far, counted = Slots(), 0
    for task in reversed(tasks):
        if counted == WINDOW_TASKS or task.assigned_at < now - WINDOW_SECONDS:
            break
        before, sum_so_far = sum_so_far, sum_so_far.with_task(task)
        counted += sum_so_far != before
    return sum_so_far


def break_even_chance(share: float) -> float:
    """Return the chance to pass above which a result is to be sent, for a share r of slots that end accepted."""
    odds = PENALTY_SLOTS * share
    return odds / (1 + odds)
