"""Gives each task its phase and its models."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from miner.config.phase_files import NamedPhase
from miner.gpu import PhaseModels
from miner.ledger import ArmAssignment, PhaseAssignment, Stratum
from miner.phases.state import PhaseChoice

log = logging.getLogger(__name__)

# Of the subnet's synthetic tasks.
SHARES = {"text": "four of five", "image": "one of five"}
# The next turn of an experiment by validator and task type.
Turns = Mapping[tuple[str, str], int]
EMPTY_TURNS: Turns = {}


@dataclass(frozen=True, eq=False)
class TaskPlan:
    """The phase and models that one task keeps from its assignment on, whatever is swapped in the meantime."""

    phase: NamedPhase
    models: PhaseModels
    arm: ArmAssignment | None = None

    @property
    def assignment(self) -> PhaseAssignment:
        """The assignment without its models."""
        return PhaseAssignment(self.phase.name, self.phase.config_hash, self.arm)


class PhaseSelector:
    """The `choice` and the `models` that new tasks get, and the turn of each stratum if that is an experiment."""

    def __init__(self, choice: PhaseChoice, models: PhaseModels, turns: Turns = EMPTY_TURNS) -> None:
        """Begin with a choice; see `swap`. An experiment that continues does so with these turns."""
        self.swap(choice, models, turns)

    def swap(self, choice: PhaseChoice, models: PhaseModels, turns: Turns = EMPTY_TURNS) -> None:
        """Give this to every task from the next one on. Raise ValueError if the arms of a split cannot be compared."""
        self._experiment = choice.assignment if choice.is_split else None
        self._turns = Counter({Stratum(*stratum): turn for stratum, turn in turns.items()})
        self.choice, self.models = choice, models
        self._phases = {phase.name: phase for phase in choice.phases}
        for phase in choice.phases:
            for task_type in phase.settings.unanswered:
                log.warning(
                    "Phase %s has no checkpoint for %s tasks, %s: they get the empty result",
                    *(phase.name, task_type, SHARES[task_type]),
                )

    def plan(self, stratum: Stratum | None = None, previous: PhaseAssignment | None = None) -> TaskPlan:
        """Return the plan of the next task.

        `stratum` is None for tasks that nobody judges, which take no turn in an experiment. `previous` is what the
        same task was assigned before; in an experiment that still runs it keeps its arm.
        """
        if self._experiment is None or stratum is None:
            return TaskPlan(self._phases[self.choice.name], self.models)
        arm = previous.arm if previous else None
        if arm is None or arm.experiment != self.choice.experiment or arm.arm not in self._phases:
            turn = self._turns[stratum]
            self._turns[stratum] += 1
            arm = ArmAssignment(self.choice.experiment, self._experiment.arm(stratum, turn), turn)
        return TaskPlan(self._phases[arm.arm], self.models, arm)
