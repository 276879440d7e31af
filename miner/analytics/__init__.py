"""Statistics of the ledger: acceptance rates with intervals, ratings, experiments and the report.

`aggregate` sums tasks up for both the report and the dashboard; `assignment` and `sequential_test` run experiments.
"""

from miner.analytics.aggregate import DIMENSIONS, By, TaskTable
from miner.analytics.assignment import Experiment
from miner.analytics.calibration import Bools, Calibration, Prior, fit_calibration
from miner.analytics.dashboard_view import PERIODS, read_dashboard_view
from miner.analytics.drop_detection import DROP_COLUMNS, find_drops
from miner.analytics.experiment_view import read_experiments
from miner.analytics.experiments import ExperimentSummary, summarise_experiment
from miner.analytics.figures import Json, task_figures
from miner.analytics.intervals import Z_95, Floats
from miner.analytics.pass_model import (
    MAX_OUTCOMES,
    MIN_OUTCOMES,
    PARTIAL_PRIOR,
    PASS_MODEL_COLUMNS,
    WHOLE_PRIOR,
    Measured,
    PassModel,
    learn_pass_model,
    measure,
)
from miner.analytics.rating import AcceptanceRate, Scale
from miner.analytics.sequential_test import ALPHA, ContingencyTables, ExperimentResult, Observation
from miner.analytics.slots import COOLDOWN, PENALTY, WINDOW_TASKS, Slots, break_even_chance
from miner.analytics.task_filter import TaskFilter

__all__ = [
    "ALPHA", "COOLDOWN", "DIMENSIONS", "DROP_COLUMNS", "MAX_OUTCOMES", "MIN_OUTCOMES", "PARTIAL_PRIOR",
    "PASS_MODEL_COLUMNS", "PENALTY", "PERIODS", "WHOLE_PRIOR", "WINDOW_TASKS", "Z_95", "AcceptanceRate", "Bools", "By",
    "Calibration", "ContingencyTables", "Experiment", "ExperimentResult", "ExperimentSummary", "Floats", "Json",
    "Measured", "Observation", "PassModel", "Prior", "Scale", "Slots", "TaskFilter", "TaskTable", "break_even_chance",
    "find_drops", "fit_calibration", "learn_pass_model", "measure", "read_dashboard_view", "read_experiments",
    "summarise_experiment", "task_figures",
]  # fmt: skip
