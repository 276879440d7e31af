"""The pulling transport: one session a validator, driven by a state machine without I/O."""

from miner.pull.puller import Puller
from miner.pull.session import SessionContext, ValidatorRecord
from miner.pull.store import CooldownStore

__all__ = ["CooldownStore", "Puller", "SessionContext", "ValidatorRecord"]
