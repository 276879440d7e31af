"""Faults of what the miner reads and writes: the ledger, the chain, phases, the policy; and of validators."""

import asyncio
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing

from miner.phases import PhaseState, StateFile
from pipeline import Splats
from scripts.validation.soak.accounts import CHECKPOINT_SECONDS, LedgerLoss
from scripts.validation.soak.scene import OTHER, PHASE, VANISHING, WIDE, Scene

# What is recorded within this time of the ledger's replacement may go to either file.
EITHER_SECONDS = 10.0
# A miner whose disk was full tries again to write within this time.
FULL_SECONDS = 30.0
COPYING_KINDS = ("replaced by its copy", "overwritten with its copy")
LEDGER_KINDS = ("deleted", "moved away", *COPYING_KINDS)
CHAIN_KINDS = ("missing", "cut off", "of another subnet")
MEMORIES = ("all", "old", "none")
BROKEN_PHASES = ("extends: nothing\n", "\x00\x01", "steps: [", "no_such_key: 1\n", "")
BROKEN_POLICIES = ("deny_hotkeys: 5\n", "allow: [", "nothing: at all\n")
# The longest side of results of the phase that an experiment is to find better; others stay within the unit cube.
WIDE_EXTENT = 1.2
# How long an experiment may take to be decided in a long soak.
MAX_SPLIT = 420.0


async def lock_ledger(scene: Scene, rng: random.Random) -> str:
    """Hold the ledger's lock for longer than the miner waits for it."""
    seconds = rng.uniform(2, 8)
    with closing(sqlite3.connect(scene.ledger, timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        scene.locked_since = time.monotonic()
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
    now = time.monotonic()
    scene.losses.append(LedgerLoss(now - EITHER_SECONDS, now + EITHER_SECONDS, "the ledger was replaced meanwhile"))
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
    now = time.monotonic()
    if now - scene.disk_full_since < FULL_SECONDS:
        # The miner has no file open then, and can save nothing.
        begin = scene.disk_full_since - CHECKPOINT_SECONDS
        scene.losses.append(LedgerLoss(begin, now, "the -wal was deleted while the disk was full"))
    if scene.book.was_down(now):
        begin = scene.book.kills[-1] - CHECKPOINT_SECONDS
        scene.losses.append(LedgerLoss(begin, now, "the -wal was deleted while the miner was down"))
    scene.wal_deleted_at = now
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


async def restart_validator(scene: Scene, rng: random.Random) -> str:
    """Restart a validator with all of its memory, an old one or none."""
    memory, pause = scene.deal("restarting", MEMORIES, rng), rng.uniform(0.5, 8)
    await scene.restart_validator(memory, pause)
    return f"a validator restarts with {memory} of its memory"
