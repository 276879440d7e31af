"""The operator's files as frozen, checked values: settings, phases, the validator policy.

Not exported are phases and the settings of a run, which load pipeline, and edits of the policy's file, for one command.
"""

from miner.config.loader import (
    Section,
    load_yaml,
    parse_json_or_yaml,
    parse_yaml,
    phase_folders,
    phase_names,
    shipped_config,
)
from miner.config.policy import LIST_NAMES, ListName, PolicyEntry, PolicyRules
from miner.config.settings import (
    BANDS,
    GenerateSettings,
    HousekeepingSettings,
    MinerSettings,
    NotificationSettings,
    OperatorFiles,
    PullingSettings,
    RaySettings,
    RetentionSettings,
    ServingSettings,
    SpzSettings,
)
from miner.config.ss58 import check_address

__all__ = [
    "BANDS", "LIST_NAMES", "GenerateSettings", "HousekeepingSettings", "ListName", "MinerSettings",
    "NotificationSettings", "OperatorFiles", "PolicyEntry", "PolicyRules", "PullingSettings", "RaySettings",
    "RetentionSettings", "Section", "ServingSettings", "SpzSettings", "check_address", "load_yaml",
    "parse_json_or_yaml", "parse_yaml", "phase_folders", "phase_names", "shipped_config",
]  # fmt: skip
