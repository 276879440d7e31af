"""Pulling: whom to pull from, one supervised loop for each, and what of it outlives loops and restarts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from miner.pull.session import SessionContext, ValidatorRecord, ValidatorSession
from miner.pull.state_machine import LONGEST_WAIT, ValidatorState
from miner.pull.store import Cooldown, CooldownStore
from miner.runtime.logging import sanitise_name
from miner.runtime.supervisor import Supervisor
from miner.subnet.dendrite import Dendrite, Transport
from miner.subnet.metagraph import Snapshot

log = logging.getLogger(__name__)


def _task_name(hotkey: str) -> str:
    return f"the loop of validator {hotkey[:8]}"


class Puller:
    """Keeps one loop running for each validator that the policy allows and that serves an axon."""

    def __init__(
        self,
        environment: SessionContext,
        supervisor: Supervisor,
        cooldown_file: CooldownStore | None = None,
        connect: Callable[[], Transport] | None = None,
    ) -> None:
        """`connect` makes the client of one validator, by default a Dendrite."""
        self.records: dict[str, ValidatorRecord] = {}
        self._environment = environment
        self._supervisor = supervisor
        self._cooldown_file = cooldown_file
        self._connect = connect or (lambda: Dendrite(environment.keypair))
        self._saved = cooldown_file.load() if cooldown_file else {}
        self._written: dict[str, tuple[float, str | None, float | None]] = {}
        self._loops: dict[str, ValidatorSession] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Start and retire loops to fit the snapshot; a validator that moved keeps its loop and its cooldown."""
        own = self._environment.keypair.ss58_address
        wanted = {
            neuron.hotkey: neuron
            for neuron in snapshot.neurons
            if neuron.is_serving and neuron.hotkey != own and self._environment.decide(neuron.hotkey).allowed
        }
        for hotkey in self._loops.keys() - wanted.keys():
            self._retire(hotkey)
        for hotkey, neuron in wanted.items():
            record = self.records.setdefault(hotkey, ValidatorRecord(neuron, self._remembered(hotkey)))
            if (record.neuron.ip, record.neuron.port) != (neuron.ip, neuron.port):
                log.info("Now pulling from %s at %s:%d", record.name, neuron.ip, neuron.port)
            record.neuron = neuron
            if hotkey in self._loops:
                self._loops[hotkey].retiring = False
            else:
                self._start(hotkey)
        if not wanted:
            log.warning("No validator to pull from: none that serves an axon is allowed by config/blacklist.yaml")
        registered = {neuron.hotkey for neuron in snapshot.neurons}
        for hotkey in self.records.keys() - registered - self._loops.keys():
            del self.records[hotkey]

    def _start(self, hotkey: str) -> None:
        loop = ValidatorSession(self.records[hotkey], self._environment, self._connect, self._save)

        async def run() -> None:
            await loop.run()
            if self._loops.get(hotkey) is loop:
                del self._loops[hotkey]

        self._loops[hotkey] = loop
        self._supervisor.start(_task_name(hotkey), run, group="pulling")

    def _retire(self, hotkey: str) -> None:
        """End a loop: at once if it holds no task, else after the task."""
        record, loop = self.records[hotkey], self._loops[hotkey]
        if loop.retiring:
            return
        log.info("No more pulling from %s", record.name)
        loop.retiring = True
        if not record.state.busy:
            self._supervisor.cancel(_task_name(hotkey))
            del self._loops[hotkey]

    async def stop(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109
        """End all loops; those that hold a task get `timeout` seconds to bring it to its end."""
        for hotkey in tuple(self._loops):
            self._retire(hotkey)
        names = [_task_name(hotkey) for hotkey in self._loops]
        if names and timeout > 0:
            log.info("%d tasks in hand are brought to their end, within %.0f s", len(names), timeout)
            await self._supervisor.finish(names, timeout)
        for hotkey in self._loops:
            record = self.records[hotkey]
            if record.state.busy and record.state.held is not None:
                what = sanitise_name(record.state.held.task.id)
                log.warning("Task %s: %s when we stopped; %s holds it", what, record.state.stage.value, record.name)
        await self._supervisor.stop(*names)
        self._loops.clear()

    def _remembered(self, hotkey: str) -> ValidatorState:
        """The state of a validator of which all that is known is what we wrote down before a restart."""
        saved = self._saved.get(hotkey)
        if saved is None:
            return ValidatorState()
        now, wall = self._environment.clock.now(), self._environment.clock.wall()
        end = now + min(saved.pull_after - wall, LONGEST_WAIT)
        if end > now:
            log.info("Validator %s: on cooldown for %.0f s more since before our restart", hotkey[:8], end - now)
        earlier = None
        if saved.task_id is not None and saved.assigned_at is not None:
            earlier = (saved.task_id, now + min(saved.assigned_at - wall, 0.0))
        return ValidatorState(pull_after=end, cooldown_end=end, earlier=earlier)

    def _save(self) -> None:
        """Write down cooldowns and tasks in hand, if they changed."""
        if self._cooldown_file is None:
            return
        facts = {hotkey: _facts(record.state) for hotkey, record in self.records.items()}
        if facts == self._written:
            return
        self._written = facts
        wall = self._environment.clock.wall()
        unix = wall - self._environment.clock.now()
        # Validators that are not pulled from now may be again before their cooldown ends.
        absent = {h: saved for h, saved in self._saved.items() if h not in self.records and saved.pull_after > wall}
        self._saved = absent | {
            hotkey: Cooldown(
                pull_after=0.0 if end == -math.inf else end + unix,
                task_id=task_id,
                assigned_at=None if assigned_at is None else assigned_at + unix,
            )
            for hotkey, (end, task_id, assigned_at) in facts.items()
        }
        self._cooldown_file.save(self._saved)


def _facts(state: ValidatorState) -> tuple[float, str | None, float | None]:
    held = state.held
    if held is not None:
        return state.cooldown_end, held.task.id, held.assigned_at
    return (state.cooldown_end, *(state.earlier or (None, None)))
