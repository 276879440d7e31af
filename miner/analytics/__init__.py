"""Statistics of the ledger: acceptance rates with intervals, ratings, experiments and the report.

`aggregate` sums tasks up for both the report and the dashboard; `assignment` and `sequential_test` run experiments.
"""

from miner.analytics.aggregate import GROUPINGS, By, TaskTable
from miner.analytics.assignment import Experiment
from miner.analytics.dashboard_view import PERIODS, Json, build_dashboard_view
from miner.analytics.experiments import ExperimentSummary, summarise_experiment
from miner.analytics.intervals import Z_95
from miner.analytics.pass_model import PASS_MODEL_COLUMNS, Measured, PassModel, learn_pass_model, measure
from miner.analytics.rating import DEFAULT_SCALE, AcceptanceRate, Scale
from miner.analytics.sequential_test import ALPHA, ContingencyTables, ExperimentResult, Observation
from miner.analytics.slots import break_even_chance

__all__ = [
    "ALPHA", "DEFAULT_SCALE", "GROUPINGS", "PASS_MODEL_COLUMNS", "PERIODS", "Z_95", "AcceptanceRate", "By",
    "ContingencyTables", "Experiment", "ExperimentResult", "ExperimentSummary", "Json", "Measured", "Observation",
    "PassModel", "Scale", "TaskTable", "break_even_chance", "build_dashboard_view", "learn_pass_model", "measure",
    "summarise_experiment",
]  # fmt: skip
