"""Faults of the miner's process and of its machine: memory, networks, other processes, the disk, the clock, signals."""

import asyncio
import random
import resource
import signal
import time
from contextlib import suppress

import aiohttp

from miner.localnet import LOOPBACK
from scripts.validation.attacks import page_attack
from scripts.validation.soak.faulty_miner import NAN_STAGES, SCORER, STAGES
from scripts.validation.soak.processes import children
from scripts.validation.soak.scene import Scene

DAY = 86_400.0
CLOCK_STEPS = (-DAY, -3600.0, -40.0, -5.0, 5.0, 40.0, 3600.0, 800 * DAY)
HANGUPS = 200
IDLE_CONNECTIONS, REQUESTS = 150, 60
PAGES = (
    *("/", "/health", "/metrics", "/status.json", "/figures.json", "/experiments.json", "/results.json"),
    *("/tasks.json?last=20", "/viewer", "/nothing-here"),
)


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


async def kill_child(scene: Scene, rng: random.Random) -> str:
    """Kill the process that draws pictures, or one that is a worker where there are several."""
    name, word = rng.choice((("worker", "spawn_main"), ("drawer", "thumbnail_worker")))
    processes = children(scene.running.pid, word)
    if processes:
        rng.choice(processes).kill()
    return f"{name} killed" if processes else f"no {name} to kill"


async def fill_disk(scene: Scene, rng: random.Random) -> str:
    """Let no file of the miner be written any more, as on a full disk, and make space after some seconds."""
    seconds = rng.uniform(3, 10)
    pid = scene.running.pid
    scene.disk_full_since = time.monotonic()
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    await asyncio.sleep(seconds)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    return f"disk full for {seconds:.0f} s"


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
