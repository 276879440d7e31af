"""A local validator and a miner as a process, whose clock, ledger and life a scenario disturbs; for faults.py."""

import asyncio
import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bittensor as bt

from miner.ledger import LedgerReader, TaskRow
from miner.localnet import LOOPBACK, Delivery, LocalValidator, ValidatorTiming, free_port, make_wallet, write_chain_file
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import ProtocolTask, TextTask
from scripts.demo import MinerProcess

TIMEOUT = 120.0
TIMING = ValidatorTiming(throttle_period=0, task_cooldown=15, cooldown_penalty=30, validation_lock=2)
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]+ \| [^\x00-\x1f\x7f]+$")
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
    monitor_port: int = field(default_factory=free_port)
    miners: list[MinerProcess] = field(default_factory=list)
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
            *("--wallet.path", str(self.folder), "--wallet.name", "miner", "--monitor.port", str(self.monitor_port)),
            *("--axon.ip", LOOPBACK, "--axon.port", str(self.miner_neuron.port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        miner = MinerProcess(process, time.monotonic())
        self.miners.append(miner)
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

    def health(self) -> dict[str, Any]:
        """Return what the miner says of itself."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.monitor_port}/health", timeout=10) as reply:
            content: dict[str, Any] = json.load(reply)
        return content

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
