"""Chooses whom to pull from: one supervised session a validator, and what outlives sessions and restarts."""

import logging
from collections.abc import Callable

from miner.pull.session import SessionContext, ValidatorRecord, ValidatorSession
from miner.pull.store import CooldownStore
from miner.pull.validator_state import ValidatorState
from miner.runtime import Supervisor, sanitise_name
from miner.subnet.dendrite import Dendrite, Transport
from miner.subnet.metagraph import Snapshot
from miner.words import plural

log = logging.getLogger(__name__)


def _session_name(hotkey: str) -> str:
    return f"the session of validator {hotkey[:8]}"


class Puller:
    """Keeps a session running for each allowed validator that serves an axon; `records` are by hotkey."""

    def __init__(
        self,
        context: SessionContext,
        supervisor: Supervisor,
        store: CooldownStore | None = None,
        connect: Callable[[], Transport] | None = None,
    ) -> None:
        """Begin with the stored cooldowns; `connect` makes the client of one validator, by default a Dendrite."""
        self.records: dict[str, ValidatorRecord] = {}
        self._context = context
        self._supervisor = supervisor
        self._store = store
        self._connect = connect or (lambda: Dendrite(context.keypair, context.settings.max_answer_bytes))
        self._stored = store.load(context.clock) if store else {}
        self._sessions: dict[str, ValidatorSession] = {}

    @property
    def hotkey(self) -> str:
        """Our own hotkey."""
        hotkey: str = self._context.keypair.ss58_address
        return hotkey

    def update(self, snapshot: Snapshot) -> None:
        """Start and retire sessions to fit the snapshot; a validator that moved keeps its session and cooldown."""
        eligible = {
            neuron.hotkey: neuron
            for neuron in snapshot.neurons
            if neuron.is_serving and neuron.hotkey != self.hotkey and self._context.decide(neuron.hotkey).allowed
        }
        for hotkey in self._sessions.keys() - eligible.keys():
            self._retire(hotkey)
        for hotkey, neuron in eligible.items():
            if hotkey not in self.records:
                self.records[hotkey] = ValidatorRecord(neuron, self._restored_state(hotkey))
            record = self.records[hotkey]
            if (record.neuron.ip, record.neuron.port) != (neuron.ip, neuron.port):
                log.info("Now pulling from %s at %s:%d", record.name, neuron.ip, neuron.port)
            record.neuron = neuron
            if hotkey in self._sessions:
                self._sessions[hotkey].is_retiring = False
            else:
                self._start(hotkey)
        if not eligible:
            log.warning("No validator to pull from: none that serves an axon is allowed by config/blacklist.yaml")
        registered = {neuron.hotkey for neuron in snapshot.neurons}
        for hotkey in self.records.keys() - registered - self._sessions.keys():
            # Its row in the ledger is closed by what the validator says when it is back.
            if not self.records[hotkey].state.failed_submissions:
                del self.records[hotkey]

    def _start(self, hotkey: str) -> None:
        session = ValidatorSession(self.records[hotkey], self._context, self._connect, self._save)

        async def run() -> None:
            await session.run()
            if self._sessions.get(hotkey) is session:
                del self._sessions[hotkey]

        self._sessions[hotkey] = session
        self._supervisor.start(_session_name(hotkey), run, vital=False)

    def _retire(self, hotkey: str) -> None:
        """End a session: at once if it holds no task, otherwise after the task."""
        record, session = self.records[hotkey], self._sessions[hotkey]
        if session.is_retiring:
            return
        log.info("No longer pulling from %s", record.name)
        session.is_retiring = True
        if not record.state.is_busy:
            self._supervisor.cancel(_session_name(hotkey))
            del self._sessions[hotkey]

    async def stop(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109
        """End all sessions; those that hold a task get `timeout` seconds to finish and submit it."""
        for hotkey in tuple(self._sessions):
            self._retire(hotkey)
        names = [_session_name(hotkey) for hotkey in self._sessions]
        if names and timeout > 0:
            log.info("Finishing %s in hand, within %.0f s", plural(len(names), "task"), timeout)
            await self._supervisor.finish(names, timeout)
        for hotkey in self._sessions:
            record = self.records[hotkey]
            if record.state.is_busy and record.state.held is not None:
                task_id = sanitise_name(record.state.held.task.id)
                log.warning("Task %s: %s when we stopped; %s holds it", task_id, record.state.stage.value, record.name)
        await self._supervisor.stop(*names)
        self._sessions.clear()

    def _restored_state(self, hotkey: str) -> ValidatorState:
        """Return the state of a validator of which only what was stored is known, before a restart or an absence."""
        stored = self._stored.get(hotkey)
        if stored is None:
            return ValidatorState()
        now = self._context.clock.now()
        state = ValidatorState.restored(stored, now)
        if state.pull_after > now:
            log.info("Validator %s: known cooldown, next pull in %.0f s", hotkey[:8], state.pull_after - now)
        return state

    def _save(self) -> None:
        """Store cooldowns and tasks in hand, if they changed."""
        if self._store is None:
            return
        now = self._context.clock.now()
        # Validators that are not pulled from now may be again before what is known of them has passed.
        absent = {
            hotkey: stored
            for hotkey, stored in self._stored.items()
            if hotkey not in self.records and ValidatorState.restored(stored, now).pull_after > now
        }
        current = absent | {hotkey: record.state.to_store() for hotkey, record in self.records.items()}
        if current != self._stored:
            self._stored = current
            self._store.save(current, self._context.clock)
