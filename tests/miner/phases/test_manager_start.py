"""Which phase a miner starts with, and the state that outlives it."""

import asyncio
import threading
from pathlib import Path

import pytest
import yaml

from miner.errors import OperatorError
from miner.phases.state import PhaseChoice, PhaseState
from tests.miner.phases.conftest import ManagedMiner
from tests.support.waiting import TIMEOUT, hold


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
