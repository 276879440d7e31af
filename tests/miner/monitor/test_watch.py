import asyncio
import json
import logging
import shutil
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from miner.config import NotificationSettings
from miner.errors import HotkeyNotRegistered
from miner.ledger import LedgerStatus
from miner.localnet import LOOPBACK, free_port
from miner.monitor.notifications import Notification, Notifier
from miner.monitor.told import ToldStore
from miner.monitor.watch import Watch
from tests.support.monitor import OK, FixedStatus, one_task, write_ledger

EXPERIMENT = {"experiment": "e1", "arms": [], "winner": None, "losers": []}


class Webhook:
    """A server that keeps what is posted to it, and answers with `status`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 204
        self.url = f"http://{LOOPBACK}:{free_port()}/hook"
        application = web.Application()
        application.router.add_post("/hook", self.take)
        self.runner = web.AppRunner(application)

    async def take(self, request: web.Request) -> web.Response:
        self.told.append(await request.json())
        return web.Response(status=self.status)

    @property
    def kinds(self) -> list[str]:
        return [one["kind"] for one in self.told]


@pytest_asyncio.fixture
async def webhook() -> AsyncIterator[Webhook]:
    webhook = Webhook()
    await webhook.runner.setup()
    await web.TCPSite(webhook.runner, LOOPBACK, int(webhook.url.split(":")[2].split("/")[0])).start()
    yield webhook
    await webhook.runner.cleanup()


def quiet() -> FixedStatus:
    """Of a miner that has just made a result."""
    return FixedStatus(replace(OK, last_success=time.time(), uptime=10**6, experiment=EXPERIMENT))


def watch(webhook: Webhook, folder: Path, source: FixedStatus, **settings: Any) -> Watch:
    told = NotificationSettings(webhook=webhook.url, disk_free_gb=0, **settings)
    return Watch(told, source, folder / "ledger.sqlite", folder)


def notifier(folder: Path, **settings: Any) -> Notifier:
    return Notifier(NotificationSettings(**settings), ToldStore(folder / "notifications.json"))


async def test_each_event_is_told_once_and_again_when_it_comes_back(webhook: Webhook, tmp_path: Path) -> None:
    source = quiet()
    watched = watch(webhook, tmp_path, source)
    await watched.look()
    assert webhook.told == []
    for last_success, told in ((7200, 1), (7260, 1), (0, 1), (3600, 2)):
        source.present = replace(source.present, last_success=time.time() - last_success)
        await watched.look()
        assert len(webhook.told) == told
    text = "No result for 60 minutes; see `sn17-miner status`"
    assert webhook.told[1] == {"kind": "no_result", "subject": "", "text": text, "content": text}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experiment": EXPERIMENT | {"winner": "a"}}, ["Experiment e1: a has won"]),
        ({"experiment": EXPERIMENT | {"losers": ["b", "c"]}}, ["Experiment e1: b and c clearly worse"]),
        ({"experiment": None}, []),
        ({"ledger": LedgerStatus(written=1, waiting=0, dropped=4, failures=5, problem="disk full")},
         ["The ledger cannot be written: disk full"]),
        # A miner that starts, and one that does not work for another reason.
        ({"last_success": None, "uptime": 600}, []),
        ({"last_success": 0.0, "uptime": 600}, []),
        ({"last_success": None, "uptime": 3700}, ["No result for 61 minutes; see `sn17-miner status`"]),
        ({"last_success": None, "status": "starting"}, []),
    ],
)  # fmt: skip
async def test_what_is_told_of_a_status(
    webhook: Webhook, tmp_path: Path, changes: dict[str, Any], told: list[str]
) -> None:
    source = quiet()
    source.present = replace(source.present, **changes)
    await watch(webhook, tmp_path, source).look()
    assert [one["text"] for one in webhook.told] == told


async def test_a_disk_that_fills(webhook: Webhook, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free / 1e9
    settings = NotificationSettings(webhook=webhook.url, disk_free_gb=free + 100)
    await Watch(settings, quiet(), tmp_path / "ledger.sqlite", tmp_path).look()
    assert webhook.kinds == ["disk"]
    assert "GB are free" in webhook.told[0]["text"]


async def test_acceptance_that_fell(webhook: Webhook, tmp_path: Path) -> None:
    now = time.time_ns()
    events = []
    for number in range(300):
        outcome = "accepted" if number % 2 else "rejected"
        events += one_task(now - int(1e9 * (15 * 3600 + 30 * number)), outcome=outcome)
    for number in range(120):
        events += one_task(now - int(30e9 * number) - 1, outcome="rejected")
    write_ledger(tmp_path / "ledger.sqlite", events)
    await watch(webhook, tmp_path, quiet()).look()
    assert webhook.kinds == ["acceptance_fell"]
    assert "0 of 120 since, 50 % before" in webhook.told[0]["text"]
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 100)
    await watch(webhook, tmp_path, quiet()).look()
    assert len(webhook.told) == 1


async def test_a_hotkey_that_is_not_registered_any_more(webhook: Webhook, tmp_path: Path) -> None:
    watched = watch(webhook, tmp_path, quiet())
    with pytest.raises(HotkeyNotRegistered):
        async with watched.telling_of_the_end():
            raise HotkeyNotRegistered("hotkey 5F is no longer registered on subnet 17")
    assert webhook.told[0]["text"] == "The miner ends: hotkey 5F is no longer registered on subnet 17"
    with pytest.raises(ValueError, match="other"):
        async with watched.telling_of_the_end():
            raise ValueError("other")
    assert webhook.kinds == ["deregistered"]


async def test_a_restart_repeats_nothing(webhook: Webhook, tmp_path: Path) -> None:
    source = quiet()
    trouble = LedgerStatus(written=0, waiting=0, dropped=4, failures=5, problem="disk full")
    source.present = replace(source.present, last_success=0.0, ledger=trouble, experiment=EXPERIMENT | {"winner": "a"})
    await watch(webhook, tmp_path, source).look()
    told = ["experiment_decided", "no_result", "disk"]
    assert webhook.kinds == told
    before = source.present
    nothing_yet = {"last_success": None, "experiment": None, "ledger": replace(trouble, failures=0, problem="")}
    restarted = watch(webhook, tmp_path, source)
    for changes in (
        {**nothing_yet, "status": "starting", "uptime": 1.0},
        {**nothing_yet, "uptime": 60.0},
        {"last_success": None},
    ):
        source.present = replace(before, **changes)
        await restarted.look()
    assert webhook.kinds == told


async def test_what_ends_during_a_restart_is_told_when_it_comes_back(webhook: Webhook, tmp_path: Path) -> None:
    source = quiet()
    for last_success, told in ((7200, 1), (0, 1), (7200, 2)):
        source.present = replace(source.present, last_success=time.time() - last_success)
        await watch(webhook, tmp_path, source).look()
        assert len(webhook.told) == told


async def test_a_miner_that_is_started_again_without_registration_tells_it_once(
    webhook: Webhook, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(HotkeyNotRegistered):
            async with watch(webhook, tmp_path, quiet()).telling_of_the_end():
                raise HotkeyNotRegistered("hotkey 5F is not registered on subnet 17")
    assert webhook.kinds == ["deregistered"]
    # Once it works, it is registered.
    await watch(webhook, tmp_path, quiet()).look()
    with pytest.raises(HotkeyNotRegistered):
        async with watch(webhook, tmp_path, quiet()).telling_of_the_end():
            raise HotkeyNotRegistered("hotkey 5F is no longer registered on subnet 17")
    assert webhook.kinds == ["deregistered", "deregistered"]


@pytest.mark.parametrize("content", [b"", b"[1]", b'[["other", ""]]', b"\xff"])
async def test_a_damaged_file_is_told_of_and_replaced(
    webhook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "notifications.json").write_bytes(content)
    source = quiet()
    source.present = replace(source.present, last_success=0.0)
    for _ in range(2):
        await watch(webhook, tmp_path, source).look()
    assert webhook.kinds == ["no_result"]
    assert caplog.text.count("cannot be read and is told again") == 1


async def test_a_file_that_cannot_be_written_does_not_keep_from_telling(
    webhook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notifications.json").mkdir()
    source = quiet()
    source.present = replace(source.present, last_success=0.0)
    watched = watch(webhook, tmp_path, source)
    for _ in range(2):
        await watched.look()
    assert webhook.kinds == ["no_result"]
    assert "a restart repeats it" in caplog.text


@pytest.mark.process
async def test_a_command_gets_it_on_its_stdin(tmp_path: Path) -> None:
    target = tmp_path / "told.json"
    code = f"import sys; open({str(target)!r}, 'w').write(sys.stdin.read())"
    telling = notifier(tmp_path, command=(sys.executable, "-c", code))
    await telling.deliver(Notification("disk", "free", "full; rm -rf $HOME"))
    assert json.loads(target.read_text()) == {"kind": "disk", "subject": "free", "text": "full; rm -rf $HOME"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"command": ("/nowhere/tell-me",)}, "not delivered by the command: [Errno 2]"),
        ({"command": ("false",)}, "not delivered by the command: false ended with exit code 1"),
        ({"webhook": f"http://{LOOPBACK}:{free_port()}/"}, "not delivered by the webhook: Cannot connect"),
    ],
)
async def test_what_cannot_be_delivered_is_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with caplog.at_level(logging.WARNING, "miner"):
        await notifier(tmp_path, **settings).deliver(Notification("disk", "free", "full"))
    assert "Notification (disk): full" in caplog.text
    assert words in caplog.text


async def test_a_webhook_that_refuses(webhook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    webhook.status = 500
    await notifier(tmp_path, webhook=webhook.url).deliver(Notification("disk", "free", "full"))
    assert "not delivered by the webhook: HTTP 500" in caplog.text


@pytest.mark.process
async def test_a_command_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("miner.monitor.notifications.DELIVERY_TIMEOUT", 0.2)
    async with asyncio.timeout(30):
        await notifier(tmp_path, command=("sleep", "600")).deliver(Notification("disk", "free", "full"))
    assert "not delivered by the command: TimeoutError" in caplog.text


@pytest.mark.parametrize("webhook", ["ftp://x", "no url", "http://a b"])
def test_a_webhook_is_an_address(webhook: str) -> None:
    with pytest.raises(ValueError, match="webhook"):
        NotificationSettings(webhook=webhook)
