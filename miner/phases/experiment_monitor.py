"""Judges the running experiment again and again, and promotes or rolls back if it was asked to."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miner.analytics import ExperimentSummary, summarise_experiment
from miner.ledger import LedgerReader, query_ledger
from miner.phases.manager import PhaseManager
from miner.phases.state import PhaseChoice, PhaseState, StateError

log = logging.getLogger(__name__)

# Seconds between two evaluations; the test stays valid however often it is looked at.
INTERVAL = 60.0


@dataclass(eq=False)
class ExperimentMonitor:
    """Evaluates the experiment that runs; `status` is the latest evaluation, None without an experiment."""

    ledger: Path
    manager: PhaseManager
    status: ExperimentSummary | None = None
    _announced: tuple[str, str | None, tuple[str, ...]] | None = None

    async def run(self) -> None:
        """Evaluate every INTERVAL seconds until cancelled."""
        while True:
            await self.evaluate()
            await asyncio.sleep(INTERVAL)

    async def evaluate(self) -> None:
        """Evaluate the running experiment, if there is one; announce each verdict once and act on it."""
        split = self.manager.selector.choice
        if not split.is_split:
            self.status = None
            return
        status = await asyncio.to_thread(self._read_status, split)
        if status is None:
            return
        self.status = status
        verdict = (status.row.name, status.result.winner, status.result.losers)
        if status.result.state == "continue" or verdict == self._announced:
            return
        self._announced = verdict
        log.warning("Experiment %s: %s. This holds at 95 %% however often one looks", split.experiment, status)
        change = self._consequence(split, status)
        if change is not None:
            try:
                await asyncio.to_thread(self.manager.files.state.change, _if_still_running(split, change))
            except StateError as error:
                log.error("Experiment %s goes on: %s", split.experiment, error)
                self._announced = None
            self.manager.poke()

    def _read_status(self, split: PhaseChoice) -> ExperimentSummary | None:
        def query(reader: LedgerReader) -> ExperimentSummary | None:
            row = next((row for row in reader.experiments() if row.name == split.experiment), None)
            if row is None:
                return None
            return summarise_experiment(row, reader.tasks(experiment=row.name), time.time())

        return query_ledger(self.ledger, query, None)

    def _consequence(self, split: PhaseChoice, status: ExperimentSummary) -> Callable[[PhaseState], PhaseState] | None:
        files, reason = self.manager.files, str(status)
        if split.promote and status.result.winner is not None:
            winner = next(phase for phase in split.phases if phase.name == status.result.winner)
            return lambda state: state.apply(files.choose(winner), "automatic", reason)
        losing_hashes = {phase.config_hash for phase in split.phases if phase.name in status.result.losers}

        def roll_back(state: PhaseState) -> PhaseState:
            # The phase that the split was to improve on may be the one that turned out worse.
            if not state.before or state.before[-1].phases[0].config_hash in losing_hashes:
                return state
            return state.roll_back(files.choose, "automatic", reason)

        return roll_back if split.rollback and losing_hashes else None


def _if_still_running(
    split: PhaseChoice, change: Callable[[PhaseState], PhaseState]
) -> Callable[[PhaseState | None], PhaseState | None]:
    """Return the change, limited to a state in which nothing else has been chosen since."""
    return lambda state: change(state) if state is not None and state.current.same_as(split) else None
