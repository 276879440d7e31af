"""The picture of a soak: memory, descriptors, threads and the time of each task, with the faults."""

from collections.abc import Sequence
from pathlib import Path

from scripts.validation.soak.book import TaskFacts
from scripts.validation.soak.log_check import FaultRecord
from scripts.validation.soak.processes import Sample

MEGABYTE = 1_000_000


def draw_picture(
    file: Path,
    samples: Sequence[Sample],
    tasks: Sequence[TaskFacts],
    faults: Sequence[FaultRecord],
    kills: Sequence[float],
    began: float,
) -> None:
    """Draw everything over the minutes from `began`, a moment of the steady clock; kills are dashed lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (marks, memory, counts, seconds) = plt.subplots(
        4, 1, figsize=(13, 12), sharex=True, height_ratios=(2, 1.4, 1.4, 1.4), layout="constrained"
    )
    names = sorted({fault.name for fault in faults}, reverse=True)
    for fault in faults:
        begin, end = (fault.began - began) / 60, (fault.ended - began) / 60
        marks.barh(names.index(fault.name), max(end - begin, 0.05), left=begin, color="tab:red", height=0.6)
    marks.set_yticks(range(len(names)), names, fontsize=8)
    marks.set_ylim(-0.6, len(names) - 0.4)
    marks.set_title("faults")
    minutes = [(sample.at - began) / 60 for sample in samples]
    memory.plot(minutes, [sample.memory / MEGABYTE for sample in samples], color="tab:blue")
    memory.set_ylim(bottom=0)
    memory.set_ylabel("resident memory, MB")
    for name, values in {
        "descriptors": [sample.descriptors for sample in samples],
        "threads": [sample.threads for sample in samples],
        "processes of its own": [sample.children for sample in samples],
    }.items():
        counts.plot(minutes, values, label=name)
    counts.set_ylim(bottom=0)
    counts.legend(loc="upper left", ncols=3)
    for transport, colour in {"pull": "tab:green", "push": "tab:orange"}.items():
        chosen = [task for task in tasks if task.transport == transport and task.seconds is not None]
        times = [(task.assigned_at - began) / 60 for task in chosen]
        seconds.scatter(times, [task.seconds for task in chosen], s=9, color=colour, label=transport)
    seconds.set_yscale("log")
    seconds.set_ylabel("seconds from task to result")
    seconds.legend(loc="upper left", ncols=2)
    seconds.set_xlabel("minutes")
    for axes in (memory, counts, seconds):
        axes.grid(alpha=0.3)
        for kill in kills:
            axes.axvline((kill - began) / 60, color="grey", linewidth=0.5, linestyle="--")
    figure.savefig(file, dpi=90)
    plt.close(figure)
