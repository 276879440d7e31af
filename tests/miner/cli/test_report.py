import csv
import io
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from miner.analytics.aggregate import COMPARED
from miner.ledger.events import (
    ArmAssignment,
    ExperimentEnded,
    ExperimentStarted,
    PhaseAssignment,
    ResultGenerated,
    SubmissionAnswered,
    TaskStarted,
)
from miner.ledger.outcomes import Outcome
from miner.ledger.writer import LedgerWriter
from miner.localnet.synthetic_ledger import fill_ledger
from tests.support.cli import run
from tests.support.report import few, run_report


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    few(path, [("a", "accepted")] * 20 + [("b", "rejected")] * 15 + [("b", "accepted")] * 5 + [("b", "skipped")])
    code, out, err = run_report("--ledger", path)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines()[2:6]}
    assert rows["a"][2:9] == ["20", "20", "0", "0", "0", "100.0", "%"]
    assert rows["a"][9:] == ["83.9-100.0", "0.700", "0.500", "-", "2.0", "2.0", "-", "at", "least", "excellent"]
    assert rows["b"][2:10] == ["21", "5", "15", "1", "0", "25.0", "%", "11.2-46.9"]
    assert out.count("not enough data, 4 more tasks") == 1
    assert rows["all"][1:5] == ["41", "25", "15", "1"]
    assert "b hhhhhhhh against a hhhhhhhh: -75.0 points (95 %: -88.8 to -47.8)" in out
    assert "sn17-miner phase split" in out
    assert "Verdicts: excellent from 0.70, good from 0.60, minimum from 0.55, modest from 0.45 (bands in" in out


def test_bands_of_the_settings_file(tmp_path: Path) -> None:
    few(tmp_path / "ledger.sqlite", [("a", "accepted")] * 20)
    config = tmp_path / "miner.yaml"
    config.write_text(f"phase: phase3\nstate_dir: {tmp_path}\nbands: {{fine: 0.5, superb: 0.8}}\n")
    for form in ("text", "html"):
        out = run_report("--config", config, "--format", form)[1]
        assert "at least superb" in out
        assert "Verdicts: superb from 0.80, fine from 0.50 (bands in miner.yaml)" in out
    assert json.loads(run_report("--config", config, "--format", "json")[1])["bands"] == {"superb": 0.8, "fine": 0.5}


def split(path: Path, tasks: int, ended: bool = False) -> None:
    """Write an experiment between a and b with so many tasks of each."""
    ledger = LedgerWriter(path)
    at = time.time()
    ledger.record(ExperimentStarted("e1", at, 7, {"a": 1, "b": 1}))
    for turn in range(2 * tasks):
        key, arm = ledger.new_key(), "ab"[turn % 2]
        assignment = PhaseAssignment(arm, "h" * 12, ArmAssignment("e1", arm, turn))
        ledger.record(TaskStarted(key, at, "pull", "5V", 3, f"split {turn}", "image", assignment, "1"))
        ledger.record(SubmissionAnswered(key, at + 5, Outcome.ACCEPTED, score=0.7))
    if ended:
        ledger.record(ExperimentEnded("e1", at + 9, "for the test"))
    assert ledger.close(30)


@pytest.mark.parametrize("form", ["text", "html"])
@pytest.mark.parametrize(
    ("before", "tasks", "ended", "note"),
    [
        (0, 5, False, ""),
        (0, 5, True, ""),
        (3, 5, False, "compares only tasks that were assigned at random"),
        (3, 5, True, "compares only tasks that were assigned at random"),
        # The split has just begun.
        (3, 0, False, "compares only tasks that were assigned at random"),
        (3, 0, True, "were not assigned at random"),
    ],
)
def test_tasks_of_a_split_were_shared_out_at_random(
    tmp_path: Path, form: str, before: int, tasks: int, ended: bool, note: str
) -> None:
    path = tmp_path / "ledger.sqlite"
    few(path, [("a", "accepted"), ("b", "rejected")] * before)
    split(path, tasks, ended)
    out = run_report("--ledger", path, "--format", form)[1]
    assert "Experiment e1" in out
    assert (", running" in out) is not ended
    assert ("at random" in out) == bool(note)
    assert note in out


def test_a_split_without_tasks_is_shown(tmp_path: Path) -> None:
    split(tmp_path / "ledger.sqlite", 0)
    out = run_report("--ledger", tmp_path / "ledger.sqlite")[1]
    assert "has no tasks" in out
    assert "Experiment e1 since" in out


def test_text_of_a_ledger_with_everything(ledger: Path) -> None:
    code, out, _ = run_report("--ledger", ledger)
    assert code == 0
    assert all(re.search(rf"^{column} ", out, re.MULTILINE) for column in COMPARED)
    assert "Experiment 2025-11 phase3 baseline since" in out
    assert re.search(r"phase3: \d+ accepted of \d+ counted tasks", out)
    assert "phase3 better than baseline: evidence" in out


@pytest.mark.parametrize(("by", "groups"), [("phase", 2), ("validator", 7), ("type", 2), ("hour", 8)])
def test_json(ledger: Path, by: str, groups: int) -> None:
    code, out, _ = run_report("--ledger", ledger, "--by", by, "--format", "json")
    content = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (code, content["by"], content["total"]["tasks"]) == (0, [by], 600)
    assert len(content["groups"]) == groups
    for name in ("tasks", "accepted", "rejected", "skipped", "other"):
        assert sum(group[name] for group in content["groups"]) == content["total"][name]
    for group in content["groups"]:
        assert group["judged"] == group["accepted"] + group["rejected"]
        assert group["interval"][0] <= group["rate"] <= group["interval"][1]
        assert group["verdict"].startswith(("not enough data", "at least", "below"))
    assert [contrast["column"] for contrast in content["total"]["contrasts"]] == list(COMPARED)
    assert content["experiments"][0]["state"] in ("winner", "loser", "continue")
    assert [phase["phase"] for phase in content["phases"]] == ["baseline", "phase3"]


def test_csv(ledger: Path) -> None:
    code, out, _ = run_report("--ledger", ledger, "--by", "validator", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["label"] for row in rows][-1] == "all"
    assert len(rows) == 8
    assert sum(int(row["accepted"]) for row in rows[:-1]) == int(rows[-1]["accepted"])
    assert all(row["key"].startswith("5Validator0000") for row in rows[:-1])
    assert float(rows[-1]["gaussians_delta"]) > 0
    hours = list(csv.DictReader(io.StringIO(run_report("--ledger", ledger, "--by", "hour", "--format", "csv")[1])))
    assert (hours[0]["gaussians_delta"], hours[-1]["gaussians_delta"]) == ("", rows[-1]["gaussians_delta"])


def test_a_ledger_that_is_named_must_exist(tmp_path: Path) -> None:
    code, out, err = run_report("--ledger", tmp_path / "none.sqlite")
    assert (code, out) == (2, "")
    assert "none.sqlite' does not exist" in err
    assert not (tmp_path / "none.sqlite").exists()


def test_the_ledger_of_the_settings_file_is_read(tmp_path: Path) -> None:
    few(tmp_path / "elsewhere.sqlite", [("configured", "accepted")])
    few(tmp_path / "state" / "ledger.sqlite", [("default", "accepted")])
    config = tmp_path / "miner.yaml"
    config.write_text(f"phase: phase3\nstate_dir: {tmp_path}/state\n")
    assert "default hhhhhhhh" in run_report("--config", config)[1]
    config.write_text(f"phase: phase3\nledger: {{path: {tmp_path}/elsewhere.sqlite}}\n")
    for arguments in (("--config", config), ("--config", config, "--state", tmp_path / "state")):
        assert "configured hhhhhhhh" in run_report(*arguments)[1]


def test_options_before_the_command(tmp_path: Path) -> None:
    few(tmp_path / "ledger.sqlite", [("a", "accepted")])
    result = run("--state", tmp_path, "report")
    assert "a hhhhhhhh" in result.stdout
    # The option nearest to the command wins.
    result = run("--state", tmp_path / "other", "report", "--state", tmp_path)
    assert "a hhhhhhhh" in result.stdout


def test_what_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_text("no database, but long enough to be looked at " * 100)
    code, out, err = run_report("--ledger", path)
    assert (code, out) == (2, "")
    assert err == f"ERROR: the ledger {path} cannot be read: file is not a database\n"
    code, _, err = run_report("--ledger", tmp_path)
    assert (code, "is a directory" in err) == (2, True)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    code, _, err = run_report("--state", tmp_path, "-o", tmp_path / "missing" / "report.txt")
    assert (code, "No such file or directory" in err) == (2, True)


def gated(path: Path) -> None:
    """Write 60 scored results that were sent, 9 that were withheld and one that was explored."""
    ledger = LedgerWriter(path)
    at = time.time()
    for number in range(70):
        key, gate = ledger.new_key(), "sent" if number < 60 else "withheld" if number < 69 else "explored"
        assignment = PhaseAssignment("a", "h" * 12, None)
        ledger.record(TaskStarted(key, at, "pull", "5V", 3, str(number), "image", assignment, "1"))
        is_good = number % 2 == 0
        score, chance = (0.65, 0.8) if is_good else (0.55, 0.2)
        result = ResultGenerated(key, at, 1, (1,), {}, {}, score, 9, estimated_score=score, threshold=0.6)
        ledger.record(replace(result, gate=gate, pass_probability=chance))  # type: ignore[arg-type]
        outcome = Outcome.SKIPPED if gate == "withheld" else Outcome.ACCEPTED if is_good else Outcome.REJECTED
        ledger.record(SubmissionAnswered(key, at, outcome, 0.7))
    assert ledger.close(30)


@pytest.mark.parametrize("form", ["text", "html"])
def test_the_chance_to_pass_and_what_the_gate_did(tmp_path: Path, form: str) -> None:
    gated(tmp_path / "ledger.sqlite")
    out = run_report("--state", tmp_path, "--format", form)[1]
    assert "Chance that image results pass, by score: 61 outcomes, half pass at " in out
    assert ", 0.250 without scores" in out
    line = "Gate, image results: 60 sent, 9 withheld, 1 explored (0 of 1 accepted); Brier score 0.040 of 61 predictions"
    assert line in out
    # 30 accepted of 30 + 3 * 31 + 9 slots, and 5 of 20 before any.
    line = "30 of the latest 132 slots ended accepted, a share of 23.0 % with what is assumed at first, so sending pays"
    assert f"{line} above a chance of 31.5 %" in out
    assert "compare:" not in out
    few(tmp_path / "ledger.sqlite", [("b", "accepted"), ("b", "rejected")])
    assert "compare: a hhhhhhhh 22.7 %, b hhhhhhhh 25.0 %" in run_report("--state", tmp_path, "--format", form)[1]


def test_the_chance_to_pass_as_json(tmp_path: Path) -> None:
    gated(tmp_path / "ledger.sqlite")
    gate = json.loads(run_report("--state", tmp_path, "--format", "json")[1])["gate"]
    (calibration,) = gate["calibrations"]
    assert (calibration["task_type"], calibration["parts"], calibration["outcomes"]) == ("image", "score", 61)
    low, high = calibration["bins"]
    assert (low["passed"], low["total"], high["passed"], high["total"]) == (0, 31, 30, 30)
    assert low["interval"][0] == 0
    assert gate["decisions"][0] | {"brier": None} == {
        "task_type": "image", "sent": 60, "withheld": 9, "explored": 1, "accepted": 0, "judged": 1, "foretold": 61,
        "brier": None,
    }  # fmt: skip
    assert gate["accepted_share_of_slots"] == pytest.approx(35 / 152)
    assert gate["break_even_chance"] == pytest.approx(70 / 152 / (1 + 70 / 152))
    assert gate["slots_by_phase"] == {"a hhhhhhhh": {"accepted": 30, "total": 132.0}}


@pytest.mark.process
def test_a_process_reads_thousands_of_tasks(tmp_path: Path) -> None:
    """How long that takes of 100,000 is in scripts/validation/ledger_scale.md."""
    fill_ledger(tmp_path / "ledger.sqlite", 10_000)
    command = [sys.executable, "-m", "miner", "--state", str(tmp_path), "report"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stderr, "10000 tasks" in done.stdout) == ("", True)


@pytest.mark.process
def test_from_any_folder_without_heavy_libraries(ledger: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom miner.cli import main\ntry:\n    main()\nfinally:\n"
        "    assert not {'torch', 'bittensor', 'scipy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", "--ledger", str(ledger), "--by", "type"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert {line.split()[0] for line in done.stdout.splitlines()[3:6]} == {"image", "text", "all"}
