"""Swapping phases under a miner that works: what tasks are made with, what is loaded, and what is written down."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from miner import loading
from miner.books import Books, unsettled
from miner.errors import OperatorError
from miner.experiments import Stratum
from miner.ledger import Ledger
from miner.ledger_reader import LedgerReader, TaskRow
from miner.phase_control import PhaseControl, PhaseFiles
from miner.phase_state import Arm, Chosen, ChosenSplit, PhaseState, StateFile
from miner.phases import NamedPhase, load_phase
from miner.running import Loaded
from miner.scheduler import Scheduler
from miner.settings import MinerSettings, SpzSettings
from miner.tasks import Result, Task, TaskRunner
from pipeline import Asset, Candidate, OnStep, Request, spz
from pipeline.weights import locate
from tests.miner.conftest import make_asset

TIMEOUT = 30.0
PHASE = """
image: {{checkpoint: {checkpoint}}}
sparse_structure_sampler_params: {{steps: {steps}, cfg_strength: 5.0}}
slat_sampler_params: {{steps: {steps}, cfg_strength: 2.5}}
background: {{model: u2netp}}
"""


class Backend:
    """Makes objects at once; remembers by whom and with how many steps."""

    def __init__(self, bench: Bench, phase: NamedPhase) -> None:
        assert phase.settings.image is not None
        self.checkpoint = phase.settings.image.checkpoint
        self._bench = bench

    def generate(self, request: Request, on_step: OnStep) -> Asset:
        self._bench.generating()
        self._bench.made[request.seed] = self.checkpoint, request.sparse_structure_sampler_params.steps
        return make_asset(request)


class Bench:
    """A miner's phases, its tasks and its ledger, without a network around them."""

    def __init__(self, folder: Path, image: str) -> None:
        self.config = folder / "miner.yaml"
        self.state = StateFile(folder / "state")
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.image = image
        self.made: dict[int, tuple[str, int]] = {}
        self.loads: list[str] = []
        self.released = threading.Event()
        self.alive: dict[str, weakref.ref[Backend]] = {}
        self.loading: Callable[[], object] = lambda: None
        self.generating: Callable[[], object] = lambda: None
        self.refused = ""
        self.scheduler = Scheduler()
        (folder / "phases").mkdir()
        self.write("a", 3)
        self.write("b", 5)
        self.write("other", 7, "/elsewhere")
        self.control = self.new_control()

    def write(self, name: str, steps: int, checkpoint: str = "embedded") -> None:
        path = self.config.parent / "phases" / f"{name}.yaml"
        path.write_text(PHASE.format(checkpoint=checkpoint, steps=steps))

    def phase(self, name: str) -> NamedPhase:
        return load_phase(name, self.config)

    def new_control(self, configured: str = "a") -> PhaseControl:
        files = PhaseFiles(self.config, self.state)
        self.control = PhaseControl(
            files, self.phase(configured), self.check_allowed, self.load, self.released.set, self.ledger
        )
        return self.control

    def check_allowed(self, phase: NamedPhase) -> None:
        if phase.name == self.refused:
            raise OperatorError(f"phase {phase.name} is a toy")

    async def load(self, phase: NamedPhase) -> Loaded:
        self.loads.append(phase.name)
        await asyncio.to_thread(self.loading)
        backend = Backend(self, phase)
        self.alive[phase.name] = weakref.ref(backend)
        return Loaded(backend, phase.settings.loaded)  # type: ignore[arg-type]

    async def start(self) -> None:
        self.ledger.start()
        self.scheduler.start()
        await self.control.start()
        self.runner = TaskRunner(self.scheduler, self.control.phases, SpzSettings())
        self.books = Books(self.ledger, "test")

    def apply(self, name: str) -> None:
        self.choose(Chosen.of(self.phase(name)))

    def choose(self, choice: Chosen | ChosenSplit) -> None:
        def change(state: PhaseState | None) -> PhaseState:
            assert state is not None
            return state.apply(choice, "apply", "for the test")

        self.state.change(change)

    def roll_back(self) -> None:
        def change(state: PhaseState | None) -> PhaseState:
            assert state is not None
            return state.roll_back(self.control.files.find, "rollback", "rolled back")

        self.state.change(change)

    def split(self, **weights: int) -> ChosenSplit:
        arms = {name: Arm(weight=weight, settings=self.phase(name).settings) for name, weight in weights.items()}
        return ChosenSplit(experiment="e1", seed=7, arms=arms)

    async def do(self, seed: int, validator: str = "5V", kind: str = "pull") -> Result:
        entry = self.books.entry(kind, validator, str(seed), "image")  # type: ignore[arg-type]
        return await self.runner.run(Task(str(seed), "image", self.image, 0.0, seed=seed, entry=entry))

    async def made_with(self, seed: int) -> tuple[str, int]:
        await self.do(seed)
        return self.made[seed]

    def rows(self) -> list[TaskRow]:
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return reader.tasks()

    def history(self) -> list[tuple[str, str]]:
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return [(row.action, row.phase) for row in reader.phases()]

    @property
    def current(self) -> str:
        state = self.state.read()
        assert state is not None
        return state.current.short


@pytest_asyncio.fixture
async def bench(tmp_path: Path, image_base64: str) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, image_base64)
    await bench.start()
    yield bench
    assert await asyncio.to_thread(bench.scheduler.stop, TIMEOUT)
    assert await asyncio.to_thread(bench.ledger.close, TIMEOUT)


async def test_settings_change_with_the_next_task_and_models_stay_loaded(bench: Bench) -> None:
    assert await bench.made_with(1) == ("embedded", 3)
    bench.apply("b")
    assert await bench.made_with(2) == ("embedded", 3)
    await bench.control.look(at_once=True)
    assert await bench.made_with(3) == ("embedded", 5)
    assert bench.loads == ["a"]
    assert [(row.phase, row.config_hash) for row in bench.rows()] == [
        ("a", bench.phase("a").config_hash),
        ("a", bench.phase("a").config_hash),
        ("b", bench.phase("b").config_hash),
    ]
    assert bench.history() == [("start", "a"), ("apply", "b")]


async def test_going_back_again_and_again(bench: Bench) -> None:
    for name in ("b", "other"):
        bench.apply(name)
        await bench.control.look(at_once=True)
    seeds = iter(range(10))
    seen = [await bench.made_with(next(seeds))]
    for _ in range(2):
        bench.roll_back()
        await bench.control.look(at_once=True)
        seen.append(await bench.made_with(next(seeds)))
    assert seen == [("/elsewhere", 7), ("embedded", 5), ("embedded", 3)]
    assert bench.history() == [
        *(("start", "a"), ("apply", "b"), ("apply", "other")),
        *(("rollback", "b"), ("rollback", "a")),
    ]
    with pytest.raises(OperatorError):
        bench.roll_back()


async def test_a_changed_file_is_followed_once_it_has_settled(bench: Bench) -> None:
    bench.write("a", 4)
    await bench.control.look()
    assert await bench.made_with(1) == ("embedded", 3)
    await bench.control.look()
    assert await bench.made_with(2) == ("embedded", 4)
    # What ran before can be gone back to, although its file is no more; and then it stays.
    bench.roll_back()
    await bench.control.look(at_once=True)
    assert await bench.made_with(3) == ("embedded", 3)
    await bench.control.look(at_once=True)
    assert await bench.made_with(4) == ("embedded", 3)
    bench.apply("a")
    await bench.control.look(at_once=True)
    assert await bench.made_with(5) == ("embedded", 4)


async def test_a_change_in_what_a_phase_extends_is_a_change(bench: Bench) -> None:
    (bench.config.parent / "phases" / "child.yaml").write_text("extends: b\nslat_sampler_params: {steps: 9}\n")
    bench.apply("child")
    await bench.control.look(at_once=True)
    bench.write("b", 6)
    await bench.control.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 6)


async def test_other_networks_are_loaded_beside_and_swapped_whole(bench: Bench) -> None:
    """Until they are warm, tasks get the old networks with the old settings; those in hand keep them to their end."""
    begun, proceed = threading.Event(), threading.Event()
    bench.loading = lambda: (begun.set(), proceed.wait(TIMEOUT))
    bench.apply("other")
    looking = asyncio.create_task(bench.control.look(at_once=True))
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    assert await bench.made_with(1) == ("embedded", 3)

    started, release = threading.Event(), threading.Event()
    bench.generating = lambda: (started.set(), release.wait(TIMEOUT))
    in_hand = [asyncio.create_task(bench.do(seed)) for seed in (2, 3, 4)]
    assert await asyncio.to_thread(started.wait, TIMEOUT)
    await until(lambda: bench.runner.waiting == 2)
    proceed.set()
    await asyncio.wait_for(looking, TIMEOUT)
    later = asyncio.create_task(bench.do(5))
    await until(lambda: bench.runner.waiting == 3)
    # Three tasks still need them.
    assert bench.alive["a"]() is not None
    release.set()
    assert all(len(result.asset.splats) for result in await asyncio.gather(*in_hand, later))
    assert {seed: bench.made[seed] for seed in (2, 3, 4, 5)} == {
        **dict.fromkeys((2, 3, 4), ("embedded", 3)),
        5: ("/elsewhere", 7),
    }
    assert {row.task_id: row.phase for row in bench.rows()} == {**dict.fromkeys("1234", "a"), "5": "other"}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on other threads
            await asyncio.sleep(0.01)


async def test_networks_that_no_task_needs_any_more_go(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await bench.do(1)
    bench.apply("other")
    await bench.control.look(at_once=True)

    def gone() -> bool:
        gc.collect()
        return bench.alive["a"]() is None

    await until(gone)
    await bench.control.look()
    assert f"Nothing needs the networks of phase {bench.phase('a').label} any more" in caplog.text
    assert bench.released.is_set()
    assert bench.alive["other"]() is not None


async def test_a_broken_file_changes_nothing_and_says_why_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.write("a", 0)
    for _ in range(4):
        await bench.control.look()
    bench.write("unrelated", 8)
    for _ in range(4):
        await bench.control.look()
    assert await bench.made_with(1) == ("embedded", 3)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "phases/a.yaml: sparse_structure_sampler_params.steps" in errors[0]
    assert errors[0].endswith(f"phase a ({load_label(bench)}) goes on")
    # Who asks is told again.
    bench.control.poke()
    await bench.control.look(at_once=True)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2
    bench.write("a", 6)
    await bench.control.look(at_once=True)
    assert await bench.made_with(2) == ("embedded", 6)


def load_label(bench: Bench) -> str:
    return bench.control.phases.choice.phases[0].config_hash


async def test_a_file_that_is_gone_changes_nothing(bench: Bench) -> None:
    (bench.config.parent / "phases" / "a.yaml").unlink()
    await bench.control.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 3)


@pytest.mark.parametrize("content", ["{", "", "current: nonsense"])
async def test_a_damaged_state_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture, content: str) -> None:
    bench.state.path.write_text(content)
    await bench.control.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 3)
    assert "delete it" in caplog.text
    bench.state.path.unlink()
    await bench.control.look(at_once=True)
    assert await bench.made_with(2) == ("embedded", 3)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OperatorError("the weights are not on this machine"), "not on this machine"),
        (RuntimeError("a bug"), "phase other cannot be loaded: RuntimeError: a bug"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_and_does_not_spoil_the_next_start(
    bench: Bench, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    def fail() -> None:
        raise error

    bench.loading = fail
    bench.apply("other")
    await bench.control.look(at_once=True)
    await bench.control.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 3)
    assert bench.loads == ["a", "other"]
    assert sum(told in record.getMessage() and "goes on" in record.getMessage() for record in caplog.records) == 1
    assert bench.current == "a"
    assert bench.history() == [("start", "a")]


async def test_a_toy_is_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.refused = "b"
    bench.apply("b")
    await bench.control.look(at_once=True)
    assert "phase b is a toy; phase a" in caplog.text
    assert bench.current == "a"
    bench.choose(bench.split(a=1, b=1))
    await bench.control.look(at_once=True)
    assert bench.current == "a"
    bench.new_control("b")
    with pytest.raises(OperatorError, match="is a toy"):
        await bench.control.start()


async def test_what_was_chosen_while_another_was_loading_wins(bench: Bench) -> None:
    begun, proceed = threading.Event(), threading.Event()
    bench.loading = lambda: (begun.set(), proceed.wait(TIMEOUT))
    bench.apply("other")
    looking = asyncio.create_task(bench.control.look(at_once=True))
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    bench.apply("b")
    proceed.set()
    await asyncio.wait_for(looking, TIMEOUT)
    assert await bench.made_with(1) == ("embedded", 5)
    assert bench.history() == [("start", "a"), ("apply", "b")]


async def test_the_watch_follows_by_itself(bench: Bench) -> None:
    watching = asyncio.create_task(bench.control.run())
    try:
        bench.write("a", 4)
        await until(lambda: bench.control.phases.choice.phases[0].settings.slat_sampler_params.steps == 4)
        bench.apply("b")
        await until(lambda: bench.control.phases.choice.short == "b")
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def restarted(bench: Bench, configured: str = "a") -> tuple[str, int]:
    bench.control = bench.new_control(configured)
    phases = await bench.control.start()
    bench.runner = TaskRunner(bench.scheduler, phases, SpzSettings())
    bench.books = Books(bench.ledger, "test", unsettled=unsettled(bench.ledger.path))
    return await bench.made_with(len(bench.made) + 100)


async def test_what_was_applied_outlives_a_restart_until_the_settings_name_another(bench: Bench) -> None:
    bench.apply("b")
    await bench.control.look(at_once=True)
    assert await restarted(bench) == ("embedded", 5)
    # Applied while no miner ran.
    bench.apply("other")
    assert await restarted(bench) == ("/elsewhere", 7)
    assert await restarted(bench, "b") == ("embedded", 5)
    assert await restarted(bench, "b") == ("embedded", 5)
    bench.write("b", 6)
    assert await restarted(bench, "b") == ("embedded", 6)
    bench.roll_back()
    assert await restarted(bench, "b") == ("embedded", 5)
    bench.roll_back()
    assert await restarted(bench, "b") == ("/elsewhere", 7)


async def test_a_start_with_a_broken_file_is_the_operators_mistake(bench: Bench) -> None:
    bench.apply("b")
    bench.write("b", 0)
    bench.new_control("a")
    with pytest.raises(OperatorError, match=r"b.yaml: sparse_structure_sampler_params"):
        await bench.control.start()


async def test_a_damaged_state_does_not_keep_the_miner_from_starting(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.apply("b")
    bench.state.path.write_text("{")
    assert await restarted(bench) == ("embedded", 3)
    assert "phase a runs, as the settings have it" in caplog.text


# Splits.


async def test_a_split_draws_for_each_validator_and_type_and_writes_it_down_before(bench: Bench) -> None:
    split = bench.split(a=1, b=1)
    bench.choose(split)
    await bench.control.look(at_once=True)
    assigned = []
    bench.generating = lambda: assigned.append(len(bench.rows()))
    for seed in range(12):
        await bench.do(seed, "5V" if seed % 3 else "5W")
    assert assigned == list(range(1, 13))
    rows = bench.rows()
    steps = {"a": 3, "b": 5}
    assert all(bench.made[int(row.task_id)] == ("embedded", steps[str(row.arm)]) for row in rows)
    assert all(row.phase == row.arm and row.experiment == "e1" for row in rows)
    drawing = split.drawing
    for validator, count in (("5V", 8), ("5W", 4)):
        of_validator = [row for row in rows if row.validator == validator]
        assert [row.turn for row in of_validator] == list(range(count))
        assert [row.arm for row in of_validator] == [
            drawing.arm(Stratum(validator, "image"), turn) for turn in range(count)
        ]
        assert sum(row.arm == "a" for row in of_validator) == count // 2
    with LedgerReader(bench.ledger.path) as reader:
        (experiment,) = reader.experiments()
    assert (experiment.name, experiment.seed, experiment.weights) == ("e1", 7, {"a": 1, "b": 1})
    assert bench.history() == [("start", "a"), ("apply", "a"), ("apply", "b")]


async def test_what_nobody_judges_takes_no_turn(bench: Bench) -> None:
    bench.choose(bench.split(a=1, b=1))
    await bench.control.look(at_once=True)
    await bench.runner.run(Task("local", "image", bench.image, 0.0, seed=77))
    await bench.do(1)
    (row,) = bench.rows()
    assert row.turn == 0


async def test_a_split_goes_on_after_a_restart_where_it_was(bench: Bench) -> None:
    bench.choose(bench.split(a=1, b=1))
    await bench.control.look(at_once=True)
    for seed in range(3):
        await bench.do(seed)
    # Tasks that were assigned and not answered are handed back, and stay in their arm.
    before = bench.rows()
    await restarted(bench)
    for seed in range(3):
        await bench.do(seed)
    rows = bench.rows()
    assert len(rows) == 4
    assert [(row.key, row.arm, row.turn) for row in rows[:3]] == [(row.key, row.arm, row.turn) for row in before]
    assert rows[3].turn == 3
    with LedgerReader(bench.ledger.path) as reader:
        assert len(reader.experiments()) == 1


async def test_a_task_handed_back_under_another_phase_is_another_row(bench: Bench) -> None:
    await bench.do(1)
    bench.apply("b")
    await restarted(bench)
    await bench.do(1)
    assert [(row.task_id, row.phase) for row in bench.rows()] == [("1", "a"), ("101", "b"), ("1", "b")]


async def test_an_experiment_ends_with_the_next_choice(bench: Bench) -> None:
    bench.choose(bench.split(a=1, b=1))
    await bench.control.look(at_once=True)
    bench.roll_back()
    await bench.control.look(at_once=True)
    assert bench.current == "a"
    bench.choose(bench.split(a=1, b=1).model_copy(update={"experiment": "e2"}))
    await bench.control.look(at_once=True)
    bench.apply("b")
    # Or with a start after a choice that was made while no miner ran.
    await restarted(bench)
    assert bench.ledger.flush(TIMEOUT)
    with LedgerReader(bench.ledger.path) as reader:
        assert [(row.name, row.decision) for row in reader.experiments()] == [
            ("e1", "rolled back"),
            ("e2", "for the test"),
        ]


async def test_arms_stay_as_they_were_when_the_split_began(bench: Bench) -> None:
    bench.choose(bench.split(a=1, b=1))
    await bench.control.look(at_once=True)
    bench.write("a", 9)
    bench.write("b", 9)
    await bench.control.look(at_once=True)
    assert {(await bench.made_with(seed))[1] for seed in range(4)} == {3, 5}


async def test_arms_that_need_different_networks_are_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.choose(bench.split(a=1, other=1))
    await bench.control.look(at_once=True)
    assert "split a=1 other=1 cannot run: the arms need different networks" in caplog.text
    assert bench.current == "a"


# With a ledger that fails.


async def test_a_ledger_that_cannot_be_written_stops_nothing(tmp_path: Path, image_base64: str) -> None:
    bench = Bench(tmp_path, image_base64)
    bench.ledger.path.mkdir()
    await bench.start()
    bench.choose(bench.split(a=1, b=1))
    await bench.control.look(at_once=True)
    assert len({await bench.made_with(seed) for seed in range(4)}) == 2
    assert bench.ledger.status.problem != "" or bench.ledger.status.waiting > 0
    assert await asyncio.to_thread(bench.scheduler.stop, TIMEOUT)
    bench.ledger.close(0.0)


# With the networks themselves.


async def test_real_networks_are_swapped_under_load(
    tmp_path: Path, image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded checkpoint and a copy of it, with tasks in hand all the time; none is lost or mixed."""
    monkeypatch.setattr(loading, "warm_up", lambda *_: 0.0)
    bench = Bench(tmp_path, image_base64)
    shutil.copytree(locate("embedded", "pipeline.json"), tmp_path / "copy")
    for name, count, checkpoint in (("a", 1, "embedded"), ("b", 3, "embedded"), ("other", 2, str(tmp_path / "copy"))):
        bench.write(name, count, checkpoint)
        with (tmp_path / "phases" / f"{name}.yaml").open("a") as file:
            file.write("max_voxels: {count: 500, excess: drop}\n")
    steps: dict[int, int] = {}

    async def load_real(phase: NamedPhase) -> Loaded:
        loaded = await loading.load(phase, MinerSettings(phase=phase.name, device="cpu"), bench.scheduler)
        bench.loads.append(phase.name)
        return loaded

    bench.load = load_real  # type: ignore[method-assign]
    bench.new_control()
    await bench.start()
    old = weakref.ref(bench.control.phases.loaded.backend)
    submit = bench.scheduler.submit

    def counting(work: Callable[[OnStep], object], *arguments: float) -> object:
        def counted(on_step: OnStep) -> object:
            taken = 0

            def count(stage: str, done: int, of: int) -> None:
                nonlocal taken
                taken += stage == "structure"
                on_step(stage, done, of)

            made = work(count)
            if isinstance(made, Candidate):
                steps[made.seed] = taken
            return made

        return submit(counted, *arguments)

    bench.scheduler.submit = counting  # type: ignore[method-assign, assignment]
    tasks: list[asyncio.Task[Result]] = []
    for number, name in enumerate(("b", "other")):
        tasks += [asyncio.create_task(bench.do(10 * number + task)) for task in range(2)]
        await asyncio.sleep(0)
        bench.apply(name)
        await bench.control.look(at_once=True)
    tasks += [asyncio.create_task(bench.do(20))]
    results = await asyncio.gather(*tasks)
    wanted = {"a": 1, "b": 3, "other": 2}
    rows = {int(row.task_id): row for row in bench.rows()}
    assert sorted(rows) == sorted(steps) == sorted(result.asset.seed for result in results)
    assert {seed: wanted[row.phase] for seed, row in rows.items()} == steps
    assert len({row.phase for row in rows.values()}) == 3
    assert all(len(spz.from_bytes(result.data)) >= 7000 for result in results)
    assert all(row.gaussians == len(result.asset.splats) for row, result in zip(rows.values(), results, strict=True))
    assert bench.loads == ["a", "other"]
    del tasks, results

    def gone() -> bool:
        gc.collect()
        return old() is None

    await until(gone)
    assert await asyncio.to_thread(bench.scheduler.stop, TIMEOUT)
    assert await asyncio.to_thread(bench.ledger.close, TIMEOUT)
