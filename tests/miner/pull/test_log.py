"""The lines that the log has of submissions, as operators' pipes read them."""

import logging
import re

import pytest

from pipeline import Asset, OnStep, PipelineError, Request
from tests.support.generated import make_asset
from tests.support.operator_pipes import ACCEPTANCE, COUNTS, SCORES, SECONDS, cut
from tests.support.paths import ROOT
from tests.support.pulling import PullingMiner

ACCEPTED, REJECTED, NOT_VALIDATED, SKIPPED = 0.72, 0.3, None, "skipped"


async def test_the_pipes_count_what_was_judged(miner: PullingMiner, caplog: pytest.LogCaptureFixture) -> None:
    """Three accepted, four rejected, one not validated and two skipped results: three of seven."""
    fates = [ACCEPTED, REJECTED, SKIPPED, REJECTED, NOT_VALIDATED, ACCEPTED, REJECTED, SKIPPED, ACCEPTED, REJECTED]

    def generate(request: Request, on_step: OnStep) -> Asset:
        fate = fates.pop(0)
        if isinstance(fate, str):
            raise PipelineError("nothing there")
        miner.validator.score = fate
        return make_asset(request)

    miner.generate = generate
    miner.give(*(f"task-{number}" for number in range(len(fates))))
    with caplog.at_level(logging.INFO, "miner"):
        miner.update()
        while sum(miner.runner.counters[name] for name in ("accepted", "rejected", "not_validated", "skipped")) < 10:
            await miner.time.pass_sleep()
    log = "".join(f"2025-11-04 10:00:00 | {record.levelname} | {record.getMessage()}\n" for record in caplog.records)
    assert cut(ACCEPTANCE, log) == ["3", "of", "7"]
    assert cut(SCORES, log) == ["0.72", "0.00", "0.00", "0.72", "0.00", "0.72", "0.00"]
    assert cut(COUNTS, log) == ["7K"] * 8
    assert cut(SECONDS, log) == ["1.2"] * 8
    assert log.count(": rejected, Score=0.00, ") == 4
    assert log.count(": not validated, ") == 1
    # Each answer names the phase that made the result.
    assert len(re.findall(r" submitted to validator \d+ \(\w{8}\), phase [\w-]+: ", log)) == 10


def test_the_readme_has_the_pipe() -> None:
    assert ACCEPTANCE in (ROOT / "README.md").read_text()
