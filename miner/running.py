"""What tasks are generated with now: one phase or the arms of a split, and the networks they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from miner.experiments import Stratum
from miner.ledger_events import Draw
from miner.phase_state import Choice, ChosenSplit
from miner.phases import NamedPhase
from pipeline import Backend, Scorer


@dataclass(frozen=True, eq=False)
class Loaded:
    """Networks in memory, and what phases need to be able to run with them. They go when nothing refers to this."""

    backend: Backend
    what: str
    scorer: Scorer | None = None


@dataclass(frozen=True)
class Drawn:
    """What is remembered of what a task is generated with."""

    phase: str
    config_hash: str
    draw: Draw | None


@dataclass(frozen=True, eq=False)
class Begun:
    """What one task is generated with from its assignment on, whatever is swapped meanwhile."""

    phase: NamedPhase
    loaded: Loaded
    draw: Draw | None = None

    @property
    def drawn(self) -> Drawn:
        """Without the networks."""
        return Drawn(self.phase.name, self.phase.config_hash, self.draw)


class Phases:
    """Hands each task its phase."""

    def __init__(self, choice: Choice, loaded: Loaded, turns: Mapping[tuple[str, str], int] | None = None) -> None:
        """`turns`: of a split that goes on, the next turn by validator and task type. Raises ValueError as `swap`."""
        self.swap(choice, loaded, turns)

    @property
    def choice(self) -> Choice:
        """What runs."""
        return self._choice

    @property
    def loaded(self) -> Loaded:
        """What it runs with."""
        return self._loaded

    def swap(self, choice: Choice, loaded: Loaded, turns: Mapping[tuple[str, str], int] | None = None) -> None:
        """From the next task on, this. Raises ValueError if the arms of a split cannot be compared."""
        self._experiment = choice.drawing if isinstance(choice, ChosenSplit) else None
        self._turns = Counter({Stratum(*stratum): turn for stratum, turn in (turns or {}).items()})
        self._choice, self._loaded = choice, loaded
        self._phases = {phase.name: phase for phase in choice.phases}

    def begin(self, stratum: Stratum | None = None, earlier: Drawn | None = None) -> Begun:
        """What the next task is generated with.

        `stratum` None: nobody judges the result, so it counts in no split. `earlier`: what the same task was given
        before; in a split that still runs it stays in its arm.
        """
        first, *_ = self._phases.values()
        if self._experiment is None or not isinstance(self._choice, ChosenSplit) or stratum is None:
            return Begun(first, self._loaded)
        name, draw = self._choice.experiment, earlier.draw if earlier else None
        if draw is None or draw.experiment != name or draw.arm not in self._phases:
            turn = self._turns[stratum]
            self._turns[stratum] += 1
            draw = Draw(name, self._experiment.arm(stratum, turn), turn)
        return Begun(self._phases[draw.arm], self._loaded, draw)
