import math
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from miner.config.policy import PolicyEntry, PolicyRules
from miner.policy.policy import decide
from miner.subnet.metagraph import Neuron, Snapshot

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SNAPSHOT = Snapshot(
    17,
    1,
    (
        Neuron(uid=0, hotkey="big", coldkey="c0", stake=9000, validator_permit=True),
        Neuron(uid=1, hotkey="small", coldkey="c1", stake=999.9, validator_permit=True),
        Neuron(uid=2, hotkey="miner", coldkey="c2", stake=9000, validator_permit=False),
        Neuron(uid=3, hotkey="odd", coldkey="c0", stake=math.nan, validator_permit=True),
    ),
)


@pytest.mark.parametrize(
    ("rules", "hotkey", "allowed", "reason"),
    [
        ({}, "big", True, "enough stake"),
        ({}, "small", False, "stake 999.9 is below 1000"),
        ({"min_stake": 999}, "small", True, "enough stake"),
        ({"min_stake": 9000}, "big", True, "enough stake"),
        ({"min_stake": 0}, "odd", False, "stake nan is below 0"),
        ({}, "miner", False, "no validator permit"),
        ({"require_validator_permit": False}, "miner", True, "enough stake"),
        ({}, "nobody", False, "not registered on subnet 17"),
        ({}, "", False, "not registered on subnet 17"),
        ({"deny_hotkeys": ["big"]}, "big", False, "hotkey is on the blacklist"),
        ({"deny_hotkeys": ["big"]}, "small", False, "stake 999.9"),
        ({"deny_hotkeys": ["nobody"]}, "nobody", False, "hotkey is on the blacklist"),
        ({"deny_hotkeys": [{"hotkey": "big", "reason": "rejects all"}]}, "big", False, "blacklist: rejects all"),
        ({"deny_hotkeys": ["c0"]}, "big", True, "enough stake"),
        ({"deny_hotkeys": [0, {"uid": 0}]}, "big", True, "enough stake"),
        ({"deny_coldkeys": ["c0"]}, "big", False, "coldkey is on the blacklist"),
        ({"deny_coldkeys": [{"coldkey": "c0", "reason": "copies weights"}]}, "big", False, "blacklist: copies weights"),
        ({"deny_coldkeys": ["c1"]}, "big", True, "enough stake"),
        ({"deny_coldkeys": ["c0"]}, "nobody", False, "not registered"),
        ({"deny_coldkeys": ["big"]}, "big", True, "enough stake"),
        ({"allow": ["big"], "deny_hotkeys": ["big"]}, "big", True, "allow list"),
        ({"allow": ["big"], "deny_coldkeys": ["c0"]}, "big", True, "allow list"),
        ({"allow": [{"coldkey": "c0"}], "deny_hotkeys": ["big"]}, "big", True, "allow list"),
        ({"allow": [{"coldkey": "c0"}]}, "small", False, "stake 999.9"),
        ({"allow": ["small"]}, "small", True, "allow list"),
        ({"allow": ["miner"]}, "miner", True, "allow list"),
        ({"allow": [{"hotkey": "nobody", "reason": "my own"}]}, "nobody", True, "allow list: my own"),
    ],
)
def test_rules(rules: dict[str, object], hotkey: str, allowed: bool, reason: str) -> None:
    decision = decide(SNAPSHOT, PolicyRules.model_validate(rules), hotkey)
    assert decision.allowed is allowed
    assert reason in decision.reason


def test_priority_is_the_stake() -> None:
    assert decide(SNAPSHOT, PolicyRules(), "big").priority == 9000
    assert decide(SNAPSHOT, PolicyRules.model_validate({"allow": ["small"]}), "small").priority == 999.9
    assert decide(SNAPSHOT, PolicyRules.model_validate({"allow": ["nobody"]}), "nobody").priority == 0


@pytest.mark.parametrize(
    ("until", "denied"),
    [
        (NOW + timedelta(seconds=1), True),
        (NOW, False),
        ("2026-01-31T12:00:01Z", True),
        ("2026-01-31T12:00:01", True),
        ("2026-01-31T13:00:01+01:00", True),
        ("2026-01-31T12:30:00+01:00", False),
        ("2026-01-31", False),
        ("2026-02-01", True),
        (None, True),
    ],
)
def test_an_entry_ends_at_its_time(until: object, denied: bool) -> None:
    rules = PolicyRules.model_validate({"deny_hotkeys": [{"hotkey": "big", "until": until}, "other"]})
    in_force = rules.in_force(NOW)
    assert decide(SNAPSHOT, in_force, "big").allowed is not denied
    assert in_force.deny_hotkeys[-1].hotkey == "other"


def test_the_end_is_told_in_utc() -> None:
    entry = PolicyEntry.model_validate({"hotkey": "big", "until": "2026-01-31T13:00+01:00", "reason": "spam"})
    rules = PolicyRules(deny_hotkeys=(entry,))
    assert decide(SNAPSHOT, rules, "big").reason.endswith("on the blacklist: spam, until 2026-01-31 12:00 UTC")
    assert str(entry.model_copy(update={"reason": ""})) == ": until 2026-01-31 12:00 UTC"


def test_lists_that_were_emptied_by_comments() -> None:
    assert PolicyRules.model_validate({"allow": None, "deny_hotkeys": None, "deny_coldkeys": None}) == PolicyRules()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"deny_hotkeys": [{"reason": "no key"}]}, "just one of hotkey, coldkey, uid"),
        ({"deny_hotkeys": [{"hotkey": "a", "uid": 3}]}, "just one of hotkey, coldkey, uid"),
        ({"deny_hotkeys": [{"hotkey": "a", "why": "x"}]}, "Extra inputs"),
        ({"deny_hotkeys": [{"coldkey": "a"}]}, "belongs into deny_coldkeys"),
        ({"deny_coldkeys": [{"hotkey": "a"}]}, "belongs into deny_hotkeys"),
        ({"deny_coldkeys": [7]}, "belongs into deny_hotkeys"),
        ({"deny_hotkeys": [-1]}, "greater than or equal to 0"),
        ({"deny_hotkeys": [""]}, "at least 1 character"),
        ({"deny_hotkeys": [True]}, "valid dictionary"),
        ({"deny_hotkeys": ["a", None]}, "valid dictionary"),
        ({"deny_hotkeys": "a"}, "valid tuple"),
        ({"deny_hotkeys": [{"hotkey": "a", "until": "soon"}]}, "valid datetime"),
        ({"min_stake": -1}, "greater than or equal to 0"),
        ({"min_stake": math.nan}, "greater than or equal to 0"),
    ],
)
def test_rules_that_say_nothing_sensible(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicyRules.model_validate(rules)
