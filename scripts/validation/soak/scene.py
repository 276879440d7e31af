"""The miner of a soak and its validators, in a folder, and what faults do to them."""

import asyncio
import math
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any, TypeVar

from miner.localnet import LOOPBACK, MinerState, make_wallet, write_chain_file
from miner.subnet.metagraph import Neuron
from pipeline.weights.locate import locate
from scripts.demo import NETUID, MinerProcess
from scripts.validation.soak.accounts import Accounts, LedgerLoss, Rows, losses_of_kill, read_rows, take_accounts
from scripts.validation.soak.book import Book
from scripts.validation.soak.hostile import HostileValidator
from scripts.validation.soak.prompts import Prompts
from scripts.validation.soak.validators import Habits, Setting, SoakValidator

Option = TypeVar("Option")

# Below those of clients on Linux.
QUIET_PORTS = range(18_000, 32_000)

READY_TIMEOUT = 120.0
SUBMIT_TIMEOUT = 12.0
RESTARTING, VANISHING, HOSTILE = "restarting", "vanishing", "hostile"
HABITS = {
    "good": Habits(push_pause=(8.0, 16.0)),
    "picky": Habits(rejects=0.4, fails=0.1, push_pause=(12.0, 24.0)),
    "slow": Habits(seconds=(2.0, 8.0), late=0.1, late_seconds=SUBMIT_TIMEOUT + 6.0),
    RESTARTING: Habits(seconds=(0.0, 2.0), rejects=0.1),
    VANISHING: Habits(idle=0.2, rejects=0.1),
}
PHASE, WIDE, OTHER = "soak", "wide", "other"
SETTINGS = f"""
phase: {PHASE}
chain: {{sync_interval: 3}}
pulling: {{pull_timeout: 5, submit_timeout: {SUBMIT_TIMEOUT}}}
housekeeping: {{interval: 5, results: {{max_days: 14, max_bytes: 20000000}}}}
"""
PHASES = {
    PHASE: "extends: demo\nscorer: {}\ncandidates: {count: 2, seconds: 4}\ngate: auto\n",
    # Larger results, by which a validator can tell the two apart.
    WIDE: f"extends: {PHASE}\nexport: {{extent: 1.5}}\n",
}
# As neurons/miner.py begins, too, since the faults import much.
START = (
    "from miner.early_stop import end_on_signals; end_on_signals(); "
    "from scripts.validation.soak.faulty_miner import main; main({workers})"
)
# Python itself takes a moment before it can be told to ignore a signal.
SIGNAL_SECONDS = 1.5


def free_ports(count: int) -> list[int]:
    """Return ports that can be bound, also again after a while, since the system gives them to no client."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(QUIET_PORTS)  # noqa: S311
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            found += [port] if port not in found else []
    return found


class SoakMiner(MinerProcess):
    """The miner's process; keeps its log with the moment of each line, and takes orders for faults from inside."""

    def __init__(self, process: asyncio.subprocess.Process, log: list[tuple[float, str]]) -> None:
        """Write the log of a process to `log`."""
        super().__init__(process, time.monotonic())
        self._log = log
        self._stdin = process.stdin

    def tell(self, line: str) -> None:
        """Keep a line with its moment."""
        self._log.append((time.monotonic(), line))
        # One soak logs some ten thousand lines.
        self.lines.clear()

    def order(self, name: str, number: float) -> None:
        """Order a fault, see faulty_miner.py, unless the miner is still warming up."""
        if self.ready.is_set() and self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(f"{name} {number}\n".encode())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended or has only just begun."""
        if self._process.returncode is None and time.monotonic() > self._started + SIGNAL_SECONDS:
            self._process.send_signal(number)


@dataclass
class Scene:
    """Everything that a soak consists of; moments are those of the steady clock.

    log: the lines of all miners in order, each with its moment. absent: validators that are not on the chain. saved: an
    old state of the validator that restarts. former_ledgers: what was in the place of the ledger, losses: what that may
    have cost. disk_full_since, locked_since, wal_deleted_at: when the disk was last full, the ledger last locked and
    its -wal last deleted. end: when everything is to be as it was. decks: what `deal` has left.
    """

    folder: Path
    setting: Setting
    validators: dict[str, SoakValidator]
    hostile: HostileValidator
    monitor_port: int
    workers: int
    log: list[tuple[float, str]] = field(default_factory=list)
    clock_steps: list[float] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)
    saved: dict[str, MinerState] = field(default_factory=dict)
    former_ledgers: list[Path] = field(default_factory=list)
    losses: list[LedgerLoss] = field(default_factory=list)
    disk_full_since: float = -math.inf
    locked_since: float = -math.inf
    wal_deleted_at: float = -math.inf
    end: float = math.inf
    decks: dict[str, list[Any]] = field(default_factory=dict)
    miner: SoakMiner | None = None

    @staticmethod
    def make(folder: Path, seed: int, workers: int = 1) -> "Scene":
        """Write wallets, chain file, settings and phases; `workers` is the number of the miner's."""
        wallet = make_wallet(folder, "miner")
        hotkey = wallet.hotkey.ss58_address
        axon_port, monitor_port, hostile_port, *ports = free_ports(3 + len(HABITS))
        neuron = Neuron(uid=len(HABITS) + 1, hotkey=hotkey, coldkey=hotkey, ip=LOOPBACK, port=axon_port)
        setting = Setting(Book(SUBMIT_TIMEOUT), Prompts.make(), neuron)
        validators = {
            name: SoakValidator(name, make_wallet(folder, name), port, habits, setting, f"{seed} {name}")
            for port, (name, habits) in zip(ports, HABITS.items(), strict=True)
        }
        hostile_wallet = make_wallet(folder, HOSTILE)
        hostile = HostileValidator(hostile_wallet, hostile_port, hotkey, setting.prompts, f"{seed} {HOSTILE}")
        (folder / "miner.yaml").write_text(SETTINGS)
        (folder / "phases").mkdir()
        # The same networks in another place are other models to the miner.
        other = folder / "checkpoint"
        copytree(locate("embedded", "pipeline.json"), other)
        phases = PHASES | {OTHER: f"extends: {PHASE}\nimage: {{checkpoint: {other}}}\n"}
        for name, content in phases.items():
            (folder / "phases" / f"{name}.yaml").write_text(content)
        scene = Scene(folder, setting, validators, hostile, monitor_port, workers)
        scene.blacklist.write_text("allow: []\n")
        scene.write_chain()
        return scene

    @property
    def book(self) -> Book:
        """What the validators wrote down."""
        return self.setting.book

    @property
    def everyone(self) -> Sequence[SoakValidator | HostileValidator]:
        """All validators, in the order of their uids."""
        return [*self.validators.values(), self.hostile]

    @property
    def ledger(self) -> Path:
        """The miner's ledger."""
        return self.folder / "ledger.sqlite"

    @property
    def chain(self) -> Path:
        """The file that stands for the chain."""
        return self.folder / "chain.json"

    @property
    def blacklist(self) -> Path:
        """The file of the validator policy."""
        return self.folder / "blacklist.yaml"

    def write_chain(self) -> None:
        """Write the chain file, without the ports of validators that are absent."""
        names = [*self.validators, HOSTILE]
        neurons = [
            Neuron(
                uid=uid, hotkey=each.hotkey, coldkey=each.hotkey, stake=5000.0 - uid, validator_permit=True,
                ip=LOOPBACK, port=each.port,
            )
            for uid, (name, each) in enumerate(zip(names, self.everyone, strict=True))
            if name not in self.absent
        ]  # fmt: skip
        write_chain_file(self.chain, [*neurons, self.setting.miner], NETUID)

    async def start(self) -> None:
        """Start all validators and the miner, and wait until it is ready."""
        for validator in self.everyone:
            await validator.start()
        await self.launch()
        await self.until_ready()

    async def launch(self) -> None:
        """Start the miner's process."""
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-c",
                START.format(workers=self.workers),
                "--netuid",
                str(NETUID),
                "--config",
                str(self.folder / "miner.yaml"),
            ),
            *("--subtensor.network", f"file:{self.chain}", "--wallet.path", str(self.folder), "--wallet.name", "miner"),
            *("--monitor.port", str(self.monitor_port), "--axon.ip", LOOPBACK),
            *("--axon.port", str(self.setting.miner.port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self.miner = SoakMiner(process, self.log)

    async def until_ready(self) -> None:
        """Wait until the miner is ready. Raise RuntimeError if it does not become so."""
        if not await self.running.wait_for(self.running.ready, READY_TIMEOUT):
            raise RuntimeError("the miner did not start")
        self.book.starts.append(time.monotonic())

    @property
    def running(self) -> SoakMiner:
        """The miner's process; there is one from `start` on."""
        assert self.miner is not None, "the scene has not started"
        return self.miner

    async def kill(self) -> None:
        """Kill the miner. Raise RuntimeError if it has ended by itself."""
        now = time.monotonic()
        self.book.kills.append(now)
        self.losses += losses_of_kill(now, self.locked_since, self.wal_deleted_at)
        if (code := self.running.exit_code) is not None:
            raise RuntimeError(f"the miner ended by itself with exit code {code}")
        await self.running.kill()

    async def stop(self) -> int:
        """Stop the miner, then the validators; return the miner's exit code."""
        code = await self.running.stop()
        for validator in self.everyone:
            await validator.stop()
        return code

    def set_clock(self, ahead: float) -> None:
        """Put the miner's wall clock ahead of the validators'."""
        self.clock_steps.append(time.monotonic())
        self.running.order("clock", ahead)

    async def restart_validator(self, memory: str, pause: float) -> None:
        """Restart the validator that does so, with all of its memory, an old one or none."""
        before = self.validators[RESTARTING]
        await before.stop()
        state = {"all": before.rules.save_state(), "old": self.saved, "none": {}}[memory]
        held = next((miner.task.id for miner in state.values() if miner.task is not None), None)
        self.book.keep_only(before.hotkey, held)
        after = self.validators[RESTARTING] = before.successor(state)
        await asyncio.sleep(pause)
        await after.start()

    def deal(self, name: str, options: Sequence[Option], rng: random.Random) -> Option:
        """Return one of several options, each as often as the others and in another order each time."""
        deck = self.decks.setdefault(name, [])
        if not deck:
            deck.extend(rng.sample(list(options), len(options)))
        option: Option = deck.pop()
        return option

    def save_validator(self) -> None:
        """Keep the present state of the validator that restarts, for a restart with an old memory."""
        self.saved = self.validators[RESTARTING].rules.save_state()

    def rows(self) -> Rows:
        """Return the rows of the ledger and of those that were in its place before."""
        return read_rows([*self.former_ledgers, self.ledger])

    def accounts(self) -> Accounts:
        """Compare what the validators know with the ledger."""
        return take_accounts(self.book, self.rows(), self.losses)

    async def sn17_miner(self, *arguments: str) -> tuple[int, str]:
        """Run a command of the program on the miner's files; return its exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "miner", *arguments, "--config", str(self.folder / "miner.yaml")),
            *("--state", str(self.folder)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace").strip()
