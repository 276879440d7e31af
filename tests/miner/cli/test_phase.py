from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from miner.cli import program
from miner.config.phase_files import load_phase
from miner.ledger.events import ExperimentEnded, ExperimentStarted, PhaseChanged
from miner.ledger.writer import LedgerWriter
from miner.phases.state import StateFile
from tests.support.cli import run as run_command

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`sn17-miner phase ARGUMENTS` with a state folder of the test's and no miner: exit code and output."""

    def run(*arguments: object) -> tuple[int, str]:
        if arguments[0] in ("apply", "split", "rollback"):
            arguments = (*arguments, "--no-wait")
        result = run_command("phase", "--state", tmp_path / "state", *arguments)
        assert bool(result.stderr) == bool(result.exit_code)
        return result.exit_code, result.output

    return run


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state")


def current(state: StateFile) -> str:
    written = state.read()
    assert written is not None
    return written.current.short_label


def test_apply_and_go_back(run: Run, state: StateFile) -> None:
    assert run("apply", "baseline")[0] == 0
    code, out = run("apply", "phase3")
    assert code == 0
    assert "To run: phase phase3 (cda3fa4a4448) instead of phase baseline (8fdda0cf2a7c)" in out
    assert f"No miner runs on {state.folder}; the next start takes over" in out
    assert "the one to run already" in run("apply", "phase3")[1]
    assert current(state) == "phase3"
    code, out = run("rollback")
    assert (code, current(state)) == (0, "baseline")
    assert "Left to go back to: 0 phases" in out
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
    assert "needs other models" in run("apply", "demo")[1]


@pytest.mark.parametrize("command", [("apply",), ("show",), ("diff", "phase3")])
def test_an_unknown_phase_names_those_there_are(run: Run, state: StateFile, command: tuple[str, ...]) -> None:
    code, out = run(*command, "phase9")
    assert code == 2
    names = "baseline, best-of-n, demo, few-step, phase3, phase4, test3"
    assert f"no phase 'phase9' (did you mean phase4 or phase3?); there are: {names}" in out
    assert state.read() is None


def test_a_broken_phase_is_not_applied(tmp_path: Path, run: Run, state: StateFile) -> None:
    (tmp_path / "phases").mkdir()
    (tmp_path / "miner.yaml").write_text("phase: phase3\n")
    (tmp_path / "phases" / "mine.yaml").write_text("extends: phase3\nsteps: 9\n")
    run("apply", "phase3")
    code, out = run("apply", "--config", tmp_path / "miner.yaml", "mine")
    assert code == 2
    assert "mine.yaml: unknown key steps; allowed here: note" in out
    assert current(state) == "phase3"
    code, out = run("list", "--config", tmp_path / "miner.yaml")
    assert code == 0
    assert any("mine" in line and "broken" in line for line in out.splitlines())


def test_the_list_marks_what_is_to_run(run: Run) -> None:
    assert "Nothing was applied yet" in run("list")[1]
    run("apply", "baseline")
    run("apply", "test3")
    lines = run("list")[1].splitlines()
    assert [line[:8] for line in lines if line.startswith("*")] == ["* test3 "]
    assert lines[-1] == "Before: baseline (8fdda0cf2a7c)"


def test_the_list_shows_what_a_split_runs_whatever_its_files_say(tmp_path: Path, run: Run) -> None:
    (tmp_path / "phases").mkdir()
    config = tmp_path / "miner.yaml"
    config.write_text("phase: a\n")
    files = {name: tmp_path / "phases" / f"{name}.yaml" for name in ("a", "b", "c")}
    for steps, file in enumerate(files.values(), 36):
        file.write_text(f"extends: phase3\nslat_sampler_params: {{steps: {steps}}}\n")
    began = {name: load_phase(name, config).config_hash for name in files}
    run("split", "--config", config, "a=1", "b=1", "c=1")
    files["a"].write_text("extends: phase3\nslat_sampler_params: {steps: 9}\n")
    files["b"].write_text("extends: phase3\nsteps: 9\n")
    files["c"].unlink()
    lines = run("list", "--config", config)[1].splitlines()
    assert [line for line in lines if line.startswith("*")] == [f"* {name:<12} {began[name]}" for name in "abc"]
    edited = load_phase("a", config).config_hash
    assert f"{'':<15}its file has   {edited}, which has no effect while the split runs" in lines
    assert any(line.startswith(f"{'':<15}its file is broken") and "b.yaml: unknown key steps" in line for line in lines)
    assert any("its file is broken         there is no phase 'c'" in line for line in lines)


def test_all_settings_are_shown(run: Run) -> None:
    out = run("show", "phase3")[1]
    assert out.startswith("# phase3 (cda3fa4a4448)\n")
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
    assert split.is_split
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
        (("phase3=50", "baseline=" + "9" * 400), "is no arm"),
        (("phase3=50", "nobody=50"), "no phase 'nobody'"),
        (("phase3=33", "baseline=34"), "choose rounder shares"),
        (("phase3=50", "few-step=50"), "need different models"),
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
    ledger.record(ExperimentEnded("none", 1.0, ""))
    assert ledger.close(10)
    code, out = run("history")
    assert code == 0
    assert "has no phases yet" in out


def test_the_history_says_what_ran_when(run: Run, tmp_path: Path) -> None:
    ledger = LedgerWriter(tmp_path / "other.sqlite")
    day = 1_762_250_400.0  # 2025-11-04 10:00 UTC
    ledger.record(PhaseChanged(day, "baseline", "start", "8fdda0cf2a7c", ""))
    ledger.record(ExperimentStarted("e1", day + 60, 7, {"phase3": 50, "baseline": 50}))
    ledger.record(PhaseChanged(day + 120, "phase3", "automatic", "cda3fa4a4448", ""))
    ledger.record(ExperimentEnded("e1", day + 120, "phase3 has won"))
    assert ledger.close(10)
    code, out = run("history", "--ledger", tmp_path / "other.sqlite")
    assert code == 0
    assert out.splitlines() == [
        "2025-11-04 10:00:00 UTC  start     baseline     8fdda0cf2a7c",
        "2025-11-04 10:01:00 UTC  split     phase3=50 baseline=50, experiment e1",
        "2025-11-04 10:02:00 UTC  automatic phase3       cda3fa4a4448",
        "2025-11-04 10:02:00 UTC  ended     experiment e1: phase3 has won",
    ]


def test_a_file_that_is_no_ledger(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database" * 100)
    code, out = run("history", "--ledger", tmp_path / "x")
    assert code == 2
    assert "cannot be read" in out


def test_going_back_to_settings_whose_file_has_changed(tmp_path: Path, run: Run, state: StateFile) -> None:
    (tmp_path / "phases").mkdir()
    config = tmp_path / "miner.yaml"
    config.write_text("phase: mine\n")
    mine = tmp_path / "phases" / "mine.yaml"
    mine.write_text("extends: phase3\nslat_sampler_params: {steps: 36}\n")
    run("apply", "--config", config, "mine")
    run("apply", "phase3")
    mine.write_text("extends: phase3\nslat_sampler_params: {steps: 37}\n")
    code, out = run("rollback", "--config", config)
    assert code == 0
    assert "the settings it ran with are kept" in out
    written = state.read()
    assert written is not None
    assert written.current.phases[0].settings.slat_sampler_params.steps == 36
    assert not written.current.follows
    ran, on_file = written.current.phases[0].config_hash, load_phase("mine", config).config_hash
    listed = run("list", "--config", config)[1]
    assert f"* mine         {ran}\n" in listed
    assert f"its file has   {on_file}, which `sn17-miner phase apply mine` uses" in listed
    run("apply", "--config", config, "mine")
    written = state.read()
    assert written is not None
    assert written.current.phases[0].settings.slat_sampler_params.steps == 37


def test_a_ledger_that_is_named_must_exist(run: Run, tmp_path: Path) -> None:
    code, out = run("history", "--ledger", tmp_path / "none.sqlite")
    assert (code, "does not exist" in out) == (2, True)


def test_the_ledger_of_the_settings_file_is_read(run: Run, tmp_path: Path) -> None:
    ledger = LedgerWriter(tmp_path / "other.sqlite")
    ledger.record(PhaseChanged(1.0, "baseline", "start", "8fdda0cf2a7c", ""))
    assert ledger.close(10)
    (tmp_path / "miner.yaml").write_text(f"phase: phase3\nledger: {{path: {tmp_path}/other.sqlite}}\n")
    assert "start     baseline" in run("history", "--config", tmp_path / "miner.yaml")[1]
    assert "start     baseline" in run_command("phase", "--config", tmp_path / "miner.yaml", "history").output


def test_options_before_the_command(run: Run, state: StateFile, tmp_path: Path) -> None:
    (tmp_path / "miner.yaml").write_text("phase: phase3\n")
    (tmp_path / "phases").mkdir()
    (tmp_path / "phases" / "mine.yaml").write_text("extends: phase3\n")
    options = ("--config", tmp_path / "miner.yaml", "--state", tmp_path / "state")
    for before, after in ((options, ()), ((), options)):
        assert run_command(*before, "phase", *after, "apply", "mine", "--no-wait").exit_code == 0
        assert current(state) == "mine"
        state.path.unlink()


def completions(arguments: list[str], incomplete: str) -> list[str]:
    completer = ShellComplete(program, {}, "sn17-miner", "_SN17_MINER_COMPLETE")
    return [item.value for item in completer.get_completions(arguments, incomplete)]


def test_names_of_phases_are_completed(tmp_path: Path) -> None:
    shipped = ["baseline", "best-of-n", "demo", "few-step", "phase3", "phase4", "test3"]
    assert completions(["phase", "apply"], "") == shipped
    assert completions(["phase", "diff", "demo"], "few") == ["few-step"]
    (tmp_path / "phases").mkdir()
    (tmp_path / "phases" / "fewer.yaml").touch()
    for before, after in ((["--config", f"{tmp_path}/miner.yaml"], []), ([], ["--config", f"{tmp_path}/miner.yaml"])):
        assert completions([*before, "phase", "show", *after], "few") == ["few-step", "fewer"]
