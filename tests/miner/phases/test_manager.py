"""Swapping phases under a miner that works: what tasks are made with, what is loaded, and what is written down."""

import asyncio
import gc
import logging
import threading

import pytest

from miner.errors import OperatorError
from tests.miner.phases.conftest import ManagedMiner
from tests.support.waiting import TIMEOUT, hold, until


async def test_settings_change_with_the_next_task_and_models_stay_loaded(miner: ManagedMiner) -> None:
    assert await miner.made_with(1) == ("embedded", 3)
    miner.apply("b")
    assert await miner.made_with(2) == ("embedded", 3)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(3) == ("embedded", 5)
    assert miner.loads == ["a"]
    assert [(row.phase, row.config_hash) for row in miner.rows()] == [
        ("a", miner.phase("a").config_hash),
        ("a", miner.phase("a").config_hash),
        ("b", miner.phase("b").config_hash),
    ]
    assert miner.history() == [("start", "a"), ("apply", "b")]


async def test_going_back_again_and_again(miner: ManagedMiner) -> None:
    for name in ("b", "other"):
        miner.apply(name)
        await miner.manager.poll(at_once=True)
    seeds = iter(range(10))
    seen = [await miner.made_with(next(seeds))]
    for _ in range(2):
        miner.roll_back()
        await miner.manager.poll(at_once=True)
        seen.append(await miner.made_with(next(seeds)))
    assert seen == [("/elsewhere", 7), ("embedded", 5), ("embedded", 3)]
    assert miner.history() == [
        *(("start", "a"), ("apply", "b"), ("apply", "other")),
        *(("rollback", "b"), ("rollback", "a")),
    ]
    with pytest.raises(OperatorError):
        miner.roll_back()


async def test_a_changed_file_is_followed_once_it_has_settled(miner: ManagedMiner) -> None:
    miner.write("a", 4)
    await miner.manager.poll()
    assert await miner.made_with(1) == ("embedded", 3)
    await miner.manager.poll()
    assert await miner.made_with(2) == ("embedded", 4)
    # What ran before can be gone back to, although its file is no more; and then it stays.
    miner.roll_back()
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(3) == ("embedded", 3)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(4) == ("embedded", 3)
    miner.apply("a")
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(5) == ("embedded", 4)


async def test_a_change_in_what_a_phase_extends_is_a_change(miner: ManagedMiner) -> None:
    (miner.config.parent / "phases" / "child.yaml").write_text("extends: b\nslat_sampler_params: {steps: 9}\n")
    miner.apply("child")
    await miner.manager.poll(at_once=True)
    miner.write("b", 6)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(1) == ("embedded", 6)


async def test_other_models_are_loaded_beside_and_swapped_whole(miner: ManagedMiner) -> None:
    """Until they are warm, tasks get the old models with the old settings; those in hand keep them to their end."""
    begun, proceed = threading.Event(), threading.Event()
    miner.loading = hold(begun, proceed)
    miner.apply("other")
    looking = asyncio.create_task(miner.manager.poll(at_once=True))
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    assert await miner.made_with(1) == ("embedded", 3)

    started, release = threading.Event(), threading.Event()
    miner.generating = hold(started, release)
    in_hand = [asyncio.create_task(miner.run(seed)) for seed in (2, 3, 4)]
    assert await asyncio.to_thread(started.wait, TIMEOUT)
    await until(lambda: miner.pool.waiting == 2)
    proceed.set()
    await asyncio.wait_for(looking, TIMEOUT)
    later = asyncio.create_task(miner.run(5))
    await until(lambda: miner.pool.waiting == 3)
    # Three tasks still need them.
    assert miner.backends["a"]() is not None
    release.set()
    assert all(result.asset.gaussians for result in await asyncio.gather(*in_hand, later))
    assert {seed: miner.made[seed] for seed in (2, 3, 4, 5)} == {
        **dict.fromkeys((2, 3, 4), ("embedded", 3)),
        5: ("/elsewhere", 7),
    }
    assert {row.task_id: row.phase for row in miner.rows()} == {**dict.fromkeys("1234", "a"), "5": "other"}


async def test_models_that_no_task_needs_any_more_go(miner: ManagedMiner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await miner.run(1)
    miner.apply("other")
    await miner.manager.poll(at_once=True)

    await miner.manager.poll()

    def gone() -> bool:
        gc.collect()
        return miner.backends["a"]() is None

    await until(gone)
    assert f"The models of phase {miner.phase('a').label} are no longer in use" in caplog.text
    assert miner.freed.is_set()
    assert miner.backends["other"]() is not None


async def test_models_that_no_task_needs_any_more_go_while_others_are_loaded(miner: ManagedMiner) -> None:
    started, release, begun, proceed = (threading.Event() for _ in range(4))
    miner.generating = hold(started, release)
    in_hand = asyncio.create_task(miner.run(1))
    assert await asyncio.to_thread(started.wait, TIMEOUT)
    miner.apply("other")
    await miner.manager.poll(at_once=True)
    miner.loading = hold(begun, proceed)
    miner.apply("b")
    looking = asyncio.create_task(miner.manager.poll(at_once=True))
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    assert not miner.freed.is_set()
    release.set()
    await in_hand
    del in_hand
    assert await asyncio.to_thread(miner.freed.wait, TIMEOUT)
    proceed.set()
    await asyncio.wait_for(looking, TIMEOUT)
    assert miner.manager.selector.choice.short_label == "b"


async def test_a_broken_file_changes_nothing_and_says_why_once(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    miner.write("a", 0)
    for _ in range(4):
        await miner.manager.poll()
    miner.write("unrelated", 8)
    for _ in range(4):
        await miner.manager.poll()
    assert await miner.made_with(1) == ("embedded", 3)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "phases/a.yaml: sparse_structure_sampler_params.steps" in errors[0]
    assert errors[0].endswith(f"{miner.manager.selector.choice.label} goes on")
    # Who asks is told again.
    miner.manager.poke()
    await miner.manager.poll(at_once=True)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2
    miner.write("a", 6)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(2) == ("embedded", 6)


async def test_a_file_that_is_gone_changes_nothing(miner: ManagedMiner) -> None:
    (miner.config.parent / "phases" / "a.yaml").unlink()
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(1) == ("embedded", 3)


async def test_what_was_applied_and_replaced_before_it_ran_is_not_gone_back_to(miner: ManagedMiner) -> None:
    miner.apply("other")
    miner.apply("b")
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(1) == ("embedded", 5)
    miner.roll_back()
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(2) == ("embedded", 3)
    with pytest.raises(OperatorError):
        miner.roll_back()


async def test_the_settings_of_a_rollback_keep_to_themselves_and_say_so(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    before, (after, latest) = miner.phase("a").config_hash, (4, 6)
    miner.write("a", after)
    await miner.manager.poll(at_once=True)
    miner.roll_back()
    await miner.manager.poll(at_once=True)
    (problem,) = miner.manager.problems
    assert problem == (
        f"The file of phase a now has {miner.phase('a').config_hash}, which has no effect: {before} was rolled back "
        "to; `sn17-miner phase apply a` uses the file"
    )
    miner.write("a", latest)
    await miner.manager.poll(at_once=True)
    assert f"The file of phase a now has {miner.phase('a').config_hash}" in caplog.text
    miner.apply("a")
    await miner.manager.poll(at_once=True)
    assert miner.manager.problems == ()
    assert await miner.made_with(1) == ("embedded", latest)


async def test_a_toy_is_refused(miner: ManagedMiner, caplog: pytest.LogCaptureFixture) -> None:
    miner.refused = "b"
    miner.apply("b")
    await miner.manager.poll(at_once=True)
    assert "phase b is a toy; phase a" in caplog.text
    assert miner.current == "a"
    miner.choose(miner.split(a=1, b=1))
    await miner.manager.poll(at_once=True)
    assert miner.current == "a"
    with pytest.raises(OperatorError, match="is a toy"):
        await miner.start("b")


async def test_what_was_chosen_while_another_was_loading_wins(miner: ManagedMiner) -> None:
    begun, proceed = threading.Event(), threading.Event()
    miner.loading = hold(begun, proceed)
    miner.apply("other")
    looking = asyncio.create_task(miner.manager.poll(at_once=True))
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    miner.apply("b")
    proceed.set()
    await asyncio.wait_for(looking, TIMEOUT)
    assert await miner.made_with(1) == ("embedded", 5)
    assert miner.history() == [("start", "a"), ("apply", "b")]


async def test_the_watch_follows_by_itself(miner: ManagedMiner) -> None:
    watching = asyncio.create_task(miner.manager.run())
    try:
        miner.write("a", 4)
        await until(lambda: miner.manager.selector.choice.phases[0].settings.slat_sampler_params.steps == 4)
        miner.apply("b")
        await until(lambda: miner.manager.selector.choice.short_label == "b")
    finally:
        watching.cancel()
        await asyncio.wait([watching])
