"""The rules of blacklist.yaml in force: read again when the file changes, with uids resolved to hotkeys."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from miner.config import PolicyEntry, PolicyRules, load_yaml
from miner.errors import OperatorError
from miner.policy.policy import PolicyDecision, decide
from miner.runtime import FileWatcher
from miner.subnet.metagraph import Snapshot
from miner.words import plural

log = logging.getLogger(__name__)

POLL_INTERVAL = 2.0


def resolve_uids(rules: PolicyRules, snapshot: Snapshot, known: Mapping[int, str]) -> PolicyRules:
    """Return the rules with a hotkey beside each uid: the known one, else that of the neuron with this uid.

    An entry whose uid no neuron has stays without a hotkey and matches none.
    """
    hotkeys = {neuron.uid: neuron.hotkey for neuron in snapshot.neurons} | dict(known)

    def resolve(entry: PolicyEntry) -> PolicyEntry:
        if entry.uid is None:
            return entry
        return entry.model_copy(update={"hotkey": hotkeys.get(entry.uid)})

    return rules.map_lists(lambda entries: tuple(resolve(entry) for entry in entries))


def entries_by_uid(rules: PolicyRules) -> dict[int, PolicyEntry]:
    """Return the entries that were written with a uid, by uid."""
    entries = (*rules.allow, *rules.deny_hotkeys, *rules.deny_coldkeys)
    return {entry.uid: entry for entry in entries if entry.uid is not None}


class Blacklist:
    """The rules as the file held them when it could last be read; the file is never written."""

    def __init__(self, path: Path, rules: PolicyRules, snapshot: Callable[[], Snapshot]) -> None:
        """Begin with `rules`, those that `path` held at the start; `snapshot` returns the subnet as last seen."""
        self._path = path
        self._snapshot = snapshot
        # Not marked as read: the file may have changed since `rules` were read.
        self._watcher = FileWatcher(lambda: [path])
        self._rules_in_file = rules
        self._rules = self._resolve(rules, {})

    def decide(self, hotkey: str) -> PolicyDecision:
        """Decide whether to work for a hotkey now."""
        return decide(self._snapshot(), self._rules.in_force(datetime.now(UTC)), hotkey)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Poll the file until cancelled, and call `on_change` after its rules have changed."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            if self.poll():
                on_change()

    def poll(self) -> bool:
        """Read the file if it has changed and settled since the last poll; return whether the rules changed."""
        return self._watcher.changed() and self.reload()

    def reload(self) -> bool:
        """Read the file now, and return whether the rules changed; a file that cannot be read is only logged."""
        self._watcher.mark_read()
        try:
            rules = load_yaml(self._path, PolicyRules)
        except OperatorError as error:
            log.error("%s; the previous rules stay in force", error)
            return False
        if rules == self._rules_in_file:
            return False
        known = {uid: entry.hotkey for uid, entry in entries_by_uid(self._rules).items() if entry.hotkey}
        self._rules = self._resolve(rules, known)
        self._rules_in_file = rules
        log.info("%s was reloaded: %s", self._path, describe(rules))
        return True

    def _resolve(self, rules: PolicyRules, known: Mapping[int, str]) -> PolicyRules:
        snapshot = self._snapshot()
        resolved = resolve_uids(rules, snapshot, known)
        for uid, entry in entries_by_uid(resolved).items():
            if entry.hotkey is None:
                log.warning("%s: no neuron has uid %d at block %d; ignored", self._path, uid, snapshot.block)
            elif uid not in known:
                log.warning(
                    "%s: uid %d is resolved to hotkey %s, its holder at block %d; list the hotkey instead, since uids "
                    "are recycled",
                    *(self._path, uid, entry.hotkey, snapshot.block),
                )
        return resolved


def describe(rules: PolicyRules) -> str:
    """Return the rules in one line, for the log."""
    permit = "a permit and " if rules.require_validator_permit else ""
    denied = f"{plural(len(rules.deny_hotkeys), 'hotkey')} and {plural(len(rules.deny_coldkeys), 'coldkey')} denied"
    return f"{len(rules.allow)} allowed, {denied}, others need {permit}{rules.min_stake:g} stake"
