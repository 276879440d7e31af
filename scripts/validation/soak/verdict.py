"""What a soak has shown: figures in a table, and which requirements failed."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from scripts.validation.soak.accounts import Accounts, check_integrity, sort_violations
from scripts.validation.soak.faulty_miner import INJECTED
from scripts.validation.soak.log_check import LogEntry, find_unexplained, to_entries
from scripts.validation.soak.picture import MEGABYTE
from scripts.validation.soak.processes import Sample
from scripts.validation.soak.run import Course
from scripts.validation.soak.scene import Scene

MINUTE = 60.0
# Memory that is kept must not grow by more than this share after the first minutes, compared over spans of as many
# minutes. What a task takes comes on top, and depends on what the load happens to be: it is told, too.
WARM_MINUTES, SPAN_MINUTES, MAX_GROWTH, KEPT_SHARE = 5.0, 3.0, 0.02, 0.05
# Until a checkpoint that was swapped out is out of memory: the last task with it has ended.
FREEING_SECONDS = 30.0
SHARES = (0.5, 0.95, 0.99)
PULL_ENDS = ("accepted", "rejected", "skipped", "not_validated", "wrong_signature", "not held", "open")
PUSH_ENDS = ("answered", "invalid", "no_result", "refused", "unanswered")


@dataclass(frozen=True)
class Row:
    """A line of the table; `is_right` is None for what nothing is required of."""

    name: str
    value: str
    is_right: bool | None = None

    def __str__(self) -> str:
        """Return the line in Markdown."""
        mark = {None: "", True: "ok", False: "**WRONG**"}[self.is_right]
        return f"| {self.name} | {self.value} | {mark} |"


@dataclass(frozen=True)
class Verdict:
    """The table, and what is to be said of each thing that is wrong."""

    rows: tuple[Row, ...]
    details: tuple[str, ...]

    @property
    def has_passed(self) -> bool:
        """Whether all requirements are met."""
        return all(row.is_right is not False for row in self.rows)


def judge(scene: Scene, course: Course) -> Verdict:
    """Judge a soak that has ended."""
    accounts, recorded = scene.accounts(), {task for _, task in scene.rows()}
    errors = find_unexplained(to_entries(scene.log), course.faults)
    bare, stepped, learnt = sort_violations(scene.book.violations, scene.clock_steps)
    hostile_lost = sorted(scene.hostile.assigned - recorded)
    integrity = check_integrity(scene.ledger)
    injected = Counter(line.removeprefix(INJECTED) for _, line in scene.log if line.startswith(INJECTED))
    restarts = course.last_health.get("restarts", {})
    rows = [
        *_task_rows(accounts, scene),
        Row("violations of cooldowns that the miner knew", str(len(bare)), not bare),
        Row("violations after a step of the clock", str(len(stepped))),
        Row("violations to learn of an answer that did not arrive", str(len(learnt))),
        Row("errors that no fault explains", str(len(errors)), not errors),
        Row("background tasks that were restarted", str(restarts or 0), not restarts),
        Row("tasks of the hostile validator that the ledger lacks", str(len(hostile_lost)), not hostile_lost),
        Row("the ledger's integrity check", integrity, integrity == "ok"),
        Row("kills, ledgers found whole", f"{len(scene.book.kills)}, {course.kills_checked}"),
        Row("exit code at the end", str(course.exit_code), course.exit_code == 0),
        Row("other problems", str(len(course.problems)), not course.problems),
        *_sample_rows(course.samples, _between_swaps(scene, course), bool(scene.book.kills)),
        Row("faults", ", ".join(f"{name} {n}" for name, n in sorted(Counter(f.name for f in course.faults).items()))),
        Row("failed calls inside the miner", str(sum(injected.values()))),
        Row("answers of /health", ", ".join(f"{name} x {count}" for name, count in sorted(course.health.items()))),
        Row("answers of the hostile validator", str(sum(scene.hostile.answers.values()))),
    ]
    details = [
        *(f"lost or different: {each.facts}: the ledger says {each.ledger}" for each in accounts.lost),
        *(f"violation: {violation}" for violation in bare),
        *(f"error: {_shorten(entry)}" for entry in errors),
        *(f"problem: {problem}" for problem in course.problems),
        *(f"hostile task without a row: {task}" for task in hostile_lost),
    ]
    return Verdict(tuple(rows), tuple(details))


def _task_rows(accounts: Accounts, scene: Scene) -> Iterator[Row]:
    """Yield the sum of tasks for each transport, their times, and whether ledger and validators agree."""
    for transport, names in (("pull", PULL_ENDS), ("push", PUSH_ENDS)):
        ends = {name: accounts.ends[transport, name] for name in names}
        total = sum(count for (way, _), count in accounts.ends.items() if way == transport)
        parts = " + ".join(f"{name} {count}" for name, count in ends.items() if count)
        never = ends.get("open", 0) + ends.get("wrong_signature", 0) + ends.get("invalid", 0)
        is_right = total == sum(ends.values()) and not never
        yield Row(f"tasks by {transport}", f"{total} = {parts}", is_right)
        seconds = sorted(accounts.latencies[transport])
        figures = ", ".join(f"p{share * 100:.0f} {quantile(seconds, share):.1f} s" for share in SHARES)
        yield Row(f"from task to result, {transport}", figures)
    refused = Counter(facts.reason for facts in scene.book.tasks.values() if facts.verdict in ("refused", "no_result"))
    yield Row("pushes without a result", "; ".join(f"{reason[:60]} x {n}" for reason, n in refused.most_common()))
    excused = Counter(each.excuse for each in accounts.disagreements if each.excuse)
    agreed = len(scene.book.tasks) - len(accounts.disagreements)
    yield Row("tasks on which ledger and validator agree", f"{agreed} of {len(scene.book.tasks)}", not accounts.lost)
    yield Row(
        "others, with the reason", "; ".join(f"{reason} x {count}" for reason, count in excused.items()) or "none"
    )


def _between_swaps(scene: Scene, course: Course) -> list[Sample]:
    """Return the samples under load with one checkpoint in memory."""
    swaps = [(fault.began, fault.ended + FREEING_SECONDS) for fault in course.faults if fault.name == "swap"]
    return [
        sample
        for sample in course.samples
        if sample.at < scene.end and not any(begin <= sample.at <= end for begin, end in swaps)
    ]


def _sample_rows(samples: Sequence[Sample], comparable: Sequence[Sample], was_killed: bool) -> Iterator[Row]:
    """Yield what the miner's process took of the system."""
    if not samples:
        return
    for name, values in (
        ("resident memory, MB", [sample.memory / MEGABYTE for sample in samples]),
        ("descriptors", [float(sample.descriptors) for sample in samples]),
        ("threads", [float(sample.threads) for sample in samples]),
        ("processes of its own", [float(sample.children) for sample in samples]),
    ):
        yield Row(name, f"median {median(values):.0f}, at most {max(values):.0f}, at the end {values[-1]:.0f}")
    kept, in_use = memory_growth(comparable, KEPT_SHARE), memory_growth(comparable, 0.5)
    if kept is not None and in_use is not None and not was_killed:
        after = f"after {WARM_MINUTES:.0f} min, outside swaps"
        yield Row(f"growth of the memory that is kept {after}", f"{kept:+.1%}", kept < MAX_GROWTH)
        yield Row(f"growth of its median {after}", f"{in_use:+.1%}")


def memory_growth(samples: Sequence[Sample], share: float) -> float | None:
    """Return how much a quantile of the memory grew from the first minutes after the start to the last; None if short.

    share: of the samples that are below it: a small one tells what is kept between tasks, a half what is in use. The
    minutes are those of samples, which are a second apart.
    """
    warm = [sample for sample in samples if sample.at >= samples[0].at + WARM_MINUTES * MINUTE]
    span = int(SPAN_MINUTES * MINUTE)
    if len(warm) < 2 * span:
        return None
    first, last = (quantile(sorted(sample.memory for sample in part), share) for part in (warm[:span], warm[-span:]))
    return last / first - 1


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of the ordered values lies; NaN without any."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else math.nan


def _shorten(entry: LogEntry) -> str:
    lines = entry.text.splitlines()
    return "\n    ".join([*lines[:1], *lines[-3:]] if len(lines) > 3 else lines)
