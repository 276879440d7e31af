"""The files that a soak leaves behind."""

from pathlib import Path

from scripts.validation.soak.picture import draw_picture
from scripts.validation.soak.run import Course
from scripts.validation.soak.scene import Scene
from scripts.validation.soak.verdict import Verdict


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
