"""Keeps what runs in step with the state file and the phases' files; a swap takes effect with the next task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from miner.config.loader import phase_folders
from miner.config.phase_files import NamedPhase, load_phase
from miner.errors import OperatorError
from miner.gpu.models import LoadedModels, RetiredModels
from miner.ledger.events import ExperimentEnded, ExperimentStarted, PhaseChanged
from miner.ledger.recorder import consult
from miner.ledger.writer import LedgerWriter
from miner.phases.selector import PhaseSelector
from miner.phases.state import Action, Choice, Chosen, ChosenSplit, PhaseState, StateError, StateFile

log = logging.getLogger(__name__)

POLL_INTERVAL = 0.5
FILE_CHANGED = "its file was changed"

Stamps = dict[Path, tuple[int, int, int]]


@dataclass(frozen=True)
class PhaseFiles:
    """Where phases and the choice among them stand: the settings file and the state."""

    config: Path
    state: StateFile

    def find(self, phase: Chosen | NamedPhase) -> NamedPhase | None:
        """The phase of that name as its file says now; None if the file is broken or gone."""
        try:
            return load_phase(phase.phase if isinstance(phase, Chosen) else phase.name, self.config)
        except OperatorError:
            return None

    def chosen(self, phase: NamedPhase) -> Chosen:
        """A phase that was loaded earlier; it follows its file if that says the same still."""
        found = self.find(phase)
        return Chosen.of(phase, follows=found is not None and found.config_hash == phase.config_hash)

    def stamps(self) -> Stamps:
        """Changes when any of the files does, comes or goes."""
        found: Stamps = {}
        files = [file for folder in phase_folders(self.config) for file in folder.glob("*.yaml")]
        for file in (*files, self.state.path):
            try:
                status = file.stat()
            except OSError:
                continue
            found[file] = status.st_mtime_ns, status.st_size, status.st_ino
        return found

    def begin(self, configured: NamedPhase) -> PhaseState:
        """What a miner that is started with a phase is to run, which is written down. Raises OperatorError."""

        def change(state: PhaseState | None) -> PhaseState:
            name, told = configured.name, Chosen.of(configured)
            if state is None:
                return PhaseState(configured=name, at=time.time(), action="start", current=told)
            if state.configured not in (None, name):
                # Whoever changed the settings or the command line did so after whatever was applied before.
                state = state.apply(told, "start", f"the miner was started with {name}")
            else:
                state = self.followed(state)
            return state.model_copy(update={"configured": name})

        state = self.state.change(change)
        assert state is not None
        return state

    def followed(self, state: PhaseState) -> PhaseState:
        """The state with what the file of its phase says now. Raises OperatorError."""
        current = state.current
        if not isinstance(current, Chosen) or not current.follows:
            return state
        found = Chosen.of(load_phase(current.phase, self.config))
        return state if found.is_same(current) else state.apply(found, "apply", FILE_CHANGED)


class PhaseManager:
    """Decides what runs, loads what it needs, and tells the ledger; all on the event loop."""

    def __init__(
        self,
        files: PhaseFiles,
        configured: NamedPhase,
        check_allowed: Callable[[NamedPhase], None],
        load: Callable[[NamedPhase], Awaitable[LoadedModels]],
        release: Callable[[], object],
        ledger: LedgerWriter | None = None,
    ) -> None:
        """`configured` is what the settings file or the command line names.

        `check_allowed` raises OperatorError for phases that must not run here; `load` and `release`: see miner.gpu.models.
        """
        self.files = files
        self._configured = configured
        self._check_allowed = check_allowed
        self._load = load
        self._ledger = ledger
        self._retired = RetiredModels(release)
        self._poked = asyncio.Event()
        self._told = ""
        self._seen: Stamps = {}
        self._done: Stamps = {}
        self._state: PhaseState | None = None
        self._phases: PhaseSelector | None = None

    @property
    def phases(self) -> PhaseSelector:
        """What runs; there is something once `start` has returned."""
        assert self._phases is not None
        return self._phases

    @property
    def running(self) -> Choice | None:
        """What runs, None before `start` has returned."""
        return None if self._phases is None else self._phases.choice

    async def start(self) -> PhaseSelector:
        """Load what is to run. Raises OperatorError."""
        # Before the files are read: what changes from now on is noticed.
        self._seen = self._done = self.files.stamps()
        try:
            state = await asyncio.to_thread(self.files.begin, self._configured)
        except StateError as error:
            log.error("%s; phase %s runs, as the settings have it", error, self._configured.name)
            told = Chosen.of(self._configured)
            state = PhaseState(configured=None, at=time.time(), action="start", current=told)
        self._check(state.current)
        loaded = await self._load(state.current.phases[0])
        self._state = state
        self._phases = PhaseSelector(state.current, loaded, await asyncio.to_thread(self._turns, state.current))
        known = await asyncio.to_thread(self._experiments)
        self._write_down("start", state.reason, known)
        return self._phases

    async def run(self) -> None:
        """Watch the files until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._poked.wait()
            except TimeoutError:
                pass
            await self.look(at_once=self._poked.is_set())

    def poke(self) -> None:
        """Look at the files now, and say again what is wrong with them."""
        self._told = ""
        self._poked.set()

    async def look(self, at_once: bool = False) -> None:
        """Follow the files if they have changed and then stayed as they are since the last look, or `at_once`."""
        self._poked.clear()
        self._retired.look()
        stamps = self.files.stamps()
        # An editor that writes in two goes would otherwise leave us with half a phase for a moment.
        settled, self._seen = stamps == self._seen, stamps
        if at_once or (settled and stamps != self._done):
            self._done = stamps
            await self._follow()

    async def _follow(self) -> None:
        while True:
            written, wanted = await asyncio.to_thread(self._wanted)
            if wanted is None or written is None or wanted.current.is_same(self.phases.choice):
                return
            choice = wanted.current
            try:
                self._check(choice)
                loaded = await self._loaded_for(choice)
            except OperatorError as error:
                self._refuse(error)
                await asyncio.to_thread(self._take_back, choice)
                return
            # Loading takes a while in which something else may have been chosen.
            _, now = await asyncio.to_thread(self._wanted)
            if now is not None and now.current.is_same(choice):
                break
        self._swap(wanted, loaded)
        if wanted is not written:
            await asyncio.to_thread(self._keep, written, wanted)

    def _wanted(self) -> tuple[PhaseState | None, PhaseState | None]:
        """The state as it is written, and as it should be with what the files say; None is "no other than now"."""
        try:
            written = self.files.state.read()
        except OperatorError as error:
            self._refuse(error)
            return None, None
        if written is None:
            return None, None
        try:
            return written, self.files.followed(written)
        except OperatorError as error:
            self._refuse(error)
            return written, written

    def _check(self, choice: Choice) -> None:
        for phase in choice.phases:
            self._check_allowed(phase)
        if isinstance(choice, ChosenSplit):
            try:
                _ = choice.drawing
            except ValueError as error:
                raise OperatorError(f"{choice.label} cannot run: {error}") from None

    async def _loaded_for(self, choice: Choice) -> LoadedModels:
        phase = choice.phases[0]
        if phase.settings.loaded == self.phases.loaded.what:
            return self.phases.loaded
        log.info("Loading what %s needs; %s goes on meanwhile", choice.label, self.phases.choice.label)
        try:
            return await self._load(phase)
        except OperatorError:
            raise
        except Exception as error:  # whatever a phase provokes must not stop the one that runs
            log.exception("Loading phase %s failed unexpectedly", phase.name)
            raise OperatorError(f"phase {phase.name} cannot be loaded: {type(error).__name__}: {error}") from None

    def _refuse(self, error: OperatorError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            log.error("%s; %s goes on", error, self.phases.choice.label)

    def _take_back(self, refused: Choice) -> None:
        """Have the state say what runs, so that a restart does not fail on what we refused."""
        running = self._state
        self._change(lambda written: running if written is not None and written.current.is_same(refused) else None)

    def _keep(self, written: PhaseState, wanted: PhaseState) -> None:
        self._change(lambda state: wanted if state == written else None)

    def _change(self, change: Callable[[PhaseState | None], PhaseState | None]) -> None:
        try:
            self.files.state.change(change)
        except OperatorError as error:
            log.warning("%s", error)

    def _swap(self, state: PhaseState, loaded: LoadedModels) -> None:
        before, old = self.phases.choice, self.phases.loaded
        self.phases.swap(state.current, loaded)
        self._told = ""
        if loaded is not old:
            self._retired.add(old, before.label)
        self._state = state
        log.info("From the next task on: %s instead of %s", state.current.label, before.label)
        over = {before.experiment: False} if isinstance(before, ChosenSplit) else {}
        self._write_down(state.action, state.reason, over)

    def _write_down(self, action: Action, reason: str, experiments: dict[str, bool]) -> None:
        """Tell the ledger what runs; `experiments` that it knows, and whether each has ended."""
        if self._ledger is None:
            return
        now, choice = time.time(), self.phases.choice
        running = choice.experiment if isinstance(choice, ChosenSplit) else None
        for name, ended in experiments.items():
            if name != running and not ended:
                self._ledger.record(ExperimentEnded(name, now, reason or f"{choice.label} took its place"))
        if isinstance(choice, ChosenSplit) and choice.experiment not in experiments:
            self._ledger.record(ExperimentStarted(choice.experiment, now, choice.seed, choice.weights))
        for phase in choice.phases:
            self._ledger.record(PhaseChanged(now, phase.name, action, phase.config_hash, phase.yaml))

    def _experiments(self) -> dict[str, bool]:
        """Those that the ledger knows, and whether each has ended."""
        if self._ledger is None:
            return {}
        return consult(
            self._ledger.path,
            lambda reader: {row.name: row.ended_at is not None for row in reader.experiments()},
            {},
        )

    def _turns(self, choice: Choice) -> dict[tuple[str, str], int]:
        if self._ledger is None or not isinstance(choice, ChosenSplit):
            return {}
        return consult(self._ledger.path, lambda reader: reader.next_turns(choice.experiment), {})
