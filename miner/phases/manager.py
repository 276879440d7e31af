"""Keeps what runs in step with the state file and the phase files; a swap takes effect with the next task."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.gpu import PhaseModels, RetiredModels
from miner.ledger import (
    ExperimentEnded,
    ExperimentRow,
    ExperimentStarted,
    LedgerReader,
    LedgerWriter,
    PhaseChanged,
    query_ledger,
)
from miner.phases.files import PhaseFiles, Problems
from miner.phases.selector import PhaseSelector
from miner.phases.state import Action, PhaseChoice, PhaseState, StateError
from miner.runtime import FileWatcher

log = logging.getLogger(__name__)

POLL_INTERVAL = 0.5


@dataclass(frozen=True)
class ModelOwner:
    """What the manager needs of the workers.

    `check_allowed` raises OperatorError for phases that must not run here. `load` has a phase's models loaded and
    warmed up, and raises OperatorError. `unload` has them dropped, by their id.
    """

    check_allowed: Callable[[NamedPhase], None]
    load: Callable[[NamedPhase], Awaitable[PhaseModels]]
    unload: Callable[[str], object]


@dataclass(eq=False)
class PhaseManager:
    """Decides what runs, loads what it needs, and records it; everything on the event loop. Made by `open`.

    `file_problems` are what the files now hold and the miner does not run, in words.
    """

    files: PhaseFiles
    selector: PhaseSelector
    _watcher: FileWatcher
    _state: PhaseState
    _owner: ModelOwner
    _ledger: LedgerWriter | None
    _retired: RetiredModels
    file_problems: tuple[str, ...] = ()
    _poked: asyncio.Event = field(default_factory=asyncio.Event)
    _refusal: str = ""

    @staticmethod
    async def open(
        files: PhaseFiles, configured: NamedPhase, owner: ModelOwner, ledger: LedgerWriter | None = None
    ) -> "PhaseManager":
        """Load what is to run: the phase that is configured, or what was applied since. Raise OperatorError."""
        watcher = FileWatcher(files.paths)
        # Before the files are read, so that later changes are noticed.
        watcher.mark_read()
        try:
            beginning = await asyncio.to_thread(files.begin, configured)
            state = beginning.state
        except StateError as error:
            log.error("%s; phase %s runs, as configured", error, configured.name)
            beginning = None
            state = PhaseState(at=time.time(), action="start", current=PhaseChoice.single(configured))
        _check(state.current, owner)
        models = await owner.load(state.current.to_load)
        if beginning is not None:
            state = await asyncio.to_thread(files.confirm, beginning)
        turns = await asyncio.to_thread(_next_turns, ledger, state.current)
        selector = PhaseSelector(state.current, models, turns)
        manager = PhaseManager(files, selector, watcher, state, owner, ledger, RetiredModels(owner.unload))
        manager._record("start", state.reason, await asyncio.to_thread(_experiments, ledger))
        await manager._report_ignored_edits()
        return manager

    async def run(self) -> None:
        """Watch the files until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._poked.wait()
            except TimeoutError:
                pass
            await self.poll(at_once=self._poked.is_set())

    def poke(self) -> None:
        """Read the files now, and report again what is wrong with them."""
        self.file_problems, self._refusal = (), ""
        self._poked.set()

    async def poll(self, at_once: bool = False) -> None:
        """Follow the files if they have changed and then stayed the same since the last poll, or `at_once`."""
        self._poked.clear()
        self._retired.free_unused()
        if at_once:
            self._watcher.mark_read()
        if at_once or self._watcher.changed():
            await self._follow()

    @property
    def problems(self) -> tuple[str, ...]:
        """What the operator should know: `file_problems`, and the parts of the score that cannot be computed."""
        # The models may have been loaded with a scorer for a phase that is not in use any more.
        if not any(phase.settings.scorer for phase in self.selector.choice.phases):
            return self.file_problems
        # Loaded models serve as they are for as long as phases need no others.
        missing = (f"{problem}; then restart the miner" for problem in self.selector.models.problems)
        return (*self.file_problems, *missing)

    async def _follow(self) -> None:
        while True:
            written, wanted = await asyncio.to_thread(self._read)
            if wanted is None or written is None:
                return
            if wanted.current.same_as(self.selector.choice):
                if not written.ready:
                    # Applied again, or applied while this was being loaded at the start.
                    await asyncio.to_thread(self._confirm, written, wanted)
                return
            choice = wanted.current
            try:
                _check(choice, self._owner)
                models = await self._models_for(choice)
            except OperatorError as error:
                self._report_refusal(error)
                await asyncio.to_thread(self._withdraw, choice, error)
                return
            # Something else may have been chosen while the models were loaded.
            _, now = await asyncio.to_thread(self._read)
            if now is not None and now.current.same_as(choice):
                break
        self._swap(wanted.taken_over(), models)
        await asyncio.to_thread(self._confirm, written, wanted)
        await self._report_ignored_edits()

    def _read(self) -> tuple[PhaseState | None, PhaseState | None]:
        """Return the state as written, and as it should be given the phase files; None means "keep what runs".

        A state that was deleted is written again.
        """
        running = self.selector.choice
        try:
            written = self.files.state.read()
        except OperatorError as error:
            self._report({f"{error}; {running.label} goes on": logging.ERROR})
            return None, None
        if written is None:
            self._restore()
            return None, None
        # The same phase may have been chosen again, to follow its file from now on.
        chosen = written.current if written.current.same_as(running) else running
        problems = self.files.find_ignored_edits(chosen)
        wanted = written
        try:
            wanted = self.files.follow(written)
        except OperatorError as error:
            problems[f"{error}; {running.label} goes on"] = logging.ERROR
        self._report(problems)
        return written, wanted

    def _restore(self) -> None:
        """Write the state that was deleted again: a restart would run the phase as configured, and history be lost."""
        path, state = self.files.state.path, self._state
        log.warning("%s was deleted and is written again; %s goes on", path, state.current.label)
        self._change_state(lambda present: state if present is None else None)

    def _confirm(self, written: PhaseState, wanted: PhaseState) -> None:
        """Write down that what was wanted runs, unless something else has been written meanwhile."""
        self._change_state(lambda state: wanted.taken_over() if state == written else None)

    async def _models_for(self, choice: PhaseChoice) -> PhaseModels:
        phase = choice.to_load
        if self.selector.models.key.serves(phase.settings.models_key):
            return self.selector.models
        log.info("Loading the models of %s; %s goes on in the meantime", choice.label, self.selector.choice.label)
        loading = asyncio.ensure_future(self._owner.load(phase))
        try:
            # This may take minutes, in which the last tasks of models that were swapped out before come to their end.
            while not (await asyncio.wait({loading}, timeout=POLL_INTERVAL))[0]:
                self._retired.free_unused()
            return await loading
        except OperatorError:
            raise
        except Exception as error:  # nothing that a new phase provokes may stop the one that runs
            log.exception("Loading phase %s failed unexpectedly", phase.name)
            raise OperatorError(f"phase {phase.name} cannot be loaded: {type(error).__name__}: {error}") from None
        finally:
            loading.cancel()

    def _report(self, problems: Problems) -> None:
        """Log those of the present problems that are new."""
        for problem, level in problems.items():
            if problem not in self.file_problems:
                log.log(level, "%s", problem)
        self.file_problems = tuple(problems)

    async def _report_ignored_edits(self) -> None:
        self._report(await asyncio.to_thread(self.files.find_ignored_edits, self.selector.choice))

    def _report_refusal(self, error: OperatorError) -> None:
        if str(error) != self._refusal:
            self._refusal = str(error)
            log.error("%s; %s goes on", error, self.selector.choice.label)

    def _withdraw(self, refused: PhaseChoice, error: OperatorError) -> None:
        """Write what runs into the state file again, with the answer, so that a restart does not fail on the choice."""
        answer = self._state.refusing(refused, str(error))
        self._change_state(lambda state: answer if state is not None and state.current.same_as(refused) else None)

    def _change_state(self, change: Callable[[PhaseState | None], PhaseState | None]) -> None:
        try:
            self.files.state.change(change)
        except OperatorError as error:
            log.warning("%s", error)

    def _swap(self, state: PhaseState, models: PhaseModels) -> None:
        old_choice, old_models = self.selector.choice, self.selector.models
        self.selector.swap(state.current, models)
        self._refusal = ""
        if models is not old_models:
            self._retired.add(old_models, old_choice.label)
        self._state = state
        log.info("From the next task on: %s instead of %s", state.current.label, old_choice.label)
        self._record(state.action, state.reason, {old_choice.experiment: False} if old_choice.is_split else {})

    def _record(self, action: Action, reason: str, known_experiments: dict[str, bool]) -> None:
        """Record what runs now; `known_experiments` maps those in the ledger to whether they have ended."""
        if self._ledger is None:
            return
        now, choice = time.time(), self.selector.choice
        for name, has_ended in known_experiments.items():
            if name != choice.experiment and not has_ended:
                self._ledger.record(ExperimentEnded(name, now, reason or f"{choice.label} took its place"))
        if choice.is_split and choice.experiment not in known_experiments:
            self._ledger.record(ExperimentStarted(choice.experiment, now, choice.seed, choice.weights))
        for phase in choice.phases:
            self._ledger.record(PhaseChanged(now, phase.name, action, phase.config_hash, phase.yaml))


def _check(choice: PhaseChoice, owner: ModelOwner) -> None:
    """Raise OperatorError if a choice must not or cannot run."""
    for phase in choice.phases:
        owner.check_allowed(phase)
    if choice.is_split:
        try:
            _ = choice.assignment
        except ValueError as error:
            raise OperatorError(f"{choice.label} cannot run: {error}") from None


def _experiments(ledger: LedgerWriter | None) -> dict[str, bool]:
    """Return the experiments that the ledger knows, and whether each has ended."""
    if ledger is None:
        return {}
    rows = query_ledger(ledger.path, LedgerReader.experiments, list[ExperimentRow]())
    return {row.name: row.ended_at is not None for row in rows}


def _next_turns(ledger: LedgerWriter | None, choice: PhaseChoice) -> dict[tuple[str, str], int]:
    if ledger is None or not choice.is_split:
        return {}
    return query_ledger(ledger.path, lambda reader: reader.next_turns(choice.experiment), {})
