from __future__ import annotations

import re
import subprocess
import sys

import pytest

from miner.logs import ResultLine, shown

LINE = ResultLine("abc-1", {"background": 0.31, "structure": 2.05}, 371_424, 4_812_331)


def test_result_line_has_an_inverse() -> None:
    assert ResultLine.parse(f"2025-11-04 10:00:00 | INFO | {LINE}") == LINE
    assert ResultLine.parse("2025-11-04 10:00:00 | INFO | Ready: phase demo") is None


def test_result_line_reads_well() -> None:
    assert str(LINE) == (
        "Task abc-1: generation took 2.4 seconds (background 0.31, structure 2.05). "
        "Final stats: 371424 gaussians, 4812331 bytes"
    )


@pytest.mark.parametrize(("flag", "lines"), [("False", 1), ("True", 2)])
def test_lines_are_utc_and_survive_bittensors_import(flag: str, lines: int) -> None:
    """In a process of its own, since logging is global."""
    code = (
        "import logging; early = logging.getLogger('miner.early')\n"
        "import bittensor\nfrom miner.logs import configure\n"
        f"configure({flag})\n"
        "early.info('hello'); early.debug('detail')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"TZ": "Asia/Tokyo"}
    )
    written = done.stdout.splitlines()
    assert len(written) == lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| INFO \| hello", written[0])
    from datetime import UTC, datetime

    stamp = datetime.strptime(written[0][:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 3600


def test_a_strangers_names_cannot_forge_lines() -> None:
    assert shown("a1b2-c3.d:e_f") == "a1b2-c3.d:e_f"
    assert re.fullmatch(r"x[\w.?-]+", shown("x\n2025-11-04 | INFO | Score=1.00, \x1b[31m"))
    assert shown("") == "?"
    assert len(shown("y" * 1000)) == 64
