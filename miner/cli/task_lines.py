"""Tasks of the ledger as lines of text, for `status` and `tail`."""

from datetime import UTC, datetime
from typing import Any

from miner.words import phase_label

Json = dict[str, Any]


def _line(*cells: str) -> str:
    when, validator, phase, kind, answer, score, seconds = cells
    return f"{when:<19}  {validator:<17}  {phase:<20}  {kind:<5}  {answer:<22}  {score:>5}  {seconds:>7}"


HEAD = _line("answered, UTC", "validator", "phase", "type", "answer", "score", "seconds")


def task_line(task: Json) -> str:
    """Return the line of a task as `miner.analytics.task_figures` has it, without a newline."""
    at = task["answered_at"] or task["assigned_at"]
    uid = "" if task["uid"] is None else f"uid {task['uid']}"
    phase = phase_label(task["phase"][:11], task["hash"])
    answer = "open" if task["answer"] is None else task["answer"].replace("_", " ")
    if task["gate"] in ("withheld", "explored"):
        answer += f", {task['gate']}"
    score, seconds = (_number(task[name], form) for name, form in (("score", ".3f"), ("seconds", ".1f")))
    when = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
    validator = f"{task['validator'][:8]} {uid}"
    line = _line(when, validator, phase, task["type"], answer, score, seconds)
    if task["error"]:
        # A stranger's prompt may be quoted in it.
        words = "".join(letter if letter.isprintable() else "?" for letter in task["error"])
        line += f"  {words[:100]}"
    return line


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
