"""The rules of config/blacklist.yaml in force: read again when the file changes, uids turned into hotkeys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from miner.config.loader import load_yaml
from miner.config.policy import PolicyEntry, PolicyRules
from miner.errors import OperatorError
from miner.policy.policy import PolicyDecision, decide
from miner.subnet.metagraph import Snapshot

log = logging.getLogger(__name__)

POLL_INTERVAL = 2.0

Stamp = tuple[int, int, int] | None


def resolve_uids(rules: PolicyRules, snapshot: Snapshot, known: Mapping[int, str]) -> PolicyRules:
    """The rules with the hotkey beside each uid: the known one, else the one that holds it in the snapshot.

    An entry whose uid nobody holds is left as it is and matches nobody.
    """
    holders = {neuron.uid: neuron.hotkey for neuron in snapshot.neurons} | dict(known)

    def resolve(entry: PolicyEntry) -> PolicyEntry:
        if entry.uid is None:
            return entry
        return entry.model_copy(update={"hotkey": holders.get(entry.uid)})

    return rules.map_lists(lambda entries: tuple(resolve(entry) for entry in entries))


def uid_entries(rules: PolicyRules) -> list[PolicyEntry]:
    """Those that were written with a uid."""
    entries = (*rules.allow, *rules.deny_hotkeys, *rules.deny_coldkeys)
    return [entry for entry in entries if entry.uid is not None]


class Blacklist:
    """Decides by the file as it last was when it could be read; the file is never written."""

    def __init__(self, path: Path, rules: PolicyRules, snapshot: Callable[[], Snapshot]) -> None:
        """`rules` are those that `path` held at the start; `snapshot` tells the subnet as last seen."""
        self._path = path
        self._snapshot = snapshot
        self._written = rules
        self._seen: Stamp = None
        # Not the file's present stamp: it may have changed since it was read.
        self._read: Stamp = (0, 0, 0)
        self._rules = self._resolved(rules, {})

    def decide(self, hotkey: str) -> PolicyDecision:
        """The policy on a hotkey, now."""
        return decide(self._snapshot(), self._rules.in_force(datetime.now(UTC)), hotkey)

    async def watch(self, changed: Callable[[], None]) -> None:
        """Look at the file for ever; `changed` is called after its rules have."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            if self.poll():
                changed()

    def poll(self) -> bool:
        """Read the file if it has changed and then stayed as it is since the last poll; whether the rules changed.

        An editor that writes in two goes would otherwise leave us with half a list for a moment.
        """
        stamp, before = self._stamp(), self._seen
        self._seen = stamp
        return stamp == before and stamp != self._read and self.reload()

    def reload(self) -> bool:
        """Read the file now; whether the rules changed. One that cannot be read changes nothing but the log."""
        self._read = self._stamp()
        try:
            rules = load_yaml(self._path, PolicyRules)
        except OperatorError as error:
            log.error("%s; the rules from before stay in force", error)
            return False
        if rules == self._written:
            return False
        known = {entry.uid: entry.hotkey for entry in uid_entries(self._rules) if entry.uid is not None}
        self._rules = self._resolved(rules, {uid: hotkey for uid, hotkey in known.items() if hotkey})
        self._written = rules
        log.info("%s was read again: %s", self._path, describe(rules))
        return True

    def _resolved(self, rules: PolicyRules, known: Mapping[int, str]) -> PolicyRules:
        snapshot = self._snapshot()
        resolved = resolve_uids(rules, snapshot, known)
        for entry in uid_entries(resolved):
            if entry.hotkey is None:
                log.warning("%s: nobody holds uid %d at block %d; ignored", self._path, entry.uid, snapshot.block)
            elif entry.uid not in known:
                log.warning(
                    "%s: uid %d is taken for hotkey %s, its holder at block %d; write the hotkey, since uids are "
                    "recycled",
                    *(self._path, entry.uid, entry.hotkey, snapshot.block),
                )
        return resolved

    def _stamp(self) -> Stamp:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def describe(rules: PolicyRules) -> str:
    """The rules in one line."""
    permit = "a permit and " if rules.require_validator_permit else ""
    denied = f"{len(rules.deny_hotkeys)} hotkeys and {len(rules.deny_coldkeys)} coldkeys denied"
    return f"{len(rules.allow)} allowed, {denied}, others need {permit}{rules.min_stake:g} stake"
