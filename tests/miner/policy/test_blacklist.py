import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from miner.config.loader import load_yaml, shipped_config
from miner.config.policy import PolicyRules
from miner.policy import blacklist
from miner.policy.blacklist import Blacklist, resolve_uids
from miner.subnet.metagraph import Neuron, Snapshot
from tests.support.addresses import address


def snapshot(*hotkeys: str) -> Snapshot:
    return Snapshot(
        17,
        500,
        tuple(
            Neuron(uid=uid, hotkey=hotkey, coldkey=hotkey, stake=5000, validator_permit=True)
            for uid, hotkey in enumerate(hotkeys)
        ),
    )


A, B, C, D = map(address, "abcd")
NAMES = {"a": A, "b": B, "c": C, "d": D}


class File:
    """A blacklist file and whoever watches it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snapshot = snapshot(A, B, C)
        self.write("min_stake: 1000\n")
        self.watcher = self.start()

    def start(self) -> Blacklist:
        return Blacklist(self.path, load_yaml(self.path, PolicyRules), lambda: self.snapshot)

    def write(self, text: str) -> None:
        partial = self.path.with_suffix(".part")
        partial.write_text(text)
        partial.replace(self.path)

    def settle(self) -> bool:
        """Poll as often as a change needs; whether the rules changed."""
        return self.watcher.poll() | self.watcher.poll()

    @property
    def allowed(self) -> str:
        return "".join(name for name, hotkey in NAMES.items() if self.watcher.decide(hotkey).allowed)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "blacklist.yaml")


def test_a_change_is_taken_over_once_it_has_settled(file: File) -> None:
    assert not file.settle()
    file.write(f"deny_hotkeys: [{A}]\n")
    assert not file.watcher.poll()
    assert file.allowed == "abc"
    file.write(f"deny_hotkeys: [{A}, {B}]\n")
    assert not file.watcher.poll()
    assert file.watcher.poll()
    assert file.allowed == "c"
    assert not file.settle()


def test_a_change_made_while_the_miner_started_is_noticed(file: File) -> None:
    rules = load_yaml(file.path, PolicyRules)
    file.write(f"deny_hotkeys: [{A}]\n")
    file.watcher = Blacklist(file.path, rules, lambda: file.snapshot)
    assert file.settle()
    assert file.allowed == "bc"


@pytest.mark.parametrize(
    "broken",
    [
        "deny_hotkeys: [",
        "",
        f"deny: [{A}]",
        f"deny_hotkeys: [{{hotkey: {A}, until: 2026-13-45}}]",
        f"deny_hotkeys: [{{hotkey: {A}, until: '9999-12-31T23:59:00-12:00'}}]",
        "- a",
        "\0",
        None,
        "folder",
    ],
)
def test_a_broken_file_changes_nothing_and_is_told_once(
    file: File, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    file.write(f"deny_hotkeys: [{A}]\n")
    assert file.settle()
    if broken == "folder":
        file.path.unlink()
        file.path.mkdir()
    elif broken is None:
        file.path.unlink()
    else:
        file.write(broken)
    with caplog.at_level(logging.ERROR, "miner.policy.blacklist"):
        for _ in range(5):
            assert not file.settle()
    assert file.allowed == "bc"
    (line,) = caplog.messages
    assert str(file.path) in line
    assert "stay in force" in line
    if broken == "folder":
        file.path.rmdir()
    file.write(f"deny_hotkeys: [{B}]\n")
    assert file.settle()
    assert file.allowed == "ac"


def test_reload_does_not_wait(file: File) -> None:
    """What SIGHUP does."""
    file.write(f"deny_hotkeys: [{A}]\n")
    assert file.watcher.reload()
    assert file.allowed == "bc"
    assert not file.settle()


def test_what_reads_the_same_is_no_change(file: File, caplog: pytest.LogCaptureFixture) -> None:
    file.write("# a comment\nmin_stake: 1000\n")
    with caplog.at_level(logging.INFO, "miner.policy.blacklist"):
        assert not file.settle()
    assert caplog.messages == []


def test_entries_end_by_themselves(file: File) -> None:
    past, future = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
    file.write(
        f"deny_hotkeys: [{{hotkey: {A}, until: {past.isoformat()}}}, {{hotkey: {B}, until: {future.isoformat()}}}]\n"
    )
    assert file.settle()
    assert file.allowed == "ac"


def test_a_uid_is_the_hotkey_that_held_it_when_it_was_read(file: File, caplog: pytest.LogCaptureFixture) -> None:
    file.write("deny_hotkeys: [1, {uid: 9, reason: nobody}]\n")
    with caplog.at_level(logging.WARNING, "miner.policy.blacklist"):
        assert file.settle()
    held, unheld = caplog.messages
    assert f"uid 1 is resolved to hotkey {B}, its holder at block 500" in held
    assert "no neuron has uid 9 at block 500" in unheld
    file.snapshot = snapshot(A, D, C, B)
    assert file.allowed == "acd", "the uid is another's by now"
    file.write(f"deny_hotkeys: [1]\nallow: [{C}]\n")
    assert file.settle()
    assert file.allowed == "acd", "the entry was there before"
    file.write(f"allow: [{C}]\n")
    assert file.settle()
    file.write("deny_hotkeys: [1]\n")
    assert file.settle()
    assert file.allowed == "abc", "a new entry means today's holder"


def test_uids_that_stand_in_the_file_at_the_start(file: File) -> None:
    file.write("deny_hotkeys: [0]\nallow: [{uid: 2}]\nmin_stake: 1e9\n")
    file.watcher = file.start()
    assert file.allowed == "c"
    assert "uid" not in file.watcher.decide("a").reason


def test_resolving_leaves_other_entries_alone() -> None:
    rules = PolicyRules.model_validate({"deny_hotkeys": [D, 0], "deny_coldkeys": [C]})
    resolved = resolve_uids(rules, snapshot(A), {})
    assert [entry.hotkey for entry in resolved.deny_hotkeys] == [D, A]
    assert resolved.deny_coldkeys == rules.deny_coldkeys
    assert resolve_uids(rules, snapshot(A), {0: B}).deny_hotkeys[1].hotkey == B


async def test_watching(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blacklist, "POLL_INTERVAL", 0.01)
    changed = asyncio.Event()
    watching = asyncio.create_task(file.watcher.watch(changed.set))
    file.write(f"deny_hotkeys: [{A}]\n")
    await asyncio.wait_for(changed.wait(), 10)
    assert file.allowed == "bc"
    watching.cancel()


def test_the_shipped_file_denies_nobody_by_name() -> None:
    assert load_yaml(shipped_config() / "blacklist.yaml", PolicyRules) == PolicyRules()
