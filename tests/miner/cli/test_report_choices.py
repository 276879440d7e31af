"""What a report is of: times, filters and dimensions."""

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from miner.cli.task_filter import Moment
from miner.ledger.reader import LedgerReader, TaskRow
from tests.support.report import few, run_report


def test_since(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    few(path, [("old", "accepted")] * 3, at=time.time() - 30 * 3600)
    few(path, [("new", "rejected")] * 2)

    def tasks(since: str) -> int:
        return int(json.loads(run_report("--ledger", path, "--since", since, "--format", "json")[1])["total"]["tasks"])

    assert (tasks("24h"), tasks("2d"), tasks("2020-01-01"), tasks("90m")) == (2, 5, 5, 2)
    code, out, _ = run_report("--ledger", path, "--since", "2999-01-01T00:00+01:00")
    assert (code, "has no tasks since 2998-12-31 23:00 UTC" in out) == (0, True)


def test_several_dimensions(ledger: Path) -> None:
    content = json.loads(run_report("--ledger", ledger, "--by", "phase,validator", "--format", "json")[1])
    assert content["by"] == ["phase", "validator"]
    assert len(content["groups"]) == 14
    assert sum(group["judged"] for group in content["groups"]) == content["total"]["judged"]
    assert content["groups"][0]["keys"][0] == "baseline 9f0c5a1b"
    # Each validator's tasks of one phase against those of the other.
    pairs = [(one["label"].split(" · "), one["reference"].split(" · ")) for one in content["differences"]]
    assert len(pairs) == 7
    assert all(label[0] != reference[0] and label[1] == reference[1] for label, reference in pairs)
    rows = list(csv.DictReader(io.StringIO(run_report("--ledger", ledger, "--by", "phase,type", "--format", "csv")[1])))
    assert [(row["phase"], row["type"]) for row in rows] == [
        *((phase, kind) for phase in ("baseline 9f0c5a1b", "phase3 1a2b3c4d") for kind in ("image", "text")),
        ("", ""),
    ]
    text = run_report("--ledger", ledger, "--by", "type,hour")[1]
    assert "by type and hour" in text


@pytest.mark.parametrize(
    ("by", "words"), [("phase,day", "'day' is none of phase,"), ("phase,phase", "names one twice"), ("", "'' is none")]
)
def test_dimensions_that_are_none(by: str, words: str) -> None:
    code, _, err = run_report("--by", by)
    assert (code, words in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (("--phase", "phase3"), lambda task: task.phase == "phase3"),
        (("--phase", "1a2b3c4d5e"), lambda task: task.phase == "phase3"),
        (("--phase", "baseline 9f0c5a1b", "--phase", "phase3"), lambda task: True),
        (("--validator", "142"), lambda task: task.uid == 142),
        (("--validator", "27", "--validator", "5Validator00000000000000000000000000000000000142"),
         lambda task: task.uid in (27, 142)),
        (("--type", "text"), lambda task: task.task_type == "text"),
        (("--since", "2025-11-01T14:00", "--until", "2025-11-01T15:00"),
         lambda task: 1_762_005_600 <= task.assigned_at < 1_762_009_200),
        (("--phase", "phase3", "--validator", "142", "--type", "image"),
         lambda task: (task.phase, task.uid, task.task_type) == ("phase3", 142, "image")),
    ],
)  # fmt: skip
def test_filters(ledger: Path, arguments: tuple[str, ...], kept: Callable[[TaskRow], bool]) -> None:
    with LedgerReader(ledger) as reader:
        keys = [task.key for task in reader.tasks() if kept(task)]
        outcomes = {task.key: task.outcome for task in reader.tasks()}
    assert keys
    for last in (None, 7):
        options = (*arguments, "--last", str(last)) if last else arguments
        total = json.loads(run_report("--ledger", ledger, *options, "--format", "json")[1])["total"]
        latest = keys if last is None else keys[-last:]
        assert (total["tasks"], total["accepted"]) == (len(latest), [outcomes[key] for key in latest].count("accepted"))


def test_filters_are_named(ledger: Path) -> None:
    arguments = (
        "--phase",
        "phase3",
        "--validator",
        "142",
        "--validator",
        "27",
        "--until",
        "2026-01-01",
        "--last",
        "50",
    )
    words = ", until 2026-01-01 00:00, phase phase3, validator 142 or 27, the last 50 tasks, as of "
    assert f"50 tasks{words}" in run_report("--ledger", ledger, *arguments)[1]
    assert words in run_report("--ledger", ledger, *arguments, "--format", "html")[1]
    out = run_report("--ledger", ledger, "--type", "text", "--until", "2025-01-01")[1]
    assert "has no tasks of type text until 2025-01-01 00:00 UTC" in out


def test_only_experiments_that_assigned_the_chosen_tasks_are_shown(ledger: Path) -> None:
    words = "Experiment 2025-11 phase3 baseline since"
    whole = run_report("--ledger", ledger)[1].partition(words)[2]
    assert whole
    # Whole, although it assigned only some of the tasks.
    assert run_report("--ledger", ledger, "--validator", "142")[1].partition(words)[2] == whole
    assert words not in run_report("--ledger", ledger, "--phase", "baseline", "--until", "2025-11-01T13:00")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--phase", "phase4"), "no task of phase 'phase4'; it has baseline, phase3"),
        (("--validator", "5Nobody"), "no task of validator '5Nobody'; it has 5Validat (uid 27), "),
        (("--since", "1h", "--until", "2h"), "--since lies after --until"),
        (("--last", "0"), "0 is not in the range x>=1"),
    ],
)
def test_what_nothing_can_be_of(ledger: Path, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run_report("--ledger", ledger, *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_times() -> None:
    def parse(text: str) -> float:
        return Moment().convert(text, None, None)

    assert parse("2025-11-04") == 1_762_214_400
    assert parse("2025-11-04T01:00+01:00") == 1_762_214_400
    assert parse("1.5d") == pytest.approx(time.time() - 129_600, abs=60)
    with pytest.raises(click.BadParameter, match="neither a period such as 24h"):
        Moment().convert("9999-12-31T23:59-12:00", None, None)
    with pytest.raises(click.BadParameter, match="neither a period such as 24h or 7d nor a time such as 2025-11-04"):
        parse("yesterday")
    assert run_report("--since", "yesterday")[0] == 2


@pytest.mark.parametrize("form", ["text", "json", "csv", "html"])
def test_without_tasks_it_says_so_and_that_is_no_failure(tmp_path: Path, form: str) -> None:
    for words in ("There is no ledger", "has no tasks"):
        code, out, err = run_report("--state", tmp_path, "--format", form)
        assert code == 0
        assert words in (out if form == "text" else err)
        assert "nothing to report" in (out if form == "text" else err)
        if form == "json":
            assert json.loads(out)["total"]["tasks"] == 0
        if form == "html":
            assert "nothing to report" in out
        assert (tmp_path / "ledger.sqlite").exists() == (words == "has no tasks")
        (tmp_path / "ledger.sqlite").touch()
