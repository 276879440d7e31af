"""Whom we work for: a pure function of a snapshot, the rules and a hotkey."""

from __future__ import annotations

from dataclasses import dataclass

from miner.chain import Snapshot
from miner.settings import PolicyRules


@dataclass(frozen=True)
class Decision:
    """Whether to work for a hotkey, why, and with what priority (higher first)."""

    allowed: bool
    reason: str
    priority: float = 0.0


def decide(snapshot: Snapshot, rules: PolicyRules, hotkey: str) -> Decision:
    """The first rule that applies decides: allow-list, deny-lists, registration, permit, stake.

    Priority is the stake. An allowed hotkey need not be registered.
    """
    neuron = snapshot.find(hotkey)
    stake = neuron.stake if neuron else 0.0
    if hotkey in rules.allow:
        return Decision(True, "on the allow list", stake)
    if hotkey in rules.deny_hotkeys:
        return Decision(False, "its hotkey is on the blacklist")
    if neuron is None:
        return Decision(False, f"not registered on subnet {snapshot.netuid}")
    if neuron.coldkey in rules.deny_coldkeys:
        return Decision(False, "its coldkey is on the blacklist")
    if rules.require_validator_permit and not neuron.validator_permit:
        return Decision(False, "no validator permit")
    if stake < rules.min_stake:
        return Decision(False, f"stake {stake:g} is below {rules.min_stake:g}")
    return Decision(True, "a validator with enough stake", stake)
