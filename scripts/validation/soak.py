"""Let the miner run under load while everything goes wrong, and check that nothing is lost.

    python -m scripts.validation.soak [--minutes 30] [--seed 0] [--kills 0] [--workers 1]

The miner is a process of its own with the embedded checkpoints. Six local validators keep the subnet's rules at shorter
times: one is good, one picky, one slow, one restarts with and without its memory, one vanishes from the chain and comes
back, and one is hostile, whose answers come from a fuzzer; two of them push tasks, too. Faults are drawn from the seed;
`--kills` kills the miner at random moments instead of after so many minutes. Writes the table, what was done and a
picture into the output folder. Exits with 0 only if all requirements are met. Recorded results: soak.md beside this
file.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.validation.soak_parts.faults import FAULTS
from scripts.validation.soak_parts.picture import draw_picture
from scripts.validation.soak_parts.run import Course, run_course
from scripts.validation.soak_parts.scene import Scene
from scripts.validation.soak_parts.schedule import draw_schedule
from scripts.validation.soak_parts.verdict import Verdict, judge

# Between two faults, in a soak of the usual length.
SPACING = 15.0
# With kills: what takes a miner that runs for minutes, a disk on which neither cooldowns nor tasks in hand can be kept
# for the next start, and files that are broken when the next start reads them, which it refuses with exit code 2.
LEFT_OUT_WITH_KILLS = ("split", "disk", "phase-files", "blacklist", "chain")
# Longer than any number of kills takes.
DAY = 86_400.0


@dataclass(frozen=True)
class Plan:
    """What is to be run: so many minutes, or until the miner was killed `kills` times.

    spacing: the seconds between two faults. faults: the names of those that may happen; all by default. workers: see
    the command line.
    """

    minutes: float
    seed: int
    kills: int = 0
    spacing: float = SPACING
    faults: tuple[str, ...] = ()
    workers: int = 1


def soak(folder: Path, plan: Plan) -> tuple[Scene, Course, Verdict]:
    """Run a soak in a folder of its own and judge it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(plan.seed)  # noqa: S311
    seconds = DAY if plan.kills else plan.minutes * 60
    names = plan.faults or tuple(name for name in FAULTS if not plan.kills or name not in LEFT_OUT_WITH_KILLS)
    schedule = draw_schedule(names, seconds, plan.spacing, rng)
    scene = Scene.make(folder, plan.seed, plan.workers)
    course = asyncio.run(run_course(scene, schedule, seconds, plan.kills, rng))
    return scene, course, judge(scene, course)


def write_output(output: Path, scene: Scene, course: Course, verdict: Verdict) -> None:
    """Write the table, the faults, the miner's log and the picture."""
    output.mkdir(parents=True, exist_ok=True)
    began = scene.log[0][0]
    table = ["| | | |", "| --- | --- | --- |", *map(str, verdict.rows), "", *verdict.details]
    (output / "table.md").write_text("\n".join(table) + "\n")
    faults = [f"{f.began - began:7.1f} {f.ended - began:7.1f} {f.name:<16} {f.words}" for f in course.faults]
    (output / "faults.txt").write_text("\n".join(faults) + "\n")
    (output / "miner.log").write_text("".join(f"{at - began:7.1f} {line}\n" for at, line in scene.log))
    tasks = [f"{facts.assigned_at - began:7.1f} {facts}" for facts in scene.book.tasks.values()]
    violations = [f"{violation.at - began:7.1f} {violation}" for violation in scene.book.violations]
    (output / "tasks.txt").write_text("\n".join([*tasks, *violations]) + "\n")
    samples = [f"{s.at - began:.1f},{s.memory},{s.descriptors},{s.threads},{s.children}" for s in course.samples]
    (output / "samples.csv").write_text("\n".join(["seconds,memory,descriptors,threads,children", *samples]) + "\n")
    draw_picture(
        output / "soak.png", course.samples, [*scene.book.tasks.values()], course.faults, scene.book.kills, began
    )


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0, help="kill the miner so many times, however long that takes")
    parser.add_argument("--output", type=Path, default=Path("soak-output"))
    parser.add_argument("--spacing", type=float, default=SPACING, help="the seconds between two faults")
    parser.add_argument("--faults", default="", help="names of the faults that may happen, with commas between them")
    parser.add_argument("--workers", type=int, default=1, help="with several, each is a process that may be killed")
    options = parser.parse_args()
    chosen = tuple(name for name in options.faults.split(",") if name)
    if unknown := [name for name in chosen if name not in FAULTS]:
        print(f"no such fault: {', '.join(unknown)}; there are: {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(options.minutes, options.seed, options.kills, options.spacing, chosen, options.workers)
        results = soak(Path(folder), plan)
        write_output(options.output, *results)
    *_, verdict = results
    print(*verdict.rows, *verdict.details, sep="\n")
    print(f"{'passed' if verdict.has_passed else 'FAILED'} after {time.monotonic() - started:.0f} s")
    return 0 if verdict.has_passed else 1


if __name__ == "__main__":
    sys.exit(main())
