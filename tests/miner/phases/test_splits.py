"""Experiments that split the tasks between phases, and the swap of real models under load."""

import asyncio
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from miner.config.phase_files import NamedPhase
from miner.config.settings import MinerSettings
from miner.gpu.models import LoadedModels, load_phase_models
from miner.ledger.events import Stratum
from miner.ledger.reader import LedgerReader
from miner.tasks.task import Result
from pipeline import Asset, Backend, Generator, OnStep, Request, spz
from pipeline.weights.locate import locate
from tests.miner.phases.conftest import ManagedMiner
from tests.support.waiting import TIMEOUT, until


async def test_a_split_draws_for_each_validator_and_type_and_writes_it_down_before(miner: ManagedMiner) -> None:
    split = miner.split(a=1, b=1)
    miner.choose(split)
    await miner.manager.poll(at_once=True)
    assigned = []
    miner.generating = lambda: assigned.append(len(miner.rows()))
    for seed in range(12):
        await miner.run(seed, "5V" if seed % 3 else "5W")
    assert assigned == list(range(1, 13))
    rows = miner.rows()
    steps = {"a": 3, "b": 5}
    assert all(miner.made[int(row.task_id)] == ("embedded", steps[str(row.arm)]) for row in rows)
    assert all(row.phase == row.arm and row.experiment == "e1" for row in rows)
    assignment = split.assignment
    for validator, count in (("5V", 8), ("5W", 4)):
        of_validator = [row for row in rows if row.validator == validator]
        assert [row.turn for row in of_validator] == list(range(count))
        assert [row.arm for row in of_validator] == [
            assignment.arm(Stratum(validator, "image"), turn) for turn in range(count)
        ]
        assert sum(row.arm == "a" for row in of_validator) == count // 2
    with LedgerReader(miner.ledger.path) as reader:
        (experiment,) = reader.experiments()
    assert (experiment.name, experiment.seed, experiment.weights) == ("e1", 7, {"a": 1, "b": 1})
    assert miner.history() == [("start", "a"), ("apply", "a"), ("apply", "b")]


async def test_an_arm_with_a_scorer_shares_its_models_with_one_without(miner: ManagedMiner) -> None:
    (miner.config.parent / "phases" / "s.yaml").write_text("extends: a\nscorer: {}\n")
    miner.choose(miner.split(a=1, s=1))
    await miner.manager.poll(at_once=True)
    # Those of the first arm would have no scorer.
    assert miner.loads == ["a", "s"]
    for seed in range(4):
        await miner.run(seed)
    rows = miner.rows()
    assert sorted(str(row.arm) for row in rows) == ["a", "a", "s", "s"]
    assert {row.arm: row.quality for row in rows} == {"a": None, "s": 0.5}
    miner.apply("a")
    await miner.manager.poll(at_once=True)
    assert miner.loads == ["a", "s"]


async def test_parts_of_the_score_without_weights_are_among_the_problems(miner: ManagedMiner) -> None:
    (miner.config.parent / "phases" / "s.yaml").write_text("extends: a\nscorer: {}\n")
    miner.load_problems = ("results are not scored by quality: run …",)
    miner.apply("s")
    await miner.manager.poll(at_once=True)
    # What is downloaded meanwhile would have no effect.
    assert miner.manager.problems == (f"{miner.load_problems[0]}; then restart the miner",)
    # It has the same models, and does without their scorer.
    miner.apply("a")
    await miner.manager.poll(at_once=True)
    assert (miner.loads, miner.manager.problems) == (["a", "s"], ())
    miner.load_problems = ()
    miner.apply("other")
    await miner.manager.poll(at_once=True)
    assert miner.manager.problems == ()


async def test_what_nobody_judges_takes_no_turn(miner: ManagedMiner) -> None:
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    await miner.run(77, validator=None)
    await miner.run(1)
    (row,) = miner.rows()
    assert row.turn == 0


async def test_a_split_goes_on_after_a_restart_where_it_was(miner: ManagedMiner) -> None:
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    for seed in range(3):
        await miner.run(seed)
    # Tasks that were assigned and not answered are handed back, and stay in their arm.
    before = miner.rows()
    await miner.restarted()
    for seed in range(3):
        await miner.run(seed)
    rows = miner.rows()
    assert len(rows) == 4
    assert [(row.key, row.arm, row.turn) for row in rows[:3]] == [(row.key, row.arm, row.turn) for row in before]
    assert rows[3].turn == 3
    with LedgerReader(miner.ledger.path) as reader:
        assert len(reader.experiments()) == 1


async def test_a_task_handed_back_under_another_phase_is_another_row(miner: ManagedMiner) -> None:
    await miner.run(1)
    miner.apply("b")
    await miner.restarted()
    await miner.run(1)
    assert [(row.task_id, row.phase) for row in miner.rows()] == [("1", "a"), ("101", "b"), ("1", "b")]


async def test_an_experiment_ends_with_the_next_choice(miner: ManagedMiner) -> None:
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    miner.roll_back()
    await miner.manager.poll(at_once=True)
    assert miner.current == "a"
    miner.choose(miner.split(a=1, b=1).model_copy(update={"experiment": "e2"}))
    await miner.manager.poll(at_once=True)
    miner.apply("b")
    # Or with a start after a choice that was made while no miner ran.
    await miner.restarted()
    assert miner.ledger.flush(TIMEOUT)
    with LedgerReader(miner.ledger.path) as reader:
        assert [(row.name, row.decision) for row in reader.experiments()] == [
            ("e1", "rolled back"),
            ("e2", "for the test"),
        ]


async def test_arms_stay_as_they_were_when_the_split_began_and_the_log_says_so(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    ran = miner.phase("a").config_hash
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    assert miner.manager.problems == ()
    miner.write("a", 9)
    miner.write("b", 0)
    for _ in range(4):
        await miner.manager.poll()
    assert {(await miner.made_with(seed))[1] for seed in range(4)} == {3, 5}
    edited, broken = miner.manager.problems
    assert edited == (
        f"The file of phase a now has {miner.phase('a').config_hash}, which has no effect: split a=1 b=1 goes on with "
        f"{ran}; split or apply anew to use the file"
    )
    assert "phases/b.yaml: sparse_structure_sampler_params.steps" in broken
    levels = [(record.getMessage(), record.levelname) for record in caplog.records if record.name.endswith("manager")]
    assert levels == [(edited, "WARNING"), (broken, "ERROR")]
    assert [record.getMessage() for record in caplog.records if "b.yaml" in record.getMessage()] == [broken]
    # Once it is right again, only what is left is told; and the next time that it breaks, that.
    miner.write("b", 5)
    await miner.manager.poll(at_once=True)
    assert miner.manager.problems == (edited,)
    miner.write("b", 0)
    await miner.manager.poll(at_once=True)
    assert sum("b.yaml" in record.getMessage() for record in caplog.records) == 2
    miner.apply("a")
    await miner.manager.poll(at_once=True)
    assert miner.manager.problems == ()
    assert (await miner.made_with(9))[1] == 9


async def test_a_split_that_goes_on_after_a_restart_says_what_it_does_not_follow(miner: ManagedMiner) -> None:
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    miner.write("a", 9)
    await miner.start()
    (problem,) = miner.manager.problems
    assert "which has no effect: split a=1 b=1 goes on" in problem


async def test_arms_that_need_different_models_are_refused(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    miner.choose(miner.split(a=1, other=1))
    await miner.manager.poll(at_once=True)
    assert "split a=1 other=1 cannot run: the arms need different models" in caplog.text
    assert miner.current == "a"


async def test_the_arms_of_a_split_have_all_their_background_models_loaded(miner: ManagedMiner) -> None:
    path = miner.config.parent / "phases" / "b.yaml"
    path.write_text(path.read_text().replace("model: u2netp", "models: [u2net, u2netp]"))
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    # The winner runs on with what there is.
    miner.apply("b")
    await miner.manager.poll(at_once=True)
    assert miner.current == "b"
    assert miner.backgrounds == [("u2netp",), ("u2netp", "u2net")]


# With a ledger that fails.


async def test_a_ledger_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    miner = ManagedMiner(tmp_path)
    miner.ledger.path.mkdir()
    await miner.start()
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    assert len({await miner.made_with(seed) for seed in range(4)}) == 2
    assert miner.ledger.status.problem != "" or miner.ledger.status.waiting > 0
    assert await miner.pool.stop(TIMEOUT)
    miner.ledger.close(0.0)


# With real models.


@pytest.mark.slow
async def test_real_models_are_swapped_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded checkpoint and a copy of it, with tasks in hand all the time; none is lost or mixed."""
    monkeypatch.setattr(Generator, "warm_up", lambda _: None)
    miner = ManagedMiner(tmp_path)
    del miner.worker._warm_up
    shutil.copytree(locate("embedded", "pipeline.json"), tmp_path / "copy")
    for name, count, checkpoint in (("a", 1, "embedded"), ("b", 3, "embedded"), ("other", 2, str(tmp_path / "copy"))):
        miner.write(name, count, checkpoint)
        with (tmp_path / "phases" / f"{name}.yaml").open("a") as file:
            file.write("max_voxels: {count: 500, excess: drop}\n")
    steps: dict[int, int] = {}
    sample = Generator.sample

    def counting(self: Generator, conditioning: Any, request: Request, on_step: OnStep) -> Asset:
        taken = 0

        def count(stage: str, done: int, of: int) -> None:
            nonlocal taken
            taken += stage == "structure"
            on_step(stage, done, of)

        asset = sample(self, conditioning, request, count)
        steps[request.seed] = taken
        return asset

    old: list[weakref.ref[Backend]] = []

    def load_real(phase: NamedPhase) -> LoadedModels:
        miner.loads.append(phase.name)
        loaded = load_phase_models(phase, MinerSettings(phase=phase.name, device="cpu"), "cpu")
        old.append(weakref.ref(loaded.backend))
        return loaded

    miner.worker._load_models = load_real
    await miner.start()
    monkeypatch.setattr(Generator, "sample", counting)
    tasks: list[asyncio.Task[Result]] = []
    for number, name in enumerate(("b", "other")):
        tasks += [asyncio.create_task(miner.run(10 * number + task + 1)) for task in range(2)]
        await asyncio.sleep(0)
        miner.apply(name)
        await miner.manager.poll(at_once=True)
    tasks += [asyncio.create_task(miner.run(21))]
    results = await asyncio.gather(*tasks)
    # Of the warm-up.
    del steps[0]
    wanted = {"a": 1, "b": 3, "other": 2}
    rows = {int(row.task_id): row for row in miner.rows()}
    assert sorted(rows) == sorted(steps) == sorted(result.asset.seed for result in results)
    assert {seed: wanted[row.phase] for seed, row in rows.items()} == steps
    assert len({row.phase for row in rows.values()}) == 3
    assert all(len(spz.from_bytes(result.data)) >= 7000 for result in results)
    assert all(row.gaussians == result.asset.gaussians for row, result in zip(rows.values(), results, strict=True))
    assert miner.loads == ["a", "other"]
    del tasks, results
    await miner.manager.poll()

    def gone() -> bool:
        gc.collect()
        return old[0]() is None

    await until(gone)
    assert await miner.pool.stop(TIMEOUT)
    assert await asyncio.to_thread(miner.ledger.close, TIMEOUT)
