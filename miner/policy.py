"""Whom we work for: a pure function of a snapshot, the rules and a hotkey."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from miner.chain import Snapshot
from miner.rules import PolicyEntry, PolicyRules


@dataclass(frozen=True)
class Decision:
    """Whether to work for a hotkey, why (for our log), and with what priority (higher first)."""

    allowed: bool
    reason: str
    priority: float = 0.0


def decide(snapshot: Snapshot, rules: PolicyRules, hotkey: str) -> Decision:
    """The first rule that applies decides: allow-list, deny-lists, registration, permit, stake.

    Priority is the stake. An allowed hotkey need not be registered. `rules` are taken as they are: see
    `PolicyRules.in_force` for entries that expire and `miner.blacklist.resolve_uids` for entries with a uid.
    """
    neuron = snapshot.find(hotkey)
    stake = neuron.stake if neuron else 0.0
    coldkey = neuron.coldkey if neuron else None
    if entry := _find(rules.allow, hotkey, coldkey):
        return Decision(True, f"on the allow list{entry}", stake)
    if entry := _find(rules.deny_hotkeys, hotkey, None):
        return Decision(False, f"its hotkey is on the blacklist{entry}")
    if neuron is None:
        return Decision(False, f"not registered on subnet {snapshot.netuid}")
    if entry := _find(rules.deny_coldkeys, None, coldkey):
        return Decision(False, f"its coldkey is on the blacklist{entry}")
    if rules.require_validator_permit and not neuron.validator_permit:
        return Decision(False, "no validator permit")
    if not stake >= rules.min_stake:
        return Decision(False, f"stake {stake:g} is below {rules.min_stake:g}")
    return Decision(True, "a validator with enough stake", stake)


def _find(entries: Iterable[PolicyEntry], hotkey: str | None, coldkey: str | None) -> PolicyEntry | None:
    for entry in entries:
        if (hotkey is not None and entry.hotkey == hotkey) or (coldkey is not None and entry.coldkey == coldkey):
            return entry
    return None
