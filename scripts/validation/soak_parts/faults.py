"""The faults of a soak: what is done to the miner, from outside or by its own process, and the errors it explains."""

import asyncio
import random
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass

import aiohttp

from miner.localnet import LOOPBACK
from miner.phases import PhaseState, StateFile
from pipeline import Splats
from scripts.validation.attacks import page_attack
from scripts.validation.soak_parts.faulty_miner import NAN_STAGES, SCORER, STAGES
from scripts.validation.soak_parts.processes import children
from scripts.validation.soak_parts.scene import OTHER, PHASE, VANISHING, WIDE, Scene

DAY = 86_400.0
CLOCK_STEPS = (-DAY, -3600.0, -40.0, -5.0, 5.0, 40.0, 3600.0, 800 * DAY)
COPYING_KINDS = ("replaced by its copy", "overwritten with its copy")
LEDGER_KINDS = ("deleted", "moved away", *COPYING_KINDS)
CHAIN_KINDS = ("missing", "cut off", "of another subnet")
MEMORIES = ("all", "old", "none")
BROKEN_PHASES = ("extends: nothing\n", "\x00\x01", "steps: [", "no_such_key: 1\n", "")
BROKEN_POLICIES = ("deny_hotkeys: 5\n", "allow: [", "nothing: at all\n")
HANGUPS = 200
IDLE_CONNECTIONS, REQUESTS = 150, 60
PAGES = ("/", "/health", "/metrics", "/tasks.json?last=20", "/report.json", "/nothing-here")
# The longest side of results of the phase that an experiment is to find better; others stay within the unit cube.
WIDE_EXTENT = 1.2
# How long an experiment may take to be decided in a long soak.
MAX_SPLIT = 420.0
# A phase is taken over within this.
APPLY_TIMEOUT = 120.0

LEDGER_FAILS = r"The ledger \S+ cannot be written; retrying"
LEDGER_LACKS = r"The ledger lacks what \w+ is about"

Play = Callable[[Scene, random.Random], Awaitable[str]]


@dataclass(frozen=True)
class Fault:
    """What happens, and which errors in the log are right while it does.

    `play` makes it happen, undoes it, and returns what was done in words. Faults of one `group` do not overlap.
    """

    play: Play
    group: str
    explains: tuple[str, ...] = ()


async def run_out_of_memory(scene: Scene, rng: random.Random) -> str:
    """Let memory run out in a stage, once or several times in a row."""
    stage, count = scene.deal("memory", [*STAGES, SCORER], rng), rng.choice((1, 2, 4))
    scene.running.order(f"memory:{stage}", count)
    return f"memory runs out in {stage}, {count} x"


async def make_nan(scene: Scene, rng: random.Random) -> str:
    """Let a network return NaN, once or often enough that no seed helps."""
    stage, count = scene.deal("nan", [(stage, count) for stage in NAN_STAGES for count in (1, 3, 12)], rng)
    scene.running.order(f"nan:{stage}", count)
    return f"NaN in {stage}, {count} x"


async def fail_scorer(scene: Scene, rng: random.Random) -> str:
    """Let the scorer fail some times."""
    count = rng.randint(1, 4)
    scene.running.order(SCORER, count)
    return f"the scorer fails, {count} x"


async def kill_decoders(scene: Scene, rng: random.Random) -> str:
    """Kill the processes that decode pictures, whenever there are any, for some seconds."""
    killed = 0
    for _ in range(100):
        for child in children(scene.running.pid, "decoder_worker"):
            if rng.random() < 0.3:
                child.kill()
                killed += 1
        await asyncio.sleep(0.05)
    return f"{killed} decoders killed"


async def fill_disk(scene: Scene, rng: random.Random) -> str:
    """Let no file of the miner be written any more, as on a full disk, and make space after some seconds."""
    seconds = rng.uniform(3, 10)
    pid = scene.running.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    await asyncio.sleep(seconds)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    return f"disk full for {seconds:.0f} s"


async def lock_ledger(scene: Scene, rng: random.Random) -> str:
    """Hold the ledger's lock for longer than the miner waits for it."""
    seconds = rng.uniform(2, 8)
    with closing(sqlite3.connect(scene.ledger, timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(seconds)
        database.execute("ROLLBACK")
    return f"ledger locked for {seconds:.0f} s"


async def replace_ledger(scene: Scene, rng: random.Random) -> str:
    """Delete the ledger, move it away, or put a copy in its place; what it held is kept for the accounts."""
    # An experiment's evidence is in the ledger.
    is_split = scene.setting.favours is not None
    kind = rng.choice(COPYING_KINDS) if is_split else scene.deal("ledger", LEDGER_KINDS, rng)
    copy = scene.folder / f"ledger-{len(scene.former_ledgers)}.copy"
    with closing(sqlite3.connect(scene.ledger)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    scene.former_ledgers.append(copy)
    scene.replacements.append(time.monotonic())
    if kind == "deleted":
        scene.ledger.unlink()
    elif kind == "moved away":
        scene.ledger.rename(copy.with_suffix(".moved"))
        scene.former_ledgers.append(copy.with_suffix(".moved"))
    elif kind == "replaced by its copy":
        shutil.copy(copy, copy.with_suffix(".new"))
        copy.with_suffix(".new").replace(scene.ledger)
    else:
        shutil.copyfile(copy, scene.ledger)
    # Until the miner has noticed.
    await asyncio.sleep(8)
    return f"ledger {kind}"


async def remove_wal(scene: Scene, rng: random.Random) -> str:
    """Delete the ledger's -wal."""
    scene.ledger.with_name(f"{scene.ledger.name}-wal").unlink(missing_ok=True)
    await asyncio.sleep(rng.uniform(6, 8))
    return "the ledger's -wal deleted"


async def cut_chain(scene: Scene, rng: random.Random) -> str:
    """Make the chain unreadable for some seconds."""
    kind, seconds = scene.deal("chain", CHAIN_KINDS, rng), rng.uniform(4, 12)
    content = scene.chain.read_text()
    if kind == "missing":
        scene.chain.unlink()
    elif kind == "cut off":
        scene.chain.write_text(content[: len(content) // 2])
    else:
        scene.chain.write_text(content.replace('"netuid": 17', '"netuid": 18').replace('"netuid":17', '"netuid":18'))
    await asyncio.sleep(seconds)
    scene.write_chain()
    return f"chain {kind} for {seconds:.0f} s"


async def hide_validator(scene: Scene, rng: random.Random) -> str:
    """Let a validator vanish from the chain, and come back."""
    seconds = rng.uniform(4, 15)
    scene.absent.add(VANISHING)
    scene.write_chain()
    await asyncio.sleep(seconds)
    scene.absent.remove(VANISHING)
    scene.write_chain()
    return f"a validator is not on the chain for {seconds:.0f} s"


async def step_clock(scene: Scene, rng: random.Random) -> str:
    """Step the miner's clock, and put it right."""
    step, seconds = scene.deal("clock", CLOCK_STEPS, rng), rng.uniform(4, 12)
    scene.set_clock(step)
    await asyncio.sleep(seconds)
    scene.set_clock(0.0)
    # Until requests in either time have ended.
    await asyncio.sleep(2)
    return f"clock {step:+.0f} s for {seconds:.0f} s"


async def hang_up(scene: Scene, _rng: random.Random) -> str:
    """Send SIGHUP again and again."""
    for _ in range(HANGUPS):
        scene.running.signal(signal.SIGHUP)
        await asyncio.sleep(0.01)
    return f"{HANGUPS} x SIGHUP"


async def break_phase(scene: Scene, rng: random.Random) -> str:
    """Break the file of the phase that runs, or delete the state file, and mend it."""
    if rng.random() < 0.3:
        (scene.folder / "phase.yaml").unlink(missing_ok=True)
        await asyncio.sleep(3)
        return "phase.yaml deleted"
    file = scene.folder / "phases" / f"{PHASE}.yaml"
    content = file.read_text()
    broken = scene.deal("phase-files", BROKEN_PHASES, rng)
    file.write_text(f"{content}{broken}" if broken.startswith("no_such_key") else broken)
    if rng.random() < 0.5:
        scene.running.signal(signal.SIGHUP)
    await asyncio.sleep(rng.uniform(2, 5))
    file.write_text(content)
    await asyncio.sleep(2)
    return f"phase file broken: {broken[:16]!r}"


async def split(scene: Scene, rng: random.Random) -> str:
    """Compare two phases of which validators accept one, until that is promoted or a while has passed."""
    code, output = await scene.sn17_miner("phase", "split", f"{PHASE}=50", f"{WIDE}=50", "--promote")
    if code:
        return f"split: {output}"
    scene.setting.favours = lambda splats: longest_side(splats) > WIDE_EXTENT
    state: PhaseState | None = None
    end = min(scene.end, time.monotonic() + rng.uniform(0.5, 1.0) * MAX_SPLIT)
    while time.monotonic() < end:
        await asyncio.sleep(1)
        state = StateFile(scene.folder).read()
        if state is not None and state.action == "automatic":
            break
    scene.setting.favours = None
    result = "promoted" if state is not None and state.action == "automatic" else "not decided"
    _, output = await scene.sn17_miner("phase", "apply", PHASE)
    return f"split: {result}; {output}"


def longest_side(splats: Splats) -> float:
    """Return the length of an object's longest side."""
    return float((splats.means.amax(dim=0) - splats.means.amin(dim=0)).max())


async def swap_checkpoints(scene: Scene, rng: random.Random) -> str:
    """Apply a phase with another checkpoint, and go back."""
    first = await scene.sn17_miner("phase", "apply", OTHER)
    await asyncio.sleep(rng.uniform(2, 8))
    second = await scene.sn17_miner("phase", *rng.choice((("apply", PHASE), ("rollback",))))
    if second[0]:
        await scene.sn17_miner("phase", "apply", PHASE)
    return f"swap: {first[1]}; back: {second[1]}"


async def edit_blacklist(scene: Scene, rng: random.Random) -> str:
    """Deny a validator and allow it again, with a broken file in between."""
    victim = rng.choice(list(scene.validators.values()))
    await scene.sn17_miner("blacklist", "add", victim.hotkey, "--reason", "soak")
    await asyncio.sleep(rng.uniform(2, 8))
    good = scene.blacklist.read_text()
    scene.blacklist.write_text(scene.deal("blacklist", BROKEN_POLICIES, rng))
    await asyncio.sleep(5)
    scene.blacklist.write_text(good)
    await scene.sn17_miner("blacklist", "remove", victim.hotkey)
    return f"validator {victim.name} denied"


async def flood_monitor(scene: Scene, rng: random.Random) -> str:
    """Open connections to the page on which nothing is sent, and ask for all kinds of pages at once."""
    attack = page_attack(scene.monitor_port, 1)

    async def look(session: aiohttp.ClientSession) -> str:
        try:
            url = f"http://{LOOPBACK}:{scene.monitor_port}{rng.choice(PAGES)}"
            async with session.get(url) as reply:
                await reply.read()
                return str(reply.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        idle = [attack.send() for _ in range(IDLE_CONNECTIONS)]
        answers = await asyncio.gather(*idle, *(look(session) for _ in range(REQUESTS)))
    counts = {answer: answers.count(answer) for answer in sorted(set(answers))}
    return f"monitor: {counts}"


async def restart_validator(scene: Scene, rng: random.Random) -> str:
    """Restart a validator with all of its memory, an old one or none."""
    memory, pause = scene.deal("restarting", MEMORIES, rng), rng.uniform(0.5, 8)
    await scene.restart_validator(memory, pause)
    return f"a validator restarts with {memory} of its memory"


async def kill_child(scene: Scene, rng: random.Random) -> str:
    """Kill a process of the miner's own: one that drives a GPU, where there are several, or that draws pictures."""
    processes = children(scene.running.pid, "spawn_main")
    if not processes:
        return "no processes of the miner's own"
    rng.choice(processes).kill()
    return f"one of {len(processes)} processes killed"


BROKEN_PHASE = (r"; phase \S+ \(\w+\) goes on", r"phase.* cannot be loaded")
FAULTS: dict[str, Fault] = {
    "memory": Fault(run_out_of_memory, "device"),
    "nan": Fault(make_nan, "device"),
    "scorer": Fault(fail_scorer, "device"),
    "decoders": Fault(kill_decoders, "decoders"),
    "disk": Fault(fill_disk, "storage", (LEDGER_FAILS, r"miner\.log cannot be written")),
    "ledger-locked": Fault(lock_ledger, "storage", (LEDGER_FAILS,)),
    "ledger-replaced": Fault(replace_ledger, "storage", (LEDGER_FAILS, LEDGER_LACKS)),
    "ledger-wal": Fault(remove_wal, "storage", (LEDGER_FAILS,)),
    "chain": Fault(cut_chain, "chain"),
    "vanishing": Fault(hide_validator, "chain"),
    "clock": Fault(step_clock, "clock"),
    "hangups": Fault(hang_up, "hangups"),
    "phase-files": Fault(break_phase, "phases", BROKEN_PHASE),
    "split": Fault(split, "phases", BROKEN_PHASE),
    "swap": Fault(swap_checkpoints, "phases", BROKEN_PHASE),
    "blacklist": Fault(edit_blacklist, "policy", (r"the previous rules stay in force",)),
    "monitor": Fault(flood_monitor, "monitor"),
    "restarting": Fault(restart_validator, "restarting"),
    "children": Fault(kill_child, "children"),
}
