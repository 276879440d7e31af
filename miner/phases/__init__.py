"""Which settings and models a task gets: the applied phase, swaps without a restart, experiments."""

from miner.phases.experiment_monitor import ExperimentMonitor
from miner.phases.files import PhaseFiles
from miner.phases.manager import ModelOwner, PhaseManager
from miner.phases.selector import PhaseSelector, TaskPlan
from miner.phases.state import Arm, PhaseChoice, PhaseState, StateFile

__all__ = [
    "Arm", "ExperimentMonitor", "ModelOwner", "PhaseChoice", "PhaseFiles", "PhaseManager", "PhaseSelector",
    "PhaseState", "StateFile", "TaskPlan",
]  # fmt: skip
