"""Swapping phases under a miner that works: what tasks are made with, what is loaded, and what is written down."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from miner.errors import OperatorError
from miner.phases.state import PhaseChoice, PhaseState
from tests.miner.phases.conftest import ManagedMiner
from tests.support.waiting import TIMEOUT, until


def hold(begun: threading.Event, proceed: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        begun.set()
        assert proceed.wait(TIMEOUT)

    return wait


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


@pytest.mark.parametrize("content", ["{", "", "current: nonsense", "at: 1.0\nat: 2.0"])
async def test_a_damaged_state_changes_nothing(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    miner.state.path.write_text(content)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(1) == ("embedded", 3)
    assert "delete it" in caplog.text
    miner.state.path.unlink()
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(2) == ("embedded", 3)


async def test_a_state_that_is_deleted_is_written_again(miner: ManagedMiner, caplog: pytest.LogCaptureFixture) -> None:
    """So that a restart goes on with what was applied, and what ran before can be gone back to."""
    miner.apply("b")
    await miner.manager.poll(at_once=True)
    before = miner.state.read()
    miner.state.path.unlink()
    await miner.manager.poll(at_once=True)
    assert miner.state.read() == before
    assert f"{miner.state.path} was deleted and is written again" in caplog.text
    assert await miner.made_with(1) == ("embedded", 5)
    miner.roll_back()
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(2) == ("embedded", 3)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OperatorError("the weights are not on this machine"), "not on this machine"),
        (RuntimeError("a bug"), "phase other cannot be loaded: RuntimeError: a bug"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_and_does_not_spoil_the_next_start(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    def fail() -> None:
        raise error

    miner.loading = fail
    miner.apply("other")
    await miner.manager.poll(at_once=True)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(1) == ("embedded", 3)
    assert miner.loads == ["a", "other"]
    assert sum(told in record.getMessage() and "goes on" in record.getMessage() for record in caplog.records) == 1
    assert miner.current == "a"
    assert miner.history() == [("start", "a")]


async def test_a_start_that_failed_leaves_nothing_behind(miner: ManagedMiner) -> None:
    """The weights of what the command line names are missing; the next start names what ran before."""

    def fail() -> None:
        raise OperatorError("the weights are not on this machine")

    before = miner.state.path.read_text()
    miner.loading = fail
    for name in ("other", "b"):
        with pytest.raises(OperatorError, match="not on this machine"):
            await miner.start(name)
        assert miner.state.path.read_text() == before
    miner.loading = lambda: None
    await miner.start()
    with pytest.raises(OperatorError, match="no phase to go back to"):
        miner.roll_back()
    assert miner.history() == [("start", "a")] * 2


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


async def test_what_is_applied_while_a_miner_starts_comes_next_and_can_be_undone(tmp_path: Path) -> None:
    miner = ManagedMiner(tmp_path)
    begun, proceed = threading.Event(), threading.Event()
    miner.loading = hold(begun, proceed)
    starting = asyncio.create_task(miner.start())
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    b = PhaseChoice.single(miner.phase("b"))
    miner.state.change(lambda _: PhaseState(at=1.0, action="apply", current=b, ready=False))
    proceed.set()
    await asyncio.wait_for(starting, TIMEOUT)
    assert await miner.made_with(1) == ("embedded", 3)
    await miner.manager.poll()
    await miner.manager.poll()
    assert await miner.made_with(2) == ("embedded", 5)
    miner.roll_back()
    assert miner.current == "a"
    await asyncio.to_thread(miner.close)


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


async def test_what_was_applied_outlives_a_restart_until_the_settings_name_another(miner: ManagedMiner) -> None:
    miner.apply("b")
    await miner.manager.poll(at_once=True)
    assert await miner.restarted() == ("embedded", 5)
    # Applied while no miner ran.
    miner.apply("other")
    assert await miner.restarted() == ("/elsewhere", 7)
    assert await miner.restarted("b") == ("embedded", 5)
    assert await miner.restarted("b") == ("embedded", 5)
    miner.write("b", 6)
    assert await miner.restarted("b") == ("embedded", 6)
    miner.roll_back()
    assert await miner.restarted("b") == ("embedded", 5)
    miner.roll_back()
    assert await miner.restarted("b") == ("/elsewhere", 7)


async def test_the_state_file_of_the_first_release_is_taken_over(miner: ManagedMiner) -> None:
    def written(name: str) -> dict[str, object]:
        settings = miner.phase(name).settings.model_dump(mode="json", exclude_none=True)
        return {"phase": name, "follows": True, "settings": settings}

    content = {"configured": "a", "at": 1.0, "action": "apply", "current": written("b"), "before": [written("other")]}
    miner.state.path.write_text(yaml.safe_dump(content))
    assert await miner.restarted() == ("embedded", 5)
    miner.write("b", 6)
    await miner.manager.poll(at_once=True)
    assert await miner.made_with(1) == ("embedded", 6)
    for expected in (("embedded", 5), ("/elsewhere", 7)):
        miner.roll_back()
        await miner.manager.poll(at_once=True)
        assert await miner.made_with(2) == expected


async def test_a_start_with_a_broken_file_is_the_operators_mistake(miner: ManagedMiner) -> None:
    miner.apply("b")
    miner.write("b", 0)
    with pytest.raises(OperatorError, match=r"b.yaml: sparse_structure_sampler_params"):
        await miner.start("a")


async def test_a_damaged_state_does_not_keep_the_miner_from_starting(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    miner.apply("b")
    miner.state.path.write_text("{")
    assert await miner.restarted() == ("embedded", 3)
    assert "phase a runs, as configured" in caplog.text
