"""Tasks that are run with a phase of several scored candidates."""

import math

from miner.config.choice_sections import CandidateSettings, ScorerSettings
from miner.config.phase import Phase
from miner.tasks.task import Result
from tests.support.miner_parts import MinerParts


async def run_with(parts: MinerParts, phase: Phase, deadline: float = math.inf, validator: str | None = "5V") -> Result:
    parts.use_phase(phase)
    return await parts.run(5, validator, deadline=deadline)


def scored(phase: Phase, count: int = 3, seconds: float = 600.0, **more: object) -> Phase:
    changes = {"candidates": CandidateSettings(count=count, seconds=seconds), "scorer": ScorerSettings(), **more}
    return phase.model_copy(update=changes)
