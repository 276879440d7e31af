"""The operator's files as frozen, checked values: settings, phases, the validator policy."""

from miner.config.loader import Section, load_yaml, phase_folders, phase_names, shipped_config
from miner.config.phase import CheckpointSettings, Phase
from miner.config.phase_files import NamedPhase, load_phase
from miner.config.policy import LIST_NAMES, ListName, PolicyEntry, PolicyRules
from miner.config.run_settings import RunOptions, RunSettings
from miner.config.settings import (
    GenerateSettings,
    HousekeepingSettings,
    MinerSettings,
    OperatorFiles,
    PullingSettings,
    RetentionSettings,
    ServingSettings,
    SpzSettings,
)

__all__ = [
    "LIST_NAMES",
    "CheckpointSettings",
    "GenerateSettings",
    "HousekeepingSettings",
    "ListName",
    "MinerSettings",
    "NamedPhase",
    "OperatorFiles",
    "Phase",
    "PolicyEntry",
    "PolicyRules",
    "PullingSettings",
    "RetentionSettings",
    "RunOptions",
    "RunSettings",
    "Section",
    "ServingSettings",
    "SpzSettings",
    "load_phase",
    "load_yaml",
    "phase_folders",
    "phase_names",
    "shipped_config",
]
