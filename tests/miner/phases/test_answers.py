"""What `sn17-miner phase` is told by the miner on the same state folder."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import Result

from miner import runtime
from miner.errors import OperatorError
from miner.runtime import claim_folder
from tests.miner.phases.conftest import ManagedMiner
from tests.support.cli import run
from tests.support.waiting import TIMEOUT


@pytest_asyncio.fixture
async def living(miner: ManagedMiner) -> AsyncIterator[ManagedMiner]:
    """A miner that watches its files and has claimed its state folder."""
    with claim_folder(miner.state.folder):
        watching = asyncio.create_task(miner.manager.run())
        yield miner
        watching.cancel()
        await asyncio.wait([watching])


async def phase(miner: ManagedMiner, *arguments: str) -> Result:
    """`sn17-miner phase ARGUMENTS` for the miner's folders."""
    miner.config.write_text("phase: a\n")
    options = ("--config", miner.config, "--state", miner.state.folder)
    return await asyncio.wait_for(asyncio.to_thread(run, "phase", *arguments, *options), TIMEOUT)


async def test_what_is_taken_over(living: ManagedMiner) -> None:
    for arguments, label, name in (
        (("apply", "b"), f"phase {living.phase('b').label}", "b"),
        (("apply", "other"), f"phase {living.phase('other').label}", "other"),
        (("split", "a=1", "b=1"), "split a=1 b=1", "a=1 b=1"),
        (("rollback",), f"phase {living.phase('other').label}", "other"),
    ):
        result = await phase(living, *arguments)
        assert result.exit_code == 0, result.output
        assert f"To run: {label}" in result.stdout
        assert f"The miner on {living.state.folder} (process " in result.stdout
        assert "It did: from the next task on\n" in result.stdout
        assert living.manager.selector.choice.short_label == name
    again = await phase(living, "apply", "other")
    assert (again.exit_code, "is the one to run already" in again.stdout) == (0, True)


async def test_what_is_refused(living: ManagedMiner) -> None:
    def fail() -> None:
        raise OperatorError("the weights are not on this machine: run `sn17-miner weights download`")

    living.loading = fail
    # Twice, since an answer to an earlier attempt is none to this one.
    for _ in range(2):
        result = await phase(living, "apply", "other")
        assert result.exit_code == 2
        assert result.stderr == (
            f"ERROR: the miner refused phase {living.phase('other').label}: the weights are not on this machine: run "
            f"`sn17-miner weights download`; phase {living.phase('a').label} goes on\n"
        )
    assert living.current == "a"
    living.loading = lambda: None
    assert (await phase(living, "apply", "other")).exit_code == 0


@pytest.mark.parametrize("command", [("apply", "b"), ("split", "a=1", "b=1"), ("apply", "a")])
async def test_without_a_miner(miner: ManagedMiner, command: tuple[str, ...]) -> None:
    result = await phase(miner, *command)
    assert result.exit_code == 1
    assert (
        f"ERROR: no miner runs on {miner.state.folder}; the next start takes over what was written\n" == result.stderr
    )
    result = await phase(miner, *command, "--no-wait")
    assert (result.exit_code, "No miner runs on" in result.stdout) == (0, True)


async def test_nobody_waits_who_does_not_want_to(miner: ManagedMiner) -> None:
    """The folder is claimed, and no answer will come."""
    with claim_folder(miner.state.folder):
        result = await phase(miner, "apply", "b", "--no-wait")
    assert (result.exit_code, "is to take it over" in result.stdout) == (0, True)


async def test_a_miner_that_ends(miner: ManagedMiner, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = ["process 1", "process 1", None]
    monkeypatch.setattr(runtime, "find_owner", lambda _: owners.pop(0))
    result = await phase(miner, "apply", "b")
    assert (result.exit_code, "ended before it answered; the next start takes over" in result.stderr) == (1, True)
    assert owners == []


async def test_a_choice_that_is_overtaken(miner: ManagedMiner, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(_: Path) -> str:
        miner.apply("other")
        return "process 1"

    monkeypatch.setattr(runtime, "find_owner", look)
    result = await phase(miner, "apply", "b")
    assert result.exit_code == 1
    assert f"phase {miner.phase('other').label} was chosen before the miner answered" in result.stderr
