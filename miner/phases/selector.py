"""What tasks are generated with now: one phase or the arms of a split, and the networks they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from miner.config.phase_files import NamedPhase
from miner.gpu.models import LoadedModels
from miner.ledger.events import ArmAssignment, PhaseAssignment, Stratum
from miner.phases.state import Choice, ChosenSplit


@dataclass(frozen=True, eq=False)
class TaskPlan:
    """What one task is generated with from its assignment on, whatever is swapped meanwhile."""

    phase: NamedPhase
    loaded: LoadedModels
    draw: ArmAssignment | None = None

    @property
    def drawn(self) -> PhaseAssignment:
        """Without the networks."""
        return PhaseAssignment(self.phase.name, self.phase.config_hash, self.draw)


class PhaseSelector:
    """Hands each task its phase."""

    def __init__(
        self, choice: Choice, loaded: LoadedModels, turns: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        """`turns`: of a split that goes on, the next turn by validator and task type. Raises ValueError as `swap`."""
        self.swap(choice, loaded, turns)

    @property
    def choice(self) -> Choice:
        """What runs."""
        return self._choice

    @property
    def loaded(self) -> LoadedModels:
        """What it runs with."""
        return self._loaded

    def swap(self, choice: Choice, loaded: LoadedModels, turns: Mapping[tuple[str, str], int] | None = None) -> None:
        """From the next task on, this. Raises ValueError if the arms of a split cannot be compared."""
        self._experiment = choice.drawing if isinstance(choice, ChosenSplit) else None
        self._turns = Counter({Stratum(*stratum): turn for stratum, turn in (turns or {}).items()})
        self._choice, self._loaded = choice, loaded
        self._phases = {phase.name: phase for phase in choice.phases}

    def begin(self, stratum: Stratum | None = None, earlier: PhaseAssignment | None = None) -> TaskPlan:
        """What the next task is generated with.

        `stratum` None: nobody judges the result, so it counts in no split. `earlier`: what the same task was given
        before; in a split that still runs it stays in its arm.
        """
        first, *_ = self._phases.values()
        if self._experiment is None or not isinstance(self._choice, ChosenSplit) or stratum is None:
            return TaskPlan(first, self._loaded)
        name, draw = self._choice.experiment, earlier.draw if earlier else None
        if draw is None or draw.experiment != name or draw.arm not in self._phases:
            turn = self._turns[stratum]
            self._turns[stratum] += 1
            draw = ArmAssignment(name, self._experiment.arm(stratum, turn), turn)
        return TaskPlan(self._phases[draw.arm], self._loaded, draw)
