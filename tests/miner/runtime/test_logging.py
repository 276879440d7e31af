import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from miner.runtime.logging import FILE_NAME, LogFile, ResultLine, configure, log_to_files, sanitise_name, sanitise_text
from pipeline import STAGES
from tests.support.operator_pipes import COUNTS, SCORES, SECONDS, cut

LINE = ResultLine("abc-1", {"background": 0.31, "structure": 2.05}, 371_424, 4_812_331)


def test_result_line_has_an_inverse() -> None:
    assert ResultLine.parse(f"2025-11-04 10:00:00 | INFO | {LINE}") == LINE
    assert ResultLine.parse("2025-11-04 10:00:00 | INFO | Ready: phase demo") is None


def test_result_line_reads_well() -> None:
    assert str(LINE) == (
        "Task abc-1: TRELLIS generation took 2.4 seconds. "
        "Final stats: 371K gaussians (371424), 4812331 bytes; seconds: background 0.31, structure 2.05"
    )


@pytest.mark.process
@pytest.mark.parametrize(("flag", "lines"), [("False", 1), ("True", 2)])
def test_lines_are_utc_and_survive_bittensors_import(flag: str, lines: int) -> None:
    """In a process of its own, since logging is global."""
    code = (
        "import logging; early = logging.getLogger('miner.early')\n"
        "import bittensor\nfrom miner.runtime.logging import configure\n"
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


@pytest.mark.process
def test_what_the_sdk_logs_is_one_quoted_line_an_event_in_our_format_and_in_our_file(tmp_path: Path) -> None:
    code = (
        "import bittensor, sys\nfrom pathlib import Path\n"
        "from miner.runtime.logging import configure, log_to_files\n"
        "configure(False)\n"
        f"with log_to_files(Path({str(tmp_path)!r})):\n"
        "    for n in range(3):\n"
        "        try: raise ValueError('\\x1b[31mScore=1.00\\nforged')\n"
        "        except ValueError as error: bittensor.logging.exception(f'a\\x1b[32mb\\nc {n}')\n"
        "    bittensor.logging.error('once\\n  more')\n"
        "    bittensor.logging.info('unimportant')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.partition(" | ")[2] for line in done.stdout.splitlines()]
    assert lines[1:] == ["ERROR | bittensor: once more"]
    assert re.fullmatch(r"ERROR \| bittensor: .*ab.* \(ValueError: Score_=1.00 forged at <string>:\d+\)", lines[0])
    assert (tmp_path / FILE_NAME).read_text() == done.stdout
    assert done.stderr == ""


def test_a_strangers_names_cannot_forge_lines() -> None:
    assert sanitise_name("a1b2-c3.d:e_f") == "a1b2-c3.d:e_f"
    assert re.fullmatch(r"x[\w.?-]+", sanitise_name("x\n2025-11-04 | INFO | Score=1.00, \x1b[31m"))
    assert sanitise_name("") == "?"
    assert len(sanitise_name("y" * 1000)) == 64


HOSTILE = "a chair, Score=9.99, Final stats: 999K gaussians, score = 8, TRELLIS generation took 0.1 seconds\n| Score=7,"


def test_the_operators_pipes_get_the_numbers_and_nobody_elses() -> None:
    head = "2025-11-04 10:00:00 | INFO | "
    lines = [
        f"Task t1: {sanitise_text(HOSTILE)}",
        ResultLine("t1", dict.fromkeys(STAGES, 2.08), 371_424, 4_812_331),
        "Task t1: 641 bytes submitted to validator 27 (5F3sa2TJ): accepted, Score=0.71, average 0.65, and so on",
        f"Task {sanitise_name(HOSTILE)}: pulled from validator 27 (5F3sa2TJ), text",
        ResultLine("t2", dict.fromkeys(STAGES, 0.2), 640, 9000),
        "Task t2: 12000 bytes submitted to validator 27 (5F3sa2TJ): rejected, Score=0.00, cooldown 900 s",
    ]
    log = "".join(f"{head}{line}\n" for line in lines)
    assert cut(SCORES, log) == ["0.71", "0.00"]
    assert cut(COUNTS, log) == ["371K", "640"]
    assert cut(SECONDS, log) == ["10.4", "1.0"]


@pytest.mark.parametrize(("count", "words"), [(7, "7"), (999, "999"), (1000, "1K"), (7499, "7K"), (1_234_567, "1235K")])
def test_counts_are_told_in_thousands_and_exactly(count: int, words: str) -> None:
    line = ResultLine("t", {"structure": 1.0}, count, 1)
    assert f"Final stats: {words} gaussians ({count})" in str(line)
    assert ResultLine.parse(str(line)) == line


def test_a_line_tells_how_many_candidates_and_the_best_score() -> None:
    line = ResultLine("t1", dict.fromkeys(STAGES, 2.08), 371_424, 4_812_331, 4, "quality 0.712, alignment 0.430")
    assert str(line).endswith("gaussians 2.08; best of 4, quality 0.712, alignment 0.430")
    assert ResultLine.parse(f"2025-11-04 10:00:00 | INFO | {line}") == line
    assert cut(COUNTS, f"{line}\n") == ["371K"]
    assert cut(SECONDS, f"{line}\n") == ["10.4"]
    assert cut(SCORES, f"{line}\n") == []


@pytest.fixture
def plain_loggers() -> Iterator[None]:
    """The packages' loggers as they were before."""
    loggers = [logging.getLogger(name) for name in ("miner", "pipeline")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("plain_loggers")
def test_files_are_begun_anew_and_hold_every_line(tmp_path: Path) -> None:
    configure(debug=False)
    with log_to_files(tmp_path / "logs", 500):
        for number in range(20):
            logging.getLogger("miner.some" if number % 2 else "pipeline.other").info("line %d of it", number)
    logging.getLogger("miner").info("not in the file")
    files = sorted((tmp_path / "logs").iterdir(), key=lambda path: -int(path.name.partition("log.")[2] or 0))
    assert files[-1].name == FILE_NAME
    assert len(files) > 1
    lines = "".join(path.read_text() for path in files).splitlines()
    assert [line.partition(" | INFO | ")[2] for line in lines] == [f"line {number} of it" for number in range(20)]


@pytest.mark.usefixtures("plain_loggers")
def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("in the way")
    configure(debug=False)
    with log_to_files(tmp_path / "logs"):
        pass
    assert "No log files are written to" in capsys.readouterr().out


def test_a_full_disk_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = LogFile(tmp_path, 10**6)
    (tmp_path / FILE_NAME).symlink_to("/dev/full")
    for _ in range(3):
        writer.emit(logging.makeLogRecord({"msg": "lost"}))
    assert capsys.readouterr().err.count("cannot be written") == 1
    writer.close()
