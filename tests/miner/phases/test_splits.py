"""Experiments that split the tasks between phases, and the swap of real networks under load."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from miner.config.phase_files import NamedPhase
from miner.config.settings import MinerSettings
from miner.gpu import models as loading
from miner.gpu.models import LoadedModels
from miner.ledger.events import Stratum
from miner.ledger.reader import LedgerReader
from miner.tasks.task import Result, Task
from pipeline import Candidate, Generator, OnStep, spz
from pipeline.weights.locate import locate
from tests.miner.phases.conftest import TIMEOUT, Bench, restarted, until


async def test_a_split_draws_for_each_validator_and_type_and_writes_it_down_before(bench: Bench) -> None:
    split = bench.split(a=1, b=1)
    bench.choose(split)
    await bench.manager.look(at_once=True)
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
    await bench.manager.look(at_once=True)
    await bench.runner.run(Task("local", "image", bench.image, 0.0, seed=77))
    await bench.do(1)
    (row,) = bench.rows()
    assert row.turn == 0


async def test_a_split_goes_on_after_a_restart_where_it_was(bench: Bench) -> None:
    bench.choose(bench.split(a=1, b=1))
    await bench.manager.look(at_once=True)
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
    await bench.manager.look(at_once=True)
    bench.roll_back()
    await bench.manager.look(at_once=True)
    assert bench.current == "a"
    bench.choose(bench.split(a=1, b=1).model_copy(update={"experiment": "e2"}))
    await bench.manager.look(at_once=True)
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
    await bench.manager.look(at_once=True)
    bench.write("a", 9)
    bench.write("b", 9)
    await bench.manager.look(at_once=True)
    assert {(await bench.made_with(seed))[1] for seed in range(4)} == {3, 5}


async def test_arms_that_need_different_networks_are_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.choose(bench.split(a=1, other=1))
    await bench.manager.look(at_once=True)
    assert "split a=1 other=1 cannot run: the arms need different networks" in caplog.text
    assert bench.current == "a"


# With a ledger that fails.


async def test_a_ledger_that_cannot_be_written_stops_nothing(tmp_path: Path, image_base64: str) -> None:
    bench = Bench(tmp_path, image_base64)
    bench.ledger.path.mkdir()
    await bench.start()
    bench.choose(bench.split(a=1, b=1))
    await bench.manager.look(at_once=True)
    assert len({await bench.made_with(seed) for seed in range(4)}) == 2
    assert bench.ledger.status.problem != "" or bench.ledger.status.waiting > 0
    assert await asyncio.to_thread(bench.scheduler.stop, TIMEOUT)
    bench.ledger.close(0.0)


# With the networks themselves.


async def test_real_networks_are_swapped_under_load(
    tmp_path: Path, image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded checkpoint and a copy of it, with tasks in hand all the time; none is lost or mixed."""
    monkeypatch.setattr(Generator, "warm_up", lambda _: None)
    bench = Bench(tmp_path, image_base64)
    shutil.copytree(locate("embedded", "pipeline.json"), tmp_path / "copy")
    for name, count, checkpoint in (("a", 1, "embedded"), ("b", 3, "embedded"), ("other", 2, str(tmp_path / "copy"))):
        bench.write(name, count, checkpoint)
        with (tmp_path / "phases" / f"{name}.yaml").open("a") as file:
            file.write("max_voxels: {count: 500, excess: drop}\n")
    steps: dict[int, int] = {}

    async def load_real(phase: NamedPhase) -> LoadedModels:
        loaded = await loading.load(phase, MinerSettings(phase=phase.name, device="cpu"), bench.scheduler)
        bench.loads.append(phase.name)
        return loaded

    bench.load = load_real  # type: ignore[method-assign]
    bench.new_control()
    await bench.start()
    old = weakref.ref(bench.manager.selector.models.backend)
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
        await bench.manager.look(at_once=True)
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
