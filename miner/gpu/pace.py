"""How long each worker takes for a candidate of each kind."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline import Stage

# Weight of the last candidate in the running estimate.
GAIN = 0.25


@dataclass(frozen=True)
class Sample:
    """The seconds of a stage of a candidate that was made by a worker, given by its number."""

    worker: int
    stage: Stage
    seconds: float


@dataclass(eq=False)
class Pace:
    """Running estimates by worker, kind and stage; those of one kind have the same settings and type of prompt."""

    # By kind and stage, then by worker: what one is expected to take is asked for each worker at each change.
    _seconds: dict[tuple[str, Stage], dict[int, float]] = field(default_factory=dict)

    def add(self, kind: str, sample: Sample) -> None:
        """Take a stage of a candidate into account."""
        paces = self._seconds.setdefault((kind, sample.stage), {})
        known = paces.setdefault(sample.worker, sample.seconds)
        paces[sample.worker] = known + GAIN * (sample.seconds - known)

    def expect(self, worker: int, kind: str, stage: Stage, samples: Sequence[Sample] = ()) -> float:
        """Return the seconds that a worker is expected to take for a stage of a task, 0.0 if nothing tells.

        That is the mean of those in the task's samples, each scaled by how the paces of the two workers compare, since
        objects differ in size; without any, it is the worker's own pace, or the mean of the others'. A stage of which
        nothing is known is expected to take as long as a whole candidate.
        """
        own = [sample for sample in samples if sample.stage == stage]
        paces = self._seconds.get((kind, stage), {})
        if stage != "whole" and not own and not paces:
            return self.expect(worker, kind, "whole", samples)
        if own:
            pace = paces.get(worker)
            scaled = [s.seconds * (pace / paces[s.worker] if pace and paces.get(s.worker) else 1.0) for s in own]
            return sum(scaled) / len(scaled)
        return paces.get(worker, sum(paces.values()) / len(paces) if paces else 0.0)
