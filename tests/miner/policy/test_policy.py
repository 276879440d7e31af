import math
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from miner.config.policy import PolicyEntry, PolicyRules
from miner.policy.policy import decide
from miner.subnet.metagraph import Neuron, Snapshot
from tests.support.addresses import address

BIG, SMALL, MINER, ODD, NOBODY, OTHER = map(address, ("big", "small", "miner", "odd", "nobody", "other"))
C0, C1, C2 = map(address, ("c0", "c1", "c2"))
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SNAPSHOT = Snapshot(
    17,
    1,
    (
        Neuron(uid=0, hotkey=BIG, coldkey=C0, stake=9000, validator_permit=True),
        Neuron(uid=1, hotkey=SMALL, coldkey=C1, stake=999.9, validator_permit=True),
        Neuron(uid=2, hotkey=MINER, coldkey=C2, stake=9000, validator_permit=False),
        Neuron(uid=3, hotkey=ODD, coldkey=C0, stake=math.nan, validator_permit=True),
    ),
)


@pytest.mark.parametrize(
    ("rules", "hotkey", "allowed", "reason"),
    [
        ({}, BIG, True, "enough stake"),
        ({}, SMALL, False, "stake 999.9 is below 1000"),
        ({"min_stake": 999}, SMALL, True, "enough stake"),
        ({"min_stake": 9000}, BIG, True, "enough stake"),
        ({"min_stake": 0}, ODD, False, "stake nan is below 0"),
        ({}, MINER, False, "no validator permit"),
        ({"require_validator_permit": False}, MINER, True, "enough stake"),
        ({}, NOBODY, False, "not registered on subnet 17"),
        ({}, "", False, "not registered on subnet 17"),
        ({"deny_hotkeys": [BIG]}, BIG, False, "hotkey is on the blacklist"),
        ({"deny_hotkeys": [BIG]}, SMALL, False, "stake 999.9"),
        ({"deny_hotkeys": [NOBODY]}, NOBODY, False, "hotkey is on the blacklist"),
        ({"deny_hotkeys": [{"hotkey": BIG, "reason": "rejects all"}]}, BIG, False, "blacklist: rejects all"),
        ({"deny_hotkeys": [C0]}, BIG, True, "enough stake"),
        ({"deny_hotkeys": [0, {"uid": 0}]}, BIG, True, "enough stake"),
        ({"deny_coldkeys": [C0]}, BIG, False, "coldkey is on the blacklist"),
        ({"deny_coldkeys": [{"coldkey": C0, "reason": "copies weights"}]}, BIG, False, "blacklist: copies weights"),
        ({"deny_coldkeys": [C1]}, BIG, True, "enough stake"),
        ({"deny_coldkeys": [C0]}, NOBODY, False, "not registered"),
        ({"deny_coldkeys": [BIG]}, BIG, True, "enough stake"),
        ({"allow": [BIG], "deny_hotkeys": [BIG]}, BIG, True, "allow list"),
        ({"allow": [BIG], "deny_coldkeys": [C0]}, BIG, True, "allow list"),
        ({"allow": [{"coldkey": C0}], "deny_hotkeys": [BIG]}, BIG, True, "allow list"),
        ({"allow": [{"coldkey": C0}]}, SMALL, False, "stake 999.9"),
        ({"allow": [SMALL]}, SMALL, True, "allow list"),
        ({"allow": [MINER]}, MINER, True, "allow list"),
        ({"allow": [{"hotkey": NOBODY, "reason": "my own"}]}, NOBODY, True, "allow list: my own"),
    ],
)
def test_rules(rules: dict[str, object], hotkey: str, allowed: bool, reason: str) -> None:
    decision = decide(SNAPSHOT, PolicyRules.model_validate(rules), hotkey)
    assert decision.allowed is allowed
    assert reason in decision.reason


def test_priority_is_the_stake() -> None:
    assert decide(SNAPSHOT, PolicyRules(), BIG).priority == 9000
    assert decide(SNAPSHOT, PolicyRules.model_validate({"allow": [SMALL]}), SMALL).priority == 999.9
    assert decide(SNAPSHOT, PolicyRules.model_validate({"allow": [NOBODY]}), NOBODY).priority == 0


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
    rules = PolicyRules.model_validate({"deny_hotkeys": [{"hotkey": BIG, "until": until}, OTHER]})
    in_force = rules.in_force(NOW)
    assert decide(SNAPSHOT, in_force, BIG).allowed is not denied
    assert in_force.deny_hotkeys[-1].hotkey == OTHER


def test_the_end_is_told_in_utc() -> None:
    entry = PolicyEntry.model_validate({"hotkey": BIG, "until": "2026-01-31T13:00+01:00", "reason": "spam"})
    rules = PolicyRules(deny_hotkeys=(entry,))
    assert decide(SNAPSHOT, rules, BIG).reason.endswith("on the blacklist: spam, until 2026-01-31 12:00 UTC")
    assert str(entry.model_copy(update={"reason": ""})) == ": until 2026-01-31 12:00 UTC"


def test_lists_that_were_emptied_by_comments() -> None:
    assert PolicyRules.model_validate({"allow": None, "deny_hotkeys": None, "deny_coldkeys": None}) == PolicyRules()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"deny_hotkeys": [{"reason": "no key"}]}, "just one of hotkey, coldkey, uid"),
        ({"deny_hotkeys": [{"hotkey": OTHER, "uid": 3}]}, "just one of hotkey, coldkey, uid"),
        ({"deny_hotkeys": [{"hotkey": OTHER, "why": "x"}]}, "Extra inputs"),
        ({"deny_hotkeys": [{"coldkey": OTHER}]}, "belongs into deny_coldkeys"),
        ({"deny_coldkeys": [{"hotkey": OTHER}]}, "belongs into deny_hotkeys"),
        ({"deny_coldkeys": [7]}, "belongs into deny_hotkeys"),
        ({"deny_hotkeys": [-1]}, "greater than or equal to 0"),
        ({"deny_hotkeys": [""]}, "no SS58 address"),
        ({"deny_hotkeys": ["5Typo"]}, "no SS58 address"),
        ({"deny_hotkeys": [{"hotkey": BIG[:-1] + "x"}]}, "no SS58 address"),
        ({"deny_coldkeys": ["c0"]}, "no SS58 address"),
        ({"allow": [{"coldkey": BIG.lower()}]}, "no SS58 address"),
        ({"deny_hotkeys": [True]}, "valid dictionary"),
        ({"deny_hotkeys": [OTHER, None]}, "valid dictionary"),
        ({"deny_hotkeys": "a"}, "valid tuple"),
        ({"deny_hotkeys": [{"hotkey": OTHER, "until": "soon"}]}, "valid datetime"),
        ({"min_stake": -1}, "greater than or equal to 0"),
        ({"min_stake": math.nan}, "greater than or equal to 0"),
    ],
)
def test_rules_that_say_nothing_sensible(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicyRules.model_validate(rules)
