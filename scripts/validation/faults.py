"""Run the miner against a local validator with faults: kills, time-outs, closing connections, wrong clocks.

    python -m scripts.validation.faults [NAME ...]

Each scenario starts the miner as a process of its own with the demo phase, in a folder of its own, with the subnet's
rules at shorter times. Prints one row for each: what was injected, what came of it, and whether that is right. Exits
with 0 only if all are. Recorded results: faults.md beside this file.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import bittensor as bt

from miner.ledger import LedgerReader
from miner.localnet import LOOPBACK, ValidatorTiming
from miner.localnet.raw_client import AxonAddress, send, signed_request
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, PullTask
from scripts.validation.fault_scene import LOG_LINE, TIMING, Scene

DAY = 86_400.0
# What operators count with.
ACCEPTANCE = """grep "Score=" | awk -F'Score=' '{n++; if ($2 + 0 > 0) a++} END {print a + 0 " of " n + 0}'"""
IMPATIENT = ValidatorTiming(throttle_period=0, task_cooldown=1, cooldown_penalty=0, validation_lock=0)


async def closing_connections(scene: Scene) -> None:
    """Exchange with a server that closes idle connections after 5 s, again after 4.90 to 5.10 s."""
    gaps = [4.9 + 0.02 * index for index in range(11)]
    own = bt.Keypair.create_from_uri("//somebody")
    neuron = Neuron(uid=0, hotkey=scene.validator.hotkey, coldkey="c", ip=LOOPBACK, port=scene.validator.port)

    async def exchange_twice(gap: float) -> bool:
        dendrite = Dendrite(own)
        await dendrite.exchange(neuron, PullTask(), 10.0)
        await asyncio.sleep(gap)
        reply = await dendrite.exchange(neuron, PullTask(), 10.0)
        await dendrite.aclose_session()
        return bool(reply.synapse.dendrite.status_code == 200)

    answered = await asyncio.gather(*map(exchange_twice, gaps))
    scene.tell(f"{sum(answered)} of {len(gaps)} answered after {gaps[0]:.2f} to {gaps[-1]:.2f} s", all(answered))


async def killed_while_validated(scene: Scene) -> None:
    """Kill the miner while its second result is being validated, and start it again."""
    validator = scene.validator
    scene.give(3)
    miner = await scene.start()
    await scene.until(lambda: len(validator.deliveries) == 1)
    validator.seconds = 4.0
    await scene.until(lambda: validator.validating == 2)
    await miner.kill()
    await scene.until(lambda: len(validator.deliveries) == 2)
    validator.seconds = 0.0
    miner = await scene.start()
    await scene.until(lambda: len(validator.deliveries) == 3)
    await miner.stop()
    scene.tell(f"{scene.violations} violations", scene.violations == 0)
    outcomes = [str(row.outcome) for row in scene.rows()]
    scene.tell(f"ledger {', '.join(outcomes)}", outcomes == ["accepted", "closed_without_a_score", "accepted"])


async def unanswered_submission(scene: Scene) -> None:
    """Let a submission time out that counts, with a cooldown that is over when the miner asks again."""
    validator = scene.validator
    validator.rules.timing = IMPATIENT
    validator.seconds = 3.0
    scene.give(2)
    miner = await scene.start()
    await scene.until(lambda: len(validator.deliveries) == 1)
    validator.seconds = 0.0
    await scene.until(lambda: len(validator.deliveries) == 2)
    await miner.stop()
    rows = scene.rows()
    outcomes = [(str(row.outcome), row.submissions) for row in rows]
    scene.tell(f"ledger {outcomes}", outcomes == [("closed_without_a_score", 1), ("accepted", 1)])


async def judged_as_operators_count(scene: Scene) -> None:
    """Have three results accepted and four rejected, and count them as operators do, with grep and awk."""
    validator = scene.validator
    validator.rules.timing = IMPATIENT
    scene.give(7)
    validator.score = 0.3
    miner = await scene.start()
    await scene.until(lambda: len(validator.deliveries) == 4)
    validator.score = 0.9
    await scene.until(lambda: len(validator.deliveries) == 7)
    await miner.stop()
    pipe = asyncio.subprocess.PIPE
    shell = await asyncio.create_subprocess_shell(ACCEPTANCE, stdin=pipe, stdout=pipe)
    output, _ = await shell.communicate("\n".join(miner.lines).encode())
    counted = output.decode().strip()
    outcomes = Counter(str(row.outcome) for row in scene.rows())
    scene.tell(f"grep and awk count {counted}, the ledger {dict(outcomes)}", counted == "3 of 7")
    scene.faults += [] if outcomes == {"accepted": 3, "rejected": 4} else ["the ledger"]


async def ledger_deleted(scene: Scene) -> None:
    """Delete the ledger between two tasks."""
    scene.give(2)
    miner = await scene.start()
    await scene.until(lambda: len(scene.validator.deliveries) == 1 and bool(scene.rows()[0].outcome))
    (scene.folder / "ledger.sqlite").unlink()
    await scene.until(lambda: len(scene.validator.deliveries) == 2)
    await scene.until(lambda: any(row.outcome for row in scene.rows()))
    problem = scene.health()["ledger"]["problem"]
    await miner.stop()
    with LedgerReader(scene.folder / "ledger.sqlite") as reader:
        phases = [row.phase for row in reader.phases()]
    scene.tell(f"/health says {problem!r}", "was deleted" in problem)
    scene.tell(f"the new one has phases {phases} and {len(scene.rows())} task", phases == ["demo"])
    scene.faults += [] if [row.task_id for row in scene.rows()] == ["task-1"] else ["the tasks"]


async def clock_ahead_for_a_round(scene: Scene) -> None:
    """Put the clock 20 days ahead for some rounds of housekeeping, while results lie there."""
    scene.give(1)
    miner = await scene.start()
    results = scene.folder / "results"
    await scene.until(lambda: len(list(results.glob("*.json"))) == 1)
    scene.set_clock(20 * DAY)
    await asyncio.sleep(4)
    scene.set_clock(0)
    await asyncio.sleep(2)
    kept = len(list(results.glob("*.json")))
    warnings = sum("has stepped by" in line for line in miner.lines)
    await miner.stop()
    scene.tell(f"{kept} of 1 results kept", kept == 1)
    scene.tell(f"{warnings} warnings for two steps", warnings == 2)


async def clock_set_back_before_restart(scene: Scene) -> None:
    """Stop during a cooldown, set the clock back by a day, and start again."""
    await restart_with_clocks(scene, 0.0, -DAY)


async def cooldown_written_by_a_wrong_clock(scene: Scene) -> None:
    """Stop during a cooldown with the clock 10 h ahead, put it right, and start again."""
    await restart_with_clocks(scene, 36_000.0, 0.0)


async def restart_with_clocks(scene: Scene, before: float, after: float) -> None:
    """Stop the miner during a cooldown by one clock, and start it again by another."""
    scene.set_clock(before)
    scene.give(2)
    miner = await scene.start()
    await scene.until(lambda: len(scene.validator.deliveries) == 1)
    first = time.monotonic()
    await miner.stop()
    scene.set_clock(after)
    miner = await scene.start()
    # A validator refuses requests of a clock that is behind its own.
    scene.set_clock(max(after, 0.0))
    await scene.until(lambda: len(scene.validator.deliveries) == 2)
    waited = time.monotonic() - first
    await miner.stop()
    cooldown = TIMING.task_cooldown
    scene.tell(f"next result after {waited:.0f} s, cooldown {cooldown} s", waited < 4 * cooldown)
    scene.tell(f"{scene.violations} violations", scene.violations == 0)


async def pushes_by_a_clock_put_right(scene: Scene) -> None:
    """Start 8 h ahead, push, put the clock right, push again, replay it, restart and replay it once more."""
    scene.set_clock(8 * 3600.0)
    miner = await scene.start()
    axon = AxonAddress(scene.miner_neuron.port, scene.miner_neuron.hotkey)
    task = Generate(task_type="text", prompt="a yellow duck", seed=1)
    answers = [await send(axon, signed_request(scene.validator_keypair, task))]
    scene.set_clock(0)
    good = signed_request(scene.validator_keypair, task)
    answers += [await send(axon, good), await send(axon, good)]
    await miner.stop()
    miner = await scene.start()
    answers.append(await send(axon, good))
    await miner.stop()
    scene.tell(f"HTTP {', '.join(answers)}", answers == ["401", "200", "401", "401"])


async def pushed_task_at_a_stop(scene: Scene) -> None:
    """Ask the miner to stop while it generates a pushed task."""
    miner = await scene.start()
    axon = AxonAddress(scene.miner_neuron.port, scene.miner_neuron.hotkey)
    task = Generate(task_type="text", prompt="a yellow duck", seed=1)
    answer = asyncio.create_task(send(axon, signed_request(scene.validator_keypair, task)))
    await scene.until(lambda: any("pushed by validator" in line for line in miner.lines))
    code = await miner.stop()
    scene.tell(f"HTTP {await answer}, exit code {code}", await answer == "200" and code == 0)


SCENARIOS: dict[str, tuple[Callable[[Scene], Awaitable[None]], str]] = {
    "closing-connections": (closing_connections, ""),
    "killed-while-validated": (killed_while_validated, ""),
    "unanswered-submission": (unanswered_submission, "pulling: {submit_timeout: 1.5}\n"),
    "judged-results": (judged_as_operators_count, ""),
    "ledger-deleted": (ledger_deleted, ""),
    "clock-ahead-for-a-round": (clock_ahead_for_a_round, "housekeeping: {interval: 1}\n"),
    "clock-set-back": (clock_set_back_before_restart, ""),
    "cooldown-of-a-wrong-clock": (cooldown_written_by_a_wrong_clock, ""),
    "pushes-and-clocks": (pushes_by_a_clock_put_right, ""),
    "pushed-task-at-a-stop": (pushed_task_at_a_stop, ""),
}


async def run(name: str) -> bool:
    """Run one scenario and print its row; return whether all is as it should be."""
    play, settings = SCENARIOS[name]
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.make(Path(folder), settings)
        await scene.validator.start()
        try:
            await play(scene)
        finally:
            await scene.validator.stop()
    lines = [line for miner in scene.miners for line in miner.lines]
    foreign = [line for line in lines if not LOG_LINE.match(line)]
    if lines:
        scene.tell(f"{len(lines)} lines logged, {len(foreign)} not in our format", not foreign)
    print(json.dumps({"scenario": name, "right": not scene.faults, "facts": scene.facts}), flush=True)
    return not scene.faults


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SCENARIOS)}; all by default")
    names: list[str] = parser.parse_args().names or list(SCENARIOS)
    results = [asyncio.run(run(name)) for name in names]
    print(f"{sum(results)} of {len(results)} scenarios are as they should be")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
