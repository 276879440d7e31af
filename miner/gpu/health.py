"""Whether a worker that lives elsewhere is well, over all of its lives."""

from dataclasses import dataclass

from miner.runtime import backoff

FIRST_RESTART_DELAY = 1.0
LAST_RESTART_DELAY = 300.0
# Losses in a row after which a worker counts as lost: some four minutes of back-off. It is started again all the same.
MAX_LOSSES = 8
# Seconds after which what only the operator can put right is tried again.
MEND_INTERVAL = 60.0


@dataclass
class WorkerHealth:
    """Lives, losses and problems of a worker; its owner guards it against other threads.

    is_up: whether it lives, or is about to for the first time. is_out_of_reach: whether no life can begin at present.
    problem: why it does not work at present, "" if it does. losses, last_loss: how often it was lost since the start,
    and why the last time. failures, losses_in_a_row: lives that have ended or could not begin, and those of them that
    were lost, since it last made a candidate.
    """

    is_up: bool = True
    is_out_of_reach: bool = False
    problem: str = ""
    losses: int = 0
    last_loss: str = ""
    failures: int = 0
    losses_in_a_row: int = 0

    @property
    def is_lost_for_good(self) -> bool:
        """Whether it was lost too often to count on."""
        return self.losses_in_a_row >= MAX_LOSSES

    def begin(self) -> None:
        """Take note that a life has begun, of which nothing is known yet."""
        self.is_up = not self.is_out_of_reach

    def arrive(self) -> None:
        """Take note that it is there, though it may have been out of reach."""
        self.is_up, self.is_out_of_reach, self.problem = True, False, ""

    def recover(self) -> None:
        """Take note that it has loaded models, or could."""
        self.problem = ""

    def work(self) -> None:
        """Take note that it has made a candidate."""
        self.failures = self.losses_in_a_row = 0

    def end(self) -> None:
        """Take note that a life has ended."""
        self.is_up = False

    def lose(self, reason: str) -> float:
        """Take note of a life that was lost; return the seconds after which the next one is to begin."""
        self.failures += 1
        self.losses += 1
        self.losses_in_a_row += 1
        self.problem = self.last_loss = reason
        return backoff(self.failures, FIRST_RESTART_DELAY, LAST_RESTART_DELAY)

    def miss(self, reason: str) -> float:
        """Take note of a life that could not begin; return the seconds after which it is to be tried again."""
        self.failures += 1
        self.is_out_of_reach, self.problem = True, reason
        return backoff(self.failures, FIRST_RESTART_DELAY, MEND_INTERVAL)
