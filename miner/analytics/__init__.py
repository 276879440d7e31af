"""Statistics of the ledger: acceptance rates with intervals, ratings, experiments and the report.

`aggregate` sums tasks up for both the report and the dashboard; `assignment` and `sequential_test` run experiments.
"""

from miner.analytics.aggregate import GROUPINGS, By, TaskTable
from miner.analytics.assignment import Experiment
from miner.analytics.calibration import Bools, Calibration, Prior, fit_calibration
from miner.analytics.dashboard_view import PERIODS, Json, build_dashboard_view
from miner.analytics.experiments import ExperimentSummary, summarise_experiment
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
from miner.analytics.rating import DEFAULT_SCALE, AcceptanceRate, Scale
from miner.analytics.sequential_test import ALPHA, ContingencyTables, ExperimentResult, Observation
from miner.analytics.slots import COOLDOWN, PENALTY, WINDOW_TASKS, Slots, break_even_chance

__all__ = [
    "ALPHA", "COOLDOWN", "DEFAULT_SCALE", "GROUPINGS", "MAX_OUTCOMES", "MIN_OUTCOMES", "PARTIAL_PRIOR",
    "PASS_MODEL_COLUMNS", "PENALTY", "PERIODS", "WHOLE_PRIOR", "WINDOW_TASKS", "Z_95", "AcceptanceRate", "Bools",
    "By", "Calibration", "ContingencyTables", "Experiment", "ExperimentResult", "ExperimentSummary", "Floats", "Json",
    "Measured", "Observation", "PassModel", "Prior", "Scale", "Slots", "TaskTable", "break_even_chance",
    "build_dashboard_view", "fit_calibration", "learn_pass_model", "measure", "summarise_experiment",
]  # fmt: skip
