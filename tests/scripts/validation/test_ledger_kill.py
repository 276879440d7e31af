from pathlib import Path

import pytest

from scripts.validation.ledger_kill import kill_once


@pytest.mark.process
@pytest.mark.parametrize("paced", [True, False], ids=["one by one", "in bursts"])
def test_a_killed_writer_leaves_all_but_the_last_record(tmp_path: Path, paced: bool) -> None:
    for number in range(4):
        result = kill_once(tmp_path / "ledger.sqlite", f"round {number}", paced, delay=0.02 * number)
        assert result.problems == ()
        assert result.found >= result.written >= 1
