"""Run the miner against a local validator while faults are injected: kills, time-outs, closed connections, wrong clocks.

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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import bittensor as bt

from miner.ledger import LedgerReader, TaskRow
from miner.localnet import LOOPBACK, Delivery, LocalValidator, ValidatorTiming, free_port, make_wallet, write_chain_file
from miner.localnet.raw_client import AxonAddress, send, signed_request
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, ProtocolTask, PullTask, TextTask
from scripts.demo import MinerProcess

TIMEOUT = 120.0
DAY = 86_400.0
TIMING = ValidatorTiming(throttle_period=0, task_cooldown=15, cooldown_penalty=30, validation_lock=2)
# The miner as `python -m miner`, by a wall clock that is off by the seconds that a file holds.
CLOCK_WRAPPER = """
import runpy, sys, time
from pathlib import Path
file, real, real_ns = Path(sys.argv.pop(1)), time.time, time.time_ns
offset = lambda: float(file.read_text() or 0)
time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + int(offset() * 1e9)
runpy.run_module("miner", run_name="__main__")
"""


class SlowValidator(LocalValidator):
    """Keeps the subnet's rules; takes its time to validate, and gives each result a score of the scenario's choice."""

    seconds = 0.0
    score = 0.9
    validating = 0

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        """Check a result after some seconds, and return it with the chosen score."""
        self.validating += 1
        await asyncio.sleep(self.seconds)
        delivery, _ = await super().check(task, results)
        return delivery, self.score


@dataclass
class Scene:
    """A validator and a miner in a folder, and what is to be told of them."""

    folder: Path
    validator: SlowValidator
    validator_keypair: bt.Keypair
    miner_neuron: Neuron
    facts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @staticmethod
    def make(folder: Path, settings: str = "") -> "Scene":
        """Write wallets, chain file and settings."""
        wallet = make_wallet(folder, "miner")
        hotkey = wallet.hotkey.ss58_address
        validator_wallet = make_wallet(folder, "validator")
        validator = SlowValidator(validator_wallet, free_port(), lambda key: key == hotkey, TIMING)
        miner = Neuron(uid=1, hotkey=hotkey, coldkey=hotkey, ip=LOOPBACK, port=free_port())
        neuron = Neuron(
            uid=0,
            hotkey=validator.hotkey,
            coldkey=validator.hotkey,
            stake=5000,
            validator_permit=True,
            ip=LOOPBACK,
            port=validator.port,
        )
        write_chain_file(folder / "chain.json", [neuron, miner])
        (folder / "miner.yaml").write_text(f"phase: demo\n{settings}")
        (folder / "offset").write_text("0")
        return Scene(folder, validator, validator_wallet.hotkey, miner)

    def set_clock(self, seconds: float) -> None:
        """Put the miner's wall clock ahead by so many seconds."""
        (self.folder / "offset").write_text(str(seconds))

    async def start(self) -> MinerProcess:
        """Start the miner and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLOCK_WRAPPER, str(self.folder / "offset"), "run", "--netuid", "17"),
            *("--config", str(self.folder / "miner.yaml"), "--subtensor.network", f"file:{self.folder / 'chain.json'}"),
            *("--wallet.path", str(self.folder), "--wallet.name", "miner", "--monitor.port", "0"),
            *("--axon.ip", LOOPBACK, "--axon.port", str(self.miner_neuron.port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        miner = MinerProcess(process, time.monotonic())
        if not await miner.wait_for(miner.ready, TIMEOUT):
            raise RuntimeError("the miner did not start")
        return miner

    def give(self, count: int) -> None:
        """Let the validator hand out so many sentences."""
        self.validator.add_tasks(TextTask(id=f"task-{index}", prompt="a yellow duck") for index in range(count))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what other processes bring about."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)

    def rows(self) -> list[TaskRow]:
        """Return the tasks in the miner's ledger."""
        path = self.folder / "ledger.sqlite"
        if not path.exists():
            return []
        with LedgerReader(path) as reader:
            return reader.tasks()

    @property
    def violations(self) -> int:
        """The number of pulls that came too early, less the submissions that took one off."""
        state = self.validator.rules.miners.get(self.miner_neuron.hotkey)
        return 0 if state is None else state.violations

    def tell(self, fact: str, is_right: bool) -> None:
        """Add a fact, and remember if it is not as it should be."""
        self.facts.append(fact)
        if not is_right:
            self.faults.append(fact)


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
    validator.rules.timing = ValidatorTiming(throttle_period=0, task_cooldown=1, cooldown_penalty=0, validation_lock=0)
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


SCENARIOS: dict[str, tuple[Callable[[Scene], Awaitable[None]], str]] = {
    "closing-connections": (closing_connections, ""),
    "killed-while-validated": (killed_while_validated, ""),
    "unanswered-submission": (unanswered_submission, "pulling: {submit_timeout: 1.5}\n"),
    "clock-ahead-for-a-round": (clock_ahead_for_a_round, "housekeeping: {interval: 1}\n"),
    "clock-set-back": (clock_set_back_before_restart, ""),
    "cooldown-of-a-wrong-clock": (cooldown_written_by_a_wrong_clock, ""),
    "pushes-and-clocks": (pushes_by_a_clock_put_right, ""),
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
