"""How long each worker takes for a candidate of each kind."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# Weight of the last candidate in the running estimate.
GAIN = 0.25


@dataclass(frozen=True)
class Sample:
    """The seconds of a candidate that was made by a worker, given by its number."""

    worker: int
    seconds: float


@dataclass(eq=False)
class Pace:
    """Running estimates by worker and kind; candidates of one kind have the same settings and type of prompt."""

    _seconds: dict[tuple[int, str], float] = field(default_factory=dict)

    def add(self, worker: int, kind: str, seconds: float) -> None:
        """Take a candidate into account."""
        known = self._seconds.setdefault((worker, kind), seconds)
        self._seconds[worker, kind] = known + GAIN * (seconds - known)

    def expect(self, worker: int, kind: str, own: Sequence[Sample] = ()) -> float:
        """Return the seconds that a worker is expected to take for another candidate of a task, 0.0 if nothing tells.

        That is the mean of those that the task has already, `own`, each scaled by how the paces of the two workers
        compare, since objects differ in size; without any, it is the worker's own pace, or the mean of the others'.
        """
        paces = {number: seconds for (number, of), seconds in self._seconds.items() if of == kind}
        if own:
            pace = paces.get(worker)
            scaled = [s.seconds * (pace / paces[s.worker] if pace and paces.get(s.worker) else 1.0) for s in own]
            return sum(scaled) / len(scaled)
        return paces.get(worker, sum(paces.values()) / len(paces) if paces else 0.0)
