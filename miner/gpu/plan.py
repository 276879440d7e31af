"""Which of the waiting tasks a free worker serves next."""

from collections.abc import Sequence
from dataclasses import dataclass

# Seconds that a task waits for its first candidate before it goes ahead of all that have waited for less.
PATIENCE = 60.0


@dataclass(frozen=True)
class Claim:
    """What a task that wants a candidate stands to lose; moments are of one clock.

    arrived: when the task came. deadline: by when the candidate should be done. priority: the cost of each second of
    delay after it. seconds: those that the worker at hand needs for it. is_first: whether it has no candidate yet, nor
    one in the making.
    """

    arrived: float
    deadline: float
    priority: float
    seconds: float
    is_first: bool


def choose_claim(claims: Sequence[Claim], now: float, next_turn: float) -> int:
    """Return the index of the claim to serve now, of those waiting in order of arrival.

    next_turn: seconds until the next worker is expected to be free. First candidates go before further ones, since
    seconds may be twice what was expected and a task without any object loses all. What has waited longer than PATIENCE
    for a first candidate goes ahead of all, the oldest first, so that no task starves, however little it matters; only
    what nobody loses by (a priority of 0) has no such right. Otherwise it is the one that loses most by waiting for one
    more turn: its priority times the seconds of lateness that adds. Ties go to the earliest deadline, then the highest
    priority, then the first. So deadlines are met in their order where they can be met, and where they cannot, what
    matters least is late.
    """

    def starves(claim: Claim) -> bool:
        return claim.is_first and claim.priority > 0 and now - claim.arrived > PATIENCE

    def rank(index: int) -> tuple[bool, float, bool, float, float, float, int]:
        claim = claims[index]
        if starves(claim):
            return False, claim.arrived, False, 0.0, 0.0, 0.0, index
        late = now + claim.seconds - claim.deadline
        loss = claim.priority * (max(late + next_turn, 0.0) - max(late, 0.0)) if claim.is_first else 0.0
        # What nobody loses by comes last even if it has nothing yet.
        comes_later = not claim.is_first or claim.priority <= 0
        return True, 0.0, comes_later, -loss, claim.deadline, -claim.priority, index

    return min(range(len(claims)), key=rank)
