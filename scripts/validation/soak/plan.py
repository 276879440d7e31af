"""The plan of a soak, and what carries it out."""

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from scripts.validation.soak.faults import FAULTS
from scripts.validation.soak.run import Course, Part, run_course
from scripts.validation.soak.scene import Scene
from scripts.validation.soak.schedule import draw_schedule
from scripts.validation.soak.verdict import Verdict, judge

# Between two faults, in a soak of the usual length.
SPACING = 15.0
# With kills: what takes a miner that runs for minutes, a disk on which neither cooldowns nor tasks in hand can be kept
# for the next start, and files that are broken when the next start reads them, which it refuses with exit code 2.
LEFT_OUT_WITH_KILLS = ("split", "disk", "phase-files", "blacklist", "chain")
# Longer than any number of kills takes.
DAY = 86_400.0


@dataclass(frozen=True)
class Plan:
    """What is to be run: until the miner was killed `kills` times, and then so many minutes.

    spacing: the seconds between two faults. faults: the names of those that may happen, all by default; until the last
    kill without LEFT_OUT_WITH_KILLS. workers: see the command line.
    """

    minutes: float
    seed: int
    kills: int = 0
    spacing: float = SPACING
    faults: tuple[str, ...] = tuple(FAULTS)
    workers: int = 1


def soak(folder: Path, plan: Plan) -> tuple[Scene, Course, Verdict]:
    """Run a soak in a folder of its own and judge it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(plan.seed)  # noqa: S311
    parts = []
    if plan.kills:
        names = [name for name in plan.faults if name not in LEFT_OUT_WITH_KILLS]
        parts.append(Part(draw_schedule(names, DAY, plan.spacing, rng), kills=plan.kills))
    if plan.minutes:
        seconds = plan.minutes * 60
        parts.append(Part(draw_schedule(plan.faults, seconds, plan.spacing, rng), seconds))
    scene = Scene.make(folder, plan.seed, plan.workers)
    course = asyncio.run(run_course(scene, parts, rng))
    return scene, course, judge(scene, course)
