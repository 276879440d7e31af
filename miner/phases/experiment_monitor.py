"""Judges the split that runs, again and again, and acts on it if it was told to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from miner.analytics.experiments import ExperimentSummary, summarise_experiment
from miner.ledger.reader import LedgerReader
from miner.ledger.recorder import consult
from miner.phases.manager import PhaseManager
from miner.phases.state import ChosenSplit, PhaseState, StateError

log = logging.getLogger(__name__)

# Seconds between two looks at the ledger; looking often costs nothing but time.
INTERVAL = 60.0


@dataclass(frozen=True)
class ArmStatus:
    """One arm: results accepted, and results that count."""

    phase: str
    accepted: int
    counted: int


@dataclass(frozen=True)
class ExperimentStatus:
    """How a split stands: `winner` has beaten every other arm, `losers` are clearly worse than some other."""

    experiment: str
    arms: tuple[ArmStatus, ...]
    winner: str | None
    losers: tuple[str, ...]

    @staticmethod
    def of(summary: ExperimentSummary) -> ExperimentStatus:
        """The essence of a summary."""
        arms = tuple(ArmStatus(*arm) for arm in summary.arms)
        return ExperimentStatus(summary.row.name, arms, summary.result.winner, summary.result.losers)

    @property
    def is_decided(self) -> bool:
        """Whether any arm has beaten another."""
        return bool(self.losers) or self.winner is not None

    def as_json(self) -> dict[str, Any]:
        """In types of JSON."""
        return asdict(self)

    def __str__(self) -> str:
        arms = ", ".join(f"{arm.phase} {arm.accepted} of {arm.counted}" for arm in self.arms)
        verdict = "no arm is better yet"
        if self.winner is not None:
            verdict = f"{self.winner} has won"
        elif self.losers:
            verdict = f"{' and '.join(self.losers)} clearly worse than another arm"
        return f"{verdict}; accepted: {arms}"


class ExperimentMonitor:
    """Looks into the ledger for the split that runs."""

    def __init__(self, ledger: Path, control: PhaseManager) -> None:
        self.standing: ExperimentStatus | None = None
        self._ledger = ledger
        self._control = control
        self._told: tuple[str, str | None, tuple[str, ...]] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Judge the split, if one runs; tell of each verdict once."""
        split = self._control.phases.choice
        if not isinstance(split, ChosenSplit):
            self.standing = None
            return
        standing = await asyncio.to_thread(self._judge, split)
        if standing is None:
            return
        self.standing = standing
        verdict = (standing.experiment, standing.winner, standing.losers)
        if not standing.is_decided or verdict == self._told:
            return
        self._told = verdict
        log.warning("Experiment %s: %s. This holds at 95 %% however often one looks", split.experiment, standing)
        change = self._consequence(split, standing)
        if change is not None:
            try:
                await asyncio.to_thread(self._control.files.state.change, _only_of(split, change))
            except StateError as error:
                log.error("Experiment %s goes on: %s", split.experiment, error)
                self._told = None
            self._control.poke()

    def _judge(self, split: ChosenSplit) -> ExperimentStatus | None:
        def question(reader: LedgerReader) -> ExperimentStatus | None:
            row = next((row for row in reader.experiments() if row.name == split.experiment), None)
            if row is None:
                return None
            return ExperimentStatus.of(summarise_experiment(row, reader.tasks(experiment=row.name), time.time()))

        return consult(self._ledger, question, None)

    def _consequence(self, split: ChosenSplit, standing: ExperimentStatus) -> Callable[[PhaseState], PhaseState] | None:
        files, reason = self._control.files, str(standing)
        if split.promote and standing.winner is not None:
            winner = next(phase for phase in split.phases if phase.name == standing.winner)
            return lambda state: state.apply(files.chosen(winner), "automatic", reason)
        worse = {phase.config_hash for phase in split.phases if phase.name in standing.losers}

        def roll_back(state: PhaseState) -> PhaseState:
            last = state.before[-1].named if state.before else None
            # What the split was to improve on may be what turned out worse.
            if last is None or last.config_hash in worse:
                return state
            return state.roll_back(files.find, "automatic", reason)

        return roll_back if split.rollback and worse else None


def _only_of(
    split: ChosenSplit, change: Callable[[PhaseState], PhaseState]
) -> Callable[[PhaseState | None], PhaseState | None]:
    """The change, unless something else was chosen meanwhile."""
    return lambda state: change(state) if state is not None and state.current.is_same(split) else None
