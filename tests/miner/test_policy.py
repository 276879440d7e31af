from __future__ import annotations

import pytest

from miner.chain import Neuron, Snapshot
from miner.policy import decide
from miner.settings import PolicyRules

SNAPSHOT = Snapshot(
    17,
    1,
    (
        Neuron(uid=0, hotkey="big", coldkey="c0", stake=9000, validator_permit=True),
        Neuron(uid=1, hotkey="small", coldkey="c1", stake=999.9, validator_permit=True),
        Neuron(uid=2, hotkey="miner", coldkey="c2", stake=9000, validator_permit=False),
    ),
)


@pytest.mark.parametrize(
    ("rules", "hotkey", "allowed", "reason"),
    [
        ({}, "big", True, "enough stake"),
        ({}, "small", False, "stake 999.9 is below 1000"),
        ({"min_stake": 999}, "small", True, "enough stake"),
        ({}, "miner", False, "no validator permit"),
        ({"require_validator_permit": False}, "miner", True, "enough stake"),
        ({}, "nobody", False, "not registered on subnet 17"),
        ({"deny_hotkeys": ["big"]}, "big", False, "hotkey is on the blacklist"),
        ({"deny_hotkeys": ["nobody"]}, "nobody", False, "hotkey is on the blacklist"),
        ({"deny_coldkeys": ["c0"]}, "big", False, "coldkey is on the blacklist"),
        ({"allow": ["big"], "deny_hotkeys": ["big"]}, "big", True, "allow list"),
        ({"allow": ["small"]}, "small", True, "allow list"),
        ({"allow": ["nobody"]}, "nobody", True, "allow list"),
    ],
)
def test_rules(rules: dict[str, object], hotkey: str, allowed: bool, reason: str) -> None:
    decision = decide(SNAPSHOT, PolicyRules.model_validate(rules), hotkey)
    assert decision.allowed is allowed
    assert reason in decision.reason


def test_priority_is_the_stake() -> None:
    assert decide(SNAPSHOT, PolicyRules(), "big").priority == 9000
    assert decide(SNAPSHOT, PolicyRules(allow=("nobody",)), "nobody").priority == 0
