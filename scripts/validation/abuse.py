"""Attack a running miner from all sides while an honest validator pushes tasks.

    python -m scripts.validation.abuse [--connections 500] [--megabytes 50]

Starts the miner with the demo phase on this machine and prints the answers to each attack, the honest validator's
results, and the miner's memory. Exits with 0 only if every honest task was answered with a valid result, every attack
got an expected answer, and memory stayed within bounds. Recorded results: abuse.md beside this file.
"""

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
from typing import Any

import aiohttp

from miner.localnet import LOOPBACK, free_port, make_wallet, write_chain_file
from miner.localnet.raw_client import AxonAddress, send, signed_request
from miner.subnet.metagraph import Neuron
from scripts.demo import HELD_OUT_OBJECTS, MinerProcess, object_task
from scripts.validation import attacks
from scripts.validation.attacks import MEGABYTE, AttackOutcome, Peers

# Between two rounds of attacks, so that a hostile validator stays below its rate limit.
PAUSE = 5.0
# What the attacks may add to the miner's memory: a few copies each of the bodies of 16 MB and of the answers of 20 MB
# that are in progress at once, a dozen, but not 500 bodies.
MAX_GROWTH = 1000 * MEGABYTE
# More than most systems let a process have files.
IDLE_CONNECTIONS = 1100
# Attacks that are sent at least this often at once are floods.
FLOOD_COUNT = 20


async def run_some(
    axon: AxonAddress, seed: str, connections: int, megabytes: int, page_port: int, *, floods: bool
) -> dict[str, AttackOutcome]:
    """Run the floods, which consist in the number of their requests, or all other attacks."""
    every = attacks.make_attacks(axon, Peers.from_seed(seed), connections, megabytes)
    every["idle connections to the page"] = attacks.page_attack(page_port, IDLE_CONNECTIONS)
    chosen = {name: attack for name, attack in every.items() if (attack.count >= FLOOD_COUNT) == floods}
    return await attacks.run_attacks(chosen)


def run_floods(axon: AxonAddress, *arguments: Any) -> dict[str, AttackOutcome]:
    """Run the floods, in a process of their own, which they keep busy."""
    return asyncio.run(run_some(axon, *arguments, floods=True))


async def run_all_attacks(axon: AxonAddress, *arguments: Any) -> dict[str, AttackOutcome]:
    """Run the floods in another process, and all other attacks again and again meanwhile."""
    outcomes: dict[str, AttackOutcome] = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        floods = loop.run_in_executor(pool, run_floods, axon, *arguments)
        while not floods.done():
            others = await run_some(axon, *arguments, floods=False)
            for name, outcome in others.items():
                outcomes[name] = outcomes[name] + outcome if name in outcomes else outcome
            await asyncio.wait([floods], timeout=PAUSE)
        return outcomes | await floods


async def watch_page(port: int, stopping: asyncio.Event) -> Counter[str]:
    """Ask for /health every second until `stopping` is set; return how often each answer came."""
    looks: Counter[str] = Counter()
    while not stopping.is_set():
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
                session.get(f"http://{LOOPBACK}:{port}/health") as reply,
            ):
                looks[str(reply.status)] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            looks[type(error).__name__] += 1
        await asyncio.sleep(1)
    return looks


def resident_memory(pid: int) -> tuple[int, int]:
    """Return the resident bytes of a process, now and at most."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024


async def run(folder: Path, connections: int, megabytes: int) -> bool:
    """Start the miner, attack it and print the table; return whether all results are as expected."""
    started = time.monotonic()
    seed = uuid.uuid4().hex
    peers = Peers.from_seed(seed)
    axon = AxonAddress(free_port(), make_wallet(folder, "miner").hotkey.ss58_address)
    stakes = {peers.honest: 5000.0, peers.hostile: 4000.0}
    stakes |= dict.fromkeys((peers.slow, peers.bomber, peers.deaf), 3000.0)
    neurons = [
        Neuron(uid=uid, hotkey=keypair.ss58_address, coldkey=keypair.ss58_address, stake=stake, validator_permit=True)
        for uid, (keypair, stake) in enumerate(stakes.items())
    ]
    neurons.append(Neuron(uid=len(neurons), hotkey=axon.hotkey, coldkey=axon.hotkey))
    write_chain_file(folder / "chain.json", neurons)
    page_port = free_port()
    miner = await MinerProcess.start(folder, axon.port, started, page_port)
    prompt = object_task("honest", HELD_OUT_OBJECTS[0]).prompt_text
    try:
        async with asyncio.timeout(attacks.HONEST_TIMEOUT):
            await miner.ready.wait()
        attacks_over = asyncio.Event()
        attacks_over.set()
        before = await attacks.push_tasks(axon, peers.honest, prompt, attacks_over)
        # So that what one such task takes, whoever asks for it, is not taken for what attacks add.
        await send(axon, signed_request(peers.honest, attacks.large_task()))
        _, peak_before = resident_memory(miner.pid)
        attacks_over.clear()
        honest = asyncio.create_task(attacks.push_tasks(axon, peers.honest, prompt, attacks_over))
        page = asyncio.create_task(watch_page(page_port, attacks_over))
        outcomes = await run_all_attacks(axon, seed, connections, megabytes, page_port)
        attacks_over.set()
        during, looks = await honest, await page
        after, peak = resident_memory(miner.pid)
    finally:
        exit_code = await miner.stop()
    for name, outcome in outcomes.items():
        answers = ", ".join(f"{answer} x {count}" for answer, count in outcome.answers.most_common())
        print(f"{name:<32} {answers:<40} {'ok' if outcome.is_expected else 'WRONG'}")
    verdicts = Counter(verdict for verdict, _ in during)
    summary = {
        "honest": dict(verdicts),
        "honest_seconds_before": round(before[0][1], 2),
        "honest_seconds_longest": round(max(seconds for _, seconds in during), 2),
        "page": dict(looks), "memory_before_mb": peak_before // MEGABYTE, "memory_peak_mb": peak // MEGABYTE,
        "memory_after_mb": after // MEGABYTE, "seconds": round(time.monotonic() - started, 1), "exit_code": exit_code,
    }  # fmt: skip
    print(json.dumps(summary))
    is_expected = all(outcome.is_expected for outcome in outcomes.values())
    is_served = set(verdicts) == {"valid"} and set(looks) == {"200"}
    return is_expected and is_served and peak - peak_before < MAX_GROWTH


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--megabytes", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(run(Path(folder), options.connections, options.megabytes)) else 1


if __name__ == "__main__":
    sys.exit(main())
