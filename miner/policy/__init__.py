"""The policy: for which hotkeys this miner works."""

from miner.policy.blacklist import Blacklist
from miner.policy.policy import PolicyDecision

__all__ = ["Blacklist", "PolicyDecision"]
