"""The course of a soak: the load, the faults of the schedule, the kills, and what is measured meanwhile."""

import asyncio
import math
import random
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from miner.localnet import LOOPBACK
from scripts.validation.soak.accounts import check_integrity
from scripts.validation.soak.faults import FAULTS
from scripts.validation.soak.log_check import FaultRecord
from scripts.validation.soak.processes import Sample, take_sample
from scripts.validation.soak.scene import Scene
from scripts.validation.soak.schedule import Appointment

SAMPLE_INTERVAL, SAVE_INTERVAL, HEALTH_INTERVAL = 1.0, 20.0, 5.0
# Tasks that are open when no more are given have so long to end: a cooldown, a policy that is asked again, a time-out.
DRAIN_SECONDS = 120.0
# So long may it take until the ledger says what the validators say.
SETTLING_SECONDS = 60.0
# Kills come at any moment of the start, or at any moment within this of the miner being ready.
START_SECONDS, WORK_SECONDS, SHARE_AT_START = 6.0, 15.0, 0.2


@dataclass
class Course:
    """What was seen while a soak ran.

    faults: those that happened. samples: of the miner's process, every second. health: the answers of /health by
    status. kills_checked: the kills after which the ledger was found whole. problems: what should not have happened.
    """

    faults: list[FaultRecord] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    health: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    kills_checked: int = 0
    restarts: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    last_health: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass(frozen=True)
class Part:
    """A part of a course: its faults, and how it ends, after so many seconds or when the miner was killed so often."""

    schedule: Sequence[Appointment]
    seconds: float = math.inf
    kills: int = 0


async def run_course(scene: Scene, parts: Sequence[Part], rng: random.Random) -> Course:
    """Run the parts of a soak one after another, and stop everything."""
    course = Course()
    await scene.start()
    stopping = asyncio.Event()
    pushing = [asyncio.create_task(validator.push_tasks(stopping)) for validator in scene.validators.values()]
    watching = [asyncio.create_task(watch(scene, course)) for watch in (_take_samples, _save_states, _ask_health)]
    for part in parts:
        await _run_part(scene, part, course, rng)
    scene.setting.gives_tasks = False
    stopping.set()
    await asyncio.gather(*pushing)
    deadline = time.monotonic() + DRAIN_SECONDS
    while scene.book.open_tasks() and time.monotonic() < deadline:  # noqa: ASYNC110 - other threads end them
        await asyncio.sleep(0.2)
    # The miner learns of some ends only with the next pull.
    deadline = time.monotonic() + SETTLING_SECONDS
    while time.monotonic() < deadline and (await asyncio.to_thread(scene.accounts)).lost:  # noqa: ASYNC110
        await asyncio.sleep(2.0)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    course.exit_code = await scene.stop()
    if course.exit_code != 0:
        course.problems.append(f"the miner stopped with exit code {course.exit_code}")
    return course


async def _run_part(scene: Scene, part: Part, course: Course, rng: random.Random) -> None:
    """Let the faults happen until the part ends, and wait until all of them are undone."""
    scene.end = time.monotonic() + part.seconds
    faults = asyncio.create_task(_play(scene, part.schedule, course, rng))
    ending = asyncio.create_task(
        _kill_again_and_again(scene, course, part.kills, rng) if part.kills else asyncio.sleep(part.seconds)
    )
    while not ending.done():
        await asyncio.wait({ending}, timeout=SAMPLE_INTERVAL)
        if not part.kills and scene.running.exit_code is not None:
            course.problems.append(f"the miner ended by itself with exit code {scene.running.exit_code}")
            await scene.launch()
            await scene.until_ready()
    await ending
    # A schedule is longer than the kills may take.
    scene.end = time.monotonic()
    await faults


async def _play(scene: Scene, schedule: Sequence[Appointment], course: Course, rng: random.Random) -> None:
    """Let the faults happen as scheduled; those of one group wait for each other."""
    began, groups = time.monotonic(), defaultdict[str, asyncio.Lock](asyncio.Lock)
    running = []
    for appointment in schedule:
        # In pieces, since kills may end it sooner.
        while time.monotonic() < min(began + appointment.at, scene.end):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        if time.monotonic() >= scene.end:
            break
        group = groups[FAULTS[appointment.fault].group]
        own = random.Random(rng.random())  # noqa: S311
        running.append(asyncio.create_task(_play_one(scene, appointment.fault, group, course, own)))
    await asyncio.gather(*running)


async def _play_one(scene: Scene, name: str, group: asyncio.Lock, course: Course, rng: random.Random) -> None:
    fault = FAULTS[name]
    async with group:
        if time.monotonic() >= scene.end:
            return
        began = time.monotonic()
        try:
            words = await fault.play(scene, rng)
        except (OSError, aiohttp.ClientError, TimeoutError, RuntimeError) as error:
            words = f"{name}: {type(error).__name__}: {error}"
            if not scene.book.was_down(began) and not any(began <= kill for kill in scene.book.kills):
                course.problems.append(f"the fault {words}")
        course.faults.append(FaultRecord(name, began, time.monotonic(), words, fault.explains, fault.aftermath))
        print(f"[{time.monotonic() - scene.book.starts[0]:7.1f} s] {words.splitlines()[0]}", flush=True)


async def _kill_again_and_again(scene: Scene, course: Course, kills: int, rng: random.Random) -> None:
    """Kill the miner at random moments, and start it again; after each kill look at a copy of the ledger."""
    for _ in range(kills):
        if rng.random() < SHARE_AT_START and scene.book.kills:
            await asyncio.sleep(rng.uniform(0.0, START_SECONDS))
        else:
            await _wait_until_ready(scene, course)
            await asyncio.sleep(rng.uniform(0.0, WORK_SECONDS))
        try:
            await scene.kill()
        except RuntimeError as error:
            course.problems.append(f"before kill {len(scene.book.kills)}: {error}")
        await asyncio.to_thread(_check_copy, scene, course)
        await scene.launch()
    await _wait_until_ready(scene, course)


async def _wait_until_ready(scene: Scene, course: Course) -> None:
    began = time.monotonic()
    try:
        await scene.until_ready()
    except RuntimeError as error:
        course.problems.append(f"after {len(scene.book.kills)} kills: {error}, exit code {scene.running.exit_code}")
        await scene.launch()
    course.restarts.append(time.monotonic() - began)


def _check_copy(scene: Scene, course: Course) -> None:
    """Check a copy of the ledger, since opening it would change what the next miner finds."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            file = scene.ledger.with_name(f"{scene.ledger.name}{suffix}")
            if file.exists():
                shutil.copy(file, folder)
        copy = Path(folder) / scene.ledger.name
        found = check_integrity(copy) if copy.exists() else "ok"
    if found == "ok":
        course.kills_checked += 1
    else:
        course.problems.append(f"after {len(scene.book.kills)} kills, the ledger's check says {found}")


async def _take_samples(scene: Scene, course: Course) -> None:
    while True:
        if (sample := take_sample(scene.running.pid)) is not None:
            course.samples.append(sample)
        await asyncio.sleep(SAMPLE_INTERVAL)


async def _save_states(scene: Scene, _course: Course) -> None:
    while True:
        scene.save_validator()
        await asyncio.sleep(SAVE_INTERVAL)


async def _ask_health(scene: Scene, course: Course) -> None:
    url = f"http://{LOOPBACK}:{scene.monitor_port}/health"
    while True:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
                session.get(url) as reply,
            ):
                course.last_health = await reply.json()
                course.health[str(reply.status)] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            course.health[type(error).__name__] += 1
        await asyncio.sleep(HEALTH_INTERVAL)
