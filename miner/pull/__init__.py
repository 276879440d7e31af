"""The pulling transport: one session a validator, driven by a state machine without I/O."""

from miner.pull.puller import Puller
from miner.pull.responses import OnCooldown, TaskAssigned, read_pull, read_submission
from miner.pull.session import SessionContext, ValidatorRecord
from miner.pull.store import CooldownStore

__all__ = [
    "CooldownStore", "OnCooldown", "Puller", "SessionContext", "TaskAssigned", "ValidatorRecord", "read_pull",
    "read_submission",
]  # fmt: skip
