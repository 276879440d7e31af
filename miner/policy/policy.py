"""The decision whether to work for a hotkey, as a pure function of a snapshot of the subnet and the rules."""

from collections.abc import Iterable
from dataclasses import dataclass

from miner.config import PolicyEntry, PolicyRules
from miner.subnet.metagraph import Snapshot


@dataclass(frozen=True)
class PolicyDecision:
    """Whether to work for a hotkey, why (for our log only), and the priority of its tasks, where higher is earlier."""

    allowed: bool
    reason: str
    priority: float = 0.0


def decide(snapshot: Snapshot, rules: PolicyRules, hotkey: str) -> PolicyDecision:
    """Decide by the first rule that applies: allow list, deny lists, registration, validator permit, stake.

    The priority is the stake. A hotkey on the allow list need not be registered. The rules are applied as they are: see
    `PolicyRules.in_force` for entries that expire and `miner.policy.blacklist.resolve_uids` for entries with a uid.
    """
    neuron = snapshot.find(hotkey)
    stake = neuron.stake if neuron else 0.0
    coldkey = neuron.coldkey if neuron else None
    if entry := _find(rules.allow, hotkey, coldkey):
        return PolicyDecision(True, f"on the allow list{entry}", stake)
    if entry := _find(rules.deny_hotkeys, hotkey, None):
        return PolicyDecision(False, f"its hotkey is on the blacklist{entry}")
    if neuron is None:
        return PolicyDecision(False, f"not registered on subnet {snapshot.netuid}")
    if entry := _find(rules.deny_coldkeys, None, coldkey):
        return PolicyDecision(False, f"its coldkey is on the blacklist{entry}")
    if rules.require_validator_permit and not neuron.validator_permit:
        return PolicyDecision(False, "no validator permit")
    if not stake >= rules.min_stake:  # a stake that is not a number is too small, too
        return PolicyDecision(False, f"stake {stake:g} is below {rules.min_stake:g}")
    return PolicyDecision(True, "a validator with enough stake", stake)


def _find(entries: Iterable[PolicyEntry], hotkey: str | None, coldkey: str | None) -> PolicyEntry | None:
    for entry in entries:
        if (hotkey is not None and entry.hotkey == hotkey) or (coldkey is not None and entry.coldkey == coldkey):
            return entry
    return None
