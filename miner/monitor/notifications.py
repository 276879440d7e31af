"""Messages to the operator, each once, by a command or to a webhook; what becomes of them never stops the miner."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import aiohttp

from miner.config import NotificationSettings
from miner.monitor.told import Kind, ToldStore

log = logging.getLogger(__name__)

# Seconds in which a command must end, and a webhook answer.
DELIVERY_TIMEOUT = 20.0


@dataclass(frozen=True)
class Notification:
    """Something that the operator wants to know at once; `subject` tells notifications of one kind apart."""

    kind: Kind
    subject: str
    text: str


class Notifier:
    """Delivers notifications: the first of its kind and subject, and again once it was not true meanwhile."""

    def __init__(self, settings: NotificationSettings, store: ToldStore) -> None:
        """Deliver by what the settings name, but not what the store says was told before a restart."""
        self._settings = settings
        self._store = store
        self._told = store.load()

    async def tell(
        self,
        present: tuple[Notification, ...],
        is_unknown: Callable[[Kind, str], bool] = lambda _kind, _subject: False,
    ) -> None:
        """Deliver those of all present notifications that are new.

        `is_unknown` returns whether nothing shows at present if a kind and subject is still true; then what was told of
        it stays told.
        """
        true = {(one.kind, one.subject) for one in present}
        await self._remember({told for told in self._told if told in true or is_unknown(*told)})
        for one in present:
            await self.tell_also(one)

    async def tell_also(self, notification: Notification) -> None:
        """Deliver one more notification if it is new."""
        key = (notification.kind, notification.subject)
        if key in self._told:
            return
        await self.deliver(notification)
        # Afterwards: after a crash, it is better told twice than not at all.
        await self._remember(self._told | {key})

    async def _remember(self, told: set[tuple[Kind, str]]) -> None:
        if told != self._told:
            self._told = told
            await asyncio.to_thread(self._store.save, told)

    async def deliver(self, notification: Notification) -> None:
        """Log a notification and deliver it; failures are logged."""
        log.warning("Notification (%s): %s", notification.kind, notification.text)
        for name, deliver in (("command", self._run), ("webhook", self._post)):
            try:
                async with asyncio.timeout(DELIVERY_TIMEOUT):
                    await deliver(notification)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                reason = str(error) or type(error).__name__
                log.warning("Notification (%s) not delivered by the %s: %s", notification.kind, name, reason)

    async def _run(self, notification: Notification) -> None:
        command = self._settings.command
        if not command:
            return
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await process.communicate(json.dumps(asdict(notification)).encode())
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            raise OSError(f"{command[0]} ended with exit code {process.returncode}")

    async def _post(self, notification: Notification) -> None:
        if not self._settings.webhook:
            return
        # Slack and Mattermost read "text", Discord "content".
        body = asdict(notification) | {"content": notification.text}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._settings.webhook, json=body, allow_redirects=False) as reply,
        ):
            if reply.status >= 300:
                raise OSError(f"HTTP {reply.status}")
