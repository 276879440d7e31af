"""A hostile network against a running miner: python scripts/proofs/adversary.py [--connections 500] [--megabytes 50]

Starts the miner with the demo phase on this machine, attacks its axon from all sides at once while an honest validator
pushes tasks, and prints what each attack got, what the honest validator got, and the miner's memory. Exit 0 only if
every honest task was answered with a valid result, every attack got what it should, and memory stayed within bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

from miner.localnet.validator import LOOPBACK, free_port, make_wallet, write_chain_file
from miner.subnet.metagraph import Neuron
from scripts.demo import TOYS, MinerProcess, toy
from scripts.validation.attacks import HONEST_TIMEOUT, MEGABYTE, Cast, Outcomes, Target, attacks, push, run_attacks

# Between two rounds of attacks, so that a hostile validator stays below its rate.
PAUSE = 5.0
# What the attacks may add to the miner's memory: the connections' buffers and one body in hand, not 500 bodies.
MEMORY_BOUND = 300 * MEGABYTE


def is_crowd(times: int) -> bool:
    """Whether an attack is one of numbers."""
    return times >= 20


def attack_in_crowds(target: Target, seed: str, connections: int, megabytes: int) -> Outcomes:
    """The attacks of numbers; to be run in a process of its own, which they keep busy."""
    chosen = attacks(target, Cast.of(seed), connections, megabytes)
    return asyncio.run(run_attacks({name: attack for name, attack in chosen.items() if is_crowd(attack[2])}))


async def attack_from_all_sides(target: Target, seed: str, connections: int, megabytes: int) -> Outcomes:
    """The attacks of numbers from another process, and all others again and again meanwhile."""
    outcomes: Outcomes = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        begin = asyncio.get_running_loop().run_in_executor
        crowds = begin(pool, attack_in_crowds, target, seed, connections, megabytes)
        while not crowds.done():
            chosen = attacks(target, Cast.of(seed), connections, megabytes)
            single = {name: attack for name, attack in chosen.items() if not is_crowd(attack[2])}
            for name, (outcome, right) in (await run_attacks(single)).items():
                before, was_right = outcomes.get(name, (Counter(), True))
                outcomes[name] = (before + outcome, was_right and right)
            await asyncio.wait([crowds], timeout=PAUSE)
        return outcomes | await crowds


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, now and at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024


async def prove(folder: Path, connections: int, megabytes: int) -> bool:
    """Start the miner, attack it, print the table; whether all is as it should be."""
    started = time.monotonic()
    seed = uuid.uuid4().hex
    cast = Cast.of(seed)
    target = Target(free_port(), make_wallet(folder, "miner").hotkey.ss58_address)
    stakes = {cast.honest: 5000.0, cast.hostile: 4000.0, cast.sluggish: 3000.0}
    neurons = [
        Neuron(uid=uid, hotkey=keypair.ss58_address, coldkey="c", stake=stake, validator_permit=True)
        for uid, (keypair, stake) in enumerate(stakes.items())
    ]
    neurons.append(Neuron(uid=len(neurons), hotkey=target.hotkey, coldkey="c"))
    write_chain_file(folder / "chain.json", neurons)
    arguments = ["--phase", "demo", "--subtensor.network", f"file:{folder / 'chain.json'}", "--monitor.port", "0"]
    arguments += ["--wallet.path", str(folder), "--wallet.name", "miner"]
    miner = await MinerProcess.start([*arguments, "--axon.ip", LOOPBACK, "--axon.port", str(target.port)], started)
    prompt = toy("honest", TOYS[0]).text
    try:
        async with asyncio.timeout(HONEST_TIMEOUT):
            await miner.ready.wait()
        quiet, over = asyncio.Event(), asyncio.Event()
        quiet.set()
        before = await push(target, cast.honest, prompt, quiet)
        _, peak_before = memory(miner.pid)
        honest = asyncio.create_task(push(target, cast.honest, prompt, over))
        outcomes = await attack_from_all_sides(target, seed, connections, megabytes)
        over.set()
        served = await honest
        after, peak = memory(miner.pid)
    finally:
        code = await miner.stop()
    for name, (outcome, right) in outcomes.items():
        answers = ", ".join(f"{status} x {count}" for status, count in outcome.most_common())
        print(f"{name:<32} {answers:<40} {'ok' if right else 'WRONG'}")
    verdicts = Counter(verdict for verdict, _ in served)
    growth = peak - peak_before
    summary = {
        "honest": dict(verdicts),
        "honest_seconds_before": round(before[0][1], 2),
        "honest_seconds_longest": round(max(seconds for _, seconds in served), 2),
        "memory_before_mb": peak_before // MEGABYTE,
        "memory_peak_mb": peak // MEGABYTE,
        "memory_after_mb": after // MEGABYTE,
        "seconds": round(time.monotonic() - started, 1),
        "exit_code": code,
    }
    print(json.dumps(summary))
    return all(right for _, right in outcomes.values()) and set(verdicts) == {"valid"} and growth < MEMORY_BOUND


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--megabytes", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(prove(Path(folder), options.connections, options.megabytes)) else 1


if __name__ == "__main__":
    sys.exit(main())
