"""Learns from the ledger, again and again, with which chance results pass, for the phases whose gate is auto."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from miner.analytics import PASS_MODEL_COLUMNS, PassModel, learn_pass_model
from miner.ledger import LedgerReader, TaskRow, query_ledger
from miner.phases import PhaseSelector

# Seconds between two refreshes: the cooldown, after which each validator may have told one more outcome.
INTERVAL = 300.0
# Seconds after which a phase that was applied meanwhile is noticed, or a ledger that could not be read is tried again.
IDLE_INTERVAL = 30.0
# Outcomes of before tell little of the validators of today.
HISTORY_SECONDS = 14 * 86_400.0
_UNUSED = frozenset(TaskRow._fields) - set(PASS_MODEL_COLUMNS)


@dataclass(eq=False)
class CalibrationMonitor:
    """Keeps the model of the chance to pass; None if no gate asks for it, or the ledger cannot be read.

    `model` is replaced as a whole and may be read from any thread.
    """

    ledger: Path
    selector: PhaseSelector
    model: PassModel | None = None

    async def run(self) -> None:
        """Refresh the model until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(IDLE_INTERVAL if self.model is None else INTERVAL)

    async def refresh(self) -> None:
        """Learn from the ledger as it is now, on another thread."""
        learnt = None
        try:
            if any(phase.settings.gate == "auto" for phase in self.selector.choice.phases):
                learnt = await asyncio.to_thread(self._learn)
        finally:
            # Also after an error: what cannot be learnt again is not relied on.
            self.model = learnt

    def _learn(self) -> PassModel | None:
        now = time.time()

        def query(reader: LedgerReader) -> PassModel:
            return learn_pass_model(reader.tasks(now - HISTORY_SECONDS, without=_UNUSED), now)

        return query_ledger(self.ledger, query, None)
