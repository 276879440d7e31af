import time
from contextlib import ExitStack
from dataclasses import replace

import bittensor as bt
import pytest

from miner.axon.authentication import Authenticator, Caller, RateLimit, RequestRefused
from miner.config.settings import ServingSettings
from miner.localnet.raw_client import AxonAddress, RawRequest
from miner.policy.policy import PolicyDecision
from tests.support.factories import TwoClocks, raw_headers

NOW = 1_700_000_000.0
MINER = bt.Keypair.create_from_uri("//miner")
ALICE = bt.Keypair.create_from_uri("//alice")
BOB = bt.Keypair.create_from_uri("//bob")


def ns(seconds: float) -> int:
    return int((NOW + seconds) * 1e9)


def caller(keypair: bt.Keypair = ALICE, nonce: int | None = None) -> Caller:
    call = RawRequest(keypair, nonce=ns(0.001) if nonce is None else nonce)
    return Caller.from_headers(raw_headers(call, AxonAddress(1, MINER.ss58_address)))


@pytest.fixture
def clocks() -> TwoClocks:
    return TwoClocks(unix=NOW)


def authenticator(clocks: TwoClocks, **settings: float) -> Authenticator:
    def decide(hotkey: str) -> PolicyDecision:
        return PolicyDecision(hotkey != BOB.ss58_address, "the operator's own words")

    return Authenticator(MINER.ss58_address, decide, ServingSettings.model_validate(settings), clocks.clock)


def status(auth: Authenticator, who: Caller) -> int:
    try:
        auth.admit(who)
    except RequestRefused as refusal:
        return refusal.status
    return 200


def test_a_caller_is_read_from_its_headers_and_written_back() -> None:
    read = caller()
    assert read.hotkey == ALICE.ss58_address
    assert Caller.from_headers(read.to_headers()) == read
    assert Caller.from_headers([(name.upper(), value) for name, value in read.to_headers()]) == read


def test_what_merely_resembles_our_headers_is_not_read() -> None:
    """The SDK takes any name that contains its own."""
    read = caller()
    assert Caller.from_headers([*read.to_headers(), (b"x-bt_header_dendrite_hotkey", b"5Forged")]) == read


@pytest.mark.parametrize("name", [name.decode() for name, _ in caller().to_headers()])
@pytest.mark.parametrize("value", [None, "", "\xff" * 8, "0x?", "- 1", "9" * 5000, "twice"])
def test_each_header_must_be_there_once_and_in_shape(name: str, value: str | None) -> None:
    headers = [(key, old) for key, old in caller().to_headers() if key.decode() != name or value == "twice"]
    if value == "twice":
        headers += [header for header in headers if header[0].decode() == name]
    elif value is not None:
        headers.append((name.encode(), value.encode("latin-1")))
    with pytest.raises(RequestRefused, match=name) as caught:
        Caller.from_headers(headers)
    assert caught.value.status == 401


def test_only_the_hotkeys_own_signature_to_us_over_just_this_is_genuine() -> None:
    good = caller()
    assert good.has_valid_signature(MINER.ss58_address)
    assert not good.has_valid_signature(BOB.ss58_address)
    for change in (
        {"hotkey": BOB.ss58_address},
        {"hotkey": "1" * 48},
        {"nonce": good.nonce + 1},
        {"session": "other"},
        {"body_hash": "0" * 64},
        {"signature": "0x" + "0" * 128},
        {"signature": "0x" + BOB.sign("x").hex()},
    ):
        assert not replace(good, **change).has_valid_signature(MINER.ss58_address), change  # type: ignore[arg-type]


def test_a_rate_is_a_minutes_worth_at_once_and_then_what_time_brings() -> None:
    rate = RateLimit(6)
    assert [rate.take("a", NOW) for _ in range(6)] == [0] * 6
    assert rate.take("a", NOW) == pytest.approx(10)
    assert rate.take("b", NOW) == 0
    assert rate.take("a", NOW + 9) == pytest.approx(1)
    assert rate.take("a", NOW + 10.01) == 0
    assert rate.take("a", NOW - 100) > 0
    assert [rate.take("a", NOW + 1000) > 0 for _ in range(7)] == [False] * 6 + [True]


def test_admission_asks_for_clock_signature_policy_replay_and_rate(clocks: TwoClocks) -> None:
    auth = authenticator(clocks, requests_per_minute=2)
    assert status(auth, replace(caller(), signature="0x" + "0" * 128)) == 401
    assert status(auth, caller(nonce=ns(-31))) == 401
    assert status(auth, caller(BOB)) == 403
    assert status(auth, caller()) == 200
    assert status(auth, caller()) == 401
    assert status(auth, caller(BOB)) == 401, "the nonce is used, whoever signs"
    assert status(auth, caller(nonce=ns(1))) == 200
    assert status(auth, caller(nonce=ns(2))) == 429
    clocks.pass_time(30)
    assert status(auth, caller(nonce=ns(3))) == 200


def test_a_clock_that_is_put_right_refuses_nobody(clocks: TwoClocks) -> None:
    auth = authenticator(clocks, requests_per_minute=2)
    clocks.unix += 8 * 3600
    assert status(auth, caller()) == 401
    assert status(auth, caller(nonce=ns(8 * 3600))) == 200
    assert status(auth, caller(nonce=ns(8 * 3600 + 1))) == 200
    clocks.unix -= 8 * 3600
    clocks.pass_time(60)
    assert status(auth, caller(nonce=ns(59))) == 200
    assert status(auth, caller(nonce=ns(59))) == 401


def test_others_cannot_use_up_a_validators_rate(clocks: TwoClocks) -> None:
    auth = authenticator(clocks, requests_per_minute=1)
    for number in range(20):
        assert status(auth, replace(caller(nonce=ns(number)), signature="0x" + "1" * 128)) == 401
    assert status(auth, caller()) == 200
    assert status(auth, caller()) == 401


def test_what_is_told_and_what_is_kept(clocks: TwoClocks) -> None:
    auth = authenticator(clocks, requests_per_minute=1)
    with pytest.raises(RequestRefused) as denied:
        auth.admit(caller(BOB))
    assert "words" not in str(denied.value)
    assert denied.value.detail == "the operator's own words"
    auth.admit(caller())
    with pytest.raises(RequestRefused) as hurried:
        auth.admit(caller(nonce=ns(2)))
    assert hurried.value.retry_after == 61


def test_the_queue_is_bounded_in_all_and_for_each(clocks: TwoClocks) -> None:
    auth = authenticator(clocks, queue_size=2, per_validator=2)
    with ExitStack() as held:
        for hotkey in ("a", "a"):
            held.enter_context(auth.reserve(hotkey))
        with pytest.raises(RequestRefused, match="of your requests") as caught, auth.reserve("a"):
            pass
        assert (caught.value.status, caught.value.retry_after) == (503, 10)
        held.enter_context(auth.reserve("b"))
        with pytest.raises(RequestRefused, match="busy: too many requests"), auth.reserve("c"):
            pass
    for hotkey in ("a", "b", "c"):
        with auth.reserve(hotkey):
            pass


def test_a_place_in_the_queue_is_given_back_when_a_request_fails(clocks: TwoClocks) -> None:
    auth = authenticator(clocks, queue_size=1, per_validator=1)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), auth.reserve("a"):
            raise ZeroDivisionError


def test_the_default_clock_is_the_systems() -> None:
    auth = Authenticator(MINER.ss58_address, lambda hotkey: PolicyDecision(True, ""), ServingSettings())
    auth.admit(caller(nonce=time.time_ns()))
