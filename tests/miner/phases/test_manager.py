"""Swapping phases under a miner that works: what tasks are made with, what is loaded, and what is written down."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

import pytest

from miner.errors import OperatorError
from tests.miner.phases.conftest import TIMEOUT, Bench, restarted, until


async def test_settings_change_with_the_next_task_and_models_stay_loaded(bench: Bench) -> None:
    assert await bench.made_with(1) == ("embedded", 3)
    bench.apply("b")
    assert await bench.made_with(2) == ("embedded", 3)
    await bench.manager.look(at_once=True)
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
        await bench.manager.look(at_once=True)
    seeds = iter(range(10))
    seen = [await bench.made_with(next(seeds))]
    for _ in range(2):
        bench.roll_back()
        await bench.manager.look(at_once=True)
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
    await bench.manager.look()
    assert await bench.made_with(1) == ("embedded", 3)
    await bench.manager.look()
    assert await bench.made_with(2) == ("embedded", 4)
    # What ran before can be gone back to, although its file is no more; and then it stays.
    bench.roll_back()
    await bench.manager.look(at_once=True)
    assert await bench.made_with(3) == ("embedded", 3)
    await bench.manager.look(at_once=True)
    assert await bench.made_with(4) == ("embedded", 3)
    bench.apply("a")
    await bench.manager.look(at_once=True)
    assert await bench.made_with(5) == ("embedded", 4)


async def test_a_change_in_what_a_phase_extends_is_a_change(bench: Bench) -> None:
    (bench.config.parent / "phases" / "child.yaml").write_text("extends: b\nslat_sampler_params: {steps: 9}\n")
    bench.apply("child")
    await bench.manager.look(at_once=True)
    bench.write("b", 6)
    await bench.manager.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 6)


async def test_other_networks_are_loaded_beside_and_swapped_whole(bench: Bench) -> None:
    """Until they are warm, tasks get the old networks with the old settings; those in hand keep them to their end."""
    begun, proceed = threading.Event(), threading.Event()
    bench.loading = lambda: (begun.set(), proceed.wait(TIMEOUT))
    bench.apply("other")
    looking = asyncio.create_task(bench.manager.look(at_once=True))
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


async def test_networks_that_no_task_needs_any_more_go(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await bench.do(1)
    bench.apply("other")
    await bench.manager.look(at_once=True)

    def gone() -> bool:
        gc.collect()
        return bench.alive["a"]() is None

    await until(gone)
    await bench.manager.look()
    assert f"Nothing needs the networks of phase {bench.phase('a').label} any more" in caplog.text
    assert bench.released.is_set()
    assert bench.alive["other"]() is not None


async def test_a_broken_file_changes_nothing_and_says_why_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.write("a", 0)
    for _ in range(4):
        await bench.manager.look()
    bench.write("unrelated", 8)
    for _ in range(4):
        await bench.manager.look()
    assert await bench.made_with(1) == ("embedded", 3)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "phases/a.yaml: sparse_structure_sampler_params.steps" in errors[0]
    assert errors[0].endswith(f"phase a ({load_label(bench)}) goes on")
    # Who asks is told again.
    bench.manager.poke()
    await bench.manager.look(at_once=True)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2
    bench.write("a", 6)
    await bench.manager.look(at_once=True)
    assert await bench.made_with(2) == ("embedded", 6)


def load_label(bench: Bench) -> str:
    return bench.manager.selector.choice.phases[0].config_hash


async def test_a_file_that_is_gone_changes_nothing(bench: Bench) -> None:
    (bench.config.parent / "phases" / "a.yaml").unlink()
    await bench.manager.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 3)


@pytest.mark.parametrize("content", ["{", "", "current: nonsense"])
async def test_a_damaged_state_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture, content: str) -> None:
    bench.state.path.write_text(content)
    await bench.manager.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 3)
    assert "delete it" in caplog.text
    bench.state.path.unlink()
    await bench.manager.look(at_once=True)
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
    await bench.manager.look(at_once=True)
    await bench.manager.look(at_once=True)
    assert await bench.made_with(1) == ("embedded", 3)
    assert bench.loads == ["a", "other"]
    assert sum(told in record.getMessage() and "goes on" in record.getMessage() for record in caplog.records) == 1
    assert bench.current == "a"
    assert bench.history() == [("start", "a")]


async def test_a_toy_is_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.refused = "b"
    bench.apply("b")
    await bench.manager.look(at_once=True)
    assert "phase b is a toy; phase a" in caplog.text
    assert bench.current == "a"
    bench.choose(bench.split(a=1, b=1))
    await bench.manager.look(at_once=True)
    assert bench.current == "a"
    bench.new_control("b")
    with pytest.raises(OperatorError, match="is a toy"):
        await bench.manager.start()


async def test_what_was_chosen_while_another_was_loading_wins(bench: Bench) -> None:
    begun, proceed = threading.Event(), threading.Event()
    bench.loading = lambda: (begun.set(), proceed.wait(TIMEOUT))
    bench.apply("other")
    looking = asyncio.create_task(bench.manager.look(at_once=True))
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    bench.apply("b")
    proceed.set()
    await asyncio.wait_for(looking, TIMEOUT)
    assert await bench.made_with(1) == ("embedded", 5)
    assert bench.history() == [("start", "a"), ("apply", "b")]


async def test_the_watch_follows_by_itself(bench: Bench) -> None:
    watching = asyncio.create_task(bench.manager.run())
    try:
        bench.write("a", 4)
        await until(lambda: bench.manager.selector.choice.phases[0].settings.slat_sampler_params.steps == 4)
        bench.apply("b")
        await until(lambda: bench.manager.selector.choice.short == "b")
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_what_was_applied_outlives_a_restart_until_the_settings_name_another(bench: Bench) -> None:
    bench.apply("b")
    await bench.manager.look(at_once=True)
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
        await bench.manager.start()


async def test_a_damaged_state_does_not_keep_the_miner_from_starting(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.apply("b")
    bench.state.path.write_text("{")
    assert await restarted(bench) == ("embedded", 3)
    assert "phase a runs, as the settings have it" in caplog.text
