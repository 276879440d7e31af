from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from miner.cli.phase import main
from miner.ledger.events import ExperimentEnded, ExperimentStarted, PhaseChanged
from miner.ledger.writer import LedgerWriter
from miner.phases.state import Chosen, ChosenSplit, StateFile

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The script with a state folder of the test's: exit code and output."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["--state", str(tmp_path / "state"), *arguments])
        out, err = capsys.readouterr()
        assert bool(err) == bool(code)
        return code, out + err

    return run


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state")


def current(state: StateFile) -> str:
    written = state.read()
    assert written is not None
    return written.current.short


def test_apply_and_go_back(run: Run, state: StateFile) -> None:
    assert run("apply", "baseline")[0] == 0
    code, out = run("apply", "phase3")
    assert code == 0
    assert "To run: phase phase3 (8588c0f18436) instead of phase baseline (cc09ecea5cb5)" in out
    assert "with its next task" in out
    assert "the one to run already" in run("apply", "phase3")[1]
    assert current(state) == "phase3"
    code, out = run("rollback")
    assert (code, current(state)) == (0, "baseline")
    assert "0 phases to go back to are left" in out
    code, out = run("rollback")
    assert (code, current(state)) == (2, "baseline")
    assert out == "ERROR: there is no phase to go back to\n"


def test_going_back_before_anything_ran(run: Run, state: StateFile) -> None:
    code, out = run("rollback")
    assert code == 2
    assert "no miner has run" in out
    assert state.read() is None


def test_another_checkpoint_is_announced(run: Run) -> None:
    run("apply", "baseline")
    assert "loads its networks first" in run("apply", "demo")[1]


@pytest.mark.parametrize("command", [("apply",), ("show",), ("diff", "phase3")])
def test_an_unknown_phase_names_those_there_are(run: Run, state: StateFile, command: tuple[str, ...]) -> None:
    code, out = run(*command, "phase9")
    assert code == 2
    assert "no phase 'phase9'; there are: baseline, demo, few-step, phase3, test3" in out
    assert state.read() is None


def test_a_broken_phase_is_not_applied(tmp_path: Path, run: Run, state: StateFile) -> None:
    (tmp_path / "phases").mkdir()
    (tmp_path / "miner.yaml").write_text("phase: phase3\n")
    (tmp_path / "phases" / "mine.yaml").write_text("extends: phase3\nsteps: 9\n")
    run("apply", "phase3")
    code, out = run("--config", str(tmp_path / "miner.yaml"), "apply", "mine")
    assert code == 2
    assert "mine.yaml: unknown key steps; allowed here: note" in out
    assert current(state) == "phase3"
    code, out = run("--config", str(tmp_path / "miner.yaml"), "list")
    assert code == 0
    assert any("mine" in line and "broken" in line for line in out.splitlines())


def test_the_list_marks_what_is_to_run(run: Run) -> None:
    assert "Nothing was applied yet" in run("list")[1]
    run("apply", "baseline")
    run("apply", "test3")
    lines = run("list")[1].splitlines()
    assert [line[:8] for line in lines if line.startswith("*")] == ["* test3 "]
    assert lines[-1] == "Before: baseline (cc09ecea5cb5)"


def test_all_settings_are_shown(run: Run) -> None:
    out = run("show", "phase3")[1]
    assert out.startswith("# phase3 (8588c0f18436)\n")
    assert "checkpoint: microsoft/TRELLIS-image-large" in out
    assert "extends" not in out


def test_what_two_phases_differ_in(run: Run) -> None:
    out = run("diff", "baseline", "phase3")[1]
    assert "  slat_sampler_params.steps: 20 -> 35\n" in out
    assert len(out.splitlines()) == 5
    assert "the same settings" in run("diff", "phase3", "phase3")[1]
    assert "no split is possible" in run("diff", "phase3", "few-step")[1]


def test_a_split_is_written_with_its_seed(run: Run, state: StateFile) -> None:
    run("apply", "test3")
    code, out = run("split", "phase3=50", "baseline=50", "--promote", "--seed", "9")
    assert code == 0
    assert "To run: split phase3=50 baseline=50 instead of phase test3" in out
    written = state.read()
    assert written is not None
    split = written.current
    assert isinstance(split, ChosenSplit)
    assert (split.seed, split.promote, split.rollback, split.weights) == (
        9,
        True,
        False,
        {"phase3": 50, "baseline": 50},
    )
    assert f"Experiment {split.experiment}, seed 9" in out
    marks = [line.split()[1] for line in run("list")[1].splitlines() if line.startswith("*")]
    assert marks == ["baseline", "phase3"]
    run("rollback")
    assert current(state) == "test3"


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (("phase3=50",), "at least two arms"),
        (("phase3=50", "phase3=50"), "phase3 is named twice"),
        (("phase3=50", "baseline"), "'baseline' is no arm: write NAME=SHARE"),
        (("phase3=50", "baseline=0"), "'baseline=0' is no arm"),
        (("phase3=50", "nobody=50"), "no phase 'nobody'"),
        (("phase3=33", "baseline=34"), "choose rounder shares"),
        (("phase3=50", "few-step=50"), "need different networks"),
    ],
)
def test_arms_that_cannot_be_compared(run: Run, state: StateFile, arms: tuple[str, ...], message: str) -> None:
    code, out = run("split", *arms)
    assert code == 2
    assert message in out
    assert state.read() is None


def test_a_ledger_that_is_missing_or_empty_is_no_mistake(run: Run, tmp_path: Path) -> None:
    code, out = run("history")
    assert code == 0
    assert f"There is no ledger {tmp_path}/state/ledger.sqlite yet" in out
    ledger = LedgerWriter(tmp_path / "state" / "ledger.sqlite")
    ledger.start()
    ledger.record(ExperimentEnded("none", 1.0, ""))
    assert ledger.close(10)
    code, out = run("history")
    assert code == 0
    assert "knows of no phase yet" in out


def test_the_history_says_what_ran_when(run: Run, tmp_path: Path) -> None:
    ledger = LedgerWriter(tmp_path / "other.sqlite")
    ledger.start()
    day = 1_762_250_400.0  # 2025-11-04 10:00 UTC
    ledger.record(PhaseChanged(day, "baseline", "start", "cc09ecea5cb5", ""))
    ledger.record(ExperimentStarted("e1", day + 60, 7, {"phase3": 50, "baseline": 50}))
    ledger.record(PhaseChanged(day + 120, "phase3", "automatic", "8588c0f18436", ""))
    ledger.record(ExperimentEnded("e1", day + 120, "phase3 has won"))
    assert ledger.close(10)
    code, out = run("--ledger", str(tmp_path / "other.sqlite"), "history")
    assert code == 0
    assert out.splitlines() == [
        "2025-11-04 10:00:00 UTC  start     baseline     cc09ecea5cb5",
        "2025-11-04 10:01:00 UTC  split     phase3=50 baseline=50, experiment e1",
        "2025-11-04 10:02:00 UTC  automatic phase3       8588c0f18436",
        "2025-11-04 10:02:00 UTC  ended     experiment e1: phase3 has won",
    ]


def test_a_file_that_is_no_ledger(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database" * 100)
    code, out = run("--ledger", str(tmp_path / "x"), "history")
    assert code == 2
    assert "cannot be read" in out


def test_going_back_to_settings_whose_file_has_changed(tmp_path: Path, run: Run, state: StateFile) -> None:
    (tmp_path / "phases").mkdir()
    config = tmp_path / "miner.yaml"
    config.write_text("phase: mine\n")
    mine = tmp_path / "phases" / "mine.yaml"
    mine.write_text("extends: phase3\nslat_sampler_params: {steps: 36}\n")
    run("--config", str(config), "apply", "mine")
    run("apply", "phase3")
    mine.write_text("extends: phase3\nslat_sampler_params: {steps: 37}\n")
    code, out = run("--config", str(config), "rollback")
    assert code == 0
    assert "the settings it ran with are kept" in out
    written = state.read()
    assert written is not None
    assert isinstance(written.current, Chosen)
    assert written.current.settings.slat_sampler_params.steps == 36
    assert not written.current.follows
    assert "is what runs, from before the file was changed" in run("--config", str(config), "list")[1]
    run("--config", str(config), "apply", "mine")
    written = state.read()
    assert written is not None
    assert isinstance(written.current, Chosen)
    assert written.current.settings.slat_sampler_params.steps == 37
